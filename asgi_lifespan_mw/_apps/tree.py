"""The apps of a run: which of them are started by us, in which order, and with which state.

The tree grows while the run starts: an app is looked into when it has started, for lifespans add mounts. Three steps:
`scan` finds what is nested in an app, `decide` returns if one of those is ours to start, and the run starts it.
"""

import itertools
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, final

from .._asgi import name_of
from .._config import Settings
from .._isolated import Isolated
from .._log import logger
from .._types import ASGIApp, Receive, Scope, Send, State, is_a
from .._units.backend import current_loop
from .decision import ROOT_RULES, RULES, decide
from .doors import Doorway, Progress, Recorder, Start, doorways_at, doorways_of, observe_doors, without_recorder
from .frameworks import APPLICATIONS, ISOLATED, MIDDLEWARE, ROUTER, SESSION_MANAGER, STARLETTE, UNKNOWN, spec_of
from .holding import holders_of, holds_lifespan_of, in_start_order
from .node import AppNode
from .objects import attributes_of, called_function, closure_of, items_of, names_in, undecorated
from .state import SharedState
from .walk import MAX_WRAPPERS, Inside, all_nested, describe, follow, is_nested, look_inside
from .watch import Begun, Ownership, Signature, Watch, find_begun, observing, set_hook, signature_of, starter, watching
from .wrappers import mentions_lifespan

_SCOPE = {"asgi": {"version": "3.0", "spec_version": "2.0"}}


class _Known(NamedTuple):
    """An object that an app which starts or runs consists of.

    Attributes:
        thing: The object, kept alive while its identity counts.
        node: The app.
        is_member: Whether the object is the app; else the app only started it.
    """

    thing: object
    node: AppNode
    is_member: bool


@final
@dataclass(slots=True, eq=False)
class _Startups:
    """What nested runs know of each other: a `LifespanMiddleware` in another one, a ``Lifespan(mounts="auto")`` inside.

    Attributes:
        known: The objects of the apps that run, by identity.
        excluded: What the runs never send a lifespan.
        hooks: The hooks' functions of the runs whose startup is under way, with their wrapped apps.
        watch: Which apps were started, by whomever.
    """

    known: dict[int, _Known] = field(default_factory=dict[int, _Known])
    excluded: list[dict[int, Any]] = field(default_factory=list[dict[int, Any]])
    hooks: list[tuple[AppNode, Sequence[Any]]] = field(default_factory=list[tuple[AppNode, Sequence[Any]]])
    watch: Watch = field(default_factory=Watch)


_startups: Final[ContextVar[_Startups | None]] = ContextVar("asgi_lifespan_mw_startups", default=None)

_observed: Final[ContextVar[dict[int, Any] | None]] = ContextVar("asgi_lifespan_mw_observed", default=None)


