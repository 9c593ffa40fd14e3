"""One run: hooks, wrapped app and mounts, started in order and stopped in reverse."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, final

import anyio

from .._apps.discovery import AppNode
from .._apps.state import SharedState
from .._apps.tree import Tree
from .._asgi import name_of
from .._config import Settings
from .._exceptions import StateCollision
from .._hooks.decorators import Group, Plan, flattened, without
from .._hooks.hook import Hook, HookKind
from .._log import logger
from .._reporting.failures import format_failures, is_read, log_error, log_failure, merge, summarize_other
from .._reporting.report import Observer, UnitReport, report_left_out, report_unit
from .._types import State, is_a
from .._units.backend import asyncios_cancellation, is_cancellation, is_closing
from .._units.failure import FailedPhase, Failure, text_of
from .._units.locking import Lock, lead, under_lock
from .._units.supervisor import Supervisor, UnitFailed
from .._units.unit import Unit, UnitState
from .apps import Apps

CANCELLED_LIMIT = 10.0
"""Seconds for stopping everything after a cancellation, where there is no `shutdown_timeout`."""


class _Enclosing(NamedTuple):
    """The unit in whose body a run begins, and the run that the unit is of."""

    run: "Run"
    unit: Unit


_enclosing: ContextVar[_Enclosing | None] = ContextVar("asgi_lifespan_mw_enclosing", default=None)


@final
class Run:
    """One lifespan, from its start to its stop.

    All that belongs to one run is here, so that the same app can be run again, on another loop, in another thread.

    Attributes:
        label: What the app at the root is called.
        state: The lifespan state, which is filled in place.
        has_late_state: Whether hooks run in the background, whose state requests are to be given.
        hooks: The units of the hooks, in the order of registration.
        sends_to_app: Whether the app is a unit at all; it is not where we are its lifespan.
        root: The app in the tree; None before it was looked at.
        apps: The wrapped app and its mounts; None before they were looked at.
        nested: The runs that began in a unit while it was starting: of a middleware inside an app, of a framework's own
            `Lifespan`.
        is_refused: Whether the app refused the lifespan, and nothing else was to be run.
        refusal: The exception with which it did; None if it just returned.
        times: When the whole came to "start", "started", "stop" and "stopped"; what it did not come to is not there.
        error: The exception for the caller to raise; None if nothing failed.
        logs_tracebacks: Whether failures are logged with tracebacks.
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
            logs_tracebacks: Whether failures are logged with tracebacks; the caller may show them to the user instead.
            on_crash: Called with the failure of a unit while serving.
            observe: Called with the row of a unit at each of its changes.
        """
        self.label = f"app {name_of(app)}"
        self.is_refused = False
        self.refusal: Exception | None = None
        self.error: BaseException | None = None
        self.logs_tracebacks = logs_tracebacks
        self._observe = observe
        self._enclosing: _Enclosing | None = None
        self._outcomes: dict[Unit, tuple[str, str]] = {}
        self.state: State = scope["state"]
        self._realm = SharedState(self.state)
        self._app = app
        self._scope = scope
        self.apps: Apps | None = None
        self._plan = plan
        self._has_requests = has_requests
        self.hooks: list[Unit] = []
        self._batches: list[list[Unit]] = []
        self._make_hooks()
        self.sends_to_app = sends_to_app
        self.times: dict[str, float] = {}
        self.root: AppNode | None = None
        self.nested: dict[Unit, list[Run]] = {}
        self._settings = settings
        self._on_crash = on_crash
        self._is_serving = False
        self._error_of_ours: BaseException | None = None
        enclosing = _enclosing.get()
        # Later ones are not kept: a unit that runs apps for days would gather them.
        if enclosing is not None and enclosing.unit.stage is UnitState.STARTING:
            enclosing.run.nested.setdefault(enclosing.unit, []).append(self)
            enclosing.unit.inside = enclosing.run.location_inside(enclosing.unit)
            self._enclosing = enclosing
        self._units = Supervisor(self._crashed, *([self._show] if self._is_observed() else []))

    async def start(self) -> BaseException | None:
        """Start everything, in order.

        Returns:
            The exception to raise if something failed, else None: what failed, as it was raised, or a group with the
            errors of the clean-up. All that had started is stopped by then.

        *Cancellation:* everything is stopped, shielded; then it is raised again.
        """
        self._note("start")
        self._units.set_deadline(self._settings.startup_timeout)
        try:
            await self._start_all()
            self._units.check()
        except UnitFailed:
            pass
        except BaseException as error:
            if is_closing(error):
                raise
            if is_cancellation(error) or is_a(error, KeyboardInterrupt):  # trio raises Ctrl-C in its main task
                await self.abandon()
                raise
            self._error_of_ours = error
        else:
            if not self.is_refused:
                self._note("started")
                self._log("startup", "start", "started")
            return None
        await self._stop_units()
        self._realm.undo()
        return self._failed("startup")

    async def stop(self) -> BaseException | None:
        """Stop everything, in reverse.

        Returns:
            The exception to raise if something failed, else None: what failed, now or by a crash while serving;
            several errors as a group.

        *Cancellation:* what is left is stopped, shielded; then it is raised again.
        """
        self._is_serving = False
        await self._stop_units()
        if self._units.failures:
            return self._failed("shutdown")
        self._log("shutdown", "stop", "stopped")
        return None

    async def stop_after(self, error: BaseException) -> None:
        """Stop everything because what ran in between raised `error`, which the caller raises again.

        Raises:
            BaseExceptionGroup: If stopping failed too; `error` comes first in it.

        *Cancellation:* what is left is stopped, shielded; then the caller raises `error` and not the cancellation.
        """
        if is_cancellation(error):
            await self.abandon()
            return
        try:
            another = await self.stop()
        except (asyncios_cancellation(), anyio.get_cancelled_exc_class()):
            return
        if another is not None and another is not error:  # a crash that the caller waited for is both
            raise merge("shutdown", [error, another]) from None

    async def abandon(self) -> None:
        """Stop everything within the time for that, whatever comes between; errors are logged."""
        self._note("stop")
        self._is_serving = False
        limit = self._settings.shutdown_timeout
        self._units.set_deadline(CANCELLED_LIMIT if limit is None else limit)
        await self._units.stop_shielded()
        self._note("stopped")
        self._leave()
        self._log_failures(with_tracebacks=True)  # nobody is sent them
        self._log("shutdown", "stop", "stopped")

    def location_inside(self, unit: Unit) -> Callable[[], str]:
        """Return a function that returns where the units of the runs in a unit's body stand; "" if there is none."""

        def location() -> str:
            for run in self.nested[unit]:
                for inner in run.in_progress():
                    return f"at {inner.name}, {inner.whereabouts()}"
            return ""

        return location

    @property
    def units(self) -> Mapping[AppNode, Unit]:
        """The units of the apps that are started by us."""
        return {} if self.apps is None else self.apps.units

    def node_of(self, unit: Unit) -> AppNode | None:
        """Return the app of a unit; None for a hook."""
        return None if self.apps is None else self.apps.node_of(unit)

    def in_progress(self) -> list[Unit]:
        """Return the units that are starting or stopping now."""
        return self._units.in_progress()

    def seconds(self, first: str, then: str) -> float | None:
        """Return the seconds between two events; None if one of them did not happen."""
        return self.times[then] - self.times[first] if first in self.times and then in self.times else None

    def serve(self) -> None:
        """Let requests see the state, and treat what breaks from now on as a crash."""
        assert self.apps is not None, "it was started"
        self._is_serving = self._units.is_answered = True
        self.apps.tree.serve()
        self._note_if_ready()

    @property
    def is_ready(self) -> bool:
        """Whether everything that was to start has started, and nothing has begun to stop."""
        return "ready" in self.times and "stop" not in self.times and all(run.is_ready for run in self._runs_inside())

    @property
    def is_starting(self) -> bool:
        """Whether something is still starting in the background, or failed there."""
        return "ready" not in self.times or any(run.is_starting for run in self._runs_inside())

    async def wait_until_ready(self) -> None:
        """Wait until everything that was to start has started, in the runs inside too.

        Raises:
            RuntimeError: If the run stops before.
            BaseException: What a background hook raised.
        """
        while "ready" not in self.times:
            for unit in self.hooks:
                if unit.is_background and unit.failure is not None:
                    raise unit.failure.error
            if "stop" in self.times:
                raise RuntimeError(f"{self.label} was stopped before it was ready")
            await self._units.next_change()
        for run in self._runs_inside():
            await run.wait_until_ready()

    def _runs_inside(self) -> list["Run"]:
        return [run for runs in self.nested.values() for run in runs]

    def _note_if_ready(self) -> None:
        waited_for = [unit for unit in self.hooks if unit.is_background]
        if not self._is_serving or any(unit.failure is not None or not unit.has_started for unit in waited_for):
            return
        self._note("ready")
        if waited_for:
            logger.info("background hooks complete in %.3f s: %d", self.seconds("start", "ready"), len(waited_for))

    def format_failures(self, *, with_tracebacks: bool | None = None) -> str:
        """Return what failed; with the tracebacks that are not in the log, all of them, or none."""
        return format_failures(self._units.failures, self._error_of_ours, with_tracebacks=with_tracebacks)

    def survey(self) -> None:
        """Find what would be started, as far as can be seen without a start. Such a run is not started."""
        self._look().survey()

    def count_mounts(self) -> int:
        """Return how many mounts a survey found that a run would start."""
        assert self.apps is not None, "the survey looked at them"
        return self.apps.count_mounts()

    async def _start_all(self) -> None:
        apps = self._look()
        self._drop(apps.repeated(flattened(self._plan)))
        tree = apps.tree
        with tree.starting(self._units.context, [hook.function for hook in flattened(self._plan)]):
            for batch in self._batches:
                await self._units.start(*batch)
                for unit in batch:
                    if not unit.is_background:
                        self._realm.add(unit.name, {}, unit.state)
            await apps.start()
        if not tree.root.is_supported:
            self._refused(apps)

    def _look(self) -> Apps:
        tree = Tree(self._app, self._scope, self._realm, self._settings)
        self.root = tree.root
        self.label = tree.root.label
        self.apps = Apps(
            tree,
            self._settings,
            sends_to_app=self.sends_to_app,
            new_unit=self._new_unit,
            start_units=self._units.start,
            left_out=self._show_left_out,
        )
        return self.apps

    def _drop(self, hooks: set[Hook]) -> None:
        """Leave hooks out of this run."""
        if hooks:
            self._plan = without(self._plan, hooks)
            self._make_hooks()

    def _show_left_out(self, node: AppNode) -> None:
        if self._is_observed():
            self._show_row(report_left_out(self, node))

    def _refused(self, apps: Apps) -> None:
        """Note that the wrapped app does not support the lifespan."""
        root = apps.tree.root
        if self.hooks or apps.units.keys() - {root}:
            apps.warn_of_refusal()
            return
        self.is_refused, self.refusal = True, root.refusal
        self._leave()
        if self.refusal is not None and self._enclosing is not None and self._enclosing.run.apps is not None:
            # LifespanMiddleware(Starlette(routes=[Mount("/", LifespanMiddleware(app_without_lifespan))]))
            self._enclosing.run.apps.refuse(self._enclosing.unit)

    def _make_hooks(self) -> None:
        """Make the units of the hooks in batches; a group of hooks is one batch."""
        self.hooks, self._batches = [], []
        for step in self._plan:
            first = len(self.hooks)
            self._add_hooks([step], after=(), inherits=None)
            self._batches.append(self.hooks[first:])
        self.has_late_state = any(unit.is_background for unit in self.hooks)

    def _add_hooks(self, plan: Plan, after: Sequence[Unit], inherits: Unit | None) -> Sequence[Unit]:
        """Make the units of a plan, all of one batch, and return those that what follows the plan starts after.

        Args:
            plan: The hooks and groups, one after the other.
            after: The units that the first ones start after.
            inherits: The unit whose context variables the first ones see; None for those from before the batch.
        """
        for step in plan:
            if isinstance(step, Group):
                after = [last for member in step.members for last in self._add_hooks(member, after, inherits)]
            else:
                unit = self._unit_of(step)
                unit.start_after(after)
                unit.inherits = inherits
                self.hooks.append(unit)
                after = [unit]
                inherits = inherits if unit.is_background else unit
        return after

    def _unit_of(self, hook: Hook) -> Unit:
        lock = hook.lock

        async def live_context(unit: Unit) -> None:
            opened = hook.open(self._application())
            async with opened if lock is None else _EnteredUnderLock(unit, lock, opened) as state:
                if unit.is_background and not self._add_late_state(unit, state):
                    return
                unit.started(state)
                self._note_if_ready()
                await unit.wait_for_stop()

        async def live_function(unit: Unit) -> None:
            async with nullcontext() if lock is None else under_lock(unit, lock):
                await hook.call(self._application())
            unit.started()
            unit.stopped()
            self._note_if_ready()

        async def live_worker(unit: Unit) -> None:
            unit.started()
            with unit.cancelled_at_stop():
                await (work() if lock is None else lead(unit, lock, work))

        async def work() -> None:
            await hook.call(self._application())

        bodies = {HookKind.CONTEXT: live_context, HookKind.WORKER: live_worker}
        return self._new_unit(
            hook.label,
            bodies.get(hook.kind, live_function),
            timeout=hook.timeout,
            is_hook=True,
            is_shutdown_function=hook.kind is HookKind.SHUTDOWN,
            is_background=hook.background and self._has_requests,
        )

    def _add_late_state(self, unit: Unit, state: State) -> bool:
        """Give the state of a background hook to the requests that begin later; return whether that was possible."""
        try:
            self._realm.add(unit.name, {}, state)
        except StateCollision as error:  # raised in the context, it would look like an error of the hook's
            unit.fail(error)
            return False
        return True

    def _application(self) -> object:
        assert self.apps is not None, "it is starting"
        return self.apps.tree.application

    def _new_unit(self, name: str, body: Callable[[Unit], Awaitable[None]], **options: Any) -> Unit:
        """Make a unit; a run that begins in its body is inside of this one."""
        return Unit(name, body, on_enter=lambda unit: _enclosing.set(_Enclosing(self, unit)), **options)

    async def _stop_units(self) -> None:
        self._note("stop")
        self._units.set_deadline(self._settings.shutdown_timeout)
        try:
            await self._units.stop()
        except BaseException as error:
            if not is_closing(error):
                await self.abandon()
            raise
        self._note("stopped")
        self._leave()

    def _note(self, event: str) -> None:
        """Keep the time of the first event of its kind."""
        self.times.setdefault(event, time.perf_counter())

    def _leave(self) -> None:
        if self.apps is not None:
            self.apps.tree.leave()

    def _failed(self, phase: str) -> BaseException:
        """Log what failed, and return what is to be raised."""
        self._log_failures(with_tracebacks=self.logs_tracebacks and is_read())
        errors = [] if self._error_of_ours is None else [self._error_of_ours]
        errors += [failure.error for failure in self._units.failures]
        self.error = merge(phase, errors)
        return self.error

    def _log_failures(self, *, with_tracebacks: bool) -> None:
        """Log the failures, but for the crashes, which were logged when they happened."""
        if self._error_of_ours is not None:
            log_error(summarize_other(self._error_of_ours), self._error_of_ours, with_traceback=with_tracebacks)
        for failure in self._units.failures:
            # A run inside the unit, such as that of a middleware in a mount, may have failed with the same exception.
            inner = [run for run in self._runs_inside() if run.error is failure.error]
            is_told = any(run.logs_tracebacks for run in inner)
            if failure.phase is not FailedPhase.SERVING and (self.logs_tracebacks or not is_told):
                log_failure(failure, with_traceback=with_tracebacks and not is_told)

    def _is_observed(self) -> bool:
        enclosing = self._enclosing
        return self._observe is not None or (enclosing is not None and enclosing.run._is_observed())  # noqa: SLF001

    def _show(self, unit: Unit) -> None:
        """Show a unit to the observers if its outcome has changed."""
        node = self.node_of(unit)
        is_supported = node is None or self.apps is None or self.apps.is_supported(node)
        row = report_unit(self, unit, node, is_supported=is_supported)
        if (row.outcome, row.reason) != self._outcomes.get(unit):
            self._outcomes[unit] = row.outcome, row.reason
            self._show_row(row)

    def _show_row(self, row: UnitReport) -> None:
        """Call the observers of this run and of the runs around it. What one raises is logged."""
        if self._observe is not None:
            try:
                self._observe(row)
            except BaseException as error:  # raised here, it would break the unit that the row is of
                log_error(f"observe= failed at {row.unit}, {row.outcome}: {text_of(error)}", error)
        if self._enclosing is not None and self._is_observed():
            run, unit = self._enclosing
            outer = report_unit(run, unit, run.node_of(unit))
            later = self.times["start"] - run.times["start"]
            run._show_row(  # noqa: SLF001 - another of this class
                replace(
                    row,
                    path=outer.path + row.path,
                    depth=outer.depth + 1 + row.depth,
                    began=None if row.began is None else row.began + later,
                    stop_began=None if row.stop_began is None else row.stop_began + later,
                )
            )

    def _crashed(self, unit: Unit) -> None:
        assert unit.failure is not None, "it crashed"
        log_failure(unit.failure)
        if self._is_serving:
            self._on_crash(unit.failure)

    def _log(self, phase: str, first: str, then: str) -> None:
        took = self.seconds(first, then)
        is_started = self.root is not None and self.root in self.units and self.root.is_supported
        of_app = f"{self.label}, " if is_started else ""
        background = sum(unit.is_background and not unit.has_started for unit in self.hooks)
        later = f", still starting in the background {background}" if background and phase == "startup" else ""
        hooks = len(self.hooks) - background
        logger.info(
            "%s complete in %.3f s: %shooks %d, mounts %d%s",
            phase,
            took,
            of_app,
            hooks,
            self.apps.started if self.apps is not None else 0,
            later,
        )


@final
class _EnteredUnderLock(AbstractAsyncContextManager[State]):
    """A context that is entered under a lock, and left without it."""

    def __init__(self, unit: Unit, lock: Lock, context: AbstractAsyncContextManager[State]) -> None:
        self._unit = unit
        self._lock = lock
        self._context = context

    async def __aenter__(self) -> State:
        is_entered = False
        try:
            async with under_lock(self._unit, self._lock):
                state = await self._context.__aenter__()
                is_entered = True
        except BaseException:  # the lock was lost, which was seen at its release
            if is_entered:
                await self._context.__aexit__(None, None, None)
            raise
        return state

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, trace)
