"""Tasks of their own, on asyncio (uvloop too) and trio.

A unit's task must outlive the call that started it and must not be reached by a cancellation that is meant for the
server's lifespan task: the units are stopped in order, by us. A task group would tie the two together (and could
never be left while one unit refuses to end), so each unit gets a plain task. ``anyio`` has no name for such a task.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Protocol
from weakref import WeakSet

import anyio

CANCELLED_GRACE = 1.0
"""Seconds that a cancelled unit has for its ``finally``: gunicorn's ASGI worker leaves no more."""


class OnDone(Protocol):
    """What is called when a task is over."""

    def __call__(self, *, was_cancelled: bool) -> None:
        """Tell whether the task was cancelled before its first step."""


def current_asyncio_task() -> "asyncio.Task[object] | None":
    """The running asyncio task, or None on trio."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio runs in this thread
        return None


def spawn(work: Callable[[], Awaitable[None]], name: str, context: Context, on_done: OnDone) -> object:
    """Run `work` in a task of its own.

    Args:
        work: must let no exception out but a cancellation, or what closes its coroutine.
        name: the task's name, for debuggers.
        context: the context variables that the task sees and changes.
        on_done: called once, when the task is over, with whether it was cancelled before its first step.

    Returns:
        The task, to be held: asyncio keeps only a weak reference to it.
    """
    if current_asyncio_task() is None:
        return _spawn_on_trio(work, name, context, on_done)

    async def run() -> None:
        await work()
        on_done(was_cancelled=False)  # with its last step, a turn of the loop earlier than a callback

    # Not `loop.create_task`: an eager task factory would run the first steps inside our caller.
    task = asyncio.Task(run(), loop=asyncio.get_running_loop(), name=name, context=context)
    task.add_done_callback(lambda task: on_done(was_cancelled=True) if task.cancelled() else None)
    return task


def _spawn_on_trio(work: Callable[[], Awaitable[None]], name: str, context: Context, on_done: OnDone) -> object:
    import trio  # noqa: PLC0415 - it runs already; on asyncio it need not be installed

    # A system task, which holds Ctrl-C back from the code in it: trio raises it in the main task, where our driver is.
    async def run() -> None:
        try:
            await work()
        finally:
            on_done(was_cancelled=False)

    return trio.lowlevel.spawn_system_task(run, name=name, context=context)


_spared: WeakSet["asyncio.Task[object]"] = WeakSet()


def was_spared(task: "asyncio.Task[object]") -> bool:
    """Whether a ``Task.cancel()`` was taken back from a task, by `spare_current_task`."""
    return task in _spared


def spare_current_task() -> None:
    """Take a plain ``Task.cancel()`` back from the running task, which goes on."""
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


def is_gone(error: BaseException) -> bool:
    """Whether nothing may be awaited after `error`, which closes our coroutine.

    A cancel scope that is closed without an event loop raises an error of its own in place of ``GeneratorExit``.
    """
    return isinstance(error, GeneratorExit) or is_loop_gone()


def is_cancellation(error: BaseException) -> bool:
    """Whether `error` is a cancellation of the running event loop, or asyncio's on trio."""
    return isinstance(error, (asyncio.CancelledError, anyio.get_cancelled_exc_class()))
