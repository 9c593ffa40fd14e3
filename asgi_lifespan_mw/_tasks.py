"""`Tasks`: tasks that requests leave behind, which end before what was opened before them is closed."""

import inspect
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Self, TypeVarTuple, final

import anyio

from ._config import check
from ._hooks.hook import described
from ._log import logger
from ._reporting.failures import log_error
from ._run.inner import enclosing_unit
from ._types import is_a
from ._units.backend import (
    asyncios_cancellation,
    current_asyncio_task,
    current_loop,
    is_cancellation,
    is_closing,
    is_loop_closed,
    is_loop_gone,
    spawn,
    wait_until,
    was_cancelled,
)
from ._units.cancellation import Cancellable
from ._units.failure import text_of
from ._units.location import short
from ._units.shared import CLEAN_UP_LIMIT
from ._units.unit import LAST_GRACE

Ts = TypeVarTuple("Ts")

_NAMED = 10
"""The most tasks that one message names."""


@final
class Tasks(AbstractAsyncContextManager["Tasks"]):
    """Tasks that requests leave behind: they go on after the answer, and end before the app stops.

    It is a hook (``app.context(tasks)``, ``Lifespan(contexts=[tasks])``) that adds nothing to the lifespan state, and
    an async context manager for any lifespan function (``async with tasks``). The end of its block waits for the tasks.
    What was opened before it, such as a pool, is closed after them.

    One object serves an app that runs in several threads: each event loop that is in the block has tasks of its own.

    *Cancellation:* If the block is cancelled, the tasks are cancelled at once, and waited for.
    """

    def __init__(self, timeout: float | None = 20) -> None:
        """Make a set of tasks, to be entered.

        Args:
            timeout: Seconds that the end of the block waits for the tasks, those included that they spawn. Then the
                rest is cancelled once, and named in an ERROR. None waits without limit, 0 not at all.

        Raises:
            TypeError: If `timeout` is not a number.
            ValueError: If `timeout` is negative.
        """
        where, expected = "Tasks(timeout=...)", "seconds from 0 on, or None for no limit"
        is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        check(where, timeout, expected, fits=timeout is None or is_number)
        check(where, timeout, expected, fits=timeout is None or timeout >= 0, refusal=ValueError)
        self._timeout = math.inf if timeout is None else timeout
        caller = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - messages name this line
        self.made_at: str = f"{short(caller.f_code.co_filename)}:{caller.f_lineno}"
        self._blocks: dict[object, _Block] = {}

    @property
    def open(self) -> int:
        """The number of tasks that are open, in all event loops."""
        return sum(len(block.tasks) for block in list(self._blocks.values()))

    def spawn(self, fn: Callable[[*Ts], Awaitable[object]], /, *args: *Ts, name: str | None = None) -> None:
        """Start a task, which goes on after the caller has ended. If it raises, that is logged at ERROR.

        It is called on the event loop. The task begins with the context variables of the block, not of the request.

        Args:
            fn: An ``async def``; wrap a blocking function in `threaded`.
            args: The arguments of `fn`.
            name: The name in messages; None for the function's own.

        Raises:
            RuntimeError: If the running event loop is not in the block, or no event loop runs in this thread.
            TypeError: If `fn` is not such a function, or does not take the arguments.
        """
        if inspect.iscoroutine(fn):
            fn.close()
            raise TypeError(
                "Tasks.spawn() got a coroutine, expected a function and its arguments: tasks.spawn(send, order), not "
                "tasks.spawn(send(order))"
            )
        check("Tasks.spawn()", fn, "an async def and its arguments", fits=callable(fn))
        block = self._blocks.get(current_loop())
        if block is None and current_loop() is None:
            raise RuntimeError(
                "Tasks.spawn() was called in a thread without an event loop; in a worker thread, call "
                "anyio.from_thread.run_sync(tasks.spawn, fn)"
            )
        if block is None:
            raise RuntimeError(
                f"Tasks.spawn() was called outside of the block of Tasks ({self.made_at}); register it by "
                "context(tasks), or enter it by `async with tasks` in the lifespan, and see that the lifespan runs"
            )
        work = fn(*args)
        check(
            f"Tasks.spawn({described(fn)})",
            work,
            "an async def; wrap a `def` in threaded()",
            fits=inspect.isawaitable(work),
        )
        label = described(fn) if name is None else repr(name)
        block.begin(work, f"task {label}")

    def __call__(self, app: object = None, /) -> AbstractAsyncContextManager[None]:
        """Return the block as a hook or a lifespan function has it: nothing is yielded, so no state is set.

        Args:
            app: Anything; the block is the same for each app.
        """
        del app
        return self._as_hook()

    @asynccontextmanager
    async def _as_hook(self) -> AsyncGenerator[None]:
        async with self:
            yield

    async def __aenter__(self) -> Self:
        """Begin the block in the running event loop.

        Raises:
            RuntimeError: If this event loop is in the block already.
        """
        for loop in [one for one in self._blocks if is_loop_closed(one)]:  # closed without a shutdown
            del self._blocks[loop]
        loop = current_loop()
        if loop in self._blocks:
            raise RuntimeError(
                f"Tasks ({self.made_at}) was entered twice in one event loop; make another Tasks() for a second block"
            )
        self._blocks[loop] = block = _Block()
        unit = enclosing_unit()
        if unit is not None:
            unit.left_behind.append(block.tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the tasks, then cancel those that are left. What they raise is logged, and not raised."""
        if error is not None and is_closing(error):
            return
        loop = current_loop()
        block, why = self._blocks[loop], "because its block was cancelled"
        try:
            if not is_cancellation(error):
                await block.wait(self._timeout)
                why = f"which were open {self._timeout:g} s after its block had ended"
        except BaseException as raised:
            error = raised
            raise
        finally:
            if error is None or not is_closing(error):
                await block.end(f"Tasks ({self.made_at})", why)
                del self._blocks[loop]


@final
class _Block:
    """The tasks of one event loop.

    Attributes:
        tasks: The names of the tasks that are open.
    """

    def __init__(self) -> None:
        self.tasks: dict[Cancellable, str] = {}
        self._context = copy_context()
        self._is_cancelled = False
        self._cancelled: list[str] = []
        self._changed = anyio.Event()
        self._new_scope: Callable[[], anyio.CancelScope] = type(anyio.CancelScope())  # also outside of any task
        self._running: dict[Cancellable, object] = {}  # asyncio keeps only weak references

    def begin(self, work: Awaitable[object], name: str) -> None:
        """Start a task that awaits `work`."""
        task = Cancellable(self._new_scope)
        self.tasks[task] = name

        async def await_it() -> None:
            await work

        async def live() -> None:
            try:
                await task.run(await_it())
            except BaseException as error:
                if is_loop_gone():  # the garbage collector closes the coroutine
                    return
                here = current_asyncio_task()
                if is_a(error, anyio.get_cancelled_exc_class()) and (here is None or was_cancelled(here)):
                    self._cancelled.append(name)  # by the server, or the end of `trio.run`, with all other tasks
                else:
                    log_error(f"{name} failed: {text_of(error)}", error)
            finally:
                del self.tasks[task], self._running[task]
                self._changed.set()

        if self._is_cancelled:  # spawned by the clean-up of another task
            self._cancel(task)
        self._running[task] = spawn(live, name, self._context.copy())

    def _cancel(self, task: Cancellable) -> None:
        self._cancelled.append(self.tasks[task])
        task.cancel()

    async def wait(self, seconds: float) -> None:
        """Wait until no task is open, for so many seconds at most."""
        until = anyio.current_time() + seconds
        while self.tasks and anyio.current_time() < until:
            self._changed = anyio.Event()
            await wait_until(self._changed, until)

    async def end(self, who: str, why: str) -> None:
        """Cancel the tasks that are open, wait for their clean-up, and name them in an ERROR."""
        self._is_cancelled = True
        for task in list(self.tasks):
            self._cancel(task)
        try:
            await self._wait_shielded(CLEAN_UP_LIMIT)
            for task in list(self.tasks):
                task.cancel_for_good()
            await self._wait_shielded(LAST_GRACE)
        finally:
            if self._cancelled:
                names, more = self._cancelled[:_NAMED], len(self._cancelled) - _NAMED
                listed = ", ".join(names) + (f" and {more} more" if more > 0 else "")
                logger.error("%s cancelled %d of its tasks, %s: %s", who, len(self._cancelled), why, listed)

    async def _wait_shielded(self, seconds: float) -> None:
        """Wait until no task is open, and raise a cancellation after that."""
        cancellation: BaseException | None = None
        until = anyio.current_time() + seconds
        while self.tasks and anyio.current_time() < until:
            try:
                with anyio.CancelScope(shield=True):
                    await self.wait(until - anyio.current_time())
            except asyncios_cancellation() as error:  # a plain Task.cancel(), which no shield stops
                cancellation = error
        if cancellation is not None:
            raise cancellation
