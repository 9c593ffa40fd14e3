"""One app through one lifespan: each row of the table, carried out, seen from the server."""

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from asgi_lifespan_mw import LifespanMiddleware, ProtocolViolation, ShutdownFailed, StartupFailed
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.conftest import VIRTUAL
from tests.server import RecordingServer

Script = Callable[[Receive, Send], Awaitable[None]]


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: a busy app is waited for."""
    return request.param()


class Boom(Exception):
    """What the fakes raise."""


def app_of(script: Script) -> ASGIApp:
    """An app that does what `script` does at a lifespan."""

    async def scripted(scope: Scope, receive: Receive, send: Send) -> None:
        await script(receive, send)

    return scripted


def wrapped(script: Script, **options: Any) -> LifespanMiddleware:
    """The app of `script`, wrapped, with one hook, so that there is always something of ours to run."""
    return LifespanMiddleware(app_of(script), on_startup=[lambda: None], **options)


async def start(receive: Receive, send: Send) -> None:
    """The startup, as it should be."""
    assert await receive() == {"type": "lifespan.startup"}
    await send({"type": "lifespan.startup.complete"})


async def stop(receive: Receive, send: Send) -> None:
    """The shutdown, as it should be."""
    assert await receive() == {"type": "lifespan.shutdown"}
    await send({"type": "lifespan.shutdown.complete"})


async def lifespan(app: ASGIApp) -> RecordingServer:
    """One lifespan of `app` that must not raise."""
    server = RecordingServer()
    await server.run(app)
    return server


async def failing(app: ASGIApp, error: type[BaseException]) -> tuple[RecordingServer, BaseException]:
    """One lifespan of `app` that must raise `error`."""
    server = RecordingServer()
    with pytest.raises(error) as raised:
        await server.run(app)
    return server, raised.value


ALL_WELL = ["startup.complete", "shutdown.complete"]


async def test_an_app_that_keeps_to_the_protocol_goes_through(caplog: pytest.LogCaptureFixture) -> None:
    """The normal case: one answer each, nothing in the log."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await stop(receive, send)

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_an_app_that_raises_before_it_receives_is_unsupported(caplog: pytest.LogCaptureFixture) -> None:
    """It turned the lifespan away: the hooks run, and the log has its exception."""

    async def script(receive: Receive, send: Send) -> None:
        raise Boom("not for me")

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "does not support the lifespan protocol" in record.getMessage()
    assert record.exc_info
    assert isinstance(record.exc_info[1], Boom)


async def test_the_refusal_goes_to_the_server_where_nothing_of_ours_is_run() -> None:
    """An app that turns the lifespan away is as it would be without us, if we have nothing to run."""

    async def script(receive: Receive, send: Send) -> None:
        raise Boom("not for me")

    server, _ = await failing(LifespanMiddleware(app_of(script)), Boom)
    assert server.answers == []


async def test_an_app_that_returns_at_once_is_answered_for() -> None:
    """A silent return crashes hypercorn on trio; with us in between there is an answer."""

    async def script(receive: Receive, send: Send) -> None:
        return

    assert (await lifespan(LifespanMiddleware(app_of(script)))).answers == ALL_WELL


