"""Finding apps: which objects are one app, what an app wraps, and what is mounted inside it.

Objects are compared by identity alone: routes have no hash, and two mounts of one app are equal. They are read and are
never called; see `introspection`. The paths in the table of containers are followed with ``getattr``, for frameworks
keep their routes behind properties.
"""

import functools
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import CO_VARARGS
from itertools import groupby
from operator import attrgetter
from types import CodeType, FunctionType, MethodType
from typing import Any, final

from .._asgi import name_of
from .._log import logger
from .._types import State, is_a
from .containers import NO_APP, UNASKED, UNKNOWN, ContainerSpec, Edge, EdgeKind, LifespanPolicy, full_name, spec_of
from .introspection import (
    MAX_ITEMS,
    attribute_of_class,
    attributes_of,
    called_function,
    closure_of,
    defaults_of,
    globals_in,
    is_function,
    items_of,
    names_in,
)
from .state import SharedState

ASGI_ARGUMENTS = 3
"""An ASGI app is called with ``scope``, ``receive`` and ``send``."""

MAX_WRAPPERS = 100
"""An app with more wrappers around it makes its ``.app`` anew whenever the attribute is read."""


# Shared by all nodes that have none, for a tree may have thousands; never written to.
_NOTHING: Mapping[int, Any] = {}
_NO_FORMS: Mapping[str, Any] = {}
_NO_STATE: State = {}


@final
class AppNode:
    """An app in the tree of one run.

    Attributes:
        app: The app.
        path: Where it is mounted, as a client types it; empty for the root.
        is_mount: Whether it is mounted, rather than wrapped in an app that got no lifespan.
        label: The name in messages: ``mount '/admin'``, ``app FastAPI``.
        parent: The app that it is nested in; None for the root.
        members: The objects that are this app, by identity: the app, its router, what known wrappers forward to.
        wrapped: The objects that unknown wrappers among the members hold, and may forward to, by identity.
        forwarded: The objects that it starts by itself, with lifespans of their own, by identity.
        forms: The members and wrapped objects whose classes are in the table, by the names of the rows.
        lifespans: The functions that are run for its lifespan, as far as they are known.
        policy: The row of the table that says if it is sent a lifespan.
        children: The apps nested in it, in the order in which they were found.
        reason: Why it is not started by us; empty if it is.
        is_started: Whether it has started, by us or by another app.
        is_supported: Whether it supports the lifespan; true until it refused one.
        refusal: The exception with which it refused; None if it did not, or just returned.
        shared: The state that requests to it see. *Invariant:* set before it starts, as the next two.
        given: The state that it was given.
        state: The dictionary in which it was given. The one of the root is the server's own.
        added: The keys of the state that it set.
    """

    __slots__ = (
        "added", "app", "children", "forms", "forwarded", "given", "is_mount", "is_started", "is_supported", "label",
        "lifespans", "members", "parent", "path", "policy", "reason", "refusal", "shared", "state", "wrapped",
    )  # fmt: skip

    def __init__(
        self, app: Any, path: str = "", label: str = "", parent: "AppNode | None" = None, *, is_mount: bool = False
    ) -> None:
        """Make the record of an app; `describe` fills it in."""
        self.app = app
        self.path = path
        self.is_mount = is_mount
        self.label = label
        self.parent = parent
        self.members = self.wrapped = self.forwarded = _NOTHING
        self.forms = _NO_FORMS
        self.lifespans: Sequence[Any] = ()
        self.policy = UNKNOWN
        self.children: list[AppNode] = []
        self.reason = ""
        self.is_started = False
        self.is_supported = True
        self.refusal: Exception | None = None
        self.shared: SharedState | None = None
        self.given = self.state = _NO_STATE
        self.added: Sequence[str] = ()

    def reaches(self, known: Collection[int]) -> bool:
        """Return whether one of the objects that its lifespan reaches, or may reach, is known, by identity."""
        return bool(known) and any(
            key in known for part in (self.members, self.wrapped, self.forwarded) for key in part
        )

    def around(self) -> "Iterator[AppNode]":
        """Return the apps that it is nested in, from the inside out."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent


def describe(node: AppNode) -> AppNode:
    """Fill in which objects are an app, what it may start by itself, its lifespan functions, and its policy."""
    members, wrapped, forwarded = dict[int, Any](), dict[int, Any](), dict[int, Any]()
    forms: dict[str, Any] = {}
    lifespans: list[Any] = []
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
        if spec.lifespan and part is members:
            lifespans += follow(thing, spec.lifespan)
        if is_self and spec.sent is not LifespanPolicy.ALWAYS and node.policy is UNKNOWN:
            node.policy = spec
        for inner, kind, _ in edges_of(thing, parts=False):
            goes_on = {EdgeKind.FORWARDS: forwarded, EdgeKind.WRAPS: wrapped if part is members else part}
            todo.append((inner, goes_on.get(kind, part), is_self and kind is EdgeKind.SELF))
    node.members, node.wrapped, node.forwarded = members, wrapped or _NOTHING, forwarded or _NOTHING
    node.forms, node.lifespans = forms, lifespans
    if node.policy is UNKNOWN:
        node.policy = _policy_inside(node)
    node.label = node.label or f"app {name_of(node.app)}"
    return node


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
        lists: The objects and paths that led to several objects, with their number; more of them is news.
        reached: The objects that do get it, apart from the app.
        forwarded: Those of them that the app starts with a lifespan of their own.
    """

    nested: list[AppNode] = field(default_factory=list[AppNode])
    lists: list[tuple[Any, str, int]] = field(default_factory=list[tuple[Any, str, int]])
    reached: list[Any] = field(default_factory=list[Any])
    forwarded: list[AppNode] = field(default_factory=list[AppNode])


