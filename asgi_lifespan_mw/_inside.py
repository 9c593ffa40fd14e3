"""What an object keeps inside, as the table of containers says.

Objects are looked at, never asked: a lazy one would wake up, and one that answers to any name would tell of apps that
are not there. What the table does not know is taken for a wrapper, a middleware, if it has an ``.app``.
"""

import functools
import logging
import re
from collections.abc import Sequence
from types import MethodType
from typing import Any, cast

from ._app import is_a
from ._containers import UNKNOWN_WRAPPER, Kind, Row, Way, full_name, row_of

logger = logging.getLogger("asgi_lifespan_mw")


def edges(app: object, *, is_part: bool = False) -> list[tuple[Any, Kind, str | None]]:
    """What is inside an app, with the part of the URL that leads there; the first way to an object counts."""
    row = row_of(app)
    ways = _ways(app, is_part=is_part) if row is None else row.ways
    if not ways:
        return []
    found: dict[int, tuple[Any, Kind, str | None]] = {}
    for path, parallel in _by_path(ways):
        inside = follow(app, path)
        for inner, segment in zip(inside, _segments(app, row, len(inside)), strict=True):
            way = next((way for way in parallel if _leads(way, app, inner)), None)
            if way is not None:
                found.setdefault(id(inner), (inner, way.kind, segment))
    return list(found.values())


def _ways(unknown: object, *, is_part: bool) -> tuple[Way, ...]:
    """The ways inside an object that the table does not know: an app may be a wrapper, a route leads nowhere."""
    return () if is_part else tuple([way for way in UNKNOWN_WRAPPER if _has(unknown, way.path)])


def follow(thing: Any, path: str, *, keys: bool = False) -> list[Any]:
    """What an attribute path leads to; nothing where a framework's version lacks an attribute.

    Args:
        thing: the object to begin with.
        path: the path, as `Way.path` has it.
        keys: whether ``[]`` stands for the keys of a mapping, in place of its values.
    """
    found = [thing]
    try:
        for step in _steps(path):
            if step.startswith("["):
                found = [inner for one in found for inner in _items(one, step, keys=keys)]
            else:
                found = [getattr(one, step) for one in found]
    except Exception as error:  # a property may do anything
        if row_of(thing) is not None:
            logger.debug("no way inside %s: it has no %r", type(thing).__qualname__, path, exc_info=error)
        return []
    return found


@functools.cache
def _by_path(ways: tuple[Way, ...]) -> tuple[tuple[str, tuple[Way, ...]], ...]:
    """The ways inside, those with one path together."""
    return tuple((path, tuple(way for way in ways if way.path == path)) for path in dict.fromkeys(w.path for w in ways))


@functools.cache
def _steps(path: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|\[\w*\]", path))


def _has(thing: object, name: str) -> bool:
    """Whether an object has an attribute of its own or of its class: one that answers to any name has not."""
    try:
        own = object.__getattribute__(thing, "__dict__")
    except Exception:  # it has slots, or its `__dict__` is a property, which may do anything
        own = ()
    if name in own:
        return True
    for cls in type(thing).__mro__:  # noqa: SIM110 - a third of the time of `any()`, and most of the time of a look
        if name in cls.__dict__:
            return True
    return False


def _items(thing: Any, step: str, *, keys: bool) -> list[Any]:
    """What a step of a path in brackets leads to: ``[]``, ``[1]`` or ``[key]``."""
    if step == "[]":
        return list(thing.values() if hasattr(thing, "values") and not keys else thing)
    key = step[1:-1]
    if key.isdigit():
        return [thing[int(key)]]
    return [thing[key]] if key in thing else []


def _segments(app: object, row: Row | None, count: int) -> Sequence[str | None]:
    """The parts of the URL that lead to so many apps; None where there is no such part."""
    if row is None or row.segment is None:
        return [None] * count
    found = follow(app, row.segment, keys=True)
    texts = [text.decode() if isinstance(text, bytes) else text for text in found]
    segments = [text.rstrip("/*") if isinstance(text, str) else "" for text in texts]
    return segments if len(segments) == count else (segments[:1] or [""]) * count


def _leads(way: Way, container: object, inner: Any) -> bool:
    """Whether it is by this way that an object is inside a container."""
    if way.only is not None and way.only not in map(full_name, type(inner).__mro__):
        return False
    if way.when is not None and not any(follow(container, way.when)):
        return False
    if way.kind is Kind.PART:
        return True
    # `Router.default` is a method of the router itself, unless the user gives an app.
    return callable(inner) and not (is_a(inner, MethodType) and cast("MethodType", inner).__self__ is container)
