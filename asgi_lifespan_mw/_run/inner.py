"""Runs inside units: a middleware in a mounted app, a framework's own `Lifespan`, a `LifespanManager` in a hook."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias, final

from .._apps.watch import starter
from .._units.unit import Unit, UnitState

Run: TypeAlias = Any
"""The `Run` of `run`, which imports this module."""


class Enclosing(NamedTuple):
    """The unit in whose body a run begins, and the run that the unit is of."""

    run: Run
    unit: Unit


_enclosing: ContextVar[Enclosing | None] = ContextVar("asgi_lifespan_mw_enclosing", default=None)


def enter(run: Run, unit: Unit) -> None:
    """Let the runs that begin in the current task be inside a unit of `run`."""
    _enclosing.set(Enclosing(run, unit))
    if run.node_of(unit) is None:  # a hook
        starter.set(unit.name)


def enclosing_unit() -> Unit | None:
    """Return the unit in whose task, or in a task begun there, the caller runs; None outside of any run."""
    enclosing = _enclosing.get()
    return None if enclosing is None else enclosing.unit


@final
class InnerRuns:
    """The runs that began in the units of one run while these were starting.

    Attributes:
        of_unit: The runs by unit, those that have ended included.
    """

    def __init__(self) -> None:
        self.of_unit: dict[Unit, list[Run]] = {}

    def living(self) -> list[Run]:
        """Return the runs that have begun and not ended, those inside of them included."""
        found: list[Run] = []
        todo = [run for runs in self.of_unit.values() for run in runs]
        while todo:  # a stack in place of a recursion, for they may be nested 500 times
            run = todo.pop()
            if not run.is_over:  # pragma: no branch - one that is over is seldom kept
                found.append(run)
                todo += [inner for runs in run.inner.of_unit.values() for inner in runs]
        return found

    def are_starting(self) -> bool:
        """Return whether one of the runs that live waits for something that starts in the background."""
        return any(run.readiness.is_starting and not run.is_over for runs in self.of_unit.values() for run in runs)

    def have_background(self) -> bool:
        """Return whether something starts in the background in one of the runs."""
        return any(run.readiness.has_background for runs in self.of_unit.values() for run in runs)

    def errors(self) -> dict[int, Run]:
        """Return the runs that failed, by the identity of the exception that each raised."""
        return {id(run.error): run for runs in self.of_unit.values() for run in runs if run.error is not None}


def join_enclosing(run: Run) -> Enclosing | None:
    """Add a run that begins to the unit in whose body it does, and return that; None if it is in no starting unit.

    Later runs are not added: a unit that runs apps for days would gather them.
    """
    enclosing = _enclosing.get()
    if enclosing is None or enclosing.unit.stage is not UnitState.STARTING:
        return None
    runs = enclosing.run.inner.of_unit.setdefault(enclosing.unit, [])
    runs.append(run)
    enclosing.unit.inside = _location_in(runs)
    return enclosing


def _location_in(runs: list[Run]) -> Callable[[], str]:
    """Return a function that returns where the innermost unit at work in some runs stands; "" if there is none."""

    def location() -> str:
        todo, innermost = runs, None
        while todo:
            at_work = [unit for run in todo for unit in run.supervisor.in_progress()]
            if not at_work:
                break
            innermost = at_work[0]
            todo = [inner for run in todo for inner in run.inner.of_unit.get(innermost, ())]
        return "" if innermost is None else f"at {innermost.name}, {innermost.own_whereabouts()}"

    return location
