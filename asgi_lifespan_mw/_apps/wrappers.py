"""What a wrapper of the user's own holds, and which callables expect a lifespan.

Functions and objects are read and are never called; see `objects`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from inspect import CO_VARARGS
from types import CodeType, FunctionType, MethodType
from typing import Any

from .._types import is_a
from .frameworks import UNKNOWN, LifespanPolicy, spec_of, spec_of_class
from .objects import (
    MAX_ITEMS,
    attribute_of_class,
    attributes_of,
    cached_by_identity,
    called_function,
    closure_of,
    defaults_of,
    globals_in,
    holds_nothing,
    is_function,
    items_within,
    keys_of,
    names_in,
)

ASGI_ARGUMENTS = 3
"""An ASGI app is called with ``scope``, ``receive`` and ``send``."""


def wrapped_by(wrapper: Any) -> list[Any]:
    """Return the apps that a wrapper of the user's own holds and that its code uses.

    The attribute may have any name; a closure, a partial and a bound method hold apps too. An app that the code of the
    wrapper never names is kept for another reason: ``Plugin(app)`` mounts itself in `app`.
    """
    if is_function(wrapper) and holds_nothing(wrapper):
        return []
    found = {id(thing): thing for thing, is_certain in _held_by(wrapper) if is_certain or _is_app(thing)}
    return list(found.values())


def _held_by(wrapper: Any) -> list[tuple[Any, bool]]:
    """Return what a wrapper may call for a request, and if the name of the attribute says that it is an app."""
    if is_a(wrapper, functools.partial):
        return [(thing, False) for thing in (*wrapper.args, *wrapper.keywords.values(), wrapper.func)]
    if is_function(wrapper):
        decorated = attributes_of(wrapper).get("__wrapped__")
        is_certain = callable(decorated) and not is_a(decorated, type)
        kept = (*closure_of(wrapper).values(), *defaults_of(wrapper))
        inside = [item for thing in kept for item in items_within(thing)]
        return [(decorated, is_certain), *((thing, False) for thing in (*kept, *inside))]
    if is_a(wrapper, type) or not callable(wrapper):
        return []
    # Gate(app).handle, mounted as a bound method, holds what the gate holds.
    owner: Any = getattr(wrapper, "__self__", None) if is_a(wrapper, MethodType) else wrapper
    if owner is not wrapper and spec_of(owner) is not UNKNOWN:
        return [(owner, False)]
    function, _ = called_function(wrapper)
    own = attributes_of(owner)
    if function is not None:
        codes = [behind.__code__ for behind in _functions_behind(function)]
        used = _names_used(codes, owner)
        if not used & _COMPUTES:
            own = {name: own[name] for name in own if name in used}
        for code in codes:
            own |= _class_attributes(code, _class_of(owner))
    held: list[tuple[Any, bool]] = []
    for name, value in own.items():
        is_certain = name in {"app", "__wrapped__"} and callable(value) and not is_a(value, type)
        held += [(value, is_certain), *((item, False) for item in items_within(value))]
    return held


def _functions_behind(function: FunctionType) -> list[FunctionType]:
    """Return a function, and those that its decorators keep: what ``functools.wraps`` names, and in their closures.

    Sentry's SDK puts a function of its own in the place of ``__call__`` of a class, which keeps the original.
    """
    found, new = [function], [function]
    for _ in range(NEAR_BY):
        new = [
            inner
            for one in new
            for inner in (*closure_of(one).values(), attributes_of(one).get("__wrapped__"))
            if is_function(inner) and not any(inner is known for known in found)
        ]
        found += new
    return found


def _is_app(thing: Any) -> bool:
    """Return whether an object is an app of a class in the table, or wraps one."""
    todo, seen = [thing], set[int]()
    while todo and len(seen) < MAX_ITEMS:
        thing = todo.pop()
        if id(thing) in seen or not callable(thing) or is_a(thing, type):
            continue
        seen.add(id(thing))
        spec = spec_of(thing)
        if spec is UNKNOWN or is_a(thing, MethodType):
            if not _takes_three(thing):  # BaseHTTPMiddleware keeps its own `dispatch(request, call_next)`
                continue
        else:
            if spec.sent is not LifespanPolicy.NEVER:
                return True
            continue
        todo += [held for held, _ in _held_by(thing)]
    return False


def _takes_three(thing: Any) -> bool:
    """Return whether a call may have the three arguments of an ASGI app."""
    function, bound = called_function(thing)
    if function is None:
        return True
    most = function.__code__.co_argcount - len(bound)
    least = most - len(function.__defaults__ or ())
    return bool(function.__code__.co_flags & CO_VARARGS) or least <= ASGI_ARGUMENTS <= most


def _class_of(thing: object) -> Any:  # mypy takes classes for unhashable
    return type(thing)


def _names_used(codes: Sequence[CodeType], owner: object) -> frozenset[str]:
    """Return the names that functions use, and those that the methods of their owner use which they name."""
    cls = _class_of(owner)
    return frozenset[str]().union(*(_names_of_code(code, cls) for code in codes))


@cached_by_identity
def _class_attributes(code: CodeType, cls: type) -> dict[str, Any]:
    """Return the apps that a class keeps for all its objects, and that a method uses: ``inner = FastAPI()``."""
    found = {name: attribute_of_class(cls, name) for name in _names_of_code(code, cls)}
    return {name: value for name, value in found.items() if callable(value) and not is_function(value)}


@cached_by_identity
def _names_of_code(code: CodeType, cls: type) -> frozenset[str]:
    found = set(names_in(code))
    todo = list(found)
    while todo:
        name = todo.pop()
        methods = [base.__dict__[name] for base in cls.__mro__ if name in base.__dict__]
        for method in methods if "super" in found else methods[:1]:
            if is_function(method):
                new = names_in(method.__code__) - found
                found |= new
                todo += new
    return frozenset(found)


# --- who expects a lifespan ---


def mentions_lifespan(app: Any, is_around: Callable[[Any], bool] = lambda _: False) -> bool:
    """Return whether an app is to be asked: its code, or code near by, mentions the lifespan, or it wraps an app.

    A mounted app got no lifespan before this package came. A plain function that reads the body first, or that loops
    until the client disconnects, would break or hang at one. This reading only ever keeps such apps from being asked.
    What is not written in Python, and what computes the names that it uses, is asked.

    Args:
        app: The app.
        is_around: Returns if an object is an app that this one is mounted in, which it may hold for its version.
    """
    todo, seen = [(app, 0)], set[int]()
    while todo and len(seen) < MAX_ITEMS:
        thing, steps = todo.pop()
        if id(thing) in seen or is_a(thing, type):
            continue
        seen.add(id(thing))
        spec = spec_of(thing)
        if spec is not UNKNOWN and not is_a(thing, MethodType):
            if spec.sent is not LifespanPolicy.NEVER and not is_around(thing):
                return True
            continue
        function, bound = called_function(thing)
        if function is None:
            if is_a(thing, str) and _is_about_lifespan(thing):
                return True  # pragma: no cover - a constant near by
            if steps == 0:
                return callable(thing)
            continue
        names = _names_of_code(function.__code__, _class_of(bound[-1] if bound else None))
        if _mentions(names):
            return True
        if steps < NEAR_BY:
            todo += [(near, steps + 1) for near in _near_by(thing, function, bound, names)]
    return False


@functools.lru_cache(maxsize=1000)
def _mentions(names: frozenset[str]) -> bool:
    return bool(names & _COMPUTES) or any(map(_is_about_lifespan, names))


NEAR_BY = 3
"""How many steps from a function what it uses counts as its code."""

_COMPUTES = frozenset(
    {"getattr", "__getattribute__", "attrgetter", "methodcaller", "globals", "vars", "eval", "exec", "__dict__"}
)
"""Names of what reaches things by names that are computed: ``getattr(self, "on_" + scope["type"])``."""


def _near_by(thing: Any, function: FunctionType, bound: tuple[object, ...], names: frozenset[str]) -> Iterator[Any]:
    """Return the functions, callable objects and strings that a function may use."""
    held = [*closure_of(function).values(), *defaults_of(function), *bound]
    held += [function.__globals__.get(name) for name in globals_in(function.__code__)]
    decorated = attributes_of(function).get("__wrapped__")
    if decorated is not None:
        held.append(decorated)
    for owner in bound:
        own = attributes_of(owner)
        held += [own[name] for name in names if name in own]
    if not is_function(thing):
        held += [inner for inner, _ in _held_by(thing)]
    for one in held:
        if one is thing:
            continue
        yield from (key for key in keys_of(one) if is_a(key, str))
        yield from (item for item in items_within(one) if is_a(item, str) or _is_callable(item))
        if is_a(one, str) or _is_callable(one):
            yield one
        yield from _methods_named(one, names)


def _is_callable(thing: Any) -> bool:
    return callable(thing) and not is_a(thing, type)


def _methods_named(thing: Any, names: frozenset[str]) -> Iterator[Any]:
    """Return the methods of an object or a class that a function names, and what a call of a class runs."""
    cls: Any = thing if is_a(thing, type) else type(thing)
    if cls.__module__ == "builtins" or spec_of_class(cls) is not UNKNOWN:
        return
    wanted = {*names, "__call__", "__await__"} if is_a(thing, type) else names
    for name in wanted:
        if is_function(method := attribute_of_class(cls, name)):
            yield method


def names_lifespan(app: Any) -> bool:
    """Return whether the code that a call of an app runs names the lifespan, not counting what the app wraps."""
    function, bound = called_function(app)
    if function is None:
        return False
    return _names_the_lifespan(function.__code__, _class_of(bound[-1] if bound else None))


@cached_by_identity
def _names_the_lifespan(code: CodeType, cls: type) -> bool:
    return any(map(_is_about_lifespan, _names_of_code(code, cls)))


def _is_about_lifespan(name: str) -> bool:
    return "lifespan" in str.lower(name)
