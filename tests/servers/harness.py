"""Serves an application in a real server's process, and ends that process whatever happens."""

import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import httpx
from websockets.sync.client import connect

ROOT: Final = Path(__file__).parents[2]

#: Seconds for anything that is waited for. Much more than is ever needed: a loaded machine is no failure.
PATIENCE: Final = 90.0

#: What an application announces, and which process of it, where it may have several; an example just prints it.
ANNOUNCEMENT: Final = re.compile(
    r"^(?:\[shop(?: (?P<process>\d+))?\] |(?=(?:started|stopped|handled|warmed|said) ))(?P<what>.*)$"
)
ADDRESS: Final = r"127\.0\.0\.1:(\d+)"


@dataclass(frozen=True, slots=True)
class Setup:
    """A server, with the options and the loop it runs on, and what is its own in how it starts and ends.

    Args:
        name: What the tests call it.
        arguments: What comes after ``python -m``, but for the application. The system picks the port; for a server
            that cannot say which it got, ``{port}`` stands for a free one.
        serving: What the log has as soon as a worker serves.
        failure: The exit code after a startup that failed.
        terminated: The exit code after SIGTERM.
        stop: The signal at which it stops in good order.
        failed_stop: The exit code after a stop at which the application failed.
        crashed: The exit code after a crash for which the application asked its process to end; None where the
            server outlives it.
        is_told_of_crash: Whether the server can be told of such a crash. Where SIGTERM kills the worker it cannot.
        workers: How many processes of the application there are.
        replaces_workers: Whether a worker that ended gets a successor.
        stays_up: Whether the server goes on without any worker, after a failed startup or a crash.
        logs_to_stdout: Whether the server's own log is on standard output; that of the application never is.
        ctrl_c_reaches_all: Whether SIGINT has to reach the workers too, as it does from a terminal, to stop them in
            good order.
    """

    name: str
    arguments: tuple[str, ...]
    serving: str
    failure: int
    terminated: int = 0
    stop: signal.Signals = signal.SIGINT
    failed_stop: int = 0
    crashed: int | None = None
    is_told_of_crash: bool = True
    workers: int = 1
    replaces_workers: bool = False
    stays_up: bool = False
    logs_to_stdout: bool = False
    ctrl_c_reaches_all: bool = False


UVICORN: Final = Setup(
    "uvicorn",
    ("uvicorn", "--host", "127.0.0.1", "--port", "0"),
    serving="Application startup complete",
    failure=3,
    terminated=-signal.SIGTERM,
    crashed=-signal.SIGTERM,
)
UVICORN_ON: Final = replace(UVICORN, name="uvicorn-on", arguments=(*UVICORN.arguments, "--lifespan", "on"))
UVICORN_OFF: Final = replace(
    UVICORN, name="uvicorn-off", arguments=(*UVICORN.arguments, "--lifespan", "off"), serving="Uvicorn running on"
)
# A parent process gets the signals, and its exit code is 0 whatever happened to the workers.
_UVICORN_PARENT: Final = replace(UVICORN, failure=0, terminated=0, crashed=None)
UVICORN_WORKERS: Final = replace(
    _UVICORN_PARENT,
    name="uvicorn-workers",
    arguments=(*UVICORN.arguments, "--workers", "2"),
    workers=2,
    replaces_workers=True,
)
UVICORN_RELOAD: Final = replace(
    _UVICORN_PARENT,
    name="uvicorn-reload",
    arguments=(*UVICORN.arguments, "--reload", "--reload-dir", "tests/apps"),
    stays_up=True,
)


def _hypercorn(worker_class: str) -> Setup:
    # One worker, the default, is a child of the process that gets the signals; the parent's exit code is then 0 even
    # after a startup that failed. The child has no handler for SIGTERM: it dies of it at once.
    return Setup(
        f"hypercorn-{worker_class}",
        ("hypercorn", "-k", worker_class, "-b", "127.0.0.1:0"),
        serving="Running on",
        failure=0,
        crashed=0,
        is_told_of_crash=False,
    )


HYPERCORN: Final = _hypercorn("asyncio")
HYPERCORN_TRIO: Final = _hypercorn("trio")
HYPERCORN_ALONE: Final = replace(
    HYPERCORN,
    name="hypercorn-alone",
    arguments=(*HYPERCORN.arguments, "-w", "0"),
    failure=1,
    failed_stop=1,
    crashed=1,
    is_told_of_crash=True,
)
# On trio there is no handler for SIGTERM without a child either, and SIGINT strikes whatever code runs.
HYPERCORN_TRIO_ALONE: Final = replace(
    HYPERCORN_TRIO, name="hypercorn-trio-alone", arguments=(*HYPERCORN_TRIO.arguments, "-w", "0")
)
GRANIAN: Final = Setup(
    "granian",
    # On uvloop, its default, it misses one signal in fifty that comes right after its start, and never ends.
    ("granian", "--interface", "asgi", "--loop", "asyncio", "--host", "127.0.0.1", "--port", "{port}"),
    serving="Started worker-",
    failure=1,
    crashed=1,
    logs_to_stdout=True,
)


