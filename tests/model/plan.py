"""A plan: which units there are, how each behaves, and what the server does; and what must come of it.

A plan has a printed form, by which a run that failed can be run again:
``hook.context_well app.crashes mount.hangs_at_stop server.clears_state``.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from tests.model.behaviours import APPS, HOOKS, Behaviour

KINDS: Final = {"hook": HOOKS, "member": HOOKS, "app": APPS, "mount": APPS}
"""The kinds of units, and what each can do. Members are hooks of one concurrent group. A mount is mounted in the app or
mount before it."""

SERVERS: Final = ("raises_from_send_at_startup", "raises_from_send_at_shutdown", "has_no_state", "clears_state")
"""What a server does, if not ``well``; beside these, it cancels at the n-th wait: ``cancels_at_7``."""


@dataclass(frozen=True)
class Part:
    """One unit of a plan."""

    kind: str
    behaviour: Behaviour
    name: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.behaviour.name}"


@dataclass(frozen=True)
class Plan:
    """The units in the order of their start, and what the server does."""

    parts: tuple[Part, ...]
    server: str = "well"

    def __str__(self) -> str:
        return " ".join([*map(str, self.parts), f"server.{self.server}"])

    @classmethod
    def of(cls, *units: tuple[str, str], server: str = "well") -> "Plan":
        """The plan of kinds and the names of their behaviours, in the order of their start."""
        counts = dict.fromkeys(KINDS, 0)
        parts: list[Part] = []
        for kind, behaviour in units:
            counts[kind] += 1
            parts.append(Part(kind, KINDS[kind][behaviour], f"{kind}{counts[kind]}"))
        return cls(tuple(parts), server)

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """The plan that was printed."""
        *units, (_, server) = [word.split(".") for word in text.split()]
        return cls.of(*((kind, behaviour) for kind, behaviour in units), server=server)

    @property
    def cancels_at(self) -> int | None:
        """At which of the middleware's waits the server cancels; None if it does not."""
        return int(self.server.removeprefix("cancels_at_")) if self.server.startswith("cancels_at_") else None

    @property
    def members(self) -> set[str]:
        """The names of the members of the group."""
        return {part.name for part in self.parts if part.kind == "member"}

    def batches(self) -> Iterator[list[Part]]:
        """Yield the units that start side by side, one batch after the other. A group ends with its stop functions."""
        for kind, parts in groupby(self.parts, attrgetter("kind")):
            if kind == "member":
                members = list(parts)
                yield [part for part in members if not part.behaviour.runs_at_stop]
                yield [part for part in members if part.behaviour.runs_at_stop]
            else:
                yield from ([part] for part in parts)

    def beside_a_failure(self) -> list[Part]:
        """Return the members that would start, of a group in which another one fails at once."""
        for batch in self.batches():
            if any(part.behaviour.ends_the_startup for part in batch):
                is_at_once = any(part.behaviour.start not in {"", "none", "LifespanTimeout"} for part in batch)
                return [part for part in batch if not part.behaviour.start] if is_at_once else []
        return []

    def lingers_beside_a_failure(self) -> bool:
        """Return whether a member ignores its cancellation, because another one has failed at once."""
        for batch in self.batches():
            starts = [part.behaviour.start for part in batch if part.behaviour.ends_the_startup]
            if starts:
                is_at_once = any(start != "LifespanTimeout" for start in starts)
                return is_at_once and any(part.behaviour.lingers and part.behaviour.start for part in batch)
        return False

    def under(self, server: str) -> "Plan":
        """The same units under another server."""
        return Plan(self.parts, server)


@dataclass
class Expected:
    """What must come of a plan.

    Attributes:
        journal: The starts and stops, in order.
        answers: What the server is told.
        errors: What is raised, the cause first: the name of each error with whose it is.
        crashes: How many of the errors came while serving. Their order among themselves is the event loop's.
    """

    journal: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    crashes: int = 0


def expected(plan: Plan, cancelled: Collection[Part] = ()) -> Expected:
    """Return what must come of a plan whose server does not cancel.

    Args:
        plan: The plan.
        cancelled: The members of a group whose start was cancelled, because another member failed just before.
    """
    result = Expected()
    if [str(part) for part in plan.parts] == ["app.turns_away"]:  # nothing of ours to run: it is as without us
        result.errors.append("Boom app1")
        return result
    running = [
        [part for part in batch if part.behaviour.serving != "over"] for batch in _started(plan, result, cancelled)
    ]
    if result.errors:
        result.answers.append("startup.failed")
    else:
        result.answers.append("startup.complete")
    breaks = plan.server.removeprefix("raises_from_send_at_")
    is_serving = not result.errors and breaks != "startup"
    if is_serving:
        crashed = [part for batch in running for part in batch if part.behaviour.serving]
        result.errors += [
            f"{part.behaviour.serving} {part.name}" for part in crashed if part.behaviour.serving != "in vain"
        ]
        result.crashes = len(result.errors)
        running = [[part for part in batch if not part.behaviour.serving] for batch in running]
    _stop(running, result, is_late=plan.lingers_beside_a_failure())
    if is_serving:
        result.answers.append("shutdown.failed" if result.errors else "shutdown.complete")
    if result.answers[-1].startswith(breaks):
        result.errors, result.crashes = ["ServerBroke"], 0
    return result


def _started(plan: Plan, result: Expected, cancelled: Collection[Part]) -> list[list[Part]]:
    """Start batch after batch. The first failure in a batch cancels those that hang."""
    started: list[list[Part]] = []
    for batch in plan.batches():
        started.append([part for part in batch if not part.behaviour.start and part not in cancelled])
        result.journal += [f"+{part.name}" for part in started[-1] if not part.behaviour.runs_at_stop]
        failing = [part for part in batch if part.behaviour.ends_the_startup]
        at_once = [part for part in failing if part.behaviour.start != "LifespanTimeout"]
        result.errors += [f"{part.behaviour.start} {part.name}" for part in at_once or failing]
        if failing:
            break
    return started


def _stop(running: list[list[Part]], result: Expected, *, is_late: bool) -> None:
    """Stop in reverse. When one hangs, the time of all is up: what is left is cancelled, and named.

    Args:
        running: What has started, batch by batch.
        result: Is added to.
        is_late: Whether one that was cancelled in the last batch takes all the time.
    """
    is_time_up = False
    for batch in reversed(running):
        for part in batch:
            if "-" in part.behaviour.notes:
                result.journal.append(f"-{part.name}")
            # After a failed start a worker is cancelled as what still starts is, and ends.
            is_named = not part.behaviour.is_worker or result.answers[-1] == "startup.complete"
            error = "LifespanTimeout" if is_time_up and is_named else part.behaviour.stop
            if error:
                result.errors.append(f"{error} {part.name}")
        is_time_up = is_time_up or is_late or any(part.behaviour.stop == "LifespanTimeout" for part in batch)


def plans(*kinds: str) -> Iterator[Plan]:
    """Every plan of units of these kinds; what comes after a unit that ends the startup is left out."""

    def longer(units: tuple[tuple[str, str], ...], left: tuple[str, ...]) -> Iterator[Plan]:
        if not left:
            yield Plan.of(*units)
            return
        for name, behaviour in KINDS[left[0]].items():
            yield from longer((*units, (left[0], name)), () if behaviour.ends_the_startup else left[1:])

    return longer((), kinds)
