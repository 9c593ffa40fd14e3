"""The apps of a run: which of them is sent a lifespan, once, and with which state.

The tree grows while the run starts: what is mounted in an app is looked for when that app has started, since lifespans
add mounts.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, cast, final

from ._app import is_a
from ._claims import Claim, Reading, read
from ._containers import Sent
from ._identity import MOST_WRAPPERS, Identity
from ._mounts import Nested, look_inside
from ._once import Running
from ._protocol import Phase
from ._session import Session
from ._settings import Settings
from ._state import Isolated, Realm
from ._types import Scope, State
from ._unit import Unit

logger = logging.getLogger("asgi_lifespan_mw")

_PARENTS_OWN: Final = ("app", "router")
"""What frameworks put into a lifespan scope of theirs, which is not for the apps inside them."""


@final
class Node:
    """An app in the tree.

    Attributes:
        nested: the app, and where it is mounted.
        realm: what the requests to it see.
        given: the state that it was given.
        state: the dict in which it was given. It may be the realm's own.
        parent: the app that it is nested in; None for the wrapped app.
        readings: what was read of the lifespans around it.
        session: its lifespan; None for an app whose lifespan is not ours to run.
        unit: its unit, once it was made.
        noted: which of the aliases were not known to run before.
        found: what is nested in it, in the order in which it was found.
        added: the keys of the state that it set.
    """

    __slots__ = (
        "added", "found", "given", "nested", "noted", "parent", "readings", "realm", "session", "state", "unit",
    )  # fmt: skip

    def __init__(
        self,
        nested: Nested,
        realm: Realm,
        *,
        given: State,
        state: State,
        parent: "Node | None",
        readings: list[Reading],
    ) -> None:
        self.nested = nested
        self.realm = realm
        self.given = given
        self.state = state
        self.parent = parent
        self.readings = readings
        self.session: Session | None = None
        self.unit: Unit | None = None
        self.noted: list[object] = []
        self.found: list[Node | LeftOut] = []
        self.added: Sequence[str] = ()

    def lineage(self) -> Iterator["Node"]:
        """The app and those that it is nested in, from the inside out."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def delivered(self) -> bool:
        """Whether the app took its lifespan, or has one that is not ours to run."""
        return self.session is None or self.session.phase is not Phase.UNSUPPORTED


@final
@dataclass(frozen=True, slots=True)
class LeftOut:
    """An app that is not started by us.

    Attributes:
        nested: the app.
        reason: why.
    """

    nested: Nested
    reason: str


