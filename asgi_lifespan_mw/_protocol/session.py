"""One app through one lifespan: the side of the conversation that a server has.

The table in `_protocol` decides what each step of the app means; here it is carried out.
"""

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import assert_never, final

import anyio

from .._exceptions import ProtocolViolation, ShutdownFailed, StartupFailed
from .._log import logger
from .._types import SHUTDOWN, STARTUP, ASGIApp, Scope
from .._units.unit import Unit
from .table import EXPECTED, Action, Event, Phase, Severity, Transition, advance, entry_of, event_of

_LEVELS = {Severity.NOTE: logging.DEBUG, Severity.WARNING: logging.WARNING}


def _log(severity: Severity, departure: ProtocolViolation) -> None:
    logger.log(_LEVELS[severity], "%s", departure)


on_departure: ContextVar[Callable[[Severity, ProtocolViolation], None]] = ContextVar(
    "asgi_lifespan_mw_on_departure", default=_log
)
"""What is done about a departure that is tolerated, in the sessions that begin in a context: it is logged."""


@final
class Session:
    """Drives one app through one lifespan; its `live` is the body of a unit.

    Follows the ASGI specification, "Lifespan Protocol", but for the row that `_protocol` names.

    Attributes:
        phase: where the app's lifespan stands, by its own steps. One that is ended by us, by a time limit or a
            cancellation, keeps its phase.
        refusal: the exception with which the app turned the lifespan away; None if it did not, or just returned.
    """

    __slots__ = ("_app", "_moved", "_on_departure", "_scope", "_strict", "_unit", "phase", "refusal")

    def __init__(self, app: ASGIApp, scope: Scope, *, strict: bool = False) -> None:
        self.phase = Phase.IDLE
        self.refusal: Exception | None = None
        self._app = app
        self._scope = scope
        self._strict = strict
        self._moved: anyio.Event | None = None
        self._on_departure = on_departure.get()

    async def live(self, unit: Unit) -> None:
        """Call the app and see it through.

        Raises:
            Exception: what the app raised, unless it turned the lifespan away by it.
            ProtocolViolation: the app returned where it must not, in a strict session.
        """
        self._unit = unit
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:
            self._take(Event.RAISES)
            if self.phase is not Phase.UNSUPPORTED:
                raise
            self.refusal = error
        else:
            self._take(Event.RETURNS)

    def refuse(self) -> None:
        """Let the app raise as if it had not received the startup: a middleware in it received it for an inner app."""
        self.phase = Phase.IDLE

    async def _receive(self) -> object:
        while True:
            if self.phase is Phase.STARTED:
                await self._unit.wait_for_stop()
            action = self._take(Event.RECEIVES).action
            match action:
                case Action.GIVES_STARTUP:
                    return STARTUP.copy()
                case Action.GIVES_SHUTDOWN:
                    return SHUTDOWN.copy()
                case Action.CANCELS:
                    self._unit.cancel()
                    await anyio.sleep_forever()
                case Action.WAITS | Action.NOTHING:
                    self._moved = self._moved or anyio.Event()
                    await self._moved.wait()
                case _:  # pragma: no cover
                    assert_never(action)

    async def _send(self, message: object) -> None:
        step = event_of(message)
        before = self.phase
        transition = self._take(step, message)
        if transition.action is Action.CANCELS:
            self._unit.stopped()
            self._unit.cancel()
        elif self.phase is before:
            return
        elif self.phase is Phase.STARTED:
            self._unit.started()
        elif self.phase is Phase.STOPPED:
            self._unit.stopped()
        else:
            self._fail(step, message)

    def _fail(self, step: Event, message: object) -> None:
        failed = StartupFailed if step is Event.FAILS_STARTUP else ShutdownFailed
        reason = _reason(message)
        self._unit.fail(failed(self._unit.name, reason), reason)

    def _take(self, step: Event, message: object = None) -> Transition:
        """Take one step: log it, or raise, as serious as it is, and go on to the next phase."""
        before = self.phase
        transition = advance(before, step, strict=self._strict)
        if transition.next_phase is not before:
            self.phase = transition.next_phase
            if self._moved is not None:
                self._moved.set()
                self._moved = None
        if transition.severity is not Severity.FINE:
            departure = ProtocolViolation(self._unit.name, _deed(step, message), before.value, EXPECTED[before])
            if transition.severity is Severity.VIOLATION:
                self._unit.fail(departure)
                raise departure
            self._on_departure(transition.severity, departure)
        return transition


def _deed(step: Event, message: object) -> str:
    kind = entry_of(message, "type")
    sent = repr(kind) if isinstance(kind, str) else f"an object of type {type(message).__qualname__!r}"
    return f"sent {sent}" if step is Event.SENDS_OTHER else step.value


def _reason(message: object) -> str:
    """The text of a ``*.failed`` message: the key is optional, and it comes from an app that is in trouble."""
    return str(entry_of(message, "message") or "")
