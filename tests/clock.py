"""An asyncio event loop whose clock jumps to the next timer when nothing else is left to do.

Trio has `trio.testing.MockClock` for this. Tests of time limits then take no time, and no test sleeps for real.
"""

import asyncio
import selectors
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not wait for a time-out, but adds it to the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where nothing is, let the time-out pass at once."""
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        self.now += 0 if ready else timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock, which starts at 0 s."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._clock.now


class EagerJumpingLoop(JumpingLoop):
    """A `JumpingLoop` that runs the first step of each task at once, as `asyncio.eager_task_factory` does."""

    def __init__(self) -> None:
        super().__init__()
        factory: Any = getattr(asyncio, "eager_task_factory", None)  # since Python 3.12
        self.set_task_factory(factory)
