"""Reports: the units of a run, with outcomes and times, as frozen records. The command line renders them."""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, final

from .._apps.node import AppNode
from .._units.failure import FailedPhase
from .._units.unit import Unit, UnitState
from .failures import summarize

UnitKind: TypeAlias = Literal["hook", "app", "mount"]
UnitStatus: TypeAlias = Literal[
    "waiting", "starting", "started", "restarting", "stopping", "stopped",
    "failed", "crashed", "cancelled", "unsupported", "left out",
]  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class UnitReport:
    """One unit of a run. Times are seconds; those that begin something count from the beginning of the run.

    Attributes:
        unit: The name in the log: ``hook 'open_pool' (shop/db.py:12)``.
        kind: ``"hook"``, ``"app"`` or ``"mount"``.
        path: Where it is mounted, as a client would type it; empty for hooks and the wrapped app.
        depth: How deep it is nested; what is nested in a unit follows it.
        outcome: ``"waiting"`` for its start, ``"starting"``, ``"started"``, ``"restarting"`` (a worker, in the pause
            after a failure), ``"stopping"``, ``"stopped"``, ``"failed"`` in its start or stop, ``"crashed"`` in
            between, ``"cancelled"`` in its start, ``"unsupported"`` (the app does not support the lifespan protocol),
            ``"left out"`` (this run does not start it).
        reason: Why it failed or was left out, where in its code it was cancelled, or, of a hook with a lock,
            ``"waiting for the lock"`` or ``"leading"``; else empty.
        state: The keys of the lifespan state that it set.
        began: When its start began; None if it did not.
        start_seconds: How long the start took, however it ended; None if it did not begin, or is not over.
        stop_began: When its stop began; None if it did not.
        stop_seconds: How long the stop took; None if it did not begin, or is not over.
        restarts: How often a worker was restarted.
        open_tasks: The number of open tasks of the `Tasks` that was entered in it.
    """

    unit: str
    kind: UnitKind
    path: str = ""
    depth: int = 0
    outcome: UnitStatus = "waiting"
    reason: str = ""
    state: tuple[str, ...] = ()
    began: float | None = None
    start_seconds: float | None = None
    stop_began: float | None = None
    stop_seconds: float | None = None
    restarts: int = 0
    open_tasks: int = 0

    @property
    def name(self) -> str:
        """The unit without the place of its code: ``hook 'open_pool'``, ``app FastAPI``, ``mount '/admin/metrics'``.

        It does not change with line numbers or the working directory, so metrics can use it as a label.
        """
        if self.kind == "mount":
            return f"mount {self.path!r}"
        hook = _HOOK.fullmatch(self.unit)
        return self.unit if hook is None else hook[1]

    @property
    def location(self) -> str:
        """The file and line of a hook, such as ``shop/db.py:12``; "" for an app."""
        hook = _HOOK.fullmatch(self.unit)
        return "" if hook is None else hook[2]


_HOOK: Final = re.compile(r"""(hook (?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")) \((.*)\)""")
"""The label of a hook: the `repr` of its name, and its place."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run, as it stood when the report was made.

    Attributes:
        units: What was started, waits for it or was left out, in the order of the start, as a tree: see
            `UnitReport.depth`.
        start_seconds: How long the whole startup took; None if it failed or is not over.
        stop_began: When stopping began, in seconds from the beginning of the run; None if it did not.
        stop_seconds: How long stopping took, or the clean-up of a failed startup; None if it is not over.
    """

    units: tuple[UnitReport, ...] = ()
    start_seconds: float | None = None
    stop_began: float | None = None
    stop_seconds: float | None = None


Observer: TypeAlias = Callable[[UnitReport], object]


class ReportedRun(Protocol):
    """What a report needs of a run; `Run` is one."""

    @property
    def hooks(self) -> Sequence[Unit]: ...
    @property
    def root(self) -> AppNode | None: ...
    @property
    def sends_to_app(self) -> bool: ...
    @property
    def units(self) -> Mapping[AppNode, Unit]: ...
    @property
    def nested(self) -> Mapping[Unit, Sequence["ReportedRun"]]: ...
    @property
    def times(self) -> Mapping[str, float]: ...
    def seconds(self, first: str, then: str) -> float | None: ...


def build_report(run: ReportedRun) -> Report:
    """Return the report of a run as it stands now. Any thread may call this."""
    rows = _Rows(run.times.get("start", 0.0))
    rows.of_run(run, "", 0)
    return Report(
        units=tuple(rows),
        start_seconds=run.seconds("start", "started"),
        stop_began=run.seconds("start", "stop"),
        stop_seconds=run.seconds("stop", "stopped"),
    )


def report_unit(run: ReportedRun, unit: Unit, node: AppNode | None, *, is_supported: bool = True) -> UnitReport:
    """Return the row of one unit of a run as it stands now; `node` is its app, None for a hook."""
    rows = _Rows(run.times.get("start", 0.0))
    if node is None:
        rows.of_unit(run, unit, "hook", "", 0, state=unit.state, nested=False)
    else:
        kind: UnitKind = "mount" if node.is_mount else "app"
        path, depth = _place(run, node)
        rows.of_unit(run, unit, kind, path, depth, state=node.added, is_supported=is_supported, nested=False)
    return rows[0]


