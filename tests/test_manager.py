"""`LifespanManager`: an app's lifespan, driven from outside."""

import asyncio
import functools
import logging
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
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.conftest import VIRTUAL
from tests.plans import Boom, Journal, fails_to_start, fails_to_stop, hangs_at_start, hangs_at_stop
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


@pytest.mark.parametrize("refuses", ["raises", "returns"])
async def test_an_app_without_lifespan_is_told_apart(refuses: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is the cause."""
    caplog.set_level(logging.ERROR)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if refuses == "raises":
            raise Boom

    with pytest.raises(LifespanNotSupported, match="does not support the lifespan protocol") as raised:
        async with LifespanManager(app):
            raise AssertionError
    assert isinstance(raised.value.__cause__, Boom if refuses == "raises" else type(None))


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


async def test_strict_makes_departures_errors() -> None:
    """A checker of one's own app."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    with pytest.raises(ProtocolViolation, match="returned while starting"):
        async with LifespanManager(app, strict=True):
            raise AssertionError


class TestOnAsyncio:
    """What fixtures of pytest-asyncio do."""

    @pytest.fixture(params=VIRTUAL[:2])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Asyncio only."""
        return request.param()

    async def test_it_may_be_left_in_another_task(self, journal: Journal) -> None:
        """Nothing of ours is tied to the task that entered."""
        manager = LifespanManager(LifespanMiddleware(journal.app(), journal.context("a")))
        await asyncio.create_task(manager.__aenter__())
        await asyncio.create_task(manager.__aexit__(None, None, None))
        assert journal.events == ["+a", "+app", "-app", "-a"]
