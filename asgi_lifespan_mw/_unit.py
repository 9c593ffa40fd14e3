"""A unit: one thing that is started and stopped, in a task of its own.

A unit is a context, a function, the wrapped app, a mount: they differ in their *body*, the coroutine that lives in the
task. The body runs from its first to its last line in that task, so that task groups and cancel scopes may be held
open in it. Nothing that it raises leaves the task: it is kept as the unit's error.

`Units` drives many of them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from enum import Enum
from typing import TYPE_CHECKING, final

import anyio

from ._errors import LifespanTimeout, ShutdownFailed, StartupFailed
from ._tasks import CANCELLED_GRACE, is_cancellation, is_gone, spare_current_task, spawn
from ._types import State
from ._where import where

if TYPE_CHECKING:
    from ._units import Units

logger = logging.getLogger("asgi_lifespan_mw")


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
        if self._timeout is not None and self._began + self._timeout <= anyio.current_time():
            seconds = self._timeout
        self._blame(LifespanTimeout(self.name, phase, seconds))
        self._enter(Stage.ENDING)
        self.cancel()

    async def finish(self) -> None:
        """Wait for the end of a unit that has done its part: a second, then another one after its cancellation.

        A unit that ignores its cancellation is left behind, since nobody could ever stop it.
        """
        if not self._scope.cancel_called:
            await self._is_over_soon()
        if self.stage is not Stage.OVER:
            self.cancel()
            await self._is_over_soon()
        if self.stage is not Stage.OVER:
            place = self.place() or "an unknown place"
            logger.error("%s ignores its cancellation and is left behind, at %s", self.name, place)
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
        except BaseException as error:  # SystemExit in a task of asyncio would tear the loop down
            if is_gone(error):
                raise
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


def _nothing(*, was_cancelled: bool) -> None:
    """For a task whose end concerns nobody."""
