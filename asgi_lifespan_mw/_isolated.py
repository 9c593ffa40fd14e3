"""`Isolated`: an app whose lifespan state only its own requests see."""

from collections.abc import Awaitable
from typing import Any, final

from ._asgi import checked_app, straight_through
from ._types import ASGIApp, Receive, Send, State
from ._units.backend import current_loop


@final
class Isolated:
    """An app whose lifespan state only its own requests see: ``app.mount("/admin", Isolated(admin))``.

    What is mounted inside shares it. Requests to other apps pay nothing for it; one to this app gets a copy of its
    scope with the state put in. Without a `LifespanMiddleware` or ``Lifespan(mounts="auto")`` outside, it is the app.

    Attributes:
        app: The app.
        states: Its state in each run that is on, with the event loop of the run. If there are several, a request gets
            the state of its own event loop; among those, the run that was answered last counts.
    """

    __slots__ = ("app", "states")

    def __init__(self, app: ASGIApp) -> None:
        """Isolate an app.

        Args:
            app: Any ASGI 3 application.

        Raises:
            TypeError: If `app` is a class, or can't be called.
        """
        self.app: ASGIApp = checked_app(app, "Isolated()")
        self.states: list[tuple[object, State]] = []

    @straight_through
    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        """Call the app, as the ASGI specification has it."""
        if self.states and scope["type"] != "lifespan":
            scope = {**scope, "state": {**scope.get("state", {}), **self._state()}}
        return self.app(scope, receive, send)

    def _state(self) -> State:
        states = self.states
        if len(states) == 1:
            return states[0][1]
        loop = current_loop()
        return next((state for of, state in reversed(states) if of is loop), states[-1][1])

    def __repr__(self) -> str:
        return f"Isolated({self.app!r})"
