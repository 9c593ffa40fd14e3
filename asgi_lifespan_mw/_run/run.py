"""One run: hooks, wrapped app and mounts, started in order and stopped in reverse."""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Any, final

import anyio

from .._apps.node import AppNode
from .._apps.state import SharedState
from .._apps.tree import Tree
from .._asgi import name_of
from .._config import Settings
from .._exceptions import StateCollision
from .._hooks.decorators import Plan, flattened, without
from .._hooks.hook import Hook, HookKind
from .._log import logger
from .._reporting.failures import is_read, log_failure, merge
from .._reporting.report import Observer
from .._types import State, is_a
from .._units.backend import asyncios_cancellation, is_cancellation, is_closing
from .._units.failure import FailedPhase, Failure
from .._units.shared import CLEAN_UP_LIMIT
from .._units.supervisor import Supervisor, UnitFailed
from .._units.unit import Unit, finish
from .apps import Apps
from .bodies import body_of
from .failed import Failures
from .hooks import batches_of, hooks_of_runs_around
from .inner import Enclosing, InnerRuns, enter, join_enclosing
from .observing import Observers
from .readiness import Readiness


@final
class Run(AbstractAsyncContextManager["Run"]):
    """One lifespan, from its start to its stop: entering starts everything, leaving stops everything.

    All that belongs to one run is here, so that the same app can be run again, on another loop, in another thread.

    Attributes:
        label: What the app at the root is called.
        state: The lifespan state, which is filled in place.
        plan: The hooks.
        hooks: The units of the hooks, in the order of registration.
        sends_to_app: Whether the app is a unit at all; it is not where we are its lifespan.
        root: The app in the tree; None before it was looked at.
        apps: The wrapped app and its mounts; None before they were looked at.
        inner: The runs that began in a unit while it was starting.
        nested: These runs by unit, for the report.
        enclosing: The unit in whose body this run began, and its run; None if it was in no unit that starts.
        observers: What is called at each change of a unit.
        readiness: What starts in the background, here and in the runs inside.
        has_late_state: Whether something that started in the background has set state.
        is_refused: Whether the app refused the lifespan, and nothing else was to be run.
        refusal: The exception with which it did; None if it just returned.
        times: When the whole came to "start", "started", "ready", "stop" and "stopped"; what it did not come to is not
            there.
        failed_phase: "startup" or "shutdown" if that failed, else "".
        error: The exception that entering or leaving raises; None if nothing failed.
        trace: Its traceback before it was raised here, for the caller that raises it again.
        failures: What failed, of the units and else.
        on_crash: Called with the failure of a unit while serving.
    """

    def __init__(
        self,
        app: Any,
        plan: Plan,
        settings: Settings,
        scope: dict[str, Any],
        *,
        sends_to_app: bool = True,
        has_requests: bool = True,
        background: bool = False,
        logs_tracebacks: bool = True,
        on_crash: Callable[[Failure], None] = lambda _: None,
        observe: Observer | None = None,
    ) -> None:
        """Prepare a run; nothing is started yet.

        Args:
            app: The app at the root of the tree.
            plan: The hooks that start before the app.
            settings: How to treat mounts and time.
            scope: The server's lifespan scope. Its ``state`` must be there, and is filled in place.
            sends_to_app: Whether the app is sent a lifespan, which it is not where we are its lifespan.
            has_requests: Whether requests pass by us, so that they can be given the state of background hooks.
            background: Whether the app and its mounts start in the background.
            logs_tracebacks: Whether failures are logged with tracebacks; the caller may show them to the user instead.
            on_crash: Called with the failure of a unit while serving.
            observe: Called with the row of a unit at each of its changes.
        """
        self.label = f"app {name_of(app)}"
        self.is_refused = False
        self.refusal: Exception | None = None
        self.failed_phase = ""
        self.error: BaseException | None = None
        self.trace: TracebackType | None = None
        self.failures = Failures(self, logs_tracebacks=logs_tracebacks)
        self.state: State = scope["state"]
        self.apps: Apps | None = None
        self.sends_to_app = sends_to_app
        self.times: dict[str, float] = {}
        self.root: AppNode | None = None
        self.inner = InnerRuns()
        self.nested: Mapping[Unit, Sequence[Run]] = self.inner.of_unit
        self.readiness = Readiness(self, starts_app_later=background)
        self.has_late_state = False
        self._app = app
        self._settings = settings
        self._scope = scope
        self._has_requests = has_requests
        self.on_crash = on_crash
        self.observers = Observers(self, observe)
        self.enclosing: Enclosing | None = None
        self._observing = ExitStack()
        self._make_hooks(plan)

    def survey(self) -> Apps:
        """Find what would be started, as far as can be seen without a start. Such a run is not started."""
        apps = self._look()
        apps.survey()
        return apps

    def _look(self) -> Apps:
        self._shared_state = SharedState(self.state)
        self._tree = tree = Tree(self._app, self._scope, self._shared_state, self._settings)
        self.root = tree.root
        self.label = tree.root.label
        self.apps = Apps(
            tree,
            self._settings,
            sends_to_app=self.sends_to_app,
            new_unit=self._new_unit,
            start_units=lambda *units: self.supervisor.start(*units),  # noqa: PLW0108 - a survey has no supervisor
            left_out=self.observers.left_out,
        )
        return self.apps

    def _make_hooks(self, plan: Plan) -> None:
        self.plan = plan
        self._batches = batches_of(plan, self._unit_of)
        self.hooks = [unit for batch in self._batches for unit in batch]
        self.readiness.of_hooks(self.hooks)

    def _unit_of(self, hook: Hook) -> Unit:
        return self._new_unit(
            hook.label,
            body_of(hook, lambda: self._tree.application, self._add_late_state),
            timeout=hook.timeout,
            is_shutdown_function=hook.kind is HookKind.SHUTDOWN,
            is_background=hook.background and self._has_requests,
            is_worker=hook.kind is HookKind.WORKER,
            is_optional=hook.optional,
        )

    def _new_unit(self, name: str, body: Callable[[Unit], Coroutine[Any, Any, None]], **options: Any) -> Unit:
        """Make a unit; a run that begins in its body is inside of this one."""
        return Unit(name, body, on_enter=partial(enter, self), on_started=self.readiness.started, **options)

    # --- the start ---

    async def __aenter__(self) -> "Run":
        """Start everything, in order.

        Raises:
            BaseException: What failed, as it was raised, or a group with the errors of the clean-up. All that had
                started is stopped by then.

        *Cancellation:* Everything is stopped, shielded; then the cancellation is raised again.
        """
        __tracebackhide__ = True
        self._note("start")
        self.enclosing = join_enclosing(self)
        self.observers.join(self.enclosing)
        on_change = self.observers.changed if self.observers.are_there else None
        self.supervisor = Supervisor(self.failures.crashed, on_change)
        self.failures.of_units = self.supervisor.failures
        self.supervisor.shared.enclosing = self.enclosing and self.enclosing.unit
        self.supervisor.shared.set_deadline(self._settings.startup_timeout)
        try:
            apps = self._look()
            await self._start_all(apps)
            self.supervisor.check()
        except UnitFailed:
            pass
        except BaseException as error:
            if is_closing(error):
                raise
            if is_cancellation(error) or is_a(error, KeyboardInterrupt):  # trio raises Ctrl-C in its main task
                await self.abandon()
                raise
            self.failures.other = error
        else:
            if not self.is_refused:
                self._serve(apps)
            return self
        await self._stop_units()
        raise self._failed("startup")

    async def _start_all(self, apps: Apps) -> None:
        """Start the hooks, then the app and its mounts, unless these start later."""
        repeated = apps.repeated(flattened(self.plan))
        repeated |= hooks_of_runs_around(
            self.enclosing, [hook for hook in flattened(self.plan) if hook not in repeated]
        )
        if repeated:
            self._make_hooks(without(self.plan, repeated))
        hooks = list(flattened(self.plan))
        background = [hook.function for hook in hooks if hook.background or hook.kind is HookKind.WORKER]
        functions = [hook.function for hook in hooks]
        context = self.supervisor.shared.context
        self._observing.enter_context(
            apps.tree.starting(context, functions, background, root_runs=not self.sends_to_app)
        )
        try:
            for batch in self._batches:
                await self.supervisor.start(*batch)
                for unit in batch:
                    if not unit.is_background:
                        self._shared_state.add(unit.name, {}, unit.state)
            if not self.readiness.starts_app_later:
                await self._start_apps(apps)
        except BaseException:
            self._observing.close()
            raise

    async def _start_apps(self, apps: Apps) -> None:
        with self._observing:
            await apps.start()
        root = apps.tree.root
        if root.is_supported:
            return
        if self.hooks or apps.units.keys() - {root} or self.readiness.starts_app_later:
            apps.warn_of_refusal()
            return
        self.is_refused, self.refusal = True, root.refusal
        apps.tree.leave()
        if self.refusal is not None and self.enclosing is not None and self.enclosing.run.apps is not None:
            # LifespanMiddleware(Starlette(routes=[Mount("/", LifespanMiddleware(app_without_lifespan))]))
            self.enclosing.run.apps.refuse(self.enclosing.unit)

    def _add_late_state(self, unit: Unit, state: State) -> bool:
        """Give the state of a background hook to the requests that begin later; return whether that was possible."""
        try:
            self._shared_state.add(unit.name, {}, state)
        except StateCollision as error:  # raised in the context, it would look like an error of the hook's
            unit.fail(error)
            return False
        self.has_late_state |= bool(state)
        return True

    def _serve(self, apps: Apps) -> None:
        """Let requests see the state, treat what breaks from now on as a crash, and start what comes later."""
        self._note("started")
        self._log("startup", "start", "started")
        self.supervisor.shared.is_answered = True
        apps.tree.serve()
        readiness = self.readiness
        if readiness.starts_app_later:
            readiness.pending.add(None)
            self.supervisor.start_later(partial(self._start_apps_later, apps))
        readiness.has_background |= readiness.starts_app_later or self.inner.have_background()
        readiness.look()

    async def _start_apps_later(self, apps: Apps) -> None:
        """Start the wrapped app and its mounts after the startup was answered."""
        before = dict(self.state)
        try:
            await self._start_apps(apps)
        except UnitFailed:
            failed = [unit for unit in apps.units.values() if unit.has_failed]
            self.readiness.late_failure = failed[0].failure if failed else None
            await finish(self.supervisor.shared, failed)
        except Exception as error:  # a collision of state
            self.readiness.late_failure = Failure(self.label, FailedPhase.SERVING, error)
            self.failures.of_units.append(self.readiness.late_failure)
            log_failure(self.readiness.late_failure)
            self.on_crash(self.readiness.late_failure)
        else:
            self.readiness.pending.discard(None)
        self.has_late_state |= any(before.get(key, self) is not value for key, value in self.state.items())
        self.readiness.look()

    # --- the stop ---

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything, in reverse, if that was not done by `abandon`.

        Raises:
            BaseException: What failed, now or by a crash while serving; several errors as a group. If the block raised,
                its exception comes first.

        *Cancellation:* What is left is stopped, shielded; then the cancellation is raised again, or, if the block
        raised, its exception.
        """
        __tracebackhide__ = True
        if self.is_refused or (error is not None and (self.is_over or is_closing(error))):
            return
        if error is None:
            await self._stop()
        elif is_cancellation(error):
            await self.abandon()
        else:
            await self._stop_after(error)

    async def _stop(self) -> None:
        __tracebackhide__ = True
        await self._stop_units()
        if self.failures.of_units or self.failures.other is not None:
            raise self._failed("shutdown")
        self._log("shutdown", "stop", "stopped")

    async def _stop_after(self, error: BaseException) -> None:
        """Stop everything because the block raised `error`, which is raised again."""
        __tracebackhide__ = True
        try:
            await self._stop()
        except BaseException as another:
            if is_a(another, asyncios_cancellation(), anyio.get_cancelled_exc_class()):
                return
            if another is not error:  # a crash that the block waited for is both
                raise merge("shutdown", [error, another]) from None

    async def _stop_units(self) -> None:
        self._note("stop")
        self.supervisor.shared.set_deadline(self._settings.shutdown_timeout)
        try:
            await self.supervisor.stop()
        except BaseException as error:
            if not is_closing(error):
                await self.abandon()
            raise
        self._end()

    async def abandon(self) -> None:
        """Stop everything within the time for that, whatever comes between; errors are logged."""
        if self.is_refused:
            return
        self._note("stop")
        limit = self._settings.shutdown_timeout
        self.supervisor.shared.set_deadline(CLEAN_UP_LIMIT if limit is None else limit)
        await self.supervisor.stop_shielded()
        self._end()
        self.failures.log(with_tracebacks=True)  # nobody is sent them
        self._log("shutdown", "stop", "stopped")

    def _end(self) -> None:
        """Note the end, and let go of what the units hold: a run is kept for its report."""
        self._note("stopped")
        self._observing.close()
        for unit in self.hooks:
            unit.release()
        if self.apps is not None:
            self.apps.tree.leave()
            if "started" not in self.times:
                self._shared_state.undo()
            self.apps.release()
            self._shared_state = SharedState({})
        self.state, self._scope, self.plan = {}, {}, []
        self.supervisor.shared.context = Context()
        if self.enclosing is not None:
            self.enclosing.run.readiness.look()  # a run that has ended is not waited for

    # --- the record: times, failures, the log ---

    def _note(self, event: str) -> None:
        """Keep the time of the first event of its kind."""
        if event == "stop" and self.apps is not None:
            self.apps.tree.stopping()
        self.times.setdefault(event, time.perf_counter())

    def _failed(self, phase: str) -> BaseException:
        """Log what failed, and return what is to be raised."""
        self.failures.log(with_tracebacks=self.failures.logs_tracebacks and is_read())
        self.failed_phase = phase
        self.error = self.failures.merged(phase)
        self.trace = BaseException.__dict__["__traceback__"].__get__(self.error)
        return self.error

    def _log(self, phase: str, first: str, then: str) -> None:
        took = self.seconds(first, then)
        is_started = self.root is not None and self.root in self.units and self.root.is_supported
        of_app = f"{self.label}, " if is_started else ""
        background = sum(not unit.has_started and unit.failure is None for unit in self.readiness.background)
        hooks, mounts = sum(unit.has_started for unit in self.hooks), self.apps.started if self.apps is not None else 0
        later = ""
        if phase == "startup" and (background or self.readiness.starts_app_later):
            of_later = f"{self.label} with its mounts, " if self.readiness.starts_app_later else ""
            later = f", still starting in the background {of_later}hooks {background}"
        logger.info("%s complete in %.3f s: %shooks %d, mounts %d%s", phase, took, of_app, hooks, mounts, later)

    @property
    def is_over(self) -> bool:
        """Whether everything has stopped, or there was nothing to start."""
        return "stopped" in self.times or self.is_refused

    @property
    def units(self) -> Mapping[AppNode, Unit]:
        """The units of the apps that are started by us."""
        return {} if self.apps is None else self.apps.units

    def node_of(self, unit: Unit) -> AppNode | None:
        """Return the app of a unit; None for a hook."""
        return None if self.apps is None else self.apps.node_of(unit)

    def seconds(self, first: str, then: str) -> float | None:
        """Return the seconds between two events; None if one of them did not happen."""
        return self.times[then] - self.times[first] if first in self.times and then in self.times else None
