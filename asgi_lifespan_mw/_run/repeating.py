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
from typing import Any

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
            await _run_in_time(unit, every, work)
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


async def _run_in_time(unit: Unit, every: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `work` within the unit's `timeout`; log it if it takes longer than that, or than `every`.

    Raises:
        BaseException: What it raised.
    """
    begun, limit, location = anyio.current_time(), math.inf if unit.timeout is None else unit.timeout, ""
    body, over = Cancellable(), anyio.Event()

    async def is_over_within(seconds: float) -> bool:
        with anyio.CancelScope(deadline=begun + seconds):
            await over.wait()
        return over.is_set()

    async def watch() -> None:
        nonlocal location
        patience = every
        with suppress(asyncios_cancellation()):  # the server cancels all tasks; the stop of the worker is bounded
            while not await is_over_within(min(patience, limit)) and not unit.is_ending():
                location = unit.whereabouts()
                if anyio.current_time() >= begun + limit:
                    body.cancel()
                    if not await is_over_within(limit + GRACE):
                        body.cancel_for_good()
                    return
                logger.warning("a run of %s takes more than %g s, %s", unit.name, patience, location or "unknown where")
                patience *= 2

    _watcher = spawn(watch, f"watch of {unit.name}", copy_context())
    try:
        await body.run(work())
    finally:
        over.set()
        # A run that blocked the event loop was not cancelled. One that the stop has cancelled has the stop's time.
        is_late = body.is_cancelled or not (is_loop_gone() or unit.is_ending())
        if is_late and anyio.current_time() >= begun + limit:
            error = LifespanTimeout(unit.name, "run", limit)
            log_failure(Failure(unit.name, FailedPhase.RUN, error, location=location))
