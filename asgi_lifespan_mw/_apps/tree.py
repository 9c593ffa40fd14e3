"""The apps of a run: which of them is sent a lifespan, once, and with which state.

The tree grows while the run starts: what is mounted in an app is looked for when that app has started, since lifespans
add mounts.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, final

from .._asgi import is_a
from .._config import Settings
from .._protocol.session import Session
from .._protocol.table import Phase
from .._types import ASGIApp, Scope, State
from .._units.unit import Unit
from .containers import ROUTER, STARLETTE, LifespanPolicy, logger
from .discovery import MOST_WRAPPERS, Identity, Nested, all_nested, look_inside
from .references import Claim, Reading
from .state import Isolated, SharedState

_Known: TypeAlias = dict[int, tuple[object, "Tree", object]]

_running: ContextVar[_Known | None] = ContextVar("asgi_lifespan_mw_running", default=None)
"""The apps that run already, or are to be left alone, by whose doing, and a mark of what was taken up with each.

A `LifespanMiddleware` may be mounted in another one, and a ``Lifespan(mounts="auto")`` may be the lifespan of an app
inside: each finds mounts. They know of each other by this, which runs hand on as they nest.
"""


@final
@dataclass(slots=True, eq=False)
class Node:
    """An app in the tree.

    Attributes:
        nested: the app, and where it is mounted.
        realm: what the requests to it see.
        given: the state that it was given.
        state: the dict in which it was given. It may be the realm's own.
        readings: what was read of the lifespans around it.
        found: what is nested in it, in the order in which it was found.
        around: the apps that it is nested in, from the inside out.
        session: its lifespan; None for an app whose lifespan is not ours to run.
        unit: its unit, once it was made.
        added: the keys of the state that it set.
    """

    nested: Identity
    realm: SharedState
    given: State
    state: State
    readings: list[Reading]
    found: "list[Node | LeftOut]"
    around: "tuple[Node, ...]" = ()
    session: Session | None = None
    unit: Unit | None = None
    added: Sequence[str] = ()

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

    nested: Nested | Identity
    reason: str


@final
class Tree:
    """The apps of one run, from the wrapped app down.

    Attributes:
        root: the wrapped app.
    """

    def __init__(self, app: Any, scope: Scope, realm: SharedState, settings: Settings) -> None:
        """Plant the tree; `scope` is the server's, and `realm` what its requests see."""
        self._scope = scope
        self._settings = settings
        self._isolated: list[tuple[Isolated, State, State, State]] = []
        self._excluded = {id(thing): thing for app in settings.exclude for thing in Identity(app).aliases}
        around = _running.get()
        self._running: _Known = {} if around is None else around
        self._note(self._excluded.values())
        root = Identity(app)
        self._note(root.aliases)
        self.root = Node(root, realm, dict(realm.state), realm.state, [], [])
        self._started: set[int] = set()

    def share(self, context: Context) -> None:
        """Let runs that begin in `context` know which apps run."""
        context.run(_running.set, self._running)

    def leave(self) -> None:
        """Forget the run: its apps may be run again, and requests see nothing more of it."""
        for key, (_, tree, _) in list(self._running.items()):
            if tree is self:
                del self._running[key]
        for isolated, _, _, own in self._isolated:
            isolated.states[:] = [state for state in isolated.states if state is not own]

    def serve(self) -> None:
        """Let the requests to isolated apps see their state."""
        for isolated, given, state, own in self._isolated:
            own.update((key, value) for key, value in state.items() if given.get(key) is not value)
            isolated.states.append(own)

    def _note(self, apps: Iterable[object]) -> None:
        """Take up the apps that are not known yet, which run together."""
        together = object()
        for app in apps:
            # Held, so that no other object gets its identity.
            self._running.setdefault(id(app), (app, self, together))

    def read(self, lifespans: Iterable[object]) -> None:
        """Take hooks into account, which may run an app by hand."""
        self.root.readings += map(Reading, lifespans)

    def is_excluded(self, nested: Identity) -> bool:
        """Whether an app, or what it wraps, is to be left alone."""
        return nested.is_one_of(self._excluded)

    def unit(self, node: Node) -> Unit:
        """Make the unit that runs the node's lifespan."""
        # What hooks set meanwhile is the wrapped app's to see.
        node.given = dict(node.state)
        node.session = Session(node.nested.app, self._scope_of(node), strict=self._settings.strict)
        node.unit = Unit(node.nested.label, node.session.live)
        if self._settings.concurrent and node.around and node.around[0].unit is not None:
            node.unit.inherits = node.around[0].unit.context
        return node.unit

    def settle(self, node: Node) -> None:
        """Take over the state of an app that has started.

        Raises:
            StateCollision: it set a key that another unit had set to another object.
        """
        if node.delivered:
            self._started.update(map(id, node.nested.aliases))
            node.added = node.realm.add(node.nested.label, node.given, node.state, is_mount=node is not self.root)
            return
        # What is inside never got the lifespan, and may be asked itself, though a run around this one took it up. What
        # runs in another way, or is to be left alone, was not taken up together with the app.
        unknown = (None, None, None)
        _, _, together = self._running.get(id(node.nested.app), unknown)
        for thing in node.nested.aliases:
            if thing is not node.nested.app and self._running.get(id(thing), unknown)[2] is together:
                self._running.pop(id(thing), None)
                self._started.discard(id(thing))
        if node is not self.root:
            refusal = node.session.refusal if node.session is not None else None
            logger.debug("%s does not support the lifespan protocol", node.nested.label, exc_info=refusal)

    def children(self, parent: Node) -> Iterator[Node]:
        """The apps nested in one that has started, which are to be started now, in route order.

        To be taken one by one: what is started in between counts.
        """
        if self._settings.mounts == "off" or self.is_excluded(parent.nested):
            return
        if not parent.delivered and len(parent.around) >= MOST_WRAPPERS:
            return
        inside = look_inside(parent.nested.app, parent.nested.path, delivered=parent.delivered, excluded=self._excluded)
        self._note(inside.reached)
        parent.found += [LeftOut(nested, "is started by its parent") for nested in inside.forwarded]
        mounts = self._settings.mounts
        named = mounts if parent is self.root and not isinstance(mounts, str) else None
        if not inside.nested and named is None:
            return
        readings = parent.readings
        if inside.nested and parent.delivered:
            readings = [*readings, *map(Reading, Identity(parent.nested.app).lifespans)]
        # Taken before the first of them starts: siblings do not see each other's state.
        given = dict(parent.state)
        for nested in self._free(parent, inside.nested) if named is None else self._named(named):
            node = self._child(nested, parent, given, readings)
            claim, reason = _claim(nested, readings) if named is None else (Claim.NONE, "")
            parent.found.append(LeftOut(nested, reason) if reason else node)
            if claim is Claim.NONE:
                yield node
            elif claim is Claim.CERTAIN:  # what is mounted in it is started by nobody
                yield from self.children(node)
                parent.found += node.found

    def _free(self, parent: Node, mounts: Iterable[Nested]) -> Iterator[Identity]:
        """The mounts that do not run already, and are not excluded."""
        # An app that keeps the one that it is mounted in, as admin sites do, is no wrapper of it.
        around = {id(thing) for node in (parent, *parent.around) for thing in node.nested.aliases}
        for mount in mounts:
            nested = Identity(mount.app, mount.path, mount.label)
            own = [thing for thing in nested.aliases if thing is nested.app or id(thing) not in around]
            if self.is_excluded(nested):
                parent.found.append(LeftOut(nested, "is excluded"))
            elif any(id(thing) in self._running for thing in own):
                logger.debug("%s runs already and is not started again", nested.label)
                self._share_isolated(nested.aliases)
                parent.found.append(LeftOut(nested, "runs already"))
            else:
                yield nested

    def _named(self, apps: Iterable[ASGIApp]) -> Iterator[Identity]:
        """The mounts that the user named, where they are mounted; each once, though there be doubt."""
        found = [Identity(nested.app, nested.path, nested.label) for nested in all_nested(self.root.nested.app)]
        for app in apps:
            mounts = (nested for nested in found if any(thing is app for thing in nested.aliases))
            nested = next(mounts, None) or Identity(app)
            if not nested.is_one_of(self._started) and not self.is_excluded(nested):
                yield nested

    def _share_isolated(self, aliases: Iterable[Any]) -> None:
        """Give a second `Isolated` around one app, which runs already, the state that the first one has."""
        self._isolated += [
            (cast("Isolated", thing), given, state, {})
            for thing in aliases
            for known, given, state, _ in self._isolated
            if is_a(thing, Isolated) and thing is not known and thing.app is known.app
        ]

    def _child(self, nested: Identity, parent: Node, given: State, readings: list[Reading]) -> Node:
        state, realm = dict(given), parent.realm
        isolated = next((thing for thing in nested.aliases if is_a(thing, Isolated)), None)
        if isolated is not None:
            realm = SharedState(state)
            self._isolated.append((isolated, given, state, {}))
        self._started.update(map(id, nested.aliases))
        self._note(nested.aliases)
        return Node(nested, realm, given, state, readings, [], (parent, *parent.around))

    def _scope_of(self, node: Node) -> Scope:
        scope: Scope = {"asgi": {"version": "3.0", "spec_version": "2.0"}, **self._scope, "state": node.state}
        if node is self.root:
            return scope
        for key in ("app", "router"):  # what frameworks put into a lifespan scope of theirs
            scope.pop(key, None)
        if node.nested.form(ROUTER) is not None and node.nested.form(STARLETTE) is None:
            # A bare router is given the application that it belongs to.
            around = (Identity(outer.nested.app).form(STARLETTE) for outer in (node, *node.around))
            applications = (application for application in around if application is not None)
            scope["app"] = next(applications, self._scope.get("app", self.root.nested.app))
        return scope


