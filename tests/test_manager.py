"""`LifespanManager`: an app's lifespan, driven from outside."""

import functools
import logging
import re
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from asgi_lifespan_mw import (
    LifespanManager,
    LifespanMiddleware,
    LifespanNotSupported,
    LifespanTimeout,
    ProtocolViolation,
    ShutdownFailed,
    StartupFailed,
)
from asgi_lifespan_mw._protocol import EXPECTED, TABLE, Phase, Severity, Step
from asgi_lifespan_mw._types import Receive, Scope, Send
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
    with pytest.raises(RuntimeError, match="was not entered"):
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
    for step, rule in rules.items()
    if rule.severity is not Severity.FINE
]
"""Each that is tolerated otherwise, and each that never is."""
LEADS_TO = {
    Phase.IDLE: [],
    Phase.STARTING: [Step.RECEIVES],
    Phase.STARTED: [Step.RECEIVES, Step.COMPLETES_STARTUP],
    Phase.STOPPING: [Step.RECEIVES, Step.COMPLETES_STARTUP, Step.RECEIVES],
    Phase.STOPPED: [Step.RECEIVES, Step.COMPLETES_STARTUP, Step.RECEIVES, Step.COMPLETES_SHUTDOWN],
}


@pytest.mark.parametrize(("phase", "step"), DEPARTURES)
async def test_strict_makes_departures_errors(phase: Phase, step: Step) -> None:
    """A checker of one's own app: each comes out, with who did what, when, and what would have been right."""
    steps = [*LEADS_TO[phase], step]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for one in steps:
            if one is Step.RECEIVES:
                await receive()
            elif one is not Step.RETURNS:
                await send({"type": (re.findall("'(.*)'", one.value) or ["nonsense"])[0]})

    deed = "sent 'nonsense'" if step is Step.SENDS_OTHER else step.value
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
