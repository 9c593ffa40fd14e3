"""A terminal, to run the command line in: a pty with an emulator behind it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import pyte

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


_IN_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "asgi_lifespan_mw", *sys.argv[1:]])
"""
"""Makes the terminal the process's own, so that Ctrl-C reaches it. A fork must not do that where threads run."""


class Terminal:
    """Runs ``python -m asgi_lifespan_mw`` in a terminal of so many columns.

    Attributes:
        raw: What the process wrote, escape sequences and all.
    """

    def __init__(self, *arguments: str, columns: int = 90, rows: int = 40, **environment: str) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self._master, slave = pty.openpty()
        self._set_size(columns, rows)
        told = {"CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS"}
        kept = {name: value for name, value in os.environ.items() if name not in told}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_OWN_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**kept, "TERM": "xterm-256color", **environment},
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without what is blank at the ends."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    @property
    def text(self) -> str:
        """The same in one piece."""
        return "\n".join(self.lines)

    @property
    def is_cursor_hidden(self) -> bool:
        """Whether the cursor was hidden and not shown again."""
        return bool(self._screen.cursor.hidden)

    def colors(self) -> set[str]:
        """The colours of what stands on the screen."""
        buffer = self._screen.buffer
        return {buffer[y][x].fg for y in range(self._screen.lines) for x in range(self._screen.columns)} - {"default"}

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self._read(deadline), f"the process ended, and shows:\n{self.text}"

    def ended(self) -> int:
        """Read until the process ends, and return its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self._process.wait(PATIENCE)

    def interrupt(self) -> int:
        """Press Ctrl-C until the process ends, and return its exit status. Python may drop one, in a callback."""
        self.press("\x03")
        while not self._process_ends(5):  # pragma: no cover - Python drops one rarely
            self.press("\x03")
        return self.ended()

    def _process_ends(self, seconds: float) -> bool:
        """Return whether the output ends within so many seconds."""
        deadline = time.monotonic() + seconds
        while select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0]:  # pragma: no branch
            if not self._read(deadline):
                return True
        return False  # pragma: no cover - as above

    def press(self, keys: str) -> None:
        """Type; the code 3 is Ctrl-C."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Make the terminal wider or narrower."""
        self._screen.resize(rows, columns)
        self._set_size(columns, rows)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing came in {PATIENCE:g} s; the screen shows:\n{self.text}"
        try:
            part = os.read(self._master, 65536)
        except OSError:  # Linux says so where the other side is closed
            return False
        self.raw += part
        self._stream.feed(part)
        return part != b""