async def test_an_app_may_answer_without_having_received(caplog: pytest.LogCaptureFixture) -> None:
    """It is started, with a warning that says what would have been right."""

    async def script(receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        await stop(receive, send)

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert "sent 'lifespan.startup.complete' while idle; expected a call of receive()" in caplog.text


@pytest.mark.parametrize("receives", [True, False], ids=["after receiving", "at once"])
async def test_an_app_that_answers_http_is_unsupported_and_stopped(
    receives: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A response used as an app: its message never reaches the server, and it is cancelled."""
    ended: list[str] = []

    async def script(receive: Receive, send: Send) -> None:
        if receives:
            await receive()
        await send({"type": "http.response.start", "status": 200})
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert ended == ["cancelled"]
    assert "sent 'http.response.start' while" in caplog.text


@pytest.mark.parametrize("receives", [True, False], ids=["after receiving", "at once"])
@pytest.mark.parametrize("answer", ["complete", "failed"])
async def test_an_answer_to_the_shutdown_before_the_start_is_a_violation(receives: bool, answer: str) -> None:
    """It raises in the app's own `send`, and the startup fails."""

    async def script(receive: Receive, send: Send) -> None:
        if receives:
            await receive()
        await send({"type": f"lifespan.shutdown.{answer}"})

    server, error = await failing(wrapped(script), ProtocolViolation)
    assert server.answers == ["startup.failed"]
    assert f"sent 'lifespan.shutdown.{answer}' while {'starting' if receives else 'idle'}; expected" in str(error)
    assert str(error) in server.sent[0]["message"]


async def test_a_violation_that_the_app_swallows_still_fails_it() -> None:
    """The error counts where it happened, not where the app lets it go."""

    async def script(receive: Receive, send: Send) -> None:
        with pytest.raises(ProtocolViolation):
            await send({"type": "lifespan.shutdown.complete"})
        await start(receive, send)

    server, _ = await failing(wrapped(script), ProtocolViolation)
    assert server.answers == ["startup.failed"]


async def test_a_failed_startup_is_told_with_the_apps_message() -> None:
    """An app that says that it failed, and raises nothing: StartupFailed, with its text."""

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    server, error = await failing(wrapped(script), StartupFailed)
    assert server.answers == ["startup.failed"]
    assert "no database" in server.sent[0]["message"]
    assert isinstance(error, StartupFailed)
    assert error.reason == "no database"


async def test_a_failed_startup_needs_no_message() -> None:
    """The key is optional, and the error says that there was none."""

    async def script(receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.failed"})

    server, error = await failing(wrapped(script), StartupFailed)
    assert server.answers == ["startup.failed"]
    assert "it gave no reason" in str(error)


async def test_an_app_that_says_so_and_raises_has_failed_once() -> None:
    """Its exception is the one raised, its message is in the answer, and there is one answer."""

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "as I said"})
        raise Boom("the cause")

    server, error = await failing(wrapped(script), Boom)
    assert server.answers == ["startup.failed"]
    assert "as I said" in server.sent[0]["message"]
    assert "the cause" in server.sent[0]["message"]
    assert str(error) == "the cause"


@pytest.mark.parametrize("waits", ["for a message", "for ever"])
async def test_an_app_that_stays_after_it_failed_is_cancelled(waits: str) -> None:
    """Quart and Microdot wait for the next message after a failed startup: nothing comes, and they are ended."""
    ended: list[str] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})
        try:
            await (receive() if waits == "for a message" else anyio.sleep_forever())
        finally:
            ended.append("cancelled")

    await failing(wrapped(script), StartupFailed)
    assert ended == ["cancelled"]


async def test_an_app_that_raises_while_starting_has_failed() -> None:
    """It took the message and broke: this is no app without lifespan, and its own error comes out."""

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        raise Boom("broken")

    server, _ = await failing(wrapped(script), Boom)
    assert server.answers == ["startup.failed"]
    assert "startup failed in app scripted()" in server.sent[0]["message"].replace("app_of.<locals>.", "")


async def test_an_app_that_returns_while_starting_is_unsupported(caplog: pytest.LogCaptureFixture) -> None:
    """It took the message and went, without an answer: a warning, and we answer."""

    async def script(receive: Receive, send: Send) -> None:
        await receive()

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert "returned while starting; expected 'lifespan.startup.complete'" in caplog.text


async def test_another_task_of_the_app_may_answer_while_one_waits() -> None:
    """A task that loops over `receive` gets the shutdown, though another one gave the answer."""
    received: list[str] = []

    async def script(receive: Receive, send: Send) -> None:
        async def answer() -> None:
            await anyio.sleep(1)
            await send({"type": "lifespan.startup.complete"})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            received.append((await receive())["type"])
            received.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert received == ["lifespan.startup", "lifespan.shutdown"]


