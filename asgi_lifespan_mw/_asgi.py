"""ASGI apps: how one is checked, named and called."""

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from types import BuiltinFunctionType, CoroutineType, FunctionType, MethodType
from typing import Any, ParamSpec, cast

from ._types import ASGIApp, is_a

P = ParamSpec("P")


def checked_app(app: Any, where: str) -> ASGIApp:
    """`app` itself, if it can be an ASGI 3 application.

    ASGI 2 is not guessed at: a class is most often one that was not called.

    Args:
        app: What the user gave.
        where: What it was given to, for the message.

    Raises:
        TypeError: If it is a class, or can't be called.
    """
    if is_a(app, type) and not any("__await__" in vars(base) for base in app.__mro__):
        raise TypeError(
            f"{where} got the class {app.__qualname__}, expected an ASGI 3 application: give an instance of it, or, if "
            "it is an ASGI 2 application, asgiref.compatibility.guarantee_single_callable(" + app.__qualname__ + ")"
        )
    if callable(app) and not _takes_messages(app):
        raise TypeError(
            f"{where} got {name_of(app)}, which cannot be called with (scope, receive, send), expected an ASGI 3 "
            "application. If it is a factory, call it: give what it returns"
        )
    if not callable(app):
        raise TypeError(
            f"{where} got {app!r}, which can't be called, expected an ASGI 3 application: "
            "async def app(scope, receive, send). For an ASGI 2 application there is "
            "asgiref.compatibility.guarantee_single_callable"
        )
    return cast("ASGIApp", app)


def _takes_messages(app: Any) -> bool:
    """Return whether an app can be called with three arguments, as far as its signature can be read."""
    try:
        signature = signature_of(app)
    except Exception:  # it has none that can be read, as some builtins, or its `__signature__` raises
        return True
    try:
        signature.bind({}, None, None)
    except TypeError:
        return False
    return True


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return how a function is called, without evaluating its annotations, which may name what is not there.

    Raises:
        ValueError: If it has no signature that can be read.
        TypeError: If it is not a function.
    """
    if sys.version_info >= (3, 14):  # pragma: no cover before 3.14
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)  # pragma: no cover from 3.14


def name_of(app: Any) -> str:
    """Return the name of an app that has no path: its type, or the name of a function."""
    if is_a(app, functools.partial):
        return f"{name_of(app.func).removesuffix('()')}()"
    if issubclass(type(app), (FunctionType, MethodType, BuiltinFunctionType)):
        return f"{app.__qualname__}()"
    return type(app).__qualname__


def straight_through(method: Callable[P, Awaitable[None]]) -> "Callable[P, CoroutineType[Any, Any, None]]":
    """Let a plain ``__call__`` that returns another app's awaitable pass for the ``async def`` that servers look for.

    No frame of ours is on a request's stack then, nothing is added to an await, and no traceback shows us. Python
    3.11 knows no such mark (and hypercorn would take the plain function for WSGI), so there it is an ``async def``.
    For type checkers it is one everywhere, with its parameters' names: Mangum's type for an app needs both.
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
