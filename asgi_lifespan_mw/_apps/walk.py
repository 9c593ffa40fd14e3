"""Finding apps: which objects are one app, what an app wraps, and what is mounted inside it.

Objects are compared by identity alone: routes have no hash, and two mounts of one app are equal. They are read and are
never called; see `objects`. The paths in the table of containers are followed with ``getattr``, for frameworks
keep their routes behind properties.
"""

import functools
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from types import MethodType
from typing import Any, final

from .._asgi import name_of
from .._log import logger
from .._types import is_a
from .doors import without_recorder
from .frameworks import (
    MCP_PACKAGES,
    NO_APP,
    SESSION_MANAGER,
    UNASKED,
    UNKNOWN,
    ContainerSpec,
    Door,
    Edge,
    EdgeKind,
    LifespanPolicy,
    full_name,
    spec_of,
)
from .node import AppNode
from .objects import attributes_of, called_function, closure_of, holds_nothing, is_function, undecorated
from .wrappers import names_lifespan, wrapped_by

MAX_WRAPPERS = 100
"""An app with more wrappers around it makes its ``.app`` anew whenever the attribute is read."""


def describe(node: AppNode) -> AppNode:
    """Fill in which objects are an app, what it may start by itself, its lifespan functions, and its policy."""
    node.label = node.label or f"app {name_of(node.app)}"
    if is_function(node.app) and holds_nothing(node.app) and spec_of(node.app) is UNKNOWN:
        node.members, node.forms = {id(node.app): node.app}, {UNKNOWN.name: node.app}
        return node
    members, wrapped, forwarded = dict[int, Any](), dict[int, Any](), dict[int, Any]()
    forms: dict[str, Any] = {}
    lifespans: list[Any] = []
    doors: list[tuple[Any, Door]] = []
    todo: list[tuple[Any, dict[int, Any], bool]] = [(node.app, members, True)]
    seen = set[int]()
    while todo and len(seen) < MAX_WRAPPERS:
        thing, part, is_self = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        part[id(thing)] = thing
        spec = spec_of(thing)
        if part is not forwarded:
            forms.setdefault(spec.name, thing)
        if part is members:
            if spec.lifespan:
                lifespans += follow(thing, spec.lifespan)
            doors += [(thing, door) for door in spec.doors]
        if is_self and spec.sent is not LifespanPolicy.ALWAYS and node.policy is UNKNOWN:
            node.policy = spec
        for inner, kind, _ in edges_of(thing, parts=False):
            goes_on = {EdgeKind.FORWARDS: forwarded, EdgeKind.WRAPS: wrapped if part is members else part}
            todo.append((inner, goes_on.get(kind, part), is_self and kind is EdgeKind.SELF))
    node.members, node.wrapped, node.forwarded = members, wrapped or node.wrapped, forwarded or node.forwarded
    node.forms, node.lifespans = forms, lifespans
    node.doors = doors + [found for lifespan in lifespans for found in _doors_held_by(lifespan)]
    if node.policy is UNKNOWN:
        node.policy = _policy_inside(node)
    return node


def _doors_held_by(lifespan: Any) -> Iterator[tuple[Any, Door]]:
    """Return the doors of what a lifespan runs: the session manager in ``lambda app: session_manager.run()``."""
    function, bound = called_function(lifespan)
    # A parent that runs the manager by hand, in a lifespan of its own, holds it too.
    if function is None or not str(undecorated(function).__module__).startswith(MCP_PACKAGES):
        return
    for thing in (*closure_of(undecorated(function)).values(), *bound):
        for part in (thing, *attributes_of(thing).values()):
            yield from ((part, door) for door in spec_of(part).doors if spec_of(part).name == SESSION_MANAGER)


def _policy_inside(node: AppNode) -> ContainerSpec:
    """Return the row of an app that a wrapper passes the lifespan on to, of a kind that is sent none."""
    if not callable(node.app):
        return NO_APP
    for row in UNASKED:
        module, _, name = row.name.rpartition(".")
        if module in sys.modules and id(vars(sys.modules[module]).get(name)) in {*node.members, *node.wrapped}:
            return row
    inside = [*node.members.values(), *node.wrapped.values()]
    policy = next((spec for spec in map(spec_of, inside) if spec.sent is not LifespanPolicy.ALWAYS), UNKNOWN)
    # CORSMiddleware(WsgiToAsgi(flask)) would only raise; a wrapper with a lifespan of its own answers it.
    return UNKNOWN if policy is not UNKNOWN and names_lifespan(node.app) else policy


