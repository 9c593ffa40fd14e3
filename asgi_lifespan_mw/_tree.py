"""The apps of a run: which of them is sent a lifespan, once, and with which state.

The tree grows while the run starts: what is mounted in an app is looked for when that app has started, since lifespans
add mounts.
"""

import logging
from collections.abc import Iterable, Iterator
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, Final, final

from ._claims import Claim, Reading, read
from ._mounts import Inside, Nested, application_of, is_bare_router, lifespans_of, look_inside, may_be_sent, same_as
from ._protocol import Phase
from ._session import Session
from ._settings import Settings
from ._state import Isolated, Realm
from ._types import Scope, State
from ._units import Unit

logger = logging.getLogger("asgi_lifespan_mw")

_PARENTS_OWN: Final = ("app", "router")
"""What frameworks put into a lifespan scope of theirs, which is not for the apps inside them."""

_running: ContextVar[dict[int, object] | None] = ContextVar("asgi_lifespan_mw_running", default=None)
"""The apps that run, or are to be left alone, in the run that is under way. A run nested in it shares the dict."""


@final
@dataclass(slots=True, eq=False)
class Node:
    """An app in the tree.

    Attributes:
        app: the app.
        label: who it is in messages.
        path: where it is mounted.
        realm: what the requests to it see.
        given: the state that it was given.
        state: the dict in which it was given. It may be the realm's own.
        parent: the app that it is nested in; None for the wrapped app.
        readings: what was read of the lifespans around it.
        session: its lifespan; None for an app whose lifespan is not ours to run.
        unit: its unit, once it was made.
    """

    app: Any
    label: str
    path: str
    realm: Realm
    given: State
    state: State
    parent: "Node | None"
    readings: list[Reading]
    session: Session | None = None
    unit: Unit | None = None

    @property
    def delivered(self) -> bool:
        """Whether the app took its lifespan, or has one that is not ours to run."""
        return self.session is None or self.session.phase is not Phase.UNSUPPORTED


