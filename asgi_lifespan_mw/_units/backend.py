"""What differs between asyncio (uvloop too) and trio: tasks, timers and cancellation.

Each unit runs in a plain task, for which ``anyio`` has no name, and not in a task group. A task group would pass the
cancellation of the server's lifespan task on to all units at once, while units stop in order. Nor could it be left
while one unit does not finish.

``asyncio`` and ``trio`` are imported by the functions that use them, because both take long to import.
"""

import math
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import anyio
import anyio.lowlevel

from .._types import is_a

if TYPE_CHECKING:
    import asyncio

CANCELLED_GRACE = 1.0
"""Seconds that a cancelled unit has for its ``finally``. Gunicorn's ASGI worker grants no more."""


def current_asyncio_task() -> "asyncio.Task[object] | None":
    """Return the running asyncio task, or None on trio."""
    import asyncio

    try:
        return asyncio.current_task()
    except RuntimeError:  # trio: no event loop of asyncio runs in this thread
        return None


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
    """Return whether an event loop of asyncio was closed."""
    import asyncio

    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


async def checkpoint(task: "asyncio.Task[object] | None") -> None:
    """Let the other tasks of the event loop run one step; `task` is the running asyncio task, or None on trio."""
    import asyncio

    await (anyio.lowlevel.checkpoint() if task is None else asyncio.sleep(0))


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


def was_cancelled(task: object) -> bool:
    """Return whether ``Task.cancel()`` was called on a task; never on trio."""
    return hasattr(task, "cancelling") and cast("asyncio.Task[object]", task).cancelling() > 0


def asyncios_cancellation() -> type[BaseException]:
    """Return the exception of a plain ``Task.cancel()``, which no shield of anyio stops. Trio never raises it."""
    import asyncio

    return asyncio.CancelledError


def spawn(
    work: Callable[[], Coroutine[Any, Any, None]],
    name: str,
    context: Context,
    never_ran: Callable[[], object] = lambda: None,
) -> object:
    """Run `work` in a task of its own.

    Args:
        work: A coroutine function. It raises nothing while an event loop runs.
        name: The task's name, for debuggers.
        context: The context variables that the task sees and changes.
        never_ran: Called if the task was cancelled before its first step.

    Returns:
        The task. The caller keeps a reference, because asyncio keeps only a weak one.
    """
    if current_asyncio_task() is None:
        import trio

        # In a system task, trio raises no KeyboardInterrupt: Ctrl-C is raised in the main task, which stops the units.
        # Trio cancels no system task before its first step.
        return trio.lowlevel.spawn_system_task(work, name=name, context=context)
    import asyncio

    # Not `loop.create_task`: asyncio.eager_task_factory would run the first step inside the caller.
    task = asyncio.Task(work(), loop=asyncio.get_running_loop(), name=name, context=context)
    task.add_done_callback(lambda task: never_ran() if task.cancelled() else None)
    return task


_spared: WeakSet["asyncio.Task[object]"] = WeakSet()


def was_spared(task: "asyncio.Task[object]") -> bool:
    """Return whether `spare_current_task` has undone a ``Task.cancel()`` of a task."""
    return task in _spared


def spare_current_task() -> None:
    """Undo a plain ``Task.cancel()`` of the running task, which goes on."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None, "trio has no such cancellation"
    # `async with create_task_group(): yield` in a hook: without this, the group would raise its own cancellation when
    # the hook leaves it, as if the task had been cancelled from outside.
    task.uncancel()
    _spared.add(task)


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
