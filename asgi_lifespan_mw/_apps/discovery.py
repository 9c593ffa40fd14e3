"""Looking inside apps: which objects are one app, and which apps are nested in it and get no lifespan from it.

Objects are looked at, never asked: a lazy one would wake up, and one that answers to any name would tell of apps that
are not there. They are told apart by identity alone: routes have no hash, and two mounts of one app are equal.
"""

import functools
import re
import sys
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from types import MethodType
from typing import Any, cast, final

from .._asgi import is_a, name_of
from .containers import (
    NO_APP,
    UNASKED,
    UNKNOWN,
    ContainerSpec,
    Edge,
    EdgeKind,
    LifespanPolicy,
    full_name,
    logger,
    spec_of,
)

MOST_WRAPPERS = 100
"""An app that is wrapped more often makes its ``.app`` anew whenever it is looked at."""


@final
@dataclass(slots=True, eq=False)
class Nested:
    """An app that gets no lifespan unless we send it one.

    Attributes:
        app: the app.
        path: where it is mounted, as a client would type it; empty for the root.
        label: who it is in messages: ``mount '/admin'``.
    """

    app: Any
    path: str = ""
    label: str = ""


@final
class Identity:
    """One app in all its forms, as it is now.

    Attributes:
        app, path, label: as `Nested` has them.
        aliases: the app, its own router, what it wraps, and what these start with lifespans of their own.
    """

    def __init__(self, app: Any, path: str = "", label: str = "") -> None:
        """Look at an app; without a label it is called by its type."""
        self.app, self.path, self.label = app, path, label or f"app {name_of(app)}"
        found: dict[int, Any] = {}
        forwarded = _gather([app], found)
        self._own = list(found.values())  # what one lifespan reaches
        while forwarded:
            forwarded = _gather(forwarded, found)
        self.aliases = list(found.values())
        self._known = [(thing, row) for thing in self.aliases if (row := spec_of(thing)) is not UNKNOWN]

    def is_one_of(self, known: Collection[int]) -> bool:
        """Whether one of its objects is known, by identity."""
        return bool(known) and any(id(thing) in known for thing in self.aliases)

    def form(self, name: str) -> Any:
        """The object in it that has the row of that name; None if there is none."""
        return next((thing for thing, row in self._known if row.name == name), None)

    @property
    def rule(self) -> ContainerSpec:
        """The row that says whether it is sent a lifespan: classes, static files, responses and WSGI apps get none."""
        if not callable(self.app):
            return NO_APP
        for row in UNASKED:
            module, _, name = row.name.rpartition(".")
            if module in sys.modules and any(thing is getattr(sys.modules[module], name, None) for thing in self._own):
                return row
        return next((row for thing in self._own if (row := spec_of(thing)).sent is not LifespanPolicy.ALWAYS), UNKNOWN)

    @property
    def lifespans(self) -> list[Any]:
        """The functions that are run for its lifespan, as far as they can be read."""
        return [run for thing, row in self._known if row.lifespan for run in follow(thing, row.lifespan)]


def _gather(todo: list[Any], found: dict[int, Any]) -> list[Any]:
    """Find what is one app with the objects `todo`; return what those start by themselves."""
    forwarded: list[Any] = []
    while todo and len(found) < MOST_WRAPPERS:
        thing = todo.pop()
        if id(thing) in found:
            continue
        found[id(thing)] = thing
        for inner, kind, _ in _edges(thing):
            if kind is EdgeKind.SELF or kind is EdgeKind.PASSES_ON:
                todo.append(inner)
            elif kind is EdgeKind.FORWARDS:
                forwarded.append(inner)
    return forwarded


@final
@dataclass(slots=True, eq=False)
class Inside:
    """What one look inside an app found.

    Attributes:
        nested: the apps that its lifespan does not reach, in route order.
        reached: the objects that it does reach, beside the app.
        forwarded: those of them that are started with a lifespan of their own.
    """

    nested: list[Nested]
    reached: list[Any]
    forwarded: list[Nested]


def look_inside(app: object, path: str, *, delivered: bool, excluded: Container[int] = ()) -> Inside:
    """Find what is nested in an app that is mounted at `path`, without looking inside what is found.

    Where its lifespan was not `delivered`, since it turned it away, what it would have passed on is nested too. Apps
    that are `excluded`, by identity, are not looked into, though they are found where they are nested.
    """
    inside = Inside([], [], [])
    seen = {id(app)}

    def look(container: object, path: str, depth: int, *, delivered: bool) -> None:
        deeper = depth + (spec_of(container) is UNKNOWN)
        for inner, kind, segment in _edges(container):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            part = segment or ""
            behind = path + part if part.startswith("/") else part + path  # the name of a host comes first
            if kind is EdgeKind.SKIPS or (kind is EdgeKind.PASSES_ON and not delivered):
                is_mount = kind is EdgeKind.SKIPS and (segment is not None or behind != "")
                inside.nested.append(Nested(inner, behind, _label(inner, behind, is_mount=is_mount)))
            elif id(inner) in excluded or (kind is EdgeKind.PART and spec_of(inner) is UNKNOWN):
                continue  # a route that nobody knows leads nowhere, even if it has an `.app`
            else:
                if kind is not EdgeKind.PART:
                    inside.reached.append(inner)
                if kind is EdgeKind.FORWARDS:
                    inside.forwarded.append(Nested(inner, behind, _label(inner, behind, is_mount=bool(segment))))
                if depth < MOST_WRAPPERS:
                    look(inner, behind, deeper, delivered=delivered or kind is EdgeKind.FORWARDS)

    look(app, path, 0, delivered=delivered)
    return inside


