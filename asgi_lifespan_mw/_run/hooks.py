"""The hooks of a run: their units in batches, and which of them the runs around it have too."""

from collections.abc import Callable, Sequence
from typing import Any

from .._apps.node import AppNode
from .._hooks.decorators import Group, Plan, flattened
from .._hooks.hook import Hook
from .._log import logger
from .._units.unit import Unit
from .inner import Enclosing, Run


def batches_of(plan: Plan, unit_of: Callable[[Hook], Unit]) -> list[list[Unit]]:
    """Return the units of a plan, which `unit_of` makes, in batches; a group of hooks is one batch."""
    batches: list[list[Unit]] = []
    for step in plan:
        batches.append([])
        _add_units(batches[-1], [step], unit_of, after=(), inherits=None)
    return batches


def _add_units(
    batch: list[Unit], plan: Plan, unit_of: Callable[[Hook], Unit], after: Sequence[Unit], inherits: Unit | None
) -> Sequence[Unit]:
    """Add the units of a plan to a batch, and return those that what follows the plan starts after.

    Args:
        batch: The batch that the units are added to.
        plan: The hooks and groups, one after the other.
        unit_of: Makes the unit of a hook.
        after: The units that the first ones start after.
        inherits: The unit whose context variables the first ones see; None for those from before the batch.
    """
    for step in plan:
        if isinstance(step, Group):
            lasts = [last for member in step.members for last in _add_units(batch, member, unit_of, after, inherits)]
            after = lasts or after  # a group without hooks
        else:
            unit = unit_of(step)
            unit.start_after(after)
            unit.inherits = inherits
            batch.append(unit)
            after = [unit]
            inherits = inherits if unit.is_background else unit
    return after


def hooks_of_runs_around(enclosing: Enclosing | None, hooks: Sequence[Hook]) -> set[Hook]:
    """Return those of the hooks that the run of an app around has too, and name each in a WARNING.

    ``FastAPI(lifespan=hooks)`` with ``app.mount("/sub", FastAPI(lifespan=hooks))``
    """
    found: set[Hook] = set()
    while enclosing is not None and hooks:
        run: Run = enclosing.run
        node: AppNode | None = run.node_of(enclosing.unit)
        units: list[Any] = [] if node is None else [run.units.get(outer) for outer in node.around()]
        around = [run, *(inner for unit in units if unit is not None for inner in run.inner.of_unit.get(unit, ()))]
        for outer in around:
            running = set(flattened(outer.plan))
            for hook in hooks:
                if hook in running and hook not in found:
                    found.add(hook)
                    logger.warning("%s is a hook of %s too; it runs once, there", hook.label, outer.label)
        enclosing = run.enclosing
    return found