@final
class Tree:
    """The apps of one run, from the wrapped app down.

    Attributes:
        root: the wrapped app.
    """

    def __init__(self, app: Any, label: str, scope: Scope, realm: Realm, settings: Settings) -> None:
        """Plant the tree; `scope` is the server's, and `realm` what its requests see."""
        self.root = Node(app, label, "", realm, dict(realm.state), realm.state, None, [])
        self._scope = scope
        self._settings = settings
        self._isolated: list[tuple[Isolated, State]] = []
        shared = _running.get()
        self._running: dict[int, object] = {} if shared is None else shared
        self._ours: set[int] = set()
        self._note(settings.exclude)
        self._note(same_as(app))

    def share(self, context: Context) -> None:
        """Let runs that begin in `context` know which apps run."""
        context.run(_running.set, self._running)

    def leave(self) -> None:
        """Forget the run: its apps may be run again, and requests see nothing more of it."""
        for key in self._ours:
            self._running.pop(key, None)
        self._ours.clear()
        for isolated, state in self._isolated:
            if isolated.state is state:
                isolated.state = None

    def serve(self) -> None:
        """Let the requests to isolated apps see their state."""
        for isolated, state in self._isolated:
            isolated.state = state

    def read(self, lifespans: Iterable[object]) -> None:
        """Take hooks into account, which may run an app by hand."""
        self.root.readings += map(read, lifespans)

    def is_excluded(self, app: object) -> bool:
        """Whether the app, or what it wraps, is to be left alone."""
        return any(thing is excluded for thing in same_as(app) for excluded in self._settings.exclude)

    def unit(self, node: Node) -> Unit:
        """Make the unit that runs the node's lifespan."""
        if node is not self.root:
            self._note(same_as(node.app))
        # What hooks set meanwhile is the wrapped app's to see.
        node.given = dict(node.state)
        node.session = Session(node.app, self._scope_of(node), strict=self._settings.strict)
        node.unit = Unit(node.label, node.session.live)
        if self._settings.concurrent and node.parent is not None and node.parent.unit is not None:
            node.unit.inherits = node.parent.unit.context
        return node.unit

    def settle(self, node: Node) -> None:
        """Take over the state of an app that has started.

        Raises:
            StateCollision: it set a key that another unit had set to another object.
        """
        if node.delivered:
            node.realm.add(node.label, node.given, node.state, is_mount=node is not self.root)
        elif node is not self.root:
            refusal = node.session.refusal if node.session is not None else None
            logger.debug("%s does not support the lifespan protocol", node.label, exc_info=refusal)

    def children(self, parent: Node) -> Iterator[Node]:
        """The apps nested in one that has started, which are to be started now, in route order.

        To be taken one by one: what is started in between counts.
        """
        if self._settings.mounts == "off" or self.is_excluded(parent.app):
            return
        inside = look_inside(parent.app, parent.path, delivered=parent.delivered, excluded=self._settings.exclude)
        self._note(inside.reached)
        readings = [*parent.readings, *map(read, lifespans_of(parent.app))] if inside.nested else []
        # Taken before the first of them starts: siblings do not see each other's state.
        given = dict(parent.state)
        for nested in self._wanted(parent, inside, readings):
            yield self._child(nested, parent, given, readings)

    def _wanted(self, parent: Node, inside: Inside, readings: list[Reading]) -> Iterator[Nested]:
        if parent is self.root and not isinstance(self._settings.mounts, str):
            for app in self._settings.mounts:
                yield next((nested for nested in inside.nested if nested.app is app), Nested(app, "", is_mount=False))
            return
        for nested in inside.nested:
            if self._is_free(nested) and not _is_claimed(nested, readings):
                yield nested

    def _is_free(self, nested: Nested) -> bool:
        if not may_be_sent(nested.app) or self.is_excluded(nested.app):
            return False
        if any(id(thing) in self._running for thing in same_as(nested.app)):
            logger.debug("%s runs already and is not started again", nested.label)
            return False
        return True

    def _child(self, nested: Nested, parent: Node, given: State, readings: list[Reading]) -> Node:
        state, realm = dict(given), parent.realm
        isolated = next((thing for thing in same_as(nested.app) if isinstance(thing, Isolated)), None)
        if isolated is not None:
            realm = realm.branch(state)
            self._isolated.append((isolated, state))
        return Node(nested.app, nested.label, nested.path, realm, given, state, parent, readings)

    def _scope_of(self, node: Node) -> dict[str, Any]:
        scope = {"asgi": {"version": "3.0", "spec_version": "2.0"}, **self._scope, "state": node.state}
        if node is not self.root:
            for key in _PARENTS_OWN:
                scope.pop(key, None)
            if is_bare_router(node.app):
                scope["app"] = self._application_around(node)
        return scope

    def _application_around(self, node: Node) -> object:
        """The application that a bare router belongs to."""
        while node.parent is not None:
            node = node.parent
            application = application_of(node.app)
            if application is not None:
                return application
        return self._scope.get("app", node.app)

    def _note(self, apps: Iterable[object]) -> None:
        for app in apps:
            if id(app) not in self._running:
                self._running[id(app)] = app
                self._ours.add(id(app))


def _is_claimed(nested: Nested, readings: Iterable[Reading]) -> bool:
    """Whether a lifespan around the app seems to run it; then it is left alone, as it would be without us."""
    apps, lifespans = list(same_as(nested.app)), list(lifespans_of(nested.app))
    claims = {reading.claim(apps, lifespans) for reading in readings}
    if Claim.CERTAIN in claims:
        logger.debug("%s is run by a lifespan around it", nested.label)
    elif Claim.DOUBT in claims:
        logger.warning(
            "%s is not started: a lifespan around it, or a hook, names it and seems to run it. If nothing does, name "
            "the app in mounts=[...]; if that is so, name it in exclude=[...] and this warning is gone",
            nested.label,
        )
    return Claim.CERTAIN in claims or Claim.DOUBT in claims
