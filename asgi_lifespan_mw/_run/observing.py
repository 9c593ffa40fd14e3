"""Observers: `observe=` of a run and of the runs around it, which are called at each change of a unit."""

from dataclasses import replace
from typing import final

from .._apps.node import AppNode
from .._reporting.failures import log_error
from .._reporting.report import Observer, UnitReport, report_left_out, report_unit
from .._units.failure import text_of
from .._units.unit import Unit
from .inner import Enclosing, Run


@final
class Observers:
    """The observers that are called with the rows of one run's units.

    Attributes:
        are_there: Whether this run, or one around it, has an observer.
    """

    def __init__(self, run: Run, observe: Observer | None) -> None:
        """Begin with the observer of the run itself; None for no observer."""
        self.are_there = observe is not None
        self._run = run
        self._observe = observe
        self._outcomes: dict[Unit, tuple[str, str]] = {}

    def join(self, enclosing: Enclosing | None) -> None:
        """Call the observers of the runs around this one too."""
        self.are_there = self.are_there or (enclosing is not None and enclosing.run.observers.are_there)

    def changed(self, unit: Unit) -> None:
        """Show a unit to the observers if its outcome has changed."""
        run = self._run
        node = run.node_of(unit)
        is_supported = node is None or run.apps is None or run.apps.is_supported(node)
        row = report_unit(run, unit, node, is_supported=is_supported)
        if (row.outcome, row.reason) != self._outcomes.get(unit):
            self._outcomes[unit] = row.outcome, row.reason
            self._show(row)

    def left_out(self, node: AppNode) -> None:
        """Show an app that the run does not start."""
        if self.are_there:
            self._show(report_left_out(self._run, node))

    def call(self, row: UnitReport) -> None:
        """Call the observer of the run itself. What it raises is logged."""
        if self._observe is not None:
            try:
                self._observe(row)
            except BaseException as error:  # raised here, it would break the unit that the row is of
                log_error(f"observe= failed at {row.unit}, {row.outcome}: {text_of(error)}", error)

    def _show(self, row: UnitReport) -> None:
        """Call the observers of the run and of the runs around it."""
        run = self._run
        while True:
            run.observers.call(row)
            enclosing: Enclosing | None = run.enclosing
            if enclosing is None or not enclosing.run.observers.are_there:
                return
            outer = report_unit(enclosing.run, enclosing.unit, enclosing.run.node_of(enclosing.unit))
            later: float = run.times["start"] - enclosing.run.times["start"]
            row = replace(
                row,
                path=outer.path + row.path,
                depth=outer.depth + 1 + row.depth,
                began=None if row.began is None else row.began + later,
                stop_began=None if row.stop_began is None else row.stop_began + later,
            )
            run = enclosing.run
