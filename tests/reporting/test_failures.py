"""What failed, as it is told: to the server, to the log, and as the exception that is raised."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware, LifespanNotSupported, ShutdownFailed, StartupFailed
from tests.server import RecordingServer


class TakesLifespan:
    """An app that starts and stops without ado."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


class SendsFailed:
    """An app that says that it failed, in its startup or its shutdown, and then raises an error or none."""

    def __init__(self, phase: str, error: Exception | None = None, **fields: Any) -> None:
        self.message = {"type": f"lifespan.{phase}.failed", **fields}
        self.error = error

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if self.message["type"] == "lifespan.shutdown.failed":
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send(self.message)
        if self.error is not None:
            raise self.error


class Crashes:
    """An app that breaks as soon as it serves; then the server stops."""

    def __init__(self, server: RecordingServer) -> None:
        self.server = server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await self.server.started.wait()
        self.server.may_stop.set()
        fails()


async def told(app: LifespanMiddleware) -> tuple[BaseException, str]:
    """Run an app that fails; what is raised, and the message to the server."""
    server = RecordingServer()
    with pytest.raises(BaseException) as caught:
        await server.run(app)
    answer = server.sent[-1]
    assert answer["type"].endswith(".failed")
    return caught.value, answer["message"]


def fails() -> NoReturn:
    """Fail."""
    raise OSError("no such host")


async def fails_at_stop() -> AsyncIterator[None]:
    """Start, and fail to stop."""
    yield
    fails()


# To the server.


async def test_a_failure_is_told_with_unit_error_and_traceback() -> None:
    """The first line tells who and what; the traceback begins where the user's code does."""
    error, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[fails]))
    assert type(error) is OSError
    first, empty, traceback, *frames, last = message.splitlines()
    assert re.fullmatch(
        r"startup failed in hook 'fails' \(tests.reporting.test_failures\.py:\d+\): OSError: no such host", first
    )
    assert empty == ""
    assert traceback == "Traceback (most recent call last):"
    assert re.search(r'test_failures\.py", line \d+, in fails$', frames[0])
    assert last == "OSError: no such host"


@pytest.mark.parametrize("kind", [fails_at_stop, asynccontextmanager(fails_at_stop)], ids=["generator", "manager"])
async def test_a_traceback_leaves_the_machinery_out(kind: Any) -> None:
    """Neither this package's frames nor contextlib's help a user."""
    _, message = await told(LifespanMiddleware(TakesLifespan(), kind))
    assert message.startswith("shutdown failed in hook 'fails_at_stop' (")
    files = re.findall(r'File "(.*?)"', message)
    assert len(files) == 2
    assert {file.rpartition("/")[2] for file in files} == {"test_failures.py"}


async def test_an_error_of_ours_keeps_its_traceback() -> None:
    """Where no line of the user's runs, the machinery is better than nothing."""

    def returns_five() -> Any:
        return 5

    error, message = await told(LifespanMiddleware(TakesLifespan(), returns_five))
    assert type(error) is TypeError
    assert "Traceback" in message
    assert "returned 5" in message


@pytest.mark.parametrize(("phase", "expected"), [("startup", StartupFailed), ("shutdown", ShutdownFailed)])
async def test_an_app_that_only_says_that_it_failed_is_told_by_its_message(phase: str, expected: type[Any]) -> None:
    """There is no exception, so one is made of the message."""
    error, message = await told(LifespanMiddleware(SendsFailed(phase, message="no such host")))
    assert type(error) is expected
    assert error.unit == "app SendsFailed"  # type: ignore[attr-defined]  # it is one of the two
    assert error.reason == "no such host"  # type: ignore[attr-defined]  # as above
    assert message.startswith(f"{phase} failed in app SendsFailed: no such host")


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_an_app_that_only_says_that_it_failed_is_told_without_a_traceback(phase: str) -> None:
    """Where no code of the user's raised, the lines of this package that did say nothing."""
    _, message = await told(LifespanMiddleware(SendsFailed(phase, message="no such host")))
    assert message == f"{phase} failed in app SendsFailed: no such host"


@pytest.mark.parametrize("fields", [{}, {"message": ""}], ids=["absent", "empty"])
async def test_an_app_that_fails_without_a_message_is_told_so(fields: Any) -> None:
    """The key is optional."""
    error, message = await told(LifespanMiddleware(SendsFailed("startup", **fields)))
    assert type(error) is StartupFailed
    assert message.startswith("startup failed in app SendsFailed: it gave no reason")


async def test_an_app_that_says_that_it_failed_and_raises_failed_once() -> None:
    """Its exception is the one raised, its message is in the answer too."""
    given = ValueError("host is unknown")
    error, message = await told(LifespanMiddleware(SendsFailed("startup", given, message="see the log")))
    assert error is given
    assert message.startswith("startup failed in app SendsFailed: ValueError: host is unknown\n")
    assert "\nsee the log\n" in message
    assert message.endswith("\nValueError: host is unknown")
    assert message.count("Traceback") == 1


async def test_a_traceback_that_an_app_sends_is_not_repeated() -> None:
    """Starlette sends the traceback of what it then raises."""
    raises: Any = fails

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        yield raises()

    error, message = await told(LifespanMiddleware(Starlette(lifespan=lifespan)))
    assert type(error) is OSError
    assert message.startswith("startup failed in app Starlette: OSError: no such host\n")
    assert message.count("Traceback") == 1
    assert message.endswith("OSError: no such host")


