"""Where apps are nested in apps, and which of them the lifespan reaches by itself."""

from collections.abc import Container
from typing import Any, final

from ._app import name_of
from ._containers import Kind, row_of
from ._identity import MOST_WRAPPERS, Identity
from ._inside import edges


@final
class Nested:
    """An app that gets no lifespan unless we send it one.

    Attributes:
        app: the app.
        path: where it is mounted, as a client would type it; empty for the root.
        label: who it is in messages: ``mount '/admin'``.
    """

    __slots__ = ("_identity", "app", "label", "path")

    def __init__(self, app: Any, path: str, *, is_mount: bool = True) -> None:
        """Tell where an app is, and whether it is mounted, rather than wrapped in what turned the lifespan away."""
        self.app = app
        self.path = path
        self.label = f"mount {path or '/'!r}" if is_mount else f"app {name_of(app)}"
        self._identity: Identity | None = None

    @property
    def identity(self) -> Identity:
        """What the app is, as it was when this was first asked for."""
        if self._identity is None:
            self._identity = Identity(self.app)
        return self._identity


@final
class Inside:
    """What one look inside an app found.

    Attributes:
        nested: the apps that its lifespan does not reach, in route order.
        reached: the objects that it does reach, beside the app.
        forwarded: those of them that the app, or what is in it, starts with a lifespan of their own.
    """

    __slots__ = ("forwarded", "nested", "reached")

    def __init__(self) -> None:
        self.nested: list[Nested] = []
        self.reached: list[Any] = []
        self.forwarded: list[Nested] = []


def look_inside(app: object, path: str, *, delivered: bool, excluded: Container[int] = ()) -> Inside:
    """Find what is nested in an app, without looking inside what is found.

    Args:
        app: the app.
        path: where it is mounted itself.
        delivered: whether it took its lifespan. If it turned it away, what it would have passed on is nested too.
        excluded: the identities of apps that are not looked into, though they are found where they are nested.
    """
    inside = Inside()
    _look(app, path, inside, {id(app)}, excluded, delivered=delivered)
    return inside


def _look(
    app: object,
    path: str,
    inside: Inside,
    seen: set[int],
    excluded: Container[int],
    *,
    delivered: bool,
    is_part: bool = False,
    depth: int = 0,
) -> None:
    for inner, kind, segment in edges(app, is_part=is_part):
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


def is_nested(wanted: object, app: object) -> bool:
    """Whether an app is found, at any depth, in another one."""
    seen: set[int] = set()
    todo = [app]
    while todo:
        for nested in look_inside(todo.pop(), "", delivered=True).nested:
            if any(alias is wanted for alias in nested.identity.aliases):
                return True
            if id(nested.app) not in seen:
                seen.add(id(nested.app))
                todo.append(nested.app)
    return False


def _joined(path: str, segment: str | None) -> str:
    """The path behind a container: a path is appended, the name of a host comes first."""
    if not segment:
        return path
    return path + segment if segment.startswith("/") else segment + path