def all_nested(app: object) -> Iterator[Nested]:
    """The apps that are nested in one, at any depth."""
    todo, seen = [Nested(app)], set[int]()
    while todo:
        outer = todo.pop()
        if id(outer.app) not in seen:
            seen.add(id(outer.app))
            nested = look_inside(outer.app, outer.path, delivered=True).nested
            todo += nested
            yield from nested


def is_nested(wanted: object, app: object) -> bool:
    """Whether an app is found, at any depth, in another one."""
    return any(thing is wanted for nested in all_nested(app) for thing in Identity(nested.app).aliases)


def _label(app: object, path: str, *, is_mount: bool) -> str:
    """Who an app is, which is mounted there, or is wrapped in what turned the lifespan away."""
    return f"mount {path or '/'!r}" if is_mount else f"app {name_of(app)}"


def _edges(app: object) -> list[tuple[Any, EdgeKind, str | None]]:
    """What is inside an app, with the part of the URL that leads there; the first way to an object counts."""
    row = spec_of(app)
    by_path = _by_path(row)
    if row is UNKNOWN:
        own = attributes_of(app)
        by_path = [(path, ways) for path, ways in by_path if path in own or _has(type(app), path)]
    if not by_path:
        return []
    found: dict[int, tuple[Any, EdgeKind, str | None]] = {}
    for path, ways in by_path:
        inside = follow(app, path)
        for inner, segment in zip(inside, _segments(app, row, len(inside)), strict=True):
            kind = next((way.kind for way in ways if _leads(way, app, inner)), None)
            if kind is not None:
                found.setdefault(id(inner), (inner, kind, segment))
    return list(found.values())


@functools.cache
def _by_path(row: ContainerSpec) -> list[tuple[str, list[Edge]]]:
    return [(path, list(ways)) for path, ways in groupby(row.ways, attrgetter("path"))]


def attributes_of(thing: object) -> Mapping[str, Any]:
    """An object's own attributes, for which it is not asked."""
    try:
        return cast("Mapping[str, Any]", object.__getattribute__(thing, "__dict__"))
    except Exception:  # it has slots, or its `__dict__` is a property, which may do anything
        return {}


def _has(cls: type, name: str) -> bool:
    """Whether a class has an attribute."""
    for base in cls.__mro__:  # noqa: SIM110 - a third of the time of `any()`, and most of the time of a look
        if name in base.__dict__:
            return True
    return False


_steps = functools.cache(re.compile(r"\w+|\[\w*\]").findall)


def follow(thing: Any, path: str, *, keys: bool = False) -> list[Any]:
    """What a path leads to; nothing where a framework's version lacks an attribute.

    The path is one as `Edge.path` is; with `keys`, ``[]`` stands for the keys of a mapping, in place of its values.
    """
    found = [thing]
    try:
        for step in _steps(path):
            if step.startswith("["):
                found = [inner for one in found for inner in _items(one, step[1:-1], keys=keys)]
            else:
                found = [getattr(one, step) for one in found]
    except Exception as error:  # a property may do anything
        if spec_of(thing) is not UNKNOWN:
            logger.debug("no way inside %s: it has no %r", type(thing).__qualname__, path, exc_info=error)
        return []
    return found


def _items(thing: Any, key: str, *, keys: bool) -> list[Any]:
    """What a step in brackets leads to: ``[]``, ``[1]`` or ``[key]``."""
    if not key:
        return list(thing.values() if hasattr(thing, "values") and not keys else thing)
    if key.isdigit():
        return [thing[int(key)]]
    return [thing[key]] if key in thing else []


def _segments(app: object, row: ContainerSpec, count: int) -> Sequence[str | None]:
    """The parts of the URL that lead to so many apps; None where there is no such part."""
    if row.segment is None:
        return [None] * count
    found = follow(app, row.segment, keys=True)
    texts = [text.decode() if isinstance(text, bytes) else text for text in found]
    segments = [text.rstrip("/*") if isinstance(text, str) else "" for text in texts]
    return segments if len(segments) == count else (segments[:1] or [""]) * count


def _leads(way: Edge, container: object, inner: Any) -> bool:
    """Whether it is by this way that an object is inside a container."""
    if way.only is not None and way.only not in map(full_name, type(inner).__mro__):
        return False
    if way.when is not None and not any(follow(container, way.when)):
        return False
    if way.kind is EdgeKind.PART:
        return True
    # `Router.default` is a method of the router itself, unless the user gives an app.
    return callable(inner) and not (is_a(inner, MethodType) and cast("MethodType", inner).__self__ is container)
