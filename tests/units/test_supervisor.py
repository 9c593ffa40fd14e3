"""Supervisor in their tasks: order, time, cancellation; on a virtual clock."""

import asyncio
import contextlib
import functools
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import (
    Lifespan,
    LifespanManager,
    LifespanMiddleware,
    LifespanTimeout,
    ProtocolViolation,
    ShutdownFailed,
    StartupFailed,
)
from asgi_lifespan_mw._types import Receive, Scope, Send
from asgi_lifespan_mw._units import shared
from asgi_lifespan_mw._units.backend import spawn
from asgi_lifespan_mw._units.supervisor import Supervisor, UnitFailed
from asgi_lifespan_mw._units.unit import Unit, UnitState, finish
from tests.conftest import VIRTUAL
from tests.plans import (
    Boom,
    Journal,
    fails_to_start,
    fails_to_stop,
    hangs_at_start,
    hangs_at_stop,
    ignores_its_cancellation_at_stop,
)
from tests.server import RecordingServer


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: time limits take no time."""
    return request.param()


def tasks_of_the_loop() -> set[str]:
    """The names of the tasks that run, on asyncio."""
    try:
        return {task.get_name() for task in asyncio.all_tasks()}
    except RuntimeError:
        return set()


async def run(app: LifespanMiddleware, server: RecordingServer | None = None, *, left: int = 0) -> RecordingServer:
    """One lifespan; no task of ours may be left, but for so many that are left behind."""
    server = server or RecordingServer()
    before = tasks_of_the_loop()
    try:
        await server.run(app)
    finally:
        assert len(tasks_of_the_loop() - before) <= left
    return server


async def failing(app: LifespanMiddleware, error: type[BaseException], *, left: int = 0) -> tuple[RecordingServer, Any]:
    """One lifespan that must raise `error`."""
    server = RecordingServer()
    with pytest.raises(error) as raised:
        await run(app, server, left=left)
    return server, raised.value


async def test_units_start_in_order_and_stop_in_reverse(journal: Journal) -> None:
    """Contexts with a task group open across their yield, around the wrapped app."""
    app = LifespanMiddleware(journal.app(), [journal.context("a"), journal.context("b")], startup_timeout=5)
    await run(app)
    assert journal.events == ["+a", "+b", "+app", "-app", "-b", "-a"]


async def test_what_had_started_is_stopped_when_something_fails(journal: Journal) -> None:
    """Nothing further is started; what had started leaves without seeing the others' errors."""
    app = LifespanMiddleware(journal.app(), [journal.context("a"), journal.context("b"), fails_to_start])
    server, _ = await failing(app, Boom)
    assert journal.events == ["+a", "+b", "-b", "-a"]
    assert server.answers == ["startup.failed"]


async def test_a_failure_is_announced_after_the_clean_up(journal: Journal) -> None:
    """A server that kills us on hearing of it finds nothing open."""

    class Server(RecordingServer):
        async def send(self, message: dict[str, Any]) -> None:
            journal.server_send(message)

    with pytest.raises(Boom):
        await run(LifespanMiddleware(journal.app(), [journal.context("a"), fails_to_start]), Server())
    assert journal.events == ["+a", "-a", "startup.failed"]


async def test_errors_of_the_clean_up_come_after_the_cause() -> None:
    """One group, the cause first, and the message tells of both."""
    server, error = await failing(LifespanMiddleware(Journal().app(), [fails_to_stop, fails_to_start]), ExceptionGroup)
    assert [str(one) for one in error.exceptions] == ["no start", "no stop"]
    message = server.sent[0]["message"]
    assert message.index("no start") < message.index("no stop")
    assert "shutdown failed in hook 'fails_to_stop'" in message


async def test_a_failed_shutdown_stops_all_the_others(journal: Journal) -> None:
    """One error comes out as itself."""
    app = LifespanMiddleware(journal.app(), [journal.context("a"), fails_to_stop, journal.context("b")])
    server, error = await failing(app, Boom)
    assert journal.events == ["+a", "+b", "+app", "-app", "-b", "-a"]
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert str(error) == "no stop"
    assert "hook 'fails_to_stop' (tests/plans.py:" in server.sent[1]["message"]


