"""One run: hooks, wrapped app and mounts, started in order and stopped in reverse."""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from contextvars import Context
from dataclasses import replace
from types import TracebackType
from typing import Any, final

import anyio

from .._apps.node import AppNode
from .._apps.state import SharedState
from .._apps.tree import Tree
from .._apps.watch import starter
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
from .._units.shared import CLEAN_UP_LIMIT
from .._units.supervisor import Supervisor, UnitFailed
from .._units.unit import Unit, finish
from .apps import Apps
from .bodies import body_of
from .inner import Enclosing, InnerRuns, enter, join_enclosing


@final
class Run(AbstractAsyncContextManager["Run"]):
    """One lifespan, from its start to its stop: entering starts everything, leaving stops everything.

    All that belongs to one run is here, so that the same app can be run again, on another loop, in another thread.

    Attributes:
        label: What the app at the root is called.
        state: The lifespan state, which is filled in place.
        hooks: The units of the hooks, in the order of registration.
        sends_to_app: Whether the app is a unit at all; it is not where we are its lifespan.
        root: The app in the tree; None before it was looked at.
        apps: The wrapped app and its mounts; None before they were looked at.
        inner: The runs that began in a unit while it was starting.
        has_background: Whether something starts in the background, here or in a run inside.
        has_late_state: Whether something that started in the background has set state.
        is_refused: Whether the app refused the lifespan, and nothing else was to be run.
        refusal: The exception with which it did; None if it just returned.
        times: When the whole came to "start", "started", "ready", "stop" and "stopped"; what it did not come to is not
            there.
        failed_phase: "startup" or "shutdown" if that failed, else "".
        error: The exception that entering or leaving raises; None if nothing failed.
        trace: Its traceback before it was raised here, for the caller that raises it again.
        logs_tracebacks: Whether failures are logged with tracebacks.
        on_crash: Called with the failure of a unit while serving.
        when_ready: Called when everything that was to start has started.
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
        self.logs_tracebacks = logs_tracebacks
        self.when_ready: Callable[[], object] = lambda: None
        self.state: State = scope["state"]
        self.apps: Apps | None = None
        self.sends_to_app = sends_to_app
        self.times: dict[str, float] = {}
        self.root: AppNode | None = None
        self.inner = InnerRuns()
        self.has_late_state = False
        self._app = app
        self._plan = plan
        self._settings = settings
        self._scope = scope
        self._has_requests = has_requests
        self._starts_app_later = background
        self.on_crash = on_crash
        self._observe = observe
        self._is_observed = observe is not None
        self._enclosing: Enclosing | None = None
        self._outcomes: dict[Unit, tuple[str, str]] = {}
        self._error_of_ours: BaseException | None = None
        self._late_failure: Failure | None = None
        self._is_serving = False
        self._is_logged = False
        self._observing = ExitStack()
        self._make_hooks()

    async def __aenter__(self) -> "Run":
        """Start everything, in order.

        Raises:
            BaseException: What failed, as it was raised, or a group with the errors of the clean-up. All that had
                started is stopped by then.

        *Cancellation:* Everything is stopped, shielded; then the cancellation is raised again.
        """
        __tracebackhide__ = True
        self._begin()
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
                self._serve()
            return self
        await self._stop_units()
        raise self._failed("startup")

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
        if self._units.failures or self._error_of_ours is not None:
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

    async def abandon(self) -> None:
        """Stop everything within the time for that, whatever comes between; errors are logged."""
        if self.is_refused:
            return
        self._note("stop")
        self._is_serving = False
        limit = self._settings.shutdown_timeout
        self._units.shared.set_deadline(CLEAN_UP_LIMIT if limit is None else limit)
        await self._units.stop_shielded()
        self._end()
        self._log_failures(with_tracebacks=True)  # nobody is sent them
        self._log("shutdown", "stop", "stopped")

    @property
    def is_over(self) -> bool:
        """Whether everything has stopped, or there was nothing to start."""
        return "stopped" in self.times or self.is_refused

    def in_progress(self) -> list[Unit]:
        """Return the units that are starting or stopping now."""
        return self._units.in_progress()

    @property
    def units(self) -> Mapping[AppNode, Unit]:
        """The units of the apps that are started by us."""
        return {} if self.apps is None else self.apps.units

    @property
    def nested(self) -> "Mapping[Unit, Sequence[Run]]":
        """The runs that began in a unit while it was starting, for the report."""
        return self.inner.of_unit

    def node_of(self, unit: Unit) -> AppNode | None:
        """Return the app of a unit; None for a hook."""
        return None if self.apps is None else self.apps.node_of(unit)

    def seconds(self, first: str, then: str) -> float | None:
        """Return the seconds between two events; None if one of them did not happen."""
        return self.times[then] - self.times[first] if first in self.times and then in self.times else None

    def format_failures(self, *, with_tracebacks: bool | None = None) -> str:
        """Return what failed; with the tracebacks that are not in the log, all of them, or none."""
        return format_failures(self._units.failures, self._error_of_ours, with_tracebacks=with_tracebacks)

    # --- a look that starts nothing ---

    def survey(self) -> None:
        """Find what would be started, as far as can be seen without a start. Such a run is not started."""
        self._look().survey()

    def count_mounts(self) -> int:
        """Return how many mounts a survey found that a run would start."""
        assert self.apps is not None, "the survey looked at them"
        return self.apps.count_mounts()

    # --- readiness: what starts in the background, here and in the runs inside ---

    @property
    def is_ready(self) -> bool:
        """Whether everything that was to start has started, and nothing has begun to stop."""
        return "ready" in self.times and "stop" not in self.times

    @property
    def is_starting(self) -> bool:
        """Whether something is still starting in the background, or failed there."""
        return "ready" not in self.times

    async def wait_until_ready(self) -> None:
        """Wait until everything that was to start has started, in the runs inside too.

        Raises:
            RuntimeError: If the run stops before.
            BaseException: What failed in the background.
        """
        while self.is_starting:
            for run in (self, *self.inner.living()):
                if run._late_failure is not None:  # noqa: SLF001 - another of this class
                    raise run._late_failure.error  # noqa: SLF001 - another of this class
            if "stop" in self.times:
                raise RuntimeError(f"{self.label} was stopped before it was ready")
            await self._units.shared.next_change()

    def _look_if_ready(self) -> None:
        """Note that everything has started, if so, and let the run around this one look too."""
        run: Run | None = self
        # A run around this one that has not answered looks when it does.
        while run is not None and run._is_serving:  # noqa: SLF001 - another of this class
            run._note_if_ready()  # noqa: SLF001 - another of this class
            run._units.shared.wake()  # noqa: SLF001 - another of this class
            run = run._enclosing.run if run._enclosing is not None else None  # noqa: SLF001 - another of this class

    def _note_if_ready(self) -> None:
        if "ready" in self.times or self._pending or self._late_failure is not None:
            return
        if self.inner.are_starting():
            return
        self._note("ready")
        count = len(self._background)
        if count or self._starts_app_later:
            of_app = f"{self.label} and its mounts, " if self._starts_app_later else ""
            logger.info(
                "background start complete in %.3f s: %shooks %d", self.seconds("start", "ready"), of_app, count
            )
        self.when_ready()

    # --- the start ---

    def _begin(self) -> None:
        """Make what needs a running event loop, and find the run that this one is inside of."""
        self._note("start")
        self._enclosing = join_enclosing(self)
        if self._enclosing is not None:
            self._is_observed = self._is_observed or self._enclosing.run._is_observed  # noqa: SLF001 - of this class
        self._units = Supervisor(self._crashed, self._changed if self._is_observed else None)
        self._units.shared.enclosing = self._enclosing and self._enclosing.unit
        self._units.shared.set_deadline(self._settings.startup_timeout)

    async def _start_all(self) -> None:
        apps = self._look()
        repeated = apps.repeated(flattened(self._plan))
        repeated |= self._hooks_of_runs_around([hook for hook in flattened(self._plan) if hook not in repeated])
        self._drop(repeated)
        hooks = list(flattened(self._plan))
        background = [hook.function for hook in hooks if hook.background or hook.kind is HookKind.WORKER]
        functions = [hook.function for hook in hooks]
        context = self._units.shared.context
        self._observing.enter_context(
            apps.tree.starting(context, functions, background, root_runs=not self.sends_to_app)
        )
        try:
            for batch in self._batches:
                await self._units.start(*batch)
                for unit in batch:
                    if not unit.is_background:
                        self._shared_state.add(unit.name, {}, unit.state)
            if not self._starts_app_later:
                await self._start_apps(apps)
        except BaseException:
            self._observing.close()
            raise

    async def _start_apps(self, apps: Apps) -> None:
        with self._observing:
            await apps.start()
        if not apps.tree.root.is_supported:
            self._refused(apps)

    def _serve(self) -> None:
        """Let requests see the state, treat what breaks from now on as a crash, and start what comes later."""
        assert self.apps is not None, "they were started"
        self._note("started")
        self._log("startup", "start", "started")
        self._is_serving = self._units.shared.is_answered = True
        self.apps.tree.serve()
        if self._starts_app_later:
            self._pending.add(None)
            self._units.start_later(self._start_apps_later)
        self.has_background = bool(self._background) or self._starts_app_later or self.inner.have_background()
        self._look_if_ready()

    async def _start_apps_later(self) -> None:
        """Start the wrapped app and its mounts after the startup was answered."""
        apps = self.apps
        assert apps is not None, "they were looked at"
        before = dict(self.state)
        try:
            await self._start_apps(apps)
        except UnitFailed:
            failed = [unit for unit in apps.units.values() if unit.has_failed]
            self._late_failure = failed[0].failure if failed else None
            await finish(self._units.shared, failed)
        except Exception as error:  # a collision of state
            self._late_failure = Failure(self.label, FailedPhase.SERVING, error)
            self._units.failures.append(self._late_failure)
            log_failure(self._late_failure)
            self.on_crash(self._late_failure)
        else:
            self._pending.discard(None)
        self.has_late_state |= any(before.get(key, self) is not value for key, value in self.state.items())
        self._look_if_ready()

    def _look(self) -> Apps:
        self._shared_state = SharedState(self.state)
        tree = Tree(self._app, self._scope, self._shared_state, self._settings)
        self.root = tree.root
        self.label = tree.root.label
        self.apps = Apps(
            tree,
            self._settings,
            sends_to_app=self.sends_to_app,
            new_unit=self._new_unit,
            start_units=self._start_units,
            left_out=self._show_left_out,
        )
        return self.apps

    async def _start_units(self, *units: Unit) -> None:
        await self._units.start(*units)

    def _hooks_of_runs_around(self, hooks: Sequence[Hook]) -> set[Hook]:
        """Return those of the hooks that the run of an app around this one has too, and name each in a WARNING.

        ``FastAPI(lifespan=hooks)`` with ``app.mount("/sub", FastAPI(lifespan=hooks))``
        """
        found: set[Hook] = set()
        enclosing = self._enclosing if hooks else None
        while enclosing is not None:
            run: Run = enclosing.run
            node = run.node_of(enclosing.unit)
            units = [] if node is None else [run.units.get(outer) for outer in node.around()]
            around = [run, *(inner for unit in units if unit is not None for inner in run.inner.of_unit.get(unit, ()))]
            for outer in around:
                running = set(flattened(outer._plan))  # noqa: SLF001 - another of this class
                for hook in hooks:
                    if hook in running and hook not in found:
                        found.add(hook)
                        logger.warning("%s is a hook of %s too; it runs once, there", hook.label, outer.label)
            enclosing = run._enclosing
        return found

    def _drop(self, hooks: set[Hook]) -> None:
        """Leave hooks out of this run."""
        if hooks:
            self._plan = without(self._plan, hooks)
            self._make_hooks()

    def _refused(self, apps: Apps) -> None:
        """Note that the wrapped app does not support the lifespan."""
        root = apps.tree.root
        if self.hooks or apps.units.keys() - {root} or self._starts_app_later:
            apps.warn_of_refusal()
            return
        self.is_refused, self.refusal = True, root.refusal
        self._leave()
        if self.refusal is not None and self._enclosing is not None and self._enclosing.run.apps is not None:
            # LifespanMiddleware(Starlette(routes=[Mount("/", LifespanMiddleware(app_without_lifespan))]))
            self._enclosing.run.apps.refuse(self._enclosing.unit)

    def _make_hooks(self) -> None:
        """Make the units of the hooks in batches; a group of hooks is one batch."""
        self.hooks: list[Unit] = []
        self._batches: list[list[Unit]] = []
        for step in self._plan:
            first = len(self.hooks)
            self._add_hooks([step], after=(), inherits=None)
            self._batches.append(self.hooks[first:])
        self._background = [unit for unit in self.hooks if unit.is_background]
        self.has_background = bool(self._background)
        # What the run waits for until it is ready; None stands for the app and its mounts.
        self._pending: set[Unit | None] = set(self._background)

    def _add_hooks(self, plan: Plan, after: Sequence[Unit], inherits: Unit | None) -> Sequence[Unit]:
        """Make the units of a plan, all of one batch, and return those that what follows the plan starts after.

        Args:
            plan: The hooks and groups, one after the other.
            after: The units that the first ones start after.
            inherits: The unit whose context variables the first ones see; None for those from before the batch.
        """
        for step in plan:
            if isinstance(step, Group):
                lasts = [last for member in step.members for last in self._add_hooks(member, after, inherits)]
                after = lasts or after  # a group without hooks
            else:
                unit = self._unit_of(step)
                unit.start_after(after)
                unit.inherits = inherits
                self.hooks.append(unit)
                after = [unit]
                inherits = inherits if unit.is_background else unit
        return after

    def _unit_of(self, hook: Hook) -> Unit:
        return self._new_unit(
            hook.label,
            body_of(hook, self._application, self._add_late_state),
            timeout=hook.timeout,
            is_shutdown_function=hook.kind is HookKind.SHUTDOWN,
            is_background=hook.background and self._has_requests,
            is_worker=hook.kind is HookKind.WORKER,
            is_optional=hook.optional,
        )

    def _add_late_state(self, unit: Unit, state: State) -> bool:
        """Give the state of a background hook to the requests that begin later; return whether that was possible."""
        try:
            self._shared_state.add(unit.name, {}, state)
        except StateCollision as error:  # raised in the context, it would look like an error of the hook's
            unit.fail(error)
            return False
        self.has_late_state |= bool(state)
        return True

    def _application(self) -> object:
        assert self.apps is not None, "it is starting"
        return self.apps.tree.application

    def _new_unit(self, name: str, body: Callable[[Unit], Coroutine[Any, Any, None]], **options: Any) -> Unit:
        """Make a unit; a run that begins in its body is inside of this one."""
        return Unit(name, body, on_enter=self._enter, on_started=self._started, **options)

    def _enter(self, unit: Unit) -> None:
        enter(self, unit)
        if self.node_of(unit) is None:  # a hook
            starter.set(unit.name)

    def _started(self, unit: Unit) -> None:
        if unit in self._pending:
            self._pending.discard(unit)
            self._look_if_ready()

    # --- the stop ---

    async def _stop_units(self) -> None:
        self._note("stop")
        self._is_serving = False
        self._units.shared.set_deadline(self._settings.shutdown_timeout)
        try:
            await self._units.stop()
        except BaseException as error:
            if not is_closing(error):
                await self.abandon()
            raise
        self._end()

    def _end(self) -> None:
        self._note("stopped")
        self._observing.close()
        self._leave()
        if "started" not in self.times and self.apps is not None:
            self._shared_state.undo()
        self._release()
        if self._enclosing is not None:
            self._enclosing.run._look_if_ready()  # noqa: SLF001 - a run that has ended is not waited for

    def _note(self, event: str) -> None:
        """Keep the time of the first event of its kind."""
        if event == "stop" and self.apps is not None:
            self.apps.tree.stopping()
        self.times.setdefault(event, time.perf_counter())

    def _leave(self) -> None:
        if self.apps is not None:
            self.apps.tree.leave()

    def _release(self) -> None:
        """Let go of what the units hold: a run is kept for its report."""
        for unit in self.hooks:
            unit.release()
        if self.apps is not None:
            self.apps.release()
            self._shared_state = SharedState({})
        self.state, self._scope, self._plan = {}, {}, []
        self._units.shared.context = Context()

    # --- what failed, in the log and for the caller ---

    def _failed(self, phase: str) -> BaseException:
        """Log what failed, and return what is to be raised."""
        self._log_failures(with_tracebacks=self.logs_tracebacks and is_read())
        errors = [] if self._error_of_ours is None else [self._error_of_ours]
        errors += [failure.error for failure in self._units.failures]
        self.failed_phase = phase
        self.error = merge(phase, errors)
        self.trace = BaseException.__dict__["__traceback__"].__get__(self.error)
        return self.error

    def _log_failures(self, *, with_tracebacks: bool) -> None:
        """Log the failures, once, but for the crashes, which were logged when they happened."""
        if self._is_logged:
            return
        self._is_logged = True
        if self._error_of_ours is not None:
            log_error(summarize_other(self._error_of_ours), self._error_of_ours, with_traceback=with_tracebacks)
        failed_inside = self.inner.errors() if self._units.failures else {}
        for failure in self._units.failures:
            # A run inside the unit, such as that of a middleware in a mount, may have failed with the same exception.
            inner = failed_inside.get(id(failure.error))
            is_told = inner is not None and inner.logs_tracebacks
            if failure.phase is not FailedPhase.SERVING and (self.logs_tracebacks or not is_told):
                log_failure(failure, with_traceback=with_tracebacks and not is_told)

    def _crashed(self, unit: Unit) -> None:
        assert unit.failure is not None, "it crashed"
        # A run inside the unit, such as that of a middleware in a mount, may have logged the same exception.
        log_failure(unit.failure, with_traceback=id(unit.failure.error) not in self.inner.errors())
        if unit.failure.is_optional:
            self._started(unit)
        elif unit in self._pending:
            self._late_failure = self._late_failure or unit.failure
        if self._is_serving and not unit.failure.is_optional:
            self.on_crash(unit.failure)
            self._look_if_ready()

    def _changed(self, unit: Unit) -> None:
        """Show a unit to the observers if its outcome has changed."""
        node = self.node_of(unit)
        is_supported = node is None or self.apps is None or self.apps.is_supported(node)
        row = report_unit(self, unit, node, is_supported=is_supported)
        if (row.outcome, row.reason) != self._outcomes.get(unit):
            self._outcomes[unit] = row.outcome, row.reason
            self._show_row(row)

    def _show_left_out(self, node: AppNode) -> None:
        if self._is_observed:
            self._show_row(report_left_out(self, node))

    def _show_row(self, row: UnitReport) -> None:
        """Call the observers of this run and of the runs around it. What one raises is logged."""
        run = self
        while True:
            if run._observe is not None:
                try:
                    run._observe(row)
                except BaseException as error:  # raised here, it would break the unit that the row is of
                    log_error(f"observe= failed at {row.unit}, {row.outcome}: {text_of(error)}", error)
            enclosing = run._enclosing
            if enclosing is None or not enclosing.run._is_observed:  # noqa: SLF001 - another of this class
                return
            outer = report_unit(enclosing.run, enclosing.unit, enclosing.run.node_of(enclosing.unit))
            later = run.times["start"] - enclosing.run.times["start"]
            row = replace(
                row,
                path=outer.path + row.path,
                depth=outer.depth + 1 + row.depth,
                began=None if row.began is None else row.began + later,
                stop_began=None if row.stop_began is None else row.stop_began + later,
            )
            run = enclosing.run

    def _log(self, phase: str, first: str, then: str) -> None:
        took = self.seconds(first, then)
        is_started = self.root is not None and self.root in self.units and self.root.is_supported
        of_app = f"{self.label}, " if is_started else ""
        background = sum(not unit.has_started and unit.failure is None for unit in self._background)
        hooks, mounts = sum(unit.has_started for unit in self.hooks), self.apps.started if self.apps is not None else 0
        later = ""
        if phase == "startup" and (background or self._starts_app_later):
            of_later = f"{self.label} with its mounts, " if self._starts_app_later else ""
            later = f", still starting in the background {of_later}hooks {background}"
        logger.info("%s complete in %.3f s: %shooks %d, mounts %d%s", phase, took, of_app, hooks, mounts, later)
