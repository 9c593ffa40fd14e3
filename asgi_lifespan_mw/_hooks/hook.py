"""HookCollection: what the user registers, and how each is opened or called.

A hook is read once, when it is registered: what cannot work is refused there, with the line that registers it in the
traceback. Nothing here knows how hooks are run.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncContextDecorator,
    ContextDecorator,
)
from dataclasses import dataclass
from enum import Enum
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias, cast, final

from .._asgi import signature_of
from .._config import checked_flag, checked_seconds
from .._types import State
from .._units.location import short
from .._units.locking import Lock
from .contexts import StateContext, entered

HookFunction: TypeAlias = Callable[[], Any] | Callable[[Any], Any]
"""What is registered: it takes the app or nothing."""


class HookKind(Enum):
    """The kinds of hooks; the values are the decorators' names."""

    CONTEXT = "context"
    STARTUP = "on_startup"
    SHUTDOWN = "on_shutdown"
    WORKER = "worker"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """One registered hook.

    Attributes:
        kind: What it was registered as.
        function: What the user gave.
        name: The function's name, or the one that the user chose.
        timeout: Seconds for it to start, and as many to stop; None for no limit of its own.
        takes_app: Whether it is called with the app.
        background: Whether the startup does not wait for it.
        lock: The lock that is held while the hook starts, or while a worker runs; None for none.
    """

    kind: HookKind
    function: Callable[..., Any]
    name: str
    timeout: float | None
    takes_app: bool
    background: bool = False
    lock: Lock | None = None

    @property
    def label(self) -> str:
        """The name in messages: ``hook 'open_pool' (shop/db.py:12)``."""
        return f"hook {self.name!r} ({_place(self.function)})"

    async def call(self, app: object) -> None:
        """Call an ``on_startup`` or ``on_shutdown`` function, on the event loop, and await what it gives."""
        result = self._called(app)
        if inspect.isawaitable(result):
            await result
        elif _is_unentered(result):
            returned = type(result).__qualname__
            raise TypeError(
                f"{self.label} returned a value of type {returned}, which would never be entered; register it with "
                "context()"
            )

    def open(self, app: object) -> AbstractAsyncContextManager[State]:
        """Make the context of this hook, which gives its state. It is entered once.

        Raises:
            TypeError: If the function gave no context manager.
        """
        return StateContext(self.label, self.name, entered(self._called(app), self.label))

    def _called(self, app: object) -> Any:
        return self.function(app) if self.takes_app else self.function()


def make_hook(
    kind: HookKind,
    function: object,
    name: object = None,
    timeout: float | None = None,
    *,
    where: str,
    background: object = False,
    lock: object = None,
    expected: str = "a function",
) -> Hook:
    """Read a hook as the user gives it.

    Args:
        kind: What it is registered as.
        function: What the user gave.
        name: What the user calls it; None for its own name.
        timeout: Seconds for it to start, and as many to stop; None for no limit of its own.
        where: What it was given to, for messages.
        background: Whether the startup does not wait for it.
        lock: What the user gave as its lock; None for none.
        expected: What belongs there, in words.

    Raises:
        TypeError: If the object cannot be a hook of that kind: not callable, one that needs more than the app, a
            coroutine function as a context, a generator as a function, a context manager in place of a function that
            makes one.
        ValueError: If the timeout is not a positive number.
    """
    given = f"{where} got {described(function)}"
    if _is_unentered(function) or (
        not callable(function) and isinstance(function, (AbstractAsyncContextManager, AbstractContextManager))
    ):
        raise TypeError(
            f"{given}, a context manager, which can be entered only once; expected a function that makes one, such as "
            "lambda: manager"
        )
    if not callable(function):
        raise TypeError(f"{given}, expected {expected}")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{kind.value}() got name={name!r}, expected a string")
    _check_kind(kind, function, given)
    return Hook(
        kind=kind,
        function=function,
        name=_name(function) if name is None else name,
        timeout=checked_seconds(timeout, f"{kind.value}(timeout=...)"),
        takes_app=_takes_app(kind, function, given),
        background=checked_flag(background, f"{kind.value}(background=...)"),
        lock=_checked_lock(lock, f"{kind.value}({'leader' if kind is HookKind.WORKER else 'lock'}=...)"),
    )


