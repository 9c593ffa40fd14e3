"""Units: what is started and stopped, each in a task of its own.

A unit is a context, a function, the wrapped app, a mount: they differ in their *body*, the coroutine that lives in
the task. All tasks, time limits and cancellations of the package are in this file.

Rule 1: units are started in order and stopped in reverse. A batch of units is started, and later stopped, side by
side; most batches hold one.

Rule 2: a unit's body runs from its first to its last line in one task, so that task groups and cancel scopes may be
held open in it. Nothing that its body raises leaves the task: it is kept as the unit's error.

Rule 3: whoever drives the units may be cancelled at any await. Then `Units.stop_shielded` goes on from where it was.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum
from typing import final

import anyio

from ._errors import LifespanTimeout, ShutdownFailed, StartupFailed
from ._tasks import CANCELLED_GRACE, current_asyncio_task, is_cancellation, is_cancelled, spare_current_task, spawn
from ._types import State
from ._where import where

logger = logging.getLogger("asgi_lifespan_mw")

SLOW_AFTER = 10.0
"""Seconds after which a unit at work is named in the log; then after twice as long, and so on."""


class Stage(Enum):
    """Where a unit stands."""

    NEW = "new"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    ENDING = "ending"
    """It has done its part, well or badly; its task has only to end."""
    OVER = "over"
    """Its task is over, or was left behind because it ignored its cancellation."""


class UnitFailed(Exception):
    """A unit failed, which ends the startup; `Units.failures` tells which."""


@final
class Unit:
    """One thing that is started and stopped.

    Attributes:
        name: who it is in messages, such as ``hook 'open_pool' (shop/db.py:12)``.
        stage: where it stands.
        state: the lifespan state that it gave when it had started; most units give none.
        error: why it failed. *Invariant:* None for a unit that has not failed.
        said: the message of an app that failed; it goes into the answer to the server.
        failed_in: the stage in which it failed. *Invariant:* None exactly where `error` is.
        inherits: the context variables that it begins with; None for those of the unit that started last.
        context: the context variables as they stood when it had started; None before.
    """

    __slots__ = (
        "_began", "_body", "_over", "_runs_at_stop", "_scope", "_stop", "_task", "_timeout", "_units",
        "context", "error", "failed_in", "inherits", "name", "said", "stage", "state",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        body: "Callable[[Unit], Awaitable[None]]",
        *,
        timeout: float | None = None,
        runs_at_stop: bool = False,
    ) -> None:
        """Make a unit.

        Args:
            name: who it is in messages.
            body: what lives in its task. It calls `started`, awaits `until_stop`, and returns.
            timeout: seconds for its start, and as many for its stop; None for no limit.
            runs_at_stop: the body runs when the unit is stopped, and its start is nothing.
        """
        self.name = name
        self.stage = Stage.NEW
        self.state: State = {}
        self.error: BaseException | None = None
        self.said = ""
        self.failed_in: Stage | None = None
        self.inherits: Context | None = None
        self.context: Context | None = None
        self._body = body
        self._timeout = timeout
        self._runs_at_stop = runs_at_stop

    def __repr__(self) -> str:
        return f"<Unit {self.name}: {self.stage.value}>"

    # What a body calls.

    def started(self, state: State | None = None) -> None:
        """Say that the start is done, and which state came of it."""
        self.state = state or {}
        self.context = copy_context()
        if self.stage is Stage.STARTING:
            self._enter(Stage.STARTED)

    async def until_stop(self) -> None:
        """Wait until the unit is to stop.

        *Cancellation:* some servers cancel every task of the event loop, not the lifespan's alone, and no shield holds
        that back on asyncio. Then the stop is on its way, in its order, and the wait goes on. It is shielded from then
        on: the tasks of a group that is open in the body are cancelled too, which cancels the group around us.
        """
        try:
            await self._stop.wait()
        except asyncio.CancelledError:
            if self._scope.cancel_called or not self._units.is_driver_cancelled():
                raise
        while not self._stop.is_set():
            spare_current_task()
            with suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
                await self._stop.wait()

    def answered(self) -> None:
        """Say that the stop is done, though the body may have lines left."""
        if self.stage is not Stage.OVER:
            self._enter(Stage.ENDING)

    def fail(self, error: BaseException) -> None:
        """Say that the unit failed; what its body raises after this says it better than a bare message."""
        broke_while_serving = self.stage is Stage.STARTED
        self._blame(error)
        if self.stage is not Stage.OVER:
            self._enter(Stage.ENDING)
        if broke_while_serving:
            self._units.hold(spawn(self.finish, f"end of {self.name}", copy_context(), _nothing))

    def cancel(self) -> None:
        """Cancel the unit's task, and what is open in it; nothing in it waits for the stop any more."""
        self._stop.set()
        self._scope.cancel()

    # What `Units` calls.

    def start(self, units: "Units") -> None:
        """Start the body in a task, or nothing for a unit that runs at the stop."""
        self._units = units
        self._scope = anyio.CancelScope()
        self._stop = anyio.Event()
        self._over = anyio.Event()
        if self._runs_at_stop:
            self.stage = Stage.STARTED
        else:
            self._run(Stage.STARTING)

    def ask_to_stop(self) -> None:
        """Begin the stop, as it must begin from where the unit stands; where it began or ended, nothing."""
        if self.stage is Stage.STARTING:
            self.stage = Stage.ENDING
            self.cancel()
        elif self.stage is Stage.STARTED and self._runs_at_stop:
            self._run(Stage.STOPPING)
        elif self.stage is Stage.STARTED:
            self._began = anyio.current_time()
            self.stage = Stage.STOPPING
            self._stop.set()

    def deadline(self, whole: float) -> float:
        """The time at which the start or the stop that is under way must be done; `whole` is that of all units."""
        return whole if self._timeout is None else min(whole, self._began + self._timeout)

    def time_out(self, phase: str, seconds: float) -> None:
        """Fail because time ran out, the unit's own or the `seconds` of all, and cancel."""
        own = self._timeout is not None and self._began + self._timeout <= anyio.current_time()
        self._blame(LifespanTimeout(self.name, phase, self._timeout if own and self._timeout is not None else seconds))
        self._enter(Stage.ENDING)
        self.cancel()

    async def finish(self) -> None:
        """Wait for the end of a unit that has done its part: a second, then another one after its cancellation.

        A unit that ignores its cancellation is left behind, since nobody could ever stop it.
        """
        if self.stage is Stage.NEW:
            return
        if not self._scope.cancel_called:
            await self._is_over_soon()
        if self.stage is not Stage.OVER:
            self.cancel()
            await self._is_over_soon()
        if self.stage is not Stage.OVER:
            logger.error(
                "%s ignores its cancellation and is left behind, at %s",
                self.name,
                where(self._task) or "an unknown place",
            )
            self._end()

    async def _is_over_soon(self) -> None:
        with anyio.move_on_after(CANCELLED_GRACE):
            await self._over.wait()

    def place(self) -> str:
        """Where the body stands in its code, for the log; empty where it can't be seen."""
        return where(self._task)

    def _enter(self, stage: Stage) -> None:
        if logger.isEnabledFor(logging.DEBUG) and self.error is None:
            self._log_progress(stage)
        self.stage = stage
        self._units.wake()

    def _log_progress(self, stage: Stage) -> None:
        took = anyio.current_time() - self._began
        if stage is Stage.STARTED:
            logger.debug("%s started in %.3f s", self.name, took)
        elif self.stage is Stage.STOPPING:
            logger.debug("%s stopped in %.3f s", self.name, took)

    def _run(self, stage: Stage) -> None:
        self.stage = stage
        self._began = anyio.current_time()
        context = (self.inherits or self._units.context).copy()
        self._task = spawn(self._live, self.name, context, self._task_is_over)

    async def _live(self) -> None:
        try:
            with self._scope:
                await self._body(self)
        except GeneratorExit:  # the event loop was closed under us: nothing may be awaited any more
            raise
        except BaseException as error:  # SystemExit in a task of asyncio would tear the loop down
            self._take(error)

    def _take(self, error: BaseException) -> None:
        """Keep what the body raised, unless it was asked to."""
        if is_cancellation(error):
            if self._scope.cancel_called or self._units.is_driver_cancelled():
                return
            failed = StartupFailed if self.stage is Stage.STARTING else ShutdownFailed
            unasked = failed(self.name, f"it was cancelled, and nobody asked for that: {error!r}")
            unasked.__cause__ = error
            error = unasked
        if self.error is None:
            self._blame(error)
        elif isinstance(self.error, (StartupFailed, ShutdownFailed)):
            self.error = error
        elif self.error is not error:
            self.error.__context__ = error

    def _blame(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
            self.failed_in = self.stage
            self._units.failures.append(self)

    def _task_is_over(self, *, was_cancelled: bool) -> None:
        if was_cancelled:  # before its first step, so that the body never ran
            self._take(asyncio.CancelledError())
        self._end()

    def _end(self) -> None:
        if self.stage is Stage.OVER:  # it was left behind, and ended after all
            return
        if self.stage is Stage.STARTED and self.error is None and not self._stop.is_set():
            logger.info("%s ended before the shutdown", self.name)
        self._enter(Stage.OVER)
        self._over.set()
        if self.failed_in is Stage.STARTED:
            self._units.on_crash(self)


@final
class Units:
    """The units of one run, in the order of their start.

    Attributes:
        failures: the units that failed, in the order in which they did.
        context: the context variables that the next unit begins with.
        on_crash: called with a unit that broke after it had started and before it was to stop.
    """

    def __init__(self, on_crash: Callable[[Unit], None]) -> None:
        self.failures: list[Unit] = []
        self.context = copy_context()
        self.on_crash = on_crash
        self._batches: list[Sequence[Unit]] = []
        self._deadline = math.inf
        self._seconds = math.inf
        self._wake = anyio.Event()
        self._driver: asyncio.Task[object] | None = None
        self._held: list[object] = []

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def allow(self, seconds: float | None) -> None:
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
        self._driver = current_asyncio_task()
        self._batches.append(batch)
        for unit in batch:
            unit.start(self)
        await self._watch(batch, Stage.STARTING)
        self.check()
        self.context = batch[-1].context or self.context

    def check(self) -> None:
        """Raise `UnitFailed` if a unit has failed."""
        if self.failures:
            raise UnitFailed

    async def stop(self) -> None:
        """Stop all units in reverse. No unit's failure ends it: they are kept in `failures`.

        *Cancellation:* leaves the rest to be stopped; call `stop_shielded` then.
        """
        self._driver = current_asyncio_task()
        while self._batches:
            batch = self._batches[-1]
            for unit in batch:
                unit.ask_to_stop()
            await self._watch(batch, Stage.STOPPING)
            for unit in reversed(batch):
                await unit.finish()
            self._batches.pop()

    async def stop_shielded(self) -> None:
        """Stop what is left, and let no cancellation come between.

        A shield holds a cancelled scope back, on asyncio not a plain ``Task.cancel()``; each of those is used up here.
        """
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await self.stop()
            except asyncio.CancelledError:
                continue

    def is_driver_cancelled(self) -> bool:
        """Whether the task that drives the units is being cancelled; on trio a scope tells."""
        return is_cancelled(self._driver)

    def wake(self) -> None:
        """Have the driver look again."""
        self._wake.set()

    def hold(self, task: object) -> None:
        """Keep a reference to a task that runs beside the units."""
        self._held.append(task)

    async def _watch(self, batch: Sequence[Unit], busy: Stage) -> None:
        """Wait until no unit of the batch is busy; one whose time runs out has failed."""
        phase = "startup" if busy is Stage.STARTING else "shutdown"
        patience, began = SLOW_AFTER, anyio.current_time()
        while at_work := [unit for unit in batch if unit.stage is busy]:
            if self.failures and busy is Stage.STARTING:
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

    async def _next_change(self, until: float) -> None:
        self._wake = anyio.Event()
        with anyio.CancelScope(deadline=until):
            await self._wake.wait()


def _nothing(*, was_cancelled: bool) -> None:
    """For a task whose end concerns nobody."""


def _log_slow(units: Sequence[Unit], phase: str, seconds: float) -> None:
    for unit in units:
        place = unit.place()
        logger.warning("%s of %s takes more than %g s%s", phase, unit.name, seconds, f", at {place}" if place else "")
