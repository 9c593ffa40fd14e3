"""`Session`: the server's side of the lifespan protocol, for one app.

`table` decides what each event of the app means. The session carries it out.
"""

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import assert_never, final

import anyio

from .._exceptions import ProtocolViolation, ShutdownFailed, StartupFailed
from .._log import logger
from .._types import SHUTDOWN, STARTUP, ASGIApp, Scope
from .._units.unit import GRACE, Unit
from .table import EXPECTED, TABLE, Action, Event, Phase, Severity, Transition, advance, entry_of, event_of

_LEVELS = {Severity.NOTE: logging.DEBUG, Severity.WARNING: logging.WARNING}


def _log(severity: Severity, deviation: ProtocolViolation) -> None:
    logger.log(_LEVELS[severity], "%s", deviation)


on_deviation: ContextVar[Callable[[Severity, ProtocolViolation], None]] = ContextVar(
    "asgi_lifespan_mw_on_deviation", default=_log
)
"""Called with each tolerated deviation, by the sessions that begin in this context. The default logs it."""


@final
class Session:
    """Takes one app through one lifespan; its `live` is the body of a unit.

    Follows the ASGI specification, "Lifespan Protocol", except for the row that `table` names.

    Attributes:
        phase: The phase of the app's lifespan. A timeout or a cancellation does not change the phase.
        refusal: The exception that an app without lifespan support raised; None for other apps, and if it returned.
    """

    __slots__ = (
        "_app", "_is_asked", "_moved", "_nothing_began", "_on_deviation", "_on_start", "_scope", "_strict", "_unit",
        "phase", "refusal",
    )  # fmt: skip

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        *,
        strict: bool = False,
        is_asked: bool = False,
        nothing_began: Callable[[], bool] = bool,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a conversation.

        Args:
            app: The app.
            scope: The scope of its lifespan.
            strict: Whether deviations from the protocol are violations.
            is_asked: Whether nothing is known of the app, which is asked if it supports the lifespan: what makes it
                unsupported is not a deviation.
            nothing_began: Called when such an app raised after it had received; returns whether it is a wrapper in
                which nothing had begun, so that the exception says nothing of a startup.
            on_start: Called when the app has started.
        """
        self._is_asked = is_asked
        self._nothing_began = nothing_began
        self._on_start = on_start
        self.phase = Phase.IDLE
        self.refusal: Exception | None = None
        self._app = app
        self._scope = scope
        self._strict = strict
        self._moved: anyio.Event | None = None
        self._on_deviation = on_deviation.get()

    async def live(self, unit: Unit) -> None:
        """Call the app with a lifespan scope, and wait until it returns.

        Raises:
            Exception: What the app raised, unless it does not support the lifespan protocol.
            ProtocolViolation: If the app returns too early, in a strict session.
        """
        self._unit = unit
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:
            if self.phase is Phase.STARTING and self._is_asked and self._nothing_began():
                self.phase = Phase.UNSUPPORTED
                logger.warning(
                    "%s raised when it was sent a lifespan, before anything inside it had begun; it is treated as an "
                    "app that does not support the lifespan protocol",
                    unit.name,
                    exc_info=error,
                )
            else:
                self._transition(Event.RAISES)
            if self.phase is not Phase.UNSUPPORTED:
                raise
            self.refusal = error
        else:
            self._transition(Event.RETURNS)

    def refuse(self) -> None:
        """Let the app raise as if it had not received the startup: a middleware in it received it for an inner app."""
        self.phase = Phase.IDLE

    async def _receive(self) -> object:
        while True:
            if self.phase is Phase.STARTED:
                await self._unit.wait_for_stop()
            action = self._transition(Event.RECEIVES).action
            match action:
                case Action.GIVES_STARTUP:
                    return STARTUP.copy()
                case Action.GIVES_SHUTDOWN:
                    return SHUTDOWN.copy()
                case Action.CANCELS:
                    self._unit.cancel(GRACE)
                    await anyio.sleep_forever()
                case Action.WAITS | Action.NOTHING:
                    self._moved = self._moved or anyio.Event()
                    await self._moved.wait()
                case _:  # pragma: no cover
                    assert_never(action)

    async def _send(self, message: object) -> None:
        event = event_of(message)
        before = self.phase
        transition = self._transition(event, message)
        if transition.action is Action.CANCELS:
            self._unit.stopped()
            self._unit.cancel(GRACE)
        elif self.phase is before:
            return
        elif self.phase is Phase.STARTED:
            self._unit.started()
            self._on_start()
        elif self.phase is Phase.STOPPED:
            self._unit.stopped()
        else:
            failed = StartupFailed if event is Event.FAILS_STARTUP else ShutdownFailed
            reason = str(entry_of(message, "message") or "")  # an optional key, whose value may be any object
            self._unit.fail(failed(self._unit.name, reason), reason)

    def _transition(self, event: Event, message: object = None) -> Transition:
        """Go on to the next phase. Report a deviation; raise a violation."""
        before = self.phase
        is_harmless = self._is_asked and TABLE[before][event].next_phase is Phase.UNSUPPORTED
        transition = advance(before, event, strict=self._strict and not is_harmless)
        if transition.next_phase is not before:
            self.phase = transition.next_phase
            if self._moved is not None:
                self._moved.set()
                self._moved = None
        if transition.severity is not Severity.FINE:
            deviation = ProtocolViolation(self._unit.name, _action_of(event, message), before.value, EXPECTED[before])
            if transition.severity is Severity.VIOLATION:
                self._unit.fail(deviation)
                raise deviation
            self._on_deviation(Severity.NOTE if is_harmless else transition.severity, deviation)
        return transition


def _action_of(event: Event, message: object) -> str:
    """Return what an app did, for messages. The content of a message may be secret, so only its type is named."""
    kind = entry_of(message, "type")
    sent = repr(kind) if isinstance(kind, str) else f"an object of type {type(message).__qualname__!r}"
    return f"sent {sent}" if event is Event.SENDS_OTHER else event.value
