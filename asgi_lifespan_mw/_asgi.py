"""ASGI apps: how one is checked, named and called."""

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType
from typing import Any, ParamSpec, cast

from ._callables import binds, signature_of
from ._types import ASGIApp, is_a

P = ParamSpec("P")


def checked_app(app: Any, where: str) -> ASGIApp:
    """Return `app` if it can be an ASGI 3 application.

    Args:
        app: The user's argument.
        where: The call and the argument, for the message.

    Raises:
        TypeError: If `app` is a class, is not callable, or does not take three arguments.
    """
    # A class is most often an app that was not instantiated. Starlette's HTTPEndpoint is an app: its instances are
    # awaited.
    if is_a(app, type) and not any("__await__" in vars(base) for base in app.__mro__):
        refusal = f"the class {app.__qualname__}, expected an ASGI 3 application: give an instance of it"
    elif not callable(app):
        refusal = f"{app!r}, which can't be called, expected an ASGI 3 application: async def app(scope, receive, send)"
    elif not _takes_messages(app):
        refusal = f"{name_of(app)}, which cannot be called with (scope, receive, send), expected an ASGI 3 application"
        refusal += ". If it is a factory, call it: give what it returns"
    else:
        return cast("ASGIApp", app)
    raise TypeError(
        f"{where} got {refusal}. For an ASGI 2 application there is asgiref.compatibility.guarantee_single_callable"
    )


def _takes_messages(app: Any) -> bool:
    """Return whether an app can be called with three arguments, as far as its signature can be read."""
    try:
        return binds(signature_of(app), {}, None, None)
    except Exception:  # some builtins have none, and a `__signature__` of the user's may raise anything
        return True


def name_of(app: Any) -> str:
    """Return the name of an app that has no path: its type, or the name of a function."""
    if is_a(app, functools.partial):
        return f"{name_of(app.func).removesuffix('()')}()"
    if issubclass(type(app), (FunctionType, MethodType, BuiltinFunctionType)):
        return f"{app.__qualname__}()"
    return type(app).__qualname__


def straight_through(method: Callable[P, Awaitable[None]]) -> "Callable[P, CoroutineType[Any, Any, None]]":
    """Mark a plain ``__call__`` that returns an app's awaitable as a coroutine function, which servers look for.

    So a request has no frame of this package on its stack or in a traceback, and an await costs nothing more. Python
    3.11 has no such mark, and hypercorn takes a plain function for WSGI. There the method becomes an ``async def``.
    Type checkers see a coroutine function with the method's parameter names, which Mangum's type for an app requires.
    """
    if sys.version_info >= (3, 12):  # pragma: no cover before 3.12
        call = inspect.markcoroutinefunction(method)
    else:  # pragma: no cover from 3.12
        inner = cast("Callable[..., Awaitable[None]]", method)

        @functools.wraps(method)
        async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
            __tracebackhide__ = True
            await inner(self, scope, receive, send)

    return cast("Callable[P, CoroutineType[Any, Any, None]]", call)
