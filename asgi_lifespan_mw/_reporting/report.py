"""What a run did and how long it took, as frozen records: the one source of the command line's pictures."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from .._apps.discovery import AppNode
from .._units.unit import Unit, UnitState
from .failures import summarize

if TYPE_CHECKING:
    from .._run import Run

UnitKind: TypeAlias = Literal["hook", "app", "mount"]
UnitStatus: TypeAlias = Literal[
    "waiting", "starting", "started", "stopping", "stopped", "failed", "cancelled", "unsupported", "left out"
]


@final
@dataclass(frozen=True, slots=True)
class UnitReport:
    """One unit of a run. Times are seconds; those that begin something count from the beginning of the run.

    Attributes:
        unit: who it is, as the log names it: ``hook 'open_pool' (shop/db.py:12)``.
        kind: ``"hook"``, ``"app"`` or ``"mount"``.
        path: where it is mounted, as a client would type it; empty for hooks and the wrapped app.
        depth: how deep it is nested; what is nested in a unit follows it.
        outcome: ``"waiting"`` for its start, ``"starting"``, ``"started"``, ``"stopping"``, ``"stopped"``,
            ``"failed"``, ``"cancelled"`` in its start, ``"unsupported"`` (it turned the lifespan away), ``"left out"``
            (it is not ours to start).
        reason: why it failed or was left out, or where in its code it was cancelled; else empty.
        state: the keys of the lifespan state that it set.
        began: when its start began; None if it did not.
        start_seconds: how long the start took, however it ended; None if it did not begin, or is not over.
        stop_began: when its stop began; None if it did not.
        stop_seconds: how long the stop took; None if it did not begin, or is not over.
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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run, as it stood when it was asked for.

    Attributes:
        units: what was started, waits for it or was left out, in the order of the start, as a tree: see
            `UnitReport.depth`.
        start_seconds: how long the whole startup took; None if it failed or is not over.
        stop_began: when stopping began, in seconds from the beginning of the run; None if it did not.
        stop_seconds: how long stopping took, or the clean-up of a failed startup; None if it is not over.
    """

    units: tuple[UnitReport, ...] = ()
    start_seconds: float | None = None
    stop_began: float | None = None
    stop_seconds: float | None = None


def report_of(run: "Run") -> Report:
    """The report of a run as it stands now; it may be asked for from another thread."""
    rows = _Rows(run.times.get("start", 0.0))
    rows.of_run(run, "", 0)
    return Report(
        units=tuple(rows),
        start_seconds=run.seconds("start", "started"),
        stop_began=run.seconds("start", "stop"),
        stop_seconds=run.seconds("stop", "stopped"),
    )


@final
class _Rows(list[UnitReport]):
    """The rows of a report in the making, whose times count from `origin`. It is made after each run, and cheap."""

    def __init__(self, origin: float) -> None:
        super().__init__()
        self._origin = origin

    def of_run(self, run: "Run", path: str, depth: int) -> None:
        """Tell of a run that is at that depth behind that path."""
        for unit in run.hooks:
            self.of_unit(unit, "hook", path, depth, unit.state)
        if run.root is None:
            return
        if run.sends_to_app:
            self.of_node(run, run.root, path, depth)
        else:
            self.inside(run, run.root, path, depth)

    def of_node(self, run: "Run", node: AppNode, path: str, depth: int) -> None:
        """Tell of an app, and of what is mounted in it."""
        kind: UnitKind = "mount" if node.is_mount else "app"
        behind, first = path + node.path, len(self)
        told: Container[str] = ()
        unit = run.units.get(node)
        if node.reason:
            self.left_out(node.label, kind, behind, depth, node.reason)
        elif unit is None:
            self.append(UnitReport(node.label, kind, behind, depth))
        else:
            self.of_unit(unit, kind, behind, depth, node.added, is_supported=node.is_supported)
            if unit.runs:
                # A run inside the app tells of its own apps; they are found from outside too, as running already.
                told = {row.path for row in self[first:]}
        self.inside(run, node, path, depth + 1, told)

    def inside(self, run: "Run", parent: AppNode, path: str, depth: int, told: Container[str] = ()) -> None:
        """Tell of what is mounted in an app, but for what is behind the paths that are told already."""
        for node in list(parent.children):  # the run may go on in another thread
            if path + node.path not in told:
                self.of_node(run, node, path, depth)

    def left_out(self, unit: str, kind: UnitKind, path: str, depth: int, reason: str) -> None:
        """Tell of an app that is not ours to start."""
        self.append(UnitReport(unit, kind, path, depth, "left out", reason))

    def of_unit(
        self, unit: Unit, kind: UnitKind, path: str, depth: int, state: Iterable[str], *, is_supported: bool = True
    ) -> None:
        """Tell of a unit, and of the runs in it."""
        history = unit.history.copy()
        outcome = _outcome(unit, history) if is_supported else "unsupported"
        reason = summarize(unit) if unit.error is not None else unit.cancelled_at and f"at {unit.cancelled_at}"
        times = (*self._span(history, UnitState.STARTING), *self._span(history, UnitState.STOPPING))
        self.append(UnitReport(unit.name, kind, path, depth, outcome, reason, tuple(state), *times))
        for run in unit.runs:
            self.of_run(run, path, depth + 1)

    def _span(self, history: Mapping[UnitState, float], stage: UnitState) -> tuple[float | None, float | None]:
        """When a stage was entered, and how long it lasted; None for what did not happen or is not over."""
        at = history.get(stage)
        if at is None:
            return None, None
        stages = list(history)
        after = stages.index(stage) + 1
        return at - self._origin, history[stages[after]] - at if after < len(stages) else None


def _outcome(unit: Unit, history: dict[UnitState, float]) -> UnitStatus:
    if unit.error is not None:
        return "failed"
    stage = next(reversed(history), UnitState.NEW)
    return _STATUSES.get(stage) or ("stopped" if UnitState.STARTED in history else "cancelled")


_STATUSES: Final[Mapping[UnitState, UnitStatus]] = {
    UnitState.NEW: "waiting",
    UnitState.STARTING: "starting",
    UnitState.STARTED: "started",
    UnitState.STOPPING: "stopping",
}
