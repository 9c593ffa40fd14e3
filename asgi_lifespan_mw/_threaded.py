"""`threaded`: a hook that blocks, kept off the event loop."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from anyio import to_thread

P = ParamSpec("P")
T = TypeVar("T")


class _InThread(AbstractAsyncContextManager[Any], Awaitable[Any]):
    """A call that is made in a worker thread: when it is awaited, or entered as a context."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, Any, Any]:
        return _run(self._call).__await__()

    async def __aenter__(self) -> Any:
        self._context: AbstractContextManager[Any] = await _run(self._call)
        return await _run(self._context.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await _run(functools.partial(self._context.__exit__, kind, error, traceback))


async def _run(function: Callable[[], T]) -> T:
    return await to_thread.run_sync(function, abandon_on_cancel=True)


def _check(function: object) -> None:
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"threaded() got {function!r}, expected a `def` function: an `async def` runs on the event loop"
        )


def threaded(function: Callable[P, T]) -> Callable[P, _InThread]:
    """Have a ``def`` hook run in a worker thread, so that it does not hold the event loop up.

    For a hook that reads a large file or loads a model. What it opens belongs to that thread: no running event loop,
    no context variables of its own for others, and a sqlite connection is refused elsewhere. The two halves of a
    generator may run in two threads.

    Args:
        function: a function, a generator function, or a function that returns a context manager.

    Returns:
        A hook to register in its place, with the same signature and name.

    Raises:
        TypeError: `function` is no function, or an ``async def``, which does not block.

    *Cancellation:* a thread can't be cancelled. It is left to end by itself, and what it gives is dropped.
    """
    _check(function)
    call = contextmanager(function) if inspect.isgeneratorfunction(function) else function

    @functools.wraps(function)
    def in_thread(*args: P.args, **kwargs: P.kwargs) -> _InThread:
        return _InThread(functools.partial(call, *args, **kwargs))

    return in_thread
