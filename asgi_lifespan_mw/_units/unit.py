"""Units: what is started and stopped, each in a task of its own.

A unit is a hook, the wrapped app or a mounted app. Units differ in their *body*, the coroutine that runs in the task.
The body runs in that task from its first to its last line, so that task groups and cancel scopes can stay open in it.
No exception leaves the task: it is recorded as the unit's failure.

`Supervisor` starts and stops the units of a run.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence, Sized
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum
from typing import Any, final

import anyio

from .._exceptions import LifespanTimeout, ShutdownFailed, StartupFailed
from .._log import logger
from .._types import State, is_a
from .backend import (
    asyncios_cancellation,
    is_cancellation,
    is_loop_gone,
    spawn,
    uncancel_current_task,
    was_cancelled,
)
from .cancellation import Cancellable
from .failure import FailedPhase, Failure, text_of
from .location import where
from .shared import Shared

GRACE = 1.0
"""Seconds for a task to finish after its part is done, and for a ``finally`` after a time limit of the user's ran out.

Gunicorn's ASGI worker grants no more.
"""

LAST_GRACE = 0.1
"""Seconds for a task to finish after it was cancelled for good; then it is abandoned."""


class UnitState(Enum):
    """The states of a unit, in their order."""

    __hash__ = object.__hash__  # the hash of an enum is slow

    NEW = "new"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    ENDING = "ending"
    """The start or the stop is done or has failed, and the task has not finished yet."""
    OVER = "over"
    """The task has finished, or was abandoned because it did not stop after being cancelled."""


@final
class Unit:
    """One hook or app, from its start to its stop.

    Attributes:
        name: The name in messages, such as ``hook 'open_pool' (shop/db.py:12)``.
        body: The coroutine function that runs in the unit's task. It calls `started`, awaits `wait_for_stop`, and
            returns.
        timeout: Seconds for the start, and as many for the stop; None for no limit of its own.
        is_shutdown_function: Whether the body runs at the stop. The start of such a unit does nothing.
        stage: The current state.
        state: The lifespan state that the unit set; empty before it has started.
        failure: The first failure; None for a unit that has not failed.
        is_background: Whether the startup is answered without waiting for the unit.
        is_worker: Whether the body runs for the life of the app, so that it is cancelled when the unit is to stop.
        is_optional: Whether the run goes on without the unit if it fails.
        inherits: The unit whose context variables it begins with; None for those of the owner.
        after: The units of its batch that start before it, and stop after it.
        before: The units of its batch that start after it, and stop before it.
        waits_for: The number of units in `after` that have not started yet.
        changes: Where the unit is added at each change of its state, for the task that drives it; None for nowhere.
        context: The context variables at the end of the start; None before.
        history: The time at which each state after NEW was entered first, by `time.perf_counter`.
        restarts: How often the body was begun anew after a failure.
        is_restarting: Whether the body waits to be begun anew.
        note: What the unit does beyond its state, such as "waiting for the lock"; "" if there is nothing to say.
        aftermath: Waits, until the time that it is given, for what goes on after the body has ended: a thread that
            works under a lock. None if there is nothing.
        inside: Returns what the unit at work in a run inside the body waits for; "" if there is none.
        let_go: Called when its start takes long; returns whether it is waited for no longer.
        left_behind: The open tasks of each `Tasks` that was entered in the body.
        cancelled_at: What the unit waited for when its start was cancelled, such as "at shop/db.py:12"; "" if it was
            not cancelled.
    """

    def __init__(
        self,
        name: str,
        body: "Callable[[Unit], Coroutine[Any, Any, None]]",
        *,
        timeout: float | None = None,
        is_shutdown_function: bool = False,
        is_background: bool = False,
        is_worker: bool = False,
        is_optional: bool = False,
        on_enter: "Callable[[Unit], object]" = lambda _: None,
        on_started: "Callable[[Unit], object]" = lambda _: None,
    ) -> None:
        self.name = name
        self.body = body
        self.timeout = timeout
        self.is_shutdown_function = is_shutdown_function
        self.is_background = is_background
        self.is_worker = is_worker
        self.is_optional = is_optional
        self._on_enter = on_enter  # called in its task before the body, to set context variables
        self._on_started = on_started
        self.stage = UnitState.NEW
        self.state: State = {}
        self.failure: Failure | None = None
        self.inherits: Unit | None = None
        self.after: Sequence[Unit] = ()
        self.before: list[Unit] = []
        self.context: Context | None = None
        self.history: dict[UnitState, float] = {}
        self.restarts = 0
        self.is_restarting = False
        self.note = ""
        self.aftermath: Callable[[float], Awaitable[None]] | None = None
        self.inside: Callable[[], str] = str
        self.let_go: Callable[[], bool] = bool
        self.left_behind: list[Sized] = []
        self.cancelled_at = ""
        self.waits_for = 0
        self.changes: list[Unit] | None = None
        self._began = math.inf
        self._ends_by = math.inf
        self._is_reported = False

    def __repr__(self) -> str:
        return f"<Unit {self.name}: {self.stage.value}>"

    @property
    def has_started(self) -> bool:
        """Whether the unit has started successfully."""
        return UnitState.STARTED in self.history

    @property
    def has_failed(self) -> bool:
        """Whether the unit has failed, and the run with it."""
        return self.failure is not None and not self.failure.is_optional

    # What a body calls.

    def started(self, state: State | None = None) -> None:
        """Mark the unit as started, with the lifespan state that it set."""
        self.state = state or {}
        self.context = copy_context()
        if self.stage is UnitState.STARTING:
            self._transition(UnitState.STARTED)
            self._on_started(self)

    async def wait_for_stop(self) -> None:
        """Wait until the unit is to stop.

        *Cancellation:* If the server cancels every task of an asyncio event loop, the wait goes on: the owner, which
        was cancelled too, stops the units in their order. Other cancellations are raised.
        """
        try:
            await self._stop.wait()
        except asyncios_cancellation():
            if self.is_cancelled() or not self._shared.is_owner_cancelled():
                raise
            # uvicorn at a second Ctrl-C, gunicorn's ASGI worker at SIGQUIT: no shield stops a plain Task.cancel().
            # A fixture of pytest, whose task is cancelled and never resumed: nobody will stop this unit.
            self._shared.when_owner_is_done(self.cancel)
        while not self._stop.is_set():
            uncancel_current_task()
            # `async with create_task_group(): yield` in a hook: the server cancelled the group's tasks as well, and
            # the group then cancels its host, this task. The shield keeps this out.
            with suppress(asyncios_cancellation()), anyio.CancelScope(shield=True):
                await self._stop.wait()

    def stopped(self) -> None:
        """Mark the unit as stopped, although its body may not have returned yet."""
        if self.stage is not UnitState.OVER:
            self._transition(UnitState.ENDING)

    def fail(self, error: BaseException, app_message: str = "") -> None:
        """Mark the unit as failed. An exception that its body raises later may replace `error`."""
        if self.is_cancelled():  # by this package: Starlette sends *.failed when it is cancelled
            return
        broke_while_serving = self.stage is UnitState.STARTED
        self._mark_failed(error, app_message=app_message)
        self.stopped()
        if broke_while_serving:
            self._ending = spawn(self._end_crashed, f"end of {self.name}", copy_context())

    async def _end_crashed(self) -> None:
        # Starlette sends *.failed and then raises the exception, which is the better error.
        await finish(self._shared, [self], until=self._ends_by)
        self._report_crash()
        await finish(self._shared, [self])

    def set_note(self, note: str) -> None:
        """Set the note, and report the change."""
        if note != self.note:
            self.note = note
            self._report()

    def fail_and_cancel(
        self, error: BaseException, phase: FailedPhase | None = None, *, seconds: float | None = None, **fields: Any
    ) -> None:
        """Mark the unit as failed by an error of this package, and cancel it; `seconds` are for its clean-up."""
        self._mark_failed(error, phase, **fields)
        self.stopped()
        self.cancel(seconds)

    def cancel(self, seconds: float | None = None) -> None:
        """Cancel the body and all that is open in it, once.

        Args:
            seconds: The time for the clean-up; None for the unit's own limit, or what is left of the whole.
        """
        self._stop.set()
        if not self.is_cancelled():
            shared = self._shared
            self._ends_by = shared.clean_up_deadline(self.timeout) if seconds is None else shared.now() + seconds
            self._cancel_once()

    def _cancel_once(self) -> None:
        if self._shared.is_owner_cancelled() and was_cancelled(self._task):
            # uvicorn cancels all tasks at a second Ctrl-C: a worker is in its `finally: await consumer.stop()` by now.
            self._cancellable.take_as_delivered()
        else:
            self._cancellable.cancel()

    # What `Supervisor` calls.

    def start_after(self, units: "Sequence[Unit]") -> None:
        """Start after `units` of the same batch, and stop before them."""
        self.after = units
        self.waits_for = len(units)
        for unit in units:
            unit.before.append(self)

    def start(self, shared: Shared) -> None:
        """Start the body in a task; a shutdown function counts as started at once."""
        self._shared = shared
        self._cancellable = Cancellable(shared.new_scope)
        self._stop = shared.new_event()
        if self.is_shutdown_function:
            self._set_state(UnitState.STARTED)
        else:
            self._run(UnitState.STARTING)

    def request_stop(self) -> None:
        """Begin the stop if it has not begun. A unit that is still starting is cancelled."""
        if self.stage is UnitState.STARTING:
            self.cancelled_at = self.whereabouts()
            self._set_state(UnitState.ENDING)
            self.cancel()
        elif self.stage is UnitState.STARTED and self.is_shutdown_function:
            self._run(UnitState.STOPPING)
        elif self.stage is UnitState.STARTED and self.is_worker and not self._shared.is_answered:
            # Only at a normal shutdown has a worker all the time for its clean-up. After a failed start it has what the
            # units have that are still starting.
            self._set_state(UnitState.ENDING)
            self.cancel()
        elif self.stage is UnitState.STARTED:
            self._set_state(UnitState.STOPPING)
            self._stop.set()
            if self.is_worker:
                self._cancel_once()
        elif self.stage is UnitState.ENDING:
            # Cancelled before the stop began, such as by a lost lock: what is left of the whole counts from now on.
            self._ends_by = min(self._ends_by, max(self._shared.deadline, self._shared.now()))

    def due(self, whole: float) -> float:
        """Return the time at which the unit times out, or is ended; `whole` is the deadline of all units."""
        if self.stage is UnitState.ENDING:
            return self._ends_by if self.is_cancelled() else min(self._ends_by, whole)
        return self.due_for_its_part(whole)

    def due_for_its_part(self, whole: float) -> float:
        """Return the time at which the current start or stop times out; `whole` is the deadline of all units."""
        return whole if self.timeout is None else min(whole, self._began + self.timeout)

    def is_limited(self) -> bool:
        """Return whether a time limit applies to the unit: its own, that of all units, or one of a run around them."""
        around = self._shared.enclosing
        return self.due(self._shared.deadline) < math.inf or (around is not None and around.is_limited())

    def is_let_go(self) -> bool:
        """Return whether the start is waited for no longer, from now on. The unit goes on in the background."""
        if self.stage is not UnitState.STARTING or self.is_background or not self.let_go():
            return False
        self.is_background = True
        return True

    def end_overdue(self) -> None:
        """Time out a unit whose start or stop is overdue; cancel, then abandon one that is overdue in its end."""
        if self.stage is not UnitState.ENDING:
            self.time_out("startup" if self.stage is UnitState.STARTING else "shutdown")
        elif not self.is_cancelled():
            self.cancel(GRACE)  # it had its time: it said that it is done
        elif not self._cancellable.is_cancelled_for_good:
            if self.failure is None:
                location = self.whereabouts()
                at = f", {location}" if location else ""
                logger.warning(
                    "%s was cancelled, and its clean-up takes too long%s; cancelling it again", self.name, at
                )
            self._cancel_for_good()
        else:
            self._abandon()

    def release(self) -> None:
        """Let go of what the unit holds, once it is over. What a report shows stays."""
        self.state = dict.fromkeys(self.state)
        self.context = self.inherits = None
        self.body = _ended

    def is_cancelled(self) -> bool:
        """Return whether this package cancelled the unit."""
        return self._cancellable.is_cancelled

    def is_ending(self) -> bool:
        """Return whether the body is to end, because this package or the server cancelled it."""
        return self.is_cancelled() or (self._shared.is_owner_cancelled() and was_cancelled(self._task))

    def whereabouts(self) -> str:
        """Return what the body waits for: a lock, a line of its code, or a unit of a run in it; "" if unknown."""
        return self.inside() or self.own_whereabouts()

    def own_whereabouts(self) -> str:
        """Return what the body waits for, in its own code or for a lock; "" if unknown."""
        if self.stage is UnitState.STARTING and self.note:
            return self.note
        try:
            place = where(self._cancellable)
        except Exception:  # it reads objects of the user's, whose properties may raise
            logger.debug("cannot find the line at which %s waits", self.name, exc_info=True)
            return ""
        return place and f"at {place}"

    def time_out(self, phase: str, advice: str = "") -> None:
        """Mark the unit as timed out, by its own limit or that for all units, and cancel it."""
        seconds, is_own = self._shared.seconds, False
        if self.timeout is not None and self._began + self.timeout <= self._shared.now():
            seconds, is_own = self.timeout, True
        error = LifespanTimeout(self.name, phase, seconds)
        location = self.whereabouts()
        if location:
            error.add_note(f"it was {location}")
        failed_phase = FailedPhase.STARTUP if phase == "startup" else FailedPhase.SHUTDOWN
        is_second = self.is_cancelled()  # a worker, which was cancelled at its stop, and has had its time
        # The time for all units is up: that is a failure of the run, whatever is at work.
        fields = {"location": location, "advice": advice, "is_optional": self.is_optional and is_own}
        self.fail_and_cancel(error, failed_phase, seconds=GRACE, **fields)
        if is_second:
            self._cancel_for_good()

    def _cancel_for_good(self) -> None:
        self._ends_by = self._shared.now() + LAST_GRACE
        self._cancellable.cancel_for_good()

    def _abandon(self) -> None:
        """Stop waiting for a unit that does not stop after being cancelled."""
        location = self.whereabouts() or "at an unknown place"
        logger.error("%s did not stop after being cancelled; abandoning it (still running %s)", self.name, location)
        self._end()

    def _transition(self, stage: UnitState) -> None:
        if self.failure is None and logger.isEnabledFor(logging.DEBUG):
            self._log_progress(stage)
        self._set_state(stage)
        self._shared.wake()

    def _set_state(self, stage: UnitState) -> None:
        self.stage = stage
        self.history.setdefault(stage, time.perf_counter())
        if stage is UnitState.ENDING:
            if not self.is_cancelled():
                self._ends_by = self._shared.now() + GRACE
        elif self.timeout is not None and stage in (UnitState.STARTING, UnitState.STOPPING):
            self._began = self._shared.now()
        if self.changes is not None:
            self.changes.append(self)
        self._report()

    def _report(self) -> None:
        if self._shared.on_change is not None:
            self._shared.on_change(self)

    def _log_progress(self, stage: UnitState) -> None:
        took = time.perf_counter() - self.history[self.stage]
        if stage is UnitState.STARTED:
            logger.debug("%s started in %.3f s", self.name, took)
        elif self.stage is UnitState.STOPPING:
            logger.debug("%s stopped in %.3f s", self.name, took)

    def _run(self, stage: UnitState) -> None:
        self._set_state(stage)
        inherited = self.inherits and self.inherits.context
        self.context = inherited  # for those that inherit from it although it fails
        context = (inherited or self._shared.context).copy()
        self._task = spawn(self._live, self.name, context)

    async def _live(self) -> None:
        self._on_enter(self)
        try:
            await self._cancellable.run(self.body(self))
        except BaseException as error:  # a SystemExit in a task would end the event loop of asyncio
            if is_loop_gone():
                raise
            self._record_result(error)
        self._end()  # here, because a callback of the task would run one turn of the event loop later

    def _record_result(self, error: BaseException) -> None:
        """Record the exception, unless it is the cancellation we requested."""
        if is_cancellation(error) and self.is_cancelled():
            return
        # `await cancelled_task` in a hook raises a cancellation too, but the hook's own task was not cancelled.
        if is_cancellation(error) and self._shared.is_owner_cancelled() and was_cancelled(self._task):
            if self.stage is not UnitState.STOPPING:
                return
            # gunicorn's ASGI worker cancels all tasks a second time, one second after the first.
            error = self.replaced(error, "cancelled by the server before it finished")
        elif is_cancellation(error):
            error = self.replaced(error, "cancelled unexpectedly")
        elif is_a(error, GeneratorExit):  # raised again, it would close the coroutines of the server
            error = self.replaced(error, "raised an exception that is reserved for closing generators")
        if self.failure is None:
            self._mark_failed(error)
        else:
            self.failure.add(error)
            if self.failure.is_optional and not is_a(self.failure.error, Exception):
                # Starlette sends *.failed for a SystemExit as well, and raises it afterwards.
                self.failure.is_optional = False
                self._shared.failures.append(self.failure)

    def replaced(self, error: BaseException, reason: str) -> BaseException:
        """Return an error of this package in place of one that would end the caller's tasks."""
        failed = ShutdownFailed if self.has_started else StartupFailed
        replacement = failed(self.name, f"{reason}: {text_of(error)}")
        replacement.__cause__ = error
        return replacement

    def _mark_failed(self, error: BaseException, phase: FailedPhase | None = None, **fields: Any) -> None:
        """Record the first failure. `fields` are more fields of the record."""
        if self.failure is None:
            if phase is None and self.has_started:
                phase = FailedPhase.SERVING if self.stage is UnitState.STARTED else FailedPhase.SHUTDOWN
            phase = phase or FailedPhase.STARTUP
            is_optional = fields.setdefault("is_optional", self.is_optional and is_a(error, Exception))
            # What starts after the answer starts in the background. An error in the clean-up of a start that the
            # shutdown cancelled is not a crash, and an optional unit has just failed.
            is_crash = self._shared.is_answered and not (is_optional or self.is_cancelled())
            if phase is FailedPhase.STARTUP and is_crash:
                phase = FailedPhase.SERVING
            self.failure = Failure(self.name, phase, error, **fields)
            if not is_optional:
                self._shared.failures.append(self.failure)
            self._report()

    def _end(self) -> None:
        if self.stage is UnitState.OVER:  # it was abandoned, and has finished after all
            return
        if self.stage is UnitState.STARTED and self.failure is None and not self._stop.is_set():
            logger.info("%s ended before the shutdown", self.name)
        self._transition(UnitState.OVER)
        self._report_crash()

    def _report_crash(self) -> None:
        """Report a crash, or the failure of an optional unit, once."""
        failure = self.failure
        if failure and (failure.is_optional or failure.phase is FailedPhase.SERVING) and not self._is_reported:
            self._is_reported = True
            self._shared.on_crash(self)


async def _ended(_: Unit) -> None:
    """Stand for the body of a unit that is over."""
    raise AssertionError


async def finish(shared: Shared, units: Sequence[Unit], until: float = math.inf) -> None:
    """Wait until the tasks of units have finished, or were cancelled and abandoned, or until the time `until`.

    Args:
        shared: What the units share.
        units: Units whose start or stop is done or has failed.
        until: The time by the event loop's clock.
    """
    while left := [unit for unit in units if unit.stage is not UnitState.OVER]:
        # Even if the time is up: most tasks need no more than this step.
        await shared.next_change(min(until, *(unit.due(shared.deadline) for unit in left)))
        now = shared.now()
        for unit in left:
            if unit.stage is UnitState.ENDING and unit.due(shared.deadline) <= now:
                unit.end_overdue()
        if now >= until:
            return