async def test_an_app_that_is_over_early_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left to stop, and the log says so."""
    caplog.set_level(logging.INFO)

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert "ended before the shutdown" in caplog.text


@pytest.mark.parametrize("message", ["lifespan.startup.complete", "lifespan.shutdown.complete", "http.response.start"])
async def test_what_makes_no_sense_while_started_is_ignored(message: str, caplog: pytest.LogCaptureFixture) -> None:
    """A second answer, or what is none, is a warning and nothing else."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await send({"type": message})
        await stop(receive, send)

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert f"sent '{message}' while started; expected" in caplog.text


@pytest.mark.parametrize("answer", ["startup.complete", "startup.failed"])
async def test_what_makes_no_sense_while_stopping_is_ignored(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    """An answer to the startup, given to the shutdown, is a warning and nothing else."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await receive()
        await send({"type": f"lifespan.{answer}"})
        await send({"type": "lifespan.shutdown.complete"})

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert f"sent 'lifespan.{answer}' while stopping" in caplog.text


async def test_a_return_is_an_answer_to_the_shutdown() -> None:
    """An app that stops and returns without a word has stopped."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await receive()

    assert (await lifespan(wrapped(script))).answers == ALL_WELL


async def test_a_failed_shutdown_is_told() -> None:
    """ShutdownFailed with the app's text, after one answer."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "disk full"})

    server, error = await failing(wrapped(script), ShutdownFailed)
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert "disk full" in server.sent[1]["message"]
    assert "disk full" in str(error)


async def test_an_exception_while_stopping_is_told() -> None:
    """The app's own error comes out, after one answer."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await receive()
        raise Boom("late")

    server, _ = await failing(wrapped(script), Boom)
    assert server.answers == ["startup.complete", "shutdown.failed"]


async def test_an_exception_after_the_answer_is_told() -> None:
    """The app said that it stopped, and then broke: that is a failed shutdown."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await stop(receive, send)
        raise Boom("after all")

    server, _ = await failing(wrapped(script), Boom)
    assert server.answers == ["startup.complete", "shutdown.failed"]


@pytest.mark.parametrize("waits", ["for a message", "for ever"])
async def test_an_app_that_stays_after_it_stopped_is_cancelled(waits: str) -> None:
    """An endless loop over `receive` is ended at once, a busy app after a second; both without an error."""
    ended: list[float] = []

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await stop(receive, send)
        began = anyio.current_time()
        try:
            await (receive() if waits == "for a message" else anyio.sleep_forever())
        finally:
            ended.append(anyio.current_time() - began)

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert ended == [pytest.approx(0 if waits == "for a message" else 1, abs=0.1)]


async def test_what_is_sent_after_the_stop_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    """A second answer to the shutdown is a warning."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        await stop(receive, send)
        await send({"type": "lifespan.shutdown.complete"})

    assert (await lifespan(wrapped(script))).answers == ALL_WELL
    assert "while stopped; expected a return" in caplog.text


async def test_nothing_comes_of_what_a_failed_app_sends() -> None:
    """There is one answer, whatever else it says."""

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "first"})
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.failed", "message": "second"})

    server, error = await failing(wrapped(script), StartupFailed)
    assert server.answers == ["startup.failed"]
    assert "first" in str(error)


async def test_the_receive_that_waits_for_the_stop_may_be_cancelled_and_called_again() -> None:
    """No message is lost by an app that gives up waiting for a while."""

    async def script(receive: Receive, send: Send) -> None:
        await start(receive, send)
        with anyio.move_on_after(1):
            await receive()
        await stop(receive, send)

    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, wrapped(script))
        await server.started.wait()
        await anyio.sleep(2)
        server.may_stop.set()
    assert server.answers == ALL_WELL


async def sends_in_a_task_group(send: Send, message: str, *, breaks: bool = False) -> None:
    """Send from a task group of the app's own, in which another task may break."""

    async def sends() -> None:
        await send({"type": message})

    async def fails() -> None:
        raise Boom("in another task")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sends)
        if breaks:
            tasks.start_soon(fails)


