"""`check_lifespan`: an app's lifespan, run in the ways that servers run it, and what its author should know of."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, final

import anyio
import anyio.lowlevel

from ._account import deed
from ._app import checked_app, name_of
from ._errors import LifespanError, LifespanTimeout, ProtocolViolation
from ._protocol import Phase, Severity
from ._session import Session, on_departure
from ._settings import checked_seconds
from ._tasks import CANCELLED_GRACE, current_asyncio_task, is_gone
from ._types import ASGIApp, Receive, Scope, Send, State
from ._unit import Unit
from ._units import UnitFailed, Units

if TYPE_CHECKING:
    import asyncio

_NOTE, _WARNING, _VIOLATION = Severity.NOTE, Severity.WARNING, Severity.VIOLATION


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `check_lifespan` found in an app.

    Attributes:
        severity: ``"note"`` for what harms nobody under today's servers, ``"warning"`` for what its author should know
            of, ``"violation"`` for what ends its lifespan as failed.
        run: the run in which it was seen first, such as ``"cancelled while serving"``.
        text: who did what.
    """

    severity: Literal["note", "warning", "violation"]
    run: str
    text: str


@final
@dataclass(frozen=True, slots=True)
class _Run:
    """A way of running an app.

    Attributes:
        name: what it is called in a finding.
        failure: how serious it is to fail in it.
        refusal: how serious it is to turn the lifespan away in it.
        lacks: the entry of the scope that the server does not give.
        empties_state: whether the server empties the state before the shutdown.
        cancels: the phase in which the server cancels.
    """

    name: str
    failure: Severity
    refusal: Severity
    lacks: str = ""
    empties_state: bool = False
    cancels: Phase | None = None


_RUNS = (
    _Run("normal", _VIOLATION, _NOTE),
    _Run("a second time", _WARNING, _WARNING),
    _Run("without state", _NOTE, _NOTE, lacks="state"),
    _Run("without asgi", _NOTE, _NOTE, lacks="asgi"),
    # granian does that.
    _Run("state emptied before the shutdown", _WARNING, _WARNING, empties_state=True),
    _Run("cancelled while serving", _WARNING, _WARNING, cancels=Phase.STARTED),
    _Run("cancelled while starting", _WARNING, _WARNING, cancels=Phase.STARTING),
)
_NEEDED = _RUNS[:2]
"""An app that fails in these would fail in the others for the same reason."""


async def check_lifespan(app: ASGIApp, *, timeout: float = 5) -> list[Finding]:
    """Run an app's lifespan in the ways that servers do, and tell what its author should know of.

    For a test suite: ``assert await check_lifespan(app) == []``, or ``anyio.run(check_lifespan, app)`` where nothing is
    asynchronous. The app is started and stopped normally, a second time, by servers without ``scope["state"]``, without
    ``scope["asgi"]``, by one that empties the state before the shutdown, and is cancelled while it serves and while it
    starts. An app that can't be started and stopped twice is not run further. Nothing is raised for what it does.

    What it may do follows the ASGI specification, "Lifespan Protocol".

    Args:
        app: any ASGI 3 application. What a `LifespanMiddleware` runs inside is looked at, too.
        timeout: seconds for each startup, and as many for each shutdown.

    Returns:
        What was found, in the order of the runs, each once.

    Raises:
        TypeError: `app` is a class or can't be called, or `timeout` is no number.
        ValueError: `timeout` is not positive.

    *Cancellation:* the app is stopped, shielded, in what is left of its time.
    """
    checked_app(app, "check_lifespan()")
    seconds = checked_seconds(timeout, "check_lifespan(timeout=...)")
    findings: dict[tuple[Severity, str], Finding] = {}
    for run in _RUNS:
        look = _Look(app, run, seconds)
        is_well = await look.live()
        for severity, text in look.found:
            word = cast("Literal['note', 'warning', 'violation']", severity.value)
            findings.setdefault((severity, text), Finding(word, run.name, text))
        if run in _NEEDED and not is_well:
            break
    return list(findings.values())


