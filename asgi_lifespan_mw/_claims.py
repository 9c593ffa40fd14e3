"""Which apps a lifespan runs by itself, as far as its code can be read.

Parents run the lifespans of their sub-apps in many ways: ``lifespan=sub.router.lifespan_context``, by hand in an
``async with``, merged by ``include_router()``, combined by FastMCP. A second run would start everything twice, and
breaks some apps for good. Nothing is called and nothing is changed here: functions are read.
"""

import functools
import inspect
import types
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast, final

from ._registry import HookRegistry

RUNS_IT = frozenset({"lifespan_context", "lifespan"})
"""The attributes by which code runs an app's lifespan; code that names none of them only mounts the app."""

MOST_ITEMS = 1000
"""A container with more items is data, no list of lifespans."""


class Claim(Enum):
    """Whether a lifespan runs an app."""

    NONE = "does not run it"
    DOUBT = "may run it"
    CERTAIN = "runs it"


@final
@dataclass(slots=True)
class Reading:
    """What was read of one lifespan.

    Attributes:
        held: what its functions hold: in closures, partials, defaults, behind decorators.
        named: the globals that its code names, and what they hold.
        words: all names in its code.
    """

    held: dict[int, object] = field(default_factory=dict[int, object])
    named: dict[int, object] = field(default_factory=dict[int, object])
    words: set[str] = field(default_factory=set[str])

    def claim(self, apps: Iterable[object], lifespans: Iterable[object]) -> Claim:
        """Whether this lifespan runs an app.

        Args:
            apps: the objects that are the app.
            lifespans: the functions that are its lifespan.
        """
        claim = Claim.NONE
        for lifespan in lifespans:
            if id(lifespan) in self.held and _belongs_to_one_app(lifespan):
                return Claim.CERTAIN
            if any(id(alias) in self.held or id(alias) in self.named for alias in _aliases(lifespan)):
                claim = Claim.DOUBT
        if self.words & RUNS_IT and any(id(app) in self.held or id(app) in self.named for app in apps):
            return Claim.DOUBT
        return claim


def read(lifespan: object) -> Reading:
    """Read a lifespan: what it holds, what it names."""
    reading = Reading()
    module = getattr(inspect.unwrap(lifespan) if callable(lifespan) else lifespan, "__globals__", None)
    todo: list[tuple[object, dict[int, object]]] = [(lifespan, reading.held)]
    while todo:
        thing, shelf = todo.pop()
        if id(thing) in reading.held or id(thing) in shelf:
            continue
        shelf[id(thing)] = thing
        todo += [(inner, shelf) for inner in _held_by(thing)]
        if isinstance(thing, types.FunctionType) and (shelf is reading.held or thing.__globals__ is module):
            names = _words(thing.__code__)
            reading.words |= names
            todo += [(inner, reading.named) for inner in _globals_named(thing, names)]
    return reading


def _held_by(thing: Any) -> Iterator[object]:
    match thing:
        case functools.partial():
            yield from (thing.func, *thing.args, *thing.keywords.values())
        case types.MethodType():
            yield from (thing.__self__, thing.__func__)
        case types.FunctionType():
            yield from _cells(thing)
            yield from thing.__defaults__ or ()
            yield from (thing.__kwdefaults__ or {}).values()
            yield from _wrapped(thing)
        case HookRegistry():
            yield from (hook.function for hook in thing.plan())
        case dict() | list() | tuple() | set() | frozenset():
            yield from _items(cast("Collection[object]", thing))
        case _:
            pass


def _items(collection: Collection[object]) -> Iterator[object]:
    if len(collection) <= MOST_ITEMS:
        yield from collection.values() if isinstance(collection, dict) else collection


def _cells(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable that is not set yet
            continue


def _wrapped(function: Any) -> Iterator[object]:
    if hasattr(function, "__wrapped__"):
        yield function.__wrapped__


def _words(code: types.CodeType) -> set[str]:
    """The names in a function's code, and in that of the functions inside it."""
    words = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            words |= _words(constant)
    return words


def _globals_named(function: types.FunctionType, names: set[str]) -> Iterator[object]:
    for name in names:
        thing = function.__globals__.get(name)
        if isinstance(thing, types.ModuleType):  # `shop.admin` names the app `admin` of the module `shop`
            yield from (vars(thing)[inner] for inner in names if inner in vars(thing))
        elif thing is not None:
            yield thing


def _aliases(lifespan: Any) -> Iterator[object]:
    """A lifespan and the functions that its decorators wrap."""
    while lifespan is not None:
        yield lifespan
        lifespan = getattr(lifespan, "__wrapped__", None)


def _belongs_to_one_app(lifespan: object) -> bool:
    """Whether a lifespan is bound to something. A plain function may serve several apps, each with a run of its own."""
    if isinstance(lifespan, types.FunctionType):
        return any(_belongs_to_one_app(held) for held in (*_cells(lifespan), *_wrapped(lifespan)))
    return not isinstance(lifespan, (type, types.BuiltinFunctionType))
