"""What a run did and how long it took, as frozen records: the one source of the command line's pictures."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, final

from ._account import headline
from ._tree import LeftOut, Node
from ._unit import Stage, Unit

Outcome: TypeAlias = Literal[
    "waiting", "starting", "started", "stopping", "stopped", "failed", "cancelled", "unsupported", "left out"
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
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
    kind: Literal["hook", "app", "mount"]
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
        return Report(
            units=tuple(self.rows(self.times.get("start", 0.0))),
            start_seconds=self.seconds("start", "started"),
            stop_began=self.seconds("start", "stop"),
            stop_seconds=self.seconds("stop", "stopped"),
        )

    def rows(self, origin: float) -> Iterator[UnitReport]:
        """The units of the run, and of the runs inside them; their times count from `origin`."""
        for unit in self.hooks:
            yield from _with_runs(UnitReport(unit=unit.name, kind="hook", state=tuple(unit.state)), unit, origin)
        if self.root is None:
            return
        if self.sends_to_app and not self.reason_against_root:
            yield from _node_rows(self.root, "app", origin, 0)
            return
        if self.sends_to_app:
            yield UnitReport(unit=self.root.label, kind="app", outcome="left out", reason=self.reason_against_root)
        yield from _nested_rows(self.root, origin, int(self.sends_to_app))


def _node_rows(node: Node, kind: Literal["app", "mount"], origin: float, depth: int) -> Iterator[UnitReport]:
    row = UnitReport(unit=node.label, kind=kind, path=node.path, depth=depth, state=tuple(node.added))
    if node.unit is None:
        inner = [row]
    else:
        inner = list(_with_runs(row, node.unit, origin))
        if not node.delivered:
            inner[0] = replace(inner[0], outcome="unsupported")
    yield from inner
    # A run inside the app tells of its own apps; they are found from outside too, as running already.
    told = {row.path for row in inner}
    yield from (row for row in _nested_rows(node, origin, depth + 1) if len(inner) == 1 or row.path not in told)


def _nested_rows(parent: Node, origin: float, depth: int) -> Iterator[UnitReport]:
    for found in list(parent.found):
        if isinstance(found, LeftOut):
            nested = found.nested
            kind: Literal["app", "mount"] = "mount" if nested.is_mount else "app"
            yield UnitReport(
                unit=nested.label, kind=kind, path=nested.path, depth=depth, outcome="left out", reason=found.reason
            )
        else:
            yield from _node_rows(found, "mount" if found.label.startswith("mount") else "app", origin, depth)


def _with_runs(row: UnitReport, unit: Unit, origin: float) -> Iterator[UnitReport]:
    """The row of a unit with its times and outcome, and what ran inside it."""
    history = list(unit.history)  # in one step: the run may go on in another thread
    began, start_seconds = _span(history, Stage.STARTING, origin)
    stop_began, stop_seconds = _span(history, Stage.STOPPING, origin)
    yield replace(
        row,
        outcome=_outcome(unit, history),
        reason=headline(unit) if unit.error is not None else unit.left_at and f"at {unit.left_at}",
        began=began,
        start_seconds=start_seconds,
        stop_began=stop_began,
        stop_seconds=stop_seconds,
    )
    for run in unit.runs:
        for inner in run.rows(origin):
            yield replace(inner, path=row.path + inner.path, depth=row.depth + 1 + inner.depth)


def _span(history: Sequence[tuple[Stage, float]], stage: Stage, origin: float) -> tuple[float | None, float | None]:
    """When a stage was entered, and how long it lasted."""
    for index, (entered, at) in enumerate(history):
        if entered is stage:
            return at - origin, history[index + 1][1] - at if index + 1 < len(history) else None
    return None, None


def _outcome(unit: Unit, history: Iterable[tuple[Stage, float]]) -> Outcome:
    if unit.error is not None:
        return "failed"
    stages = [stage for stage, _ in history]
    if not stages:
        return "waiting"
    match stages[-1]:
        case Stage.STARTING:
            return "starting"
        case Stage.STARTED:
            return "started"
        case Stage.STOPPING:
            return "stopping"
        case _:
            return "stopped" if Stage.STARTED in stages else "cancelled"
