"""`LifespanManager`: an app's lifespan, driven from outside."""

import functools
import logging
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio.lowlevel
import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from asgi_lifespan_mw import (
    Lifespan,
    LifespanManager,
    LifespanMiddleware,
    LifespanNotSupported,
    LifespanTimeout,
    ProtocolViolation,
    ShutdownFailed,
    StartupFailed,
)
from asgi_lifespan_mw._protocol.table import EXPECTED, TABLE, Event, Phase, Severity
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.conftest import VIRTUAL
from tests.plans import Boom, CrashesOnDemand, Journal, fails_to_start, fails_to_stop, hangs_at_start, hangs_at_stop
from tests.server import RecordingServer, request


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock."""
    return request.param()


async def test_an_app_is_started_and_stopped_around_the_block(journal: Journal) -> None:
    """It is entered when the app has started, and left when it has stopped."""
    async with LifespanManager(journal.app()):
        assert journal.events == ["+app"]
    assert journal.events == ["+app", "-app"]


async def test_requests_get_a_copy_of_the_state() -> None:
    """Through `manager.app`; what a request writes is its own."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = "a pool"
            await Journal().app()(scope, receive, send)
        else:
            seen.append(dict(scope["state"]))
            scope["state"]["mine"] = True

    async with LifespanManager(app) as manager:
        await RecordingServer().run(manager.app)
        assert manager.state == {"pool": "a pool"}
        await request(manager.app)
        await request(manager.app, state={"pool": "another"})
        await request(manager.app)
    assert seen == [{"pool": "a pool"}, {"pool": "another"}, {"pool": "a pool"}]


async def test_the_apps_own_exception_comes_out_at_once() -> None:
    """Never in a group, on any event loop."""
    with pytest.raises(Boom, match="no start"):
        async with LifespanManager(Starlette(lifespan=lambda _: fails_to_start())):
            raise AssertionError
    with pytest.raises(Boom, match="no stop"):
        async with LifespanManager(Starlette(lifespan=lambda _: fails_to_stop())):
            pass


@pytest.mark.parametrize(("phase", "error"), [("startup", StartupFailed), ("shutdown", ShutdownFailed)])
async def test_a_failure_without_an_exception_has_the_apps_message(phase: str, error: type[Exception]) -> None:
    """At once, and not as a bare time-out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if phase == "shutdown":
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": f"lifespan.{phase}.failed", "message": "no database"})

    began = anyio.current_time()
    with pytest.raises(error, match="no database"):
        async with LifespanManager(app):
            pass
    assert anyio.current_time() - began < 1


@pytest.mark.parametrize("refuses", ["raises", "returns", "receives and returns"])
async def test_an_app_without_lifespan_is_told_apart(refuses: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is the cause."""
    caplog.set_level(logging.ERROR)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if refuses == "raises":
            raise Boom
        if refuses != "returns":
            await receive()

    with pytest.raises(LifespanNotSupported, match="does not support the lifespan protocol") as raised:
        async with LifespanManager(app):
            raise AssertionError
    assert isinstance(raised.value.__cause__, Boom if refuses == "raises" else type(None))


@pytest.mark.parametrize("interrupt", [SystemExit, KeyboardInterrupt])
async def test_an_app_may_end_the_program(interrupt: type[BaseException]) -> None:
    """What is no `Exception` comes out as it is, too."""

    def ends() -> None:
        raise interrupt

    with pytest.raises(interrupt):
        async with LifespanManager(LifespanMiddleware(Starlette(), on_startup=[ends])):
            raise AssertionError


async def test_time_limits_say_in_which_phase() -> None:
    """Five seconds each by default."""
    with pytest.raises(LifespanTimeout, match="startup timed out after 5 s in app Starlette"):
        async with LifespanManager(Starlette(lifespan=lambda _: hangs_at_start())):
            raise AssertionError
    with pytest.raises(LifespanTimeout, match="shutdown timed out after 2 s in app Starlette"):
        async with LifespanManager(Starlette(lifespan=lambda _: hangs_at_stop()), shutdown_timeout=2):
            pass