@final
class Tree:
    """The apps of one run, from the wrapped app down.

    Attributes:
        root: the wrapped app.
    """

    def __init__(self, app: Any, scope: Scope, realm: Realm, settings: Settings) -> None:
        """Plant the tree; `scope` is the server's, and `realm` what its requests see."""
        root = Nested(app, "", is_mount=False)
        self.root = Node(root, realm, given=dict(realm.state), state=realm.state, parent=None, readings=[])
        self._scope = scope
        self._settings = settings
        self._isolated: list[tuple[Isolated, State, State]] = []
        self._served: list[tuple[Isolated, State]] = []
        self._excluded = {id(thing): thing for app in settings.exclude for thing in Identity(app).aliases}
        self._running = Running()
        self._running.note(self._excluded.values())
        self.root.noted = self._running.note(self.root.nested.identity.aliases)
        self._started: set[int] = set()

    def share(self, context: Context) -> None:
        """Let runs that begin in `context` know which apps run."""
        self._running.share(context)

    def leave(self) -> None:
        """Forget the run: its apps may be run again, and requests see nothing more of it."""
        self._running.leave()
        for isolated, own in self._served:
            isolated.states[:] = [state for state in isolated.states if state is not own]
        self._served.clear()

    def serve(self) -> None:
        """Let the requests to isolated apps see their state."""
        for isolated, given, state in self._isolated:
            own = {key: value for key, value in state.items() if given.get(key) is not value}
            isolated.states.append(own)
            self._served.append((isolated, own))

    def read(self, lifespans: Iterable[object]) -> None:
        """Take hooks into account, which may run an app by hand."""
        self.root.readings += map(read, lifespans)

    def is_excluded(self, nested: Nested) -> bool:
        """Whether an app, or what it wraps, is to be left alone."""
        return nested.identity.is_one_of(self._excluded)

    def unit(self, node: Node) -> Unit:
        """Make the unit that runs the node's lifespan."""
        # What hooks set meanwhile is the wrapped app's to see.
        node.given = dict(node.state)
        node.session = Session(node.nested.app, self._scope_of(node), strict=self._settings.strict)
        node.unit = Unit(node.nested.label, node.session.live)
        if self._settings.concurrent and node.parent is not None and node.parent.unit is not None:
            node.unit.inherits = node.parent.unit.context
        return node.unit

    def settle(self, node: Node) -> None:
        """Take over the state of an app that has started.

        Raises:
            StateCollision: it set a key that another unit had set to another object.
        """
        if node.delivered:
            self._started.update(map(id, node.nested.identity.aliases))
            node.added = node.realm.add(node.nested.label, node.given, node.state, is_mount=node is not self.root)
            return
        # What is inside never got the lifespan, and may be asked itself.
        inside = [thing for thing in node.noted if thing is not node.nested.app]
        self._running.forget(inside)
        self._started.difference_update(map(id, inside))
        if node is not self.root:
            refusal = node.session.refusal if node.session is not None else None
            logger.debug("%s does not support the lifespan protocol", node.nested.label, exc_info=refusal)

    def children(self, parent: Node) -> Iterator[Node]:
        """The apps nested in one that has started, which are to be started now, in route order.

        To be taken one by one: what is started in between counts.
        """
        if self._settings.mounts == "off" or self.is_excluded(parent.nested):
            return
        if not parent.delivered and len(list(parent.lineage())) > MOST_WRAPPERS:
            return
        inside = look_inside(parent.nested.app, parent.nested.path, delivered=parent.delivered, excluded=self._excluded)
        self._running.note(inside.reached)
        parent.found += [LeftOut(nested, "is started by its parent") for nested in inside.forwarded]
        are_named = parent is self.root and not isinstance(self._settings.mounts, str)
        if not inside.nested and not are_named:
            return
        readings = parent.readings
        if inside.nested and parent.delivered:
            readings = [*readings, *map(read, Identity(parent.nested.app).lifespans)]
        # Taken before the first of them starts: siblings do not see each other's state.
        given = dict(parent.state)
        if are_named:
            yield from self._named_children(parent, given, readings)
            return
        # An app that keeps the one that it is mounted in, as admin sites do, is no wrapper of it.
        around = {id(thing) for node in parent.lineage() for thing in node.nested.identity.aliases}
        for nested in inside.nested:
            taken = self._taken(nested, around)
            if taken:
                parent.found.append(LeftOut(nested, taken))
                continue
            node = self._child(nested, parent, given, readings)
            claim, reason = _claim(nested, readings)
            parent.found.append(node if claim is Claim.NONE else LeftOut(nested, reason))
            if claim is Claim.NONE:
                yield node
            elif claim is Claim.CERTAIN:  # what is mounted in it is started by nobody
                yield from self.children(node)
                parent.found += node.found

    def _named_children(self, parent: Node, given: State, readings: list[Reading]) -> Iterator[Node]:
        for nested in self._named(self._settings.mounts):
            node = self._child(nested, parent, given, readings)
            parent.found.append(node)
            yield node

    def _named(self, apps: Iterable[object]) -> Iterator[Nested]:
        """The mounts that the user named, where they are mounted; each once, though there be doubt."""
        found = list(self._all_nested())
        for app in apps:
            mounts = (nested for nested in found if any(thing is app for thing in nested.identity.aliases))
            nested = next(mounts, Nested(app, "", is_mount=False))
            if not nested.identity.is_one_of(self._started) and not self.is_excluded(nested):
                yield nested

    def _all_nested(self) -> Iterator[Nested]:
        """All mounts, however deep."""
        todo = [self.root.nested]
        seen: set[int] = set()
        while todo:
            nested = todo.pop()
            if id(nested.app) not in seen:
                seen.add(id(nested.app))
                inner = look_inside(nested.app, nested.path, delivered=True).nested
                todo += inner
                yield from inner

    def _taken(self, nested: Nested, around: set[int]) -> str:
        """Why an app is not to be started; empty if it is free."""
        if self.is_excluded(nested):
            return "is excluded"
        objects = [thing for thing in nested.identity.aliases if thing is nested.app or id(thing) not in around]
        if self._running.knows_any(objects):
            logger.debug("%s runs already and is not started again", nested.label)
            self._share_isolated(nested.identity.aliases)
            return "runs already"
        return ""

    def _share_isolated(self, aliases: Iterable[Any]) -> None:
        """Give a second `Isolated` around one app, which runs already, the state that the first one has."""
        self._isolated += [
            (cast("Isolated", thing), given, state)
            for thing in aliases
            for known, given, state in self._isolated
            if is_a(thing, Isolated) and thing is not known and thing.app is known.app
        ]

    def _child(self, nested: Nested, parent: Node, given: State, readings: list[Reading]) -> Node:
        state, realm = dict(given), parent.realm
        aliases = nested.identity.aliases
        isolated = next((thing for thing in aliases if is_a(thing, Isolated)), None)
        if isolated is not None:
            realm = Realm(state)
            self._isolated.append((isolated, given, state))
        node = Node(nested, realm, given=given, state=state, parent=parent, readings=readings)
        node.noted = self._running.note(aliases)
        self._started.update(map(id, aliases))
        return node

    def _scope_of(self, node: Node) -> dict[str, Any]:
        scope: dict[str, Any] = {"asgi": {"version": "3.0", "spec_version": "2.0"}, **self._scope, "state": node.state}
        if node is not self.root:
            for key in _PARENTS_OWN:
                scope.pop(key, None)
            if node.nested.identity.is_bare_router:
                scope["app"] = self._application_around(node)
        return scope

    def _application_around(self, node: Node) -> object:
        """The application that a bare router belongs to."""
        for around in node.lineage():
            application: object = Identity(around.nested.app).application
            if application is not None:
                return application
        return self._scope.get("app", self.root.nested.app)


