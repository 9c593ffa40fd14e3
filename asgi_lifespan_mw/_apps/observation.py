"""Which lifespans begin while a startup runs, seen from outside.

A parent may start what it mounts in many ways: a loop over its routes, a helper in another module, a message sent in a
task. Nobody can read that from code. But nearly every lifespan is an asynchronous generator behind
``@asynccontextmanager``, and Python announces the first step of each asynchronous generator to
``sys.set_asyncgen_hooks(firstiter=...)``. So it is seen which lifespans began, whoever began them.

Rule 1: the hook is in force only while a startup of ours runs in the thread. The event loop has a hook of its own, and
that one is called after ours.

Rule 2: only generators that begin on behalf of our startup count, which a context variable tells.

Rule 3: a generator belongs to an app if its function is the app's lifespan function, that very object, and no argument
is another app with the same lifespan. Each generator belongs to one app at the most.

See "Asynchronous generator hooks" in PEP 525.
"""

import gc
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from inspect import CO_ASYNC_GENERATOR, CO_VARARGS
from types import FunctionType
from typing import Any, Final, Protocol, cast, final

from .introspection import (
    attributes_of,
    called_function,
    closure_of,
    defaults_of,
    globals_in,
    is_function,
    names_in,
    undecorated,
)


@final
@dataclass(slots=True, eq=False)
class Begun:
    """An asynchronous generator that took its first step.

    Attributes:
        function: the function that made it.
        arguments: what the function was called with.
        owner: the app whose lifespan it is; None until one was found.
    """

    function: FunctionType
    arguments: Sequence[object]
    owner: object = None


@final
@dataclass(slots=True, eq=False)
class Observation:
    """The lifespans that began during one startup.

    Attributes:
        begun: the generators, by the identity of their function.
    """

    begun: dict[int, list[Begun]] = field(default_factory=dict[int, list[Begun]])

    def see(self, generator: Any) -> None:
        """Record a generator that is about to take its first step."""
        function = _function_of(generator)
        if function is not None:
            self.begun.setdefault(id(function), []).append(Begun(function, _arguments_of(generator)))


observation: Final[ContextVar[Observation | None]] = ContextVar("asgi_lifespan_mw_observation", default=None)
"""The observation that generators are recorded in; None where no startup of ours runs."""

_thread = threading.local()


@contextmanager
def observing() -> Generator[None]:
    """Have the first step of each asynchronous generator in this thread recorded, for the time of a ``with``.

    Blocks may overlap in any order, as runs in one thread do. The hook that was there before comes back when the last
    block is left, unless another one was set meanwhile.
    """
    if getattr(_thread, "blocks", 0) == 0:
        _thread.hook = _chained(sys.get_asyncgen_hooks().firstiter)
        sys.set_asyncgen_hooks(firstiter=_thread.hook[0])
    _thread.blocks = getattr(_thread, "blocks", 0) + 1
    try:
        yield
    finally:
        _thread.blocks -= 1
        if _thread.blocks == 0:
            hook, before = _thread.hook
            if sys.get_asyncgen_hooks().firstiter is hook:
                sys.set_asyncgen_hooks(firstiter=before)
            del _thread.hook


_Hook = Callable[[AsyncGenerator[Any, Any]], None]


def _chained(before: _Hook | None) -> tuple[_Hook, _Hook | None]:
    """Return a hook that records a generator and calls the one `before`, and that one."""

    def first_step(generator: AsyncGenerator[Any, Any]) -> None:
        observed = observation.get()
        if observed is not None:
            observed.see(generator)
        if before is not None:
            before(generator)

    return first_step, before


def _function_of(generator: Any) -> FunctionType | None:
    """Return the function that made a generator: the first of its references that has its code."""
    code = generator.ag_code
    things: list[Any] = gc.get_referents(generator)
    for thing in things:
        if is_function(thing) and thing.__code__ is code:
            return thing
    return None


def _arguments_of(generator: Any) -> list[object]:
    """Return what the function of a generator that has not begun was called with."""
    code, variables = generator.ag_code, generator.ag_frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    arguments = [variables[name] for name in names if name in variables]
    if code.co_flags & CO_VARARGS:
        arguments += variables.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return arguments


# --- whose lifespan a generator is ---