async def test_a_block_that_raises_is_followed_by_the_shutdown(journal: Journal) -> None:
    """Its exception comes out as it is."""
    with pytest.raises(Boom, match="in the block"):
        async with LifespanManager(journal.app()):
            raise Boom("in the block")
    assert journal.events == ["+app", "-app"]


async def test_the_blocks_exception_is_not_hidden_by_a_failed_shutdown() -> None:
    """Both come out, the block's first."""
    with pytest.raises(ExceptionGroup) as raised:
        async with LifespanManager(Starlette(lifespan=lambda _: fails_to_stop())):
            raise Boom("in the block")
    assert [str(error) for error in raised.value.exceptions] == ["in the block", "no stop"]


async def test_an_interrupt_of_the_block_is_not_hidden_either() -> None:
    """It is no `Exception`, and so is the group."""
    with pytest.raises(BaseExceptionGroup) as raised:
        async with LifespanManager(Starlette(lifespan=lambda _: fails_to_stop())):
            raise KeyboardInterrupt
    assert [type(error) for error in raised.value.exceptions] == [KeyboardInterrupt, Boom]


async def test_what_breaks_while_serving_comes_out_at_the_end() -> None:
    """At the latest, for the block is not to be interrupted."""
    worker = CrashesOnDemand()
    with pytest.raises(ExceptionGroup) as raised:
        async with LifespanManager(LifespanMiddleware(Starlette(), lambda _: worker())):
            worker.demand.set()
            await anyio.sleep(1)
    assert [str(error) for error in raised.value.exceptions] == ["worker broke"]


async def test_a_block_that_is_cancelled_is_followed_by_the_shutdown(journal: Journal) -> None:
    """Shielded, and the cancellation goes on."""
    app = LifespanMiddleware(journal.app(), journal.context("a"))
    with anyio.move_on_after(5) as scope:
        async with LifespanManager(app):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert journal.events == ["+a", "+app", "-app", "-a"]


async def test_a_cancellation_does_not_take_the_place_of_the_blocks_error() -> None:
    """The stop is finished within its time, shielded, and the error comes out."""
    began = anyio.current_time()
    with pytest.raises(Boom), anyio.move_on_after(5):
        async with LifespanManager(Starlette(lifespan=lambda _: hangs_at_stop()), shutdown_timeout=20):
            raise Boom
    assert anyio.current_time() - began == pytest.approx(25, abs=0.5)


async def test_it_is_entered_once_at_a_time(journal: Journal) -> None:
    """A second entry is refused; after it was left, it may be entered again."""
    manager = LifespanManager(journal.app())
    async with manager:
        with pytest.raises(RuntimeError, match="entered already"):
            await manager.__aenter__()
    with pytest.raises(RuntimeError, match=r"LifespanManager (was not entered|has been left); the exit works inside"):
        await manager.__aexit__(None, None, None)
    async with manager:
        pass
    assert journal.events == ["+app", "-app"] * 2


async def test_it_is_not_entered_twice_at_once(journal: Journal) -> None:
    """Also while the first entry is under way; and one that failed may be tried again."""
    hooks = LifespanMiddleware(journal.app(), on_startup=[functools.partial(anyio.sleep, 1)])
    manager = LifespanManager(hooks, startup_timeout=None)
    refused: list[str] = []

    async def enters() -> None:
        try:
            await manager.__aenter__()
        except RuntimeError as error:
            refused.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enters)
        tasks.start_soon(enters)
    await manager.__aexit__(None, None, None)
    assert len(refused) == 1
    assert journal.events == ["+app", "-app"]


DEPARTURES = [
    pytest.param(phase, step, id=f"{step.value}, {phase.value}")
    for phase, rules in TABLE.items()
    for step, transition in rules.items()
    if transition.severity is not Severity.FINE
]
"""Each that is tolerated otherwise, and each that never is."""
LEADS_TO = {
    Phase.IDLE: [],
    Phase.STARTING: [Event.RECEIVES],
    Phase.STARTED: [Event.RECEIVES, Event.COMPLETES_STARTUP],
    Phase.STOPPING: [Event.RECEIVES, Event.COMPLETES_STARTUP, Event.RECEIVES],
    Phase.STOPPED: [Event.RECEIVES, Event.COMPLETES_STARTUP, Event.RECEIVES, Event.COMPLETES_SHUTDOWN],
}


