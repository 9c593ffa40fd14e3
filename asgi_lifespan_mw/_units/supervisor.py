"""The supervisor: starts units in order, stops them in reverse, within time limits.

Rule 1: Units start in order and stop in reverse. The units of a batch start, and later stop, side by side. An order
inside the batch is kept by `Unit.start_after`. Most batches hold one unit.

Rule 2: A unit that fails or runs out of time ends a startup, never a shutdown.

Rule 3: The task that drives the units may be cancelled at any await. `Supervisor.stop_shielded` then goes on from
where that task was.

Rule 4: The start of a background unit is not waited for. A task of its own watches its time limit.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, final

import anyio

from .._log import logger
from .backend import (
    CANCELLED_GRACE,
    asyncios_cancellation,
    checkpoint,
    current_asyncio_task,
    spawn,
    wait_until,
    was_uncancelled,
)
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
    """Raised to end the startup if a unit failed; `Supervisor.failures` has the failure."""


@final
class Supervisor:
    """The units of one run, in the order of their start.

    Attributes:
        failures: The failures of the units, in the order in which they happened.
        context: The context variables that the next unit begins with.
        on_change: Called with a unit that changed its state or failed.
        is_answered: Whether the startup was answered, so that the failure of a background unit is a crash.
    """

    def __init__(self, on_crash: Callable[[Unit], None], on_change: Callable[[Unit], None] = lambda _: None) -> None:
        self.failures: list[Failure] = []
        self.context = copy_context()
        self.is_answered = False
        self.on_change = on_change
        self._on_crash = on_crash
        self._batches: list[Sequence[Unit]] = []
        self._deadline = math.inf
        self._seconds = math.inf
        self._waiting: list[anyio.Event] = []
        self._watchers: dict[Unit, object] = {}  # the tasks that watch the start of background units
        self._owner_task: asyncio.Task[object] | None = None
        self._before = 0

    def on_crash(self, unit: Unit, /) -> None:
        """Report a unit that failed between its start and its stop."""
        self._on_crash(unit)

    def set_deadline(self, seconds: float | None) -> None:
        """Limit the time for all that follows, counted from now; None for no limit."""
        self._seconds = math.inf if seconds is None else seconds
        self._deadline = anyio.current_time() + self._seconds

    async def start(self, *batch: Unit) -> None:
        """Start units side by side, and wait until each has started, ended or failed, but for background units.

        The context variables of a single unit reach the units after it; those of several units do not.

        Raises:
            UnitFailed: If one of them fails or runs out of time, or an earlier unit broke meanwhile. Nothing is
                stopped: that is for `stop`.

        *Cancellation:* The units that are starting go on until `stop`.
        """
        self.check()
        self._adopt_owner()
        self._batches.append(batch)
        self._start_next(batch)
        slow = _SlowLog(UnitState.STARTING)
        while (starting := [unit for unit in batch if _is_starting(unit)]) and not self.failures:
            await self._wait_for_change(starting, slow, self._deadline)
            if not self.failures:
                self._start_next(batch)
        self.check()
        if ending := _all_in(UnitState.ENDING, batch):
            await self._finish(ending)
        if len(batch) == 1:
            self.context = batch[0].context or self.context

    def check(self) -> None:
        """Raise `UnitFailed` if a unit has failed."""
        if self.failures:
            raise UnitFailed

    async def stop(self) -> None:
        """Stop all units in reverse. Failures are recorded in `failures`, and the stop goes on.

        *Cancellation:* The units that are left go on. Call `stop_shielded` to stop them.
        """
        self._adopt_owner()
        while self._batches:
            batch = self._batches[-1]
            slow = _SlowLog(UnitState.STOPPING)
            while True:
                _stop_next(batch)
                stopping = _all_in(UnitState.STOPPING, batch)
                # A unit whose task goes on after its part holds up those that stop after it.
                ending = [unit for unit in _all_in(UnitState.ENDING, batch) if unit.after or not stopping]
                if ending:
                    await self._finish(ending)
                elif stopping:
                    await self._wait_for_change(stopping, slow, self._deadline)
                else:
                    break
            while any(unit in self._watchers for unit in batch):
                await self.next_change()
            for unit in batch:
                if unit.aftermath is not None:
                    await unit.aftermath(self._deadline)
            self._batches.pop()

    async def stop_shielded(self) -> None:
        """Stop the units that are left, and ignore cancellations meanwhile.

        A shield stops the cancellation of a scope, but not a plain ``Task.cancel()`` of asyncio. Gunicorn's ASGI worker
        sends a second one after a second.
        """
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await self.stop()
            except asyncios_cancellation():
                continue

    def _start_next(self, batch: Sequence[Unit]) -> None:
        """Start the units that need not wait for others of the batch."""
        for unit in batch:
            if unit.stage is UnitState.NEW and not any(
                other.stage is UnitState.NEW or _is_starting(other) for other in unit.after
            ):
                unit.start(self)
                if unit.is_background:
                    self._watchers[unit] = spawn(functools.partial(self._watch, unit), "watch", copy_context())

    async def _watch(self, unit: Unit) -> None:
        """Watch the start of a background unit, which nobody waits for."""
        slow = _SlowLog(UnitState.STARTING)
        try:
            while unit.stage is UnitState.STARTING:
                await self._wait_for_change([unit], slow, math.inf)
            if unit.failure is not None:
                await finish([unit], CANCELLED_GRACE)
        finally:
            del self._watchers[unit]
            self.wake()

    def _is_time_up(self) -> bool:
        return self._seconds < math.inf and self._deadline <= anyio.current_time()

    def is_owner_cancelled(self) -> bool:
        """Return whether the owner is being cancelled, so that it is about to stop the units. Never true on trio."""
        owner = self._owner_task
        # A LifespanMiddleware inside a mounted app: its owner is a unit of the outer run, which undid its cancellation.
        return owner is not None and not owner.done() and (owner.cancelling() > self._before or was_uncancelled(owner))

    def when_owner_is_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the owner has finished, after which nobody stops the units."""
        assert self._owner_task is not None, "a unit calls this only if its owner was cancelled, on asyncio"
        self._owner_task.add_done_callback(lambda _: callback())

    def _adopt_owner(self) -> None:
        """Make the running task the owner. A cancellation that it caught earlier does not count."""
        task = current_asyncio_task()
        if task is not self._owner_task:
            self._owner_task = task
            self._before = 0 if task is None else task.cancelling()

    def in_progress(self) -> list[Unit]:
        """Return the units that are starting or stopping now."""
        last = self._batches[-1] if self._batches else ()
        return [*_all_in(UnitState.STARTING, last), *_all_in(UnitState.STOPPING, last)]

    def wake(self) -> None:
        """Wake every task that waits for a change."""
        for event in self._waiting:
            event.set()

    async def next_change(self, until: float = math.inf) -> None:
        """Wait until a unit changes, or until the time `until` of the event loop's clock."""
        event = anyio.Event()
        self._waiting.append(event)
        try:
            await wait_until(event, until)
        finally:
            self._waiting.remove(event)

    async def _wait_for_change(self, units: Sequence[Unit], slow: "_SlowLog", whole: float) -> None:
        """Wait until a unit at work changes. A unit that passes its deadline, or the deadline `whole`, fails."""
        if slow.is_new and not self._is_time_up():
            slow.is_new = False
            await checkpoint(self._owner_task)  # most units need no more than this step
        else:
            now = anyio.current_time()
            overdue = [unit for unit in units if unit.deadline(whole) <= now]
            for unit in overdue:
                unit.time_out(slow.phase, self._seconds)
            if overdue:
                return
            due = min(unit.deadline(whole) for unit in units)
            await self.next_change(min(due, slow.next_time(units, now)))
        for unit in units:
            if unit.stage is not slow.busy and unit.failure is None:
                # `def load(): time.sleep(60)`: a hook that blocks the event loop blocks this task and its timers too.
                due = unit.deadline(whole)
                if due < math.inf and due <= anyio.current_time():
                    unit.time_out(slow.phase, self._seconds, f"it blocked the event loop; {UNBLOCK}")
                else:
                    slow.log_blocking(unit)

    async def _finish(self, batch: Sequence[Unit]) -> None:
        """Wait for the tasks of units to finish, at most for a second, and end those that do not."""
        await finish(batch, max(0, min(CANCELLED_GRACE, self._deadline - anyio.current_time())))