@final
@dataclass(slots=True, eq=False)
class Inside:
    """What is inside an app.

    Attributes:
        nested: The apps that do not get its lifespan, in the order of the routes.
        reached: The objects that do get it, apart from the app.
        forwarded: Those of them that the app starts with a lifespan of their own.
    """

    nested: list[AppNode] = field(default_factory=list[AppNode])
    reached: list[Any] = field(default_factory=list[Any])
    forwarded: list[AppNode] = field(default_factory=list[AppNode])


_NOTHING_INSIDE = Inside()


def look_inside(
    node: AppNode,
    *,
    delivered: bool = True,
    excluded: Collection[int] = (),
    passed: Callable[[Any], bool] = lambda _: True,
) -> Inside:
    """Find what is nested in an app, without looking inside what is found.

    Args:
        node: The app.
        delivered: Whether the app supports the lifespan. If not, what it passes on got none either, and is nested.
        excluded: Objects that are not looked into, by identity, though they are found.
        passed: Returns if an app got the lifespan of the wrapper that holds it. Without a run, all do.
    """
    if len(node.members) == 1 and not node.wrapped and UNKNOWN.name in node.forms:
        return _NOTHING_INSIDE  # `describe` saw that this app wraps nothing
    look = _Look(node, excluded, passed)
    # A stack of walks in place of a recursion: Mount(routes=[Mount(routes=[...])]) may be nested 500 times.
    todo = [look.sort(_Place(node.app, node.path, 0, delivered))]
    while todo:
        place = next(todo[-1], None)
        if place is None:
            todo.pop()
        else:
            todo.append(look.sort(place))
    return look.inside


@final
@dataclass(slots=True, eq=False)
class _Place:
    """An object that is looked into: where it is, how many unknown wrappers are around it, if it got the lifespan."""

    thing: Any
    path: str
    depth: int
    delivered: bool


@final
class _Look:
    """One look inside an app: sorts what each object holds."""

    def __init__(self, node: AppNode, excluded: Collection[int], passed: Callable[[Any], bool]) -> None:
        self.inside = Inside()
        self._node = node
        self._excluded = excluded
        self._passed = passed
        self._seen = {id(node.app)}
        if node.wrapped:
            # An app that keeps the one that it is mounted in, for its version, does not lead back to it.
            self._seen |= {id(outer.app) for outer in node.around()}

    def sort(self, place: "_Place") -> "Iterator[_Place]":
        """Sort what one object holds; return what is to be looked into."""
        for inner, kind, segment in edges_of(place.thing):
            if id(inner) in self._seen:
                if kind is EdgeKind.MERGED:  # app.mount("/a", router); app.include_router(router)
                    self.inside.reached.append(inner)
                continue
            self._seen.add(id(inner))
            path = _joined(place.path, segment or "")
            if _is_nested(kind, inner, delivered=place.delivered, passed=self._passed):
                is_mount = kind is EdgeKind.SKIPS and (segment is not None or path != "")
                self.inside.nested.append(_nested(inner, path, self._node, is_mount=is_mount))
            elif id(inner) not in self._excluded:
                yield from self._reach(place, inner, kind, path)

    def _reach(self, place: "_Place", inner: Any, kind: EdgeKind, path: str) -> "Iterator[_Place]":
        """Record an object that gets the lifespan; return where to look on."""
        if kind is EdgeKind.PART and spec_of(inner) is UNKNOWN:
            return  # a route that is not in the table is not an app, even if it has an `.app`
        if kind is not EdgeKind.PART:
            self.inside.reached.append(inner)
        if kind is EdgeKind.FORWARDS:
            self.inside.forwarded.append(_nested(inner, path, self._node, is_mount=path != place.path))
        if place.depth < MAX_WRAPPERS:
            depth = place.depth + (spec_of(place.thing) is UNKNOWN)
            yield _Place(inner, path, depth, delivered=place.delivered or kind is EdgeKind.FORWARDS)


def _is_nested(kind: EdgeKind, inner: Any, *, delivered: bool, passed: Callable[[Any], bool]) -> bool:
    """Return whether what an edge leads to got no lifespan from the object that holds it."""
    if kind is EdgeKind.WRAPS:
        return not (delivered and passed(inner))
    return kind is EdgeKind.SKIPS or (kind is EdgeKind.PASSES_ON and not delivered)


def _joined(path: str, segment: str) -> str:
    """Return the path of what is behind a segment; the name of a host comes first."""
    return path + segment if segment.startswith("/") else segment + path


def _nested(app: Any, path: str, parent: AppNode, *, is_mount: bool) -> AppNode:
    label = f"mount {path or '/'!r}" if is_mount else f"app {name_of(app)}"
    return AppNode(app, path, label, parent, is_mount=is_mount)


