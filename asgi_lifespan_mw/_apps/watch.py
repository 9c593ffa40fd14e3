"""Which lifespans began during a run: seen at the door of each app, and as generators that begin.

A parent may start what it mounts in many ways: a loop over its routes, a helper in another package, a task, a thread.
Code does not show that. Two observers do.

Rule 1: a *recorder* stands at the *doors* of each app that was found while a run lives: in the place of
``router.lifespan_context``, ``Quart.startup`` and others that the table of frameworks names. The first who enters
starts the app. Who enters second *joins*: it waits until the app has started, gets the same state, begins nothing, and
ends nothing on leaving.

Rule 2: what enters past the door, such as ``session_manager.run()`` or a lifespan function that is called by its name,
is nearly always an asynchronous generator, and Python announces the first step of each to
``sys.set_asyncgen_hooks(firstiter=...)``. The hook is in force only while a startup of ours runs in the thread. The
event loop has a hook of its own, and that one is called after ours. A recorder compares what is to begin with what runs
already: the same function with the same arguments joins too.

Rule 3: only what belongs to a run joins: its units, the tasks and threads that they made, and runs inside them. A
context variable marks it. An entry without the variable counts as a start while the startup runs, and never joins.

See "Asynchronous generator hooks" in PEP 525.
"""

import functools
import gc
import itertools
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from inspect import CO_ASYNC_GENERATOR, CO_VARARGS
from types import FunctionType
from typing import Any, Final, Protocol, final
from weakref import ReferenceType, ref

from .._types import is_a
from .node import AppNode
from .objects import called_function, is_function, undecorated


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

    @property
    def key(self) -> tuple[int, ...]:
        """What is equal for two calls of one function with the same arguments, while those are kept."""
        return (id(self.function), *map(id, self.arguments))

    def is_over(self) -> bool:
        """Return whether the generator has ended: it failed, or was left, so that its app does not run."""
        generator = self.generator()
        return generator is None or generator.ag_frame is None

    def is_starting(self) -> bool:
        """Return whether the generator runs towards its first ``yield``, or is on its way from there to its end."""
        generator = self.generator()
        return generator is not None and generator.ag_running


@final
class Observation:
    """The generators that began during one startup.

    Each is in one of two places: with its owner, once that was found, or without.
    """

    __slots__ = ("_by_argument", "_of_owner", "_unassigned")

    def __init__(self) -> None:
        self._unassigned: dict[int, list[Begun]] = {}
        self._by_argument: dict[tuple[int, int], list[Begun]] = {}
        self._of_owner: dict[tuple[int, int], Begun] = {}

    def record(self, generator: Any) -> None:
        """Record a generator that is about to take its first step."""
        begun = begun_of(generator)
        if begun is not None:
            self._unassigned.setdefault(id(begun.function), []).append(begun)
            for argument in begun.arguments:
                self._by_argument.setdefault((id(begun.function), id(argument)), []).append(begun)

    def running(self, like: Begun) -> Begun | None:
        """Return a generator that runs, of the same function with the same arguments; None if there is none.

        A function without arguments makes another resource at each call.
        """
        for argument in like.arguments[:1]:
            for begun in self._by_argument.get((id(like.function), id(argument)), ()):
                if not begun.is_over() and begun.key == like.key:
                    return begun
        return None

    def unassigned(self, function: FunctionType, members: Iterable[int]) -> list[Begun]:
        """Return the generators of a function that belong to nobody yet.

        Only one that has an app among its arguments, if there is such a one; `members` is what that app consists of, by
        identity. Many apps may have one lifespan function, and most are found by this.
        """
        for key in members:
            for begun in self._by_argument.get((id(function), key), ()):
                if not begun.has_owner:
                    return [begun]
        return self._unassigned.get(id(function), [])

    def has(self, function: FunctionType) -> bool:
        """Return whether a generator of a function has begun, assigned to an app or not."""
        return id(function) in self._unassigned

    def of_function(self, function: FunctionType) -> list[Begun]:
        """Return the generators of a function that run."""
        found = [begun for (key, _), many in self._by_argument.items() if key == id(function) for begun in many]
        return [begun for begun in found if not begun.is_over()]

    def of_app(self, function: FunctionType, members: Iterable[int]) -> Begun | None:
        """Return the generator of a function that belongs to an app, which consists of `members`, by identity."""
        found = (self._of_owner.get((id(function), key)) for key in members)
        return next((begun for begun in found if begun is not None), None)

    def assign(self, begun: Begun, members: Iterable[int]) -> None:
        """Let a generator belong to an app, which consists of `members`, by identity."""
        begun.has_owner = True
        self._unassigned[id(begun.function)].remove(begun)
        self._of_owner.update(((id(begun.function), key), begun) for key in members)

    def clear(self) -> None:
        """Forget all generators, and what they were called with."""
        self._unassigned.clear()
        self._by_argument.clear()
        self._of_owner.clear()


@final
class Watch:
    """What runs that are nested in each other have seen: one is shared by a run and the runs inside its units.

    Attributes:
        observed: The generators that began while a startup runs.
        entered: The generators that began at a door and have not ended, those of after the startup too.
        startups: How many startups are under way.
        is_serving: Whether the outermost run serves, so that what ends then was not stopped by it.
    """

    __slots__ = ("entered", "is_serving", "observed", "startups")

    def __init__(self) -> None:
        self.observed = Observation()
        self.entered: dict[tuple[int, ...], Begun] = {}
        self.startups = 0
        self.is_serving = False

    def running(self, like: Begun) -> Begun | None:
        """Return a generator that runs, of the same function with the same arguments; None if there is none."""
        found = self.entered.get(like.key)
        return self.observed.running(like) if found is None or found.is_over() else found