def _checked_lock(lock: object, where: str) -> Lock | None:
    """Return `lock` if it is valid.

    Raises:
        TypeError: If it is not a function that can be called without arguments.
    """
    if lock is None:
        return None
    expected = "a function without arguments that returns an async context manager, such as FileLock(path)"
    given: Any = lock
    if callable(given) and not inspect.isclass(given) and not inspect.iscoroutinefunction(given):
        try:
            fits = _binds(signature_of(cast("Lock", given)))
        except ValueError:  # a builtin, whose signature cannot be read
            fits = True
        if fits:
            return cast("Lock", given)
    if hasattr(type(lock), "__aenter__"):
        expected += "; wrap what is entered once: lambda: client.lock('name')"
    # Not its repr: that of a lock may have a connection string in it.
    raise TypeError(f"{where} got {_named(lock)}, expected {expected}")


def _named(thing: object) -> str:
    return described(thing) if callable(thing) else f"a value of type {type(thing).__qualname__}"


def _is_unentered(thing: object) -> bool:
    """Return whether an object was made by a generator function, plain or decorated; a file or a connection was not."""
    return isinstance(thing, (AsyncGenerator, Generator, AsyncContextDecorator, ContextDecorator))


def _check_kind(kind: HookKind, function: HookFunction, given: str) -> None:
    if kind is HookKind.CONTEXT:
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{given}, a coroutine function without a yield; add the yield, or use on_startup()")
        return
    # `@asynccontextmanager` leaves the generator function that it wraps in `__wrapped__`.
    inner = bare(function)
    if kind is HookKind.WORKER and isinstance(inner, FunctionType) and not inspect.iscoroutinefunction(inner):
        raise TypeError(f"{given}, expected an async def, which runs for the life of the app")
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner) or inspect.isclass(function):
        raise TypeError(f"{given}, which makes a context and would never be entered; register it with context()")


def _takes_app(kind: HookKind, function: HookFunction, given: str) -> bool:
    """Return whether to call a hook with the app: a context that can take it, a function that needs it."""
    try:
        signature = signature_of(function)
    except ValueError as error:
        if _has_signature(bare(function)):  # a partial binds more than the function takes
            raise TypeError(f"{given}, which can't be called: {error}; expected no parameter or one, the app") from None
        return False
    with_app, without = _binds(signature, "app"), _binds(signature)
    if not with_app and not without:
        raise TypeError(
            f"{given}, which cannot be called as {signature} requires; expected no parameter or one, the app"
        )
    return with_app if kind is HookKind.CONTEXT else not without


def _has_signature(function: HookFunction) -> bool:
    """Return whether the signature of a function can be read; that of some builtins cannot."""
    try:
        signature_of(function)
    except ValueError:
        return False
    return True


def _binds(signature: inspect.Signature, *args: object) -> bool:
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True


def bare(function: Any) -> Any:
    """Return the function behind partials, decorators and bound methods."""
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, FunctionType):
            function = inspect.unwrap(function)
    return function


def _name(function: HookFunction) -> str:
    inner = bare(function)
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__name__


def _place(function: HookFunction) -> str:
    inner = bare(function)
    code = getattr(inner, "__code__", None) or getattr(getattr(inner, "__init__", None), "__code__", None)
    if not isinstance(code, CodeType):
        module = getattr(inner, "__module__", None)
        return module if isinstance(module, str) else type(inner).__module__
    return f"{short(code.co_filename)}:{code.co_firstlineno}"


def described(thing: object) -> str:
    """Return how a message names a hook's function: its name, with file and line."""
    return f"{_name(thing)!r} ({_place(thing)})" if callable(thing) else repr(thing)