def all_nested(top: AppNode, seen: dict[int, Any] | None = None) -> Iterator[AppNode]:
    """Return the apps that are nested in an app, at any depth, described.

    Those `seen`, by identity, are not looked into; what is looked into is added.
    """
    todo, seen = [top], dict[int, Any]() if seen is None else seen
    while todo:
        outer = todo.pop()
        if id(outer.app) not in seen:
            seen[id(outer.app)] = outer.app
            inside = look_inside(outer)
            todo += inside.nested
            # Described before they are looked into: most of them are seen to wrap nothing.
            yield from map(describe, (*inside.nested, *inside.forwarded))


def is_nested(wanted: object, app: object) -> bool:
    """Return whether an app is found, at any depth, in another one."""
    return any(node.reaches({id(wanted)}) for node in all_nested(AppNode(app)))


# --- the objects inside an object ---


def edges_of(app: object, *, parts: bool = True) -> list[tuple[Any, EdgeKind, str | None]]:
    """Return what is inside an object, each with the part of the URL that leads there; the first way counts.

    Args:
        app: The object.
        parts: Whether its routes and mounts count too, and not only what gets or may get a lifespan of the object.
    """
    spec = spec_of(app)
    found: dict[int, tuple[Any, EdgeKind, str | None]] = {}
    for path, edges in _by_path(spec, parts):
        inside = follow(app, path)
        segments = None if spec.segment is None else _segments(app, spec.segment, len(inside))
        for at, inner in enumerate(inside):
            for edge in edges:
                if _leads(edge, app, inner):
                    if id(inner) not in found:
                        found[id(inner)] = inner, edge.kind, None if segments is None else segments[at]
                    break
    if spec is UNKNOWN or is_a(app, MethodType):
        for inner in wrapped_by(app):
            found.setdefault(id(inner), (inner, EdgeKind.WRAPS, None))
    # socketio.ASGIApp(server, app, on_startup=f): the first way to the app says that it is skipped.
    return [edge for edge in found.values() if parts or edge[1] not in _INERT]


_INERT = {EdgeKind.PART, EdgeKind.MERGED, EdgeKind.SKIPS}
"""What gets no lifespan of the object that it is in."""


@functools.cache
def _by_path(spec: ContainerSpec, parts: bool) -> list[tuple[str, list[Edge]]]:  # noqa: FBT001 - cached by position
    by_path = [(path, list(edges)) for path, edges in groupby(spec.ways, attrgetter("path"))]
    if parts:
        return by_path
    return [(path, edges) for path, edges in by_path if not {edge.kind for edge in edges} <= _INERT]


_steps = functools.cache(re.compile(r"\w+|\[\w*\]").findall)


def follow(thing: Any, path: str, *, keys: bool = False) -> list[Any]:
    """Return what a path of the table leads to; nothing if a framework's version lacks an attribute.

    With `keys`, ``[]`` stands for the keys of a mapping in place of its values.
    """
    found = [thing]
    try:
        for step in _steps(path):
            if step[0] == "[":
                found = [inner for one in found for inner in _items(one, step[1:-1], keys=keys)]
            else:
                found = [without_recorder(getattr(one, step)) for one in found]
    except Exception as error:
        logger.debug("%s has no %r to look into", type(thing).__qualname__, path, exc_info=error)
        return []
    return found


def _items(thing: Any, key: str, *, keys: bool) -> list[Any]:
    """Return what a step in brackets leads to: ``[]``, ``[1]`` or ``[key]``."""
    if not key:
        return list(thing.values() if hasattr(thing, "values") and not keys else thing)
    if key.isdigit():
        return [thing[int(key)]]
    return [thing[key]] if key in thing else []


def _segments(app: object, path: str, count: int) -> Sequence[str]:
    """Return the parts of the URL that lead to so many apps."""
    found = follow(app, path, keys=True)
    texts = [text.decode() if isinstance(text, bytes) else text for text in found]
    segments = [text.rstrip("/*") if isinstance(text, str) else "" for text in texts]
    return segments if len(segments) == count else (segments[:1] or [""]) * count


def _leads(edge: Edge, container: object, inner: Any) -> bool:
    """Return whether an edge of the table leads from a container to an object."""
    if edge.only is not None and edge.only not in map(full_name, type(inner).__mro__):
        return False
    if edge.when is not None and not any(follow(container, edge.when)):
        return False
    if edge.kind is EdgeKind.PART:
        return True
    # `Router.default` is a method of the router itself, unless the user gives an app.
    return callable(inner) and not (is_a(inner, MethodType) and inner.__self__ is container)
