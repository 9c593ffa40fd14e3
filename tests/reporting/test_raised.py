"""The exception that comes out of a failed run: the original one, with the user's frames."""

import logging
import re
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fastapi import FastAPI

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware
from tests.server import RecordingServer

OURS = 1 if sys.version_info >= (3, 12) else 2
"""The frames of ours that an exception passes on its way to the server; `__call__` is one before Python 3.12."""


def fails() -> NoReturn:
    """Fail."""
    raise OSError("no such host")


@asynccontextmanager
async def fails_to_start(app: object) -> AsyncIterator[None]:
    """Fail before the yield."""
    fails()
    yield  # pragma: no cover - it makes a generator of it


@asynccontextmanager
async def fails_to_stop(app: object) -> AsyncIterator[None]:
    """Fail after the yield."""
    yield
    fails()


async def by_a_server(app: LifespanMiddleware) -> None:
    """Run an app as a server does."""
    await RecordingServer().run(app)


async def by_a_manager(app: LifespanMiddleware | FastAPI | Lifespan) -> None:
    """Run an app as a test does."""
    async with LifespanManager(app):
        pass


def frames(error: BaseException) -> tuple[int, list[str]]:
    """Return how many frames of this package are in a traceback, and the names of the other functions."""
    ours = 0
    names: list[str] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"].startswith("asgi_lifespan_mw"):
            ours += 1
        else:
            names.append(frame.f_code.co_name)
    return ours, names


@pytest.mark.parametrize("lifespan", [fails_to_start, fails_to_stop])
@pytest.mark.parametrize("drive", [by_a_server, by_a_manager])
async def test_what_is_raised_has_the_users_frames(lifespan: Any, drive: Callable[[Any], Awaitable[None]]) -> None:
    """A hook's error passes one frame of ours, and none of contextlib's."""
    with pytest.raises(OSError, match="no such host") as raised:
        await drive(LifespanMiddleware(FastAPI(), lifespan=lifespan))
    ours, others = frames(raised.value)
    assert others[-2:] == [lifespan.__name__, "fails"]
    assert "__aenter__" not in others
    assert "__aexit__" not in others
    assert ours <= OURS


@pytest.mark.parametrize("lifespan", [fails_to_start, fails_to_stop])
async def test_what_an_app_raised_has_no_frames_of_its_framework(lifespan: Any) -> None:
    """Those between the server and the lifespan function say nothing."""
    with pytest.raises(OSError, match="no such host") as raised:
        await by_a_server(LifespanMiddleware(FastAPI(lifespan=lifespan)))
    ours, others = frames(raised.value)
    assert others == [
        "test_what_an_app_raised_has_no_frames_of_its_framework",
        "by_a_server",
        "run",
        lifespan.__name__,
        "fails",
    ]
    assert ours <= OURS


@pytest.mark.parametrize("lifespan", [fails_to_start, fails_to_stop])
async def test_what_a_server_raises_hides_the_error_that_it_was_told_of(lifespan: Any) -> None:
    """It wins, and prints alone: the failure is its context, which Python does not print."""

    class Refuses(RecordingServer):
        async def send(self, message: dict[str, Any]) -> None:
            await super().send(message)
            if message["type"].endswith(".failed"):
                raise ConnectionError(message["message"])

    with pytest.raises(ConnectionError) as raised:
        await Refuses().run(LifespanMiddleware(FastAPI(), lifespan=lifespan))
    assert isinstance(raised.value.__context__, OSError)
    assert raised.value.__context__.__context__ is None
    assert raised.value.__suppress_context__
    assert frames(raised.value)[0] <= OURS


@pytest.mark.parametrize("lifespan", [fails_to_start, fails_to_stop])
async def test_a_manager_around_a_middleware_tells_nothing_again(
    lifespan: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The middleware told the log; the manager raises to who uses it."""
    with pytest.raises(OSError, match="no such host"):
        await by_a_manager(LifespanMiddleware(FastAPI(), lifespan=lifespan))
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert re.match(rf"(startup|shutdown) failed in hook '{lifespan.__name__}' ", record.getMessage())


@pytest.mark.parametrize("lifespan", [fails_to_start, fails_to_stop])
@pytest.mark.parametrize(
    "app",
    [lambda lifespan: FastAPI(lifespan=lifespan), lambda lifespan: Lifespan(contexts=[lifespan])],
    ids=["app", "hooks"],
)
async def test_a_manager_logs_a_failure_without_its_traceback(
    app: Any, lifespan: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It raises the exception itself, with the traceback, to who uses it."""
    with pytest.raises(OSError, match="no such host"):
        await by_a_manager(app(lifespan))
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert not record.exc_info


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool]]:
    """Return who failed in each record at ERROR, and whether the record has a traceback."""
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    return [(record.getMessage().split(" in ")[1].split(" (")[0], bool(record.exc_info)) for record in records]


@pytest.mark.parametrize("lifespan", [fails_to_start, fails_to_stop])
async def test_a_lifespan_of_a_framework_logs_its_own_failure(lifespan: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What the server is sent is the framework's message."""
    server = RecordingServer()
    with pytest.raises(OSError, match="no such host"):
        await server.run(FastAPI(lifespan=Lifespan(contexts=[lifespan])))
    assert told(caplog) == [(f"hook '{lifespan.__name__}'", True)]
    assert server.sent[-1]["message"].startswith("Traceback")


@pytest.mark.parametrize("lifespan", [fails_to_start, fails_to_stop])
async def test_the_traceback_of_a_failure_inside_is_logged_once(
    lifespan: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The hook is named with it, the application around the hook without it."""
    with pytest.raises(OSError, match="no such host"):
        await by_a_server(LifespanMiddleware(FastAPI(lifespan=Lifespan(contexts=[lifespan]))))
    assert told(caplog) == [(f"hook '{lifespan.__name__}'", True), ("app FastAPI: OSError: no such host", False)]


TEST = """
import anyio, pytest
from contextlib import asynccontextmanager
from fastapi import FastAPI
from fastapi.testclient import TestClient
from asgi_lifespan_mw import LifespanManager, LifespanMiddleware

@asynccontextmanager
async def fails_to_start(app):
    raise OSError("no such host")
    yield

app = LifespanMiddleware(FastAPI(), lifespan=fails_to_start)

@pytest.mark.anyio
async def test_async():
    async with LifespanManager(app):
        pass

def test_sync():
    with LifespanManager(app):
        pass

def test_client():
    with TestClient(app):
        pass
"""


@pytest.mark.slow
def test_pytest_shows_no_frame_of_ours(tmp_path: Path) -> None:
    """A test that fails shows its own line and that of the hook."""
    (tmp_path / "test_shop.py").write_text(TEST)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--show-capture=no", "test_shop.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "4 failed" in ran.stdout
    assert ran.stdout.count('>       raise OSError("no such host")') == 4
    assert "asgi_lifespan_mw/_" not in ran.stdout