@final
class Tree:
    """The apps of one run, from the wrapped app down.

    Attributes:
        root: The wrapped app.
        application: The framework's application, which hooks are given: in the wrapped app, or it itself.
        may_be_entered: Whether code of the user's could start an app that was found, so that it would be seen.
    """

    def __init__(self, app: Any, scope: Scope, shared: SharedState, settings: Settings) -> None:
        """Plant the tree; `scope` is the server's, and `shared` the state that its requests see."""
        self._scope = scope
        self._settings = settings
        around = _startups.get()
        self._is_outermost = around is None
        self._startups = around or _Startups()
        self._keys: list[int] = []
        self._found: dict[int, Any] = {}
        self._scanned: dict[int, AppNode] = {}
        self._hooks: Sequence[Any] = ()
        self._background: Sequence[Any] = ()
        self._signatures: dict[AppNode, list[Signature]] = {}
        self._recorders: list[Recorder] = []
        # The apps that have recorders at their doors, by identity, also from a run around this one, which outlives it.
        inherited = _observed.get()
        self._observed: dict[int, Any] = {} if inherited is None else inherited
        self._observed_here: list[int] = []
        self._is_blind = False
        self.may_be_entered = False
        self._isolated: list[tuple[Isolated, State, State, State]] = []
        self.root = _described(app)
        self.application = self._application()
        self.root.label = f"app {name_of(self.application)}"
        self.root.shared, self.root.given, self.root.state = shared, dict(shared.state), shared.state
        self._excluded = self._objects_of(self._settings.exclude)
        self._optional = self._objects_of(app for app in self._settings.optional if not is_a(app, str))
        if self._excluded:
            self._startups.excluded.append(self._excluded)
        self._insisted = set[int]()

    def _application(self) -> Any:
        """Return the framework's application in the wrapped app, or the wrapped app."""
        forms = self.root.forms
        inside = next((forms[name] for name in APPLICATIONS if name in forms), self.root.app)
        return self._scope.get("app", inside)

    def _objects_of(self, apps: Iterable[Any]) -> dict[int, Any]:
        """Return the apps that the user named, and what they wrap, by identity."""
        found: dict[int, Any] = {}
        for app in apps:
            found[id(app)] = app
            node = _described(app)
            for part in (node.members, node.wrapped, node.forwarded):
                # exclude=[plugin], which keeps the app that it is mounted in: the app is not meant.
                ours = (self.root.members, self.root.wrapped)
                found |= {key: part[key] for key in part if key not in ours[0] and key not in ours[1]}
        return found

    @contextmanager
    def starting(
        self, context: Context, hooks: Sequence[Any], background: Sequence[Any] = (), *, root_runs: bool = False
    ) -> Generator[None]:
        """Observe, while the block runs, which lifespans begin in `context`.

        Args:
            context: The context variables that units begin with. Runs that begin there know of the apps of this one.
            hooks: The functions that may start an app.
            background: Those of them that may do so after the startup.
            root_runs: Whether the root runs already, because we are its lifespan.
        """
        self._hooks, self._background = hooks, background
        context.run(_startups.set, self._startups)
        self._startups.hooks.append((self.root, hooks))
        try:
            if self._settings.mounts == "off":
                yield
            else:
                watch = self._startups.watch
                context.run(watching.set, watch)
                context.run(_observed.set, self._observed)
                self._observe(self.root)
                if root_runs:
                    _note_that_it_runs(self.root, watch)
                with observing(watch):
                    yield
        finally:
            self._startups.hooks[:] = [one for one in self._startups.hooks if one[0] is not self.root]
            self._signatures.clear()
            self._hooks = self._background = ()

    def _observe(self, top: AppNode) -> None:
        """Put recorders at the doors of an app, and of all that is found inside it now."""
        watch, before = self._startups.watch, len(self._observed)
        nodes = [top, *all_nested(top, self._observed)]
        self._observed_here += itertools.islice(self._observed, before, None)
        for node in nodes:
            self._recorders += observe_doors(node, watch)
            is_seen = node is not self.root and bool(node.doors or node.lifespans)
            for thing in (*node.wrapped.values(), *node.forwarded.values()):
                inner = AppNode(thing, label=node.label, parent=node.parent)
                self._recorders += observe_doors(describe(inner), watch)
                is_seen |= bool(inner.doors or inner.lifespans)
            self.may_be_entered |= is_seen

    def asked(self, node: AppNode) -> ASGIApp:
        """Return the app, as it is sent a lifespan: what its code enters is known to be entered by it."""
        if self._settings.mounts == "off":
            app: ASGIApp = node.app
            return app

        async def ask(scope: Scope, receive: Receive, send: Send) -> None:
            starter.set(node)
            await node.app(scope, receive, send)

        return ask

    def lifespans_around(self) -> list[Any]:
        """Return the lifespan functions that the wrapped app runs by itself, and the hooks of runs around this one.

        A run around this one is that of a middleware which wraps the same app: ``add_middleware`` was called twice.
        """
        found = _lifespans_inside(self.root)
        for root, hooks in self._startups.hooks:
            if root.reaches({id(self.root.app)}):
                found += hooks
        return found

    def warn_of_strangers(self) -> None:
        """Log a WARNING for each app of `exclude` and `optional` that is found nowhere."""
        settings = self._settings
        named = [("exclude", app) for app in settings.exclude] + [("optional", app) for app in settings.optional]
        for option, app in named if settings.mounts != "off" else ():
            is_in_root = self.root.reaches({id(app)})
            if option == "optional" and is_in_root and self.root.is_supported:
                logger.warning("optional=[...] names app %s, whose failure is that of the wrapped app", name_of(app))
            elif not (is_a(app, str) or is_in_root or is_nested(app, self.root.app)):
                found_nowhere = "%s=[...] names app %s, which is found nowhere in %s"
                logger.warning(found_nowhere, option, name_of(app), self.root.label)

    def leave(self) -> None:
        """Forget the run: its apps may be run again, and requests see nothing more of it."""
        for key in self._keys:
            self._startups.known.pop(key, None)
        self._keys.clear()
        for key in self._observed_here:
            self._observed.pop(key, None)
        self._observed_here.clear()
        for recorder in self._recorders:
            recorder.forget(self._startups.watch)
        self._recorders.clear()
        self._startups.excluded[:] = [one for one in self._startups.excluded if one is not self._excluded]
        self._scope = dict[str, Any]()
        for isolated, _, _, own in self._isolated:
            isolated.states[:] = [entry for entry in isolated.states if entry[1] is not own]

    def stopping(self) -> None:
        """Note that what stops from now on is stopped by the run."""
        if self._is_outermost:
            self._startups.watch.is_serving = False

    def serve(self) -> None:
        """Let the requests to isolated apps see their state."""
        if self._is_outermost:
            self._startups.watch.is_serving = True
        for isolated, given, state, own in self._isolated:
            own.update((key, value) for key, value in state.items() if given.get(key) is not value)
            isolated.states.append((current_loop(), own))

    # --- what becomes of one app ---

    def is_excluded(self, node: AppNode) -> bool:
        """Return whether an app, or what it wraps, is never sent a lifespan."""
        return any(map(node.reaches, self._startups.excluded))

    def is_optional(self, node: AppNode) -> bool:
        """Return whether the run goes on without a mounted app if it fails."""
        named = self._settings.optional
        parts = (node.members, node.wrapped) if named else ()
        return any(is_a(app, str) for app in named) or any(key in self._optional for part in parts for key in part)

    def begin(self, node: AppNode) -> Scope:
        """Prepare an app for its start, and return the scope of its lifespan."""
        # What hooks set meanwhile is the wrapped app's to see.
        node.given = dict(node.state)
        self._note(node.members.values(), node)
        return self._scope_of(node)

    def settle(self, node: AppNode) -> None:
        """Take over the state of an app that has started, or that does not support the lifespan.

        Raises:
            StateCollision: If the app set a key that another unit had set to another object.
        """
        if node.is_supported:
            node.is_started = True
            self.begun(node)
            _warn_of_ignored_handlers(node)
            assert node.shared is not None, "set before it started"
            node.added = node.shared.add(node.label, node.given, node.state, is_mount=node is not self.root)
            return
        # What it would have passed the lifespan on to got none, and may be sent one by itself.
        for key in node.members:
            if key != id(node.app) and (known := self._startups.known.get(key)) and known.node is node:
                del self._startups.known[key]
        if node is not self.root:
            logger.debug("%s does not support the lifespan protocol", node.label, exc_info=node.refusal)

    def _note(self, things: Iterable[object], node: AppNode, *, is_member: bool = True) -> None:
        known = self._startups.known
        for thing in things:
            if id(thing) not in known:
                known[id(thing)] = _Known(thing, node, is_member)
                self._keys.append(id(thing))

    # --- step 1: what is nested in an app ---

    def scan(self, node: AppNode) -> list[AppNode]:
        """Find the apps that are nested in one that has started, or that is not ours to start, in route order."""
        if self._settings.mounts == "off" or id(node.app) in self._scanned or self.is_excluded(node):
            return []
        if node is not self.root and node.is_supported and spec_of(node.app).name == MIDDLEWARE:
            settings: Settings = attributes_of(node.app)["_settings"]
            if settings.mounts == "auto":  # pragma: no branch - one with mounts="off" is looked into from here
                return []  # the middleware's own run has looked at all that is inside
        inside = self._look_inside(node)
        self._scanned[id(node.app)] = node
        if node.is_supported:
            node.is_started = True
            self._note(node.members.values(), node)
        self._note(inside.reached, node, is_member=False)
        for forwarded in inside.forwarded:
            forwarded.reason = "is started by its parent"
        node.children += inside.forwarded
        nested = inside.nested
        if node is self.root and not isinstance(self._settings.mounts, str):
            nested = self._named(self._settings.mounts)
        return self._placed(node, nested)

    def _look_inside(self, node: AppNode) -> Inside:
        return look_inside(
            node, delivered=node.is_supported, excluded=self._excluded, passed=lambda app: self._passed(app, node)
        )

    def scan_again(self) -> list[AppNode]:
        """Find the apps that lifespans mounted in apps that had been looked into before, or put in place of others."""
        if not isinstance(self._settings.mounts, str):
            return []
        found: list[AppNode] = []
        for node in list(self._scanned.values()):
            inside = self._look_inside(node)
            found += self._placed(node, [inner for inner in inside.nested if id(inner.app) not in self._found])
        return found

    def _placed(self, parent: AppNode, nested: Iterable[AppNode]) -> list[AppNode]:
        """Describe apps, and give each its place in the tree and its state."""
        # Copied before the first of them starts: siblings do not see each other's state.
        given = dict(parent.state)
        placed: list[AppNode] = []
        for node in nested:
            if not node.members:
                describe(node)
            self._found[id(node.app)] = node.app
            node.parent, node.shared, node.given, node.state = parent, parent.shared, given, dict(given)
            isolated: Isolated | None = node.forms.get(ISOLATED)
            if isolated is not None and not self._shares_isolated(isolated):
                node.shared = SharedState(node.state)
                self._isolated.append((isolated, given, node.state, {}))
            parent.children.append(node)
            placed.append(node)
            if id(node.app) not in self._observed:
                self._observe(node)
        return in_start_order(placed)

    def _shares_isolated(self, isolated: Isolated) -> bool:
        """Give a second `Isolated` around one app, which runs already, the state that the first one has."""
        for known, given, state, _ in self._isolated:
            if isolated.app is known.app:
                if isolated is not known:
                    self._isolated.append((isolated, given, state, {}))
                return True
        return False

    def _named(self, apps: Iterable[Any]) -> list[AppNode]:
        """Return the apps that the user named, at the place where they are mounted, each once."""
        found: dict[int, AppNode] = {}
        for node in all_nested(AppNode(self.root.app)):
            for key in (*node.members, *node.wrapped):
                found.setdefault(key, node)
        named = {id(found.get(id(app), app)): found.get(id(app)) or _described(app) for app in apps}
        self._insisted = {id(node) for node in named.values()}
        return list(named.values())

    def apart(self, level: Sequence[AppNode]) -> tuple[list[AppNode], list[AppNode]]:
        """Return the apps of a level that have no object in common, and those that are to be decided on later."""
        now: list[AppNode] = []
        later: list[AppNode] = []
        taken: set[int] = set()
        held = holders_of(level)
        for node in level:
            # Those that hold it come before it in the level; of a circle, the first one waits for nobody.
            waits = any(any(holder is other for other in (*now, *later)) for holder in held.get(id(node), ()))
            (later if waits or node.reaches(taken) else now).append(node)
            taken.update(node.members, node.wrapped, node.forwarded)
        return now, later

    # --- step 2: whose it is to start an app ---

    def decide(self, node: AppNode) -> bool:
        """Return whether an app is ours to start; if not, its `reason` says why.

        A WARNING is logged if there is doubt, once. The wrapped app is decided on when the hooks have started.
        """
        if self._startups.watch.startups and set_hook() and not self._is_blind:
            self._is_blind = True
            logger.warning(
                "the interpreter's hook for asynchronous generators was replaced while %s was starting, for example "
                "because its event loop stopped and ran again; a mount whose lifespan function was called by its name "
                "meanwhile may be started twice. List such an app in exclude=[...]",
                self.root.label,
            )
        is_ours = decide(_Case(self, node), ROOT_RULES if node is self.root else RULES)
        if node.reason and node.reason not in _NOT_SEEN:
            self._note(node.members.values(), node)
        elif is_ours:
            self._close_inner_doors(node)
        return is_ours

    def is_known_to_run(self, node: AppNode) -> bool:
        """Return whether an app starts or runs, as far as we started it or saw it."""
        known = self._startups.known
        if node is self.root:
            found = known.get(id(node.app))
            return found is not None and found.node.is_started
        if id(node) not in self._insisted:
            return any(key in known for key in node.members)
        ours = (known[key] for key in node.members if key in known)
        is_ours = any(entry.is_member and not entry.node.reason for entry in ours)
        return is_ours or any(key in self.root.wrapped for key in node.members)

    def is_named(self, node: AppNode) -> bool:
        """Return whether ``mounts=[...]`` names an app."""
        return id(node) in self._insisted

    @staticmethod
    def is_unknown(node: AppNode) -> bool:
        """Return whether an app is of a kind that is not in the table, so that it is asked."""
        return spec_of(node.app) is UNKNOWN or is_a(node.app, MethodType)

    def nothing_began_inside(self, node: AppNode) -> bool:
        """Return whether an app wraps apps whose starts are seen, and none of those has begun."""
        if not node.wrapped or not self.is_unknown(node):
            return False
        for thing in node.wrapped.values():
            inner = _described(thing, node)
            doorways = self.doorways(inner)
            if any(doorway.runs() or doorway.last is not None for doorway in doorways):
                return False  # pragma: no cover - one of several wrapped apps began
            signatures = self._signatures_of(inner)
            if not (doorways or signatures) or (signatures and self.begun(inner)[0] is not Ownership.NOT_BEGUN):
                return False
        return True

    def doorways(self, node: AppNode) -> list[Doorway]:
        """Return the doors of an app."""
        return doorways_of(node, self._startups.watch)

    def begun(self, node: AppNode) -> tuple[Ownership, FunctionType | None]:
        """Return what was seen of the generator that is the lifespan of an app, and its function."""
        signatures = self._signatures_of(node)
        if not signatures:
            return Ownership.NOT_BEGUN, None
        return find_begun(self._startups.watch.observed, signatures, _Relations(self, node))

    def ran_once(self, node: AppNode) -> bool:
        """Return whether an app holds what can be run only once, and has been run and left."""
        watch = self._startups.watch
        managers = (owner for owner, _ in node.doors if spec_of(owner).name == SESSION_MANAGER)
        doorways = (doorway for owner in managers for doorway in doorways_at(owner, watch))
        return any(doorway.last is not None and not doorway.runs() for doorway in doorways)

    def _close_inner_doors(self, wrapper: AppNode) -> None:
        """Let an app that a wrapper holds not begin again if its lifespan function runs for an app around it."""
        for thing in wrapper.wrapped.values():
            inner = _described(thing, wrapper)
            doorways = self.doorways(inner)
            if not doorways or any(doorway.runs() for doorway in doorways):
                continue
            found, function = self.begun(inner)
            if found is Ownership.SHARED and function is not None:  # pragma: no branch - most wrappers share nothing
                [borrowed] = self._startups.watch.observed.of_function(function)[:1]
                doorways[0].borrowed = borrowed
                if not _holds_a_part_of(function, inner):  # pragma: no branch - FastMCP's app in a wrapper
                    logger.warning(
                        "the app inside %s is not started: it has the same lifespan function as an app around it, "
                        "which ran it for itself. To start it anyway, list the app in mounts=[...]; to silence this "
                        "warning, list it in exclude=[...]",
                        wrapper.label,
                    )

    def has_lifespan(self, node: AppNode, begun: Begun) -> bool:
        """Return whether a generator may be the lifespan of an app, or a hook of ours that was given to it."""
        lifespans = [*node.lifespans, *(self._hooks if any(key in self.root.members for key in node.members) else ())]
        signatures = filter(None, map(signature_of, lifespans))
        return any(signature.matches(begun) for signature in signatures)

    def _passed(self, app: Any, wrapper: AppNode) -> bool:
        """Return whether an app got the lifespan of the wrapper that holds it, as far as can be observed."""
        inner = _described(app, wrapper)
        if any(key in self._startups.known for key in inner.members):
            return True
        if any(doorway.runs() for doorway in self.doorways(inner)):
            return True
        if self._signatures_of(inner):
            return self.begun(inner)[0] is not Ownership.NOT_BEGUN
        return not any(id(owner) in inner.members for owner, _ in inner.doors)

    def _signatures_of(self, node: AppNode) -> list[Signature]:
        if not node.lifespans:
            return []
        found = self._signatures.get(node)
        if found is None:
            found = self._signatures[node] = [*filter(None, map(signature_of, node.lifespans))]
        return found

    def is_held_in_background(self, node: AppNode) -> bool:
        """Return whether a background hook or a worker holds the lifespan function of an app."""
        return holds_lifespan_of(node, self._background)

    def is_around(self, thing: Any, node: AppNode) -> bool:
        """Return whether an object is an app that another one is nested in, or consists of the same parts."""
        known = self._startups.known
        nodes = [known[key].node for key in _described(thing).members if key in known]
        return any(outer in nodes for outer in node.around())

    def _scope_of(self, node: AppNode) -> Scope:
        scope: Scope = {**_SCOPE, **self._scope, "state": node.state}
        if node is self.root:
            return scope
        for key in ("app", "router"):  # what frameworks put into a lifespan scope of theirs
            scope.pop(key, None)
        if ROUTER in node.forms and STARLETTE not in node.forms:
            # A bare router is given the application that it belongs to.
            around = (outer.forms.get(STARLETTE) for outer in node.around())
            applications = (application for application in around if application is not None)
            scope["app"] = next(applications, self._scope.get("app", self.root.app))
        return scope


