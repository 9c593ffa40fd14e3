"""Locks around the start of a unit, and workers that run only while they hold one.

A lock is a function without arguments that returns an asynchronous context manager. Entering it waits until the lock is
held, leaving it releases the lock.

Rule 1: A lock is entered and left in a task of its own, since it may have a task group open, and is left in another
order than it was entered in.

Rule 2: A lock is released after the work under it has ended, also when the lock was lost. Work in a thread ends when
its thread returns, even if nothing waits for it any more.

Rule 3: A lock is lost when the ``wait()`` of what it yields returns or raises, or when its context manager ends,
raises, or cancels the block inside it. A renewal that raises in a task group of the lock's does the last::

    async with anyio.create_task_group() as group:
        group.start_soon(renew)

Yield:
What was not seen meanwhile, since the work blocked the event loop, is seen when the lock is released.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias, final

import anyio

from .._exceptions import StartupFailed
from .._log import logger
from .backend import (
    asyncios_cancellation,
    checkpoint,
    current_asyncio_task,
    is_cancellation,
    is_loop_gone,
    spawn,
    uncancel_current_task,
    was_cancelled,
)
from .cancellation import Cancellable
from .failure import text_of
from .threads import collect_thread_calls
from .unit import GRACE, Unit

Lock: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]
"""A function without arguments that returns an asynchronous context manager, which is entered once."""

RELEASE_LIMIT = 5.0
"""Seconds for releasing a lock. If the engine does not answer, it frees the lock when the process ends, or later."""

LOSS_LIMIT = 10.0
"""Seconds for the clean-up of a worker that has lost its lock, if the worker has no limit of its own."""

AT_ONCE = 0.5
"""Seconds within which a lock that nobody holds is had. After that, the log says that the lock is waited for."""

THREAD_LIMIT = 10.0
"""Seconds that a stop without a limit waits for a thread that works under a lock."""

POLL_THREADS_EVERY = 0.05
"""Seconds between two looks at a thread that works under a lock."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt to get a lock, and before a worker that lost its lock waits for the lock again."""

LONGEST_PAUSE = 30.0
"""Seconds between two attempts to get a lock from an engine that cannot be reached."""

REMIND_AFTER = 60.0
"""Seconds after which an engine that still cannot be reached is named in the log again."""

BEGIN_AFTER = 1.0
"""Seconds for which a worker that waited for its lock holds the lock before it begins. A server that stops sends all of
its processes their shutdown: the one that gets the lock of the first must not begin the job anew."""

_LAST_TURNS = 5
"""Turns of the event loop before a release, in which a loss is seen that happened while the loop was blocked: its timer
or its socket is ready, the task that waits for that runs, and returns."""


class LockLost(Exception):
    """Raised by a lock that finds at its release that it was lost before."""


class LockRefused(ValueError):
    """Raised by a lock that can reach its engine, and cannot be held there. The next attempt fails too."""


@asynccontextmanager
async def under_lock(unit: Unit, lock: Lock) -> AsyncGenerator[None]:
    """Hold a lock while a unit starts.

    Raises:
        StartupFailed: If the lock was lost before its release.
        BaseException: What the engine raised while the lock was waited for.

    *Cancellation:* The lock is given up, or released. If a thread of the block goes on, the lock is released when the
    thread returns, and the stop of the unit waits for that.
    """
    held = HeldLock(unit, lock, lambda: unit.fail_and_cancel(_lost(unit, held)))
    unit.set_note("waiting for the lock")
    try:
        await held.acquire()
    finally:
        unit.set_note("")
    with collect_thread_calls() as calls:
        try:
            yield
        finally:
            if _are_over(calls):
                await held.release()
            else:
                unit.aftermath = _ReleasedByThreads(unit, held, calls).wait
    if held.loss and unit.failure is None:
        raise _lost(unit, held)


def _cancel_unless_it_stops(unit: Unit, body: Cancellable) -> None:
    if not unit.is_cancelled():  # otherwise the work has had its cancellation, and cleans up
        body.cancel()


