"""A unit: one thing that is started and stopped, in a task of its own.

A unit is a context, a function, the wrapped app, a mount: they differ in their *body*, the coroutine that lives in the
task. The body runs from its first to its last line in that task, so that task groups and cancel scopes may be held
open in it. Nothing that it raises leaves the task: it is kept as the unit's error.

`Supervisor` drives many of them.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum
from typing import Protocol, final

import anyio

from .._exceptions import LifespanTimeout, ShutdownFailed, StartupFailed
from .._log import logger
from .._types import State, is_a
from .backend import (
    CANCELLED_GRACE,
    asyncios_cancellation,
    is_cancellation,
    is_loop_gone,
    spare_current_task,
    spawn,
    was_cancelled,
)
from .failure import FailedPhase, Failure, text_of
from .location import where


class UnitState(Enum):
    """Where a unit stands."""

    __hash__ = object.__hash__  # as good as an enum's own, and faster

    NEW = "new"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    ENDING = "ending"
    """It has done its part, well or badly; its task has only to end."""
    OVER = "over"
    """Its task is over, or was left behind because it ignored its cancellation."""


class Owner(Protocol):
    """What a unit needs of whoever drives it.

    Attributes:
        context: the context variables that the next unit begins with.
        failures: the failures of all units, in the order in which they happened.
        is_answered: whether the startup was answered.
    """

    context: Context
    failures: list[Failure]
    is_answered: bool

    def wake(self) -> None:
        """Look at the units again."""
        ...

    def on_change(self, unit: "Unit", /) -> None:
        """Take note of a unit that changed its state or failed."""
        ...

    async def next_change(self, until: float, /) -> None:
        """Wait until a unit changes, or until the time `until` of the event loop's clock."""
        ...

    def on_crash(self, unit: "Unit", /) -> None:
        """Take note of a unit that failed between its start and its stop."""
        ...

    def is_owner_cancelled(self) -> bool:
        """Return whether the task that drives the units is being cancelled."""
        ...

    def when_owner_is_done(self, callback: Callable[[], None], /) -> None:
        """Call back when the task that drives the units has ended."""
        ...