_NOT_SEEN = {"is excluded", "runs already"}
"""Reasons by which nothing is known of an app that was not known before."""


@final
@dataclass(frozen=True, slots=True)
class _Case:
    """What the rules may ask of one app."""

    tree: Tree
    node: AppNode

    def is_excluded(self) -> bool:
        return self.tree.is_excluded(self.node)

    def is_named(self) -> bool:
        return self.tree.is_named(self.node)

    def is_unknown(self) -> bool:
        return self.tree.is_unknown(self.node)

    def is_known_to_run(self) -> bool:
        return self.tree.is_known_to_run(self.node)

    def doorways(self) -> list[Doorway]:
        return self.tree.doorways(self.node)

    def begun(self) -> tuple[Ownership, FunctionType | None]:
        return self.tree.begun(self.node)

    def is_part_of(self, function: FunctionType) -> bool:
        return _holds_a_part_of(function, self.node)

    def ran_once(self) -> bool:
        return self.tree.ran_once(self.node)

    def is_held_in_background(self) -> bool:
        return self.tree.is_held_in_background(self.node)

    def may_expect_lifespan(self) -> bool:
        return mentions_lifespan(self.node.app, lambda thing: self.tree.is_around(thing, self.node))


def _note_that_it_runs(node: AppNode, watch: Watch) -> None:
    """Note that an app has been entered at its door, before a recorder stood there."""
    for doorway in doorways_of(node, watch):
        if doorway.first is None:
            doorway.first = Start(node)
            doorway.first.move(Progress.STARTED)


