"""`check_lifespan`: what it finds in apps, and in which of its runs."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Finding, LifespanMiddleware, check_lifespan
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.conftest import VIRTUAL
from tests.plans import (
    Boom,
    Journal,
    fails_to_start,
    fails_to_stop,
    hangs_at_start,
    hangs_at_stop,
)
from tests.server import RecordingServer


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock."""
    return request.param()


async def found(app: ASGIApp) -> list[tuple[str, str, str]]:
    """The findings, without the name that every app of this file has in front."""
    findings = [(one.severity, one.run, one.text) for one in await check_lifespan(app)]
    return [(severity, run, text.replace("app App", "it")) for severity, run, text in findings]


class App:
    """An app that does what a subclass says, where it says so, and else what is right."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await self.after("startup", scope, send)
        await send({"type": "lifespan.startup.complete"})
        await self.after("answer", scope, send)
        await receive()
        await self.after("shutdown", scope, send)
        await send({"type": "lifespan.shutdown.complete"})
        await self.after("end", scope, send)

    async def after(self, moment: str, scope: Scope, send: Send) -> None:
        """Do something of its own."""


@contextlib.asynccontextmanager
async def lives() -> AsyncIterator[dict[str, object]]:
    """A lifespan with state and a worker in a task group."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        yield {"pool": "open"}
        tasks.cancel_scope.cancel()


WELL: dict[str, ASGIApp] = {
    "starlette": Starlette(),
    "fastapi": FastAPI(),
    "by hand": App(),
    "middleware": LifespanMiddleware(Starlette(routes=[Mount("/app", Journal().app())]), lives),
}


