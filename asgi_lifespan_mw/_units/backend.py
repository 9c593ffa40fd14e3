"""Tasks of their own, on asyncio (uvloop too) and trio.

A unit's task must outlive the call that started it and must not be reached by a cancellation that is meant for the
server's lifespan task: the units are stopped in order, by us. A task group would tie the two together (and could
never be left while one unit refuses to end), so each unit gets a plain task. ``anyio`` has no name for such a task.

``asyncio`` and ``trio`` are imported where they are used, when they run already: both take long to import.
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
"""Seconds that a cancelled unit has for its ``finally``: gunicorn's ASGI worker leaves no more."""


def current_asyncio_task() -> "asyncio.Task[object] | None":
    """The running asyncio task, or None on trio."""
    import asyncio

    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio runs in this thread
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
    """Let the other tasks of the loop go on, once; `task` is the running one of asyncio, None on trio."""
    import asyncio

    await (anyio.lowlevel.checkpoint() if task is None else asyncio.sleep(0))


async def wait_until(event: anyio.Event, when: float) -> None:
    """Wait until `event` is set, and set it at the time `when` of the event loop's clock.

    On asyncio, a cancel scope with a deadline would cancel the running task, as a server does that cancels a lifespan.
    """
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
    """What a plain ``Task.cancel()`` of asyncio raises, which no shield of anyio holds back; never raised on trio."""
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
        work: must let no exception out, but where no event loop runs any more.
        name: the task's name, for debuggers.
        context: the context variables that the task sees and changes.
        never_ran: called if the task was cancelled before its first step.

    Returns:
        The task, to be held: asyncio keeps only a weak reference to it.
    """
    if current_asyncio_task() is None:
        import trio

        # A system task, which holds Ctrl-C back from the code in it: trio raises it in the main task, where our driver
        # is. It is never cancelled before its first step.
        return trio.lowlevel.spawn_system_task(work, name=name, context=context)
    import asyncio

    # Not `loop.create_task`: an eager task factory would run the first steps inside our caller.
    task = asyncio.Task(work(), loop=asyncio.get_running_loop(), name=name, context=context)
    task.add_done_callback(lambda task: never_ran() if task.cancelled() else None)
    return task


_spared: WeakSet["asyncio.Task[object]"] = WeakSet()


def was_spared(task: "asyncio.Task[object]") -> bool:
    """Whether a ``Task.cancel()`` was taken back from a task, by `spare_current_task`."""
    return task in _spared


def spare_current_task() -> None:
    """Take a plain ``Task.cancel()`` back from the running task, which goes on."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None, "trio has no such cancellation"
    # Without this, a task group that is open in the task takes its own cancellation for the server's when it is left.
    task.uncancel()
    _spared.add(task)


def is_loop_gone() -> bool:
    """Whether no event loop runs any more: our coroutines are closed, and nothing can be awaited."""
    try:
        anyio.get_cancelled_exc_class()
    except RuntimeError:
        return True
    return False


def is_closing(error: BaseException) -> bool:
    """Whether nothing may be awaited after `error`, which closes our coroutine.

    A cancel scope that is closed without an event loop raises an error of its own in place of ``GeneratorExit``.
    """
    return is_a(error, GeneratorExit) or is_loop_gone()


def is_cancellation(error: BaseException | None) -> bool:
    """Whether `error` is a cancellation of the running event loop, or asyncio's on trio."""
    return is_a(error, asyncios_cancellation(), anyio.get_cancelled_exc_class())
