"""Where apps are nested in apps, and which of them the lifespan reaches by itself.

Apps are found by looking at objects, never by asking them. The table in `_containers` knows the inside of classes; what
it does not know is taken for a wrapper, a middleware, if it has an ``.app``.

Objects are told apart by identity alone: routes have no hash, and two mounts of one app are equal.
"""

import inspect
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MethodType
from typing import Any, cast, final

from ._app import is_a, name_of
from ._containers import ROUTER, STARLETTE, UNKNOWN_WRAPPER, Kind, Row, Sent, Way, full_name, known_reason, row_of

logger = logging.getLogger("asgi_lifespan_mw")

MOST_WRAPPERS = 100
"""An app that is wrapped more often makes its ``.app`` anew whenever it is looked at."""


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
        forwarded: those of them that the app, or what is in it, starts with a lifespan of their own.
    """

    nested: list[Nested] = field(default_factory=list[Nested])
    reached: list[Any] = field(default_factory=list[Any])
    forwarded: list[Nested] = field(default_factory=list[Nested])


def look_inside(app: object, path: str, *, delivered: bool, excluded: Iterable[object] = ()) -> Inside:
    """Find what is nested in an app, without looking inside what is found.

    Args:
        app: the app.
        path: where it is mounted itself.
        delivered: whether it took its lifespan. If it turned it away, what it would have passed on is nested too.
        excluded: apps that are not looked into, though they are found where they are nested.
    """
    inside = Inside()
    _look(app, path, inside, {id(app)}, frozenset(map(id, excluded)), delivered=delivered)
    return inside


def _look(
    app: object,
    path: str,
    inside: Inside,
    seen: set[int],
    excluded: frozenset[int],
    *,
    delivered: bool,
    is_part: bool = False,
    depth: int = 0,
) -> None:
    for inner, kind, segment in _edges(app, is_part=is_part):
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        behind = _joined(path, segment or "")
        if kind is Kind.SKIPS or (kind is Kind.PASSES_ON and not delivered):
            is_mount = kind is Kind.SKIPS and (segment is not None or behind != "")
            inside.nested.append(Nested(inner, behind, is_mount=is_mount))
            continue
        if id(inner) in excluded:
            continue
        leads_to_part = kind is Kind.PART
        if not leads_to_part:
            inside.reached.append(inner)
        if kind is Kind.FORWARDS:
            inside.forwarded.append(Nested(inner, behind, is_mount=bool(segment)))
        takes = delivered or kind is Kind.FORWARDS
        if depth < MOST_WRAPPERS:
            deeper = depth + (row_of(app) is None)
            _look(inner, behind, inside, seen, excluded, delivered=takes, is_part=leads_to_part, depth=deeper)


def _edges(app: object, *, is_part: bool = False) -> Iterator[tuple[Any, Kind, str | None]]:
    """What is inside an app, with the part of the URL that leads there; the first way to an object counts."""
    row = row_of(app)
    ways = [way for way in _ways(row, is_part=is_part) if way.when is None or any(_follow(app, way.when))]
    seen: set[int] = set()
    for path in dict.fromkeys(way.path for way in ways):
        found = _follow(app, path)
        for inner, segment in zip(found, _segments(app, row, len(found)), strict=True):
            way = next((way for way in ways if way.path == path and _can_be_nested(inner, app, way)), None)
            if way is not None and id(inner) not in seen:
                seen.add(id(inner))
                yield inner, way.kind, segment


def _ways(row: Row | None, *, is_part: bool) -> tuple[Way, ...]:
    """The ways inside; an unknown app is taken for a wrapper, an unknown route for what leads nowhere."""
    if row is not None:
        return row.ways
    return () if is_part else UNKNOWN_WRAPPER


def _segments(app: object, row: Row | None, count: int) -> Sequence[str | None]:
    """The parts of the URL that lead to so many apps; None where there is no such part."""
    if row is None or row.segment is None:
        return [None] * count
    found = _follow(app, row.segment, keys=True)
    texts = [text.decode() if isinstance(text, bytes) else text for text in found]
    segments = [text.rstrip("/*") if isinstance(text, str) else "" for text in texts]
    return segments if len(segments) == count else (segments[:1] or [""]) * count


def is_nested(wanted: object, app: object) -> bool:
    """Whether an app is found, at any depth, in another one."""
    seen: set[int] = set()
    todo = [app]
    while todo:
        for nested in look_inside(todo.pop(), "", delivered=True).nested:
            if any(alias is wanted for alias in nested.aliases):
                return True
            if id(nested.app) not in seen:
                seen.add(id(nested.app))
                todo.append(nested.app)
    return False


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
        todo += (inner for inner, kind, _ in _edges(thing) if kind in through)


def sent_to(app: object) -> Sent:
    """Whether a lifespan may be sent to an app: classes, static files, responses and WSGI apps get none."""
    if not callable(app):
        return Sent.NEVER
    rows = (row_of(thing) for thing in same_as(app, _ONE_LIFESPAN))
    return next((row.sent for row in rows if row is not None and row.sent is not Sent.ALWAYS), Sent.ALWAYS)


def why_none(app: object) -> str:
    """What is known of an app that is sent no lifespan."""
    rows = (row_of(thing) for thing in same_as(app, _ONE_LIFESPAN))
    return next((row.why for row in rows if row is not None and row.sent is not Sent.ALWAYS), "it can't be called")


def reason_against(app: object) -> str | None:
    """Why an app is sent no lifespan unless the user names it; None for nearly all."""
    return next((reason for thing in same_as(app, _ONE_LIFESPAN) if (reason := known_reason(thing))), None)


def application_of(app: object) -> Any:
    """The Starlette application that the app is or wraps; None if there is none."""
    return next((thing for thing in same_as(app) if _has_row(thing, STARLETTE)), None)


def is_bare_router(app: object) -> bool:
    """Whether the app is a Starlette router of no application; its lifespan is given ``scope["app"]``."""
    return application_of(app) is None and any(_has_row(thing, ROUTER) for thing in same_as(app))


def _has_row(thing: object, name: str) -> bool:
    row = row_of(thing)
    return row is not None and row.name == name


def lifespans_of(app: object) -> Iterator[Any]:
    """The functions that are run for an app's lifespan, as far as they can be read."""
    for thing in same_as(app):
        row = row_of(thing)
        if row is not None and row.lifespan is not None:
            yield from _follow(thing, row.lifespan)