@pytest.mark.parametrize(("phase", "step"), DEPARTURES)
async def test_strict_makes_departures_errors(phase: Phase, step: Event) -> None:
    """A checker of one's own app: each comes out, with who did what, when, and what would have been right."""
    steps = [*LEADS_TO[phase], step]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for one in steps:
            if one is Event.RECEIVES:
                await receive()
            elif one is not Event.RETURNS:
                await send({"type": (re.findall("'(.*)'", one.value) or ["nonsense"])[0]})

    deed = "sent 'nonsense'" if step is Event.SENDS_OTHER else step.value
    said = f"app {app.__qualname__}() {deed} while {phase.value}; expected {EXPECTED[phase]}"
    with pytest.raises(ProtocolViolation, match=re.escape(said)):
        async with LifespanManager(app, strict=True):
            pass


async def test_it_may_be_left_in_another_task(journal: Journal) -> None:
    """Fixtures of pytest-asyncio do that, and of pytest-trio: nothing of ours is tied to the task that entered."""
    manager = LifespanManager(LifespanMiddleware(journal.app(), journal.context("a")))
    for step in (manager.__aenter__, functools.partial(manager.__aexit__, None, None, None)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
    assert journal.events == ["+a", "+app", "-app", "-a"]


Interrupt = Callable[[], Awaitable[None]]


class Synchronous:
    """Makes managers for a plain ``with``, on one event loop."""

    def __init__(self, backend: str, options: dict[str, Any]) -> None:
        self._options: dict[str, Any] = {"backend": backend, "backend_options": options}

    def __call__(self, app: ASGIApp | Lifespan, **options: Any) -> LifespanManager:
        return LifespanManager(app, **options, **self._options)


LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"debug": True}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
"""With the true time: a virtual clock would run off while another thread is at work."""


@pytest.fixture(params=LOOPS)
def synchronous(request: pytest.FixtureRequest) -> Iterator[Synchronous]:
    """Each event loop in turn; none of its threads is left."""
    yield Synchronous(*LOOPS[request.param])
    assert not [thread for thread in threading.enumerate() if "portal" in thread.name]


@pytest.fixture
def ctrl_c() -> Iterator[Interrupt]:
    """What Ctrl-C does while the main thread waits; an event loop of another test may have left its own handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def interrupts() -> None:
        await anyio.sleep(0.05)  # until the main thread waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    yield interrupts
    signal.signal(signal.SIGINT, before)


def test_a_plain_with_runs_the_app_in_a_thread(synchronous: Synchronous, journal: Journal) -> None:
    """Started when it is entered, stopped when it is left; and then again."""
    app = LifespanMiddleware(journal.app(), journal.context("a", db="open"))
    with (manager := synchronous(app)) as entered:
        assert entered is manager
        assert journal.events == ["+a", "+app"]
        assert manager.state == {"db": "open"}
    assert journal.events == ["+a", "+app", "-app", "-a"]
    with manager:
        pass
    assert journal.events == ["+a", "+app", "-app", "-a"] * 2


def test_a_plain_with_calls_functions_where_the_app_lives(synchronous: Synchronous) -> None:
    """Their result comes back; requests to `manager.app` are one use of it."""
    seen: list[object] = []

    async def opens() -> AsyncIterator[dict[str, object]]:
        seen.append(threading.get_ident())
        yield {"db": "open"}

    async def ask(path: str) -> object:
        seen.append(threading.get_ident())
        start, body = await request(manager.app, path)
        return start["status"], body["body"]

    routes = [Route("/db", lambda request: PlainTextResponse(request.state.db))]
    with synchronous(LifespanMiddleware(Starlette(routes=routes), lifespan=Lifespan(contexts=[opens]))) as manager:
        assert manager.call(ask, "/db") == (200, b"open")
    assert seen == [seen[0]] * 2
    assert seen[0] != threading.get_ident()


@pytest.mark.parametrize("error", [Boom, SystemExit, KeyboardInterrupt])
def test_a_plain_with_lets_errors_out_as_they_are(
    error: type[BaseException], synchronous: Synchronous, journal: Journal
) -> None:
    """Of the startup, of the block, of a function that is called, and of the shutdown."""
    first = journal.context("first")

    async def fails() -> None:
        raise error("here")

    with pytest.raises(error, match="here"):
        with synchronous(Lifespan(contexts=[first], on_startup=[fails])):
            raise AssertionError
    with pytest.raises(error, match="here"):
        with synchronous(Lifespan(contexts=[first])):
            raise error("here")
    with pytest.raises(error, match="here"):
        with synchronous(Lifespan(contexts=[first])) as manager:
            manager.call(fails)
    with pytest.raises(error, match="here"):
        with synchronous(Lifespan(contexts=[first], on_shutdown=[fails])):
            pass
    assert journal.events == ["+first", "-first"] * 4


def test_a_plain_with_hides_no_error_of_the_block(synchronous: Synchronous) -> None:
    """As `async with`: both come out, the block's first."""
    with pytest.raises(ExceptionGroup) as raised:
        with synchronous(Starlette(lifespan=lambda _: fails_to_stop())):
            raise Boom("in the block")
    assert [str(error) for error in raised.value.exceptions] == ["in the block", "no stop"]


