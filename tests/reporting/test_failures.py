"""Failures in the message to the server, in the log, and as the exception that is raised."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, NoReturn

import anyio
import pytest
from django.core.exceptions import SynchronousOnlyOperation
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import (
    LifespanManager,
    LifespanMiddleware,
    LifespanNotSupported,
    LifespanTimeout,
    ShutdownFailed,
    StartupFailed,
    StateCollision,
)
from asgi_lifespan_mw._reporting.failures import is_read, summarize
from asgi_lifespan_mw._units.failure import FailedPhase, Failure
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


LOGGER = logging.getLogger("asgi_lifespan_mw")


@contextmanager
def unread() -> Iterator[None]:
    """Keep the records of the package from every handler, as in a program that configures no logging."""
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.propagate = True


async def told(app: LifespanMiddleware, *, is_read: bool = True) -> tuple[BaseException, str]:
    """Run an app that fails, and return what is raised and the message to the server."""
    server = RecordingServer()
    with nullcontext() if is_read else unread(), pytest.raises(BaseException) as caught:
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


# The message to the server.


async def test_a_failure_names_the_unit_and_the_error() -> None:
    """The log has the traceback, so the message is one line."""
    error, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[fails]))
    assert type(error) is OSError
    assert re.fullmatch(
        r"startup failed in hook 'fails' \(tests.reporting.test_failures\.py:\d+\): OSError: no such host", message
    )


async def test_a_message_has_the_traceback_if_no_handler_takes_the_log() -> None:
    """It begins at the user's first frame."""
    _, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[fails]), is_read=False)
    first, empty, traceback, *frames, last = message.splitlines()
    assert first.endswith("): OSError: no such host")
    assert empty == ""
    assert traceback == "Traceback (most recent call last):"
    assert re.search(r'test_failures\.py", line \d+, in fails$', frames[0])
    assert last == "OSError: no such host"


@pytest.mark.parametrize("has_handler", [True, False])
async def test_a_message_that_the_server_discards_is_logged(
    has_handler: bool, capsys: pytest.CaptureFixture[str], anyio_backend_name: str
) -> None:
    """Hypercorn on trio discards what its `send` raises at the shutdown. On asyncio the servers print it."""

    class Refuses(RecordingServer):
        async def send(self, message: dict[str, Any]) -> None:
            await super().send(message)
            if message["type"] == "lifespan.shutdown.failed":
                raise ConnectionError

    server = Refuses()
    with nullcontext() if has_handler else unread(), pytest.raises(ConnectionError):
        await server.run(LifespanMiddleware(TakesLifespan(), fails_at_stop))
    is_logged = server.sent[-1]["message"] in capsys.readouterr().err
    assert is_logged == (anyio_backend_name == "trio" and not has_handler)


@pytest.mark.parametrize("kind", [fails_at_stop, asynccontextmanager(fails_at_stop)], ids=["generator", "manager"])
async def test_a_traceback_has_only_the_frames_of_the_user(kind: Any) -> None:
    """Neither this package's frames nor contextlib's help a user."""
    _, message = await told(LifespanMiddleware(TakesLifespan(), kind), is_read=False)
    assert message.startswith("shutdown failed in hook 'fails_at_stop' (")
    assert [file.rpartition("/")[2] for file in re.findall(r'File "(.*?)"', message)] == ["test_failures.py"] * 2


async def yields_twice() -> AsyncIterator[None]:
    """Yield once too often."""
    yield
    yield


@pytest.mark.parametrize("hook", [lambda: 5, yields_twice], ids=["a value", "two yields"])
async def test_an_error_without_a_frame_of_the_user_has_no_traceback(hook: Any) -> None:
    """The lines of this package that found the mistake say nothing about it."""
    error, message = await told(LifespanMiddleware(TakesLifespan(), hook), is_read=False)
    assert type(error) is TypeError
    assert " failed in hook " in message
    assert "Traceback" not in message


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
    _, message = await told(LifespanMiddleware(SendsFailed(phase, message="no such host")), is_read=False)
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
    error, message = await told(LifespanMiddleware(SendsFailed("startup", given, message="see the log")), is_read=False)
    assert error is given
    assert message.startswith("startup failed in app SendsFailed: ValueError: host is unknown\n\nsee the log\n\nTrace")
    assert message.endswith("\nValueError: host is unknown")
    assert message.count("Traceback") == 1


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_traceback_that_an_app_sends_is_not_repeated(is_read: bool) -> None:
    """Starlette sends the traceback of what it then raises, with frames of its own."""
    raises: Any = fails

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        yield raises()

    error, message = await told(LifespanMiddleware(Starlette(lifespan=lifespan)), is_read=is_read)
    assert type(error) is OSError
    assert message.splitlines()[0] == "startup failed in app Starlette: OSError: no such host"
    assert message.count("Traceback") == (not is_read)
    assert "routing.py" not in message


