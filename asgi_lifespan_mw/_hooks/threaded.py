"""`threaded`: a hook that blocks runs in a worker thread."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from .._callables import unwrapped
from .._config import check
from .._units.threads import call_in_thread
from .contexts import enter, leave
from .hook import described

P = ParamSpec("P")
T = TypeVar("T")


class _ThreadedCall(AbstractAsyncContextManager[Any], Awaitable[Any]):
    """A call that is made in a worker thread if it is awaited, or entered as a context."""

    def __init__(self, call: Callable[[], object], hook: str) -> None:
        self._call = call
        self._hook = hook
        self.begins = False

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._result().__await__()

    async def _result(self) -> object:
        result = await call_in_thread(self._call, begins=self.begins)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"hook {self._hook} returned a coroutine to threaded(), expected a plain function")
        return result

    async def __aenter__(self) -> Any:
        context = made = await self._result()
        if isinstance(made, Generator):
            context = contextmanager(lambda: cast("Generator[object]", made))()
        if not isinstance(context, AbstractContextManager):
            kind = type(context).__qualname__
            raise TypeError(
                f"hook {self._hook} returned a value of type {kind}, expected a context manager, or a yield in it"
            )
        self._leave = functools.partial(leave, cast("AbstractContextManager[Any]", context), f"hook {self._hook}")
        # If its time runs out, what it opens is closed again when its thread has opened it.
        return await call_in_thread(
            functools.partial(enter, context, f"hook {self._hook}"),
            if_abandoned=lambda _: self._leave(None, None, None),
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await call_in_thread(functools.partial(self._leave, kind, error, trace), begins=True)


def _is_asynchronous(function: Any) -> bool:
    function = unwrapped(function)
    if not inspect.isroutine(function):
        function = getattr(cast("type[object]", type(function)), "__call__", None)  # noqa: B004 - the method is wanted
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def threaded(function: Callable[P, T]) -> Callable[P, _ThreadedCall]:
    """Run a ``def`` hook in a worker thread, so that it does not block the event loop.

    For a hook that reads a large file or loads a model. The thread has no running event loop, and its context variables
    do not reach other hooks. A sqlite connection that it opens is refused in other threads. The two halves of a
    generator may run in two threads.

    Args:
        function: A function, a generator function, or a function that returns a context manager.

    Returns:
        A hook to register in place of `function`, with the same signature and name.

    Raises:
        TypeError: If `function` is not a function, or is an ``async def``, which does not block.

    *Cancellation:* A thread cannot be cancelled. It runs to its end, and its result is dropped. The process waits for
    the thread at its end. A context whose time runs out while it is entered is left again when its thread returns. A
    stop that comes after the time is up is begun all the same.
    """
    expected = "a `def` function: an `async def` runs on the event loop"
    given: object = function
    check("threaded()", given, expected, fits=callable(given) and not _is_asynchronous(given))

    @functools.wraps(function)
    def in_thread(*args: P.args, **kwargs: P.kwargs) -> _ThreadedCall:
        return _ThreadedCall(functools.partial(function, *args, **kwargs), described(function))

    return in_thread
