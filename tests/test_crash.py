"""Units that break while serving, and what is done about it."""

import logging
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from asgi_lifespan_mw import LifespanMiddleware, ShutdownFailed
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.conftest import VIRTUAL
from tests.plans import Boom, CrashesOnDemand, Journal
from tests.server import RecordingServer


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock."""
    return request.param()


class Run:
    """A lifespan in which something breaks while serving."""

    def __init__(self, app: LifespanMiddleware, crash: anyio.Event) -> None:
        self.server = RecordingServer(holds_on=True)
        self._app = app
        self._crash = crash

    async def __call__(self) -> BaseException:
        """Start, crash, wait, stop; return what came out."""
        with pytest.raises(BaseException) as raised:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.server.run, self._app)
                await self.server.started.wait()
                self._crash.set()
                await anyio.sleep(5)
                self.server.may_stop.set()
        assert isinstance(raised.value, BaseExceptionGroup)
        (error,) = raised.value.exceptions
        assert isinstance(error, BaseException)
        return error


def leaves(error: BaseException) -> list[str]:
    """The texts of the errors in a group."""
    if isinstance(error, BaseExceptionGroup):
        return [text for one in error.exceptions for text in leaves(one)]
    return [str(error)]


async def test_a_crash_is_logged_at_once_and_the_others_stay_up(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """The unit is named, with its traceback; at shutdown the crash is part of the answer."""
    crashes = CrashesOnDemand()
    run = Run(LifespanMiddleware(journal.app(), [journal.context("a"), crashes.__call__]), crashes.demand)
    error = await run()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "crash in hook '__call__'" in record.getMessage()
    assert record.exc_info
    assert leaves(error) == ["worker broke"]
    assert journal.events == ["+a", "+app", "-app", "-a"]
    assert run.server.answers == ["startup.complete", "shutdown.failed"]
    assert "worker broke" in run.server.sent[1]["message"]


@pytest.mark.parametrize("says_so", [True, False], ids=["with a message", "without"])
@pytest.mark.parametrize("raises", [True, False], ids=["and raises", "and stays"])
async def test_a_wrapped_app_that_crashes_is_told_of_once(
    says_so: bool, raises: bool, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """With `shutdown.failed`, with an exception, with both as Starlette does; one that stays is ended."""
    if not says_so and not raises:
        return
    crash = anyio.Event()
    errors: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await crash.wait()
        if says_so:
            await send({"type": "lifespan.shutdown.failed", "message": "as I said"})
        if raises:
            raise Boom("broke")
        await anyio.sleep_forever()

    run = Run(LifespanMiddleware(app, journal.context("a"), on_crash=errors.append), crash)
    error = await run()
    assert type(error) is (Boom if raises else ShutdownFailed)
    assert errors == [error]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert journal.events == ["+a", "-a"]
    assert ("as I said" in run.server.sent[1]["message"]) == says_so


async def test_a_function_is_called_with_the_error_once(journal: Journal) -> None:
    """The error as it was raised."""
    crashes = CrashesOnDemand()
    errors: list[BaseException] = []
    await Run(LifespanMiddleware(journal.app(), crashes.__call__, on_crash=errors.append), crashes.demand)()
    assert [leaves(error) for error in errors] == [["worker broke"]]
    [note] = errors[0].__notes__
    assert re.fullmatch(r"crash in hook '__call__' \(tests/plans\.py:\d+\)", note)


async def test_a_function_that_fails_harms_nothing(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and everything is stopped as ever."""
    crashes = CrashesOnDemand()

    def fails(error: BaseException) -> None:
        raise RuntimeError("cannot page anybody")

    run = Run(LifespanMiddleware(journal.app(), crashes.__call__, on_crash=fails), crashes.demand)
    await run()
    assert "on_crash failed, after the crash in hook '__call__'" in caplog.text
    assert "cannot page anybody" in caplog.text
    assert run.server.answers == ["startup.complete", "shutdown.failed"]


