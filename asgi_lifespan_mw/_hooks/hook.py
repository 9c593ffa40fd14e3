"""Hooks: what the user registers, and how each is opened or called.

A hook is read once, when it is registered. What cannot work is refused there, with the line that registers it in the
traceback. Nothing here runs a task.
"""

import inspect
import math
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncContextDecorator,
    ContextDecorator,
)
from dataclasses import dataclass
from enum import Enum
from inspect import Parameter
from types import CodeType, FunctionType
from typing import Any, TypeAlias, cast, final

from .._callables import binds, signature_of, unwrapped
from .._config import check, checked_flag, checked_seconds
from .._types import State
from .._units.location import short
from .._units.locking import Lock
from .contexts import StateContext, context_of

HookFunction: TypeAlias = Callable[[], Any] | Callable[[Any], Any]
"""A function that takes the app or nothing."""


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
        kind: The kind, by the decorator that registered the hook.
        function: The user's function.
        name: The function's name, or the one that the user chose.
        place: The file and line of the function, or its module if it is not written in Python.
        timeout: Seconds for the start, and as many for the stop; None for no limit of its own.
        takes_app: Whether the function is passed the app.
        background: Whether the startup is answered without waiting for the hook.
        lock: The lock that is held while the hook starts, or while a worker runs; None for none.
        restart: How often in a row a worker that fails is restarted; 0 for never, infinity for any number.
        every: The seconds between two calls of a worker; None for a worker that is called once.
        optional: Whether everything else goes on if the hook fails.
    """

    kind: HookKind
    function: Callable[..., Any]
    name: str
    place: str
    timeout: float | None
    takes_app: bool
    background: bool = False
    lock: Lock | None = None
    restart: float = 0
    every: float | None = None
    optional: bool = False

    @property
    def label(self) -> str:
        """The name in messages: ``hook 'open_pool' (shop/db.py:12)``."""
        return f"hook {self.name!r} ({self.place})"

    async def call(self, app: object) -> None:
        """Call a function or a worker on the event loop, and await its result if it is awaitable.

        Raises:
            TypeError: If the result is a context manager, which nobody would enter.
        """
        result = self._called(app)
        if self.kind is HookKind.SHUTDOWN and hasattr(result, "begins"):
            result.begins = True  # a call in a thread: it cleans up, even if its turn comes when the time is up
        if inspect.isawaitable(result):
            await result
        elif _is_unentered(result):
            returned = type(result).__qualname__
            raise TypeError(
                f"{self.label} returned a value of type {returned}, which would never be entered; register it with "
                "context()"
            )

    def open(self, app: object) -> AbstractAsyncContextManager[State]:
        """Return the context of this hook, which is entered once and gives its state.

        Raises:
            TypeError: If the function returned no context manager.
        """
        return StateContext(self.label, self.name, context_of(self._called(app), self.label))

    def _called(self, app: object) -> Any:
        return self.function(app) if self.takes_app else self.function()


def make_hook(
    kind: HookKind,
    function: object,
    *,
    where: str,
    expected: str = "a function",
    name: object = None,
    timeout: object = None,
    background: object = False,
    lock: object = None,
    restart: object = False,
    every: object = None,
    optional: object = False,
) -> Hook:
    """Make a hook of the user's function and options.

    Args:
        kind: The kind of hook.
        function: The user's function.
        where: The call that registers the hook, for messages.
        expected: What belongs there, in words.
        name: The name in messages; None for the function's own.
        timeout: Seconds for the start, and as many for the stop; None for no limit of its own.
        background: Whether the startup is answered without waiting for the hook.
        lock: The lock of the hook; None for none.
        restart: Whether a worker is restarted, or how often in a row.
        every: The seconds between two calls of a worker; None for one call.
        optional: Whether everything else goes on if the hook fails.

    Raises:
        TypeError: If the function cannot be a hook of that kind: it is not callable, needs more than the app, is a
            coroutine function as a context, a generator as a function, or a context manager in place of a function
            that makes one. Or if an option has the wrong type.
        ValueError: If a number is not positive, or `restart` and `every` are both given.
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
    _check_kind(kind, function, given)
    call = kind.value
    check(f"{call}(name=...)", name, "a string", fits=name is None or isinstance(name, str))
    return Hook(
        kind=kind,
        function=function,
        name=_name(function) if name is None else cast("str", name),
        place=_place(function),
        timeout=checked_seconds(timeout, f"{call}(timeout=...)"),
        takes_app=_takes_app(kind, function, given),
        background=checked_flag(background, f"{call}(background=...)"),
        lock=_checked_lock(lock, f"{call}({'leader' if kind is HookKind.WORKER else 'lock'}=...)"),
        restart=_checked_restart(restart, every),
        every=checked_seconds(every, "worker(every=...)", "for one call"),
        optional=checked_flag(optional, f"{call}(optional=...)"),
    )