@final
@dataclass(frozen=True, slots=True)
class _Relations:
    """How the arguments of a generator are related to an app of a tree."""

    tree: Tree
    node: AppNode

    @property
    def members(self) -> Iterable[int]:
        """What the app consists of, by identity."""
        return self.node.members

    def around(self) -> Iterable[Iterable[int]]:
        """Return what the apps consist of that the app is nested in, by identity."""
        return ((*outer.members, *outer.wrapped) for outer in self.node.around())

    def is_part(self, thing: object) -> bool:
        """Return whether an object is the app, or the application that a router belongs to."""
        if id(thing) in self.node.members:
            return True
        # The lifespan of a router is called with its application.
        router = self.node.forms.get(ROUTER)
        return router is not None and spec_of(thing).name == STARLETTE and id(router) in _described(thing).members

    def is_around(self, thing: object) -> bool:
        """Return whether an object is an app that the app is nested in, or the application of its router."""
        members = _described(thing).members
        return any(outer.reaches(members) for outer in self.node.around())

    def has_lifespan(self, thing: object, begun: Begun) -> bool:
        """Return whether a generator may be the lifespan of an app, or a hook of ours that was given to it."""
        return spec_of(thing) is not UNKNOWN and self.tree.has_lifespan(_described(thing), begun)