async def test_several_failures_are_told_cause_first() -> None:
    """Each with its name and traceback, and all are raised in one group, in the same order."""
    error, message = await told(LifespanMiddleware(TakesLifespan(), fails_at_stop, on_startup=[lambda: 1 / 0]))
    assert isinstance(error, ExceptionGroup)
    assert [type(one) for one in error.exceptions] == [ZeroDivisionError, OSError]
    assert message.index("startup failed in hook '<lambda>'") < message.index("shutdown failed in hook 'fails_at_stop'")
    assert message.count("Traceback (most recent call last)") == 2


async def test_a_group_holds_base_exceptions_where_it_must() -> None:
    """`SystemExit` with another failure."""

    def leaves() -> NoReturn:
        raise SystemExit(3)

    error, _ = await told(LifespanMiddleware(TakesLifespan(), fails_at_stop, on_startup=[leaves]))
    assert type(error) is BaseExceptionGroup
    assert [type(one) for one in error.exceptions] == [SystemExit, OSError]


async def test_one_error_raised_by_two_units_comes_out_as_itself() -> None:
    """It is one error, whoever raised it."""
    given = ValueError("shared")

    def raises() -> NoReturn:
        raise given

    error, message = await told(LifespanMiddleware(TakesLifespan(), on_shutdown=[raises, raises]))
    assert error is given
    assert message.count("shutdown failed in hook 'raises'") == 2


async def test_a_failure_of_a_mount_is_told_by_its_path() -> None:
    """As a client would type it."""
    inner = Starlette(routes=[Mount("/metrics", SendsFailed("startup"))])
    _, message = await told(LifespanMiddleware(Starlette(routes=[Mount("/admin", inner)])))
    assert message.startswith("startup failed in mount '/admin/metrics': ")


async def test_a_package_error_that_a_hook_raises_is_told_by_the_hook() -> None:
    """A hook that drives another app: its failure names that app, and the message names the hook as well."""

    async def drives() -> None:
        await LifespanManager(SendsFailed("startup", message="no such host")).__aenter__()

    error, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[drives]))
    assert type(error) is StartupFailed
    assert error.unit == "app SendsFailed"
    assert re.match(r"startup failed in hook 'drives' \(tests.reporting.test_failures\.py:\d+\): ", message)
    assert "no such host" in message.splitlines()[0]


async def test_a_refused_lifespan_in_a_hook_is_told_by_the_hook() -> None:
    """The same for an app that has no lifespan."""

    async def turns_away(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(scope["type"])

    async def drives() -> None:
        await LifespanManager(turns_away).__aenter__()

    error, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[drives]))
    assert type(error) is LifespanNotSupported
    assert message.startswith("startup failed in hook 'drives' (")


class RunsOnce:
    """An app that can't be started twice, as the MCP SDK's session manager can't."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError(".run() can only be called once per instance")


async def test_an_app_that_runs_already_is_told_with_advice() -> None:
    """What seems to be started twice can be left out."""
    _, message = await told(LifespanMiddleware(Starlette(routes=[Mount("/mcp", RunsOnce())])))
    assert re.match(r"startup failed in mount '/mcp': RuntimeError: .* \(mount '/mcp' seems to run already: ", message)
    assert "exclude=[" in message.splitlines()[0]


async def test_a_hook_that_finds_something_there_already_is_told_without_that_advice() -> None:
    """The most common failure of all is a port in use; a hook can't be excluded."""

    def binds() -> NoReturn:
        raise OSError(98, "Address already in use")

    _, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[binds]))
    assert "Address already in use" in message
    assert "exclude=" not in message


async def test_an_unasked_cancellation_is_told_with_its_cause() -> None:
    """The failure is ours, its cause shows where the cancellation came from."""

    async def awaits_cancelled() -> None:
        raise asyncio.CancelledError

    error, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[awaits_cancelled]))
    assert type(error) is StartupFailed
    assert type(error.__cause__) is asyncio.CancelledError
    assert re.match(r"startup failed in hook 'awaits_cancelled' \(.*\): it was cancelled, and nobody asked", message)
    assert "in awaits_cancelled" in message


# To the log.


def errors_in(caplog: pytest.LogCaptureFixture) -> Iterator[logging.LogRecord]:
    """The records of failures."""
    return (record for record in caplog.records if record.levelno == logging.ERROR)


async def test_each_failure_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Some servers print nothing of what they are told."""
    await told(LifespanMiddleware(TakesLifespan(), fails_at_stop, on_startup=[lambda: 1 / 0]))
    first, second = errors_in(caplog)
    assert first.name == second.name == "asgi_lifespan_mw"
    assert first.getMessage().startswith("startup failed in hook '<lambda>' (")
    assert first.getMessage().endswith(": ZeroDivisionError: division by zero")
    assert second.getMessage().startswith("shutdown failed in hook 'fails_at_stop' (")
    assert [record.exc_info and record.exc_info[0] for record in (first, second)] == [ZeroDivisionError, OSError]


async def test_a_crash_is_logged_when_it_comes_and_not_again(caplog: pytest.LogCaptureFixture) -> None:
    """At shutdown it is part of the answer only."""
    server = RecordingServer(holds_on=True)
    with pytest.raises(OSError, match="no such host"):
        await server.run(LifespanMiddleware(Crashes(server)))
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert server.sent[-1]["message"].startswith("crash in app Crashes: OSError: no such host")
    (record,) = errors_in(caplog)
    assert record.getMessage() == "crash in app Crashes: OSError: no such host"
