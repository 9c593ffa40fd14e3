"""Lifespan state: who set which key, and whose requests see it."""

from collections.abc import Awaitable, Mapping
from typing import Any, final

from ._app import checked_app, straight_through
from ._errors import StateCollision
from ._types import ASGIApp, Receive, Send, State


@final
class Realm:
    """The state that the same requests see, filled by one unit after the other.

    Attributes:
        state: what the requests are given a copy of. It is filled in place: it may be the server's own dict.
    """

    __slots__ = ("_setters", "state")

    def __init__(self, state: State, setter: str | None = "the server") -> None:
        """Begin with `state` as `setter` left it; None lets the units shadow it, as an isolated app may."""
        self.state = state
        self._setters: dict[str, str] = {} if setter is None else dict.fromkeys(state, setter)

    def add(self, unit: str, before: Mapping[str, Any], after: Mapping[str, Any], *, is_mount: bool = False) -> None:
        """Take over what a unit set.

        Args:
            unit: its name.
            before: what it was given.
            after: what it left.
            is_mount: whether `Isolated` would help.

        Raises:
            StateCollision: another unit set one of the keys to another object.
        """
        for key, value in after.items():
            if key in before and before[key] is value:
                continue
            known = before if key in before else self.state
            if key in self._setters and known.get(key, value) is not value:
                raise StateCollision(key, self._setters[key], unit, _advice(key, self._setters[key], is_mount=is_mount))
            self.state[key] = value
            self._setters.setdefault(key, unit)


def _advice(key: str, first: str, *, is_mount: bool) -> str:
    if is_mount or first.startswith("mount "):
        return f"rename it, or wrap the mounted app in Isolated(app), so that only its own requests see its {key!r}"
    return "rename one of them"


@final
class Isolated:
    """An app whose lifespan state only its own requests see: ``app.mount("/admin", Isolated(admin))``.

    What is mounted inside shares it. Requests to other apps pay nothing for it; one to this app gets a copy of its
    scope with the state put in. Without a `LifespanMiddleware` or ``Lifespan(mounts="auto")`` outside, it is the app.

    Attributes:
        app: the app.
        state: its state, while a run of its lifespan is on; else None.
    """

    __slots__ = ("app", "state")

    def __init__(self, app: ASGIApp) -> None:
        """Isolate an app.

        Args:
            app: any ASGI 3 application.

        Raises:
            TypeError: `app` is a class, or can't be called.
        """
        self.app = checked_app(app, "Isolated()")
        self.state: State | None = None

    @straight_through
    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        """Call the app, as the ASGI specification has it."""
        if self.state and scope["type"] != "lifespan":
            scope = {**scope, "state": {**scope.get("state", {}), **self.state}}
        return self.app(scope, receive, send)

    def __repr__(self) -> str:
        return f"Isolated({self.app!r})"
