"""Whether a run starts an app: a list of rules, of which the first that matches decides.

A rule looks at a `Case` and returns a `Decision`, or None if it does not match. An app that no rule matches is started.
Rules read and do not log: `decide` logs what the deciding rule says.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Final, Protocol, final

from .._log import logger
from .._types import is_a
from .doors import Doorway, Progress
from .frameworks import LifespanPolicy
from .node import AppNode
from .objects import attribute_of_class
from .watch import Ownership


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """Why an app is not started.

    Attributes:
        reason: The reason, for the report and the command line.
        doubt: What a WARNING says of it, with the ways out; empty if nothing is in doubt.
        note: What is logged beyond that, at `level`; empty for nothing.
        level: The level of the note.
    """

    reason: str
    doubt: str = ""
    note: str = ""
    level: int = logging.DEBUG


class Case(Protocol):
    """What the rules may ask of one app; answers are computed when a rule asks.

    Attributes:
        node: The app.
    """

    @property
    def node(self) -> AppNode: ...

    def is_excluded(self) -> bool:
        """Return whether the app, or what it wraps, is never sent a lifespan."""
        ...

    def is_named(self) -> bool:
        """Return whether ``mounts=[...]`` names the app."""
        ...

    def is_unknown(self) -> bool:
        """Return whether the app is of a kind that is not in the table."""
        ...

    def is_known_to_run(self) -> bool:
        """Return whether the app starts or runs, as far as we started it or saw it."""
        ...

    def doorways(self) -> list[Doorway]:
        """Return the app's doors."""
        ...

    def begun(self) -> tuple[Ownership, FunctionType | None]:
        """Return what was seen of the generator that is the app's lifespan, and its function."""
        ...

    def is_part_of(self, function: FunctionType) -> bool:
        """Return whether a function holds a part of the app."""
        ...

    def ran_once(self) -> bool:
        """Return whether the app holds what can be run only once, and has been run."""
        ...

    def is_held_in_background(self) -> bool:
        """Return whether a background hook or a worker holds the app's lifespan function."""
        ...

    def may_expect_lifespan(self) -> bool:
        """Return whether code of the app mentions the lifespan, or the app wraps another one."""
        ...


Rule = Callable[[Case], Decision | None]

PARENT = "is started by its parent"
RUNS = "runs already"
EXCLUDED = "is excluded"
NOT_ASKED = "not asked: no mention of lifespan"


def excluded(case: Case) -> Decision | None:
    """``exclude=[...]`` names the app, or an app that it wraps."""
    return Decision(EXCLUDED) if case.is_excluded() else None


def named(case: Case) -> Decision | None:
    """``mounts=[...]`` names the app: it is always sent a lifespan, unless we started it already."""
    return Decision("") if case.is_named() and not case.is_known_to_run() else None


def runs_already(case: Case) -> Decision | None:
    """The app was started at another path, by a run inside or around this one, or by an app around it."""
    if not case.is_known_to_run():
        return None
    return Decision(RUNS, note=f"{case.node.label} runs already and is not started again")


def a_class(case: Case) -> Decision | None:
    """The app is a class, where an instance was meant; a class whose instances can be awaited is an app."""
    app, policy = case.node.app, case.node.policy
    if policy.sent is not LifespanPolicy.NEVER or not is_a(app, type) or attribute_of_class(app, "__await__"):
        return None
    name = type.__dict__["__name__"].__get__(app)
    note = f"{case.node.label} is the class {name}, expected an instance; mount {name}(...)"
    return Decision(f"is sent no lifespan: {policy.why}", note=note, level=logging.WARNING)


def never_sent(case: Case) -> Decision | None:
    """The table of frameworks says that the app takes no lifespan, or that its parent starts it."""
    policy = case.node.policy
    if policy.sent is LifespanPolicy.ALWAYS or policy.sent is LifespanPolicy.IF_NAMED:
        return None
    if case.node.parent is None and policy.sent is LifespanPolicy.AS_ROOT:
        return None
    why = f"is sent no lifespan: {policy.why}"
    return Decision(why, note=f"{case.node.label} {why}")


