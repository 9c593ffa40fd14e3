"""`Requests`: what a request gets besides the wrapped app: a start, another app while all starts, a run's state."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, final

from ._log import logger
from ._on_request import StartsOnRequest
from ._run.run import Run
from ._types import ASGIApp, Receive, Scope, Send
from ._units.backend import current_loop, is_loop_closed


class _Serving(NamedTuple):
    """A run that serves requests.

    Attributes:
        loop: Its event loop. Several threads may run one app.
        gives_state: Whether the server gives state to the requests.
    """

    loop: object
    gives_state: bool


@final
class Requests:
    """Passes each request of one middleware to the app that answers it, with the state of its run.

    Attributes:
        serving: The runs that serve requests.

    `route` is called with the app that answers the next requests: the wrapped app if these need nothing of us and go
    straight through, else `detour`.
    """

    def __init__(
        self,
        app: ASGIApp,
        while_starting: ASGIApp | None,
        starts: StartsOnRequest | None,
        *,
        route: Callable[[ASGIApp], None],
        warn_of_missing_lifespan: Callable[[], None],
    ) -> None:
        self._app = app
        self._while_starting = while_starting
        self._starts = starts
        self._route = route
        self._warn = warn_of_missing_lifespan
        self.serving: dict[Run, _Serving] = {}
        self._is_warned = starts is not None
        route(self.detour)

    def lifespan_came(self) -> None:
        """Note that the server sends lifespans, so that a request before the first answer is not warned of."""
        self._is_warned = True
        self._choose()

    def begin(self, run: Run, *, gives_state: bool) -> None:
        """Let the requests see a run."""
        for other, serving in list(self.serving.items()):
            if is_loop_closed(serving.loop):  # without a shutdown
                del self.serving[other]
        self.serving[run] = _Serving(current_loop(), gives_state)
        if self._while_starting is not None and not run.readiness.is_starting and not run.readiness.has_background:
            logger.warning(
                "LifespanMiddleware(while_starting=...) of %s has no effect, because nothing starts in the background; "
                "register hooks with background=True, or pass background=True for the app and its mounts",
                run.label,
            )
        run.readiness.when_ready = self._choose
        self._choose()

    def end(self, run: Run) -> None:
        """Let the requests see a run no more."""
        self.serving.pop(run, None)
        self._choose()

    def detour(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[Any]:
        """Pass a request on that needs more than the wrapped app."""
        if self._starts is not None:
            if self._starts.is_pending():
                return self._start_first(self._starts, scope, receive, send)
        elif not self._is_warned:
            self._is_warned = True
            self._choose()
            self._warn()
        run = self._run_of_request()
        if run is None:
            return self._app(scope, receive, send)
        if self._while_starting is not None and run.readiness.is_starting:
            return self._while_starting(self._with_state(scope, run), receive, send)
        return self._app(self._with_state(scope, run), receive, send)

    def _with_state(self, scope: Scope, run: Run) -> Scope:
        if self._adds_state(run):
            return {**scope, "state": {**run.state, **scope.get("state", {})}}
        if "state" in scope or self.serving[run].gives_state:
            return scope
        return {**scope, "state": {**run.state}}

    async def _start_first(self, starts: StartsOnRequest, scope: Scope, receive: Receive, send: Send) -> None:
        __tracebackhide__ = True
        await starts.started()
        await self.detour(scope, receive, send)

    def _run_of_request(self) -> Run | None:
        """Return the run that serves a request: the last one in its event loop, else the last one in an open loop."""
        if len(self.serving) == 1:
            [(run, only)] = self.serving.items()
            return None if is_loop_closed(only.loop) else run
        serving = [(run, one.loop) for run, one in list(self.serving.items()) if not is_loop_closed(one.loop)]
        loop = current_loop()
        here = [run for run, other in serving if other is loop] or [run for run, _ in serving]
        return here[-1] if here else None

    def _choose(self) -> None:
        """Choose who answers the next requests."""
        needs_us = not self._is_warned or self._starts is not None
        for run, serving in list(self.serving.items()):
            waits = self._while_starting is not None and run.readiness.is_starting
            needs_us = needs_us or waits or not serving.gives_state or self._adds_state(run)
        self._route(self.detour if needs_us else self._app)

    def _adds_state(self, run: Run) -> bool:
        """Return whether a server that copies the state at the answer gives its requests too little."""
        late = run.readiness
        return self._starts is not None or run.has_late_state or (late.has_background and late.is_starting)