def report_left_out(run: ReportedRun, node: AppNode) -> UnitReport:
    """Return the row of an app that this run does not start."""
    path, depth = _place(run, node)
    return UnitReport(node.label, "mount" if node.is_mount else "app", path, depth, "left out", node.reason)


def _place(run: ReportedRun, node: AppNode) -> tuple[str, int]:
    """Return the path of an app, and its depth."""
    around = [*node.around()]
    path = "".join(reversed([node.path, *(one.path for one in around)]))
    return path, len(around) - (not run.sends_to_app)


@final
class _Rows(list[UnitReport]):
    """The rows of a report in the making, whose times count from `origin`. It is made after each run, and cheap."""

    def __init__(self, origin: float) -> None:
        super().__init__()
        self._origin = origin

    def of_run(self, run: ReportedRun, path: str, depth: int) -> None:
        """Add the rows of a run that is at that depth behind that path."""
        for unit in run.hooks:
            self.of_unit(run, unit, "hook", path, depth, state=unit.state)
        if run.root is None:
            return
        start = run.root if run.sends_to_app else None
        # A stack of apps in place of a recursion, for they may be nested 500 times.
        todo = [iter([(run.root, path, depth)] if start else self._inside(run.root, path, depth, ()))]
        while todo:
            entry = next(todo[-1], None)
            if entry is None:
                todo.pop()
            else:
                node, path, depth = entry
                reported = self._of_node(run, node, path + node.path, depth)
                todo.append(iter(self._inside(node, path, depth + 1, reported)))

    def _of_node(self, run: ReportedRun, node: AppNode, path: str, depth: int) -> Container[str]:
        """Add the row of an app, and return the paths that the runs inside its lifespan reported."""
        kind: UnitKind = "mount" if node.is_mount else "app"
        first, unit = len(self), run.units.get(node)
        if node.reason:
            self.left_out(node.label, kind, path, depth, node.reason)
        elif unit is None:
            self.append(UnitReport(node.label, kind, path, depth))
        else:
            self.of_unit(run, unit, kind, path, depth, state=node.added, is_supported=node.is_supported)
            if unit in run.nested:
                # A run inside the app reports its own apps. This run finds them too, as apps that run already.
                return {row.path for row in self[first:]}
        return ()

    def _inside(
        self, parent: AppNode, path: str, depth: int, reported: Container[str]
    ) -> list[tuple[AppNode, str, int]]:
        """Return what is mounted in an app, except for the paths that were reported."""
        children = list(parent.children)  # the run may go on in another thread
        return [(node, path, depth) for node in children if path + node.path not in reported]

    def left_out(self, unit: str, kind: UnitKind, path: str, depth: int, reason: str) -> None:
        """Add the row of an app that this run does not start."""
        self.append(UnitReport(unit, kind, path, depth, "left out", reason))

    def of_unit(
        self,
        run: ReportedRun,
        unit: Unit,
        kind: UnitKind,
        path: str,
        depth: int,
        *,
        state: Iterable[str],
        is_supported: bool = True,
        nested: bool = True,
    ) -> None:
        """Add the row of a unit, and those of the runs nested in it."""
        history = unit.history.copy()
        outcome = _outcome(unit, history) if is_supported else "unsupported"
        reason = summarize(unit.failure) if unit.failure is not None else unit.cancelled_at or unit.note
        times = (*self._span(history, UnitState.STARTING), *self._span(history, UnitState.STOPPING))
        numbers = unit.restarts, sum(map(len, unit.left_behind))
        self.append(
            UnitReport(unit.name, kind, path, depth, outcome, reason, tuple(map(_key, state)), *times, *numbers)
        )
        for inner in run.nested.get(unit, ()) if nested else ():
            self.of_run(inner, path, depth + 1)

    def _span(self, history: Mapping[UnitState, float], stage: UnitState) -> tuple[float | None, float | None]:
        """Return when a stage was entered, and how long it lasted; None for what did not happen or is not over."""
        at = history.get(stage)
        if at is None:
            return None, None
        stages = list(history)
        after = stages.index(stage) + 1
        return at - self._origin, history[stages[after]] - at if after < len(stages) else None


def _key(key: object) -> str:
    """Return a key of the state as a string; an app may have used any object as one."""
    return str.__str__(key) if isinstance(key, str) else f"a key of type {type(key).__qualname__}"


def _outcome(unit: Unit, history: dict[UnitState, float]) -> UnitStatus:
    if unit.failure is not None:
        return "crashed" if unit.failure.phase is FailedPhase.SERVING else "failed"
    stage = next(reversed(history), UnitState.NEW)
    if unit.is_restarting and stage is UnitState.STARTED:
        return "restarting"
    return _STATUSES.get(stage) or ("stopped" if UnitState.STARTED in history else "cancelled")


_STATUSES: Final[Mapping[UnitState, UnitStatus]] = {
    UnitState.NEW: "waiting",
    UnitState.STARTING: "starting",
    UnitState.STARTED: "started",
    UnitState.STOPPING: "stopping",
}