def test_an_app_without_lifespan_is_refused_in_a_plain_with(synchronous: Synchronous) -> None:
    """Its exception is the cause."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise Boom

    with pytest.raises(LifespanNotSupported) as raised:
        with synchronous(app):
            raise AssertionError
    assert isinstance(raised.value.__cause__, Boom)


def test_ctrl_c_while_it_starts_stops_what_had_started(
    synchronous: Synchronous, journal: Journal, ctrl_c: Interrupt
) -> None:
    """The startup is cancelled, and the interrupt comes out when all is stopped."""

    async def hangs() -> None:
        await ctrl_c()
        await anyio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        with synchronous(Lifespan(contexts=[journal.context("a")], on_startup=[hangs]), startup_timeout=None):
            raise AssertionError
    assert journal.events == ["+a", "-a"]


def test_ctrl_c_just_when_it_has_started_stops_it(
    synchronous: Synchronous, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was told that it runs, so nobody would stop it."""
    call = LifespanManager._call

    def interrupted(*args: Any) -> None:
        call(*args)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(LifespanManager, "_call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with synchronous(journal.app()):
            raise AssertionError
    assert journal.events == ["+app", "-app"]


def test_ctrl_c_in_a_called_function_ends_it_before_the_shutdown(
    synchronous: Synchronous, journal: Journal, ctrl_c: Interrupt
) -> None:
    """It may have something of the app's in its hands, which it can give back first."""

    async def works() -> None:
        await ctrl_c()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            journal.events.append("work is over")

    with pytest.raises(KeyboardInterrupt):
        with synchronous(journal.app()) as manager:
            manager.call(works)
    assert journal.events == ["+app", "work is over", "-app"]


def test_ctrl_c_while_it_stops_lets_the_rest_stop(
    synchronous: Synchronous, journal: Journal, ctrl_c: Interrupt
) -> None:
    """Within the time that there is, and then it comes out."""

    async def interrupts() -> None:
        await ctrl_c()
        await anyio.sleep(0.05)
        journal.events.append("end")

    with pytest.raises(KeyboardInterrupt):
        with synchronous(Lifespan(contexts=[journal.context("a")], on_shutdown=[interrupts])):
            pass
    assert journal.events == ["+a", "end", "-a"]


def test_a_plain_with_is_entered_once_at_a_time(synchronous: Synchronous, journal: Journal) -> None:
    """A second entry leaves the first one as it is."""
    with synchronous(journal.app()) as manager:
        with pytest.raises(RuntimeError, match="entered already"):
            manager.__enter__()
        manager.call(anyio.lowlevel.checkpoint)
        assert journal.events == ["+app"]
    assert journal.events == ["+app", "-app"]


async def test_a_plain_with_does_not_hold_an_event_loop_up(journal: Journal) -> None:
    """Who forgot `async` is told so; a thread beside the event loop may have one."""

    def lived() -> None:
        with LifespanManager(journal.app()):
            pass

    with pytest.raises(RuntimeError, match="use `async with`"):
        lived()
    await anyio.to_thread.run_sync(lived)
    assert journal.events == ["+app", "-app"]


@pytest.mark.parametrize(("backend", "error"), [("gevent", ValueError), ("", ValueError), (None, TypeError)])
def test_a_backend_that_there_is_not_is_refused_at_once(backend: Any, error: type[Exception], journal: Journal) -> None:
    """What was given and what was expected; not only when it is entered."""
    said = rf"LifespanManager\(backend=\.\.\.\) got {backend!r}, expected 'asyncio' or 'trio'"
    with pytest.raises(error, match=said):
        LifespanManager(journal.app(), backend=backend)


async def test_a_backend_that_is_not_installed_is_told_of(monkeypatch: pytest.MonkeyPatch, journal: Journal) -> None:
    """With what to install, where it is needed: `async with` runs on the event loop that is there."""
    manager = LifespanManager(journal.app(), backend="trio")
    async with manager:
        pass
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(LookupError, match=r"LifespanManager\(backend='trio'\) needs trio: pip install trio"):
        await anyio.to_thread.run_sync(manager.__enter__)
    monkeypatch.undo()
    await anyio.to_thread.run_sync(manager.__enter__)
    await anyio.to_thread.run_sync(manager.__exit__, None, None, None)
    assert journal.events == ["+app", "-app"] * 2


def test_call_needs_a_plain_with(journal: Journal) -> None:
    """Elsewhere there is no thread for it."""
    manager = LifespanManager(journal.app())
    with pytest.raises(RuntimeError, match=r"LifespanManager was not entered; call\(\) works inside of"):
        manager.call(anyio.sleep, 0)
    with manager:
        pass
    with pytest.raises(RuntimeError, match=r"LifespanManager has been left; call"):
        manager.call(anyio.sleep, 0)


async def test_hooks_run_without_an_app(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """For scripts and workers that need what the web app needs; time limits count, and there is nothing to request."""
    caplog.set_level(logging.INFO)
    given: list[object] = []
    hooks = Lifespan(contexts=[journal.context("a", db="open")])
    hooks.on_startup(given.append)
    async with LifespanManager(hooks) as manager:
        assert manager.state == {"db": "open"}
        assert given == [None]
        with pytest.raises(AttributeError, match=r"<Lifespan of 'a', .* has no app"):
            manager.app  # noqa: B018 - it must be refused
    assert journal.events == ["+a", "-a"]
    assert re.findall(r"s: (.*)", caplog.text) == ["hooks 2, mounts 0"] * 2
    hooks.on_startup(anyio.sleep_forever)
    with pytest.raises(LifespanTimeout, match=r"startup timed out after 5 s in hook 'sleep_forever'"):
        async with LifespanManager(hooks):
            raise AssertionError
    assert journal.events == ["+a", "-a"] * 2


async def test_the_old_name_of_waiting_until_ready_warns(journal: Journal) -> None:
    """It waits all the same."""
    async with LifespanManager(journal.app()) as manager:
        with pytest.warns(DeprecationWarning, match=r"wait_until_ready\(\) now"):
            await manager.ready()


async def test_call_is_not_for_async_with(journal: Journal) -> None:
    """The message says what to do there."""
    async with LifespanManager(journal.app()) as manager:
        with pytest.raises(RuntimeError, match=r"within `async with`, await the function"):
            manager.call(anyio.sleep, 0)


def test_a_request_from_another_event_loop_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """What the lifespan opened may not work there."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    async def ask() -> None:
        await manager.app({"type": "http"}, None, None)

    with LifespanManager(app) as manager:
        manager.call(ask)
        assert not caplog.records
        for _ in range(2):
            anyio.run(ask)
    [warning] = [record.getMessage() for record in caplog.records]
    assert "came from another event loop than the one in which LifespanManager started it" in warning
