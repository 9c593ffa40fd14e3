"""Standard error while an app runs: a live line on a terminal where there is rich, else a line for each event."""

import importlib.util
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, final

from .._reporting.report import UnitReport
from .render import seconds

_SHOW_CURSOR = "\x1b[?25h"


@final
class Screen:
    """Standard error, with a live line below what is written to it.

    Rich has a stand-in of its own for it, which breaks up the line of a progress bar or a prompt; here the live line
    waits for its end.

    Attributes:
        live: The line, drawn by a thread of rich's, for a hook may block the event loop; None without rich, on no
            terminal, and in CI, which keeps what it is shown.
    """

    def __init__(self, stream: TextIO) -> None:
        self.live = None
        self._at_work: dict[str, tuple[UnitReport, float]] = {}  # what starts or stops, and since when
        self._done: set[str] = set()
        self._stream = stream
        if not stream.isatty() or os.environ.get("CI") or importlib.util.find_spec("rich") is None:
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(file=stream, markup=False, highlight=False, emoji=False)
        if console.is_interactive:
            self.live = Live(
                console=console, get_renderable=self._line, transient=True, redirect_stdout=False, redirect_stderr=False
            )

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show the live line until the end of the block."""
        if self.live is None:
            yield
            return
        try:
            self.live.start()
            yield
        except KeyboardInterrupt:
            # Ctrl-C may have come in the middle of drawing, and rich cannot stop what it did not start.
            with suppress(Exception):
                self.live.stop()
            self._stream.write(_SHOW_CURSOR)
            raise
        except BaseException:
            self.live.stop()
            raise
        self.live.stop()

    def write(self, text: str) -> int:
        """Write above the live line."""
        if self.live:
            self.live.stop()
        with suppress(OSError):  # a full disk is not a failure of the hook that prints
            self._stream.write(text)
            self._stream.flush()
        if self.live and text.endswith("\n"):
            self.live.start()
        return len(text)

    def observe(self, row: UnitReport) -> None:
        """Record a change of a unit; print a line if it has started or stopped and there is no live line."""
        key = f"{row.kind} {row.depth} {row.path} {row.unit}"
        self._at_work.pop(key, None)
        if row.outcome in {"starting", "stopping"}:
            self._at_work[key] = row, time.perf_counter()
            return
        if row.outcome not in {"started", "stopped"}:
            return
        self._done.add(key)
        took = row.start_seconds if row.outcome == "started" else row.stop_seconds
        if self.live is None and took is not None:
            print(f"{row.unit} {row.outcome} in {took:.3f} s", file=sys.stderr)

    def _line(self) -> str:
        at_work = list(self._at_work.values())  # the event loop changes it in another thread
        if not at_work:
            return ""
        row, began = at_work[-1]  # what is inside another one comes after it
        return f"{seconds(time.perf_counter() - began):>8}  {row.outcome} {row.name}  ({len(self._done)} done)"
