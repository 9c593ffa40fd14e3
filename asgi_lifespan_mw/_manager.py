"""`LifespanManager`: drives any app's lifespan from outside, for tests, scripts and workers."""

from collections.abc import Awaitable
from types import TracebackType
from typing import Any, final

from ._app import checked_app, straight_through
from ._errors import LifespanNotSupported
from ._run import Run
from ._settings import Settings, checked_seconds
from ._types import ASGIApp, Receive, Send, State


@final
class LifespanManager:
    """Runs an app's lifespan around a block: ``async with LifespanManager(app) as manager: ...``.

    Attributes:
        state: what the app's lifespan set; requests through `app` get a copy of it.
    """

    def __init__(
        self,
        app: ASGIApp,
        startup_timeout: float | None = 5,
        shutdown_timeout: float | None = 5,
        *,
        strict: bool = False,
    ) -> None:
        """Prepare to drive an app.

        Args:
            app: any ASGI 3 application.
            startup_timeout: seconds for its startup; None for no limit.
            shutdown_timeout: seconds for its shutdown; None for no limit.
            strict: departures from the lifespan protocol are errors, not warnings.

        Raises:
            TypeError: `app` is a class or can't be called, or a timeout is no number.
            ValueError: a timeout is not positive.
        """
        self.state: State = {}
        self._app = checked_app(app, "LifespanManager()")
        self._settings = Settings(
            mounts="off",
            strict=strict,
            startup_timeout=checked_seconds(startup_timeout, "LifespanManager(startup_timeout=...)"),
            shutdown_timeout=checked_seconds(shutdown_timeout, "LifespanManager(shutdown_timeout=...)"),
        )
        self._run: Run | None = None

    @property
    def app(self) -> ASGIApp:
        """The app, each of whose requests is given a copy of the state."""
        return _WithState(self._app, self.state)

    async def __aenter__(self) -> "LifespanManager":
        """Start the app.

        Raises:
            LifespanNotSupported: the app turned the lifespan away.
            LifespanTimeout: it did not start in time.
            StartupFailed: it said that it failed, and raised nothing.
            RuntimeError: the manager is entered already.
            BaseException: what the app raised.

        *Cancellation:* what has started is stopped, shielded, within `shutdown_timeout`.
        """
        if self._run is not None:
            raise RuntimeError("LifespanManager is entered already; make another one for another run")
        self._run = run = self._new_run()
        try:
            await run.start()
            if run.is_refused:
                raise LifespanNotSupported(run.label) from run.refusal
        except BaseException:
            self._run = None
            raise
        run.serve()
        return self

    def _new_run(self) -> Run:
        self.state.clear()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        return Run(self._app, (), self._settings, scope)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the app. It may be left in another task than it was entered in, on asyncio.

        Raises:
            ShutdownFailed: it said that it failed, and raised nothing.
            LifespanTimeout: it did not stop in time.
            BaseExceptionGroup: the block raised, and stopping failed too; the block's error comes first.
            BaseException: what the app raised, now or while serving.

        *Cancellation:* the app is stopped all the same, shielded.
        """
        run, self._run = self._run, None
        if run is None:
            raise RuntimeError("LifespanManager was not entered")
        if error is None:
            await run.stop()
        else:
            await run.stop_after(error)


@final
class _WithState:
    """An app whose requests are given a copy of a state."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self._state = state

    @straight_through
    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "lifespan":
            scope = {**scope, "state": {**self._state, **scope.get("state", {})}}
        return self.app(scope, receive, send)
