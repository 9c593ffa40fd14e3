"""Where apps are nested in apps, and which of them the lifespan reaches by itself.

Apps are found by looking at objects, never by asking them. The table names the classes whose inside is known; they are
looked up by name along ``type(x).__mro__``, so that no framework is imported and subclasses count. What nobody knows
is taken for a wrapper, a middleware, if it has an ``.app``.

Objects are told apart by identity alone: routes have no hash, and two mounts of one app are equal.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from types import MethodType
from typing import Any, Literal, cast, final

from ._app import is_a, name_of

logger = logging.getLogger("asgi_lifespan_mw")


class Kind(Enum):
    """What a way inside means for the lifespan."""

    SELF = "is the same app under another name"
    PART = "is a part, no app"
    MERGED = "has its lifespan run by the container, as part of its own"
    PASSES_ON = "gets the lifespan that its container gets"
    FORWARDS = "is started by its container, with a lifespan of its own"
    SKIPS = "gets no lifespan from its container"


@final
@dataclass(frozen=True, slots=True)
class Way:
    """A way inside a container.

    Attributes:
        path: the attribute that leads inside. Dots go on, ``[]`` stands for each item: ``"router.routes[]"``.
        kind: what it means for the lifespan.
    """

    path: str
    kind: Kind


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one class.

    Attributes:
        name: the full name of the class.
        why: a word on why it is so.
        ways: the ways inside; none for an app with nothing inside.
        segment: the attribute with the part of the URL that leads inside; None where there is none.
        lifespan: the attribute with the function that is run for its lifespan; None where there is none to be read.
        is_sent: whether it may be sent a lifespan at all.
    """

    name: str
    why: str
    ways: tuple[Way, ...] = ()
    segment: str | None = None
    lifespan: str | None = None
    is_sent: bool = True


_STARLETTE, _ROUTER = "starlette.applications.Starlette", "starlette.routing.Router"

_ROWS = (
    Row(
        _STARLETTE,
        "hands the lifespan to its router; FastAPI is one",
        (Way("router", Kind.SELF),),
        lifespan="router.lifespan_context",
    ),
    Row(
        _ROUTER,
        "answers the lifespan for itself alone",
        (Way("routes[]", Kind.PART), Way("default", Kind.SKIPS)),
        lifespan="lifespan_context",
    ),
    Row("starlette.routing.Mount", "a route to an app", (Way("app", Kind.SKIPS),), segment="path"),
    Row("starlette.routing.Host", "a route to an app", (Way("app", Kind.SKIPS),), segment="host"),
    Row(
        "fastapi.routing._IncludedRouter",
        "include_router() merges the router's lifespan into the app's",
        (Way("original_router", Kind.MERGED),),
        segment="include_context.prefix",
    ),
    Row("starlette.staticfiles.StaticFiles", "serves files and fails at any other scope", is_sent=False),
    Row("starlette.responses.Response", "answers any scope with a response", is_sent=False),
    Row("starlette.middleware.wsgi.WSGIMiddleware", "adapts a WSGI app", is_sent=False),
    Row("a2wsgi.wsgi.WSGIMiddleware", "adapts a WSGI app; uvicorn's is this one", is_sent=False),
    Row("asgiref.wsgi.WsgiToAsgi", "adapts a WSGI app", is_sent=False),
    Row("asgi_lifespan_mw._middleware.LifespanMiddleware", "this package's own", (Way("app", Kind.FORWARDS),)),
)

_table: dict[str, Row] = {row.name: row for row in _ROWS}

MOST_WRAPPERS = 100
"""An app that is wrapped more often makes its ``.app`` anew whenever it is looked at."""

_UNKNOWN_WRAPPER = (Way("app", Kind.PASSES_ON),)