@pytest.mark.parametrize("name", WELL)
async def test_nothing_is_found_in_what_is_well(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is anything in the log but what each run of a middleware has there."""
    assert await check_lifespan(WELL[name]) == []
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_it_starts_the_app_in_seven_ways() -> None:
    """Which are cancelled twice, and lack what servers may lack."""
    seen: list[object] = []

    class Records(App):
        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            if moment in ("startup", "shutdown"):
                seen.append((moment, *sorted(scope), *scope.get("state", ())))
                scope.get("state", {})["set"] = moment

    assert await found(Records()) == []
    full, end = ("startup", "asgi", "state", "type"), ("shutdown", "asgi", "state", "type")
    assert seen == [
        *(full, (*end, "set")) * 2,
        *(("startup", "asgi", "type"), ("shutdown", "asgi", "type")),
        *(("startup", "state", "type"), ("shutdown", "state", "type", "set")),
        *(full, end),
        *(full, full),
    ]


async def test_an_app_that_fails_is_run_no_further() -> None:
    """What failed, in which phase, and with what."""
    (finding,) = await check_lifespan(Starlette(lifespan=lambda _: fails_to_start()))
    assert finding == Finding("violation", "normal", "startup failed in app Starlette: tests.plans.Boom: no start")
    (finding,) = await check_lifespan(Starlette(lifespan=lambda _: fails_to_stop()))
    assert finding == Finding("violation", "normal", "shutdown failed in app Starlette: tests.plans.Boom: no stop")


async def test_an_app_that_hangs_is_found_in_time() -> None:
    """Five seconds, or what is given."""
    (finding,) = await check_lifespan(Starlette(lifespan=lambda _: hangs_at_start()))
    assert (finding.severity, finding.run) == ("violation", "normal")
    assert finding.text.startswith("startup timed out after 5 s in app Starlette; it was at ")
    assert finding.text.endswith(" in hangs_at_start")
    (finding,) = await check_lifespan(Starlette(lifespan=lambda _: hangs_at_stop()), timeout=2)
    assert (finding.severity, finding.run) == ("violation", "normal")
    assert finding.text.startswith("shutdown timed out after 2 s in app Starlette; it was at ")
    assert finding.text.endswith(" in hangs_at_stop")


async def test_an_app_without_lifespan_is_a_note() -> None:
    """It may be so, and the exception with which it turned the lifespan away is told."""

    class HTTPOnly(App):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise Boom("not for me")

    (finding,) = await check_lifespan(HTTPOnly())
    assert (finding.severity, finding.run) == ("note", "normal")
    assert finding.text.endswith("HTTPOnly does not support the lifespan protocol: tests.plans.Boom: not for me")


async def test_departures_from_the_protocol_are_found_once() -> None:
    """Each with its own severity; they are not logged as well."""

    class Departs(App):
        __qualname__ = "App"

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            if moment == "answer":
                await send({"type": "lifespan.startup.complete"})

    expected = "expected a call of receive(), which gives 'lifespan.shutdown' when it is time"
    departure = f"it sent 'lifespan.startup.complete' while started; {expected}"
    assert await found(Departs()) == [("warning", "normal", departure)]


async def test_departures_of_what_a_middleware_runs_are_found(caplog: pytest.LogCaptureFixture) -> None:
    """They would be in the log only; a loop that never returns is the common one."""
    caplog.set_level(logging.DEBUG)

    async def loops(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    app = Starlette(routes=[Mount("/loops", loops)])
    assert await check_lifespan(LifespanMiddleware(app)) == [
        Finding("note", "normal", "mount '/loops' called receive() while stopped; expected a return")
    ]
    assert await check_lifespan(loops) == [
        Finding("note", "normal", f"app {loops.__qualname__}() called receive() while stopped; expected a return")
    ]
    assert "called receive()" not in caplog.text
    await RecordingServer().run(LifespanMiddleware(loops))
    assert "called receive()" in caplog.text, "the log has it again"


async def test_an_app_that_runs_only_once_is_found() -> None:
    """As the MCP SDK's session manager; the further runs would fail for the same reason."""

    class Once(App):
        __qualname__ = "App"
        ran = 0

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            if moment == "startup":
                self.ran += 1
                if self.ran > 1:
                    raise Boom("only once")

    app = Once()
    assert await found(app) == [("warning", "a second time", "startup failed in it: tests.plans.Boom: only once")]
    assert app.ran == 2


async def test_an_app_that_turns_away_a_second_lifespan_is_found() -> None:
    """More than a note, for it took the first one."""

    class Once(App):
        __qualname__ = "App"

        ran = False

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if self.ran:
                raise Boom
            self.ran = True
            await super().__call__(scope, receive, send)

    assert await found(Once()) == [
        ("warning", "a second time", "it does not support the lifespan protocol: tests.plans.Boom")
    ]


@pytest.mark.parametrize("key", ["state", "asgi"])
async def test_an_app_that_needs_what_servers_may_lack_is_a_note(key: str) -> None:
    """The servers of today have both."""

    class Needs(App):
        __qualname__ = "App"

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            if moment == "startup":
                scope[key]

    assert await found(Needs()) == [("note", f"without {key}", f"startup failed in it: KeyError: {key!r}")]


async def test_an_app_that_reads_state_at_its_shutdown_is_found() -> None:
    """A granian server has emptied it by then."""

    class Reads(App):
        __qualname__ = "App"

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            if moment == "startup":
                scope.setdefault("state", {})["pool"] = "open"
            if moment == "shutdown":
                del scope["state"]["pool"]

    run = "state emptied before the shutdown"
    assert await found(Reads()) == [("warning", run, "shutdown failed in it: KeyError: 'pool'")]


async def test_state_that_is_set_late_is_found() -> None:
    """A server may have copied it when the startup was answered; what is set before or at the shutdown is no matter."""

    class SetsLate(App):
        __qualname__ = "App"

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            scope.get("state", {})[moment] = moment

    late = "it set ['answer'] in the state after its startup was complete, too late for some servers"
    assert await found(SetsLate()) == [("warning", "normal", late)]


async def test_state_of_a_startup_that_failed_is_not_late() -> None:
    """It was never answered."""

    class Fails(App):
        __qualname__ = "App"

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            scope["state"]["pool"] = "open"
            raise Boom

    assert await found(Fails()) == [("violation", "normal", "startup failed in it: tests.plans.Boom")]


async def test_state_that_is_replaced_is_found() -> None:
    """The server has the dict that it gave, and nothing is in it."""

    class Replaces(App):
        __qualname__ = "App"

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            scope["state"] = {"pool": "open"}

    replaced = "it replaced scope['state'], where requests see what is put into it"
    assert await found(Replaces()) == [("warning", "normal", replaced)]


async def test_an_app_that_stays_busy_is_found() -> None:
    """It is waited for a second."""

    class StaysBusy(App):
        __qualname__ = "App"

        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            if moment == "end":
                await anyio.sleep(100)

    assert await found(StaysBusy()) == [("warning", "normal", "it was still busy 1 s after its last answer")]


def swallows(answer: str | None, error: Exception | None = None) -> App:
    """An app that takes a cancellation for an end like any other."""

    class Swallows(App):
        __qualname__ = "App"

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            except BaseException:
                if answer is not None:
                    await send({"type": answer})
                if error is not None:
                    raise error from None

    return Swallows()


async def test_a_cancellation_that_is_swallowed_is_found() -> None:
    """Whether it ends in silence, or with an answer, or with an error of its own."""
    expected = "when it was cancelled; expected the cancellation to propagate"
    run = "cancelled while serving"
    for answer in (None, "lifespan.shutdown.failed"):
        assert await found(swallows(answer)) == [("warning", run, f"it returned {expected}")]
    assert await found(swallows(None, Boom("again"))) == [
        ("warning", run, f"it raised tests.plans.Boom: again {expected}")
    ]


@pytest.mark.parametrize("answer", [None, "lifespan.startup.failed"])
async def test_a_cancellation_that_is_swallowed_while_starting_is_found(answer: str | None) -> None:
    """Where the startup waits for something; what it says of it is no departure."""

    class Waits(App):
        __qualname__ = "App"

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            try:
                await anyio.sleep(1)
            except BaseException:
                if answer is not None:
                    await send({"type": answer})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()

    said = "it returned when it was cancelled; expected the cancellation to propagate"
    findings = await found(Waits())
    assert [finding for finding in findings if finding[0] != "note"] == [("warning", "cancelled while starting", said)]


async def test_an_app_that_has_nothing_to_wait_for_swallows_nothing() -> None:
    """It returns before a cancellation could reach it."""

    class ReturnsEarly(App):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.complete"})

    (finding,) = await check_lifespan(ReturnsEarly())
    assert (finding.severity, finding.run) == ("note", "normal")
    assert "returned while started" in finding.text


async def test_a_cancellation_that_is_ignored_is_found() -> None:
    """It is waited for as long as for a shutdown."""

    class Ignores(App):
        __qualname__ = "App"

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await super().__call__(scope, receive, send)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(5.5)
                raise

    run = "cancelled while serving"
    assert await found(Ignores()) == [("warning", run, "it did not end within 5 s of its cancellation")]


async def test_a_check_that_is_cancelled_stops_the_app() -> None:
    """Shielded; a test suite's own time limit leaves nothing behind."""
    ended: list[str] = []

    class Hangs(App):
        async def after(self, moment: str, scope: Scope, send: Send) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(moment)

    with anyio.move_on_after(1) as scope:
        await check_lifespan(Hangs())
    assert scope.cancelled_caught
    assert ended == ["startup"]


async def test_what_is_no_app_is_refused() -> None:
    """As everywhere."""
    with pytest.raises(TypeError, match=r"check_lifespan\(\) got the class App"):
        await check_lifespan(cast("Any", App))
    with pytest.raises(ValueError, match=r"check_lifespan\(timeout=\.\.\.\) got 0"):
        await check_lifespan(App(), timeout=0)


def test_it_runs_without_pytest() -> None:
    """In a plain program, by anyio or asyncio."""
    assert anyio.run(check_lifespan, App()) == []
    assert asyncio.run(check_lifespan(App())) == []


class TestOnAsyncio:
    """Where tasks may outlive what made them."""

    @pytest.fixture(params=VIRTUAL[:2])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Asyncio only."""
        return request.param()

    async def test_a_check_may_be_closed(self) -> None:
        """As an event loop that ends does with what it has left; nothing can be awaited then."""

        class Hangs(App):
            async def after(self, moment: str, scope: Scope, send: Send) -> None:
                await anyio.sleep_forever()

        check = check_lifespan(Hangs())
        check.send(None)
        check.close()

    async def test_tasks_that_are_left_behind_are_found(self) -> None:
        """By the function that runs in them; one that is about to end is waited for."""
        tasks: list[asyncio.Task[None]] = []

        class LeavesTasks(App):
            __qualname__ = "App"

            async def after(self, moment: str, scope: Scope, send: Send) -> None:
                if moment == "startup":
                    tasks.append(asyncio.create_task(poll()))
                    tasks.append(asyncio.create_task(asyncio.sleep(0.5)))

        async def poll() -> None:
            await asyncio.sleep(100)

        left = f"it left tasks behind: {poll.__qualname__}"
        assert await found(LeavesTasks()) == [("warning", "normal", left)]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_an_app_that_returns_at_once_has_no_lifespan() -> None:
    """It raised nothing that could be shown."""

    async def returns(scope: Scope, receive: Receive, send: Send) -> None: ...

    (finding,) = await check_lifespan(returns)
    assert finding.severity == "note"
    assert finding.text.endswith("does not support the lifespan protocol")