_NOTHING_INSIDE = Inside()


def has_news(lists: Sequence[tuple[Any, str, int]]) -> bool:
    """Return whether something was mounted since a look; `lists` is what the look found."""
    return any(len(follow(thing, path)) != count for thing, path, count in lists)


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
        for inner, kind, segment in edges_of(place.thing, lists=self.inside.lists):
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


def all_nested(app: object) -> Iterator[AppNode]:
    """Return the apps that are nested in an app, at any depth."""
    todo, seen = [AppNode(app)], set[int]()
    while todo:
        outer = todo.pop()
        if id(outer.app) not in seen:
            seen.add(id(outer.app))
            inside = look_inside(outer)
            todo += inside.nested
            yield from inside.nested
            yield from inside.forwarded


def is_nested(wanted: object, app: object) -> bool:
    """Return whether an app is found, at any depth, in another one."""
    for node in all_nested(app):
        describe(node)
        if node.reaches({id(wanted)}):
            return True
    return False


# --- the objects inside an object ---


def edges_of(
    app: object, *, parts: bool = True, lists: list[tuple[Any, str, int]] | None = None
) -> list[tuple[Any, EdgeKind, str | None]]:
    """Return what is inside an object, each with the part of the URL that leads there; the first way counts.

    Args:
        app: The object.
        parts: Whether its routes and mounts count too, and not only what gets or may get a lifespan of the object.
        lists: Takes the paths that lead to several objects; see `Inside`.
    """
    spec = spec_of(app)
    found: dict[int, tuple[Any, EdgeKind, str | None]] = {}
    for path, edges in _by_path(spec, parts):
        inside = follow(app, path)
        if lists is not None and "[" in path:
            lists.append((app, path, len(inside)))
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
                found = [getattr(one, step) for one in found]
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


# --- wrappers that nobody described ---