def _described(app: Any, parent: AppNode | None = None) -> AppNode:
    return describe(AppNode(app, parent=parent))


def _starts_nothing(node: AppNode) -> bool:
    """Return whether the lifespan of an app is the framework's default, without event handlers."""
    if not node.lifespans or any(type(lifespan).__name__ != "_DefaultLifespan" for lifespan in node.lifespans):
        return False
    return not _event_handlers(node)


def _lifespans_inside(node: AppNode) -> list[Any]:
    """Return the lifespan functions of an app, and of the apps that it wraps."""
    # In the stack of a FastAPI app, the router is behind middlewares that nobody described.
    paths = [(thing, spec_of(thing).lifespan) for thing in node.wrapped.values()]
    wrapped = [lifespan for thing, path in paths if path for lifespan in follow(thing, path)]
    return [*node.lifespans, *wrapped]


def _warn_of_ignored_handlers(node: AppNode) -> None:
    """Log a WARNING if an app has event handlers that its own lifespan keeps from running, as FastAPI's does."""
    handlers = _event_handlers(node)
    if not handlers or _starts_nothing(node):
        return
    # The default lifespan runs them; include_router() keeps it in the closure of a merged one.
    todo, seen, run = _lifespans_inside(node), list[Any](), set[int]()
    while todo and len(seen) < MAX_WRAPPERS:
        seen.append(lifespan := without_recorder(todo.pop()))
        function, bound = called_function(lifespan)
        if type(lifespan).__name__ == "_DefaultLifespan":
            router = attributes_of(lifespan).get("_router")
            run |= {id(handler) for name in _HANDLERS for handler in items_of(attributes_of(router).get(name))}
        elif function is not None:
            if names_in(undecorated(function).__code__) & {"startup", "_startup"}:
                return  # app.router.startup() in a lifespan of the user's own
            todo += [*bound, *closure_of(undecorated(function)).values()]
    if any(id(handler) not in run for handler in handlers):
        logger.warning(
            "%s has on_event handlers that never run, because it has a lifespan of its own; move them into that one",
            node.label,
        )