@pytest.mark.parametrize("is_read", [True, False])
async def test_what_an_app_says_before_a_traceback_is_kept(is_read: bool) -> None:
    """A middleware in a mount names its hook there."""
    inner = LifespanMiddleware(TakesLifespan(), on_startup=[fails])
    _, message = await told(LifespanMiddleware(Starlette(routes=[Mount("/admin", inner)])), is_read=is_read)
    headline, said, *traceback = message.split("\n\n")
    assert headline == "startup failed in mount '/admin': OSError: no such host"
    assert said.startswith("startup failed in hook 'fails' (tests/reporting/test_failures.py:")
    assert len(traceback) == (not is_read)


async def test_a_traceback_that_is_all_that_an_app_says_is_kept() -> None:
    """It is nowhere else, and its last line is the reason."""
    said = 'Traceback (most recent call last):\n  File "shop.py", line 1, in connect\nOSError: no such host\n'
    error, message = await told(LifespanMiddleware(SendsFailed("startup", message=said)))
    assert type(error) is StartupFailed
    assert message == f"startup failed in app SendsFailed: OSError: no such host\n\n{said.strip()}"


async def test_several_failures_are_told_cause_first() -> None:
    """Each with its name and traceback, and all are raised in one group, in the same order."""
    error, message = await told(
        LifespanMiddleware(TakesLifespan(), fails_at_stop, on_startup=[lambda: 1 / 0]), is_read=False
    )
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


ONCE = (
    "StreamableHTTPSessionManager .run() can only be called once per instance. Create a new instance if you need to "
    "run again."
)


