"""Contexts of hooks: entered and left on the event loop, their values taken as lifespan state."""

import traceback
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from inspect import iscoroutine
from types import TracebackType
from typing import Any, TypeAlias, cast, final

from .._types import State

Context: TypeAlias = AbstractAsyncContextManager[object] | AbstractContextManager[object]


def context_of(made: object, label: str) -> Context:
    """Return the result of a hook's function as a context manager that was not entered yet.

    Args:
        made: The result of the function.
        label: The hook's name in messages.

    Raises:
        TypeError: If it is not a context manager or a generator.
    """
    if isinstance(made, AsyncGenerator):
        return asynccontextmanager(lambda: cast("AsyncGenerator[object]", made))()
    if isinstance(made, Generator):
        return contextmanager(lambda: cast("Generator[object]", made))()
    if isinstance(made, (AbstractAsyncContextManager, AbstractContextManager)):
        return cast("Context", made)
    if iscoroutine(made):
        made.close()
    raise TypeError(
        f"{label} returned a value of type {type(made).__qualname__}, expected a context manager. Let the function "
        "yield once (start before the yield, stop after it), or register it with on_startup()"
    )


def enter(context: AbstractContextManager[object], label: str) -> object:
    """Enter a plain context manager of a hook, and return its value."""
    with _naming_the_hook(f"{label} never yielded"):
        return context.__enter__()


def leave(context: AbstractContextManager[object], label: str, *raised: Any) -> bool | None:
    """Leave a plain context manager of a hook; return whether it suppresses what was raised."""
    with _naming_the_hook(f"{label} yielded more than once"):
        return context.__exit__(*raised)


@contextmanager
def _naming_the_hook(problem: str) -> Generator[None]:
    """Raise a TypeError in place of the error of contextlib, "generator didn't yield", which does not name the hook."""
    try:
        yield
    except RuntimeError as error:
        # The generator itself may raise that error: another one inside it, in a `with`, yields twice.
        modules = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if modules[-2:] != [__name__, "contextlib"]:
            raise
    else:
        return
    raise TypeError(f"{problem}; a context yields exactly once: it starts before the yield and stops after it")


@final
class StateContext(AbstractAsyncContextManager[State]):
    """The context of a hook, whose value is lifespan state."""

    def __init__(self, label: str, name: str, context: Context) -> None:
        self._label = label
        self._name = name
        self._context = context

    async def __aenter__(self) -> State:
        if isinstance(self._context, AbstractAsyncContextManager):
            with _naming_the_hook(f"{self._label} never yielded"):
                value = await self._context.__aenter__()
        else:
            value = enter(self._context, self._label)
        try:
            return self._state(value)
        except BaseException as error:
            # A lazy mapping may raise anything, and the hook has opened its pool.
            await self.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if isinstance(self._context, AbstractAsyncContextManager):
            with _naming_the_hook(f"{self._label} yielded more than once"):
                return await self._context.__aexit__(kind, error, trace)
        return leave(self._context, self._label, kind, error, trace)

    def _state(self, value: object) -> State:
        """Return the value of the context as lifespan state.

        Raises:
            TypeError: If it is neither None nor a mapping with string keys. Its content is not shown: it may be secret.
        """
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            kind = type(value).__name__
            raise TypeError(
                f"{self._label} yielded a value of type {kind}, expected nothing or a mapping that becomes lifespan "
                f"state, such as {{{self._name!r}: {kind.lower()}}}"
            )
        state = dict(cast("Mapping[object, Any]", value))
        for key in state:
            if not isinstance(key, str):
                kind = type(key).__name__
                raise TypeError(f"{self._label} yielded a mapping with a key of type {kind}, expected string keys")
        return cast("State", state)