async def lead(unit: Unit, lock: Lock, work: Callable[[Callable[[], object]], Awaitable[None]]) -> None:
    """Run `work` while a lock is held. If the lock is lost, cancel the work and wait for the lock again.

    An engine that cannot be reached is tried again, with growing pauses. If the work returns, the lock is held until
    the unit is to stop, so that no other process does it again.

    Args:
        unit: The worker.
        lock: The lock.
        work: The work. It is passed a function that returns whether the lock was lost.

    Raises:
        BaseException: What the work raised. The lock is released by then.

    *Cancellation:* The work is cancelled, then the lock is released. After a loss, the work is cancelled once, and
    has `LOSS_LIMIT` for its clean-up, or the `timeout` of the unit.
    """
    pause, logged_at = FIRST_PAUSE, -math.inf
    while True:
        body = Cancellable()
        held = HeldLock(unit, lock, partial(_cancel_unless_it_stops, unit, body), body.cancel_for_good)
        unit.set_note("waiting for the lock")
        try:
            await held.acquire()
        except (TypeError, NotImplementedError, LockRefused):
            # Not a lock, or not for this event loop, or behind a pooler: the next attempt fails too.
            raise
        except Exception as error:
            if anyio.current_time() >= logged_at + REMIND_AFTER:
                logged_at = anyio.current_time()
                logger.warning("%s cannot get its lock and tries again: %s", unit.name, text_of(error))
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            continue
        leader = _Leader(unit, held, work)
        try:
            await body.run(leader.live(waits=held.has_waited or pause > FIRST_PAUSE))
        finally:
            unit.set_note("")
            await held.release()
            unit.set_note("lost the lock" if held.loss else "released the lock")
            if held.loss and unit.is_cancelled():
                logger.warning(
                    "%s lost its lock while it stopped; another process may have begun: %s", unit.name, held.loss
                )
        if unit.is_cancelled():  # the work has swallowed its cancellation
            return
        if leader.has_returned:
            logger.warning("%s lost its lock after it had returned; another process may run it again", unit.name)
            return
        pause, logged_at = FIRST_PAUSE, -math.inf
        logger.warning("%s lost its lock and was stopped; it waits for the lock again: %s", unit.name, held.loss)
        unit.set_note("waiting for the lock")
        await anyio.sleep(FIRST_PAUSE)  # a connection that breaks each time must not be opened in a tight loop


@final
class _Leader:
    """A worker while it holds its lock.

    Attributes:
        has_returned: Whether the work has returned, and not because its lock was lost.
    """

    def __init__(self, unit: Unit, held: "HeldLock", work: Callable[[Callable[[], object]], Awaitable[None]]) -> None:
        self.has_returned = False
        self._unit = unit
        self._held = held
        self._work = work

    async def live(self, *, waits: bool) -> None:
        """Work, and hold the lock afterwards."""
        if waits:
            await anyio.sleep(BEGIN_AFTER)
        self._unit.set_note("leading")
        logger.info("%s leads: it holds the lock", self._unit.name)
        await self._work(lambda: self._held.loss)
        if not self._held.loss:
            self.has_returned = True
            self._unit.set_note("has returned, holds the lock")
            logger.info("%s has returned; it holds its lock until the shutdown", self._unit.name)
            await anyio.sleep_forever()


def _lost(unit: Unit, held: "HeldLock") -> StartupFailed:
    return StartupFailed(unit.name, f"its lock was lost meanwhile: {held.loss}")


def _are_over(calls: Sequence[Future[Any]]) -> bool:
    return all(call.done() for call in calls)


