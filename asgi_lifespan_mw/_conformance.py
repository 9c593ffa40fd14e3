"""`check_lifespan`: runs an app's lifespan in the ways that servers do, and returns what its author should know."""

from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, final

import anyio
import anyio.lowlevel

from ._asgi import checked_app, name_of
from ._config import checked_seconds
from ._exceptions import LifespanTimeout, ProtocolViolation
from ._protocol.session import Session, on_deviation
from ._protocol.table import Phase, Severity
from ._reporting.failures import summarize
from ._types import ASGIApp, Receive, Scope, Send, State
from ._units.backend import current_asyncio_task, is_closing
from ._units.failure import text_of
from ._units.supervisor import Supervisor, UnitFailed
from ._units.unit import GRACE, Unit

if TYPE_CHECKING:
    import asyncio

SeverityName: TypeAlias = Literal["note", "warning", "violation"]


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of `check_lifespan`.

    Attributes:
        severity: ``"note"`` if no server of today minds, ``"warning"`` if the author should know,
            ``"violation"`` if the lifespan ends as failed.
        run: The run in which it was seen first, such as ``"cancelled while serving"``.
        text: What the app did, in words.
    """

    severity: SeverityName
    run: str
    text: str


class _Scenario(NamedTuple):
    """A way in which a server runs an app: its name, the severity of a failure in it, and what the server does."""

    name: str
    failure: SeverityName = "warning"
    lacks: str = ""
    """The entry that the server's scope lacks; "" for none."""
    empties_state: bool = False
    """True for a server that empties the state before the shutdown, as granian does."""
    cancels: Phase | None = None
    """The phase in which the server cancels the lifespan; None for no cancellation."""


_SCENARIOS = (
    _Scenario("normal", "violation"),
    _Scenario("a second time"),
    _Scenario("without state", "note", lacks="state"),
    _Scenario("without asgi", "note", lacks="asgi"),
    _Scenario("state emptied before the shutdown", empties_state=True),
    _Scenario("cancelled while serving", cancels=Phase.STARTED),
    _Scenario("cancelled while starting", cancels=Phase.STARTING),
)


async def check_lifespan(app: ASGIApp, *, timeout: float = 5) -> list[Finding]:
    """Run an app's lifespan in the ways that servers do, and return what its author should know.

    For a test suite: ``assert await check_lifespan(app) == []``, or ``anyio.run(check_lifespan, app)`` where nothing is
    asynchronous. The app is started and stopped normally, a second time, by servers without ``scope["state"]``, without
    ``scope["asgi"]``, by one that empties the state before the shutdown, and is cancelled while it serves and while it
    starts. An app that can't be started and stopped twice is not run further. Nothing is raised for what it does.

    What it may do follows the ASGI specification, "Lifespan Protocol".

    Args:
        app: Any ASGI 3 application. What a `LifespanMiddleware` runs inside is looked at, too.
        timeout: Seconds for each startup, and as many for each shutdown.

    Returns:
        What was found, in the order of the runs, each once.

    Raises:
        TypeError: If `app` is a class or cannot be called, or `timeout` is not a number.
        ValueError: If `timeout` is not positive.

    *Cancellation:* the app is stopped, shielded, in what is left of its time.
    """
    checked_app(app, "check_lifespan()")
    seconds = checked_seconds(timeout, "check_lifespan(timeout=...)")
    found: dict[tuple[str, str], Finding] = {}
    for way in _SCENARIOS:
        is_well = await copy_context().run(_Probe, app, way, seconds, found).live()
        if not is_well and way in _SCENARIOS[:2]:  # it would fail in the others for the same reason
            break
    return list(found.values())


