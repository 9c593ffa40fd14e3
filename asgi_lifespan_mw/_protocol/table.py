r"""The rules of the lifespan protocol, as one table.

Rule 1: everything that decides what a step of an app means is in this file, and nothing here does I/O, waits, logs or
knows an event loop.

Rule 2: an app's lifespan is in exactly one *phase*. It changes only by a *step* of the app, and only as the table
says. Our own part, a timeout or a cancellation, ends a lifespan from outside and is no step.

Rule 3: the table is total. Every pair of a phase and a step has a row, the terminal phases too, so that no app can do
something that was not thought of.

Rule 4: a row says three things: the phase that follows, how serious the step is, and what comes of it. A strict
reading raises the seriousness of each departure from the protocol to a violation, and changes nothing else.

The phases::

    idle -> starting -> started -> stopping -> stopped
      \________|__________|__________|_________/
        unsupported (before it started), failed (at any time)

One row departs from the letter of the ASGI specification, which asks a server to go on without lifespan when an app
raises: an app that took the startup message and then raised has a startup that broke, and has *failed*. An app that
turns the scope away raises before it receives: that is *unsupported*, as the specification wants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast


class Phase(Enum):
    """Where one app's lifespan stands; the values read as "while ..."."""

    __hash__ = object.__hash__  # as good as an enum's own, which is slow, for keys of the table

    IDLE = "idle"
    """It was called, and has asked for nothing."""
    STARTING = "starting"
    """It has received ``lifespan.startup``."""
    STARTED = "started"
    """It has answered ``lifespan.startup.complete``."""
    STOPPING = "stopping"
    """It has received ``lifespan.shutdown``."""
    STOPPED = "stopped"
    """Nothing more is due from it."""
    UNSUPPORTED = "unsupported"
    """It turned the lifespan away."""
    FAILED = "failed"
    """It said that it failed, or raised."""


class Event(Enum):
    """What an app can do; the values read after its name."""

    __hash__ = object.__hash__

    RECEIVES = "called receive()"
    COMPLETES_STARTUP = "sent 'lifespan.startup.complete'"
    FAILS_STARTUP = "sent 'lifespan.startup.failed'"
    COMPLETES_SHUTDOWN = "sent 'lifespan.shutdown.complete'"
    FAILS_SHUTDOWN = "sent 'lifespan.shutdown.failed'"
    SENDS_OTHER = "sent what is no lifespan message"
    RETURNS = "returned"
    RAISES = "raised"


class Severity(Enum):
    """How serious a step is."""

    FINE = "fine"
    """As the protocol has it."""
    NOTE = "note"
    """A departure that harms nobody."""
    WARNING = "warning"
    """A departure that its author should know of."""
    VIOLATION = "violation"
    """A departure that ends the lifespan of the app, as failed."""