def _gunicorn(name: str, worker_class: str, serving: str, *, ctrl_c_reaches_all: bool) -> Setup:
    return Setup(
        name,
        ("gunicorn", "--no-control-socket", "-k", worker_class, "-b", "127.0.0.1:0"),
        serving,
        failure=3,
        stop=signal.SIGTERM,
        replaces_workers=True,
        ctrl_c_reaches_all=ctrl_c_reaches_all,
    )


GUNICORN_UVICORN: Final = _gunicorn(
    "gunicorn-uvicorn", "uvicorn_worker.UvicornWorker", "Application startup complete", ctrl_c_reaches_all=True
)
GUNICORN_ASGI: Final = _gunicorn("gunicorn-asgi", "asgi", "ASGI server listening on", ctrl_c_reaches_all=False)
DAPHNE: Final = Setup("daphne", ("daphne", "-b", "127.0.0.1", "-p", "0"), serving="Listening on", failure=0)

#: On these the shop is served, whose parts take long to import.
SETUPS: Final = (UVICORN, HYPERCORN, _hypercorn("uvloop"), HYPERCORN_TRIO)
#: All that have a lifespan and stop in good order.
EVERY_SETUP: Final = (
    *(*SETUPS, UVICORN_ON, UVICORN_WORKERS, UVICORN_RELOAD, HYPERCORN_ALONE),
    *(GRANIAN, GUNICORN_UVICORN, GUNICORN_ASGI),
)
WITHOUT_LIFESPAN: Final = (UVICORN_OFF, DAPHNE)


def _free_port() -> int:
    """A port that nobody listens on: the system gives those of this range to nobody who asks for any."""
    return random.randrange(20_000, 30_000)


class _Output:
    """What a process writes to one pipe, line by line, as it comes."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._open = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._pipe:
            for line in self._pipe:
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._open = False
            self._news.notify_all()

    @property
    def lines(self) -> list[str]:
        """The lines that were read up to now. The process may have written more: see `wait_for`."""
        with self._news:
            return list(self._lines)

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> None:
        """Wait until a condition on the lines holds, the pipe is closed, or the time is up."""
        with self._news:
            self._news.wait_for(lambda: condition() or not self._open, timeout)

    def search(self, pattern: re.Pattern[str], times: int, timeout: float) -> re.Match[str] | None:
        """Wait for so many lines with the pattern in them; None if the pipe is closed, or the time is up, first."""

        def found() -> re.Match[str] | None:
            matches = (match for line in self._lines if (match := pattern.search(line)))
            return next(itertools.islice(matches, times - 1, None), None)

        with self._news:
            self.wait_for(lambda: found() is not None, timeout)
            return found()

    def finish(self, timeout: float) -> bool:
        """Wait for the end of the output; False if somebody still holds the pipe when the time is up."""
        self._reader.join(max(timeout, 0))
        return not self._reader.is_alive()


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that was sent.

    Args:
        connection: None if it was refused.
    """

    connection: socket.socket | None

    def is_answered(self) -> bool:
        """Wait for the first byte of an answer; False if the connection is closed without one."""
        try:
            return self.connection is not None and self.connection.recv(1) != b""
        except ConnectionError:
            return False


