"""The supervisor: starts units in order, stops them in reverse, within time limits.

Rule 1: Units start in order and stop in reverse. The units of a batch start, and later stop, side by side. An order
inside the batch is kept by `Unit.start_after`: a unit stops when all that follow it are over, directly or not, whatever
became of them. Most batches hold one unit.

Rule 2: A unit that fails or runs out of time ends a startup, never a shutdown.

Rule 3: The task that drives the units may be cancelled at any await. `Supervisor.stop_shielded` then goes on from
where that task was.

Rule 4: The start of a background unit is not waited for. A task of its own watches its time limit.

Rule 5: Another task than the one that stops the units may start some of them, after the startup was answered. The stop
waits until that task has noticed it.
"""

import functools
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import Any, final

import anyio

from .._log import logger
from .backend import asyncios_cancellation, checkpoint, spawn
from .failure import Failure
from .shared import Shared
from .unit import Unit, UnitState, finish

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
        shared: What the units share.
    """

    def __init__(self, on_crash: Callable[[Unit], None], on_change: Callable[[Unit], None] | None = None) -> None:
        self.shared = Shared(on_crash, on_change)
        self._batches: list[Sequence[Unit]] = []
        self._watchers: dict[Unit, object] = {}  # the tasks that watch the start of background units
        self._starting = 0  # how many calls of `start` are under way

    @property
    def failures(self) -> list[Failure]:
        """The failures of the units, in the order in which they happened."""
        return self.shared.failures

    async def start(self, *batch: Unit) -> None:
        """Start units side by side, and wait until each has started, ended or failed, but for background units.

        The context variables of a single unit reach the units after it; those of several units do not.

        Raises:
            UnitFailed: If one of them fails or runs out of time, if an earlier unit broke before the startup was
                answered, or if the stop has begun. Nothing is stopped: that is for `stop`.

        *Cancellation:* The units that are starting go on until `stop`.
        """
        self.check(*batch)
        if not self.shared.is_answered:
            self.shared.adopt_owner()
        self._batches.append(batch)
        self._starting += 1
        try:
            await self._start(batch)
        finally:
            self._starting -= 1
            self.shared.wake()
        self.check(*batch)
        if ending := [unit for unit in batch if unit.stage is UnitState.ENDING]:
            await finish(self.shared, ending)
            self.check(*batch)  # an optional unit may have raised SystemExit at its end
        if len(batch) == 1:
            self.shared.context = batch[0].context or self.shared.context

    def start_later(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work`, which starts units after the startup was answered, in a task of its own. It raises nothing."""

        async def live() -> None:
            try:
                with suppress(asyncios_cancellation(), UnitFailed):
                    await work()
            finally:
                self._starting -= 1
                self.shared.wake()

        self._starting += 1
        self._later = spawn(live, "start in the background", self.shared.context.copy())

    async def _start(self, batch: Sequence[Unit]) -> None:
        """Start units, each when those that it waits for have started."""
        work = _AtWork(self.shared, UnitState.STARTING)
        ready = [unit for unit in batch if not unit.waits_for]
        while True:
            for unit in ready:  # it grows: a background unit is not waited for
                unit.start(self.shared)
                if unit.is_background:
                    self._watchers[unit] = spawn(functools.partial(self._watch, unit), "watch", copy_context())
                if unit.is_background or unit.stage is not UnitState.STARTING:
                    ready += _released(unit)
                else:
                    work.add(unit)
            if not work.units or self._is_over(batch):
                return
            ready = [follower for unit in await work.wait() for follower in _released(unit)]
            if self._is_over(batch):
                return

    def check(self, *batch: Unit) -> None:
        """Raise `UnitFailed` if a unit has failed, or the stop has begun. After the answer, only `batch` counts."""
        if self._is_over(batch):
            raise UnitFailed

    def _is_over(self, batch: Sequence[Unit]) -> bool:
        shared = self.shared
        failed = any(unit.has_failed for unit in batch) if shared.is_answered else bool(shared.failures)
        return failed or shared.is_stopping

    async def stop(self) -> None:
        """Stop all units in reverse. Failures are recorded in `failures`, and the stop goes on.

        *Cancellation:* The units that are left go on. Call `stop_shielded` to stop them.
        """
        self.shared.adopt_owner()
        self.shared.is_stopping = True
        self.shared.wake()
        while self._starting:
            await self.shared.next_change()
        while self._batches:
            await self._stop(self._batches[-1])
            self._batches.pop()

    async def _stop(self, batch: Sequence[Unit]) -> None:
        """Stop units, each when all that follow it are over."""
        work = _AtWork(self.shared, UnitState.STOPPING)
        followers = {unit: len(unit.before) for unit in batch}
        ready = [unit for unit in batch if not unit.before]
        while True:
            for unit in ready:  # it grows: a unit that is over holds up nothing
                unit.request_stop()
                if unit.stage in (UnitState.NEW, UnitState.OVER):
                    ready += _let_go(unit, followers)
                else:
                    work.add(unit)
            if not work.units:
                break
            ready = [one for unit in await work.wait() for one in _let_go(unit, followers)]
        while any(unit in self._watchers for unit in batch):
            await self.shared.next_change()
        for unit in batch:
            if unit.aftermath is not None:
                await unit.aftermath(self.shared.deadline)

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

    async def _watch(self, unit: Unit) -> None:
        """Watch the start of a background unit, which nobody waits for."""
        try:
            work = _AtWork(self.shared, UnitState.STARTING, whole=math.inf)
            work.add(unit)
            while unit.stage is UnitState.STARTING:
                await work.wait()
            if unit.failure is not None:
                await finish(self.shared, [unit])
        finally:
            del self._watchers[unit]
            self.shared.wake()

    def in_progress(self) -> list[Unit]:
        """Return the units that are starting or stopping now."""
        last = self._batches[-1] if self._batches else ()
        return [unit for unit in last if unit.stage in (UnitState.STARTING, UnitState.STOPPING)]