class Raises:
    """An app that raises an error in its startup."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError(ONCE), ExceptionGroup("in a task group", [RuntimeError(ONCE)])], ids=["bare", "in a group"]
)
async def test_a_session_manager_that_runs_already_is_told_with_advice(error: Exception) -> None:
    """The error of the MCP SDK is known by its whole text."""
    _, message = await told(LifespanMiddleware(Starlette(routes=[Mount("/mcp", Raises(error))])))
    assert message.startswith(f"startup failed in mount '/mcp': RuntimeError: {ONCE} (mount '/mcp' seems to run ")
    assert message.endswith(
        "already: remove session_manager.run() from the lifespan of its parent, or list the app in exclude=[...]; if "
        "it ran before, make a new app)"
    )


async def test_a_django_hook_that_is_not_asynchronous_is_told_with_advice() -> None:
    """The error is known by its type."""
    error = SynchronousOnlyOperation("You cannot call this from an async context - use a thread or sync_to_async.")
    _, message = await told(LifespanMiddleware(Raises(error)))
    assert message.endswith("(run the hook in a worker thread: threaded(hook))")


def test_the_advice_of_the_run_ends_the_headline() -> None:
    """It knows more than the error tells: what it observed, or that a unit blocked the event loop."""
    error = RuntimeError(ONCE)
    failure = Failure("mount '/mcp'", FailedPhase.STARTUP, error, advice="its parent's lifespan runs it")
    assert summarize(failure) == f"startup failed in mount '/mcp': RuntimeError: {ONCE} (its parent's lifespan runs it)"


def test_a_timeout_names_the_line_at_which_it_waited() -> None:
    """And nothing if that could not be seen."""
    error = LifespanTimeout("hook 'a'", "startup", 1)
    assert summarize(Failure("hook 'a'", FailedPhase.STARTUP, error)) == "startup timed out after 1 s in hook 'a'"
    failure = Failure("hook 'a'", FailedPhase.STARTUP, error, location="at shop.py:1 in a")
    assert summarize(failure) == "startup timed out after 1 s in hook 'a'; it was at shop.py:1 in a"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("table users already exists"),
        RuntimeError(f"{ONCE} Ask the administrator."),
        ValueError(ONCE),
        OSError(98, "Address already in use"),
    ],
    ids=["a table", "a longer text", "another type", "a port"],
)
async def test_an_error_that_is_not_known_is_told_without_advice(error: Exception) -> None:
    """Words such as "already" are in many errors."""
    _, message = await told(LifespanMiddleware(Raises(error)))
    assert message.endswith(str(error))


async def test_an_unasked_cancellation_is_told_with_its_cause() -> None:
    """The failure is ours, its cause shows where the cancellation came from."""

    async def awaits_cancelled() -> None:
        raise asyncio.CancelledError

    error, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[awaits_cancelled]), is_read=False)
    assert type(error) is StartupFailed
    assert type(error.__cause__) is asyncio.CancelledError
    assert re.match(r"startup failed in hook 'awaits_cancelled' \(.*\): cancelled unexpectedly", message)
    assert "in awaits_cancelled" in message


async def test_a_cancellation_that_cannot_be_printed_is_told() -> None:
    """The startup fails, and does not hang."""

    class Unprintable(asyncio.CancelledError):
        def __repr__(self) -> str:
            raise ValueError

        __str__ = __repr__

    async def awaits_cancelled() -> None:
        raise Unprintable

    error, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[awaits_cancelled]))
    assert type(error) is StartupFailed
    assert "cancelled unexpectedly: <unprintable " in message


async def test_a_message_that_is_none_of_the_lifespans_is_told_by_its_type(caplog: pytest.LogCaptureFixture) -> None:
    """Its content may be secret."""

    async def sends(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"url": "postgresql://shop:secret@db"})

    await RecordingServer().run(LifespanMiddleware(sends, on_startup=[lambda: None]))
    assert "sends() sent an object of type 'dict' while starting" in caplog.text
    assert "secret" not in caplog.text


# The log.


def errors_in(caplog: pytest.LogCaptureFixture) -> Iterator[logging.LogRecord]:
    """Return the records of failures."""
    return (record for record in caplog.records if record.levelno == logging.ERROR)


async def test_each_failure_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The headlines are those of the message, and the traceback begins at the user's first frame."""
    _, message = await told(LifespanMiddleware(TakesLifespan(), fails_at_stop, on_startup=[lambda: 1 / 0]))
    records = list(errors_in(caplog))
    assert {record.name for record in records} == {"asgi_lifespan_mw"}
    assert [record.getMessage() for record in records] == message.split("\n\n")
    for record, error in zip(records, (ZeroDivisionError, OSError), strict=True):
        assert record.exc_info
        assert record.exc_info[0] is error
        assert record.exc_info[2] is not None
        assert record.exc_info[2].tb_frame.f_code.co_filename == __file__


async def test_a_falsy_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The log takes a bare exception that is false for none."""

    class Falsy(Exception):
        def __len__(self) -> int:
            return 0

    def raises() -> NoReturn:
        raise Falsy("empty")

    await told(LifespanMiddleware(TakesLifespan(), on_startup=[raises]))
    (record,) = errors_in(caplog)
    assert record.exc_info
    assert record.exc_info[0] is Falsy
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    "name", ["__str__", "__traceback__", "__context__", "__cause__", "__notes__", "__bool__", "__class__"]
)
async def test_an_error_that_cannot_be_printed_has_a_headline(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """In the log and in the message; the server is answered."""

    def raises(_: object) -> NoReturn:
        raise ValueError(name)

    error = type("Hostile", (Exception,), {name: raises if name == "__str__" else property(raises)})("no such host")

    def fails() -> NoReturn:
        raise error

    raised, message = await told(LifespanMiddleware(TakesLifespan(), on_startup=[fails]))
    assert raised is error
    assert "Hostile" in message
    (record,) = errors_in(caplog)
    assert record.getMessage() == message


async def test_a_refusal_that_cannot_be_printed_is_none_the_less_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """The text of a `TypeError` says whether the app was called wrongly; this one has no text."""

    class Unprintable(TypeError):
        def __str__(self) -> str:
            raise ValueError

    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        raise Unprintable

    server = RecordingServer()
    await server.run(LifespanMiddleware(refuses, on_startup=[lambda: None]))
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert "does not support the lifespan protocol" in caplog.text


async def test_a_collision_is_told_in_the_same_words(caplog: pytest.LogCaptureFixture) -> None:
    """It is not the failure of a unit, and no line of the user's raised it."""

    async def first() -> AsyncIterator[dict[str, object]]:
        yield {"pool": object()}

    async def second() -> AsyncIterator[dict[str, object]]:
        yield {"pool": object()}

    error, message = await told(LifespanMiddleware(TakesLifespan(), [first, second]))
    assert type(error) is StateCollision
    assert message == f"startup failed: {error}"
    (record,) = errors_in(caplog)
    assert record.getMessage() == message
    assert not record.exc_info
    _, message = await told(LifespanMiddleware(TakesLifespan(), [first, second]), is_read=False)
    assert message == f"startup failed: {error}"