def register_container(
    container: type | str,
    inside: str,
    kind: Literal["passes_on", "forwards", "skips"],
    *,
    segment: str | None = None,
    why: str = "registered by the user",
) -> None:
    """Tell where a container or wrapper of your own keeps its apps, so that they are found.

    It counts for all runs that begin later, and for subclasses. A class that is known already is known anew.

    Args:
        container: the class, or its full name, ``"shop.dispatch.ByTenant"``.
        inside: the attribute that leads to the app, or with ``[]`` to each of several: ``"app"``, ``"tenants[]"``. The
            items of a mapping are its values.
        kind: what becomes of a lifespan that the container gets. ``"passes_on"``: it reaches the app. ``"forwards"``:
            the container starts and stops the app by itself. ``"skips"``: the app gets none, so we start it.
        segment: the attribute with the part of the URL that leads inside, for messages.
        why: a word for whoever reads the table.

    Raises:
        TypeError: `container` is neither a class nor a text.
        ValueError: `kind` is another one, or `inside` is empty.
    """
    name = f"{container.__module__}.{container.__qualname__}" if isinstance(container, type) else container
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the user may be untyped
        raise TypeError(f"register_container() got {container!r}, expected a class or its full name")
    if kind not in ("passes_on", "forwards", "skips"):
        raise ValueError(f"register_container() got kind={kind!r}, expected 'passes_on', 'forwards' or 'skips'")
    if not inside:
        raise ValueError("register_container() got an empty attribute, expected one such as 'app' or 'apps[]'")
    _table[name] = Row(name, why, (Way(inside, Kind[kind.upper()]),), segment=segment)


@final
@dataclass(frozen=True)
class Nested:
    """An app that gets no lifespan unless we send it one.

    Attributes:
        app: the app.
        path: where it is mounted, as a client would type it; empty for the root.
        is_mount: whether it is mounted, rather than wrapped in what turned the lifespan away.
    """

    app: Any
    path: str
    is_mount: bool = True

    @cached_property
    def aliases(self) -> tuple[Any, ...]:
        """The app and what else it is, as `same_as` finds it."""
        return tuple(same_as(self.app))

    @property
    def label(self) -> str:
        """Who it is in messages: ``mount '/admin'``."""
        return f"mount {self.path or '/'!r}" if self.is_mount else f"app {name_of(self.app)}"


@final
@dataclass(frozen=True, slots=True)
class Inside:
    """What one look inside an app found.

    Attributes:
        nested: the apps that its lifespan does not reach, in route order.
        reached: the objects that it does reach, beside the app.
    """

    nested: list[Nested] = field(default_factory=list[Nested])
    reached: list[Any] = field(default_factory=list[Any])


def look_inside(app: object, path: str, *, delivered: bool, excluded: Iterable[object] = ()) -> Inside:
    """Find what is nested in an app, without looking inside what is found.

    Args:
        app: the app.
        path: where it is mounted itself.
        delivered: whether it took its lifespan. If it turned it away, what it would have passed on is nested too.
        excluded: apps that are not looked into.
    """
    inside = Inside()
    _look(app, path, inside, {id(app), *map(id, excluded)}, delivered=delivered)
    return inside


def _look(
    app: object, path: str, inside: Inside, seen: set[int], *, delivered: bool, is_part: bool = False, depth: int = 0
) -> None:
    row = row_of(app)
    path = _joined(path, app, row)
    for way in _ways(row, is_part=is_part):
        for inner in _follow(app, way.path):
            if id(inner) in seen or not _can_be_nested(inner, app, way.kind):
                continue
            seen.add(id(inner))
            if way.kind is Kind.SKIPS or (way.kind is Kind.PASSES_ON and not delivered):
                inside.nested.append(Nested(inner, path, is_mount=way.kind is Kind.SKIPS))
                continue
            leads_to_part = way.kind is Kind.PART
            if not leads_to_part:
                inside.reached.append(inner)
            takes = delivered or way.kind is Kind.FORWARDS
            if depth < MOST_WRAPPERS:
                _look(inner, path, inside, seen, delivered=takes, is_part=leads_to_part, depth=depth + (row is None))