@final
class Unit:
    """One thing that is started and stopped.

    Attributes:
        name: who it is in messages, such as ``hook 'open_pool' (shop/db.py:12)``.
        body: what lives in its task. It calls `started`, awaits `wait_for_stop`, and returns.
        timeout: seconds for its start, and as many for its stop; None for no limit of its own.
        is_hook: whether it is the user's hook; else it is an app.
        is_shutdown_function: whether the body runs when the unit is stopped, and its start is nothing.
        stage: where it stands.
        state: the lifespan state that it gave when it had started; most units give none.
        failure: what went wrong with it; None for a unit that has not failed.
        is_background: whether nobody waits for its start.
        inherits: The unit whose context variables it begins with; None for those of the owner.
        after: The units of its batch that start before it, and stop after it.
        before: The units of its batch that start after it, and stop before it.
        context: the context variables as they stood when it had started; None before.
        history: each stage after NEW, with the time of `time.perf_counter` at which it was entered.
        inside: returns where the units of a run that began in its body stand; "" if there is none.
        cancelled_at: the place in its code at which a start was given up; empty where none was.
    """

    def __init__(
        self,
        name: str,
        body: "Callable[[Unit], Awaitable[None]]",
        *,
        timeout: float | None = None,
        is_hook: bool = False,
        is_shutdown_function: bool = False,
        is_background: bool = False,
        on_enter: "Callable[[Unit], object]" = lambda _: None,
    ) -> None:
        self.name = name
        self.body = body
        self.timeout = timeout
        self.is_hook = is_hook
        self.is_shutdown_function = is_shutdown_function
        self.is_background = is_background
        self._on_enter = on_enter  # called in its task before the body, to set context variables
        self.stage = UnitState.NEW
        self.state: State = {}
        self.failure: Failure | None = None
        self.inherits: Unit | None = None
        self.after: Sequence[Unit] = ()
        self.before: list[Unit] = []
        self.context: Context | None = None
        self.history: dict[UnitState, float] = {}
        self.inside: Callable[[], str] = str
        self.cancelled_at = ""
        self._began = math.inf
        self._is_told = False

    def __repr__(self) -> str:
        return f"<Unit {self.name}: {self.stage.value}>"

    @property
    def has_started(self) -> bool:
        """Whether the start is done, well."""
        return UnitState.STARTED in self.history

    # What a body calls.

    def started(self, state: State | None = None) -> None:
        """Say that the start is done, and which state came of it."""
        self.state = state or {}
        self.context = copy_context()
        if self.stage is UnitState.STARTING:
            self._transition(UnitState.STARTED)

    async def wait_for_stop(self) -> None:
        """Wait until the unit is to stop.

        *Cancellation:* some servers cancel every task of the event loop, not the lifespan's alone, and no shield holds
        that back on asyncio. Then the stop is on its way, in its order, and the wait goes on. It is shielded from then
        on: the tasks of a group that is open in the body are cancelled too, which cancels the group around us.
        """
        try:
            await self._stop.wait()
        except asyncios_cancellation():
            if self._scope.cancel_called or not self._units.is_owner_cancelled():
                raise
            self._units.when_owner_is_done(self.cancel)
        while not self._stop.is_set():
            spare_current_task()
            with suppress(asyncios_cancellation()), anyio.CancelScope(shield=True):
                await self._stop.wait()

    def stopped(self) -> None:
        """Say that the stop is done, though the body may have lines left."""
        if self.stage is not UnitState.OVER:
            self._transition(UnitState.ENDING)

    def fail(self, error: BaseException, app_message: str = "") -> None:
        """Say that the unit failed; what its body raises after this says it better than a bare message."""
        if self.is_cancelled():  # by us: Starlette takes it for a failure, and says so before it ends
            return
        broke_while_serving = self.stage is UnitState.STARTED
        self._mark_failed(error, app_message=app_message)
        self.stopped()
        if broke_while_serving:
            self._ending = spawn(self._end_crashed, f"end of {self.name}", copy_context())

    async def _end_crashed(self) -> None:
        await is_over(self, seconds=CANCELLED_GRACE)  # for the exception behind the message
        self._report_crash()
        await finish([self], seconds=0)

    def cancel(self) -> None:
        """Cancel the unit's task, and what is open in it; nothing in it waits for the stop any more."""
        self._stop.set()
        self._scope.cancel()

    # What `Supervisor` calls.

    def start_after(self, units: "Sequence[Unit]") -> None:
        """Start after `units` of the same batch, and stop before them."""
        self.after = units
        for unit in units:
            unit.before.append(self)

    def start(self, units: Owner) -> None:
        """Start the body in a task, or nothing for a unit that runs at the stop."""
        self._units = units
        self._scope = anyio.CancelScope()
        self._stop = anyio.Event()
        if self.is_shutdown_function:
            self._set_state(UnitState.STARTED)
        else:
            self._run(UnitState.STARTING)

    def request_stop(self) -> None:
        """Begin the stop, as it must begin from where the unit stands; where it began or ended, nothing."""
        if self.stage is UnitState.STARTING:
            self.cancelled_at = self.place()
            self._set_state(UnitState.ENDING)
            self.cancel()
        elif self.stage is UnitState.STARTED and self.is_shutdown_function:
            self._run(UnitState.STOPPING)
        elif self.stage is UnitState.STARTED:
            self._set_state(UnitState.STOPPING)
            self._stop.set()

    def deadline(self, whole: float) -> float:
        """The time at which the start or the stop that is under way must be done; `whole` is that of all units."""
        return whole if self.timeout is None else min(whole, self._began + self.timeout)

    def time_out(self, phase: str, seconds: float, advice: str = "") -> None:
        """Fail because time ran out, the unit's own or the `seconds` of all, and cancel."""
        if self.timeout is not None and self._began + self.timeout <= anyio.current_time():
            seconds = self.timeout
        error = LifespanTimeout(self.name, phase, seconds)
        place = self.place()
        if place:
            error.add_note(f"it was at {place}")
        failed_phase = FailedPhase.STARTUP if phase == "startup" else FailedPhase.SHUTDOWN
        self._mark_failed(error, failed_phase, location=place, advice=advice)
        self.stopped()
        self.cancel()

    def is_cancelled(self) -> bool:
        """Whether the unit was cancelled."""
        return self._scope.cancel_called

    async def wait_until_over(self, until: float) -> None:
        """Wait until the task has finished or was abandoned, or until the time `until`."""
        while self.stage is not UnitState.OVER and anyio.current_time() < until:
            await self._units.next_change(until)

    def abandon(self) -> None:
        """Give a unit up that ignores its cancellation, since nobody could ever stop it."""
        place = self.place() or "an unknown place"
        logger.error("%s ignores its cancellation and is left behind, still running, at %s", self.name, place)
        self._end()

    def place(self) -> str:
        """Where the body stands in its code, or which unit of a run in it is at work; empty where it can't be seen."""
        if inside := self.inside():
            return inside
        try:
            return where(self._task)
        except Exception:  # it looks into objects of the user's, and must not do harm
            logger.debug("cannot tell where %s stands", self.name, exc_info=True)
            return ""

    def _transition(self, stage: UnitState) -> None:
        if self.failure is None and logger.isEnabledFor(logging.DEBUG):
            self._log_progress(stage)
        self._set_state(stage)
        self._units.wake()

    def _set_state(self, stage: UnitState) -> None:
        self.stage = stage
        self.history.setdefault(stage, time.perf_counter())
        if self.timeout is not None and stage in (UnitState.STARTING, UnitState.STOPPING):
            self._began = anyio.current_time()
        self._units.on_change(self)

    def _log_progress(self, stage: UnitState) -> None:
        took = time.perf_counter() - self.history[self.stage]
        if stage is UnitState.STARTED:
            logger.debug("%s started in %.3f s", self.name, took)
        elif self.stage is UnitState.STOPPING:
            logger.debug("%s stopped in %.3f s", self.name, took)

    def _run(self, stage: UnitState) -> None:
        self._set_state(stage)
        inherited = self.inherits and self.inherits.context
        context = (inherited or self._units.context).copy()
        self._task = spawn(self._live, self.name, context, self._never_ran)

    async def _live(self) -> None:
        self._on_enter(self)
        try:
            with self._scope:
                await self.body(self)
        except BaseException as error:  # SystemExit in a task of asyncio would tear the loop down
            if is_loop_gone():
                raise
            self._record_result(error)
        self._end()  # in the task's last step: a turn of the loop earlier than a callback would be

    def _record_result(self, error: BaseException) -> None:
        """Keep what the body raised, unless it was asked to."""
        if is_cancellation(error) and self._scope.cancel_called:
            return
        # A body that awaited a cancelled task raises a cancellation too, but its own task was not cancelled.
        if is_cancellation(error) and self._units.is_owner_cancelled() and was_cancelled(self._task):
            if self.stage is not UnitState.STOPPING:
                return
            error = self._unexpected_cancellation(error, "the server cancelled it before it was done")
        elif is_cancellation(error):
            error = self._unexpected_cancellation(error, "it was cancelled, and nobody asked for that")
        elif is_a(error, GeneratorExit):  # raised on, it would look like the end of our own coroutines
            error = self._unexpected_cancellation(error, "it raised what only closes generators")
        if self.failure is None:
            self._mark_failed(error)
        else:
            self.failure.add(error)

    def _unexpected_cancellation(self, error: BaseException, what: str) -> BaseException:
        failed = ShutdownFailed if self.has_started else StartupFailed
        unasked = failed(self.name, f"{what}: {text_of(error)}")
        unasked.__cause__ = error
        return unasked

    def _mark_failed(self, error: BaseException, phase: FailedPhase | None = None, **known: str) -> None:
        """Record the first failure; `known` are more fields of the record."""
        if self.failure is None:
            if phase is None and self.has_started:
                phase = FailedPhase.SERVING if self.stage is UnitState.STARTED else FailedPhase.SHUTDOWN
            phase = phase or FailedPhase.STARTUP
            # An error in the clean-up of a start that the shutdown cancelled is not a crash.
            is_late = self.is_background and self._units.is_answered and not self.is_cancelled()
            if phase is FailedPhase.STARTUP and is_late:
                phase = FailedPhase.SERVING
            self.failure = Failure(self.name, phase, error, **known)
            self._units.failures.append(self.failure)
            self._units.on_change(self)

    def _never_ran(self) -> None:
        self._record_result(asyncios_cancellation()())
        self._end()

    def _end(self) -> None:
        if self.stage is UnitState.OVER:  # it was left behind, and ended after all
            return
        if self.stage is UnitState.STARTED and self.failure is None and not self._stop.is_set():
            logger.info("%s ended before the shutdown", self.name)
        self._transition(UnitState.OVER)
        self._report_crash()

    def _report_crash(self) -> None:
        """Tell of a crash, once."""
        if self.failure is not None and self.failure.phase is FailedPhase.SERVING and not self._is_told:
            self._is_told = True
            self._units.on_crash(self)


async def is_over(*units: Unit, seconds: float) -> bool:
    """Wait until the tasks of units are over, for so many seconds at the most, and tell whether they are."""
    until = anyio.current_time() + seconds
    for unit in units:
        await unit.wait_until_over(until)
    return all(unit.stage is UnitState.OVER for unit in units)


async def finish(units: Sequence[Unit], seconds: float) -> None:
    """End units that have done their part: wait a while, cancel what is left, wait a second, and leave it behind."""
    if await is_over(*(unit for unit in units if not unit.is_cancelled()), seconds=seconds):
        units = [unit for unit in units if unit.is_cancelled()]
    for unit in units:
        if unit.stage is not UnitState.OVER:
            unit.cancel()
    if not await is_over(*units, seconds=CANCELLED_GRACE):
        for unit in units:
            if unit.stage is not UnitState.OVER:
                unit.abandon()
