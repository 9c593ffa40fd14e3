"""Locks around the start of a unit, and workers that run only while they hold one.

A lock of any engine fits: a function without arguments that returns an asynchronous context manager. Entering it waits
until the lock is held, leaving it releases the lock. If what it yields has an asynchronous ``wait()``, that returns
when the lock was lost.

Rule 1: A lock is entered and left in a task of its own, since it may have a task group open, and is left in another
order than it was entered in.

Rule 2: A lock is released after the work under it has ended, also when the lock was lost.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from typing import Any, TypeAlias, final

import anyio

from .._exceptions import StartupFailed
from .._log import logger
from .backend import CANCELLED_GRACE, asyncios_cancellation, is_cancellation, is_loop_gone, spawn, uncancel_current_task
from .failure import text_of
from .unit import Unit

Lock: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]
"""A function without arguments that returns an asynchronous context manager, which is entered once."""

RELEASE_LIMIT = 5.0
"""Seconds for releasing a lock. If the engine does not answer, it frees the lock when the process ends, or later."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt to get a lock, and before a worker that lost its lock waits for the lock again."""

LONGEST_PAUSE = 30.0
"""Seconds between two attempts to get a lock from an engine that cannot be reached."""

REMIND_AFTER = 60.0
"""Seconds after which an engine that still cannot be reached is named in the log again."""


@asynccontextmanager
async def under_lock(unit: Unit, lock: Lock) -> AsyncGenerator[None]:
    """Hold a lock while a unit starts.

    Raises:
        BaseException: What the engine raised while the lock was waited for.

    *Cancellation:* The lock is given up, or released.
    """
    held = HeldLock(unit, lock, lambda: unit.fail_and_cancel(StartupFailed(unit.name, "its lock was lost meanwhile")))
    unit.set_note("waiting for the lock")
    try:
        await held.acquire()
        unit.set_note("")
        yield
    finally:
        unit.set_note("")
        await held.release()


async def lead(unit: Unit, lock: Lock, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` while a lock is held. If the lock is lost, cancel the work and wait for the lock again.

    An engine that cannot be reached is tried again, with growing pauses.

    Raises:
        BaseException: What the work raised. The lock is released by then.

    *Cancellation:* The work is cancelled, then the lock is released.
    """
    attempts = _Attempts(unit.name)
    while True:
        scope = anyio.CancelScope()
        held = HeldLock(unit, lock, scope.cancel)
        unit.set_note("waiting for the lock")
        try:
            await held.acquire()
        except (TypeError, NotImplementedError):  # not a lock, or not for this event loop: the next attempt fails too
            raise
        except Exception as error:
            await attempts.pause(error)
            continue
        attempts = _Attempts(unit.name)
        unit.set_note("leading")
        logger.info("%s leads: it holds the lock", unit.name)
        try:
            with scope:
                await work()
            was_lost = held.is_lost  # read before the release: a worker that returned first does not lead again
        finally:
            unit.set_note("")
            await held.release()
        if not was_lost:
            return
        logger.warning("%s lost its lock and was stopped; it waits for the lock again", unit.name)
        unit.set_note("waiting for the lock")
        await anyio.sleep(FIRST_PAUSE)  # a connection that breaks each time must not be opened in a tight loop


@final
class HeldLock:
    """A lock from the attempt to get it until its release, in a task of its own.

    Attributes:
        is_lost: Whether the engine lost the lock.
    """

    def __init__(self, unit: Unit, lock: Lock, on_lost: Callable[[], None]) -> None:
        self.is_lost = False
        self._unit = unit
        self._lock = lock
        self._on_lost = on_lost
        self._error: BaseException | None = None
        self._is_held = False
        self._waiting = anyio.CancelScope()
        self._holding = anyio.CancelScope()
        self._settled = anyio.Event()  # the lock is held, or cannot be had
        self._released = anyio.Event()
        self._over = anyio.Event()
        self._task: object = None

    async def acquire(self) -> None:
        """Wait until the lock is held.

        Raises:
            BaseException: What the engine raised.

        *Cancellation:* The lock is given up.
        """
        self._task = spawn(self._live, f"lock of {self._unit.name}", copy_context())
        try:
            await self._settled.wait()
        except BaseException:
            await self.release()
            raise
        if self._error is not None:
            raise self._error

    async def release(self) -> None:
        """Release the lock, and wait for that for a few seconds. An error is logged."""
        self._released.set()
        if not self._is_held:
            self._waiting.cancel()
        with anyio.move_on_after(RELEASE_LIMIT, shield=True):
            await self._over.wait()
        if not self._over.is_set():
            self._holding.cancel()
            logger.warning("%s: releasing its lock took more than %g s", self._unit.name, RELEASE_LIMIT)
        elif self._is_held and self._error is not None and not self.is_lost:
            logger.warning("%s: its lock could not be released: %s", self._unit.name, text_of(self._error))

    async def _live(self) -> None:
        try:
            with self._waiting, self._holding:
                async with self._lock() as handle:
                    # The lock may be granted in the moment in which the wait is cancelled. It is released then.
                    self._holding.shield = self._is_held = True
                    self._settled.set()
                    if callable(getattr(handle, "wait", None)):
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(self._watch, handle)
                            await self._hold()
                            tasks.cancel_scope.cancel()
                    else:
                        await self._hold()
        except BaseException as error:
            if is_loop_gone():  # pragma: no cover - the garbage collector closes the coroutine, if it comes to that
                raise
            self._error = error
        self._settled.set()
        self._over.set()

    async def _hold(self) -> None:
        """Wait for the release, also if a server cancels all tasks of the loop: the work under the lock ends first."""
        while not self._released.is_set():
            try:
                await self._released.wait()
            except asyncios_cancellation():
                uncancel_current_task()

    async def _watch(self, handle: Any) -> None:
        try:
            await handle.wait()
        except BaseException as error:  # an engine that cannot be watched may have lost the lock
            if is_cancellation(error):
                raise
            logger.warning("%s: its lock cannot be watched any more: %s", self._unit.name, text_of(error))
        self.is_lost = True
        self._on_lost()
        await anyio.sleep(CANCELLED_GRACE)
        logger.error(
            "%s lost its lock and ignores its cancellation, %s; two of them may run now",
            self._unit.name,
            self._unit.whereabouts() or "at an unknown place",
        )


@final
class _Attempts:
    """The attempts to get a lock from an engine that cannot be reached."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pause = FIRST_PAUSE
        self._logged_at = -REMIND_AFTER

    async def pause(self, error: Exception) -> None:
        """Log why an attempt failed, once a minute, and wait until the next one."""
        now = anyio.current_time()
        if self._pause == FIRST_PAUSE or now >= self._logged_at + REMIND_AFTER:
            self._logged_at = now
            logger.warning("%s cannot get its lock and tries again: %s", self._name, text_of(error))
        await anyio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