@final
class HeldLock:
    """A lock from the attempt to get it until its release, in a task of its own.

    Attributes:
        loss: Why the lock counts as lost; "" while it does not.
        has_waited: Whether the lock was not to be had at once.
    """

    def __init__(
        self, unit: Unit, lock: Lock, on_lost: Callable[[], object], on_late: Callable[[], object] = lambda: None
    ) -> None:
        """Prepare to hold a lock.

        Args:
            unit: What holds the lock.
            lock: The lock.
            on_lost: Called once if the lock is lost before `release` is called.
            on_late: Called if the time for the clean-up after that is up: the `timeout` of the unit, or `LOSS_LIMIT`.
        """
        self.loss = ""
        self.has_waited = False
        self._unit = unit
        self._lock = lock
        self._on_lost = on_lost
        self._on_late = on_late
        self._error: BaseException | None = None
        self._is_held = False
        self._is_watched = False  # what the lock yields has a `wait()`
        self._is_uncancelled = False  # the server cancelled every task of the event loop, this one too
        self._is_detached = False
        self._is_kept = False
        self._waiting = Cancellable()
        self._holding = anyio.CancelScope()
        self._watching = Cancellable()
        self._settled = anyio.Event()  # the lock is held, or cannot be had
        self._released = anyio.Event()
        self._watched = anyio.Event()
        self._over = anyio.Event()
        self._holder: object = None  # the task that works under the lock; None on trio
        self._tasks: list[object] = []

    async def acquire(self) -> None:
        """Wait until the lock is held.

        Raises:
            BaseException: What the engine raised. A cancellation that the engine raised is a RuntimeError.

        *Cancellation:* The lock is given up.
        """
        self._holder = current_asyncio_task()
        self._spawn(self._live, "lock")
        try:
            with anyio.move_on_after(AT_ONCE):
                await self._settled.wait()
            if not self._settled.is_set():
                self.has_waited = True
                logger.info("%s waits for its lock", self._unit.name)
                await self._settled.wait()
        except BaseException:
            await self.release()
            raise
        if self._error is not None:
            raise self._error

    async def release(self) -> None:
        """Release the lock, and wait for that for a few seconds. An error is logged, a loss is in `loss`."""
        self._released.set()
        if not self._is_held:
            self._waiting.cancel()
        with anyio.move_on_after(RELEASE_LIMIT, shield=True):
            await self._over.wait()
        if not self._over.is_set():
            self._waiting.cancel_for_good()
            self._watching.cancel_for_good()
            self._holding.cancel()
            logger.warning("%s: releasing its lock took more than %g s", self._unit.name, RELEASE_LIMIT)
        elif self._is_held and not self.loss:
            if self._error is None:
                logger.info("%s released its lock", self._unit.name)
            else:
                logger.warning("%s: its lock could not be released: %s", self._unit.name, text_of(self._error))

    def detach(self) -> None:
        """Hold the lock on for threads, although the task that works under the lock ends."""
        self._is_detached = True

    def keep(self) -> None:
        """Let the engine keep the lock until the process ends, if the engine can: the event loop ends before."""
        self._is_kept = True
        self._released.set()

    def _spawn(self, work: Callable[[], Any], name: str) -> None:
        self._tasks.append(spawn(work, f"{name} of {self._unit.name}", copy_context()))

    async def _live(self) -> None:
        try:
            await self._waiting.run(self._enter())
        except BaseException as error:
            if is_loop_gone():  # pragma: no cover - the garbage collector closes the coroutine, if it comes to that
                raise
            self._error = error
        if not self._is_held and self._error is not None and is_cancellation(self._error):
            # `await cancelled_task` in the lock: if raised as it is, it would pass for a cancellation of the unit.
            self._error, engines = RuntimeError(f"the lock raised {text_of(self._error)}"), self._error
            self._error.__cause__ = engines
        if self._is_held and not self._holding.cancel_called and not self._is_kept:
            error_text = "" if self._error is None else text_of(self._error)
            if not self._released.is_set():
                self._lose(error_text or "its context manager ended")
            elif isinstance(self._error, LockLost) or (error_text and not self._is_watched):
                # `lambda: client.lock("migrate", timeout=60)`: only its release tells that it has run out.
                self._lose(error_text)
        self._settled.set()
        self._over.set()

    async def _enter(self) -> None:
        with self._holding:
            async with self._lock() as handle:
                # The lock may be granted in the moment in which the wait is cancelled. It is released then.
                self._holding.shield = self._is_held = True
                await self._hold(handle)

    async def _hold(self, handle: Any) -> None:
        """Wait for the release, and tell if the lock is lost before."""
        self._is_watched = callable(getattr(handle, "wait", None))
        try:
            if self._is_watched:
                self._spawn(partial(self._watch, handle), "watch of the lock")
                # `def migrate(): time.sleep(60)`: its `wait()` begins before the work blocks the event loop.
                await checkpoint()
            self._settled.set()
            await self._until_released()
            if self._is_kept:
                getattr(handle, "keep_until_exit", lambda: None)()
            elif not self._is_uncancelled and not self.loss:
                for _ in range(_LAST_TURNS):
                    await checkpoint()
        except BaseException:
            if not self._holding.cancel_called:  # pragma: no branch - the event loop was blocked for `RELEASE_LIMIT`
                self._lose("it was cancelled by its own context manager")
            self._watching.cancel()
            raise
        self._watching.cancel()
        if self._is_watched:
            await self._watched.wait()

    async def _until_released(self) -> None:
        while not self._released.is_set():
            try:
                # The shield: the server cancelled the tasks of a group in the lock too, so the group cancels its host.
                with anyio.CancelScope(shield=self._is_uncancelled):
                    await self._released.wait()
            except asyncios_cancellation():
                # gunicorn's ASGI worker at SIGQUIT cancels all tasks, the holder's too: the work under the lock ends
                # first. `asyncio.TaskGroup` in the lock cancels this task alone.
                if not self._is_detached and not was_cancelled(self._holder):
                    raise
                uncancel_current_task()
                self._is_uncancelled = True

    async def _watch(self, handle: Any) -> None:
        with suppress(BaseException):
            await self._watching.run(self._wait_for_loss(handle))
        self._watched.set()

    async def _wait_for_loss(self, handle: Any) -> None:
        loss = ""
        while not loss:
            try:
                await handle.wait()
                loss = "the lock reported its loss"
            except BaseException as error:  # an engine that cannot be watched may have lost the lock
                if self._watching.is_cancelled:
                    raise
                if was_cancelled(current_asyncio_task()) and was_cancelled(self._holder):
                    uncancel_current_task()  # as in `_until_released`; the lock is renewed until its release
                else:
                    loss = text_of(error)
        if not self._watching.is_cancelled:
            self._lose(loss)

    def _lose(self, loss: str) -> None:
        if self.loss:
            return
        self.loss = loss
        if not self._released.is_set():
            self._on_lost()
            self._spawn(self._limit_overlap, "overlap")

    async def _limit_overlap(self) -> None:
        with suppress(asyncios_cancellation()):
            if await self._is_released_within(GRACE):
                return
            logger.error(
                "%s did not stop after losing its lock (still running %s); another process may be running it",
                self._unit.name,
                self._unit.whereabouts() or "at an unknown place",
            )
            limit = LOSS_LIMIT if self._unit.timeout is None else self._unit.timeout
            if not await self._is_released_within(limit - GRACE):
                self._on_late()

    async def _is_released_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._released.wait()
        return self._released.is_set()


