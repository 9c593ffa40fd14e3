r"""The rules of the lifespan protocol, as one table.

Rule 1: This module decides what each event of an app means. It does no I/O, does not wait, does not log, and knows no
event loop.

Rule 2: An app's lifespan is in exactly one *phase*. Only an *event* of the app changes the phase, and only as the table
says. A timeout or a cancellation by this package ends a lifespan from outside and is not an event.

Rule 3: The table is total: every pair of a phase and an event has a row, in the terminal phases too.

Rule 4: A row has the next phase, the severity of the event, and the action that follows. A strict session treats each
deviation from the protocol as a violation, and changes nothing else.

The phases::

    idle -> starting -> started -> stopping -> stopped
      \________|__________|__________|_________/
        unsupported (before it started), failed (at any time)

One row differs from the ASGI specification, by which a server continues without lifespan if an app raises. An app that
has received the startup event and then raises has *failed*: its startup is broken. An app that does not support the
lifespan protocol raises before it receives, and is *unsupported*, as in the specification.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, cast


class Phase(Enum):
    """The phases of one app's lifespan; in messages their values follow "while"."""

    __hash__ = object.__hash__  # the hash of an enum is slow

    IDLE = "idle"
    """The app was called, and has received nothing."""
    STARTING = "starting"
    """The app has received ``lifespan.startup``."""
    STARTED = "started"
    """The app has sent ``lifespan.startup.complete``."""
    STOPPING = "stopping"
    """The app has received ``lifespan.shutdown``."""
    STOPPED = "stopped"
    """The app has sent ``lifespan.shutdown.complete``, or has returned."""
    UNSUPPORTED = "unsupported"
    """The app does not support the lifespan protocol."""
    FAILED = "failed"
    """The app has sent that it failed, or has raised."""


class Event(Enum):
    """The events of an app; in messages their values follow the app's name."""

    __hash__ = object.__hash__

    RECEIVES = "called receive()"
    COMPLETES_STARTUP = "sent 'lifespan.startup.complete'"
    FAILS_STARTUP = "sent 'lifespan.startup.failed'"
    COMPLETES_SHUTDOWN = "sent 'lifespan.shutdown.complete'"
    FAILS_SHUTDOWN = "sent 'lifespan.shutdown.failed'"
    SENDS_OTHER = "sent a message that is not a lifespan message"
    RETURNS = "returned"
    RAISES = "raised"


class Severity(Enum):
    """How serious an event is."""

    FINE = "fine"
    """The event follows the protocol."""
    NOTE = "note"
    """A deviation without consequences."""
    WARNING = "warning"
    """A deviation that the author of the app should fix."""
    VIOLATION = "violation"
    """A deviation that fails the app."""