async def test_several_errors_of_a_shutdown_come_as_a_group() -> None:
    """None is lost."""
    app = LifespanMiddleware(Journal().app(), [fails_to_stop, functools.partial(fails_to_stop)])
    _, error = await failing(app, ExceptionGroup)
    assert [str(one) for one in error.exceptions] == ["no stop", "no stop"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_an_exit_in_startup_is_answered_and_raised(kind: type[BaseException], journal: Journal) -> None:
    """Uvicorn would serve otherwise; and asyncio would be torn down by such an error in a task."""

    async def exits() -> None:
        raise kind("7")

    server, _ = await failing(LifespanMiddleware(journal.app(), journal.context("a"), on_startup=[exits]), kind)
    assert server.answers == ["startup.failed"]
    assert kind.__name__ in server.sent[0]["message"]
    assert journal.events == ["+a", "-a"]


async def test_an_exit_and_a_failed_clean_up_are_one_group() -> None:
    """A group with a SystemExit in it is a BaseExceptionGroup."""

    def exits() -> None:
        raise SystemExit(7)

    _, error = await failing(LifespanMiddleware(Journal().app(), fails_to_stop, on_startup=[exits]), BaseExceptionGroup)
    assert [type(one) for one in error.exceptions] == [SystemExit, Boom]


async def test_a_cancellation_that_nobody_asked_for_is_a_failed_startup(journal: Journal) -> None:
    """A hook that awaits a cancelled task has failed; it must not look like the server's cancellation."""

    async def awaits_a_cancelled_task() -> None:
        raise asyncio.CancelledError("of another task")

    app = LifespanMiddleware(journal.app(), journal.context("a"), on_startup=[awaits_a_cancelled_task])
    server, error = await failing(app, StartupFailed)
    assert server.answers == ["startup.failed"]
    assert "hook 'awaits_a_cancelled_task'" in str(error)
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert journal.events == ["+a", "-a"]


async def test_a_cancellation_that_nobody_asked_for_is_a_failed_shutdown(journal: Journal) -> None:
    """The same at the stop; the others are stopped all the same."""

    @asynccontextmanager
    async def awaits_a_cancelled_task() -> AsyncIterator[None]:
        yield
        raise asyncio.CancelledError

    app = LifespanMiddleware(journal.app(), [journal.context("a"), awaits_a_cancelled_task])
    server, error = await failing(app, ShutdownFailed)
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert journal.events == ["+a", "+app", "-app", "-a"]


async def awaits_a_cancelled_task_after(seconds: float) -> None:
    """Fails by a cancellation of its own, in a moment in which a timer of ours may fire."""
    await anyio.sleep(seconds)
    raise asyncio.CancelledError("of another task")


@pytest.mark.parametrize("seconds", [10, 20, 40])
@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_a_cancellation_that_nobody_asked_for_is_a_failure_when_a_slow_unit_is_logged(
    phase: str, seconds: float, journal: Journal
) -> None:
    """The owner of the units wakes up by itself then, which is no cancellation by the server."""

    @asynccontextmanager
    async def fails_at_that_moment() -> AsyncIterator[None]:
        if phase == "startup":
            await awaits_a_cancelled_task_after(seconds)
        yield
        await awaits_a_cancelled_task_after(seconds)

    app = LifespanMiddleware(journal.app(), [journal.context("a"), fails_at_that_moment])
    server, error = await failing(app, StartupFailed if phase == "startup" else ShutdownFailed)
    assert server.answers[-1] == f"{phase}.failed"
    assert "cancelled unexpectedly" in str(error)
    assert journal.events[-1] == "-a"


async def test_a_context_whose_own_time_limit_runs_out_when_a_slow_unit_is_logged_has_crashed() -> None:
    """Its scope cancels the wait for the stop; that is no cancellation by the server either."""

    @asynccontextmanager
    async def serves_for_10_s() -> AsyncIterator[None]:
        with anyio.fail_after(10):
            yield

    app = LifespanMiddleware(Journal().app(), serves_for_10_s, on_startup=[functools.partial(anyio.sleep, 100)])
    began = anyio.current_time()
    server, _ = await failing(app, TimeoutError)
    assert anyio.current_time() - began == 10
    assert server.answers == ["startup.failed"]


async def test_the_startup_timeout_names_the_unit(journal: Journal) -> None:
    """Who was at work, where it stands in the files, after how long, and at which line it waited."""
    app = LifespanMiddleware(journal.app(), [journal.context("a"), hangs_at_start], startup_timeout=30)
    began = anyio.current_time()
    server, error = await failing(app, LifespanTimeout)
    assert anyio.current_time() - began == pytest.approx(30, abs=0.5)
    assert str(error).startswith("startup timed out after 30 s in hook 'hangs_at_start' (tests/plans.py:")
    assert isinstance(error, TimeoutError)
    assert server.answers == ["startup.failed"]
    assert str(error) in server.sent[0]["message"]
    assert re.search(r"; it was at .*plans\.py:\d+ in hangs_at_start\n?", server.sent[0]["message"])
    assert journal.events == ["+a", "-a"]


async def test_the_timeout_of_one_hook_is_its_own(journal: Journal) -> None:
    """It ends that hook alone, before the time of the whole."""
    app = LifespanMiddleware(journal.app(), startup_timeout=30)
    app.context(hangs_at_start, timeout=2)
    _, error = await failing(app, LifespanTimeout)
    assert error.seconds == 2
    assert error.phase == "startup"


async def test_an_app_that_never_answers_is_timed_out(journal: Journal) -> None:
    """What most servers would wait for, for ever and in silence."""

    async def never_answers(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await anyio.sleep_forever()

    _, error = await failing(
        LifespanMiddleware(never_answers, journal.context("a"), startup_timeout=5), LifespanTimeout
    )
    assert "never_answers()" in str(error)
    assert journal.events == ["+a", "-a"]


async def test_two_units_that_hang_at_the_stop_are_both_named(journal: Journal) -> None:
    """When the time of the whole shutdown is up, each unit left is cancelled in turn, and named."""
    hooks: list[Any] = [journal.context("a"), hangs_at_stop, journal.context("b"), functools.partial(hangs_at_stop)]
    server, error = await failing(LifespanMiddleware(journal.app(), hooks, shutdown_timeout=10), ExceptionGroup)
    assert [one.phase for one in error.exceptions] == ["shutdown"] * 4
    assert ["hangs_at_stop" in str(one) for one in error.exceptions] == [True, False, True, False]
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert {"-a", "-b"} < set(journal.events)


async def test_the_timeout_of_one_hook_holds_at_the_stop_too(journal: Journal) -> None:
    """The units before it are stopped in peace."""
    app = LifespanMiddleware(journal.app(), journal.context("a"))
    app.context(hangs_at_stop, timeout=2)
    _, error = await failing(app, LifespanTimeout)
    assert str(error).startswith("shutdown timed out after 2 s in hook 'hangs_at_stop'")
    assert journal.events == ["+a", "+app", "-app", "-a"]


async def test_a_unit_that_ignores_its_cancellation_is_left_behind(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """After a second it is given up, with an ERROR; the others are stopped."""
    app = LifespanMiddleware(
        journal.app(), [journal.context("a"), ignores_its_cancellation_at_stop], shutdown_timeout=5
    )
    server = RecordingServer()
    began = anyio.current_time()
    with pytest.raises(ExceptionGroup):
        await server.run(app)
    assert anyio.current_time() - began < 10
    assert "did not stop after being cancelled; abandoning it (still running at " in caplog.text
    assert "plans.py" in caplog.text
    assert journal.events == ["+a", "+app", "-app", "-a"]
    await anyio.sleep(100)  # its end, for which nobody waits any more


@pytest.mark.parametrize("answer", ["complete", "failed"])
async def test_a_unit_that_was_left_behind_may_say_what_it_likes(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing comes of it any more."""

    async def answers_too_late(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(50)
        await send({"type": f"lifespan.shutdown.{answer}"})

    server, _ = await failing(LifespanMiddleware(answers_too_late, shutdown_timeout=5), LifespanTimeout, left=1)
    await anyio.sleep(100)
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert "abandoning it" in caplog.text


async def test_what_breaks_in_the_clean_up_after_a_time_limit_is_kept_behind_it() -> None:
    """The time limit is the failure; what the unit raised on its way out is its context."""

    async def hangs_and_breaks() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("on the way out")

    app = LifespanMiddleware(Journal().app())
    app.on_startup(hangs_and_breaks, timeout=1)
    _, error = await failing(app, LifespanTimeout)
    assert str(error.__context__) == "on the way out"


def test_a_unit_shows_where_it_stands() -> None:
    """In a debugger."""

    async def body(unit: Unit) -> None: ...

    assert repr(Unit("hook 'a'", body)) == "<Unit hook 'a': new>"


async def test_the_first_failure_of_a_unit_counts() -> None:
    """Two tasks of one app may each tell of one."""

    async def fails_twice(unit: Unit) -> None:
        unit.fail(Boom("first"))
        unit.fail(Boom("second"))

    units, unit = Supervisor(lambda _: None), Unit("it", fails_twice)
    with pytest.raises(UnitFailed):
        await units.start(unit)
    await units.stop()
    assert unit.failure is not None
    assert str(unit.failure.error) == "first"
    assert units.failures == [unit.failure]


async def test_an_app_that_turns_the_lifespan_away_and_stays_does_not_hold_the_startup_up() -> None:
    """It has a second to end, and one more; then it is left behind."""

    async def answers_http_and_stays(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        with anyio.CancelScope(shield=True):
            await anyio.sleep(50)

    server = RecordingServer()
    began = anyio.current_time()
    await server.run(LifespanMiddleware(answers_http_and_stays, on_startup=[lambda: None]))
    assert anyio.current_time() - began <= 2.5
    assert server.answers == ["startup.complete", "shutdown.complete"]
    await anyio.sleep(100)


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Holds the event loop up for so many seconds, which are over at once."""
    jumped = 0.0
    counted = time.perf_counter

    def jump(seconds: float) -> None:
        nonlocal jumped
        jumped += seconds

    monkeypatch.setattr(shared, "running_clock", lambda: lambda: anyio.current_time() + jumped)
    monkeypatch.setattr(time, "perf_counter", lambda: counted() + jumped)
    return jump


async def test_a_function_that_blocks_the_event_loop_beyond_the_time_limit_is_blamed_itself(
    block: Callable[[float], None],
) -> None:
    """Not the innocent one that starts next, and also where it is the last."""

    def blocks() -> None:
        block(31)

    def innocent() -> None:
        raise AssertionError

    app = LifespanMiddleware(Journal().app(), on_startup=[blocks, innocent], startup_timeout=30)
    server, error = await failing(app, LifespanTimeout)
    assert str(error).startswith("startup timed out after 30 s in hook 'blocks'")
    hint = "(it blocked the event loop; threaded() runs a `def` hook in a worker thread)"
    assert server.sent[0]["message"] == f"{error} {hint}"


async def test_a_context_that_blocks_the_event_loop_at_its_stop_is_blamed_itself(
    block: Callable[[float], None],
) -> None:
    """And first; what is left is named after it, for there is no time for it any more."""

    def innocent() -> Iterator[None]:
        yield

    def blocks() -> Iterator[None]:
        yield
        block(31)

    app = LifespanMiddleware(Journal().app(), shutdown_timeout=30)
    app.context(innocent)
    app.context(blocks)
    _, error = await failing(app, BaseExceptionGroup)
    assert [str(one).split(" (")[0] for one in error.exceptions] == [
        "shutdown timed out after 30 s in hook 'blocks'",
        "shutdown timed out after 30 s in hook 'innocent'",
    ]


@pytest.mark.parametrize("blocks_at", ["start", "stop"])
async def test_the_timeout_of_one_hook_holds_for_one_that_blocks(
    blocks_at: str, block: Callable[[float], None]
) -> None:
    """It can't be interrupted, and is failed when it is done."""

    def blocks() -> Iterator[None]:
        block(2 if blocks_at == "start" else 0)
        yield
        block(2 if blocks_at == "stop" else 0)

    app = LifespanMiddleware(Journal().app())
    app.context(blocks, timeout=1)
    app.on_shutdown(lambda: None, timeout=1)
    server, error = await failing(app, LifespanTimeout)
    phase = "startup" if blocks_at == "start" else "shutdown"
    assert str(error).startswith(f"{phase} timed out after 1 s in hook 'blocks'")
    assert server.answers[-1] == f"{phase}.failed"


async def test_a_unit_that_blocked_the_event_loop_is_named_in_the_log(
    block: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    """When it is done: before, nobody could say anything."""

    def blocks() -> None:
        block(12)

    await run(LifespanMiddleware(Journal().app(), on_startup=[blocks]))
    (text,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(
        r"startup of hook 'blocks' \(.*\) took more than 10 s and blocked the event loop; "
        r"threaded\(\) runs a `def` hook in a worker thread",
        text,
    )


async def test_a_time_limit_around_a_middleware_names_the_unit_inside_it() -> None:
    """A test that drives a wrapped app learns which hook hangs."""
    manager = LifespanManager(LifespanMiddleware(Journal().app(), hangs_at_start), startup_timeout=3)
    with pytest.raises(LifespanTimeout) as raised:
        await manager.__aenter__()
    (note,) = raised.value.__notes__
    assert re.fullmatch(r"it was at hook 'hangs_at_start' \(.*\), at .*plans\.py:\d+ in hangs_at_start", note)


async def test_apps_that_stay_busy_side_by_side_share_one_second() -> None:
    """The time of the whole shutdown holds, however many they are."""

    async def stays_busy(scope: Scope, receive: Receive, send: Send) -> None:
        await Journal().app()(scope, receive, send)
        await anyio.sleep_forever()

    def another() -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await stays_busy(scope, receive, send)

        return app

    app = Starlette(routes=[Mount(f"/{number}", another()) for number in range(20)])
    server = RecordingServer()
    began = anyio.current_time()
    await server.run(LifespanMiddleware(app, concurrent=True, shutdown_timeout=5))
    assert anyio.current_time() - began <= 2.5
    assert server.answers == ["startup.complete", "shutdown.complete"]


async def test_an_app_that_is_done_beside_one_that_stays_busy_is_left_alone(journal: Journal) -> None:
    """Only what stays busy is cancelled when its second is up."""

    async def stays_busy(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await journal.app("busy")(scope, receive, send)
        await anyio.sleep_forever()

    app = Starlette(routes=[Mount("/done", journal.app("done")), Mount("/busy", stays_busy)])
    began = anyio.current_time()
    server = await run(LifespanMiddleware(app, concurrent=True))
    assert anyio.current_time() - began == 1
    assert sorted(journal.events) == ["+busy", "+done", "-busy", "-done"]
    assert server.answers == ["startup.complete", "shutdown.complete"]


async def test_a_unit_that_makes_a_cancellation_of_its_own_out_of_ours_has_failed_once() -> None:
    """Its time was up, and that is all that is told."""

    async def hook() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException:
            raise asyncio.CancelledError("mine") from None

    app = LifespanMiddleware(Journal().app())
    app.on_startup(hook, timeout=3)
    server, error = await failing(app, LifespanTimeout)
    assert error.__context__ is None
    assert server.answers == ["startup.failed"]


async def test_a_hook_that_raises_what_closes_generators_has_failed() -> None:
    """Raised on, it would look like the end of our own coroutines."""

    async def closes() -> None:
        raise GeneratorExit

    server, error = await failing(LifespanMiddleware(Journal().app(), on_startup=[closes]), StartupFailed)
    assert isinstance(error.__cause__, GeneratorExit)
    assert server.answers == ["startup.failed"]


async def test_errors_of_one_app_make_no_circle() -> None:
    """A violation from which the app raises another error: the other one holds it, and not each the other."""

    async def raises_from_the_violation(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "lifespan.shutdown.complete"})
        except ProtocolViolation as violation:
            raise ValueError("cannot go on") from violation

    _, error = await failing(LifespanMiddleware(raises_from_the_violation), ValueError)
    assert isinstance(error.__cause__, ProtocolViolation)
    assert error.__cause__.__context__ is None


@pytest.mark.parametrize("name", ["__cause__", "__context__"])
async def test_a_second_error_that_does_not_say_what_it_comes_of_is_kept_behind_the_first(name: str) -> None:
    """A property of the user's exception raises; the server is answered all the same."""

    def raises(error: object) -> None:
        raise ValueError(name)

    hostile = type("Hostile", (Exception,), {name: property(raises)})

    async def hangs_and_breaks() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise hostile("on the way out")

    app = LifespanMiddleware(Journal().app())
    app.on_startup(hangs_and_breaks, timeout=1)
    server, error = await failing(app, LifespanTimeout)
    assert isinstance(error.__context__, hostile)
    assert server.answers == ["startup.failed"]


async def test_an_error_in_the_clean_up_of_a_cancelled_start_is_a_failed_startup(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The unit never started, so that its shutdown cannot fail."""

    async def breaks_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("on the way out")

    await cancelled(LifespanMiddleware(Journal().app(), on_startup=[breaks_when_cancelled]), RecordingServer(), after=5)
    assert "startup failed in hook 'breaks_when_cancelled'" in caplog.text
    assert "shutdown failed" not in caplog.text


async def test_an_error_in_the_clean_up_of_a_background_start_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    """The shutdown came while the hook was still starting, and cancelled it."""
    crashes: list[BaseException] = []
    app = LifespanMiddleware(Journal().app(), on_crash=crashes.append)

    @app.on_startup(background=True)
    async def breaks_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("on the way out")

    server, _ = await failing(app, Boom)
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert "startup failed in hook 'breaks_when_cancelled'" in caplog.text
    assert crashes == []


async def test_what_closes_generators_in_the_clean_up_of_a_cancelled_start_is_a_failed_startup(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The exception that stands for it has the name of the phase, too."""

    async def closes_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise GeneratorExit

    await cancelled(LifespanMiddleware(Journal().app(), on_startup=[closes_when_cancelled]), RecordingServer(), after=5)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info
    assert record.exc_info[0] is StartupFailed


@pytest.mark.parametrize("limit", [None, 60])
async def test_a_slow_unit_has_no_hint_at_a_limit_that_a_run_around_its_own_has(
    limit: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """``LifespanManager(app, startup_timeout=60)`` limits the hooks of a middleware inside too."""
    inner = LifespanMiddleware(Journal().app(), on_startup=[functools.partial(anyio.sleep, 15)])
    async with LifespanManager(LifespanMiddleware(inner), startup_timeout=limit):
        pass
    [slow] = [record.getMessage() for record in caplog.records if "takes more than" in record.getMessage()]
    assert slow.endswith("; no startup_timeout is set") is (limit is None)


async def test_a_diagnosis_that_fails_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Looking where a slow unit stands touches objects of the user's."""

    def fails(task: object) -> str:
        raise RuntimeError("working outside of request context")

    monkeypatch.setattr("asgi_lifespan_mw._units.unit.where", fails)
    await run(LifespanMiddleware(Journal().app(), on_startup=[functools.partial(anyio.sleep, 15)]))
    assert "takes more than 10 s" in caplog.text


async def test_only_what_ignores_its_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Of two that are stopped side by side, the other one is joined."""

    def app_that(ignores: bool) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await Journal().app()(scope, receive, send)
            with anyio.CancelScope(shield=ignores):
                await anyio.sleep(50)

        return app

    routes = [Mount("/ignores", app_that(ignores=True)), Mount("/heeds", app_that(ignores=False))]
    await RecordingServer().run(LifespanMiddleware(Starlette(routes=routes), concurrent=True))
    assert "mount '/ignores' did not stop after being cancelled" in caplog.text
    assert "mount '/heeds' did not stop" not in caplog.text
    await anyio.sleep(100)


async def test_a_slow_unit_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After 10, 20, 40 seconds, with the place where it waits; files are told from the working directory on."""

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await anyio.sleep(45)
        yield

    await run(LifespanMiddleware(Journal().app(), slow))
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split(" takes more than ")[1].split(" s")[0] for text in texts] == ["10", "20", "40"]
    assert all(text.startswith("startup of hook 'slow' (tests/units/test_supervisor.py:") for text in texts)
    assert all(text.split(", at ")[1].startswith("tests/units/test_supervisor.py:") for text in texts)


async def test_context_variables_are_seen_by_all_that_start_after() -> None:
    """What a hook sets is there in the app, though each has a task of its own."""
    variable: ContextVar[str] = ContextVar("variable")
    seen: list[str] = []

    @asynccontextmanager
    async def sets() -> AsyncIterator[None]:
        variable.set("by a hook")
        yield

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        await Journal().app()(scope, receive, send)

    await run(LifespanMiddleware(app, sets, on_shutdown=[lambda: seen.append(variable.get())]))
    assert seen == ["by a hook", "by a hook"]


# Cancellation by the server.


async def cancelled(app: LifespanMiddleware, server: RecordingServer, *, after: float) -> None:
    """Run a lifespan in a scope that is cancelled after some seconds, as a server on anyio or trio does."""
    with anyio.move_on_after(after) as scope:
        await server.run(app)
    assert scope.cancelled_caught


async def test_a_cancellation_while_serving_stops_everything(journal: Journal) -> None:
    """Nothing is sent, and the cancellation goes on."""
    server = RecordingServer(holds_on=True)
    app = LifespanMiddleware(journal.app(), [journal.context("a"), journal.context("b")])
    await cancelled(app, server, after=5)
    assert journal.events == ["+a", "+b", "+app", "-app", "-b", "-a"]
    assert server.answers == ["startup.complete"]


async def test_a_cancellation_while_starting_stops_what_had_started(journal: Journal) -> None:
    """The unit that was at work is cancelled, what had started is left in reverse."""
    server = RecordingServer()
    await cancelled(LifespanMiddleware(journal.app(), [journal.context("a"), hangs_at_start]), server, after=5)
    assert journal.events == ["+a", "-a"]
    assert server.answers == []


async def test_a_cancelled_startup_is_no_failure_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Starlette answers the cancellation with a failure, but nobody asks any more."""
    app = LifespanMiddleware(Starlette(lifespan=lambda _: hangs_at_start()))
    await cancelled(app, RecordingServer(), after=5)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_cancellation_while_stopping_goes_on_stopping(journal: Journal) -> None:
    """What is left is stopped, shielded, within ten seconds; what hangs is cancelled."""
    server = RecordingServer()
    app = LifespanMiddleware(journal.app(), [journal.context("a"), hangs_at_stop])
    began = anyio.current_time()
    await cancelled(app, server, after=5)
    assert anyio.current_time() - began == pytest.approx(5 + 10, abs=0.5)
    assert journal.events == ["+a", "+app", "-app", "-a"]
    assert server.answers == ["startup.complete"]


async def test_a_unit_that_fails_by_its_own_cancellation_after_that_of_the_server_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server cancels the lifespan's task alone, by a cancel scope, and not the task of the unit."""

    @asynccontextmanager
    async def awaits_a_cancelled_task() -> AsyncIterator[None]:
        yield
        raise asyncio.CancelledError

    await cancelled(
        LifespanMiddleware(Journal().app(), awaits_a_cancelled_task), RecordingServer(holds_on=True), after=5
    )
    assert "cancelled unexpectedly" in caplog.text


@pytest.mark.parametrize(("limit", "seconds"), [(None, 10), (3, 3)])
async def test_a_cancellation_is_followed_by_a_bounded_stop(
    limit: float | None, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten seconds where there is no limit, else the limit; what ran out of time is in the log."""
    server = RecordingServer(holds_on=True)
    began = anyio.current_time()
    await cancelled(LifespanMiddleware(Journal().app(), hangs_at_stop, shutdown_timeout=limit), server, after=5)
    assert anyio.current_time() - began == pytest.approx(5 + seconds, abs=0.5)
    assert f"shutdown timed out after {seconds} s in hook 'hangs_at_stop'" in caplog.text


class TestNativeCancellation:
    """`Task.cancel`, which knows no shields: asyncio's servers use it."""

    @pytest.fixture(params=VIRTUAL[:2])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Asyncio only."""
        return request.param()

    async def _started(self, app: LifespanMiddleware, server: RecordingServer) -> "asyncio.Task[None]":
        task = asyncio.create_task(server.run(app))
        await server.started.wait()
        return task

    async def _cancelled_by(self, task: "asyncio.Task[None]", *also: "asyncio.Task[Any]") -> None:
        for one in (*also, task):
            one.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    async def test_cancelling_the_lifespans_task_stops_everything(self, journal: Journal) -> None:
        """The server's handle on us is its task."""
        server = RecordingServer(holds_on=True)
        task = await self._started(
            LifespanMiddleware(journal.app(), [journal.context("a"), journal.context("b")]), server
        )
        await self._cancelled_by(task)
        assert journal.events == ["+a", "+b", "+app", "-app", "-b", "-a"]
        assert server.answers == ["startup.complete"]

    async def test_cancelling_every_task_of_the_loop_keeps_the_order(self, journal: Journal) -> None:
        """`asyncio.run` does this at its end: uvicorn on a second Ctrl-C, gunicorn's worker on SIGQUIT."""

        class Plain(Journal):
            """Records without a task of its own, which would be cancelled too."""

            def context(self, name: str, **state: Any) -> Any:
                @asynccontextmanager
                async def recorded() -> AsyncIterator[None]:
                    self.events.append(f"+{name}")
                    yield
                    await anyio.lowlevel.checkpoint()
                    self.events.append(f"-{name}")

                return recorded

        plain = Plain()
        server = RecordingServer(holds_on=True)
        before = asyncio.all_tasks()
        task = await self._started(LifespanMiddleware(plain.app(), [plain.context("a"), plain.context("b")]), server)
        ours = asyncio.all_tasks() - before - {task}
        assert len(ours) == 3
        await self._cancelled_by(task, *ours)
        assert plain.events == ["+a", "+b", "+app", "-app", "-b", "-a"]
        assert server.answers == ["startup.complete"]

    async def test_a_task_group_that_is_open_is_left_as_it_should_be(self, journal: Journal) -> None:
        """Its tasks are cancelled too, which cancels the group; what comes after it in the context still runs."""

        def app_with_group(name: str) -> Any:
            @asynccontextmanager
            async def lifespan(app: Any) -> AsyncIterator[None]:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep_forever)
                    journal.events.append(f"+{name}")
                    try:
                        yield
                    finally:
                        tasks.cancel_scope.cancel()
                        await (
                            anyio.lowlevel.checkpoint()
                        )  # raises the group's own cancellation, which ends at the group
                journal.events.append(f"-{name}")

            return Starlette(lifespan=lifespan)

        inner = LifespanMiddleware(app_with_group("b"), app_with_group("c").router.lifespan_context)
        app = app_with_group("a")
        app.mount("/b", inner)
        server = RecordingServer(holds_on=True)
        before = asyncio.all_tasks()
        task = await self._started(LifespanMiddleware(app), server)
        ours = asyncio.all_tasks() - before - {task}
        await self._cancelled_by(task, *ours)
        assert journal.events == ["+a", "+c", "+b", "-b", "-c", "-a"]

    async def test_cancelling_every_task_while_starting_is_no_failure(
        self, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The unit at work was cancelled by the server, like the lifespan itself."""
        server = RecordingServer()
        before = asyncio.all_tasks()
        app = LifespanMiddleware(journal.app(), on_startup=[anyio.sleep_forever])
        task = asyncio.create_task(server.run(app))
        await anyio.sleep(1)
        await self._cancelled_by(task, *(asyncio.all_tasks() - before - {task}))
        assert server.answers == []
        assert "fail" not in caplog.text

    async def test_a_second_cancellation_does_not_end_the_stop(self, journal: Journal) -> None:
        """The stop goes on where it was."""

        @asynccontextmanager
        async def slow_to_stop() -> AsyncIterator[None]:
            yield
            await anyio.sleep(3)
            journal.events.append("-slow")

        server = RecordingServer(holds_on=True)
        task = await self._started(LifespanMiddleware(journal.app(), [journal.context("a"), slow_to_stop]), server)
        task.cancel()
        await anyio.sleep(1)
        await self._cancelled_by(task)
        assert journal.events == ["+a", "+app", "-app", "-slow", "-a"]

    async def test_a_stop_that_the_server_cuts_short_is_in_the_log(
        self, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Gunicorn's worker cancels all tasks a second time after a second; what it leaves undone is a failure."""

        @asynccontextmanager
        async def slow_to_stop() -> AsyncIterator[None]:
            yield
            await anyio.sleep(3)
            raise AssertionError

        server = RecordingServer(holds_on=True)
        before = asyncio.all_tasks()
        task = await self._started(LifespanMiddleware(journal.app(), [journal.context("a"), slow_to_stop]), server)
        for one in asyncio.all_tasks() - before:
            one.cancel()
        await anyio.sleep(1)
        assert caplog.text == ""
        await self._cancelled_by(task, *(asyncio.all_tasks() - before - {task}))
        assert "shutdown failed in hook 'slow_to_stop'" in caplog.text
        assert "cancelled by the server before it finished" in caplog.text
        assert server.answers == ["startup.complete"]

    async def test_an_older_cancellation_of_the_lifespans_task_hides_nothing(
        self, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Common code catches one and goes on; `Task.cancelling` stays up for ever."""

        async def awaits_a_cancelled_task() -> None:
            raise asyncio.CancelledError

        async def drive() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            await failing(LifespanMiddleware(journal.app(), on_startup=[awaits_a_cancelled_task]), StartupFailed)

        await asyncio.create_task(drive())
        assert journal.events == []

    async def test_units_whose_driver_goes_without_stopping_them_end_by_themselves(self, journal: Journal) -> None:
        """A fixture whose task is cancelled, and that nobody resumes: the end of the event loop must not hang."""

        async def fixture() -> AsyncIterator[None]:
            async with LifespanManager(LifespanMiddleware(journal.app(), journal.context("a"))):
                yield

        generator = fixture()

        async def user() -> None:
            await anext(generator)
            await anyio.sleep_forever()

        before = asyncio.all_tasks()
        task = asyncio.create_task(user())
        await anyio.sleep(1)
        await self._cancelled_by(task, *(asyncio.all_tasks() - before - {task}))
        await anyio.sleep(5)
        assert asyncio.all_tasks() <= before
        assert sorted(journal.events)[:2] == ["+a", "+app"]
        await generator.aclose()  # type: ignore[attr-defined]  # it is an async generator

    async def test_a_unit_that_is_cancelled_alone_has_crashed(
        self, journal: Journal, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nobody asked for it, so it is a failure, and the others stay up."""
        server = RecordingServer(holds_on=True)
        before = asyncio.all_tasks()
        task = await self._started(LifespanMiddleware(journal.app(), fails_to_stop), server)
        (unit,) = [one for one in asyncio.all_tasks() - before - {task} if "fails_to_stop" in one.get_name()]
        unit.cancel()
        await anyio.sleep(1)
        assert "cancelled unexpectedly" in caplog.text
        server.may_stop.set()
        with pytest.raises(ShutdownFailed):
            await task
        assert journal.events == ["+app", "-app"]

    async def test_a_unit_that_is_cancelled_alone_when_a_slow_unit_is_logged_has_crashed(
        self, journal: Journal
    ) -> None:
        """Only the unit was cancelled, though the owner of the units wakes up in the same moment."""
        began = asyncio.get_running_loop().time()

        @asynccontextmanager
        async def is_cancelled_after_10_s() -> AsyncIterator[None]:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_at(began + 10, task.cancel)
            yield

        app = LifespanMiddleware(journal.app(), is_cancelled_after_10_s, on_startup=[anyio.sleep_forever])
        server, error = await failing(app, ShutdownFailed)
        assert asyncio.get_running_loop().time() == began + 10
        assert "cancelled unexpectedly" in str(error)
        assert server.answers == ["startup.failed"]

    async def test_a_cancellation_that_nobody_asked_for_is_a_failure_when_an_app_has_taken_its_second(self) -> None:
        """It has said that it stopped, and breaks in the moment in which it would be cancelled."""

        async def breaks_late(scope: Scope, receive: Receive, send: Send) -> None:
            await Journal().app()(scope, receive, send)
            await awaits_a_cancelled_task_after(1)

        _, error = await failing(LifespanMiddleware(breaks_late), ShutdownFailed)
        assert "cancelled unexpectedly" in str(error)

    async def test_a_task_that_needs_one_more_step_is_not_cancelled_when_the_time_is_up(self) -> None:
        """No time is left, and the unit still gets the step in which it stops. On trio the order of steps is random."""

        async def body(unit: Unit) -> None:
            unit.started()
            await unit.wait_for_stop()

        units, unit = Supervisor(lambda _: None), Unit("it", body)
        await units.start(unit)
        unit.request_stop()
        await finish(units.shared, [unit], until=anyio.current_time())
        assert not unit.is_cancelled()
        assert unit.stage is UnitState.OVER
        await units.stop()

    async def test_a_unit_that_is_cancelled_before_its_first_step_makes_it_and_has_failed(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is cancelled where it waits, so that it cleans up, and nobody waits for it."""

        def spawn_cancelled(*args: Any) -> object:
            task = spawn(*args)
            assert isinstance(task, asyncio.Task)
            task.cancel()
            return task

        async def waits() -> None:
            journal.events.append("begun")
            try:
                await anyio.sleep_forever()
            finally:
                journal.events.append("cleaned up")

        monkeypatch.setattr("asgi_lifespan_mw._units.unit.spawn", spawn_cancelled)
        app = LifespanMiddleware(journal.app(), on_startup=[waits])
        _, error = await failing(app, StartupFailed)
        assert "hook 'waits'" in str(error)
        assert journal.events == ["begun", "cleaned up"]


async def test_the_line_of_a_unit_is_its_own_if_the_run_in_it_is_done() -> None:
    """The hook that runs other hooks waits for something else."""
    inner = Lifespan(on_startup=[lambda: None])
    app = LifespanMiddleware(Journal().app())

    @app.on_startup(timeout=1)
    async def hangs() -> None:
        async with inner(None):
            await anyio.sleep_forever()

    _, error = await failing(app, LifespanTimeout)
    [note] = error.__notes__
    assert re.fullmatch(r"it was at \S*test_supervisor\.py:\d+ in hangs", note)
