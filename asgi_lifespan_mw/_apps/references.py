"""Which apps a lifespan runs by itself, as far as its code can be read.

Parents run the lifespans of their sub-apps in many ways: ``lifespan=sub.router.lifespan_context``, by hand in an
``async with``, merged by ``include_router()``, merge by FastMCP. A second run would start everything twice, and
breaks some apps for good. Nothing is called and nothing is changed here: functions are read.
"""

import functools
import types
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Any, cast, final

from .._asgi import is_a
from .._hooks.decorators import HookDecorators, hooks_of
from .discovery import attributes_of

RUNS_IT = frozenset({"lifespan_context", "lifespan"})
"""The attributes by which code runs an app's lifespan; code that names none of them only mounts the app."""

_VALUES = (str, bytes, int, float, type(None), dict, list, tuple, set, frozenset)

MOST_ITEMS = 1000
"""A container with more items is data, no list of lifespans."""


class Claim(Enum):
    """Whether a lifespan runs an app, as a reason not to start it."""

    NONE = ""
    DOUBT = "a lifespan around it names it and seems to run it"
    CERTAIN = "is run by a lifespan around it"


@final
class Reading:
    """What was read of one lifespan.

    Attributes:
        held: what its functions hold: in closures, partials, defaults, behind decorators.
        named: the globals that its code names, and what they hold.
        words: all names in its code.
    """

    def __init__(self, lifespan: object) -> None:
        """Read a lifespan: what it holds, what it names."""
        self.held: dict[int, object] = {}
        self.named: dict[int, object] = {}
        self.words: set[str] = set()
        # With each thing the globals of the function that named it: helpers are followed inside one module.
        todo: list[tuple[Any, dict[int, object], object]] = [(lifespan, self.held, None)]
        todo += [(part, self.held, None) for part in _parts(lifespan)]
        while todo:
            thing, shelf, module = todo.pop()
            if id(thing) in self.held or id(thing) in shelf:
                continue
            shelf[id(thing)] = thing
            todo += [(inner, shelf, module) for inner in _held_by(thing)]
            if is_a(thing, types.FunctionType) and (shelf is self.held or thing.__globals__ is module):
                names = _words(thing.__code__)
                self.words |= names
                todo += [(inner, self.named, thing.__globals__) for inner in _globals_named(thing, names)]

    def claim(self, apps: Iterable[object], lifespans: Collection[object]) -> Claim:
        """Whether this lifespan runs an app.

        Args:
            apps: the objects that are the app.
            lifespans: the functions that are its lifespan.
        """
        if any(id(lifespan) in self.held and _belongs_to_one_app(lifespan, set()) for lifespan in lifespans):
            return Claim.CERTAIN
        functions = [function for lifespan in lifespans for function in _unwrapped(lifespan)]
        if self._names(functions) or (self.words & RUNS_IT and self._names(apps)):
            return Claim.DOUBT
        return Claim.NONE

    def _names(self, things: Iterable[object]) -> bool:
        return any(id(thing) in self.held or id(thing) in self.named for thing in things)


def _parts(lifespan: Any) -> Iterator[object]:
    """The methods of a lifespan that is a class of contexts; of an object that can be called, what it keeps too."""
    if is_a(lifespan, type):
        yield from (method for method in attributes_of(lifespan).values() if is_a(method, types.FunctionType))
    elif not is_a(lifespan, types.FunctionType, types.MethodType):
        yield getattr(cast("type[object]", type(lifespan)), "__call__", None)  # noqa: B004 - the method itself is wanted
        if not is_a(lifespan, HookDecorators):
            # FastHTML: `app.lifespan.ls` is the user's.
            yield from attributes_of(lifespan).values()


def _held_by(thing: Any) -> Iterator[object]:
    if is_a(thing, functools.partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif is_a(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif is_a(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            with suppress(ValueError):  # a variable that is not set yet
                yield cell.cell_contents
        yield from (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
        yield attributes_of(thing).get("__wrapped__")
    elif is_a(thing, HookDecorators):
        yield from (hook.function for hook in hooks_of(thing).in_start_order())
    elif is_a(thing, dict, list, tuple, set, frozenset) and len(thing) <= MOST_ITEMS:
        yield from thing.values() if is_a(thing, dict) else thing


def _words(code: types.CodeType) -> set[str]:
    """The names in a function's code, and in that of the functions inside it."""
    inside = (_words(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return {*code.co_names, *code.co_freevars}.union(*inside)


def _globals_named(function: types.FunctionType, names: set[str]) -> Iterator[object]:
    for name in names:
        thing = function.__globals__.get(name)
        if is_a(thing, types.ModuleType):  # `shop.admin` names the app `admin` of the module `shop`
            yield from (vars(thing)[inner] for inner in names if inner in vars(thing))
        else:
            yield thing


def _unwrapped(lifespan: Any) -> Iterable[object]:
    """A lifespan and the functions that its decorators wrap, which may be wrapped in each other."""
    found: dict[int, object] = {}
    while lifespan is not None and id(lifespan) not in found:
        found[id(lifespan)] = lifespan
        function = lifespan.__func__ if is_a(lifespan, types.MethodType) else lifespan
        lifespan = attributes_of(function).get("__wrapped__")
    return found.values()


def _belongs_to_one_app(lifespan: object, seen: set[int]) -> bool:
    """Whether a lifespan is bound to an object, such as a server or a router; `seen` are functions that hold it.

    A plain function, one that holds mere values, and a `Lifespan` may serve several apps, each with a run of its own.
    """
    if not is_a(lifespan, types.FunctionType):
        return not is_a(lifespan, type, types.BuiltinFunctionType, HookDecorators, *_VALUES)
    if id(lifespan) in seen:
        return False
    seen.add(id(lifespan))
    return any(_belongs_to_one_app(held, seen) for held in _held_by(lifespan))
