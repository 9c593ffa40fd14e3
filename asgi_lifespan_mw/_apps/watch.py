"""Which lifespans begin while a startup runs, seen from outside.

A parent may start what it mounts in many ways: a loop over its routes, a helper in another module, a message sent in a
task. Code does not show that. But nearly every lifespan is an asynchronous generator behind
``@asynccontextmanager``, and Python announces the first step of each asynchronous generator to
``sys.set_asyncgen_hooks(firstiter=...)``. So the lifespans that began are known, from whichever line they were entered.

Rule 1: the hook is in force only while a startup of ours runs in the thread. The event loop has a hook of its own, and
that one is called after ours.

Rule 2: only generators that begin in our startup count. A context variable marks it.

Rule 3: a generator belongs to an app if its function is the app's lifespan function, that very object, and no argument
is another app with the same lifespan. Each generator belongs to one app at the most.

See "Asynchronous generator hooks" in PEP 525.
"""

import gc
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from inspect import CO_ASYNC_GENERATOR, CO_VARARGS
from types import FunctionType
from typing import Any, Final, Protocol, cast, final
from weakref import ReferenceType, ref

from .objects import (
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
        function: The function that made it.
        arguments: What the function was called with.
        generator: The generator, weakly.
        has_owner: Whether the app whose lifespan it is was found.
    """

    function: FunctionType
    arguments: Sequence[object]
    generator: "ReferenceType[Any]"
    has_owner: bool = False

    def is_over(self) -> bool:
        """Return whether the generator has ended: it failed, or was left, so that its app does not run."""
        generator = self.generator()
        return generator is None or generator.ag_frame is None


@final
class Observation:
    """The lifespans that began during one startup.

    Each is in one of two places: with its owner, once that was found, or without.
    """

    __slots__ = ("_by_argument", "_of_owner", "_without_owner")

    def __init__(self) -> None:
        self._without_owner: dict[int, list[Begun]] = {}
        self._by_argument: dict[tuple[int, int], Begun] = {}
        self._of_owner: dict[tuple[int, int], Begun] = {}

    def see(self, generator: Any) -> None:
        """Record a generator that is about to take its first step."""
        function = _function_of(generator)
        if function is not None:
            begun = Begun(function, _arguments_of(generator), ref(generator))
            self._without_owner.setdefault(id(function), []).append(begun)
            for argument in begun.arguments:
                self._by_argument.setdefault((id(function), id(argument)), begun)

    def without_owner(self, function: FunctionType, members: Iterable[int]) -> list[Begun]:
        """Return the generators of a function that belong to nobody yet.

        Only one that has an app among its arguments, if there is such a one; `members` is what that app consists of, by
        identity. Many apps may have one lifespan function, and most are found by this.
        """
        for key in members:
            begun = self._by_argument.get((id(function), key))
            if begun is not None and not begun.has_owner:
                return [begun]
        return self._without_owner.get(id(function), [])

    def of(self, function: FunctionType, members: Iterable[int]) -> Begun | None:
        """Return the generator of a function that belongs to an app, which consists of `members`, by identity."""
        found = (self._of_owner.get((id(function), key)) for key in members)
        return next((begun for begun in found if begun is not None), None)

    def give(self, begun: Begun, members: Iterable[int]) -> None:
        """Let a generator belong to an app, which consists of `members`, by identity."""
        begun.has_owner = True
        self._without_owner[id(begun.function)].remove(begun)
        self._of_owner.update(((id(begun.function), key), begun) for key in members)

    def clear(self) -> None:
        """Forget all generators, and what they were called with."""
        self._without_owner.clear()
        self._by_argument.clear()
        self._of_owner.clear()


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
    code = getattr(generator, "ag_code", None)  # a generator that was compiled to C has none
    things: list[Any] = gc.get_referents(generator)
    return next((thing for thing in things if is_function(thing) and thing.__code__ is code), None)


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
        functions: The functions that may make it.
        bound: Objects that must be among its arguments: the owner of a bound method, what a partial binds.
        must_have_app: Whether the app must be among its arguments, for the function is only called by the lifespan.
        parts: Objects of which one must be its first argument; None if any will do.
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
    OVER = "began and has ended"
    SHARED = "began for an app around it, which has the same lifespan"


class Relations(Protocol):
    """What is known of the objects that generators were called with.

    Attributes:
        members: What the app consists of, by identity.
    """

    @property
    def members(self) -> Iterable[int]: ...

    def around(self) -> Iterable[Iterable[int]]:
        """Return what the apps consist of that the app is nested in, by identity."""
        ...

    def is_part(self, thing: object) -> bool:
        """Return whether an object is the app, or a part that is the same app."""
        ...

    def is_around(self, thing: object) -> bool:
        """Return whether an object is an app that the app is nested in."""
        ...

    def has_lifespan(self, thing: object, begun: Begun) -> bool:
        """Return whether an object is an app whose lifespan a generator may be."""
        ...


def ownership(
    observed: Observation, signatures: Sequence[Signature], relations: Relations
) -> tuple[Ownership, FunctionType | None]:
    """Find the generator that is the lifespan of an app, and give it to that app.

    Args:
        observed: The generators that began.
        signatures: How the app's generators can be recognised.
        relations: How the arguments of a generator are related to the app.

    Returns:
        What was observed, and the function of the generator.
    """
    ended: FunctionType | None = None
    for signature in signatures:
        for function in signature.functions:
            known = observed.of(function, relations.members)
            if known is not None and not known.is_over():
                return Ownership.BEGUN, function
            ended = ended if known is None else function
            # FastAPI(lifespan=shared) with app.mount("/v1", FastAPI(lifespan=shared)): the parent ran it for itself.
            of_parents = [begun for outer in relations.around() if (begun := observed.of(function, outer)) is not None]
            for begun in (*observed.without_owner(function, relations.members), *of_parents):
                if not signature.matches(begun):
                    continue
                is_mine = any(map(relations.is_part, begun.arguments))
                # A loop over siblings with one lifespan function: each argument is one of the siblings.
                is_others = any(relations.has_lifespan(argument, begun) for argument in begun.arguments)
                if not begun.has_owner and (is_mine or not (signature.must_have_app or is_others)):
                    observed.give(begun, relations.members)
                    if not begun.is_over():
                        return Ownership.BEGUN, function
                    ended = function
                elif is_others and any(map(relations.is_around, begun.arguments)):
                    return Ownership.SHARED, function
    return (Ownership.NOT_BEGUN if ended is None else Ownership.OVER), ended
