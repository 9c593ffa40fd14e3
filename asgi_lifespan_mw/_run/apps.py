"""The apps of one run: which of them start, in which order, and what their answers mean."""

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import final

import anyio

from .._apps.frameworks import never_takes_it
from .._apps.node import AppNode
from .._apps.tree import Tree
from .._callables import identity_of
from .._config import Settings
from .._exceptions import StateCollision
from .._hooks.decorators import HookDecorators, hooks_of
from .._hooks.hook import Hook
from .._log import logger
from .._protocol.session import Session
from .._protocol.table import Phase
from .._reporting.tracebacks import trim
from .._types import is_a
from .._units.failure import text_of
from .._units.unit import Unit

_TURNS = 3
"""Turns of the event loop, so that tasks that a lifespan has just made take their first step.

They are given before the last look for mounts, and after each start while there are apps whose starts can be seen.
"""


@final
class Apps:
    """The wrapped app and its mounts.

    Attributes:
        tree: The apps as they are nested.
        units: The units of the apps that are started by us.
        started: The number of mounts that have started.
    """

    def __init__(
        self,
        tree: Tree,
        settings: Settings,
        *,
        sends_to_app: bool,
        new_unit: "Callable[..., Unit]",
        start_units: Callable[..., Awaitable[None]],
        left_out: Callable[[AppNode], object],
    ) -> None:
        """Prepare to start the apps of a tree.

        Args:
            tree: The apps.
            settings: How to treat mounts and time.
            sends_to_app: Whether the wrapped app is sent a lifespan, which it is not where we are its lifespan.
            new_unit: Makes a unit of a label and a body.
            start_units: Starts units side by side.
            left_out: Called with each app that this run does not start.
        """
        self.tree = tree
        self.units: dict[AppNode, Unit] = {}
        self.started = 0
        self._settings = settings
        self._sends_to_app = sends_to_app
        self._new_unit = new_unit
        self._start_units = start_units
        self._left_out = left_out
        self._nodes: dict[Unit, AppNode] = {}
        self._sessions: dict[AppNode, Session] = {}
        self._failed: set[AppNode] = set()  # optional apps, whose failure does not end the start

    def node_of(self, unit: Unit) -> AppNode | None:
        """Return the app of a unit; None for a hook."""
        return self._nodes.get(unit)

    def is_supported(self, node: AppNode) -> bool:
        """Return whether an app, which is a unit, supports the lifespan protocol, as far as it has answered."""
        return self._sessions[node].phase is not Phase.UNSUPPORTED

    def refuse(self, unit: Unit) -> None:
        """Let the app of a unit raise as if it had not received the startup: an inner app refused the lifespan."""
        if (node := self._nodes.get(unit)) is not None:
            self._sessions[node].refuse()

    def release(self) -> None:
        """Let go of what the apps' lifespans hold, once everything has stopped. What a report shows stays."""
        self._sessions.clear()
        for unit in self.units.values():
            unit.release()
        todo = [self.tree.root]
        while todo:
            node = todo.pop()
            node.given, node.state, node.shared = {}, {}, None
            todo += node.children

    def survey(self) -> None:
        """Find what would be started, as far as can be seen without a start."""
        tree = self.tree
        todo = [tree.root]
        while todo:
            node = todo.pop()
            self._decide(node)
            todo += reversed(tree.scan(node))
        tree.leave()

    def count_mounts(self) -> int:
        """Return how many mounts a survey found that a run would start."""
        found, todo = 0, [self.tree.root]
        while todo:
            node = todo.pop()
            found += node.is_mount and not node.reason
            todo += node.children
        return found

    def repeated(self, hooks: Iterable[Hook]) -> set[Hook]:
        """Return those of the hooks that the wrapped app runs as its own lifespan, and name each in a WARNING.

        ``LifespanMiddleware(FastAPI(lifespan=f), lifespan=f)``
        """
        own = self.tree.lifespans_around() if self._sends_to_app else []
        own += [
            hook.function for one in own if isinstance(one, HookDecorators) for hook in hooks_of(one).in_start_order()
        ]
        known = {identity_of(function) for function in own}
        found = {hook for hook in hooks if identity_of(hook.function) in known}
        for hook in found:
            logger.warning(
                "%s is also the lifespan of %s; it runs once, there. Remove one of the two",
                hook.label,
                self.tree.root.label,
            )
        return found

    async def start(self) -> None:
        """Start the wrapped app, then its mounts.

        Raises:
            UnitFailed: If one of them fails.
        """
        tree = self.tree
        if self._sends_to_app and self._decide(tree.root):
            await self._start([tree.root])
        await (self._start_levels() if self._settings.concurrent else self._start_branches())
        tree.warn_of_strangers()

    async def _start_branches(self) -> None:
        """Start the mounts one after the other, in route order, each before what is mounted in it."""
        todo = (await self._scan(self.tree.root))[::-1]
        while todo or (todo := (await self._scan())[::-1]):
            node = todo.pop()
            if self._decide(node):
                await self._start([node])
            if node not in self._failed:
                todo += reversed(await self._scan(node))

    async def _start_levels(self) -> None:
        """Start the mounts side by side, one level of the tree after the other."""
        level = await self._scan(self.tree.root)
        while level or (level := await self._scan()):
            later = level
            while later:
                # One app at two paths: the second place is decided on when the app has started at the first.
                now, later = self.tree.apart(later)
                await self._start([node for node in now if self._decide(node)])
            level = [inner for node in level if node not in self._failed for inner in await self._scan(node)]

    async def _scan(self, node: AppNode | None = None) -> list[AppNode]:
        """Find the apps in an app, or, without one, those that lifespans and their tasks mounted meanwhile.

        If they are the first whose starts can be seen, tasks may start them first.
        """
        if node is None:
            await _take_turns()
        was_seen = self.tree.may_be_entered
        found = self.tree.scan_again() if node is None else self.tree.scan(node)
        if self.tree.may_be_entered and not was_seen:
            await _take_turns()
        return found

    def _decide(self, node: AppNode) -> bool:
        """Return whether an app is ours to start; show it to the observers if it is not."""
        is_ours = self.tree.decide(node)
        if not is_ours:
            self._left_out(node)
        return is_ours

    async def _start(self, nodes: list[AppNode]) -> None:
        """Start apps side by side, and take over their state."""
        for node in nodes:
            session = self._sessions[node] = self._session_of(node)
            is_mount = node is not self.tree.root
            timeout = self._settings.mount_timeout if is_mount else None
            unit = self.units[node] = self._new_unit(
                node.label, session.live, timeout=timeout, is_optional=is_mount and self.tree.is_optional(node)
            )
            if is_mount and self.tree.is_unknown(node) and not self.tree.is_named(node):
                unit.let_go = functools.partial(self._let_go, node)
            self._nodes[unit] = node
            if self._settings.concurrent and node.parent is not None and node.parent in self.units:
                unit.inherits = self.units[node.parent]
        if nodes:
            await self._start_units(*(self.units[node] for node in nodes))
            if self.tree.may_be_entered:
                await _take_turns()
        for node in nodes:
            if self.units[node].failure is not None:
                self._failed.add(node)
                node.state.clear()
                node.state.update(node.given)
            elif self._sessions[node].phase is not Phase.IDLE:  # else it is waited for no longer
                self._settle(node)

    def _session_of(self, node: AppNode) -> Session:
        return Session(
            self.tree.asked(node),
            self.tree.begin(node),
            strict=self._settings.strict,
            is_asked=node is not self.tree.root and self.tree.is_unknown(node),
            nothing_began=functools.partial(self.tree.nothing_began_inside, node),
            on_start=functools.partial(self._started_late, node),
        )

    def _let_go(self, node: AppNode) -> bool:
        """Return whether the start of an app is waited for no longer, because it has not received anything yet."""
        if self._sessions[node].phase is not Phase.IDLE:
            return False
        logger.warning(
            "%s was sent a lifespan and has not received it; the startup goes on without it. To wait for it, list the "
            "app in mounts=[...]; if it has no lifespan, list it in exclude=[...]",
            node.label,
        )
        return True

    def _started_late(self, node: AppNode) -> None:
        """Take over the state of an app that was waited for no longer."""
        unit = self.units[node]
        if unit.is_background:
            try:
                self._settle(node)
            except StateCollision as error:  # raised in the app, it would look like an error of the app's
                unit.fail(error)

    def _settle(self, node: AppNode) -> None:
        """Take over what an app that has started, or does not support the lifespan, has left."""
        session = self._sessions[node]
        node.is_supported = session.phase is not Phase.UNSUPPORTED
        node.refusal = session.refusal
        if node is not self.tree.root and _is_mistake(node.refusal):
            self._tell_mistake(node)
        self.tree.settle(node)
        self.started += node is not self.tree.root and node.is_supported

    def warn_of_refusal(self) -> None:
        """Log that the wrapped app does not support the lifespan, while something else was started."""
        root = self.tree.root
        if _is_mistake(root.refusal):
            self._tell_mistake(root)
        elif any(map(never_takes_it, (*root.members.values(), *root.wrapped.values()))):
            logger.info("%s does not support the lifespan protocol; what else there is was started", root.label)
        else:
            logger.warning("%s does not support the lifespan protocol", root.label, exc_info=root.refusal)

    def _tell_mistake(self, node: AppNode) -> None:
        assert node.refusal is not None, "it is a mistake"
        trim(node.refusal)
        logger.warning(
            "%s cannot be called with a lifespan: %s. Requests will fail too; is it a factory that was not called, or "
            "a middleware with a wrong argument?",
            node.label,
            text_of(node.refusal),
            exc_info=node.refusal,
        )


async def _take_turns() -> None:
    for _ in range(_TURNS):
        await anyio.lowlevel.checkpoint()


def _is_mistake(refusal: Exception | None) -> bool:
    """Return whether an app raised for another reason than the type of the scope, so that requests fail too."""
    if is_a(refusal, TypeError):  # a middleware that was given a wrong keyword; a factory that was not called
        return any(words in text_of(refusal) for words in ("argument", "not callable", "in 'await' expression"))
    return is_a(refusal, NameError, ImportError, SyntaxError)
