"""A plan: which units there are, how each behaves, and what the server does; and what must come of it.

A plan has a printed form, by which a run that failed can be run again:
``hook.context_well app.crashes mount.hangs_at_stop server.clears_state``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.model.behaviours import APPS, HOOKS, Behaviour

KINDS: Final = {"hook": HOOKS, "app": APPS, "mount": APPS}
"""The kinds of units, and what each can do. A mount is mounted in the app or mount before it."""

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


def expected(plan: Plan) -> Expected:
    """What must come of a plan whose server does not cancel."""
    result = Expected()
    if [str(part) for part in plan.parts] == ["app.turns_away"]:  # nothing of ours to run: it is as without us
        result.errors.append("Boom app1")
        return result
    running = [part for part in _started(plan, result) if part.behaviour.serving != "over"]
    if result.errors:
        result.answers.append("startup.failed")
    else:
        result.answers.append("startup.complete")
    breaks = plan.server.removeprefix("raises_from_send_at_")
    is_serving = not result.errors and breaks != "startup"
    if is_serving:
        for part in running:
            if part.behaviour.serving:
                result.errors.append(f"{part.behaviour.serving} {part.name}")
        result.crashes = len(result.errors)
        running = [part for part in running if not part.behaviour.serving]
    _stop(running, result)
    if is_serving:
        result.answers.append("shutdown.failed" if result.errors else "shutdown.complete")
    if result.answers[-1].startswith(breaks):
        result.errors, result.crashes = ["ServerBroke"], 0
    return result


def _started(plan: Plan, result: Expected) -> list[Part]:
    started: list[Part] = []
    for part in plan.parts:
        behaviour = part.behaviour
        if behaviour.ends_the_startup:
            result.errors.append(f"{behaviour.start} {part.name}")
            break
        if not behaviour.start:
            started.append(part)
            if not behaviour.runs_at_stop:
                result.journal.append(f"+{part.name}")
    return started


def _stop(running: list[Part], result: Expected) -> None:
    """Stop in reverse. When one hangs, the time of all is up: what is left is cancelled, and named."""
    is_time_up = False
    for part in reversed(running):
        behaviour = part.behaviour
        if "-" in behaviour.notes:
            result.journal.append(f"-{part.name}")
        is_time_up = is_time_up or behaviour.stop == "LifespanTimeout"
        error = "LifespanTimeout" if is_time_up else behaviour.stop
        if error:
            result.errors.append(f"{error} {part.name}")


def plans(*kinds: str) -> Iterator[Plan]:
    """Every plan of units of these kinds; what comes after a unit that ends the startup is left out."""

    def longer(units: tuple[tuple[str, str], ...], left: tuple[str, ...]) -> Iterator[Plan]:
        if not left:
            yield Plan.of(*units)
            return
        for name, behaviour in KINDS[left[0]].items():
            yield from longer((*units, (left[0], name)), () if behaviour.ends_the_startup else left[1:])

    return longer((), kinds)