def _event_handlers(node: AppNode) -> list[Any]:
    """Return the functions that an app was given with ``on_event`` or ``on_startup=``."""
    router = node.forms.get(ROUTER)
    if router is None:
        return []
    own = attributes_of(router)
    return [handler for name in _HANDLERS for handler in own.get(name) or ()]


def _holds_a_part_of(function: FunctionType, node: AppNode) -> bool:
    """Return whether a lifespan function holds a part of an app: the session manager that its routes hold."""
    held = {
        id(thing) for thing in closure_of(function).values() if not is_a(thing, type, FunctionType, str, bytes, int)
    }
    todo, seen = [(thing, 0) for thing in node.members.values()], set[int]()
    while todo and len(seen) < MAX_WRAPPERS * 10:
        thing, depth = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if id(thing) in held:
            return True
        if depth < PARTS_DEPTH:  # pragma: no branch - parts are seldom that deep
            own = attributes_of(thing)
            todo += [(own[name], depth + 1) for name in own if name not in {"state", "_state"}]
            todo += [(inner, depth + 1) for value in own.values() for inner in items_of(value)]
    return False


_HANDLERS = ("on_startup", "on_shutdown")
PARTS_DEPTH = 4
"""How deep the parts of an app are looked for: router, routes, endpoint, what the endpoint keeps."""
