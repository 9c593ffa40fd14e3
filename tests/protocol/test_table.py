"""The table of the protocol, against the promises as they are written down."""

from itertools import product

import pytest

from asgi_lifespan_mw._protocol.table import (
    EXPECTED,
    TABLE,
    Action,
    Event,
    Phase,
    Severity,
    Transition,
    advance,
    event_of,
)

SENDS = {
    Event.COMPLETES_STARTUP,
    Event.FAILS_STARTUP,
    Event.COMPLETES_SHUTDOWN,
    Event.FAILS_SHUTDOWN,
    Event.SENDS_OTHER,
}
STARTUP_ANSWERS = {Event.COMPLETES_STARTUP, Event.FAILS_STARTUP}
SHUTDOWN_ANSWERS = {Event.COMPLETES_SHUTDOWN, Event.FAILS_SHUTDOWN}
BEFORE_START = {Phase.IDLE, Phase.STARTING}

# The promises in the order in which they are made: phases, steps, the phase that follows (None: the same), severity,
# outcome. Each pair of a phase and a step is promised exactly once.
PROMISES: list[tuple[set[Phase], set[Event], Phase | None, str, Action]] = [
    ({Phase.IDLE}, {Event.RECEIVES}, Phase.STARTING, "fine", Action.GIVES_STARTUP),
    ({Phase.IDLE}, {Event.RAISES, Event.RETURNS}, Phase.UNSUPPORTED, "fine", Action.NOTHING),
    ({Phase.IDLE}, {Event.COMPLETES_STARTUP}, Phase.STARTED, "warning", Action.NOTHING),
    (BEFORE_START, {Event.SENDS_OTHER}, Phase.UNSUPPORTED, "warning", Action.CANCELS),
    (BEFORE_START, SHUTDOWN_ANSWERS, Phase.FAILED, "violation", Action.NOTHING),
    (BEFORE_START, {Event.FAILS_STARTUP}, Phase.FAILED, "fine", Action.NOTHING),
    ({Phase.STARTING}, {Event.COMPLETES_STARTUP}, Phase.STARTED, "fine", Action.NOTHING),
    ({Phase.STARTING}, {Event.RAISES}, Phase.FAILED, "fine", Action.NOTHING),
    ({Phase.STARTING}, {Event.RETURNS}, Phase.UNSUPPORTED, "warning", Action.NOTHING),
    ({Phase.STARTING, Phase.STOPPING}, {Event.RECEIVES}, None, "note", Action.WAITS),
    ({Phase.STARTED}, {Event.RECEIVES}, Phase.STOPPING, "fine", Action.GIVES_SHUTDOWN),
    ({Phase.STARTED}, {Event.RETURNS}, Phase.STOPPED, "note", Action.NOTHING),
    ({Phase.STARTED}, {Event.RAISES, Event.FAILS_STARTUP, Event.FAILS_SHUTDOWN}, Phase.FAILED, "fine", Action.NOTHING),
    ({Phase.STARTED}, {Event.COMPLETES_STARTUP, Event.COMPLETES_SHUTDOWN}, None, "warning", Action.NOTHING),
    ({Phase.STOPPING}, {Event.COMPLETES_SHUTDOWN}, Phase.STOPPED, "fine", Action.NOTHING),
    ({Phase.STOPPING}, {Event.RETURNS}, Phase.STOPPED, "note", Action.NOTHING),
    ({Phase.STOPPING}, {Event.FAILS_SHUTDOWN, Event.RAISES}, Phase.FAILED, "fine", Action.NOTHING),
    ({Phase.STOPPED}, {Event.RECEIVES}, None, "note", Action.CANCELS),
    ({Phase.STOPPED}, SENDS, None, "warning", Action.NOTHING),
    ({Phase.STOPPED}, {Event.RAISES}, Phase.FAILED, "fine", Action.NOTHING),
    ({Phase.STOPPED}, {Event.RETURNS}, None, "fine", Action.NOTHING),
    ({Phase.STARTED, Phase.STOPPING}, {Event.SENDS_OTHER}, None, "warning", Action.NOTHING),
    ({Phase.STOPPING}, STARTUP_ANSWERS, None, "warning", Action.NOTHING),
    ({Phase.UNSUPPORTED, Phase.FAILED}, {Event.RECEIVES}, None, "fine", Action.CANCELS),
    ({Phase.UNSUPPORTED, Phase.FAILED}, {*SENDS, Event.RETURNS, Event.RAISES}, None, "fine", Action.NOTHING),
]

CASES = [
    pytest.param(phase, step, then or phase, severity, outcome, id=f"{phase.value}-{step.name.lower()}")
    for phases, steps, then, severity, outcome in PROMISES
    for phase, step in product(sorted(phases, key=str), sorted(steps, key=str))  # in one order in all processes
]


@pytest.mark.parametrize(("phase", "step", "next_phase", "severity", "action"), CASES)
def test_each_step_means_what_is_promised(
    phase: Phase, step: Event, next_phase: Phase, severity: str, action: Action
) -> None:
    """Each row of the table is the one that was promised."""
    assert advance(phase, step) == Transition(next_phase, Severity(severity), action)


def test_every_step_in_every_phase_is_promised_once() -> None:
    """The promises are total and do not overlap, and the table has no row beside them."""
    promised = [(case.values[0], case.values[1]) for case in CASES]
    assert len(promised) == len(set(promised)) == len(Phase) * len(Event)
    assert {(phase, step) for phase, rules in TABLE.items() for step in rules} == set(promised)


@pytest.mark.parametrize(("phase", "step"), [*product(Phase, Event)], ids=str)
def test_strict_raises_the_severity_and_nothing_else(phase: Phase, step: Event) -> None:
    """A strict reading makes each departure a violation, and leaves what is fine as it is."""
    plain, strict = advance(phase, step), advance(phase, step, strict=True)
    if plain.severity is Severity.FINE:
        assert strict == plain
    else:
        assert strict.severity is Severity.VIOLATION


@pytest.mark.parametrize(("phase", "step", "strict"), [*product(Phase, Event, [False, True])], ids=str)
def test_a_violation_always_fails(phase: Phase, step: Event, strict: bool) -> None:
    """A violation leads to the failed phase, whatever led to it."""
    transition = advance(phase, step, strict=strict)
    assert transition.severity is not Severity.VIOLATION or transition.next_phase is Phase.FAILED


@pytest.mark.parametrize("phase", [*Phase], ids=str)
def test_what_is_expected_can_be_told_in_every_phase(phase: Phase) -> None:
    """A message about a departure can always say what would have been right."""
    assert EXPECTED[phase]


@pytest.mark.parametrize(
    ("message", "step"),
    [
        ({"type": "lifespan.startup.complete"}, Event.COMPLETES_STARTUP),
        ({"type": "lifespan.startup.failed", "message": "no"}, Event.FAILS_STARTUP),
        ({"type": "lifespan.shutdown.complete"}, Event.COMPLETES_SHUTDOWN),
        ({"type": "lifespan.shutdown.failed"}, Event.FAILS_SHUTDOWN),
        ({"type": "http.response.start"}, Event.SENDS_OTHER),
        ({"type": ["unhashable"]}, Event.SENDS_OTHER),
        ({}, Event.SENDS_OTHER),
        (None, Event.SENDS_OTHER),
        ("lifespan.startup.complete", Event.SENDS_OTHER),
    ],
    ids=str,
)
def test_anything_that_is_sent_is_a_step(message: object, step: Event) -> None:
    """What an app sends is read without an error, whatever it is."""
    assert event_of(message) is step
