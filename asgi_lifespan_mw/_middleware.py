"""`LifespanMiddleware`: the ASGI callable. It wires the parts together and has no rule of its own."""

from collections.abc import Awaitable, Callable, Generator, Iterable, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, final

from ._apps.walk import is_nested
from ._asgi import checked_app, straight_through
from ._config import (
    Settings,
    check,
    checked_apps,
    checked_flag,
    checked_mounts,
    checked_optional,
    checked_seconds,
    is_plain_function,
)
from ._crash import CrashPolicy, OnCrash, checked_on_crash, terminate
from ._exceptions import ProtocolViolation
from ._hooks.decorators import ContextFunction, HookDecorators, hooks_of
from ._hooks.hook import HookFunction, HookKind
from ._lifespan import Lifespan
from ._log import logger
from ._on_request import StartsOnRequest, Step
from ._protocol.table import Phase
from ._reporting.failures import is_read
from ._reporting.report import Observer, Report, UnitReport, build_report
from ._requests import Requests
from ._run.run import Run
from ._types import ASGIApp, Receive, Scope, Send
from ._units.backend import current_asyncio_task, is_closing
from ._units.failure import Failure

LifespanArgument: TypeAlias = Lifespan | ContextFunction


@final
class LifespanMiddleware(HookDecorators):
    """Gives an app a lifespan that starts everything: ``app = LifespanMiddleware(app)``.

    It answers the server's lifespan messages, runs hooks, the wrapped app's own lifespan, and that of the apps which
    are mounted inside and which their framework skips; it stops them in reverse. Requests go straight through. The
    decorators of `Lifespan` are here too: ``@app.on_startup``.

    Follows the ASGI specification, "Lifespan Protocol" 2.0.
    """

    def __init__(
        self,
        app: ASGIApp,
        lifespan: "LifespanArgument | Sequence[LifespanArgument] | None" = None,
        *,
        on_startup: Iterable[HookFunction] = (),
        on_shutdown: Iterable[HookFunction] = (),
        mounts: Literal["auto", "off"] | Iterable[ASGIApp] = "auto",
        exclude: Iterable[ASGIApp] = (),
        optional: Literal["mounts"] | Iterable[ASGIApp] = (),
        concurrent: bool = False,
        background: bool = False,
        strict: bool = False,
        startup_timeout: float | None = None,
        shutdown_timeout: float | None = None,
        mount_timeout: float | None = None,
        on_crash: Literal["log", "stop"] | Callable[[BaseException], object] = "log",
        while_starting: ASGIApp | None = None,
        start_on_request: bool = False,
        observe: Callable[[UnitReport], object] | None = None,
    ) -> None:
        """Wrap an app.

        Args:
            app: Any ASGI 3 application.
            lifespan: Hooks that are started before all others: a `Lifespan`, any callable that takes the app and
                returns an async context manager, or a sequence of those.
            on_startup: Functions that run at startup.
            on_shutdown: Functions that run at shutdown.
            mounts: ``"auto"`` finds the mounted apps that get no lifespan otherwise, and starts them; ``"off"`` skips
                them; a sequence of apps names them in place of looking, and starts them in any case.
            exclude: Apps that are never sent a lifespan, nor what is mounted in them. It may name the wrapped app.
            optional: Mounted apps without which everything else goes on if they raise or run out of `mount_timeout`, at
                their start, later or at their stop; ``"mounts"`` for all. One WARNING names such an app. What is
                mounted in one that failed at its start is not started. Requests reach it all the same.
            concurrent: Whether the hooks that are registered here, and the mounts of one level, start and stop side
                by side. What `lifespan` names comes before, one after the other. The context variables of a mount
                are seen by what is mounted in it.
            background: Whether the startup is answered before the wrapped app and its mounts start. They start then, in
                their order; if one fails, that is a crash, and what follows does not start.
            strict: Departures from the lifespan protocol are errors, not warnings.
            startup_timeout: Seconds for the whole startup; None for no limit.
            shutdown_timeout: Seconds for the whole shutdown; None for no limit.
            mount_timeout: Seconds for the start of each mount, and as many for its stop; None for no limit.
            on_crash: What is done when something that had started breaks: ``"log"`` it, also ``"stop"`` the process,
                or a function that is called with the error.
            while_starting: An app that answers the requests until all that starts in the background has started, and
                for good if some of it fails. It is sent no lifespan. None lets the wrapped app answer.
            start_on_request: Whether the first request starts everything if the server sent no lifespan before it.
                Requests wait for the start. If it fails, they raise its error, and the next request tries again. All
                stops when the event loop cancels its tasks, as `asyncio.run` does, or by `stop`. On trio, only `stop`
                keeps the order.
            observe: A function that is called with the `UnitReport` of a hook or app at each change of its outcome, in
                order, on the event loop. What it raises is logged.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If an argument has a wrong value, or a `Lifespan` is named twice.
        """
        self.app: ASGIApp = checked_app(app, "LifespanMiddleware()")
        super().__init__(
            checked_mounts(mounts, "LifespanMiddleware"),
            checked_apps(exclude, "LifespanMiddleware(exclude=...)"),
            checked_optional(optional, "LifespanMiddleware"),
            concurrent=checked_flag(concurrent, "LifespanMiddleware(concurrent=...)"),
        )
        if any(one is app for one in self._hooks.optional):
            raise ValueError(
                f"LifespanMiddleware(optional=...) got {app!r}, the wrapped app; expected apps mounted in it"
            )
        self._include_all(lifespan)
        self._hooks.end_series()
        self._register_all(HookKind.STARTUP, "on_startup", on_startup)
        self._register_all(HookKind.SHUTDOWN, "on_shutdown", on_shutdown)
        self._settings = Settings(
            mounts=self._hooks.mounts,
            concurrent=concurrent,
            strict=strict,
            startup_timeout=checked_seconds(startup_timeout, "LifespanMiddleware(startup_timeout=...)"),
            shutdown_timeout=checked_seconds(shutdown_timeout, "LifespanMiddleware(shutdown_timeout=...)"),
            mount_timeout=checked_seconds(mount_timeout, "LifespanMiddleware(mount_timeout=...)"),
        )
        self._on_crash: OnCrash = checked_on_crash(on_crash)
        plain = observe is None or is_plain_function(observe)
        check("LifespanMiddleware(observe=...)", observe, "a plain function that takes a UnitReport", fits=plain)
        self._observe = observe
        self._background = checked_flag(background, "LifespanMiddleware(background=...)")
        where = "LifespanMiddleware(while_starting=...)"
        busy = None if while_starting is None else checked_app(while_starting, where)
        is_on_request = checked_flag(start_on_request, "LifespanMiddleware(start_on_request=...)")
        self._starts = StartsOnRequest(self._prepare, self._serve) if is_on_request else None
        self._next: ASGIApp = self.app  # the wrapped app, or a detour
        self._requests = Requests(
            self.app, busy, self._starts, route=self._route, warn_of_missing_lifespan=self._warn_of_missing_lifespan
        )
        self._serving = self._requests.serving  # the runs that serve requests, for a look from outside
        # The run that began last, until its report was read after its end.
        self._run: Run | None = None
        self._last_report: Report | None = None

    @straight_through
    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a lifespan; pass every other scope on to the wrapped app, whose own awaitable is returned.

        Raises:
            BaseException: What failed in a lifespan, after the server was answered; else what the wrapped app raises.

        *Cancellation:* a lifespan that is cancelled stops everything that has started, in reverse and shielded,
        within `shutdown_timeout` (10 s where there is none), sends nothing, and raises the cancellation again.
        """
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        return self._next(scope, receive, send)

    def _warn_of_missing_lifespan(self) -> None:
        """Log a WARNING if a request came without a lifespan, and something waits to be started."""
        run = Run(self.app, self._hooks.plan(), self._settings, {"type": "lifespan", "state": {}})
        hooks, mounts = len(run.hooks), run.survey().count_mounts()
        if hooks or mounts:
            logger.warning(
                "no lifespan reached %s before the first request; %s and %s have not started. Run the server with "
                "lifespan on (uvicorn --lifespan on), enter `with TestClient(app)` or LifespanManager(app), or pass "
                "start_on_request=True",
                run.label,
                _counted(hooks, "hook"),
                _counted(mounts, "mount"),
            )

    async def stop(self) -> None:
        """Stop what a request started, with `start_on_request`, and wait for that. The next request starts anew.

        It concerns the running event loop alone. Requests that come meanwhile wait for it. Without such a start, and
        after a lifespan of the server, whose shutdown stops everything, it does nothing.

        Raises:
            RuntimeError: If a hook calls it that the start runs, which would wait for itself.
            BaseException: What failed; several errors as a group.

        *Cancellation:* The stop goes on.
        """
        __tracebackhide__ = True
        if self._starts is not None:
            await self._starts.stop()

    @property
    def ready(self) -> bool:
        """Whether everything that was to start has started, and nothing has begun to stop.

        It becomes true when the startup was answered and all that starts in the background has started. It never does
        if some of that fails. Runs that began and ended inside a hook do not count.
        """
        return self._run is not None and self._run.readiness.is_ready

    @property
    def report(self) -> Report | None:
        """The report of the run that began last: what started and stopped, and how long that took; None before one."""
        if self._run is None:
            return self._last_report
        report = build_report(self._run)
        if self._run.is_over:
            self._run, self._last_report = None, report
        return report

    @contextmanager
    def override(self, hook: HookFunction | ASGIApp | str, replacement: HookFunction | None) -> Generator[None]:
        """Replace a hook for the time of a ``with``, or leave out a mounted app, for tests.

        Args:
            hook: The function that was registered, the hook's name, or an app that is mounted by now.
            replacement: A hook of the same kind that runs in its place; None to leave it out.

        Raises:
            LookupError: If no such hook is registered, and no such app is mounted.
            TypeError: If `replacement` cannot be a hook of that kind.
        """
        if replacement is None and not isinstance(hook, str) and is_nested(hook, self.app):
            before = self._hooks.exclude
            self._hooks.exclude = (*before, cast("ASGIApp", hook))
            try:
                yield
            finally:
                self._hooks.exclude = before
        else:
            with super().override(cast("HookFunction | str", hook), replacement):
                yield

    if not TYPE_CHECKING:  # pragma: no branch - for a type checker, every attribute would exist

        def __getattr__(self, name: str) -> Any:
            """Say where an attribute of the wrapped app is: ``app.app.get``, for a route of the FastAPI inside."""
            inner = self.__dict__.get("app")
            if not name.startswith("_") and hasattr(inner, name):
                raise AttributeError(
                    f"LifespanMiddleware has no {name!r}; the wrapped app has: use app.app.{name}", name=name, obj=self
                )
            raise AttributeError(f"'LifespanMiddleware' object has no attribute {name!r}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"LifespanMiddleware({self.app!r})"

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the server's messages, from the first to the last, around a run."""
        __tracebackhide__ = True
        await _received(receive, "lifespan.startup", Phase.IDLE)
        if not isinstance(state := scope.get("state", {}), MutableMapping):
            found = "None" if state is None else f"of type {type(state).__qualname__!r}"
            violation = ProtocolViolation("the server", f"sent state {found}", Phase.IDLE.value, "a dict, or no state")
            await send({"type": "lifespan.startup.failed", "message": str(violation)})
            raise violation
        self._requests.lifespan_came()
        started = None if self._starts is None else await self._starts.take_over()
        run, serve = (self._prepare(scope), self._serve) if started is None else (started.run, started.serve)
        failed: BaseException | None = None

        async def answer() -> None:
            if run.is_refused and run.refusal is not None:
                raise run.refusal  # the app raised at the lifespan, and nothing of ours was to be run
            await send({"type": "lifespan.startup.complete"})

        try:
            await serve(run, scope, answer, lambda: _received(receive, "lifespan.shutdown", Phase.STARTED))
        except BaseException as error:
            if error is not run.error:
                raise
            failed = error
            if self._starts is not None:
                self._starts.release()
        # Outside of any `except`, so that nothing is chained to what the server raises by accident.
        if failed is None:
            await send({"type": "lifespan.shutdown.complete"})
            return
        message = run.failures.format() or str(failed)
        try:
            await send({"type": f"lifespan.{run.failed_phase}.failed", "message": message})
        except BaseException as refusal:  # hypercorn refuses to serve only if its own error is raised
            refusal.__context__, refusal.__suppress_context__ = failed, True
            _log_discarded(run.failed_phase, message)
            raise
        raise failed.with_traceback(run.trace)

    def _prepare(self, scope: Scope) -> Run:
        """Prepare a run for a lifespan of the server, or for a request that starts everything."""
        policy = CrashPolicy(self._on_crash)
        return prepare_run(self, {**scope, "state": scope.get("state", {})}, on_crash=policy)

    async def _serve(self, run: Run, scope: Scope, answer: Step, shutdown: Step) -> None:
        """Start everything, answer, let requests have it until the shutdown, and stop everything."""
        __tracebackhide__ = True
        interrupt = cast("CrashPolicy", run.on_crash).interrupt
        collection = hooks_of(self)
        collection.begins(run)
        try:
            async with run:
                try:
                    self._requests.begin(run, gives_state="state" in scope)
                    await answer()
                    with interrupt:
                        await shutdown()
                    if interrupt.cancelled_caught:  # a crash is to stop the process
                        await run.abandon()
                        terminate()
                        await shutdown()
                except BaseException as error:
                    if not is_closing(error):
                        await run.abandon()
                    raise
                finally:
                    self._requests.end(run)
        finally:
            collection.ended()

    def _route(self, app: ASGIApp) -> None:
        self._next = app

    def _include_all(self, lifespans: object) -> None:
        if isinstance(lifespans, Sequence) and not isinstance(lifespans, str):
            for lifespan in cast("Sequence[object]", lifespans):
                self._include(lifespan, "LifespanMiddleware(lifespan=...)")
        elif lifespans is not None:
            self._include(lifespans, "LifespanMiddleware(lifespan=...)")


