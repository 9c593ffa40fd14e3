"""The table of the protocol, against the promises as they are written down."""

from itertools import product

import pytest

from asgi_lifespan_mw._protocol.table import EXPECTED, TABLE, Outcome, Phase, Rule, Severity, Step, advance, step_of

SENDS = {
    Step.COMPLETES_STARTUP,
    Step.FAILS_STARTUP,
    Step.COMPLETES_SHUTDOWN,
    Step.FAILS_SHUTDOWN,
    Step.SENDS_OTHER,
}
STARTUP_ANSWERS = {Step.COMPLETES_STARTUP, Step.FAILS_STARTUP}
SHUTDOWN_ANSWERS = {Step.COMPLETES_SHUTDOWN, Step.FAILS_SHUTDOWN}
BEFORE_START = {Phase.IDLE, Phase.STARTING}

# The promises in the order in which they are made: phases, steps, the phase that follows (None: the same), severity,
# outcome. Each pair of a phase and a step is promised exactly once.
PROMISES: list[tuple[set[Phase], set[Step], Phase | None, str, Outcome]] = [
    ({Phase.IDLE}, {Step.RECEIVES}, Phase.STARTING, "fine", Outcome.GIVES_STARTUP),
    ({Phase.IDLE}, {Step.RAISES, Step.RETURNS}, Phase.UNSUPPORTED, "fine", Outcome.NOTHING),
    ({Phase.IDLE}, {Step.COMPLETES_STARTUP}, Phase.STARTED, "warning", Outcome.NOTHING),
    (BEFORE_START, {Step.SENDS_OTHER}, Phase.UNSUPPORTED, "warning", Outcome.CANCELS),
    (BEFORE_START, SHUTDOWN_ANSWERS, Phase.FAILED, "violation", Outcome.NOTHING),
    (BEFORE_START, {Step.FAILS_STARTUP}, Phase.FAILED, "fine", Outcome.NOTHING),
    ({Phase.STARTING}, {Step.COMPLETES_STARTUP}, Phase.STARTED, "fine", Outcome.NOTHING),
    ({Phase.STARTING}, {Step.RAISES}, Phase.FAILED, "fine", Outcome.NOTHING),
    ({Phase.STARTING}, {Step.RETURNS}, Phase.UNSUPPORTED, "warning", Outcome.NOTHING),
    ({Phase.STARTING, Phase.STOPPING}, {Step.RECEIVES}, None, "note", Outcome.WAITS),
    ({Phase.STARTED}, {Step.RECEIVES}, Phase.STOPPING, "fine", Outcome.GIVES_SHUTDOWN),
    ({Phase.STARTED}, {Step.RETURNS}, Phase.STOPPED, "note", Outcome.NOTHING),
    ({Phase.STARTED}, {Step.RAISES, Step.FAILS_STARTUP, Step.FAILS_SHUTDOWN}, Phase.FAILED, "fine", Outcome.NOTHING),
    ({Phase.STARTED}, {Step.COMPLETES_STARTUP, Step.COMPLETES_SHUTDOWN}, None, "warning", Outcome.NOTHING),
    ({Phase.STOPPING}, {Step.COMPLETES_SHUTDOWN}, Phase.STOPPED, "fine", Outcome.NOTHING),
    ({Phase.STOPPING}, {Step.RETURNS}, Phase.STOPPED, "note", Outcome.NOTHING),
    ({Phase.STOPPING}, {Step.FAILS_SHUTDOWN, Step.RAISES}, Phase.FAILED, "fine", Outcome.NOTHING),
    ({Phase.STOPPED}, {Step.RECEIVES}, None, "note", Outcome.CANCELS),
    ({Phase.STOPPED}, SENDS, None, "warning", Outcome.NOTHING),
    ({Phase.STOPPED}, {Step.RAISES}, Phase.FAILED, "fine", Outcome.NOTHING),
    ({Phase.STOPPED}, {Step.RETURNS}, None, "fine", Outcome.NOTHING),
    ({Phase.STARTED, Phase.STOPPING}, {Step.SENDS_OTHER}, None, "warning", Outcome.NOTHING),
    ({Phase.STOPPING}, STARTUP_ANSWERS, None, "warning", Outcome.NOTHING),
    ({Phase.UNSUPPORTED, Phase.FAILED}, {Step.RECEIVES}, None, "fine", Outcome.CANCELS),
    ({Phase.UNSUPPORTED, Phase.FAILED}, {*SENDS, Step.RETURNS, Step.RAISES}, None, "fine", Outcome.NOTHING),
]

CASES = [
    pytest.param(phase, step, then or phase, severity, outcome, id=f"{phase.value}-{step.name.lower()}")
    for phases, steps, then, severity, outcome in PROMISES
    for phase, step in product(phases, steps)
]


@pytest.mark.parametrize(("phase", "step", "then", "severity", "outcome"), CASES)
def test_each_step_means_what_is_promised(
    phase: Phase, step: Step, then: Phase, severity: str, outcome: Outcome
) -> None:
    """Each row of the table is the one that was promised."""
    assert advance(phase, step) == Rule(then, Severity(severity), outcome)


def test_every_step_in_every_phase_is_promised_once() -> None:
    """The promises are total and do not overlap, and the table has no row beside them."""
    promised = [(case.values[0], case.values[1]) for case in CASES]
    assert len(promised) == len(set(promised)) == len(Phase) * len(Step)
    assert {(phase, step) for phase, rules in TABLE.items() for step in rules} == set(promised)


@pytest.mark.parametrize(("phase", "step"), [*product(Phase, Step)], ids=str)
def test_strict_raises_the_severity_and_nothing_else(phase: Phase, step: Step) -> None:
    """A strict reading makes each departure a violation, and leaves what is fine as it is."""
    plain, strict = advance(phase, step), advance(phase, step, strict=True)
    if plain.severity is Severity.FINE:
        assert strict == plain
    else:
        assert strict.severity is Severity.VIOLATION


@pytest.mark.parametrize(("phase", "step", "strict"), [*product(Phase, Step, [False, True])], ids=str)
def test_a_violation_always_fails(phase: Phase, step: Step, strict: bool) -> None:
    """A violation leads to the failed phase, whatever led to it."""
    rule = advance(phase, step, strict=strict)
    assert rule.severity is not Severity.VIOLATION or rule.then is Phase.FAILED


@pytest.mark.parametrize("phase", [*Phase], ids=str)
def test_what_is_expected_can_be_told_in_every_phase(phase: Phase) -> None:
    """A message about a departure can always say what would have been right."""
    assert EXPECTED[phase]


@pytest.mark.parametrize(
    ("message", "step"),
    [
        ({"type": "lifespan.startup.complete"}, Step.COMPLETES_STARTUP),
        ({"type": "lifespan.startup.failed", "message": "no"}, Step.FAILS_STARTUP),
        ({"type": "lifespan.shutdown.complete"}, Step.COMPLETES_SHUTDOWN),
        ({"type": "lifespan.shutdown.failed"}, Step.FAILS_SHUTDOWN),
        ({"type": "http.response.start"}, Step.SENDS_OTHER),
        ({"type": ["unhashable"]}, Step.SENDS_OTHER),
        ({}, Step.SENDS_OTHER),
        (None, Step.SENDS_OTHER),
        ("lifespan.startup.complete", Step.SENDS_OTHER),
    ],
    ids=str,
)
def test_anything_that_is_sent_is_a_step(message: object, step: Step) -> None:
    """What an app sends is read without an error, whatever it is."""
    assert step_of(message) is step