class Action(Enum):
    """What comes of a step, beside the new phase."""

    NOTHING = "nothing"
    GIVES_STARTUP = "is given 'lifespan.startup'"
    GIVES_SHUTDOWN = "is given 'lifespan.shutdown' when it is time"
    WAITS = "waits for the phase to change"
    CANCELS = "is cancelled"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: the phase that follows, how serious the step is, and what comes of it."""

    next_phase: Phase
    severity: Severity = Severity.FINE
    action: Action = Action.NOTHING


_IDLE, _STARTING, _STARTED, _STOPPING = Phase.IDLE, Phase.STARTING, Phase.STARTED, Phase.STOPPING
_STOPPED, _UNSUPPORTED, _FAILED = Phase.STOPPED, Phase.UNSUPPORTED, Phase.FAILED
_NOTE, _WARNING, _VIOLATION = Severity.NOTE, Severity.WARNING, Severity.VIOLATION

TABLE: Final[Mapping[Phase, Mapping[Event, Transition]]] = {
    Phase.IDLE: {
        Event.RECEIVES: Transition(_STARTING, action=Action.GIVES_STARTUP),
        Event.COMPLETES_STARTUP: Transition(_STARTED, _WARNING),
        Event.FAILS_STARTUP: Transition(_FAILED),
        Event.COMPLETES_SHUTDOWN: Transition(_FAILED, _VIOLATION),
        Event.FAILS_SHUTDOWN: Transition(_FAILED, _VIOLATION),
        Event.SENDS_OTHER: Transition(_UNSUPPORTED, _WARNING, Action.CANCELS),
        Event.RETURNS: Transition(_UNSUPPORTED),
        Event.RAISES: Transition(_UNSUPPORTED),
    },
    Phase.STARTING: {
        # Another task of the app may be about to answer.
        Event.RECEIVES: Transition(_STARTING, _NOTE, Action.WAITS),
        Event.COMPLETES_STARTUP: Transition(_STARTED),
        Event.FAILS_STARTUP: Transition(_FAILED),
        Event.COMPLETES_SHUTDOWN: Transition(_FAILED, _VIOLATION),
        Event.FAILS_SHUTDOWN: Transition(_FAILED, _VIOLATION),
        Event.SENDS_OTHER: Transition(_UNSUPPORTED, _WARNING, Action.CANCELS),
        Event.RETURNS: Transition(_UNSUPPORTED, _WARNING),
        Event.RAISES: Transition(_FAILED),
    },
    Phase.STARTED: {
        Event.RECEIVES: Transition(_STOPPING, action=Action.GIVES_SHUTDOWN),
        Event.COMPLETES_STARTUP: Transition(_STARTED, _WARNING),
        Event.FAILS_STARTUP: Transition(_FAILED),
        Event.COMPLETES_SHUTDOWN: Transition(_STARTED, _WARNING),
        Event.FAILS_SHUTDOWN: Transition(_FAILED),
        Event.SENDS_OTHER: Transition(_STARTED, _WARNING),
        Event.RETURNS: Transition(_STOPPED, _NOTE),
        Event.RAISES: Transition(_FAILED),
    },
    Phase.STOPPING: {
        Event.RECEIVES: Transition(_STOPPING, _NOTE, Action.WAITS),
        Event.COMPLETES_STARTUP: Transition(_STOPPING, _WARNING),
        Event.FAILS_STARTUP: Transition(_STOPPING, _WARNING),
        Event.COMPLETES_SHUTDOWN: Transition(_STOPPED),
        Event.FAILS_SHUTDOWN: Transition(_FAILED),
        Event.SENDS_OTHER: Transition(_STOPPING, _WARNING),
        Event.RETURNS: Transition(_STOPPED, _NOTE),
        Event.RAISES: Transition(_FAILED),
    },
    Phase.STOPPED: {
        Event.RECEIVES: Transition(_STOPPED, _NOTE, Action.CANCELS),
        Event.COMPLETES_STARTUP: Transition(_STOPPED, _WARNING),
        Event.FAILS_STARTUP: Transition(_STOPPED, _WARNING),
        Event.COMPLETES_SHUTDOWN: Transition(_STOPPED, _WARNING),
        Event.FAILS_SHUTDOWN: Transition(_STOPPED, _WARNING),
        Event.SENDS_OTHER: Transition(_STOPPED, _WARNING),
        Event.RETURNS: Transition(_STOPPED),
        Event.RAISES: Transition(_FAILED),
    },
    # Nothing comes of what an app does after it turned the lifespan away or failed: it only has to end.
    **{
        over: {
            Event.RECEIVES: Transition(over, action=Action.CANCELS),
            Event.COMPLETES_STARTUP: Transition(over),
            Event.FAILS_STARTUP: Transition(over),
            Event.COMPLETES_SHUTDOWN: Transition(over),
            Event.FAILS_SHUTDOWN: Transition(over),
            Event.SENDS_OTHER: Transition(over),
            Event.RETURNS: Transition(over),
            Event.RAISES: Transition(over),
        }
        for over in (_UNSUPPORTED, _FAILED)
    },
}

EXPECTED: Final[Mapping[Phase, str]] = {
    Phase.IDLE: "a call of receive(), which gives 'lifespan.startup'",
    Phase.STARTING: "'lifespan.startup.complete' or 'lifespan.startup.failed'",
    Phase.STARTED: "a call of receive(), which gives 'lifespan.shutdown' when it is time",
    Phase.STOPPING: "'lifespan.shutdown.complete' or 'lifespan.shutdown.failed'",
    Phase.STOPPED: "a return",
    Phase.UNSUPPORTED: "a return",
    Phase.FAILED: "a return, or the exception behind the failure",
}
"""What would have been right, by phase; for messages."""

_MESSAGES: Final[Mapping[object, Event]] = {
    "lifespan.startup.complete": Event.COMPLETES_STARTUP,
    "lifespan.startup.failed": Event.FAILS_STARTUP,
    "lifespan.shutdown.complete": Event.COMPLETES_SHUTDOWN,
    "lifespan.shutdown.failed": Event.FAILS_SHUTDOWN,
}


def event_of(message: object) -> Event:
    """The step that an app takes by sending `message`, which may be anything at all."""
    kind = entry_of(message, "type")
    return _MESSAGES.get(kind, Event.SENDS_OTHER) if isinstance(kind, str) else Event.SENDS_OTHER


def entry_of(message: object, key: str) -> object:
    """One entry of a message that an app sent; None where there is none, or where it is no message."""
    return cast("Mapping[object, object]", message).get(key) if isinstance(message, Mapping) else None


def advance(phase: Phase, step: Event, *, strict: bool = False) -> Transition:
    """What `step` means in `phase`.

    Args:
        phase: where the lifespan stands.
        step: what the app does.
        strict: read every departure from the protocol as a violation.

    Returns:
        The row of the table; a violation always leads to `Phase.FAILED`.
    """
    transition = TABLE[phase][step]
    if strict and transition.severity is not Severity.FINE:
        return Transition(Phase.FAILED, Severity.VIOLATION)
    return transition