watching: Final[ContextVar[Watch | None]] = ContextVar("asgi_lifespan_mw_watching", default=None)
"""The watch that starts are recorded in; None for code that belongs to no run of ours."""

Starter = AppNode | str | None
"""Whose code starts an app: that of an app, of a hook, by its name, or of nobody who is known."""

starter: Final[ContextVar[Starter]] = ContextVar("asgi_lifespan_mw_starter", default=None)
"""The app that was sent a lifespan by us, or the hook, in whose code this context runs."""


@contextmanager
def observing(watch: Watch) -> Generator[None]:
    """Have the first step of each asynchronous generator in this thread recorded, while the block runs.

    Blocks may overlap in any order, as runs in one thread do. The hook that was there before comes back when the last
    block is left, unless another one was set meanwhile.
    """
    watch.startups += 1
    set_hook()
    _hook_in_force().blocks += 1  # type: ignore[union-attr]  # it was just set
    try:
        yield
    finally:
        watch.startups -= 1
        if watch.startups == 0:
            watch.observed.clear()
        hook = _hook_in_force()
        if hook is not None:
            hook.blocks -= 1
            if hook.blocks <= 0:
                sys.set_asyncgen_hooks(firstiter=hook.before)


def set_hook() -> bool:
    """Put our hook in force, and return whether it was missing.

    An event loop sets hooks of its own whenever it begins to run, so that a startup that spans two
    ``run_until_complete()`` loses ours.
    """
    if _hook_in_force() is not None:
        return False
    sys.set_asyncgen_hooks(firstiter=_Hook(sys.get_asyncgen_hooks().firstiter))
    return True


def _hook_in_force() -> "_Hook | None":
    hook: Any = sys.get_asyncgen_hooks().firstiter
    return hook if is_a(hook, _Hook) else None


@final
class _Hook:
    """Records a generator that takes its first step, and calls the hook `before`."""

    __slots__ = ("before", "blocks")

    def __init__(self, before: Callable[[AsyncGenerator[Any, Any]], None] | None) -> None:
        self.before = before
        self.blocks = 0

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        watch = watching.get()
        if watch is not None and watch.startups:
            watch.observed.record(generator)
        if self.before is not None:
            self.before(generator)


def begun_of(generator: Any) -> Begun | None:
    """Return the record of a generator that has not begun; None for one that was compiled to C."""
    function = _function_of(generator)
    return None if function is None else Begun(function, _arguments_of(generator), ref(generator))


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
        function: The function that makes it.
        bound: Objects that must be among its arguments: the owner of a bound method, what a partial binds.
        named: Those of them that a partial binds to a parameter, by its name.
    """

    function: Any  # a type checker takes a FunctionType here for a method
    bound: tuple[object, ...] = ()
    named: Mapping[str, object] = field(default_factory=dict[str, object])

    def matches(self, begun: Begun) -> bool:
        """Return whether a generator may be of this lifespan, for whichever app."""
        if begun.function is not self.function or not {*map(id, self.bound)} <= {*map(id, begun.arguments)}:
            return False
        given = dict(zip(self.function.__code__.co_varnames, begun.arguments, strict=False))
        return all(given.get(name) is value for name, value in self.named.items())


def signature_of(lifespan: Any) -> Signature | None:
    """Return how the generator of a lifespan can be recognised; None for a lifespan that is not a generator."""
    function, bound = called_function(lifespan)
    if function is None:
        return None
    inner = undecorated(function)
    named: dict[str, object] = {}
    while is_a(lifespan, functools.partial):
        named |= lifespan.keywords
        lifespan = lifespan.func
    return Signature(inner, bound, named) if inner.__code__.co_flags & CO_ASYNC_GENERATOR else None


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


def find_begun(
    observed: Observation, signatures: Sequence[Signature], relations: Relations
) -> tuple[Ownership, FunctionType | None]:
    """Find the generator that is the lifespan of an app, and assign it to that app.

    Args:
        observed: The generators that began.
        signatures: How the app's generators can be recognised.
        relations: How the arguments of a generator are related to the app.

    Returns:
        What was observed, and the function of the generator.
    """
    found, of_function = Ownership.NOT_BEGUN, None
    for signature in signatures:
        function = signature.function
        if not observed.has(function):  # most often: then the apps around it need no look, which may be many
            continue
        known = observed.of_app(function, relations.members)
        if known is not None and not known.is_over():
            return Ownership.BEGUN, function  # pragma: no cover - a door has seen it, most often
        if known is not None:
            found, of_function = Ownership.OVER, function
        # FastAPI(lifespan=shared) with app.mount("/v1", FastAPI(lifespan=shared)): the parent ran it for itself.
        of_parents = (observed.of_app(function, outer) for outer in relations.around())
        for begun in itertools.chain([*observed.unassigned(function, relations.members)], of_parents):
            if begun is None or not signature.matches(begun):
                continue
            is_mine = any(map(relations.is_part, begun.arguments))
            if not is_mine and any(map(relations.is_around, begun.arguments)):
                # `async with database(app), cache(app)` in the parent, and FastAPI(lifespan=database) mounted in it.
                return Ownership.SHARED, function
            # A loop over siblings with one lifespan function: each argument is one of the siblings.
            is_others = any(relations.has_lifespan(argument, begun) for argument in begun.arguments)
            if not begun.has_owner and (is_mine or not is_others):
                observed.assign(begun, relations.members)
                if not begun.is_over():
                    return Ownership.BEGUN, function
                found, of_function = Ownership.OVER, function
    return found, of_function
