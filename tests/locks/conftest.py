"""Real engines: a PostgreSQL and a Redis server on free ports, for the tests here alone."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis

PATIENCE = 60.0
"""Seconds that a server may take to start."""


@dataclass
class Engine:
    """A server that holds locks.

    Attributes:
        url: How it is reached.
        port: Its port on 127.0.0.1.
        run: Starts its process.
        answers: Returns whether it answers.
        process: Its process; PostgreSQL's has children, in its group.
    """

    url: str
    port: int
    run: Callable[[], "subprocess.Popen[bytes]"]
    answers: Callable[[], bool]

    def __post_init__(self) -> None:
        """Start it."""
        self.process = self.run()

    def wait(self) -> None:
        """Wait until it answers."""
        until(self.answers, self.process)

    def crash(self) -> None:
        """End it at once: its connections break, and what it keeps in memory is lost."""
        self.process.send_signal(signal.SIGQUIT if "postgres" in self.url else signal.SIGKILL)
        self.process.wait(PATIENCE)

    def restart(self) -> None:  # pragma: no cover - in the long search alone
        """End it at once, and start it again."""
        self.crash()
        self.process = self.run()
        self.wait()

    def pause(self) -> None:
        """Stop it in the middle of everything: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the server and its children: PostgreSQL has one for each connection."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for one in (pid, *map(int, children)):
            os.kill(one, number)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not answer"
        time.sleep(0.05)


@contextmanager
def postgres_server(host: str = "127.0.0.1", namespace: str | None = None) -> Iterator[Engine]:
    """Run a PostgreSQL server with an empty database, in a network namespace if one is named."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")  # pragma: no cover - it is, where coverage is measured
    server = Path(initdb).with_name("postgres")
    # It refuses to run as root.
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    folder = tempfile.mkdtemp(prefix="postgres-of-tests-", dir="/tmp")
    if as_user:  # pragma: no branch
        shutil.chown(folder, "postgres")
    data, port = f"{folder}/data", free_port()
    try:
        subprocess.run(
            [*as_user, initdb, "-D", data, "-U", "tests", "-A", "trust", "--no-sync"],
            check=True, capture_output=True, cwd=folder, timeout=PATIENCE,
        )  # fmt: skip
        with Path(data, "pg_hba.conf").open("a") as rules:
            rules.write("host all all all trust\n")
        options = ["-D", data, "-p", str(port), "-h", host, "-k", folder, "-c", "fsync=off"]

        def run() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(
                [*inside(namespace), *as_user, server, *options],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

        def answers() -> bool:
            try:  # by a socket in the file system, which every network namespace sees
                psycopg.connect(host=folder, port=port, user="tests", dbname="postgres", connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        engine = Engine(f"postgresql://tests:secret@{host}:{port}/postgres", port, run, answers)
        try:
            engine.wait()
            yield engine
        finally:
            engine.resume()
            engine.crash()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis_or_valkey_server(host: str = "127.0.0.1", namespace: str | None = None) -> Iterator[Engine]:
    """Run a Redis server that keeps nothing, in a network namespace if one is named."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("Redis is not installed")  # pragma: no cover - it is, where coverage is measured
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:

        def run() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(
                [*inside(namespace), binary, "--port", str(port), "--bind", host, "--protected-mode", "no",
                 "--unixsocket", f"{folder}/socket", "--save", "", "--dir", folder],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

        client = redis.Redis(unix_socket_path=f"{folder}/socket", socket_timeout=2)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.RedisError:  # pragma: no cover - it may be up at once
                return False  # pragma: no cover

        engine = Engine(f"redis://{host}:{port}/0", port, run, answers)
        try:
            engine.wait()
            yield engine
        finally:
            engine.resume()
            engine.crash()
            client.close()


def inside(namespace: str | None) -> list[str]:
    """Return the words before a command that is to run in a network namespace."""
    return [] if namespace is None else ["ip", "netns", "exec", namespace]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Engine]:
    """A PostgreSQL server with an empty database."""
    with postgres_server() as engine:
        yield engine


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Engine]:
    """A Redis server that keeps nothing."""
    with redis_or_valkey_server() as engine:
        yield engine