def _checked_restart(restart: object, every: object) -> float:
    """Return how often in a row a worker is restarted.

    Raises:
        TypeError: If `restart` is neither a flag nor an integer.
        ValueError: If it is less than 1, or `every` is given too.
    """
    where, expected = "worker(restart=...)", "True, or the number of restarts in a row"
    check(where, restart, expected, fits=isinstance(restart, int))  # a flag is an integer
    number = (math.inf if restart else 0) if isinstance(restart, bool) else cast("int", restart)
    check(where, restart, f"{expected}, at least 1", fits=number >= 1 or restart is False, refusal=ValueError)
    if number and every is not None:
        raise ValueError(
            f"worker(every={every!r}) got restart={restart!r}, expected one of the two: with every=, a run that fails "
            "is followed by the next one"
        )
    return number


def _checked_lock(lock: object, where: str) -> Lock | None:
    """Return `lock` if it is valid.

    Raises:
        TypeError: If it is not a function that can be called without arguments.
    """
    if lock is None:
        return None
    expected = "a function without arguments that returns an async context manager, such as FileLock(path)"
    given: Any = lock
    # A class whose instances are async context managers is such a function.
    is_other_class = inspect.isclass(given) and not hasattr(given, "__aenter__")
    if callable(given) and not is_other_class and not inspect.iscoroutinefunction(given):
        try:
            fits = binds(signature_of(cast("Lock", given)))
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
    inner = unwrapped(function)
    if kind is HookKind.WORKER and isinstance(inner, FunctionType) and not inspect.iscoroutinefunction(inner):
        raise TypeError(f"{given}, expected an async def, which runs for the life of the app")
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner) or inspect.isclass(function):
        raise TypeError(f"{given}, which makes a context and would never be entered; register it with context()")


def _takes_app(kind: HookKind, function: HookFunction, given: str) -> bool:
    """Return whether a hook is passed the app.

    It is if its first positional parameter has no default: ``lambda n=n: connect(n)`` and ``Pool(size=5)`` are not
    passed the app as their `n` and their size. ``*args`` alone is passed the app in a context, as a lifespan is.

    Raises:
        TypeError: If the function cannot be called so.
    """
    try:
        signature = signature_of(function)
    except ValueError as error:
        if _has_signature(unwrapped(function)):  # a partial binds more than the function takes
            raise TypeError(f"{given}, which can't be called: {error}; expected no parameter or one, the app") from None
        return False
    named = (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
    first = next((one for one in signature.parameters.values() if one.kind not in named), None)
    takes_app = first is not None and (
        kind is HookKind.CONTEXT if first.kind is Parameter.VAR_POSITIONAL else first.default is Parameter.empty
    )
    if not binds(signature, *(["app"] if takes_app else [])):
        raise TypeError(
            f"{given}, which cannot be called as {signature} requires; expected no parameter or one, the app"
        )
    return takes_app


def _has_signature(function: HookFunction) -> bool:
    """Return whether the signature of a function can be read; that of some builtins cannot."""
    try:
        signature_of(function)
    except ValueError:
        return False
    return True


def _name(function: HookFunction) -> str:
    inner = unwrapped(function)
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__name__


def _place(function: HookFunction) -> str:
    inner = unwrapped(function)
    made_at = getattr(inner, "made_at", None)  # of a `Tasks`
    if isinstance(made_at, str):
        return made_at
    code = getattr(inner, "__code__", None) or getattr(getattr(inner, "__init__", None), "__code__", None)
    if not isinstance(code, CodeType):
        module = getattr(inner, "__module__", None)
        return module if isinstance(module, str) else type(inner).__module__
    return f"{short(code.co_filename)}:{code.co_firstlineno}"


def described(thing: object) -> str:
    """Return how a message names a hook's function: its name, with file and line."""
    return f"{_name(thing)!r} ({_place(thing)})" if callable(thing) else repr(thing)