async def test_a_function_that_exits_stops_the_process(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sys.exit` in a callback would tear the event loop down; it is taken for a wish to stop, once."""
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    monkeypatch.setattr(signal, "raise_signal", lambda number: journal.events.append(f"signal {number:d}"))
    first, second = CrashesOnDemand(), CrashesOnDemand()
    app = LifespanMiddleware(journal.app(), [first.__call__, second.__call__], on_crash=lambda _: sys.exit(3))
    second.demand = first.demand
    run = Run(app, first.demand)
    await run()
    assert journal.events == ["+app", f"signal {signal.SIGTERM:d}", "-app"]
    assert run.server.answers == ["startup.complete", "shutdown.failed"]


async def test_a_function_that_gives_a_coroutine_is_told_of(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """It is not run, and not dropped in silence either."""
    crashes = CrashesOnDemand()

    async def never_run() -> None:
        raise AssertionError

    await Run(LifespanMiddleware(journal.app(), crashes.__call__, on_crash=lambda _: never_run()), crashes.demand)()
    assert "on_crash returned a coroutine, which is not run" in caplog.text


async def test_a_crash_that_lingers_is_told_after_a_second(journal: Journal) -> None:
    """Not only when the app, which says that it failed and stays, has ended."""
    crash, told = anyio.Event(), anyio.Event()

    async def lingers(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await crash.wait()
        await send({"type": "lifespan.shutdown.failed", "message": "lost"})
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)

    server = RecordingServer(holds_on=True)
    with pytest.raises(ExceptionGroup):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, LifespanMiddleware(lingers, on_crash=lambda _: told.set()))
            await server.started.wait()
            crash.set()
            with anyio.fail_after(1.5):
                await told.wait()
            server.may_stop.set()
    assert server.sent[1]["message"].startswith("crash in ")
    await anyio.sleep(60)


async def test_stop_asks_the_process_to_end(journal: Journal) -> None:
    """SIGTERM to itself, where the server has a handler for it; the server then shuts down as ever."""
    signals: list[int] = []
    crashes = CrashesOnDemand()
    run = Run(LifespanMiddleware(journal.app(), crashes.__call__, on_crash="stop"), crashes.demand)
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        await run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals == [signal.SIGTERM]
    assert run.server.answers == ["startup.complete", "shutdown.failed"]


async def test_stop_stops_everything_first_where_the_signal_would_kill(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypercorn's workers have no handler: the units are stopped, then the signal is sent."""
    monkeypatch.setattr(signal, "raise_signal", lambda number: journal.events.append(f"killed by {number:d}"))
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    crashes = CrashesOnDemand()
    app = LifespanMiddleware(journal.app(), [journal.context("a"), crashes.__call__], on_crash="stop")
    run = Run(app, crashes.demand)
    await run()
    assert journal.events == ["+a", "+app", "-app", "-a", f"killed by {signal.SIGTERM:d}"]
    assert run.server.answers == ["startup.complete", "shutdown.failed"]


async def test_a_crash_before_the_startup_is_answered_ends_it(journal: Journal) -> None:
    """What broke is the cause; the unit that was starting is cancelled, the rest is stopped."""
    crashes = CrashesOnDemand()

    @asynccontextmanager
    async def crashes_the_other_and_hangs() -> AsyncIterator[None]:
        crashes.demand.set()
        await anyio.sleep_forever()
        yield  # pragma: no cover - it makes a generator of it

    server = RecordingServer()
    hooks = [journal.context("a"), crashes.__call__, crashes_the_other_and_hangs]
    with pytest.raises(ExceptionGroup) as raised:
        await server.run(LifespanMiddleware(journal.app(), hooks, on_crash=lambda _: journal.events.append("on_crash")))
    assert leaves(raised.value) == ["worker broke"]
    assert journal.events == ["+a", "-a"]
    assert server.answers == ["startup.failed"]


async def test_a_context_that_ends_by_itself_is_noted(caplog: pytest.LogCaptureFixture, journal: Journal) -> None:
    """It swallowed what broke it: no failure, and a line in the log."""
    caplog.set_level(logging.INFO)
    demand = anyio.Event()

    @asynccontextmanager
    async def swallows_its_crash() -> AsyncIterator[None]:
        async def breaks() -> None:
            await demand.wait()
            raise Boom

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(breaks)
                yield
        except* Boom:
            pass

    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, LifespanMiddleware(journal.app(), swallows_its_crash))
        await server.started.wait()
        demand.set()
        await anyio.sleep(1)
        server.may_stop.set()
    assert "hook 'swallows_its_crash' (tests/test_crash.py:" in caplog.text
    assert "ended before the shutdown" in caplog.text
    assert server.answers == ["startup.complete", "shutdown.complete"]


async def test_a_type_error_of_a_worker_is_a_crash_after_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """It is never taken for a wrong signature: the worker is called once, and its error is the one that is raised."""
    calls: list[object] = []
    crash = anyio.Event()
    app = LifespanMiddleware(Journal().app())

    @app.worker
    async def consume() -> None:
        calls.append(None)
        await crash.wait()
        raise TypeError("consume() takes 0 positional arguments but 1 was given")

    run = Run(app, crash)
    error = await run()
    assert type(error) is TypeError
    assert len(calls) == 1
    assert run.server.answers == ["startup.complete", "shutdown.failed"]
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("crash in hook 'consume' (tests/test_crash.py:")
    assert record.getMessage().endswith("): TypeError: consume() takes 0 positional arguments but 1 was given")
