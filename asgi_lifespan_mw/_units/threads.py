"""Calls in worker threads, which cannot be cancelled: what they return, and when each is really over."""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import anyio
from anyio import to_thread

T = TypeVar("T")


_collected: ContextVar[list[Future[Any]] | None] = ContextVar("asgi_lifespan_mw_thread_calls", default=None)


@contextmanager
def collect_thread_calls() -> Generator[list[Future[Any]]]:
    """Collect the calls that begin in the block, and in tasks that begin in it. One is done when its thread is."""
    around = _collected.get()
    calls: list[Future[Any]] = []
    _collected.set(calls)
    try:
        yield calls
    finally:
        # Not `reset`: the garbage collector may close the coroutine that holds the block, in another context.
        _collected.set(around)


async def call_in_thread(
    function: Callable[[], T],
    *,
    if_abandoned: Callable[[T], object] = lambda _: None,
    begins: bool = False,
    limiter: anyio.CapacityLimiter | None = None,
) -> T:
    """Call a function in a worker thread, and return its result.

    Args:
        function: What is called.
        if_abandoned: Called in the thread with the result that nobody waits for any more.
        begins: Whether the thread begins even if the wait is cancelled before, as it has to if it cleans up.
        limiter: Limits the number of threads; None for that of all threads of the event loop.

    *Cancellation:* The wait ends. A thread that has begun runs to its end; one that has not begins only if `begins` is
    true, and is waited for then.
    """
    future: Future[T] = Future()
    calls = _collected.get()
    if calls is not None:
        calls.append(future)

    # Nothing is returned by the thread itself: trio takes a coroutine that comes back for a mistake of ours.
    def call() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def drop(late: Future[T]) -> None:
        if not late.cancelled() and late.exception() is None:
            if_abandoned(late.result())

    try:
        await to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
    except BaseException:
        if begins and not future.running() and not future.done():
            # A unit whose turn comes when the time is up is cancelled at once. Its cancellation is delivered once.
            await to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
        future.cancel()
        future.add_done_callback(drop)
        raise
    return future.result()
