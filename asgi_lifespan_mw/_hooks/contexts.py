"""Contexts of hooks: entered and left on the event loop, their values taken as lifespan state.

Generators are driven here and not by `contextlib`, so that the error for a wrong number of yields names the hook.
"""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from inspect import iscoroutine
from types import TracebackType
from typing import Any, cast, final

from .._types import State

_ONCE = "a context yields exactly once: it starts before the yield and stops after it"


def entered(made: object, label: str) -> AbstractAsyncContextManager[object]:
    """Return the result of a hook's function as an asynchronous context manager that was not entered yet.

    Args:
        made: The result of the function.
        label: The hook's name in messages.

    Raises:
        TypeError: If it is not a context manager or a generator.
    """
    # @asynccontextmanager and @contextmanager keep the generator, which is driven here.
    made = getattr(made, "gen", made) if type(made).__module__ == "contextlib" else made
    if isinstance(made, AsyncGenerator):
        return _AsyncGeneratorContext(cast("AsyncGenerator[object, Any]", made), label)
    if isinstance(made, Generator):
        return _SyncContextAdapter(GeneratorContext(cast("Generator[object, Any, Any]", made), label))
    if isinstance(made, AbstractAsyncContextManager):
        return cast("AbstractAsyncContextManager[object]", made)
    if isinstance(made, AbstractContextManager):
        return _SyncContextAdapter(cast("AbstractContextManager[object]", made))
    if iscoroutine(made):
        made.close()
    raise TypeError(
        f"{label} returned a value of type {type(made).__qualname__}, expected a context manager. Let the function "
        "yield once (start before the yield, stop after it), or register it with on_startup()"
    )


@final
class StateContext(AbstractAsyncContextManager[State]):
    """The context of a hook, whose value is lifespan state."""

    def __init__(self, label: str, name: str, context: AbstractAsyncContextManager[object]) -> None:
        self._label = label
        self._name = name
        self._context = context

    async def __aenter__(self) -> State:
        value = await self._context.__aenter__()
        try:
            return self._state(value)
        except BaseException as error:
            # A lazy mapping may raise anything, and the hook has opened its pool.
            await self._context.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, trace)

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


@final
class _SyncContextAdapter(AbstractAsyncContextManager[object]):
    """A plain context manager, entered and left on the event loop."""

    def __init__(self, context: AbstractContextManager[object]) -> None:
        self._context = context

    async def __aenter__(self) -> object:
        return self._context.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._context.__exit__(kind, error, trace)


@final
class GeneratorContext(AbstractContextManager[object]):
    """A plain generator as a context that yields once."""

    def __init__(self, generator: Generator[object, Any, Any], label: str) -> None:
        self._generator = generator
        self._label = label

    def __enter__(self) -> object:
        for value in self._generator:
            return value
        raise _never_yielded(self._label)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                next(self._generator)
            else:
                self._generator.throw(error)
        except StopIteration:
            return error is not None
        except BaseException as raised:
            if _is_let_through(error, raised):
                return False
            raise
        self._generator.close()
        raise _yielded_again(self._label)


@final
class _AsyncGeneratorContext(AbstractAsyncContextManager[object]):
    """An asynchronous generator as a context that yields once."""

    def __init__(self, generator: AsyncGenerator[object, Any], label: str) -> None:
        self._generator = generator
        self._label = label

    async def __aenter__(self) -> object:
        async for value in self._generator:
            return value
        raise _never_yielded(self._label)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            await (anext(self._generator) if error is None else self._generator.athrow(error))
        except StopAsyncIteration:
            return error is not None
        except BaseException as raised:
            if _is_let_through(error, raised):
                return False
            raise
        await self._generator.aclose()
        raise _yielded_again(self._label)


def _is_let_through(error: BaseException | None, raised: BaseException) -> bool:
    """Return whether a generator let the exception out that was raised at its yield.

    A StopIteration is raised as the cause of a RuntimeError (PEP 479).
    """
    return error is not None and (raised is error or (type(raised) is RuntimeError and raised.__cause__ is error))


def _never_yielded(label: str) -> TypeError:
    return TypeError(f"{label} never yielded; {_ONCE}")


def _yielded_again(label: str) -> TypeError:
    return TypeError(f"{label} yielded more than once; {_ONCE}")
