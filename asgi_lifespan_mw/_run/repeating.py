"""Workers that begin anew: after a failure with ``restart=``, at intervals with ``every=``.

Both are loops around one run of the worker, in the task of its unit. A worker that leads runs them under its lock,
which is held between two runs.

Rule 1: A run that raises an `Exception`, or a cancellation that nobody requested, has failed: it is logged at ERROR,
and the loop goes on. ``SystemExit`` and ``KeyboardInterrupt`` end the worker.

Rule 2: A cancellation of the worker ends the loop, also if the run raises something else in its clean-up, or swallows
the cancellation. So does the loss of its lock: `lead` waits for the lock, and begins the loop anew.
"""

import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, final

import anyio

from .._exceptions import LifespanTimeout
from .._log import logger
from .._reporting.failures import log_failure
from .._types import is_a
from .._units.backend import asyncios_cancellation, current_asyncio_task, is_cancellation, is_loop_gone, spawn
from .._units.cancellation import Cancellable
from .._units.failure import FailedPhase, Failure, text_of
from .._units.unit import GRACE, Unit

LONGEST_PAUSE = 30.0
"""Seconds between a failure and the restart after it, at most."""

ANEW_AFTER = 60.0
"""Seconds after which a run has lasted: the pauses begin anew, and so does the count of restarts in a row."""


async def restarting(
    unit: Unit, limit: float, work: Callable[[], Coroutine[Any, Any, None]], is_lost: Callable[[], object]
) -> None:
    """Run `work` until it returns; restart it after 1, 2, 4, ... 30 s if it fails.

    Args:
        unit: The worker.
        limit: How often it is restarted in a row; infinity for any number.
        work: One run of the worker.
        is_lost: Returns whether the lock was lost under which the worker runs.

    Raises:
        BaseException: What the last run raised, if it was restarted `limit` times in a row.
    """
    in_a_row = 0
    while True:
        begun = anyio.current_time()
        try:
            return await work()
        except BaseException as error:
            failed = _failed_by(unit, error)
            if failed is None:
                raise
            in_a_row = 0 if anyio.current_time() - begun >= ANEW_AFTER else in_a_row
            if in_a_row >= limit and not is_lost():
                raise
        pause = min(2.0 ** min(in_a_row, 5), LONGEST_PAUSE)
        when = "when it has its lock" if is_lost() else f"in {pause:g} s"
        log_failure(Failure(unit.name, FailedPhase.RUN, failed, advice=f"it is restarted {when}"))
        if is_lost():
            return None
        note, unit.is_restarting = unit.note, True
        unit.set_note(f"is restarted {when}, after {text_of(failed)}")
        try:
            await anyio.sleep(pause)
            in_a_row += 1
            unit.restarts += 1
        finally:
            unit.is_restarting = False
            unit.set_note(note)


async def repeating(
    unit: Unit, every: float, work: Callable[[], Coroutine[Any, Any, None]], is_lost: Callable[[], object]
) -> None:
    """Run `work`, wait `every` seconds after it has ended, and so on until the worker is cancelled.

    Args:
        unit: The worker, whose `timeout` bounds each run.
        every: The seconds between two runs. The log names a run that takes longer.
        work: One run of the worker.
        is_lost: Returns whether the lock was lost under which the worker runs.
    """
    while True:
        try:
            await _Run(unit, every).bounded(work)
        except BaseException as error:
            failed = _failed_by(unit, error)
            if failed is None:
                raise
            log_failure(Failure(unit.name, FailedPhase.RUN, failed))
        if unit.is_ending() or is_lost():
            return
        await anyio.sleep(every)


def _failed_by(unit: Unit, error: BaseException) -> BaseException | None:
    """Return the error with which a run has failed; None if `error` ends the worker."""
    if is_loop_gone() or unit.is_ending():
        return None
    if not is_cancellation(error):
        return error if is_a(error, Exception) else None
    task = current_asyncio_task()
    # `await cancelled_task` raises a cancellation too, but the worker's own task was not cancelled.
    if is_a(error, anyio.get_cancelled_exc_class()) and (task is None or task.cancelling()):
        return None
    return unit.replaced(error, "cancelled unexpectedly")


@final
class _Run:
    """One of the runs of a worker with ``every=``."""

    def __init__(self, unit: Unit, every: float) -> None:
        self._location = ""
        self._unit = unit
        self._every = every
        self._limit = math.inf if unit.timeout is None else unit.timeout
        self._begun = anyio.current_time()
        self._body = Cancellable()
        self._over = anyio.Event()

    async def bounded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `work` within the unit's `timeout`; log it if it takes longer.

        Raises:
            BaseException: What it raised.
        """
        watch = spawn(self._watch, f"watch of {self._unit.name}", copy_context())
        try:
            await self._body.run(work())
        finally:
            self._over.set()
            del watch
            # A run that blocked the event loop is not cancelled. One that the stop has cancelled has the stop's time.
            if self._body.is_cancelled or not (is_loop_gone() or self._unit.is_ending() or not self._is_due()):
                error = LifespanTimeout(self._unit.name, "run", self._limit)
                log_failure(Failure(self._unit.name, FailedPhase.RUN, error, location=self._location))

    def _is_due(self) -> bool:
        return anyio.current_time() >= self._begun + self._limit

    async def _watch(self) -> None:
        """Name a run that takes longer than `every`, then twice that, and so on; cancel it if it is due."""
        patience = self._every
        with suppress(asyncios_cancellation()):  # the server cancels all tasks; the stop of the worker is bounded
            while not await self._is_over_within(min(patience, self._limit)):
                if self._unit.is_ending():
                    return
                self._location = self._unit.whereabouts()
                if self._is_due():
                    self._body.cancel()
                    if not await self._is_over_within(self._limit + GRACE):
                        self._body.cancel_for_good()
                    return
                at = self._location and f", {self._location}"
                logger.warning("a run of %s takes more than %g s%s", self._unit.name, patience, at)
                patience *= 2

    async def _is_over_within(self, seconds: float) -> bool:
        with anyio.CancelScope(deadline=self._begun + seconds):
            await self._over.wait()
        return self._over.is_set()