def wrapped_by(wrapper: Any) -> list[Any]:
    """Return the apps that a wrapper of the user's own holds and that its code uses.

    The attribute may have any name; a closure, a partial and a bound method hold apps too. An app that the code of the
    wrapper never names is kept for another reason: ``Plugin(app)`` mounts itself in `app`.
    """
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
        return [(decorated, is_certain), *((thing, False) for thing in kept)]
    if is_a(wrapper, type) or not callable(wrapper):
        return []
    # Gate(app).handle, mounted as a bound method, holds what the gate holds.
    owner: Any = getattr(wrapper, "__self__", None) if is_a(wrapper, MethodType) else wrapper
    if owner is not wrapper and spec_of(owner) is not UNKNOWN:
        return [(owner, False)]
    function, _ = called_function(wrapper)
    own = attributes_of(owner)
    if function is not None:
        used = _names_used(function, owner)
        if "getattr" not in used:
            own = {name: own[name] for name in own if name in used}
        own |= _class_attributes(function.__code__, _class_of(owner))
    held: list[tuple[Any, bool]] = []
    for name, value in own.items():
        is_certain = name in {"app", "__wrapped__"} and callable(value) and not is_a(value, type)
        held += [(value, is_certain), *((item, False) for item in items_of(value))]
    return held


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


def _names_used(function: FunctionType, owner: object) -> frozenset[str]:
    """Return the names that a function uses, and those that the methods of its owner use which it names."""
    return _names_of_code(function.__code__, _class_of(owner))


@functools.lru_cache(maxsize=1000)
def _class_attributes(code: CodeType, cls: type) -> dict[str, Any]:
    """Return the apps that a class keeps for all its objects, and that a method uses: ``inner = FastAPI()``."""
    found = {name: attribute_of_class(cls, name) for name in _names_of_code(code, cls)}
    return {name: value for name, value in found.items() if callable(value) and not is_function(value)}


@functools.lru_cache(maxsize=1000)
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


def expects_lifespan(app: Any, is_around: Callable[[Any], bool] = lambda _: False) -> bool:
    """Return whether an app may expect a lifespan: the code that a call reaches names it, or it wraps an app.

    A mounted app got no lifespan before this package came. A plain function that reads the body first, or that loops
    until the client disconnects, would break or hang at one. What is not written in Python is given the benefit of the
    doubt.

    Args:
        app: The app.
        is_around: Returns if an object is an app that this one is mounted in, which it may hold for its version.
    """
    todo, seen = [app], set[int]()
    while todo and len(seen) < MAX_ITEMS:
        thing = todo.pop()
        if id(thing) in seen or is_a(thing, type):
            continue
        seen.add(id(thing))
        if spec_of(thing) is not UNKNOWN and not is_a(thing, MethodType):
            return True
        function, _ = called_function(thing)
        if function is None:
            return callable(thing)
        if names_lifespan(thing):
            return True
        todo += [held for held, _ in _held_by(thing) if callable(held) and not is_around(held)]
        todo += _named_in_package(function)
    return False


def names_lifespan(app: Any) -> bool:
    """Return whether the code that a call of an app runs names the lifespan, not counting what the app wraps."""
    function, bound = called_function(app)
    if function is None:
        return False
    return _names_the_lifespan(function.__code__, _class_of(bound[-1] if bound else None))


@functools.lru_cache(maxsize=1000)
def _names_the_lifespan(code: CodeType, cls: type) -> bool:
    return any(map(_is_about_lifespan, _names_of_code(code, cls)))


def _is_about_lifespan(name: str) -> bool:
    return name == "lifespan" or name.startswith("lifespan.") or ("lifespan" in name and name.isidentifier())


def _named_in_package(function: FunctionType) -> Iterator[Any]:
    """Return the functions that a function names, and the methods of classes, if they are of the same package."""
    package = str(function.__globals__.get("__name__", "")).partition(".")[0]
    for name in globals_in(function.__code__):
        thing = function.__globals__.get(name)
        if is_function(thing) and str(thing.__module__).partition(".")[0] == package:
            yield thing
        elif is_a(thing, type) and str(thing.__module__).partition(".")[0] == package:
            yield from (method for method in vars(thing).values() if is_function(method))
