"""What a run did and how long it took, as frozen records: the one source of the command line's pictures."""

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, final

from ._account import headline
from ._tree import LeftOut, Node
from ._unit import Stage, Unit

Kind: TypeAlias = Literal["hook", "app", "mount"]
Outcome: TypeAlias = Literal[
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
    kind: Kind
    path: str = ""
    depth: int = 0
    outcome: Outcome = "waiting"
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


@final
@dataclass(slots=True)
class Record:
    """What one run keeps to tell of itself.

    Attributes:
        hooks: the units of the hooks.
        sends_to_app: whether the app is a unit at all; it is not where we are its lifespan.
        times: when the start and the stop of the whole began and ended.
        root: the wrapped app; None before it was looked at.
        reason_against_root: why the app is sent no lifespan; empty if it is.
    """

    hooks: Sequence[Unit]
    sends_to_app: bool
    times: dict[str, float] = field(default_factory=dict[str, float])
    root: Node | None = None
    reason_against_root: str = ""

    def note(self, event: str) -> None:
        """Keep the time of the first event of its kind."""
        self.times.setdefault(event, time.perf_counter())

    def seconds(self, first: str, then: str) -> float | None:
        """The time between two events; None if one of them was not."""
        return self.times[then] - self.times[first] if first in self.times and then in self.times else None

    def report(self) -> Report:
        """The report as it stands now; it may be asked for from another thread."""
        rows: list[UnitReport] = []
        self.tell(_Told(rows, self.times.get("start", 0.0)))
        return Report(
            units=tuple(rows),
            start_seconds=self.seconds("start", "started"),
            stop_began=self.seconds("start", "stop"),
            stop_seconds=self.seconds("stop", "stopped"),
        )

    def tell(self, told: "_Told", path: str = "", depth: int = 0) -> None:
        """Tell of the units of the run, which is at that depth behind that path."""
        for unit in self.hooks:
            told.unit(unit, "hook", path, depth, unit.state)
        root, reason = self.root, self.reason_against_root
        if root is None:
            return
        if self.sends_to_app and not reason:
            told.node(root, "app", path, depth)
            return
        if self.sends_to_app:
            told.left_out(root.nested.label, "app", path, depth, reason)
        told.nested(root, path, depth + self.sends_to_app)


@final
class _Told:
    """The rows of a report in the making. It is made after each run, so that it must be cheap."""

    def __init__(self, rows: list[UnitReport], origin: float) -> None:
        self._rows = rows
        self._origin = origin

    def node(self, node: Node, kind: Kind, path: str, depth: int) -> None:
        behind = path + node.nested.path
        if node.unit is None:
            self._rows.append(UnitReport(unit=node.nested.label, kind=kind, path=behind, depth=depth))
        else:
            first = len(self._rows)
            self.unit(node.unit, kind, behind, depth, node.added, is_supported=node.delivered)
            if node.unit.runs:
                # A run inside the app tells of its own apps; they are found from outside too, as running already.
                seen = {row.path for row in self._rows[first:]}
                self.nested(node, path, depth + 1, seen)
                return
        self.nested(node, path, depth + 1)

    def nested(self, parent: Node, path: str, depth: int, seen: Container[str] = ()) -> None:
        for found in list(parent.found):  # the run may go on in another thread
            nested = found.nested
            kind: Kind = "mount" if nested.label.startswith("mount") else "app"
            if path + nested.path in seen:
                continue
            if isinstance(found, LeftOut):
                self.left_out(nested.label, kind, path + nested.path, depth, found.reason)
            else:
                self.node(found, kind, path, depth)

    def left_out(self, unit: str, kind: Kind, path: str, depth: int, reason: str) -> None:
        self._rows.append(UnitReport(unit=unit, kind=kind, path=path, depth=depth, outcome="left out", reason=reason))

    def unit(
        self, unit: Unit, kind: Kind, path: str, depth: int, state: Iterable[str], *, is_supported: bool = True
    ) -> None:
        """Tell of a unit, and of the runs in it."""
        history = unit.history.copy()
        began, start_seconds = self._span(history, Stage.STARTING)
        stop_began, stop_seconds = self._span(history, Stage.STOPPING)
        stage = next(reversed(history), Stage.NEW)
        outcome: Outcome = _OUTCOMES.get(stage) or ("stopped" if Stage.STARTED in history else "cancelled")
        if not is_supported:
            outcome = "unsupported"
        elif unit.error is not None:
            outcome = "failed"
        reason = headline(unit) if unit.error is not None else unit.left_at and f"at {unit.left_at}"
        self._rows.append(
            UnitReport(
                unit.name, kind, path, depth, outcome, reason, tuple(state),
                began, start_seconds, stop_began, stop_seconds,
            )
        )  # fmt: skip
        for run in unit.runs:
            run.tell(self, path, depth + 1)

    def _span(self, history: Mapping[Stage, float], stage: Stage) -> tuple[float | None, float | None]:
        """When a stage was entered, and how long it lasted; None for what did not happen or is not over."""
        at = history.get(stage)
        if at is None:
            return None, None
        stages = list(history)
        after = stages.index(stage) + 1
        return at - self._origin, history[stages[after]] - at if after < len(stages) else None


_OUTCOMES: Final[Mapping[Stage, Outcome]] = {
    Stage.NEW: "waiting",
    Stage.STARTING: "starting",
    Stage.STARTED: "started",
    Stage.STOPPING: "stopping",
}