class _Probe:
    """One run of an app, from the server's side. It begins in a context of its own."""

    def __init__(
        self, app: ASGIApp, way: _Scenario, seconds: float | None, found: dict[tuple[str, str], Finding]
    ) -> None:
        self._app, self._way, self._seconds, self._found = app, way, seconds, found
        self._state: State = {}
        self._answered = self._state  # a copy of it, once the startup was stopped
        asgi = {"version": "3.0", "spec_version": "2.0"}
        self._scope: dict[str, Any] = {"type": "lifespan", "asgi": asgi, "state": self._state}
        self._scope.pop(way.lacks, None)
        self._is_reported_busy = False
        self._server = anyio.CancelScope()
        # Sessions take it when they are made: ours, and those of middlewares in the app, whose tasks have this context.
        on_deviation.set(self._record_deviation)
        self._session = Session(self._watched, self._scope)
        self._units = Supervisor(lambda _: None)
        self._unit = Unit(f"app {name_of(app)}", self._session.live)

    async def live(self) -> bool:
        """Run the lifespan to its end, and return whether the app started and stopped."""
        tasks = _tasks()
        try:
            await self._start_and_stop()
        except BaseException as error:
            if not is_closing(error):
                await self._units.stop_shielded()
            raise
        if self._way.cancels is None:
            await self._judge(tasks)
        elif self._unit.failure is not None and isinstance(self._unit.failure.error, LifespanTimeout):
            self._find(f"{self._unit.name} did not end within {self._seconds:g} s of its cancellation")
        return self._unit.failure is None and self._session.phase is not Phase.UNSUPPORTED

    async def _start_and_stop(self) -> None:
        self._units.shared.set_deadline(self._seconds)
        with suppress(UnitFailed):
            await self._units.start(self._unit)
        late = [key for key, value in self._state.items() if self._answered.get(key, self) is not value]
        if late:
            self._find(
                f"{self._unit.name} set {late} in the state after its startup was complete, too late for some servers"
            )
        if self._way.empties_state:
            self._state.clear()
        if self._way.cancels is Phase.STARTED:
            self._server.cancel()
        await anyio.lowlevel.checkpoint()  # a cancellation arrives before the stop does
        self._units.shared.set_deadline(self._seconds)
        await self._units.stop()

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receiving() -> object:
            message: object = await receive()
            if self._way.cancels is self._session.phase:
                self._server.cancel()
            return message

        async def sending(message: object) -> None:
            await send(message)
            if self._session.phase is Phase.STARTED:
                self._answered = self._state.copy()

        with self._server:
            try:
                await self._app(scope, receiving, sending)
            except Exception as error:
                self._ended(f"raised {text_of(error)}")
                raise
            self._ended("returned")

    def _ended(self, how: str) -> None:
        # One that had nothing to wait for is past the phase, and never saw the cancellation.
        if self._server.cancel_called and self._session.phase in (self._way.cancels, Phase.FAILED):
            self._find(f"{self._unit.name} {how} when it was cancelled; expected the cancellation to propagate")

    def _record_deviation(self, severity: Severity, deviation: ProtocolViolation) -> None:
        if not self._server.cancel_called:
            self._find(str(deviation), cast("SeverityName", severity.value))
            self._is_reported_busy |= deviation.phase == Phase.STOPPED.value

    async def _judge(self, tasks: "set[asyncio.Task[Any]]") -> None:
        phase, severity, name = self._session.phase, self._way.failure, self._unit.name
        if phase is Phase.UNSUPPORTED:
            refusal = f"{name} does not support the lifespan protocol"
            if self._session.refusal is not None:
                refusal += f": {text_of(self._session.refusal)}"
            # It may always do so; not where it took the lifespan before.
            self._find(refusal, "note" if self._way is _SCENARIOS[0] else severity)
        if self._unit.failure is not None:
            self._find(summarize(self._unit.failure), severity)
        if self._unit.is_cancelled() and phase is Phase.STOPPED and not self._is_reported_busy:
            self._find(f"{name} was still busy {GRACE:g} s after its last answer")
        if self._way.lacks != "state" and self._scope.get("state") is not self._state:
            self._find(f"{name} replaced scope['state'], where requests see what is put into it")
        if left := _tasks() - tasks:
            import asyncio  # which takes long to import

            _, left = await asyncio.wait(left, timeout=GRACE)
        if left:
            names = sorted(getattr(task.get_coro(), "__qualname__", task.get_name()) for task in left)
            self._find(f"{name} left tasks behind: {', '.join(names)}")

    def _find(self, text: str, severity: SeverityName = "warning") -> None:
        self._found.setdefault((severity, text), Finding(severity, self._way.name, text))


def _tasks() -> "set[asyncio.Task[Any]]":
    """Return the tasks of the event loop; none on trio, where no task outlives its nursery."""
    if current_asyncio_task() is None:
        return set()
    import asyncio

    return asyncio.all_tasks()
