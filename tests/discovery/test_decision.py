"""The rules that decide whether an app is started: the first that matches wins."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from asgi_lifespan_mw._apps import decision
from asgi_lifespan_mw._apps.decision import ROOT_RULES, RULES, Rule, decide
from asgi_lifespan_mw._apps.doors import Doorway, Progress, Start
from asgi_lifespan_mw._apps.frameworks import ContainerSpec, LifespanPolicy
from asgi_lifespan_mw._apps.node import AppNode
from asgi_lifespan_mw._apps.watch import Ownership, Watch
from tests.usages import recorded

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference.md"


def _mount() -> AppNode:
    return AppNode(recorded([], "sub"), "/sub", "mount '/sub'", AppNode(recorded([], "app")), is_mount=True)


@dataclass
class Told:
    """A case whose answers are given."""

    node: AppNode = field(default_factory=_mount)
    excluded: bool = False
    named: bool = False
    known: bool = False
    unknown: bool = False
    doors: list[Doorway] = field(default_factory=list[Doorway])
    generator: Ownership = Ownership.NOT_BEGUN
    part: bool = False
    once: bool = False
    held: bool = False
    expects: bool = True

    def is_excluded(self) -> bool:
        return self.excluded

    def is_named(self) -> bool:
        return self.named

    def is_known_to_run(self) -> bool:
        return self.known

    def is_unknown(self) -> bool:
        return self.unknown

    def doorways(self) -> list[Doorway]:
        return self.doors

    def begun(self) -> tuple[Ownership, FunctionType | None]:
        assert isinstance(_mount, FunctionType)
        return self.generator, _mount

    def is_part_of(self, function: FunctionType) -> bool:
        assert function is _mount
        return self.part

    def ran_once(self) -> bool:
        return self.once

    def is_held_in_background(self) -> bool:
        return self.held

    def may_expect_lifespan(self) -> bool:
        return self.expects


def _door(progress: Progress) -> Doorway:
    doorway = Doorway(_mount(), Watch())
    start = Start(None)
    start.progress = progress
    if progress is Progress.STARTED:
        doorway.first = start
    else:
        doorway.last = start
    return doorway


def _with(sent: LifespanPolicy, app: Any = None) -> AppNode:
    node = _mount()
    node.policy = ContainerSpec("", "why not", sent=sent)
    node.app = node.app if app is None else app
    return node


class Service:
    """A class that was mounted."""


CASES: list[tuple[Told, Rule | None]] = [
    (Told(), None),
    (Told(excluded=True, named=True), decision.excluded),
    (Told(named=True, doors=[_door(Progress.STARTED)]), decision.named),
    (Told(named=True, known=True), decision.runs_already),
    (Told(known=True), decision.runs_already),
    (Told(_with(LifespanPolicy.NEVER, Service)), decision.a_class),
    (Told(_with(LifespanPolicy.NEVER)), decision.never_sent),
    (Told(_with(LifespanPolicy.AS_ROOT)), decision.never_sent),
    (Told(_with(LifespanPolicy.IF_NAMED)), decision.sent_if_named),
    (Told(doors=[_door(Progress.STARTED)]), decision.entered_at_its_door),
    (Told(doors=[_door(Progress.FAILED)]), decision.failed_at_its_door),
    (Told(doors=[_door(Progress.LEFT)]), None),
    (Told(doors=[_door(Progress.LEFT)], generator=Ownership.OVER), None),
    (Told(once=True), decision.can_run_once),
    (Told(generator=Ownership.BEGUN), decision.begun_by_name),
    (Told(generator=Ownership.SHARED, part=True), decision.begun_by_name),
    (Told(generator=Ownership.OVER), decision.ended),
    (Told(generator=Ownership.SHARED), decision.shared),
    (Told(held=True), decision.held_in_background),
    (Told(unknown=True, expects=False), decision.not_asked),
    (Told(unknown=True), None),
]


@pytest.mark.parametrize(("case", "rule"), CASES)
def test_the_first_rule_that_matches_decides(case: Told, rule: Rule | None) -> None:
    """Each rule, and what it comes before; the reason is that of the rule."""
    is_ours = decide(case, RULES)
    found = None if rule is None else rule(case)
    assert case.node.reason == ("" if found is None else found.reason)
    assert is_ours == (not case.node.reason)


def test_each_rule_has_a_case() -> None:
    """And each matches in one of them."""
    assert {rule for _, rule in CASES} - {None} == set(RULES)
    assert set(ROOT_RULES) <= set(RULES)


def test_the_wrapped_app_may_be_of_a_kind_that_only_its_parent_starts() -> None:
    """Gradio's app is sent a lifespan where it is the wrapped app."""
    node = _with(LifespanPolicy.AS_ROOT)
    node.parent = None
    assert decide(Told(node), ROOT_RULES)


def reasons() -> str:
    """Return the table of the reference, which is made of the rules."""
    lines = ["| reason | when | WARNING |", "|---|---|---|"]
    for rule in RULES:
        for case, of in CASES:
            found = rule(case) if of is rule else None
            if found is not None and found.reason:
                when = (inspect.getdoc(rule) or "").replace("``", "`").replace("\n", " ")
                is_warned = "yes" if found.doubt or rule is decision.a_class else ""
                reason = found.reason.replace("why not", "...")
                lines.append(f"| {reason} | {when} | {is_warned} |")
                break
    return "\n".join(lines)


def test_the_reference_has_every_reason() -> None:
    """In the order of the rules."""
    assert f"<!-- table: reasons -->\n{reasons()}\n<!-- end -->" in REFERENCE.read_text(encoding="utf-8")