class Server:
    """A server's process, started by ``with`` and gone at its end.

    A thread reads what the process writes, some time after that. So while the process runs, a test waits for the
    lines that it expects; the properties that have the whole output raise before the end.

    Args:
        setup: Which server.
        app: What it serves, as ``module:attribute``.
        database: The file for the shop's tables.

    Attributes:
        patience: Seconds for anything that is waited for.
    """

    def __init__(self, setup: Setup, app: str, database: Path) -> None:
        self.patience = PATIENCE
        self._setup = setup
        port = str(_free_port())
        self._command = [sys.executable, "-m", *(part.format(port=port) for part in setup.arguments), app]
        self._environment = os.environ | {"SHOP_DATABASE": str(database), "PYTHONUNBUFFERED": "1"}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # its children are in its group, and nobody else is
        )
        assert self._process.stdout is not None, "stdout=PIPE makes one"
        assert self._process.stderr is not None, "stderr=PIPE makes one"
        self._stdout = _Output(self._process.stdout)
        self._stderr = _Output(self._process.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process.poll() is None:
                self.signal(self._setup.stop)
                self.wait()
        finally:
            self._kill_what_is_left()

    def _kill_what_is_left(self) -> None:
        """Whatever still holds a pipe is in the server's group: itself, or a child that outlived it."""
        # SIGTERM comes first, for multiprocessing's resource tracker: it ignores it, and tidies up when the
        # others are gone.
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._finish(1):
                os.killpg(self._process.pid, number)
        self._process.wait()
        self._finish(self.patience)

    def _finish(self, timeout: float) -> bool:
        """Wait until all output is read; False if a child still holds a pipe when the time is up."""
        until = time.monotonic() + timeout
        return all(output.finish(until - time.monotonic()) for output in (self._stdout, self._stderr))

    def __str__(self) -> str:
        """The command and all its output, for messages."""
        return "\n".join(
            [f"$ {' '.join(self._command)}", *self._stdout.lines, "--- stderr", *self._stderr.lines, "---"]
        )

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._process.pid

    def _assert_it_ended(self) -> None:
        assert self._process.poll() is not None, "the server runs; wait for the lines that are expected, or for its end"
        assert self._finish(self.patience), f"left a child behind\n{self}"

    def _announced(self) -> list[str]:
        return [match["what"] for line in self._stdout.lines if (match := ANNOUNCEMENT.match(line))]

    @property
    def announcements(self) -> list[str]:
        """All that the application announced, in order. Raise if the server has not ended."""
        self._assert_it_ended()
        return self._announced()

    @property
    def histories(self) -> list[list[str]]:
        """All that each process of the application announced, in order. Raise if the server has not ended."""
        self._assert_it_ended()
        histories: dict[str, list[str]] = {}
        for line in self._stdout.lines:
            if match := ANNOUNCEMENT.match(line):
                histories.setdefault(match["process"], []).append(match["what"])
        return list(histories.values())

    @property
    def stderr(self) -> str:
        """All that was written to standard error. Raise if the server has not ended."""
        self._assert_it_ended()
        return "\n".join(self._stderr.lines)

    def wait_for_announcement(self, what: str, times: int = 1) -> None:
        """Wait until the application has announced it so many times.

        Raises:
            AssertionError: The process ended, or the time was up, without it.
        """
        if self._stdout.search(re.compile(rf"^(?:\[shop.*\] )?{re.escape(what)}$"), times, self.patience) is None:
            raise AssertionError(f"{what!r} was not announced\n{self}")

    def wait_for_announcements(self, expected: list[str]) -> None:
        """Wait until the application has announced as much as is expected, and compare.

        Raises:
            AssertionError: The application announced something else, or not so much before the time was up.
        """
        self._stdout.wait_for(lambda: len(self._announced()) >= len(expected), self.patience)
        assert self._announced() == expected, f"expected {expected}\n{self}"

    def wait_for_log(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait for so many lines in the server's log in which the pattern occurs.

        Raises:
            AssertionError: The process ended, or the time was up, without them.
        """
        return self._wait_for(pattern, times, self._stdout if self._setup.logs_to_stdout else self._stderr)

    def wait_for_error(self, pattern: str) -> re.Match[str]:
        """Wait for a line on standard error in which the pattern occurs.

        Raises:
            AssertionError: The process ended, or the time was up, without one.
        """
        return self._wait_for(pattern, 1, self._stderr)

    def _wait_for(self, pattern: str, times: int, output: _Output) -> re.Match[str]:
        match = output.search(re.compile(pattern, re.IGNORECASE), times, self.patience)
        if match is None:
            raise AssertionError(f"nothing like {pattern!r} was logged\n{self}")
        return match

    def wait_until_it_serves(self, workers: int | None = None) -> None:
        """Wait until so many workers serve; all there are, if not said otherwise."""
        self.wait_for_log(self._setup.serving, workers or self._setup.workers)
        # On hypercorn with trio Ctrl-C would strike the code that says so.
        self.request("GET", "/")

    @property
    def url(self) -> str:
        """Where it listens; waits until it does. Servers with a parent process listen before they serve."""
        return f"http://127.0.0.1:{self.wait_for_log(ADDRESS)[1]}"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request, on a connection of its own."""
        # Granian says that it serves a moment before it listens. A transport of its own uses no proxy either.
        transport = httpx.HTTPTransport(retries=6)
        with httpx.Client(base_url=self.url, timeout=self.patience, transport=transport, trust_env=False) as client:
            return client.request(method, path, **options)

    @contextmanager
    def visit(self, path: str) -> Iterator["Visit"]:
        """Send a request as soon as it listens, and keep the connection open; it may be refused."""
        with ExitStack() as stack:
            connection = None
            with suppress(AssertionError, OSError):  # it ended before it listened, or stopped listening since
                port = int(self.url.rpartition(":")[2])
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), self.patience))
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
            yield Visit(connection)

    def exchange(self, path: str, message: str) -> str | bytes:
        """Send one message through a websocket, return the answer and close the websocket."""
        address = self.url.replace("http://", "ws://") + path
        with connect(address, open_timeout=self.patience, close_timeout=self.patience, proxy=None) as websocket:
            websocket.send(message)
            return websocket.recv(self.patience)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the server's process and its children, as a terminal does."""
        os.killpg(self._process.pid, number)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's process, and not to its children if it needn't."""
        if number == signal.SIGINT and self._setup.ctrl_c_reaches_all:
            self.signal_all(number)
        else:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end by itself, with all of its children, and return its exit code.

        Raises:
            AssertionError: The time was up.
        """
        try:
            code = self._process.wait(self.patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {self.patience:g} s\n{self}") from None
        if not self._finish(self.patience):
            raise AssertionError(f"left a child behind\n{self}")
        return code
