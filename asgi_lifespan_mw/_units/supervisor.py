"""Supervisor in their order: started one after the other, stopped in reverse, within time limits.

Rule 1: units are started in order and stopped in reverse. A batch of units is started, and later stopped, side by
side; most batches hold one.

Rule 2: a unit that fails, or runs out of time, ends a startup, and never a shutdown.

Rule 3: whoever drives the units may be cancelled at any await. Then
`Supervisor.stop_shielded` goes on from where it was.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, final

import anyio

from .._log import logger
from .backend import CANCELLED_GRACE, asyncios_cancellation, checkpoint, current_asyncio_task, was_spared
from .failure import Failure
from .unit import Unit, UnitState, finish

if TYPE_CHECKING:
    import asyncio

SLOW_AFTER = 10.0
"""Seconds after which a unit at work is named in the log; then after twice as long, and so on."""


UNBLOCK = "threaded() runs a `def` hook in a worker thread"
"""The hint for a unit that blocks the event loop."""

_BARELY = 1.0
"""Seconds within which a unit may be done before it is named."""


class UnitFailed(Exception):
    """A unit failed, which ends the startup; `Supervisor.failures` tells which."""


@final
class Supervisor:
    """The units of one run, in the order of their start.

    Attributes:
        failures: what failed, in the order in which it happened.
        context: the context variables that the next unit begins with.
    """

    def __init__(self, on_crash: Callable[[Unit], None]) -> None:
        self.failures: list[Failure] = []
        self.context = copy_context()
        self._on_crash = on_crash
        self._batches: list[Sequence[Unit]] = []
        self._deadline = math.inf
        self._seconds = math.inf
        self._wake: anyio.Event | None = None
        self._owner_task: asyncio.Task[object] | None = None
        self._before = 0

    def on_crash(self, unit: Unit, /) -> None:
        """Take note of a unit that failed between its start and its stop."""
        self._on_crash(unit)

    def set_deadline(self, seconds: float | None) -> None:
        """Give what follows a time limit, counted from now; None for no limit."""
        self._seconds = math.inf if seconds is None else seconds
        self._deadline = anyio.current_time() + self._seconds

    async def start(self, *batch: Unit) -> None:
        """Start units side by side, and wait until each of them has started, ended or failed.

        Raises:
            UnitFailed: one of them failed or ran out of time, or an earlier unit broke meanwhile. Nothing is stopped:
                that is for `stop`.

        *Cancellation:* what is starting goes on until `stop`.
        """
        self.check()
        self._adopt_owner()
        self._batches.append(batch)
        for unit in batch:
            unit.start(self)
        await self._wait_while(batch, UnitState.STARTING)
        if not self.failures:
            self._mark_blocking(batch, "startup")
        self.check()
        if ending := _at_work(batch, UnitState.ENDING):
            await self._finish(ending)
        self.context = batch[-1].context or self.context

    def check(self) -> None:
        """Raise `UnitFailed` if a unit has failed."""
        if self.failures:
            raise UnitFailed

    async def stop(self) -> None:
        """Stop all units in reverse. No unit's failure ends it: they are kept in `failures`.

        *Cancellation:* leaves the rest to be stopped; call `stop_shielded` then.
        """
        self._adopt_owner()
        while self._batches:
            batch = self._batches[-1]
            for unit in batch:
                unit.request_stop()
            in_time = [unit for unit in _at_work(batch, UnitState.STOPPING) if not self._is_late(unit)]
            await self._wait_while(batch, UnitState.STOPPING)
            self._mark_blocking(in_time, "shutdown")
            await self._finish(batch)
            self._batches.pop()

    async def stop_shielded(self) -> None:
        """Stop what is left, and let no cancellation come between.

        A shield holds a cancelled scope back, on asyncio not a plain ``Task.cancel()``; each of those is used up here.
        """
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await self.stop()
            except asyncios_cancellation():
                continue

    def _mark_blocking(self, batch: Sequence[Unit], phase: str) -> None:
        """Time out the last of the batch if it is done, but late: it blocked the event loop, and the driver with it."""
        if batch and batch[-1].failure is None and self._is_late(batch[-1]):
            batch[-1].time_out(phase, self._seconds, f"it blocked the event loop; {UNBLOCK}")

    def _is_late(self, unit: Unit) -> bool:
        due = unit.deadline(self._deadline)
        return due < math.inf and due <= anyio.current_time()

    def _is_time_up(self) -> bool:
        return self._seconds < math.inf and self._deadline <= anyio.current_time()

    def is_owner_cancelled(self) -> bool:
        """Whether the task that drives the units is being cancelled, and so about to stop them; never on trio."""
        driver = self._owner_task
        return driver is not None and not driver.done() and (driver.cancelling() > self._before or was_spared(driver))

    def when_owner_is_done(self, callback: Callable[[], None]) -> None:
        """Call back when the task that drives the units is over, and they will be stopped by nobody."""
        assert self._owner_task is not None, "a unit calls this where its driver was cancelled by its task"
        self._owner_task.add_done_callback(lambda _: callback())

    def _adopt_owner(self) -> None:
        """Take the running task for the one that drives; what it was cancelled for before is not our business."""
        task = current_asyncio_task()
        if task is not self._owner_task:
            self._owner_task = task
            self._before = 0 if task is None else task.cancelling()

    def in_progress(self) -> list[Unit]:
        """The units that are starting or stopping now."""
        last = self._batches[-1] if self._batches else ()
        return [*_at_work(last, UnitState.STARTING), *_at_work(last, UnitState.STOPPING)]

    def wake(self) -> None:
        """Have the driver look again."""
        if self._wake is not None:
            self._wake.set()

    async def _wait_while(self, batch: Sequence[Unit], busy: UnitState) -> None:
        """Wait until no unit of the batch is busy; one whose time runs out has failed."""
        # A `def` may block the event loop, and this log with it: it is told of afterwards, by a clock that is cheap.
        patience, entered = SLOW_AFTER, time.perf_counter()
        phase = "startup" if busy is UnitState.STARTING else "shutdown"
        if _at_work(batch, busy) and not self._is_time_up():
            await checkpoint(self._owner_task)  # in which most units are done
        began = anyio.current_time() if _at_work(batch, busy) else 0.0
        while at_work := _at_work(batch, busy):
            if self.failures and busy is UnitState.STARTING:
                return
            now = anyio.current_time()
            if now >= began + patience:
                _log_slow(at_work, phase, patience)
                patience *= 2
            overdue = [unit for unit in at_work if unit.deadline(self._deadline) <= now]
            for unit in overdue:
                unit.time_out(phase, self._seconds)
            if not overdue:
                due = min(unit.deadline(self._deadline) for unit in at_work)
                await self._next_change(min(due, began + patience))
        if time.perf_counter() - entered > patience + _BARELY:
            who = batch[-1].name
            logger.warning("%s of %s took more than %g s and blocked the event loop; %s", phase, who, patience, UNBLOCK)

    async def _finish(self, batch: Sequence[Unit]) -> None:
        """End what has done its part, within a second or what is left of the time."""
        if len(_at_work(batch, UnitState.OVER)) < len(batch):
            await finish(batch, max(0, min(CANCELLED_GRACE, self._deadline - anyio.current_time())))

    async def _next_change(self, until: float) -> None:
        self._wake = anyio.Event()
        with anyio.CancelScope(deadline=until):
            await self._wake.wait()
        self._wake = None


def _at_work(batch: Sequence[Unit], stage: UnitState) -> list[Unit]:
    return [unit for unit in batch if unit.stage is stage]


def _log_slow(units: Sequence[Unit], phase: str, seconds: float) -> None:
    for unit in units:
        place = unit.place()
        logger.warning("%s of %s takes more than %g s%s", phase, unit.name, seconds, f", at {place}" if place else "")