@final
class _ReleasedByThreads:
    """A lock that is released when the threads that work under it have returned."""

    def __init__(self, unit: Unit, held: HeldLock, calls: Sequence[Future[Any]]) -> None:
        self._unit = unit
        self._held = held
        self._calls = calls
        self._over = anyio.Event()
        self._is_cancelled = False  # the server cancelled every task of the event loop
        self._is_late = False
        held.detach()
        logger.warning("%s goes on in a thread; its lock is released when the thread returns", unit.name)
        unit.set_note("its thread still runs, and holds the lock")
        self._task = spawn(self._release, f"lock of {unit.name}, after its thread", copy_context())

    async def wait(self, until: float) -> None:
        """Wait for the release until the time `until`, or for some seconds if that is infinite."""
        if until == math.inf:
            until = anyio.current_time() + THREAD_LIMIT
        with anyio.CancelScope(deadline=until):
            await self._over.wait()
        if not self._over.is_set():
            logger.error("the thread of %s has not returned; another process may go on beside it", self._unit.name)
            self._is_late = True
            self._keep_if_late()

    async def _release(self) -> None:
        while not _are_over(self._calls):
            try:
                await anyio.sleep(POLL_THREADS_EVERY)
            except asyncios_cancellation():
                # gunicorn's ASGI worker at SIGQUIT: the stop goes on, and waits for the thread. `asyncio.run` at its
                # end: it waits for this task.
                uncancel_current_task()
                self._is_cancelled = True
                if self._keep_if_late():  # pragma: no branch - it depends on when the second cancellation comes
                    return
            except anyio.get_cancelled_exc_class():  # the end of `trio.run`
                self._held.keep()
                raise
        await self._held.release()
        self._unit.set_note("")
        self._over.set()

    def _keep_if_late(self) -> bool:
        """Keep the lock if the event loop ends and the stop waits no more; return whether that is so."""
        if self._is_late and self._is_cancelled:
            self._held.keep()
        return self._is_late and self._is_cancelled