@pytest.mark.parametrize("phase", ["idle", "starting", "started", "stopping", "stopped"])
async def test_a_violation_in_a_task_group_of_the_app_is_raised_by_itself(phase: str) -> None:
    """Not in the group that the task group raises, on every event loop."""
    phases = ["idle", "starting", "started", "stopping", "stopped"]

    async def script(receive: Receive, send: Send) -> None:
        async def complete(part: str) -> None:
            await send({"type": f"lifespan.{part}.complete"})

        complete_startup = functools.partial(complete, "startup")
        complete_shutdown = functools.partial(complete, "shutdown")
        steps: list[Callable[[], Awaitable[Any]]] = [receive, complete_startup, receive, complete_shutdown]
        for step in steps[: phases.index(phase)]:
            await step()
        await anyio.sleep(0.5)  # the startup is answered by then
        await sends_in_a_task_group(send, "http.response.start")

    server, error = RecordingServer(holds_on=True), None

    async def serve() -> None:
        nonlocal error
        with pytest.raises(ProtocolViolation, match=f"while {phase}") as raised:
            await server.run(wrapped(script, strict=True))
        error = raised.value
        server.started.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await server.started.wait()
        await anyio.sleep(5)
        server.may_stop.set()
    assert error is not None
    assert error.__cause__ is error.__context__ is None
    is_started = phase not in ("idle", "starting")
    assert server.answers == (["startup.complete", "shutdown.failed"] if is_started else ["startup.failed"])


async def test_what_breaks_beside_a_violation_in_a_task_group_is_kept_behind_it() -> None:
    """No error is lost."""

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await sends_in_a_task_group(send, "lifespan.shutdown.complete", breaks=True)

    _, error = await failing(wrapped(script), ProtocolViolation)
    assert isinstance(error.__context__, ExceptionGroup)
    assert [str(one) for one in error.__context__.exceptions] == ["in another task"]


async def test_an_error_that_a_task_group_makes_of_a_violation_is_the_failure() -> None:
    """It says why, and holds the violation."""

    async def script(receive: Receive, send: Send) -> None:
        async def translates() -> None:
            try:
                await send({"type": "lifespan.shutdown.complete"})
            except ProtocolViolation as violation:
                raise Boom("cannot go on") from violation

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(translates)

    _, error = await failing(wrapped(script), ExceptionGroup)
    assert isinstance(error, ExceptionGroup)
    assert [str(one) for one in error.exceptions] == ["cannot go on"]


async def returns_without_an_answer(receive: Receive, send: Send) -> None:
    """Stops without saying so."""
    await start(receive, send)
    await receive()


async def returns_early(receive: Receive, send: Send) -> None:
    """Is over while it should serve."""
    await start(receive, send)


async def receives_in_a_loop(receive: Receive, send: Send) -> None:
    """Asks for more after the end."""
    await start(receive, send)
    await stop(receive, send)
    await receive()


async def answers_twice(receive: Receive, send: Send) -> None:
    """Says twice that it started."""
    await start(receive, send)
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize(
    ("script", "answers", "text"),
    [
        (returns_without_an_answer, ["startup.complete", "shutdown.failed"], "returned while stopping"),
        (returns_early, None, "returned while started"),
        (receives_in_a_loop, ["startup.complete", "shutdown.failed"], "called receive() while stopped"),
        (answers_twice, None, "sent 'lifespan.startup.complete' while started"),
    ],
)
async def test_strict_makes_departures_errors(script: Script, answers: list[str] | None, text: str) -> None:
    """What is tolerated otherwise fails the app, with a text that says what it did and what would have been right."""
    server, error = await failing(wrapped(script, strict=True), ProtocolViolation)
    assert text in str(error)
    # An app that breaks right after its start breaks before or after the whole startup is answered.
    assert server.answers == answers or server.answers in (["startup.failed"], ["startup.complete", "shutdown.failed"])