class Action(Enum):
    """The consequence of an event, besides the next phase."""

    NOTHING = "nothing"
    GIVES_STARTUP = "is given 'lifespan.startup'"
    GIVES_SHUTDOWN = "is given 'lifespan.shutdown' when it is time"
    WAITS = "waits for the phase to change"
    CANCELS = "is cancelled"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table."""

    next_phase: Phase
    severity: Severity = Severity.FINE
    action: Action = Action.NOTHING


TABLE: Final[Mapping[Phase, Mapping[Event, Transition]]] = {
    Phase.IDLE: {
        Event.RECEIVES: Transition(Phase.STARTING, action=Action.GIVES_STARTUP),
        Event.COMPLETES_STARTUP: Transition(Phase.STARTED, Severity.WARNING),
        Event.FAILS_STARTUP: Transition(Phase.FAILED),
        Event.COMPLETES_SHUTDOWN: Transition(Phase.FAILED, Severity.VIOLATION),
        Event.FAILS_SHUTDOWN: Transition(Phase.FAILED, Severity.VIOLATION),
        Event.SENDS_OTHER: Transition(Phase.UNSUPPORTED, Severity.WARNING, Action.CANCELS),
        Event.RETURNS: Transition(Phase.UNSUPPORTED),
        Event.RAISES: Transition(Phase.UNSUPPORTED),
    },
    Phase.STARTING: {
        # A framework that receives in one task and answers in another may receive again first.
        Event.RECEIVES: Transition(Phase.STARTING, Severity.NOTE, Action.WAITS),
        Event.COMPLETES_STARTUP: Transition(Phase.STARTED),
        Event.FAILS_STARTUP: Transition(Phase.FAILED),
        Event.COMPLETES_SHUTDOWN: Transition(Phase.FAILED, Severity.VIOLATION),
        Event.FAILS_SHUTDOWN: Transition(Phase.FAILED, Severity.VIOLATION),
        Event.SENDS_OTHER: Transition(Phase.UNSUPPORTED, Severity.WARNING, Action.CANCELS),
        Event.RETURNS: Transition(Phase.UNSUPPORTED, Severity.WARNING),
        Event.RAISES: Transition(Phase.FAILED),
    },
    Phase.STARTED: {
        Event.RECEIVES: Transition(Phase.STOPPING, action=Action.GIVES_SHUTDOWN),
        Event.COMPLETES_STARTUP: Transition(Phase.STARTED, Severity.WARNING),
        Event.FAILS_STARTUP: Transition(Phase.FAILED),
        Event.COMPLETES_SHUTDOWN: Transition(Phase.STARTED, Severity.WARNING),
        Event.FAILS_SHUTDOWN: Transition(Phase.FAILED),
        Event.SENDS_OTHER: Transition(Phase.STARTED, Severity.WARNING),
        Event.RETURNS: Transition(Phase.STOPPED, Severity.NOTE),
        Event.RAISES: Transition(Phase.FAILED),
    },
    Phase.STOPPING: {
        Event.RECEIVES: Transition(Phase.STOPPING, Severity.NOTE, Action.WAITS),
        Event.COMPLETES_STARTUP: Transition(Phase.STOPPING, Severity.WARNING),
        Event.FAILS_STARTUP: Transition(Phase.STOPPING, Severity.WARNING),
        Event.COMPLETES_SHUTDOWN: Transition(Phase.STOPPED),
        Event.FAILS_SHUTDOWN: Transition(Phase.FAILED),
        Event.SENDS_OTHER: Transition(Phase.STOPPING, Severity.WARNING),
        Event.RETURNS: Transition(Phase.STOPPED, Severity.NOTE),
        Event.RAISES: Transition(Phase.FAILED),
    },
    Phase.STOPPED: {
        Event.RECEIVES: Transition(Phase.STOPPED, Severity.NOTE, Action.CANCELS),
        Event.COMPLETES_STARTUP: Transition(Phase.STOPPED, Severity.WARNING),
        Event.FAILS_STARTUP: Transition(Phase.STOPPED, Severity.WARNING),
        Event.COMPLETES_SHUTDOWN: Transition(Phase.STOPPED, Severity.WARNING),
        Event.FAILS_SHUTDOWN: Transition(Phase.STOPPED, Severity.WARNING),
        Event.SENDS_OTHER: Transition(Phase.STOPPED, Severity.WARNING),
        Event.RETURNS: Transition(Phase.STOPPED),
        Event.RAISES: Transition(Phase.FAILED),
    },
    # The events of an app that is unsupported or has failed are ignored until it returns.
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
        for over in (Phase.UNSUPPORTED, Phase.FAILED)
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
"""The event that the protocol expects of an app, by phase; for messages."""

_MESSAGES: Final[Mapping[object, Event]] = {
    "lifespan.startup.complete": Event.COMPLETES_STARTUP,
    "lifespan.startup.failed": Event.FAILS_STARTUP,
    "lifespan.shutdown.complete": Event.COMPLETES_SHUTDOWN,
    "lifespan.shutdown.failed": Event.FAILS_SHUTDOWN,
}


def event_of(message: object) -> Event:
    """Return the event of an app that sends `message`, which may be any object."""
    kind = entry_of(message, "type")
    return _MESSAGES.get(kind, Event.SENDS_OTHER) if isinstance(kind, str) else Event.SENDS_OTHER


def entry_of(message: object, key: str) -> object:
    """Return an entry of a message; None if there is none, or if `message` is not a mapping."""
    return cast("Mapping[object, object]", message).get(key) if isinstance(message, Mapping) else None


def advance(phase: Phase, event: Event, *, strict: bool = False) -> Transition:
    """Return what `event` means in `phase`.

    Args:
        phase: The phase of the app's lifespan.
        event: The event of the app.
        strict: Whether every deviation from the protocol is a violation.

    Returns:
        The row of the table. A violation always leads to `Phase.FAILED`.
    """
    transition = TABLE[phase][event]
    if strict and transition.severity is not Severity.FINE:
        return Transition(Phase.FAILED, Severity.VIOLATION)
    return transition