def _released(unit: Unit) -> list[Unit]:
    """Return the units that may start now that a unit has started."""
    ready: list[Unit] = []
    for follower in unit.before:
        follower.waits_for -= 1
        if not follower.waits_for:
            ready.append(follower)
    return ready


def _let_go(unit: Unit, followers: dict[Unit, int]) -> list[Unit]:
    """Return the units that may stop now that a unit, and all that follows it, is over."""
    ready: list[Unit] = []
    for before in unit.after:
        followers[before] -= 1
        if not followers[before]:
            ready.append(before)
    return ready


@final
class _AtWork:
    """Units that start, or that stop and end: what is due for each, and when it is named in the log.

    A unit that takes long is named after 10 s, 20 s, 40 s and so on.

    Attributes:
        units: The units at work, each with the time at which it is named, and how long it takes by then.
    """

    def __init__(self, shared: Shared, busy: UnitState, whole: float | None = None) -> None:
        """Begin without units.

        Args:
            shared: What the units share.
            busy: The state of the units at work. A unit that stops is at work until it is over.
            whole: The deadline of all units; None for that of the phase.
        """
        self.units: dict[Unit, tuple[float, float]] = {}
        self._shared = shared
        self._busy = busy
        self._phase = "startup" if busy is UnitState.STARTING else "shutdown"
        self._whole = whole
        self._changes: list[Any] = []
        self._let_go: list[Unit] = []  # what is waited for no longer
        self._due = -math.inf
        self._is_new = True

    def add(self, unit: Unit) -> None:
        """Add a unit that begins to work."""
        unit.changes = self._changes
        self.units[unit] = self._shared.now() + SLOW_AFTER, SLOW_AFTER
        self._due = -math.inf

    async def wait(self) -> list[Unit]:
        """Wait until a unit changes, or something is due for one, and return the units that are done."""
        shared = self._shared
        whole = shared.deadline if self._whole is None else self._whole
        if self._is_new and not shared.is_time_up():
            self._is_new = False
            await checkpoint()  # most units need no more than this step
        else:
            self._is_new = False
            now = shared.now()
            if now >= self._due:
                self._end_overdue(whole, now)
            if not self._changes and not self._let_go:
                await shared.next_change(self._due)
        done, self._let_go = self._let_go, []
        changes, self._changes[:] = self._changes[:], []
        for unit in changes:
            self._log_blocking(unit, whole)
            self._due = -math.inf  # a unit that has done its part has less time for its end
            is_done = unit.stage is UnitState.OVER or (
                self._busy is UnitState.STARTING and unit.stage is not self._busy
            )
            if is_done and unit in self.units:
                del self.units[unit]
                done.append(unit)
        return done

    def _end_overdue(self, whole: float, now: float) -> None:
        """End what is overdue, name what takes long, and find when something is due next."""
        self._due = math.inf
        for unit, (named_at, patience) in list(self.units.items()):
            is_overdue = unit.due(whole) <= now
            if (is_overdue or (now >= named_at and unit.timeout is None)) and unit.is_let_go():
                del self.units[unit]
                self._let_go.append(unit)
                continue
            if is_overdue:
                unit.end_overdue()
            if now >= named_at:
                self._name(unit, patience)
                self.units[unit] = named_at + patience, patience * 2
            self._due = min(self._due, unit.due(whole), self.units[unit][0])

    def _name(self, unit: Unit, patience: float) -> None:
        # A unit in which a run waits for one of its own: that run names it.
        if unit.stage is self._busy and not unit.inside():
            location = unit.whereabouts()
            at = f", {location}" if location else ""
            hint = "" if unit.is_limited() else f"; no {self._phase}_timeout is set"
            logger.warning("%s of %s takes more than %g s%s%s", self._phase, unit.name, patience, at, hint)

    def _log_blocking(self, unit: Unit, whole: float) -> None:
        """Name a unit that has done its part too late: if it blocks the event loop, it blocks this task and its timers.

        Time it out if it had a limit: ``def load(): time.sleep(60)``.
        """
        if unit.stage is self._busy or unit.failure is not None or unit not in self.units or unit.is_cancelled():
            return
        due = unit.due_for_its_part(whole)
        if due < math.inf and due <= self._shared.now():
            unit.time_out(self._phase, f"it blocked the event loop; {UNBLOCK}")
            return
        _, patience = self.units[unit]
        if time.perf_counter() - unit.history[self._busy] > patience + _BARELY:
            logger.warning(
                "%s of %s took more than %g s and blocked the event loop; %s", self._phase, unit.name, patience, UNBLOCK
            )
