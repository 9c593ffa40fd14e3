"""`LifespanManager`: drives any app's lifespan from outside, for tests, scripts and workers."""

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
from ._run import Run
from ._types import ASGIApp, Receive, Send, State, is_a
from ._units.backend import is_loop_gone

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@final
class LifespanManager:
    """Runs an app's lifespan around a block: ``async with LifespanManager(app) as manager: ...``.

    It is the server's side of the ASGI specification, "Lifespan Protocol". ``with LifespanManager(app): ...`` is the
    same for programs that are not asynchronous: the app lives in an event loop in a thread of its own. Once it was
    left, it may be entered again.

    Attributes:
        state: what the lifespan set; requests through `app` get a copy of it. It is empty before the start.
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
        """Prepare to drive an app.

        Args:
            app: any ASGI 3 application; or a `Lifespan`, whose hooks are then run without an app.
            startup_timeout: seconds for its startup; None for no limit.
            shutdown_timeout: seconds for its shutdown; None for no limit.
            strict: departures from the lifespan protocol are errors, not warnings.
            backend: the event loop for a plain ``with``, ``"asyncio"`` or ``"trio"``.
            backend_options: the options of that event loop, as `anyio.run` takes them.

        Raises:
            TypeError: `app` is a class or can't be called, or another argument is of the wrong kind.
            ValueError: a timeout is not positive, or there is no such `backend`.
        """
        if backend not in ("asyncio", "trio"):
            refusal = ValueError if is_a(backend, str) else TypeError
            raise refusal(f"LifespanManager(backend=...) got {backend!r}, expected 'asyncio' or 'trio'")
        self.state: State = {}
        self._lifespan = app if isinstance(app, Lifespan) else Lifespan()
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

    @property
    def app(self) -> ASGIApp:
        """The app, each of whose requests is given a copy of the state.

        It belongs to the event loop that it was started in: within a plain ``with``, use it by `call`.

        Raises:
            AttributeError: there is none, only a `Lifespan`.
        """
        if self._app is None:
            raise AttributeError(f"LifespanManager({self._lifespan!r}) runs hooks alone and has no app; see its state")
        return _WithState(self._app, self.state)

    async def __aenter__(self) -> "LifespanManager":
        """Start the app, until a server would be answered; `ready` waits for background hooks too.

        Raises:
            LifespanNotSupported: the app turned the lifespan away.
            LifespanTimeout: it did not start in time.
            StartupFailed: it said that it failed, and raised nothing.
            RuntimeError: the manager is entered already.
            BaseException: what the app raised.

        *Cancellation:* what has started is stopped, shielded, within `shutdown_timeout`.
        """
        __tracebackhide__ = True
        self._refuse_another_entry()
        self.state.clear()
        scope = {"type": "lifespan", "state": self.state}
        has_app = self._app is not None
        self._run = run = Run(
            self._app,
            hooks_of(self._lifespan).plan(),
            self._settings,
            scope,
            sends_to_app=has_app,
            logs_tracebacks=False,
        )
        try:
            if (error := await run.start()) is not None:
                raise error
            if run.is_refused:
                raise LifespanNotSupported(run.label) from run.refusal
        except BaseException:
            self._run = None
            raise
        run.serve()
        return self

    async def ready(self) -> None:
        """Wait until all background hooks have started.

        Raises:
            RuntimeError: If the manager is not entered, or the app stops before.
            BaseException: What a background hook raised.

        *Cancellation:* Nothing comes of it.
        """
        __tracebackhide__ = True
        if self._run is None:
            raise RuntimeError("LifespanManager was not entered")
        await self._run.wait_until_ready()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the app. It may be left in another task than it was entered in, on asyncio.

        Raises:
            ShutdownFailed: it said that it failed, and raised nothing.
            LifespanTimeout: it did not stop in time.
            RuntimeError: the manager was not entered.
            BaseExceptionGroup: the block raised, and stopping failed too; the block's error comes first.
            BaseException: what the app raised, now or while serving.

        *Cancellation:* the app is stopped all the same, shielded.
        """
        __tracebackhide__ = True
        run, self._run = self._run, None
        if run is None:
            raise RuntimeError("LifespanManager was not entered")
        if error is None:
            if (failure := await run.stop()) is not None:
                raise failure
        else:
            await run.stop_after(error)

    def __enter__(self) -> "LifespanManager":
        """Start the app in an event loop in a thread of its own, and wait for it.

        Raises:
            RuntimeError: the manager is entered already; or an event loop runs here, which this would hold up.
            LookupError: the `backend` is not installed.
            BaseException: all that ``async with`` raises, as it is.

        *Cancellation:* Ctrl-C, at this or at any later time, stops the app in its order before it is raised.
        """
        __tracebackhide__ = True
        if not is_loop_gone():
            raise RuntimeError("`with LifespanManager(...)` would hold up the event loop here; use `async with`")
        self._refuse_another_entry()
        if find_spec(self._backend[0]) is None:
            raise LookupError("LifespanManager(backend='trio') needs trio: pip install trio")
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal(*self._backend))
            stack.push(self._leave)
            self.call(self.__aenter__)
            self._thread = stack.pop_all()
        return self

    def _refuse_another_entry(self) -> None:
        if self._run is not None:
            raise RuntimeError("LifespanManager is entered already; make another one for another run")

    def _leave(self, *raised: Any) -> None:
        __tracebackhide__ = True
        if self._run is not None:
            self.call(self.__aexit__, *raised)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the app, and its event loop.

        Raises:
            BaseException: all that leaving an ``async with`` raises, as it is.
        """
        __tracebackhide__ = True
        self._thread.__exit__(kind, error, traceback)

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run an asynchronous function where the app lives, and wait for it; within a plain ``with``.

        Args:
            function: what to call, such as the ``get`` of an `httpx.AsyncClient` over `app`.
            args: its arguments.

        Returns:
            What it returned.

        Raises:
            RuntimeError: the manager is not entered with a plain ``with``.
            BaseException: what the function raised.

        *Cancellation:* Ctrl-C cancels the function, and is raised when that has ended.
        """
        __tracebackhide__ = True
        if self._portal is None:
            raise RuntimeError("LifespanManager.call() is for `with LifespanManager(...)`, which was not entered")
        outcome = Future[T]()

        async def fulfil() -> None:
            __tracebackhide__ = True
            try:
                outcome.set_result(await function(*args))
            except BaseException as error:  # one that is no `Exception` would tear the event loop down
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
    """An app whose requests are given a copy of a state."""

    app: ASGIApp
    state: State

    @straight_through
    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "lifespan":
            scope = {**scope, "state": {**self.state, **scope.get("state", {})}}
        return self.app(scope, receive, send)