async def test_a_crash_is_logged_when_it_comes_and_not_again(caplog: pytest.LogCaptureFixture) -> None:
    """At shutdown it is part of the answer only."""
    server = RecordingServer(holds_on=True)
    with pytest.raises(OSError, match="no such host"):
        await server.run(LifespanMiddleware(Crashes(server)))
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert server.sent[-1]["message"] == "crash in app Crashes: OSError: no such host"
    (record,) = errors_in(caplog)
    assert record.getMessage() == "crash in app Crashes: OSError: no such host"
    assert record.exc_info


async def test_a_crash_is_printed_with_its_traceback_if_no_handler_takes_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python's last resort prints it at once: the server is told only when it stops."""
    server = RecordingServer(holds_on=True)
    with unread(), pytest.raises(OSError, match="no such host"):
        await server.run(LifespanMiddleware(Crashes(server)))
    printed = capsys.readouterr().err
    assert printed.startswith("crash in app Crashes: OSError: no such host\nTraceback (most recent call last):\n")
    assert server.sent[-1]["message"] == "crash in app Crashes: OSError: no such host"


async def test_the_message_has_the_traceback_of_a_crash_that_nothing_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A NullHandler keeps the last resort from printing."""
    monkeypatch.setattr(LOGGER, "handlers", [logging.NullHandler()])
    server = RecordingServer(holds_on=True)
    with unread(), pytest.raises(OSError, match="no such host"):
        await server.run(LifespanMiddleware(Crashes(server)))
    assert capsys.readouterr().err == ""
    assert server.sent[-1]["message"].count("Traceback") == 1


async def test_a_failure_after_a_cancellation_is_printed_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """The server is sent nothing, so the log has it all."""
    server = RecordingServer(holds_on=True)
    with unread():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, LifespanMiddleware(TakesLifespan(), fails_at_stop))
            await server.started.wait()
            tasks.cancel_scope.cancel()
    printed = capsys.readouterr().err
    assert printed.startswith("shutdown failed in hook 'fails_at_stop' (")
    assert printed.count("Traceback") == 1
    assert server.answers == ["startup.complete"]


class Unheard(logging.Handler):
    """A handler that another level passes by."""

    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)


@pytest.mark.parametrize(
    ("handler", "expected"),
    [(logging.Handler(), True), (logging.NullHandler(), False), (Unheard(), False)],
    ids=["a handler", "a NullHandler", "a level above ERROR"],
)
def test_a_handler_counts_if_it_takes_errors(
    handler: logging.Handler, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the logger of the package, or on one that its records reach."""
    with unread():
        assert not is_read()
        monkeypatch.setattr(LOGGER, "handlers", [handler])
        assert is_read() == expected
        monkeypatch.setattr(LOGGER, "handlers", [])
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
        assert not is_read()
    assert is_read() == expected


def test_no_handler_counts_for_a_logger_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level above ERROR, or ``dictConfig(disable_existing_loggers=True)``, which is its default."""
    assert is_read()
    monkeypatch.setattr(LOGGER, "disabled", True)
    assert not is_read()
    monkeypatch.setattr(LOGGER, "disabled", False)
    LOGGER.setLevel(logging.CRITICAL)
    assert not is_read()
    LOGGER.setLevel(logging.NOTSET)
    assert is_read()
