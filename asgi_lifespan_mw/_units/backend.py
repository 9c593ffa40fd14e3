"""Tasks, timers and cancellation, which differ between asyncio (uvloop too) and trio.

Each unit runs in a plain task, for which ``anyio`` has no name, and not in a task group. A task group would pass the
cancellation of the server's lifespan task on to all units at once, while units stop in order. Nor could it be left
while one unit does not finish.

``asyncio`` and ``trio`` are imported by the functions that use them, because both take long to import.
"""

import functools
import math
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from inspect import CORO_CREATED, getcoroutinestate
from types import coroutine
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from .._types import is_a

if TYPE_CHECKING:
    import asyncio


def current_asyncio_task() -> "asyncio.Task[object] | None":
    """Return the running asyncio task, or None on trio."""
    import asyncio

    try:
        return asyncio.current_task()
    except RuntimeError:  # trio: no event loop of asyncio runs in this thread
        return None


def current_trio_task() -> object:
    """Return the running trio task."""
    import trio

    return trio.lowlevel.current_task()


def open_scopes(task: Any) -> list[Any]:
    """Return the cancel scopes of anyio or trio that a task is in, the innermost first.

    Neither library has a public name for them. If a version keeps them elsewhere, the list is empty: then a
    cancellation is still delivered once, but breaks through the shields of user code.
    """
    scopes: list[Any] = []
    with suppress(AttributeError, KeyError):
        if hasattr(task, "_cancel_status"):  # of trio
            status = task._cancel_status  # noqa: SLF001
            while status is not None:
                scopes.append(status._scope)  # noqa: SLF001
                status = status._parent  # noqa: SLF001
        else:
            state = sys.modules["anyio._backends._asyncio"]._task_states.get(task)  # noqa: SLF001
            scope = state and state.cancel_scope
            while scope is not None:
                scopes.append(scope)
                scope = scope._parent_scope  # noqa: SLF001
    return scopes


def current_loop() -> object:
    """Return what stands for the running event loop; None if there is none."""
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        try:
            return trio and trio.lowlevel.current_trio_token()
        except RuntimeError:
            return None


def is_loop_closed(loop: object) -> bool:
    """Return whether an event loop of asyncio was closed; never true for trio."""
    is_closed: Callable[[], bool] | None = getattr(loop, "is_closed", None)
    return is_closed is not None and is_closed()


def running_clock() -> Callable[[], float]:
    """Return a function that returns the time of the running event loop, in seconds."""
    import asyncio

    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        import trio

        return trio.lowlevel.current_clock().current_time


async def checkpoint() -> None:
    """Let the other tasks of the event loop run one step."""
    if current_asyncio_task() is None:
        await anyio.lowlevel.checkpoint()
    else:
        await _one_turn()


@coroutine
def _one_turn() -> Generator[None, None, None]:
    yield  # what `asyncio.sleep(0)` does, without its checks


async def wait_until(event: anyio.Event, when: float) -> None:
    """Wait until `event` is set, and set it at the time `when` of the event loop's clock.

    `anyio.move_on_after` would cancel the running task on asyncio. Units would take this for a cancellation by the
    server.
    """
    # uvloop cannot convert infinity to milliseconds.
    if when == math.inf or current_asyncio_task() is None:
        with anyio.CancelScope(deadline=when):
            await event.wait()
    else:
        import asyncio

        timer = asyncio.get_running_loop().call_at(when, event.set)
        try:
            await event.wait()
        finally:
            timer.cancel()


@functools.cache
def _unit_task_class() -> "type[asyncio.Task[None]]":
    """Return the class of the tasks that `spawn` makes on asyncio. An import on the event loop would read the disk."""
    import asyncio

    class UnitTask(asyncio.Task[None]):
        """A task whose first step is made in any case."""

        def __init__(self, work: Coroutine[Any, Any, None], **options: Any) -> None:
            super().__init__(work, **options)
            self.was_uncancelled = False

        def cancel(self, msg: Any = None) -> bool:
            if getcoroutinestate(cast("Coroutine[Any, Any, None]", self.get_coro())) != CORO_CREATED:
                return super().cancel(msg)
            # uvicorn cancels all tasks at a second Ctrl-C. A task that is cancelled before its first step never runs,
            # and what it was to report would be waited for in vain. The first step is scheduled, this comes after it.
            self.get_loop().call_soon(super().cancel, msg)
            return True

    return UnitTask


def was_cancelled(task: object) -> bool:
    """Return whether ``Task.cancel()`` was called on a task; never on trio."""
    return hasattr(task, "cancelling") and cast("asyncio.Task[object]", task).cancelling() > 0


def asyncios_cancellation() -> type[BaseException]:
    """Return the exception of a plain ``Task.cancel()``, which no shield of anyio stops. Trio never raises it."""
    import asyncio

    return asyncio.CancelledError


def spawn(work: Callable[[], Coroutine[Any, Any, None]], name: str, context: Context) -> object:
    """Run `work` in a task of its own, whose first step is made in any case.

    Args:
        work: A coroutine function. It raises nothing while an event loop runs.
        name: The task's name, for debuggers.
        context: The context variables that the task sees and changes.

    Returns:
        The task. The caller keeps a reference, because asyncio keeps only a weak one.
    """
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        # In a system task, trio raises no KeyboardInterrupt: Ctrl-C is raised in the main task, which stops the units.
        # Trio cancels no system task before its first step.
        return trio.lowlevel.spawn_system_task(work, name=name, context=context)
    # Not `loop.create_task`: asyncio.eager_task_factory would run the first step inside the caller.
    return _unit_task_class()(work(), loop=loop, name=name, context=context)


def uncancel_current_task() -> None:
    """Undo a plain ``Task.cancel()`` of the running task, which `spawn` made, and which goes on."""
    import asyncio

    task: Any = asyncio.current_task()
    # `async with create_task_group(): yield` in a hook: without this, the group would raise its own cancellation when
    # the hook leaves it, as if the task had been cancelled from outside.
    task.uncancel()
    task.was_uncancelled = True


def was_uncancelled(task: object) -> bool:
    """Return whether `uncancel_current_task` has undone a ``Task.cancel()`` of a task."""
    return getattr(task, "was_uncancelled", False)


def is_loop_gone() -> bool:
    """Return whether no event loop runs any more, so that nothing can be awaited."""
    try:
        anyio.get_cancelled_exc_class()
    except RuntimeError:
        return True
    return False


def is_closing(error: BaseException) -> bool:
    """Return whether `error` closes the running coroutine, so that nothing may be awaited.

    `asyncio.run` was left with this task pending, and the garbage collector closes its coroutine. A cancel scope in the
    coroutine then raises an error of its own in place of ``GeneratorExit``.
    """
    return is_a(error, GeneratorExit) or is_loop_gone()


def is_cancellation(error: BaseException | None) -> bool:
    """Return whether `error` is a cancellation of the running event loop, or of asyncio on trio."""
    return is_a(error, asyncios_cancellation(), anyio.get_cancelled_exc_class())
