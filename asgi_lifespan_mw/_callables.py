"""The user's callables: what a partial or a decorator wraps, how a callable is called, and which two are one.

No code of the user's runs here, and no annotation is evaluated.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Hashable
from types import FunctionType, MethodType
from typing import Any

from ._types import is_a

_GENERATOR_WRAPPERS = ("contextlib", "starlette.routing")
"""The modules that make a context manager function of a generator function. A framework does so to `lifespan=f`."""


def unwrapped(function: Any) -> Any:
    """Return the function behind partials, decorators and bound methods."""
    seen: set[int] = set()
    while id(function) not in seen:
        seen.add(id(function))
        if is_a(function, functools.partial):
            function = function.func
        elif is_a(function, MethodType):
            function = function.__func__
        elif is_a(function, FunctionType):
            function = function.__dict__.get("__wrapped__", function)
    return function


def identity_of(function: Any) -> Hashable:
    """Return what is equal for two callables if they are one: the function, or a bound method's object and function.

    ``lifespan`` and ``asynccontextmanager(lifespan)`` are one. Two partials of one function are two, and so are two
    decorators around it: they may open two databases.
    """
    while is_a(function, FunctionType) and function.__globals__.get("__name__") in _GENERATOR_WRAPPERS:
        # Not `__wrapped__`: a user's `@functools.wraps` around `@asynccontextmanager` overwrites it.
        held: list[Any] = [cell.cell_contents for cell in function.__closure__ or ()]
        if len(held) != 1:
            break
        [function] = held
    return (id(function.__self__), id(function.__func__)) if is_a(function, MethodType) else id(function)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return how a function is called. Its annotations are not evaluated: they may name what exists for types only.

    Raises:
        ValueError: If the signature cannot be read.
        TypeError: If `function` is not callable.
    """
    if sys.version_info >= (3, 14):  # pragma: no cover before 3.14
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)  # pragma: no cover from 3.14


def binds(signature: inspect.Signature, *args: object) -> bool:
    """Return whether a call with these arguments fits a signature."""
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True