def _can_be_nested(inner: Any, container: object, way: Way) -> bool:
    if way.only is not None and way.only not in map(full_name, type(inner).__mro__):
        return False
    if way.kind is Kind.PART:
        return True
    # `Router.default` is a method of the router itself, unless the user gives an app.
    return callable(inner) and not (is_a(inner, MethodType) and cast("MethodType", inner).__self__ is container)


def _joined(path: str, segment: str | None) -> str:
    """The path behind a container: a path is appended, the name of a host comes first."""
    if not segment:
        return path
    return path + segment if segment.startswith("/") else segment + path


def _follow(thing: Any, path: str, *, keys: bool = False) -> list[Any]:
    """What an attribute path leads to; nothing where a framework's version lacks an attribute.

    Args:
        thing: the object to begin with.
        path: the path, as `Way.path` has it.
        keys: whether ``[]`` stands for the keys of a mapping, in place of its values.
    """
    found = [thing]
    try:
        if row_of(thing) is None:  # an object that answers to any name, as mocks do, is no wrapper
            inspect.getattr_static(thing, path)
        for step in re.findall(r"\w+|\[\w*\]", path):
            found = [inner for one in found for inner in _step(one, step, keys=keys)]
    except Exception as error:  # a property may do anything
        if all(way.path != path for way in UNKNOWN_WRAPPER):
            logger.debug("no way inside %s: it has no %r", type(thing).__qualname__, path, exc_info=error)
        return []
    return found


def _step(thing: Any, step: str, *, keys: bool) -> list[Any]:
    """One step of a path: ``name``, ``[]``, ``[1]`` or ``[key]``."""
    if not step.startswith("["):
        return [getattr(thing, step)]
    if step == "[]":
        return list(thing.values() if hasattr(thing, "values") and not keys else thing)
    key = step[1:-1]
    if key.isdigit():
        return [thing[int(key)]]
    return [thing[key]] if key in thing else []
