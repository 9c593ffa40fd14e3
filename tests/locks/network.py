"""Hosts on one machine: network namespaces, whose connections can be cut in silence."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

HOST = "10.217.{}.{}"
"""Addresses that exist in the namespaces alone."""


class Network:  # pragma: no cover - not every machine allows it
    """A host with an engine, and two hosts that reach it, each by a cable of its own.

    Attributes:
        engine: The namespace of the host with the engine.
        hosts: The namespaces of the other hosts.
    """

    def __init__(self) -> None:
        self.engine = f"tests-{os.getpid()}-engine"
        self.hosts = [f"tests-{os.getpid()}-{number}" for number in range(2)]

    def connect(self) -> None:
        """Make the namespaces and the cables."""
        for name in (self.engine, *self.hosts):
            _run("ip", "netns", "add", name)
            _inside(name, "ip", "link", "set", "lo", "up")
        for number, name in enumerate(self.hosts):
            here, there = f"engine{number}", f"host{number}"
            _inside(self.engine, "ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            for namespace, link, address in (
                (self.engine, here, HOST.format(number, 1)),
                (name, there, HOST.format(number, 2)),
            ):
                _inside(namespace, "ip", "address", "add", f"{address}/24", "dev", link)
                _inside(namespace, "ip", "link", "set", link, "up")
        self._address_the_engine()

    def _address_the_engine(self) -> None:
        """Give the engine one address for both hosts."""
        _inside(self.engine, "ip", "address", "add", f"{self.address}/32", "dev", "lo")
        for number, name in enumerate(self.hosts):
            _inside(name, "ip", "route", "add", f"{self.address}/32", "via", HOST.format(number, 1))

    @property
    def address(self) -> str:
        """The address of the engine."""
        return HOST.format(9, 9)

    def cut(self, number: int) -> None:
        """Drop all packets between a host and the engine, in both directions; nobody gets an answer or a refusal."""
        for namespace, link in self._ends(number):
            _inside(namespace, "tc", "qdisc", "replace", "dev", link, "root", "blackhole")

    def heal(self, number: int) -> None:
        """Let packets pass again."""
        for namespace, link in self._ends(number):
            _inside(namespace, "tc", "qdisc", "delete", "dev", link, "root")

    def _ends(self, number: int) -> list[tuple[str, str]]:
        return [(self.engine, f"engine{number}"), (self.hosts[number], f"host{number}")]

    def remove(self) -> None:
        """Remove the namespaces, with all that is in them."""
        for name in (self.engine, *self.hosts):
            with suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "delete", name)


def _inside(namespace: str, *command: str) -> None:  # pragma: no cover - as above
    _run("ip", "netns", "exec", namespace, *command)


def _run(*command: str) -> None:  # pragma: no cover - as above
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@contextmanager
def three_hosts() -> Iterator[Network]:  # pragma: no cover - as above
    """Make a network; skip the test where the machine does not allow that."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("network namespaces need root and iproute2")
    network = Network()
    try:
        try:
            network.connect()
        except subprocess.CalledProcessError as error:  # a container may have no right to make them
            pytest.skip(f"no network namespaces: {error.stderr.decode().strip()}")
        yield network
    finally:
        network.remove()