def _claim(nested: Nested, readings: Iterable[Reading]) -> tuple[Claim, str]:
    """Whether a lifespan around the app seems to run it, and why; then it is left alone, as it would be without us."""
    identity = nested.identity
    if identity.sent is not Sent.ALWAYS:
        logger.debug("%s is sent no lifespan, as what is known of it says", nested.label)
        return Claim.CERTAIN, f"is sent no lifespan: {identity.why_none}"
    reason = identity.reason_against
    if reason is not None:
        logger.warning(
            "%s is not started: %s. To start it all the same, name the app in mounts=[...]; to leave it alone without "
            "this warning, in exclude=[...]",
            nested.label,
            reason,
        )
        return Claim.DOUBT, reason
    lifespans = identity.lifespans
    claims = [reading.claim(identity.aliases, lifespans) for reading in readings]
    if Claim.CERTAIN in claims:
        logger.debug("%s is run by a lifespan around it", nested.label)
        return Claim.CERTAIN, "is run by a lifespan around it"
    if Claim.DOUBT in claims:
        logger.warning(
            "%s is not started: a lifespan around it, or a hook, names it and seems to run it. If nothing does, name "
            "the app in mounts=[...]; if that is so, name it in exclude=[...] and this warning is gone",
            nested.label,
        )
        return Claim.DOUBT, "a lifespan around it names it and seems to run it"
    return Claim.NONE, ""
