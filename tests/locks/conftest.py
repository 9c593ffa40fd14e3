"""Real engines: a PostgreSQL and a Redis server on free ports, for the tests here alone."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        process: Its process; PostgreSQL's has children, in its group.
        port: Its port on 127.0.0.1.
    """

    url: str
    process: subprocess.Popen[bytes]
    port: int

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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Engine]:
    """A PostgreSQL server with an empty database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")  # pragma: no cover - it is, where coverage is measured
    server = Path(initdb).with_name("postgres")
    as_user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    folder = tempfile.mkdtemp(prefix="postgres-of-tests-", dir="/tmp")
    if as_user:  # pragma: no branch
        shutil.chown(folder, "postgres")
    data, port = f"{folder}/data", free_port()
    try:
        subprocess.run(
            [initdb, "-D", data, "-U", "tests", "-A", "trust", "--no-sync"],
            check=True, capture_output=True, cwd=folder, timeout=PATIENCE, **as_user,
        )  # fmt: skip
        process = subprocess.Popen(
            [server, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-c", "fsync=off"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, **as_user,
        )  # fmt: skip
        engine = Engine(f"postgresql://tests:secret@127.0.0.1:{port}/postgres", process, port)

        def answers() -> bool:
            try:
                psycopg.connect(engine.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            until(answers, process)
            yield engine
        finally:
            engine.resume()
            process.send_signal(signal.SIGQUIT)
            process.wait(PATIENCE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Engine]:
    """A Redis server that keeps nothing."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("Redis is not installed")  # pragma: no cover - it is, where coverage is measured
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        engine = Engine(f"redis://127.0.0.1:{port}/0", process, port)
        client = redis.Redis.from_url(engine.url, socket_timeout=2)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.RedisError:  # pragma: no cover - it may be up at once
                return False  # pragma: no cover

        try:
            until(answers, process)
            client.close()
            yield engine
        finally:
            engine.resume()
            process.kill()
            process.wait(PATIENCE)