_THE_SAME = (Kind.SELF, Kind.PASSES_ON, Kind.FORWARDS)
_ONE_LIFESPAN = (Kind.SELF, Kind.PASSES_ON)


def same_as(app: object, through: tuple[Kind, ...] = _THE_SAME) -> Iterator[Any]:
    """The app and what else it is: its own router, and what its lifespan reaches through wrappers."""
    seen: set[int] = set()
    todo = [app]
    while todo and len(seen) < MOST_WRAPPERS:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing
        for way in _ways(row_of(thing), is_part=False):
            if way.kind in through:
                todo += (inner for inner in _follow(thing, way.path) if callable(inner))


def may_be_sent(app: object) -> bool:
    """Whether a lifespan may be sent to an app: classes, static files, responses and WSGI apps get none."""
    for thing in same_as(app, _ONE_LIFESPAN):
        row = row_of(thing)
        if not callable(thing) or is_a(thing, type) or (row is not None and not row.is_sent):
            return False
    return True


def application_of(app: object) -> Any:
    """The Starlette application that the app is or wraps; None if there is none."""
    return next((thing for thing in same_as(app) if _has_row(thing, _STARLETTE)), None)


def is_bare_router(app: object) -> bool:
    """Whether the app is a Starlette router of no application; its lifespan is given ``scope["app"]``."""
    return application_of(app) is None and any(_has_row(thing, _ROUTER) for thing in same_as(app))


def _has_row(thing: object, name: str) -> bool:
    row = row_of(thing)
    return row is not None and row.name == name


def lifespans_of(app: object) -> Iterator[Any]:
    """The functions that are run for an app's lifespan, as far as they can be read."""
    for thing in same_as(app):
        row = row_of(thing)
        if row is not None and row.lifespan is not None:
            yield from _follow(thing, row.lifespan)


def row_of(thing: Any) -> Row | None:
    """What the table knows of an object's class, or of the nearest class that it inherits from."""
    for cls in type(thing).__mro__:
        row = _table.get(f"{cls.__module__}.{cls.__qualname__}")
        if row is not None:
            return row
    return None


def _ways(row: Row | None, *, is_part: bool) -> tuple[Way, ...]:
    """The ways inside; an unknown app is taken for a wrapper, an unknown route for what leads nowhere."""
    if row is not None:
        return row.ways
    return () if is_part else _UNKNOWN_WRAPPER


def _can_be_nested(inner: Any, container: object, kind: Kind) -> bool:
    if kind is Kind.PART:
        return True
    # `Router.default` is a method of the router itself, unless the user gives an app.
    return callable(inner) and not (is_a(inner, MethodType) and cast("MethodType", inner).__self__ is container)


def _joined(path: str, app: object, row: Row | None) -> str:
    """The path behind a container: a path is appended, the name of a host comes first."""
    if row is None or row.segment is None:
        return path
    segment = next((text.rstrip("/") for text in _follow(app, row.segment) if isinstance(text, str)), "")
    return path + segment if segment.startswith("/") or not segment else segment + path


def _follow(thing: Any, path: str) -> list[Any]:
    """What an attribute path leads to. An attribute that this version of a framework lacks is no way inside."""
    found = [thing]
    try:
        if row_of(thing) is None:  # an object that answers to any name, as mocks do, is no wrapper
            inspect.getattr_static(thing, path)
        for name in path.split("."):
            found = [getattr(thing, name.removesuffix("[]")) for thing in found]
            if name.endswith("[]"):
                found = [item for items in found for item in (items.values() if hasattr(items, "values") else items)]
    except Exception as error:  # a property may do anything
        if path != "app":
            logger.debug("no way inside %s: it has no %r", type(thing).__qualname__, path, exc_info=error)
        return []
    return found
