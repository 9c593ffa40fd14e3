"""Which apps a lifespan runs by itself, as far as its code can be read.

Parents run the lifespans of their sub-apps in many ways: ``lifespan=sub.router.lifespan_context``, by hand in an
``async with``, merged by ``include_router()``, combined by FastMCP. A second run would start everything twice, and
breaks some apps for good. Nothing is called and nothing is changed here: functions are read.
"""

import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast, final

from ._app import is_a
from ._registry import HookRegistry

RUNS_IT = frozenset({"lifespan_context", "lifespan"})
"""The attributes by which code runs an app's lifespan; code that names none of them only mounts the app."""

_VALUES = (str, bytes, int, float, type(None), dict, list, tuple, set, frozenset)

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
        if not self.words.isdisjoint(RUNS_IT) and any(id(app) in self.held or id(app) in self.named for app in apps):
            return Claim.DOUBT
        return claim


def read(lifespan: object) -> Reading:
    """Read a lifespan: what it holds, what it names."""
    reading = Reading()
    # With each thing the globals of the function that named it: helpers are followed inside one module.
    todo: list[tuple[Any, dict[int, object], object]] = [(lifespan, reading.held, None)]
    todo += [(part, reading.held, None) for part in _parts(lifespan)]
    while todo:
        thing, shelf, module = todo.pop()
        if id(thing) in reading.held or id(thing) in shelf:
            continue
        shelf[id(thing)] = thing
        todo += [(inner, shelf, module) for inner in _held_by(thing)]
        if is_a(thing, types.FunctionType) and (shelf is reading.held or thing.__globals__ is module):
            names = _words(thing.__code__)
            reading.words |= names
            todo += [(inner, reading.named, thing.__globals__) for inner in _globals_named(thing, names)]
    return reading


def _parts(lifespan: Any) -> Iterator[object]:
    """The methods of a lifespan that is a class of contexts; of an object that can be called, what it keeps too."""
    if is_a(lifespan, type):
        attributes = cast("Mapping[str, object]", vars(lifespan))
        yield from (method for method in attributes.values() if is_a(method, types.FunctionType))
    elif not is_a(lifespan, types.FunctionType, types.MethodType):
        yield getattr(cast("type[object]", type(lifespan)), "__call__", None)  # noqa: B004 - the method itself is wanted
        if not is_a(lifespan, HookRegistry):
            # FastHTML: `app.lifespan.ls` is the user's.
            yield from getattr(lifespan, "__dict__", {}).values()


def _held_by(thing: Any) -> Iterator[object]:
    if is_a(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif is_a(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif is_a(thing, types.FunctionType):
        yield from _cells(thing)
        yield from thing.__defaults__ or ()
        yield from (thing.__kwdefaults__ or {}).values()
        yield from _wrapped(thing)
    elif is_a(thing, HookRegistry):
        yield from (hook.function for hook in thing.plan())
    elif is_a(thing, dict, list, tuple, set, frozenset) and len(thing) <= MOST_ITEMS:
        yield from thing.values() if is_a(thing, dict) else thing


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
        if is_a(thing, types.ModuleType):  # `shop.admin` names the app `admin` of the module `shop`
            yield from (vars(thing)[inner] for inner in names if inner in vars(thing))
        elif thing is not None:
            yield thing


def _aliases(lifespan: Any) -> Iterator[object]:
    """A lifespan and the functions that its decorators wrap."""
    while lifespan is not None:
        yield lifespan
        lifespan = getattr(lifespan, "__wrapped__", None)


def _belongs_to_one_app(lifespan: object) -> bool:
    """Whether a lifespan is bound to an object, such as a server or a router.

    A plain function, one that holds mere values, and a `Lifespan` may serve several apps, each with a run of its own.
    """
    if is_a(lifespan, types.FunctionType):
        return any(_belongs_to_one_app(held) for held in _held_by(lifespan))
    return not is_a(lifespan, type, types.BuiltinFunctionType, HookRegistry, *_VALUES)
