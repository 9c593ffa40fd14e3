"""What lifespans hold and name: a bounded look, for apps whose start cannot be observed.

The start of some apps is not an asynchronous generator: Quart's ``startup()``, the event handlers that
``router.startup()`` runs, a lifespan that is a class or a plain generator. Code around such an app may start it if the
code holds or names the app, or reaches apps by their routes, and uses a name by which apps are started. Functions are
read and never called; see `objects`.
"""

import functools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any, cast, final

from .._types import is_a
from .objects import (
    MAX_ITEMS,
    attributes_of,
    called_function,
    closure_of,
    defaults_of,
    globals_in,
    is_function,
    items_of,
    names_in,
    undecorated,
)

STARTS = frozenset({"lifespan", "lifespan_context", "startup", "_startup", "start", "LifespanManager"})
"""The names by which code starts an app; code that uses none of them only mounts or mentions the app."""

ENTERS = frozenset({"lifespan_context", "startup", "_startup", "LifespanManager"})
"""Those of them by which a function starts apps that it reaches by their ``routes``, without a name."""


@final
@dataclass(slots=True, eq=False)
class References:
    """What some lifespans and hooks hold and name.

    Attributes:
        held: The identities of the objects.
        has_start: Whether the code uses a name by which apps are started.
        enters_routes: Whether a function starts apps that it reaches by their routes.
    """

    held: set[int] = field(default_factory=set[int])
    has_start: bool = False
    enters_routes: bool = False

    def may_start(self, things: Collection[object]) -> bool:
        """Return whether the code may start an app that consists of these objects."""
        return self.enters_routes or (self.has_start and any(id(thing) in self.held for thing in things))


def references_of(lifespans: Iterable[Any]) -> References:
    """Return what lifespans and hooks hold and name, in at most `MAX_ITEMS` objects."""
    found = References()
    todo, kept = [thing for lifespan in lifespans for thing in _parts(lifespan)], list[Any]()
    read = {id(thing) for thing in todo}
    while todo and len(kept) < MAX_ITEMS:
        thing = todo.pop()
        if id(thing) in found.held:
            continue
        found.held.add(id(thing))
        kept.append(thing)  # while its identity counts
        todo += items_of(thing)
        if id(thing) not in read and not is_a(thing, FunctionType, MethodType, functools.partial):
            continue  # an app, a client: it is held, and its own code is not that of the lifespan
        function, bound = called_function(thing)
        todo += bound
        if function is not None:
            inner = undecorated(function)
            found.held.add(id(inner))
            names = names_in(inner.__code__)
            found.has_start |= bool(names & STARTS)
            found.enters_routes |= "routes" in names and bool(names & ENTERS)
            todo += _held_by(inner)
            todo += [attribute for owner in bound for attribute in _named_attributes(owner, inner)]
    return found


def _parts(lifespan: Any) -> Iterator[Any]:
    """Return a lifespan; of one that is a class, or a function that makes such an object, the methods too."""
    yield lifespan
    if is_a(lifespan, type):
        yield from filter(is_function, vars(cast("type[object]", lifespan)).values())


def _held_by(function: FunctionType) -> Iterator[Any]:
    yield from closure_of(function).values()
    yield from defaults_of(function)
    names = names_in(function.__code__)
    for name in globals_in(function.__code__):
        thing = function.__globals__.get(name)
        if is_a(thing, ModuleType):  # `shop.admin` names the app `admin` of the module `shop`
            yield from (vars(thing)[inner] for inner in names if inner in vars(thing))
        elif thing is not None and not _is_foreign(thing, function):
            yield thing
            yield from _named_attributes(thing, function)


def _named_attributes(thing: Any, function: FunctionType) -> Iterator[Any]:
    """Return the attributes of an object that a function names: ``self.sub``, ``registry.sub``."""
    names = names_in(function.__code__)
    yield from (value for name, value in attributes_of(thing).items() if name in names)


def _is_foreign(thing: Any, function: FunctionType) -> bool:
    """Return whether a function is of another package than the one that names it."""
    package = str(function.__globals__.get("__name__", "")).partition(".")[0]
    return is_function(thing) and str(thing.__globals__.get("__name__", "")).partition(".")[0] != package