class _Look:
    """A look at one run of an app, from the server's side.

    Attributes:
        found: what was found, and how serious it is.
    """

    def __init__(self, app: ASGIApp, run: _Run, seconds: float | None) -> None:
        self.found: list[tuple[Severity, str]] = []
        self._app = app
        self._name = f"app {name_of(app)}"
        self._run = run
        self._seconds = seconds
        self._state: State = {}
        self._scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        self._scope["state"] = self._state
        self._scope.pop(run.lacks, None)
        self._answered: State | None = None  # the state as it was when the startup was answered
        self._is_told_to_return = False
        self._server = anyio.CancelScope()

    async def live(self) -> bool:
        """See the run through; tell whether the app started and stopped."""
        tasks = _tasks()
        token = on_departure.set(self._departed)
        try:
            self._session = Session(self._watched, self._scope)
            self._unit = Unit(self._name, self._session.live)
            await self._drive()
        finally:
            on_departure.reset(token)
        if self._run.cancels is None:
            await self._judge(tasks)
        elif isinstance(self._unit.error, LifespanTimeout):
            self._find(self._run.failure, f"did not end within {self._seconds:g} s of its cancellation")
        return self._unit.error is None and self._session.phase is not Phase.UNSUPPORTED

    async def _drive(self) -> None:
        units = Units(lambda _: None)
        units.allow(self._seconds)
        try:
            with suppress(UnitFailed):
                await units.start(self._unit)
            self._look_at_state()
            if self._run.cancels is Phase.STARTED:
                self._server.cancel()
            await anyio.lowlevel.checkpoint()  # a cancellation arrives before the stop does
            units.allow(self._seconds)
            await units.stop()
        except BaseException as error:
            if not is_gone(error):
                await units.stop_shielded()
            raise

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receiving() -> object:
            message: object = await receive()
            if self._run.cancels is self._session.phase:
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
                self._ended(f"raised {error!r}")
                raise
            self._ended("returned")

    def _ended(self, how: str) -> None:
        # One that had nothing to wait for is past the phase, and never saw the cancellation.
        if self._server.cancel_called and self._session.phase in (self._run.cancels, Phase.FAILED):
            self._find(_WARNING, f"{how} when it was cancelled; expected the cancellation to come out")

    def _departed(self, severity: Severity, departure: ProtocolViolation) -> None:
        if not self._server.cancel_called:
            self.found.append((severity, str(departure)))
            self._is_told_to_return |= departure.phase == Phase.STOPPED.value

    def _look_at_state(self) -> None:
        answered = self._state if self._answered is None else self._answered
        late = [key for key, value in self._state.items() if answered.get(key, self) is not value]
        if late:
            self._find(_WARNING, f"set {late} in the state after its startup was complete, too late for some servers")
        if self._run.empties_state:
            self._state.clear()

    async def _judge(self, tasks: "set[asyncio.Task[Any]]") -> None:
        unit, phase = self._unit, self._session.phase
        if phase is Phase.UNSUPPORTED:
            self._find(self._run.refusal, f"does not support the lifespan protocol: {self._session.refusal!r}")
        if isinstance(unit.error, LifespanError):
            self.found.append((self._run.failure, str(unit.error)))
        elif unit.error is not None:
            self.found.append((self._run.failure, f"{deed(unit)} in {self._name}: {unit.error!r}"))
        if unit.is_cancelled() and phase is Phase.STOPPED and not self._is_told_to_return:
            self._find(_WARNING, f"was still busy {CANCELLED_GRACE:g} s after its last answer")
        if self._run.lacks != "state" and self._scope.get("state") is not self._state:
            self._find(_WARNING, "replaced scope['state'], where requests see what is put into it")
        if left := _tasks() - tasks:
            import asyncio

            _, left = await asyncio.wait(left, timeout=CANCELLED_GRACE)
        if left:
            self._find(_WARNING, f"left tasks behind: {', '.join(sorted(map(_name_of_task, left)))}")

    def _find(self, severity: Severity, deed: str) -> None:
        self.found.append((severity, f"{self._name} {deed}"))


def _tasks() -> "set[asyncio.Task[Any]]":
    """The tasks that are there; trio lets none outlive its nursery."""
    import asyncio

    return set() if current_asyncio_task() is None else asyncio.all_tasks()


def _name_of_task(task: "asyncio.Task[Any]") -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())
