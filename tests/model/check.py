"""Compares what came of a plan with what must come of it."""

from collections.abc import AsyncGenerator
from itertools import combinations, groupby, islice
from typing import Final

from tests.model.plan import SERVERS, Part, Plan, expected, plans
from tests.model.world import Outcome, perform

SHAPES: Final = (
    ("hook",),
    ("app",),
    ("hook", "hook"),
    ("member", "member"),
    ("hook", "app"),
    ("app", "mount"),
    ("hook", "app", "mount"),
)
"""The kinds of units that are put together, in the order of their start."""

MOST_UNITS: Final = max(map(len, SHAPES))


async def check_every_plan(part: int = 0, parts: int = 1) -> AsyncGenerator[tuple[Plan, list[str]]]:
    """Run every plan under every server, or one of so many parts of them, and tell what is wrong with each run."""
    every = (plan for kinds in SHAPES for plan in plans(*kinds))
    for plan in islice(every, part, None, parts):
        outcome = await perform(plan)
        yield plan, complaints(plan, outcome)
        # Two units show what a server does to the state: no unit here looks at it.
        servers = SERVERS if len(plan.parts) < MOST_UNITS else SERVERS[:2]
        # A cancellation before the last unit begins is one of a shorter plan, which has been run.
        cancellations = [f"cancels_at_{at}" for at in range(max(outcome.last_began_at, 0), outcome.awaits)]
        for server in (*servers, *cancellations):
            run = plan.under(server)
            yield run, complaints(run, await perform(run))


def complaints(plan: Plan, outcome: Outcome) -> list[str]:
    """Return what is wrong with a run, a line each."""
    beside = plan.beside_a_failure() if outcome.is_shuffled else []
    results = (
        _complaints(plan, outcome, cancelled)
        for count in range(len(beside) + 1)
        for cancelled in combinations(beside, count)
    )
    return min(results, key=len)


def _complaints(plan: Plan, outcome: Outcome, cancelled: tuple[Part, ...]) -> list[str]:
    """Return what is wrong if the start of so many members of a group was cancelled."""
    check = _compared if outcome.answers_when_cancelled is None else _cancelled
    members, names = plan.members, {part.name for part in cancelled}
    rows = [
        (what, in_any_order([line for line in is_ if line[1:] not in names], members), in_any_order(wanted, members))
        for what, is_, wanted in check(plan, outcome, cancelled)
    ]
    found = [f"{what}: {is_!r}, expected {wanted!r}" for what, is_, wanted in rows if is_ != wanted]
    return [*found, f"{outcome.tasks_left} tasks are left"] if outcome.tasks_left else found


def in_any_order(lines: list[str], members: set[str]) -> list[str]:
    """Return lines with those of a group's members sorted, as far as they stand together: its order is not given."""

    def part(line: str) -> tuple[bool, str]:
        is_member = any(line.endswith(name) for name in members)
        return is_member, line[:1] if is_member and line[:1] in "+-" else ""

    return [line for _, together in groupby(lines, part) for line in (sorted(together) if members else together)]


def _compared(plan: Plan, outcome: Outcome, cancelled: tuple[Part, ...]) -> list[tuple[str, list[str], list[str]]]:
    """A run that ended by itself is the one that was expected."""
    wanted = expected(plan, cancelled)
    crashes = wanted.crashes
    return [
        ("journal", outcome.journal, wanted.journal),
        ("answers", outcome.answers, wanted.answers),
        ("crashes", sorted(outcome.errors[:crashes]), sorted(wanted.errors[:crashes])),
        ("errors", outcome.errors[crashes:], wanted.errors[crashes:]),
    ]


def _cancelled(plan: Plan, outcome: Outcome, cancelled: tuple[Part, ...]) -> list[tuple[str, list[str], list[str]]]:
    """A run that was cancelled answers no more, and stops once, in reverse, what it had started."""
    wanted = expected(plan, cancelled)
    left_out = {part.name for part in cancelled}
    starts = [line for line in outcome.journal if line.startswith("+") and line[1:] not in left_out]
    notes = {part.name: part.behaviour.notes for part in plan.parts}
    stops = [line.replace("+", "-") for line in reversed(starts) if notes[line[1:]] == "+-"]
    functions = [line for line in outcome.journal if notes[line[1:]] == "-"]
    return [
        ("starts", starts, [line for line in wanted.journal if line.startswith("+")][: len(starts)]),
        ("journal", [line for line in outcome.journal if line not in functions], starts + stops),
        ("functions", sorted(set(functions)), sorted(functions)),
        ("answers", outcome.answers, wanted.answers[: outcome.answers_when_cancelled]),
        ("errors", outcome.errors, ["CancelledError"]),
    ]