@final
@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """How the generator of one lifespan can be recognised.

    Attributes:
        functions: the functions that may make it.
        bound: objects that must be among its arguments: the owner of a bound method, what a partial binds.
        must_have_app: whether the app must be among its arguments, for the function is only called by the lifespan.
        parts: objects of which one must be its first argument; None if any will do.
    """

    functions: tuple[FunctionType, ...]
    bound: tuple[object, ...] = ()
    must_have_app: bool = False
    parts: tuple[object, ...] | None = None

    def matches(self, begun: Begun) -> bool:
        """Return whether a generator may be of this lifespan, for whichever app."""
        if id(begun.function) not in map(id, self.functions):
            return False
        if self.bound and not {*map(id, self.bound)} <= {*map(id, begun.arguments)}:
            return False
        return self.parts is None or id(next(iter(begun.arguments), None)) in map(id, self.parts)


def signatures_of(lifespan: Any) -> list[Signature]:
    """Return how the generators of a lifespan can be recognised; nothing for a lifespan that cannot be observed.

    Most lifespans make a generator themselves. One such as ``lambda app: session_manager.run()`` calls another
    function for it: a method that it names, of an object that it holds, or a function that is given the app.
    """
    function, bound = called_function(lifespan)
    if function is None:
        return []
    inner = undecorated(function)
    if inner.__code__.co_flags & CO_ASYNC_GENERATOR:
        return [Signature((inner,), bound)]
    names = names_in(inner.__code__)
    held = [*closure_of(inner).values(), *defaults_of(inner), *bound]
    held += [inner.__globals__[name] for name in globals_in(inner.__code__) if name in inner.__globals__]
    found: list[Signature] = []
    methods: list[FunctionType] = []
    parts: list[object] = []
    for thing in held:
        given, given_bound = called_function(thing)
        if given is not None and undecorated(given).__code__.co_flags & CO_ASYNC_GENERATOR:
            found.append(Signature((undecorated(given),), given_bound, must_have_app=True))
        for part in (thing, *attributes_of(thing).values()):
            cls = cast("type[object]", type(part))
            if own := [method for name in names if (method := _generator_method(cls, name)) is not None]:
                methods += own
                parts.append(part)
    if methods:
        found.append(Signature(tuple(methods), parts=tuple(parts)))
    return found


def _generator_method(cls: type, name: str) -> FunctionType | None:
    """Return the asynchronous generator function behind a method, or None."""
    for base in cls.__mro__:
        method = base.__dict__.get(name)
        if is_function(method):
            function = undecorated(method)
            return function if function.__code__.co_flags & CO_ASYNC_GENERATOR else None
    return None


class Ownership(Enum):
    """What was observed of one app's lifespan."""

    NOT_BEGUN = "did not begin"
    BEGUN = "began"
    SHARED = "began for an app around it, which has the same lifespan"


class Relations(Protocol):
    """What is known of the objects that generators were called with."""

    def is_part(self, thing: object) -> bool:
        """Tell if an object is the app, or a part that is the same app."""
        ...

    def is_around(self, thing: object) -> bool:
        """Tell if an object is an app that the app is nested in."""
        ...

    def has_lifespan(self, thing: object, begun: Begun) -> bool:
        """Tell if an object is an app whose lifespan a generator may be."""
        ...


def ownership(
    observed: Observation, signatures: Sequence[Signature], node: object, relations: Relations
) -> tuple[Ownership, FunctionType | None]:
    """Find the generator that is the lifespan of an app, and give it to that app.

    Args:
        observed: the generators that began.
        signatures: how the app's generators can be recognised.
        node: the app in the tree, which becomes the owner.
        relations: how the arguments of a generator are related to the app.

    Returns:
        What was observed, and the function of the generator.
    """
    shared: FunctionType | None = None
    for signature in signatures:
        for function in signature.functions:
            for begun in observed.begun.get(id(function), ()):
                if not signature.matches(begun):
                    continue
                mine = any(map(relations.is_part, begun.arguments))
                if mine or begun.owner is node:
                    begun.owner = node
                    return Ownership.BEGUN, function
                if signature.must_have_app:
                    continue
                # FastAPI(lifespan=shared) with app.mount("/v1", FastAPI(lifespan=shared)): the argument is the app.
                others = [argument for argument in begun.arguments if relations.has_lifespan(argument, begun)]
                if any(map(relations.is_around, others)):
                    shared = function
                elif not others and begun.owner is None:
                    begun.owner = node
                    return Ownership.BEGUN, function
    return (Ownership.NOT_BEGUN if shared is None else Ownership.SHARED), shared