@final
class _SlowLog:
    """The log of units that take long: named after 10 s, 20 s, 40 s and so on.

    Attributes:
        busy: The state of the units while they are at work.
        phase: That state in words.
        is_new: Whether nothing was waited for yet.
    """

    def __init__(self, busy: UnitState) -> None:
        self.busy = busy
        self.phase = "startup" if busy is UnitState.STARTING else "shutdown"
        self.is_new = True
        self._seen: dict[Unit, tuple[float, float]] = {}  # when each was seen first, and after how long it is named

    def next_time(self, units: Sequence[Unit], now: float) -> float:
        """Name the units that have taken long by now, and return the time at which the next one will have."""
        times: list[float] = []
        for unit in units:
            began, patience = self._seen.get(unit, (now, SLOW_AFTER))
            if now >= began + patience:
                location = unit.whereabouts()
                at = f", {location}" if location else ""
                logger.warning("%s of %s takes more than %g s%s", self.phase, unit.name, patience, at)
                patience *= 2
            self._seen[unit] = began, patience
            times.append(began + patience)
        return min(times)

    def log_blocking(self, unit: Unit) -> None:
        """Name a unit that is done, if it took long and blocked the event loop, so that it could not be named."""
        _, patience = self._seen.get(unit, (0, SLOW_AFTER))
        if time.perf_counter() - unit.history[self.busy] > patience + _BARELY:
            logger.warning(
                "%s of %s took more than %g s and blocked the event loop; %s", self.phase, unit.name, patience, UNBLOCK
            )


def _stop_next(batch: Sequence[Unit]) -> None:
    """Stop the units that need not wait for others of the batch."""
    for unit in batch:
        if all(other.stage in (UnitState.NEW, UnitState.OVER) for other in unit.before):
            unit.request_stop()


def _is_starting(unit: Unit) -> bool:
    """Return whether a unit is starting, and is waited for."""
    return unit.stage is UnitState.STARTING and not unit.is_background


def _all_in(stage: UnitState, batch: Sequence[Unit]) -> list[Unit]:
    return [unit for unit in batch if unit.stage is stage]