def _claim(nested: Identity, readings: Iterable[Reading]) -> tuple[Claim, str]:
    """Whether a lifespan around the app seems to run it, and why; then it is left alone, as it would be without us."""
    rule = nested.rule
    if rule.sent is LifespanPolicy.IF_NAMED:
        logger.warning(
            "%s is not started: %s. To start it all the same, name the app in mounts=[...]; to leave it alone without "
            "this warning, in exclude=[...]",
            nested.label,
            rule.why,
        )
        return Claim.DOUBT, rule.why
    if rule.sent is not LifespanPolicy.ALWAYS:
        logger.debug("%s is sent no lifespan, as what is known of it says", nested.label)
        return Claim.CERTAIN, f"is sent no lifespan: {rule.why}"
    lifespans = nested.lifespans
    claims = [reading.claim(nested.aliases, lifespans) for reading in readings]
    claim = next((claim for claim in (Claim.CERTAIN, Claim.DOUBT) if claim in claims), Claim.NONE)
    if claim is Claim.CERTAIN:
        logger.debug("%s is run by a lifespan around it", nested.label)
    elif claim is Claim.DOUBT:
        logger.warning(
            "%s is not started: a lifespan around it, or a hook, names it and seems to run it. If nothing does, name "
            "the app in mounts=[...]; if that is so, name it in exclude=[...] and this warning is gone",
            nested.label,
        )
    return claim, claim.value
