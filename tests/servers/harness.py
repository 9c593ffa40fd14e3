"""Serves an application in a real server's process, and ends that process whatever happens."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import httpx
from websockets.sync.client import connect

ROOT: Final = Path(__file__).parents[2]

#: Seconds for anything that is waited for. Much more than is ever needed: a loaded machine is no failure.
PATIENCE: Final = 45.0

ANNOUNCEMENT: Final = "[shop] "
SERVING: Final = re.compile(r"running on (http://127\.0\.0\.1:\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setup:
    """A server and the loop it runs on.

    Args:
        name: What the tests call it.
        arguments: What comes after ``python -m``, but for the application. The system picks the port.
        failure: The exit code after a startup that failed.
        terminated: The exit code after SIGTERM.
    """

    name: str
    arguments: tuple[str, ...]
    failure: int
    terminated: int


def _hypercorn(worker_class: str) -> Setup:
    # One worker, the default, is a child of the process that gets the signals; the parent's exit code is then
    # 0 even after a startup that failed. Without a child (-w 0) hypercorn on trio has no handler for SIGTERM:
    # it dies at once, and no lifespan is told.
    return Setup(
        f"hypercorn-{worker_class}",
        ("hypercorn", "-k", worker_class, "-b", "127.0.0.1:0"),
        failure=0,
        terminated=0,
    )


UVICORN: Final = Setup(
    "uvicorn", ("uvicorn", "--host", "127.0.0.1", "--port", "0"), failure=3, terminated=-signal.SIGTERM
)
HYPERCORN_TRIO: Final = _hypercorn("trio")
SETUPS: Final = (UVICORN, _hypercorn("asyncio"), _hypercorn("uvloop"), HYPERCORN_TRIO)


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
        """What was written up to now."""
        with self._news:
            return list(self._lines)

    def search(self, pattern: re.Pattern[str], timeout: float) -> re.Match[str] | None:
        """Wait for a line with the pattern in it; None if the pipe is closed, or the time is up, first."""

        def found() -> re.Match[str] | None:
            return next((match for line in self._lines if (match := pattern.search(line))), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or not self._open, timeout)
            return found()

    def finish(self, timeout: float) -> bool:
        """Wait for the end of the output; False if somebody still holds the pipe when the time is up."""
        self._reader.join(max(timeout, 0))
        return not self._reader.is_alive()


class Server:
    """A server's process, started by ``with`` and gone at its end.

    Args:
        setup: Which server.
        app: What it serves, as ``module:attribute``.
        database: The file for the shop's tables.

    Attributes:
        patience: Seconds for anything that is waited for.
    """

    def __init__(self, setup: Setup, app: str, database: Path) -> None:
        self.patience = PATIENCE
        self._command = [sys.executable, "-m", *setup.arguments, app]
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
                self.signal(signal.SIGINT)
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
        """Wait for the end of the output; False if a child still holds a pipe when the time is up."""
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

    @property
    def announcements(self) -> list[str]:
        """What the application has announced, in order."""
        return [line.removeprefix(ANNOUNCEMENT) for line in self._stdout.lines if line.startswith(ANNOUNCEMENT)]

    @property
    def stderr(self) -> str:
        """What was written to standard error up to now."""
        return "\n".join(self._stderr.lines)

    def wait_for_announcement(self, what: str) -> None:
        """Wait until the application announces it.

        Raises:
            AssertionError: The process ended, or the time was up, without it.
        """
        if self._stdout.search(re.compile(f"^{re.escape(ANNOUNCEMENT + what)}$"), self.patience) is None:
            raise AssertionError(f"{what!r} was not announced\n{self}")

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """Wait for a line on standard error in which the pattern occurs.

        Raises:
            AssertionError: The process ended, or the time was up, without one.
        """
        match = self._stderr.search(re.compile(pattern, re.IGNORECASE), self.patience)
        if match is None:
            raise AssertionError(f"nothing like {pattern!r} was logged\n{self}")
        return match

    @property
    def url(self) -> str:
        """Where it serves; waits until it does."""
        return self.wait_for_log(SERVING.pattern)[1]

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request, on a connection of its own."""
        # Whatever proxy this machine uses is not for the loopback interface.
        with httpx.Client(base_url=self.url, timeout=self.patience, trust_env=False) as client:
            return client.request(method, path, **options)

    def answers(self) -> bool:
        """Whether it answers a request that is sent as soon as it says that it serves.

        False as well if it ends without having said so. Hypercorn on trio says so even after a startup that
        failed, and then ends at once.
        """
        try:
            self.request("GET", "/")
        except (AssertionError, httpx.TransportError):
            return False
        return True

    def exchange(self, path: str, message: str) -> str | bytes:
        """Send one message through a websocket, return the answer and close the websocket."""
        address = self.url.replace("http://", "ws://") + path
        with connect(address, open_timeout=self.patience, close_timeout=self.patience, proxy=None) as websocket:
            websocket.send(message)
            return websocket.recv(self.patience)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's process, not to its children."""
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
