"""`LifespanManager`: runs any app's lifespan from outside, for tests, scripts and workers."""

import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from types import TracebackType
from typing import Any, TypeVar, TypeVarTuple, final

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ._asgi import checked_app, straight_through
from ._config import Settings, checked_seconds
from ._exceptions import LifespanNotSupported
from ._hooks.decorators import hooks_of
from ._lifespan import Lifespan
from ._log import logger
from ._run.run import Run
from ._types import ASGIApp, Receive, Send, State, is_a
from ._units.backend import current_loop, is_loop_gone

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@final
class LifespanManager:
    """Runs an app's lifespan around a block: ``async with LifespanManager(app) as manager: ...``.

    The manager takes the server's side of the ASGI specification, "Lifespan Protocol". In programs that are not
    asynchronous, ``with LifespanManager(app): ...`` runs the app in an event loop in a thread of its own. A manager can
    be entered again after it was left.

    Attributes:
        state: The lifespan state. Requests through `app` get a copy of it. It is empty before the start.
    """

    def __init__(
        self,
        app: ASGIApp | Lifespan,
        startup_timeout: float | None = 5,
        shutdown_timeout: float | None = 5,
        *,
        strict: bool = False,
        backend: str = "asyncio",
        backend_options: dict[str, Any] | None = None,
    ) -> None:
        """Prepare to run an app's lifespan.

        Args:
            app: Any ASGI 3 application, or a `Lifespan`, whose hooks then run without an app.
            startup_timeout: Seconds for the startup; None for no limit.
            shutdown_timeout: Seconds for the shutdown; None for no limit.
            strict: Whether deviations from the lifespan protocol are errors; otherwise they are warnings.
            backend: The event loop for a plain ``with``, ``"asyncio"`` or ``"trio"``.
            backend_options: The options of that event loop, as for `anyio.run`.

        Raises:
            TypeError: If `app` is a class or not callable, or another argument has the wrong type.
            ValueError: If a timeout is not positive, or `backend` is another string.
        """
        if backend not in ("asyncio", "trio"):
            refusal = ValueError if is_a(backend, str) else TypeError
            raise refusal(f"LifespanManager(backend=...) got {backend!r}, expected 'asyncio' or 'trio'")
        self.state: State = {}
        self._lifespan = app if isinstance(app, Lifespan) else Lifespan()
        self._hooks = hooks_of(self._lifespan)
        self._app = None if isinstance(app, Lifespan) else checked_app(app, "LifespanManager()")
        self._settings = Settings(
            mounts="off",
            strict=strict,
            startup_timeout=checked_seconds(startup_timeout, "LifespanManager(startup_timeout=...)"),
            shutdown_timeout=checked_seconds(shutdown_timeout, "LifespanManager(shutdown_timeout=...)"),
        )
        self._backend = backend, backend_options
        self._run: Run | None = None
        self._portal: BlockingPortal | None = None
        self._thread = ExitStack()
        self._was_entered = False
        self._loop: object = None
        self._is_warned = False

    @property
    def app(self) -> ASGIApp:
        """The app. Each request gets a copy of the state.

        Use the app in the event loop in which it was started: within a plain ``with``, through `call`.

        Raises:
            AttributeError: If the manager runs a `Lifespan` without an app.
        """
        if self._app is None:
            raise AttributeError(f"LifespanManager({self._lifespan!r}) runs hooks alone and has no app; see its state")
        return _WithState(self._app, self)

    async def __aenter__(self) -> "LifespanManager":
        """Start the app, until a server would be answered; `wait_until_ready` waits for the background too.

        Raises:
            LifespanNotSupported: If the app does not support the lifespan protocol.
            LifespanTimeout: If the app does not start in time.
            StartupFailed: If the app sends that it failed, and raises nothing.
            RuntimeError: If the manager is entered already.
            BaseException: What the app raised.

        *Cancellation:* Everything that has started is stopped, shielded, within `shutdown_timeout`.
        """
        __tracebackhide__ = True
        self._refuse_another_entry()
        self.state.clear()
        scope, has_app = {"type": "lifespan", "state": self.state}, self._app is not None
        self._run = run = Run(
            self._app, self._hooks.plan(), self._settings, scope, sends_to_app=has_app, logs_tracebacks=False
        )
        self._hooks.begins(run)
        try:
            await run.__aenter__()
            if run.is_refused:
                raise LifespanNotSupported(run.label) from run.refusal
        except BaseException as error:
            self._run = None
            self._hooks.ended()
            if error is run.error:
                error.with_traceback(run.trace)  # without the frames of this package
            raise
        self._was_entered, self._loop = True, current_loop()
        return self

    async def wait_until_ready(self) -> None:
        """Wait until all that starts in the background has started, in the app too.

        Raises:
            RuntimeError: If the manager is not entered, or the app stops before.
            BaseException: What failed in the background.

        *Cancellation:* What starts in the background goes on.
        """
        __tracebackhide__ = True
        await self._entered("wait_until_ready()").readiness.wait()

    async def ready(self) -> None:
        """Wait until all that starts in the background has started; the old name of `wait_until_ready`.

        Raises:
            RuntimeError: If the manager is not entered, or the app stops before.
            BaseException: What failed in the background.
        """
        __tracebackhide__ = True
        warnings.warn("LifespanManager.ready() is wait_until_ready() now", DeprecationWarning, stacklevel=2)
        await self.wait_until_ready()

    def _entered(self, where: str) -> Run:
        """Return the run.

        Raises:
            RuntimeError: If the manager is not entered.
        """
        if self._run is None:
            state = "has been left" if self._was_entered else "was not entered"
            raise RuntimeError(f"LifespanManager {state}; {where} works inside of `async with` or `with`")
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the app. On asyncio, another task than the one that entered the manager may do so.

        Raises:
            ShutdownFailed: If the app sends that it failed, and raises nothing.
            LifespanTimeout: If the app does not stop in time.
            RuntimeError: If the manager was not entered.
            BaseExceptionGroup: If the block raised, and stopping failed too; the block's exception comes first.
            BaseException: What the app raised, now or while serving.

        *Cancellation:* The app is stopped, shielded.
        """
        __tracebackhide__ = True
        run, self._run = self._entered("the exit"), None
        try:
            await run.__aexit__(kind, error, traceback)
        except BaseException as failed:
            if failed is run.error:
                failed.with_traceback(run.trace)
            raise
        finally:
            self._hooks.ended()

    def __enter__(self) -> "LifespanManager":
        """Start the app in an event loop in a thread of its own, and wait until it has started.

        Raises:
            RuntimeError: If the manager is entered already, or an event loop runs in this thread.
            LookupError: If `backend` is not installed.
            BaseException: The same as with ``async with``.

        *Cancellation:* Ctrl-C, now or later, stops the app in its order before KeyboardInterrupt is raised.
        """
        __tracebackhide__ = True
        if not is_loop_gone():
            raise RuntimeError("`with LifespanManager(...)` would block the running event loop; use `async with`")
        self._refuse_another_entry()
        if find_spec(self._backend[0]) is None:
            raise LookupError("LifespanManager(backend='trio') needs trio: pip install trio")
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal(*self._backend))
            stack.callback(setattr, self, "_portal", None)
            stack.push(self._leave)
            self._call(self.__aenter__)
            self._thread = stack.pop_all()
        return self

    def _refuse_another_entry(self) -> None:
        if self._run is not None:
            raise RuntimeError("LifespanManager is entered already; make another one for another run")

    def _check_loop(self) -> None:
        """Log a WARNING, once, if a request comes from another event loop than the one in which the app was started."""
        if self._run is not None and not self._is_warned and current_loop() not in (None, self._loop):
            self._is_warned = True
            logger.warning(
                "a request to %s came from another event loop than the one in which LifespanManager started it; what "
                "its lifespan opened may not work there. Within a plain `with`, send requests by manager.call(...)",
                self._run.label,
            )

    def _leave(self, *raised: Any) -> None:
        __tracebackhide__ = True
        if self._run is not None:
            self._call(self.__aexit__, *raised)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the app and its event loop.

        Raises:
            BaseException: The same as with ``async with``.
        """
        __tracebackhide__ = True
        self._entered("the exit")
        self._thread.__exit__(kind, error, traceback)

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run an asynchronous function in the app's event loop, and wait for it; within a plain ``with``.

        Args:
            function: The function, such as the ``get`` of an `httpx.AsyncClient` over `app`.
            args: Its arguments.

        Returns:
            The result of the function.

        Raises:
            RuntimeError: If the manager is not entered with a plain ``with``.
            BaseException: What the function raised.

        *Cancellation:* Ctrl-C cancels the function. KeyboardInterrupt is raised when the function has ended.
        """
        __tracebackhide__ = True
        self._entered("call()")
        if self._portal is None:
            raise RuntimeError(
                "LifespanManager.call() is for `with LifespanManager(...)`; within `async with`, await the function"
            )
        return self._call(function, *args)

    def _call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        __tracebackhide__ = True
        assert self._portal is not None, "an event loop runs in a thread"
        outcome = Future[T]()

        async def fulfil() -> None:
            __tracebackhide__ = True
            try:
                outcome.set_result(await function(*args))
            except BaseException as error:  # sys.exit() in the function would end the event loop
                outcome.set_exception(error)

        task = self._portal.start_task_soon(fulfil)
        try:
            return outcome.result()
        except BaseException:
            task.cancel()
            outcome.exception()
            raise


@final
@dataclass(eq=False, repr=False)
class _WithState:
    """An app, each of whose requests gets a copy of the state of a manager."""

    app: ASGIApp
    manager: LifespanManager

    @straight_through
    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "lifespan":
            self.manager._check_loop()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the class is public
            scope = {**scope, "state": {**self.manager.state, **scope.get("state", {})}}
        return self.app(scope, receive, send)
