"""`Lifespan`: hooks that can be a framework's own lifespan."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, final

from ._config import Settings, checked_apps, checked_flag, checked_mounts, checked_optional, checked_seconds
from ._hooks.decorators import ContextFunction, HookDecorators
from ._hooks.hook import HookFunction, HookKind
from ._log import logger
from ._reporting.report import Report, build_report
from ._run.run import Run
from ._types import ASGIApp, State


@final
class Lifespan(HookDecorators):
    """A collection of hooks, to be given to `LifespanMiddleware`, or to a framework as its lifespan.

    ``FastAPI(lifespan=hooks)`` with ``hooks = Lifespan()`` starts the mounted apps too, with nothing at
    all on the request path. Without any app, ``async with hooks(None): ...`` runs the hooks in a script or a worker.
    """

    def __init__(
        self,
        *,
        contexts: Iterable[ContextFunction] = (),
        on_startup: Iterable[HookFunction] = (),
        on_shutdown: Iterable[HookFunction] = (),
        mounts: Literal["auto", "off"] | Iterable[ASGIApp] = "auto",
        exclude: Iterable[ASGIApp] = (),
        optional: Literal["mounts"] | Iterable[ASGIApp] = (),
        mount_timeout: float | None = None,
        concurrent: bool = False,
    ) -> None:
        """Make a collection; the decorators add to it.

        Args:
            contexts: Contexts, as `context` takes them.
            on_startup: Functions, as `on_startup` takes them; they come after the contexts.
            on_shutdown: Functions, as `on_shutdown` takes them.
            mounts: As in `LifespanMiddleware`. It counts where the Lifespan is a framework's own, and is ignored where
                it is included or given to a middleware.
            exclude: As in `LifespanMiddleware`.
            optional: As in `LifespanMiddleware`.
            mount_timeout: As in `LifespanMiddleware`.
            concurrent: Whether the hooks that are registered here start and stop side by side. An included `Lifespan`
                is one of them and keeps its own order inside. They see the context variables from before the group,
                and so do the hooks after it.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If `mounts` or `optional` is another string.
        """
        super().__init__(
            checked_mounts(mounts, "Lifespan"),
            checked_apps(exclude, "Lifespan(exclude=...)"),
            checked_optional(optional, "Lifespan"),
            concurrent=checked_flag(concurrent, "Lifespan(concurrent=...)"),
        )
        self._mount_timeout = checked_seconds(mount_timeout, "Lifespan(mount_timeout=...)")
        self._register_all(HookKind.CONTEXT, "contexts", contexts)
        self._register_all(HookKind.STARTUP, "on_startup", on_startup)
        self._register_all(HookKind.SHUTDOWN, "on_shutdown", on_shutdown)

    def __call__(self, app: Any) -> AbstractAsyncContextManager[Any]:
        """Make a lifespan of the hooks: what frameworks call with their app.

        Args:
            app: Given to the hooks that take it; what is mounted in it is started, if ``mounts`` says so.

        Returns:
            An async context manager. Entering starts everything and gives the state, or None where there is none;
            leaving stops everything.

        Raises:
            BaseException: What failed on entering or leaving; several errors as a group.

        *Cancellation:* everything that has started is stopped, shielded, within 10 s.
        """
        return self._lived(app)

    @asynccontextmanager
    async def _lived(self, app: Any) -> AsyncGenerator[State | None]:
        __tracebackhide__ = True
        state: State = {}
        hooks = self._hooks
        settings = Settings(mounts=hooks.mounts, mount_timeout=self._mount_timeout, **hooks.settings())
        for hook in hooks.in_start_order():
            if hook.background:
                logger.warning(
                    "%s starts as any other: background=True has no effect in a framework's own lifespan, where its "
                    "state cannot reach the requests. Register it on LifespanMiddleware(app)",
                    hook.label,
                )
        run = Run(
            app,
            hooks.plan(),
            settings,
            {"type": "lifespan", "app": app, "state": state},
            sends_to_app=False,
            has_requests=False,
        )
        hooks.begins(run)
        try:
            async with run:
                yield state or None
        finally:
            hooks.ended()

    @property
    def ready(self) -> bool:
        """Whether all that was to start has started, and nothing has begun to stop, in the run that began last.

        These hooks may be part of runs as a framework's own lifespan, in a `LifespanMiddleware`, or in a
        `LifespanManager`.
        """
        run: Run | None = self._hooks.last_run
        return run is not None and run.readiness.is_ready

    @property
    def report(self) -> Report | None:
        """The report of the run that began last of those that these hooks are part of; None before one."""
        run: Run | None = self._hooks.last_run
        return None if run is None else build_report(run)

    def __repr__(self) -> str:
        return f"<Lifespan of {', '.join(repr(hook.name) for hook in self._hooks.in_start_order()) or 'no hooks'}>"