def sent_if_named(case: Case) -> Decision | None:
    """The table of frameworks says that the lifespan of the app does harm in another app."""
    policy = case.node.policy
    if case.node.parent is None or policy.sent is not LifespanPolicy.IF_NAMED:
        return None
    return Decision(policy.why, doubt=policy.why)


def entered_at_its_door(case: Case) -> Decision | None:
    """Code of a lifespan, of a hook, or of a task or thread of theirs entered the app's door and is inside."""
    if not any(doorway.runs() for doorway in case.doorways()):
        return None
    return Decision(PARENT, note=f"{case.node.label} is started by a lifespan around it, or a hook")


def failed_at_its_door(case: Case) -> Decision | None:
    """Code of a lifespan or a hook tried to start the app, which failed."""
    last = [doorway.last for doorway in case.doorways() if doorway.last is not None]
    if not any(start.progress is Progress.FAILED for start in last):
        return None
    return Decision(
        "its start failed in a lifespan around it, or a hook",
        doubt="its start failed in a lifespan around it, or a hook",
    )


def can_run_once(case: Case) -> Decision | None:
    """Code of a lifespan or a hook started and left an app that can be run only once."""
    if not case.ran_once():
        return None
    why = "it was run by a lifespan around it, or a hook, and can be run only once"
    return Decision("was run already, and can be run only once", doubt=why)


def begun_by_name(case: Case) -> Decision | None:
    """The app's lifespan function was called by a lifespan or a hook, past the door, and its generator runs."""
    found, function = case.begun()
    shares_a_part = found is Ownership.SHARED and function is not None and case.is_part_of(function)
    if found is not Ownership.BEGUN and not shares_a_part:
        return None
    return Decision(PARENT, note=f"{case.node.label} is started by a lifespan around it, or a hook")


def ended(case: Case) -> Decision | None:
    """The app's lifespan function was called by a lifespan or a hook, past the door, and its generator has ended."""
    if case.begun()[0] is not Ownership.OVER or any(doorway.last is not None for doorway in case.doorways()):
        return None
    why = "its lifespan began in a lifespan around it, or a hook, and has ended"
    return Decision("its lifespan has ended", doubt=why)


def shared(case: Case) -> Decision | None:
    """The app's lifespan function runs for an app around it: both have it, or the parent calls it with itself."""
    if case.begun()[0] is not Ownership.SHARED:
        return None
    why = "it has the same lifespan function as an app around it, which ran it for itself"
    return Decision("shares the lifespan of an app around it", doubt=why)


def held_in_background(case: Case) -> Decision | None:
    """A background hook or a worker holds the app's lifespan function, and may call it when nobody watches."""
    if not case.is_held_in_background():
        return None
    why = "a background hook or a worker holds its lifespan function, and may start it later"
    return Decision("may be started by a background hook or a worker", doubt=why)


def not_asked(case: Case) -> Decision | None:
    """The app is of a kind that is not in the table, wraps no app, and its code does not mention the lifespan."""
    if not case.is_unknown() or case.may_expect_lifespan():
        return None
    return Decision(NOT_ASKED, note=f"{case.node.label} is sent no lifespan: its code does not mention it")


RULES: Final[tuple[Rule, ...]] = (
    excluded,
    named,
    runs_already,
    a_class,
    never_sent,
    sent_if_named,
    entered_at_its_door,
    failed_at_its_door,
    can_run_once,
    begun_by_name,
    ended,
    shared,
    held_in_background,
    not_asked,
)
"""The rules for a mount."""

ROOT_RULES: Final[tuple[Rule, ...]] = (excluded, never_sent, runs_already, entered_at_its_door, begun_by_name)
"""The rules for the wrapped app, which is decided on when the hooks have started."""


def decide(case: Case, rules: tuple[Rule, ...]) -> bool:
    """Return whether the run starts an app; if not, its `reason` says why. What is in doubt is a WARNING."""
    node = case.node
    decision = next((found for rule in rules if (found := rule(case)) is not None), Decision(""))
    node.reason = decision.reason
    if decision.doubt:
        logger.warning(
            "%s is not started: %s. To start it anyway, list the app in mounts=[...]; to silence this warning, list it "
            "in exclude=[...]",
            node.label,
            decision.doubt,
        )
    if decision.note:
        logger.log(decision.level, "%s", decision.note)
    return not decision.reason