def prepare_run(
    middleware: LifespanMiddleware,
    scope: dict[str, Any],
    *,
    on_crash: Callable[[Failure], None] = lambda _: None,
    observe: Observer | None = None,
    **changes: Any,
) -> Run:
    """Prepare a run of a middleware, which its `report` is of from now on.

    Args:
        middleware: The middleware.
        scope: The lifespan scope, with its state.
        on_crash: Called with the failure of a unit while serving.
        observe: Called with the row of a unit at each change, beside the middleware's own observer.
        changes: The settings that differ from the middleware's.
    """
    hooks = hooks_of(middleware)
    settings = replace(middleware._settings, **hooks.settings(), **changes)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    own = middleware._observe  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def observe_both(row: UnitReport) -> None:
        for observer in (observe, own):
            if observer is not None:
                observer(row)

    observer = observe_both if observe is not None else own
    run = Run(
        middleware.app,
        hooks.plan(),
        settings,
        scope,
        background=middleware._background,  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        on_crash=on_crash,
        observe=observer,
    )
    middleware._run = run  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the class is public, this is not
    return run


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _log_discarded(phase: str, message: str) -> None:
    """Log the message of a failed shutdown if only the server has the tracebacks and discards them.

    Hypercorn on trio cancels its lifespan task while the exception of its `send` propagates, which loses the exception.
    """
    if phase == "shutdown" and current_asyncio_task() is None and not is_read():
        logger.error("%s", message)


async def _received(receive: Receive, expected: str, phase: Phase) -> None:
    """Wait for a message of the server.

    Raises:
        ProtocolViolation: If the server sent another one.
    """
    message = await receive()
    if message["type"] != expected:
        raise ProtocolViolation("the server", f"sent {message['type']!r}", phase.value, repr(expected))
