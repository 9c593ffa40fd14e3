"""`AppNode`: an app in the tree of one run."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, final

from .._types import State
from .frameworks import UNKNOWN, Door
from .state import SharedState

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
        doors: Where it is started: the objects, and the doors that the table has for them.
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
        "added", "app", "children", "doors", "forms", "forwarded", "given", "is_mount", "is_started", "is_supported",
        "label", "lifespans", "members", "parent", "path", "policy", "reason", "refusal", "shared", "state", "wrapped",
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
        self.doors: Sequence[tuple[Any, Door]] = ()
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
