"""A server that is restarted again and again on its port, while clients keep sending requests."""

import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import pytest

from tests.servers.harness import PATIENCE, UVICORN, Server
from tests.servers.units import started, stopped

pytestmark = [pytest.mark.servers, pytest.mark.soak]

UNITS: Final = ["pool", "root", "mount"]

Answer: TypeAlias = tuple[int, str]

NOT_STARTED: Final[Answer] = (500, "Internal Server Error")


class Visitors:
    """Clients that keep sending requests, whatever becomes of the server.

    Attributes:
        answers: All that they were answered, counted.
    """

    def __init__(self, port: int) -> None:
        self.answers = Counter[Answer]()
        self._port = port
        self._news = threading.Condition()
        self._may_go = threading.Event()

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(4)
        self._visits = [self._threads.submit(self._visit) for _ in range(4)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._may_go.set()
        self._threads.shutdown()
        for visit in self._visits:
            visit.result()

    def _visit(self) -> None:
        while not self._may_go.wait(0.001):
            # Refused, or dropped without an answer; half an answer is another error, and so is none in all the time.
            with (
                suppress(ConnectionError),
                closing(HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as server,
            ):
                self._ask(server)

    def _ask(self, server: HTTPConnection) -> None:
        """Send one request after the other; only the server's end ends it, which comes before that of the visits."""
        while True:
            for path in ("/", "/mount/"):
                server.request("GET", path)
                response = server.getresponse()
                answer = (response.status, response.read().decode())
                with self._news:
                    self.answers[answer] += 1
                    self._news.notify_all()

    def wait_for(self, answers: set[Answer]) -> bool:
        """Wait until each of these was given; False if the time is up before."""
        with self._news:
            return self._news.wait_for(lambda: answers <= self.answers.keys(), PATIENCE)


@pytest.fixture
def port() -> Iterator[int]:
    """A port that the system gives to nobody else meanwhile, nor to a client as its own end of a connection."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, so that both may have it
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def server_on(port: int, app: str, folder: Path, loop: str = "asyncio") -> Server:
    """A server that is quick to start."""
    options = f"--no-access-log --loop {loop} --http h11 --ws none"
    setup = replace(UVICORN, arguments=("uvicorn", "--host", "127.0.0.1", "--port", str(port), *options.split()))
    return Server(setup, f"tests.apps.restarted:{app}", folder / "none.db")


def fully_started(server: Server) -> set[Answer]:
    """What the pages answer while everything is open."""
    return {(200, f"{server.pid} sees {seen}, open: pool root mount") for seen in ("root", "pool root mount")}


@pytest.mark.parametrize("lives", [5, pytest.param(50, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("app", ["quick", "slow"])
def test_no_answer_comes_from_an_app_that_is_not_started(
    *, app: str, loop: str, lives: int, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each life of a server both pages answer, with all open, which is started and stopped once, in order."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # SIGTERM leaves no data: it would be for nothing
    expected: set[Answer] = set()
    with Visitors(port) as visitors:
        for _ in range(lives):
            with server_on(port, app, tmp_path, loop) as server:
                answers = fully_started(server)
                expected |= answers
                assert visitors.wait_for(answers), f"{visitors.answers}\n{server}"
                server.signal(signal.SIGTERM)
                assert server.wait() == UVICORN.terminated, str(server)
                assert server.announcements == started(UNITS) + stopped(UNITS), str(server)
                assert visitors.answers.keys() <= expected, str(server)


def test_the_visitors_notice_an_app_that_is_not_started(port: int, tmp_path: Path) -> None:
    """After a life in which all is well, they see that without the middleware a hook and a mount are missing."""
    with Visitors(port) as visitors:
        with server_on(port, "quick", tmp_path) as server:
            expected = fully_started(server)
            assert visitors.wait_for(expected), str(server)
        with server_on(port, "bare", tmp_path) as server:
            missing = {(200, f"{server.pid} sees root, open: root"), NOT_STARTED}
            assert visitors.wait_for(missing), str(server)
    assert visitors.answers.keys() == expected | missing
