"""The log: who is told what, at which level; and what an import does."""

import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator

import anyio
import pytest
from fastapi import FastAPI

import asgi_lifespan_mw
from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from tests.conftest import VIRTUAL
from tests.plans import CrashesOnDemand, Journal
from tests.server import RecordingServer
from tests.test_readme import README
from tests.usages import serving


async def test_a_lifespan_is_two_lines_at_info(caplog: pytest.LogCaptureFixture) -> None:
    """One for the startup and one for the shutdown, with the time that each took and what there was."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    journal = Journal()
    await RecordingServer().run(LifespanMiddleware(journal.app(), journal.context("a")))
    startup, shutdown = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"startup complete in \d\.\d{3} s: app .*recorded\(\), hooks 1, mounts 0", startup)
    assert re.fullmatch(r"shutdown complete in \d\.\d{3} s: app .*recorded\(\), hooks 1, mounts 0", shutdown)


async def test_a_unit_is_one_line_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """When it has started, and when it has stopped."""
    caplog.set_level(logging.DEBUG, "asgi_lifespan_mw")
    journal = Journal()
    await RecordingServer().run(LifespanMiddleware(journal.app(), journal.context("a")))
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert [re.sub(r" in \d\.\d{3} s$| \(.*\)", "", re.sub(r"app .*recorded\(\)", "app", line)) for line in lines] == [
        "hook 'a' started",
        "app started",
        "app stopped",
        "hook 'a' stopped",
    ]


def shape(line: str) -> str:
    """A line without what differs from run to run: times, and places in files."""
    return re.sub(r"[\w/<>.-]+\.py:\d+( in \w+)?", "PLACE", re.sub(r"\d+\.\d+ s", "TIME", line))


@pytest.mark.parametrize("anyio_backend", VIRTUAL[:1], indirect=True)
async def test_the_lines_in_the_readme_are_those_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    """Of an app like the one there: a hook that takes long, a mount, a worker that breaks while serving."""
    caplog.set_level(logging.DEBUG, "asgi_lifespan_mw")
    (block,) = re.findall(r"^## The log\n.*?^```text\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    app = FastAPI()
    app.mount("/admin", FastAPI())
    wrapped = LifespanMiddleware(app)
    worker = CrashesOnDemand(RuntimeError("the queue is gone"))

    @wrapped.on_startup
    async def load_model() -> None:
        await anyio.sleep(12)

    wrapped.context(worker, name="worker")
    with pytest.raises(ExceptionGroup):
        async with serving(wrapped):
            worker.demand.set()
            await anyio.sleep(1)
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    assert [shape(line) for line in block.splitlines()] == [shape(line) for line in lines]


async def test_the_failure_in_the_readme_is_that_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handler the server is sent who failed and why, then the traceback, which begins in the user's code."""
    monkeypatch.setattr(logging.getLogger("asgi_lifespan_mw"), "propagate", False)
    (block,) = re.findall(
        r"^### Handle failures and timeouts\n.*?^```text\n(.*?)^```", README, re.DOTALL | re.MULTILINE
    )

    async def open_pool() -> AsyncIterator[None]:
        raise ConnectionRefusedError(111, "Connection refused")
        yield  # pragma: no cover - it makes a generator of it

    server = RecordingServer()
    with pytest.raises(ConnectionRefusedError):
        await server.run(LifespanMiddleware(FastAPI(), Lifespan(contexts=[open_pool])))
    said = server.sent[0]["message"].splitlines()
    shown = block.splitlines()
    assert [shape(line) for line in said[:3]] == [shape(line) for line in shown[:3]]
    assert "in open_pool" in said[3]
    assert "in open_pool" in shown[3]


class Broken(logging.Handler):
    """A handler that raises at each record, as one without its disk or its network does."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left")


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
async def test_a_handler_that_raises_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything starts, crashes, fails and stops as without it."""
    logger = logging.getLogger("asgi_lifespan_mw")
    monkeypatch.setattr(logger, "handlers", [Broken()])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    journal, worker, server = Journal(), CrashesOnDemand(), RecordingServer(holds_on=True)
    app = LifespanMiddleware(journal.app(), [journal.context("a"), worker.__call__])
    with pytest.raises(ExceptionGroup):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.run, app)
            await server.started.wait()
            worker.demand.set()
            await anyio.sleep(1)
            server.may_stop.set()
    assert journal.events == ["+a", "+app", "-app", "-a"]
    assert server.answers == ["startup.complete", "shutdown.failed"]


async def test_a_record_names_the_line_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    """And not the one that passes it on."""
    caplog.set_level(logging.DEBUG, "asgi_lifespan_mw")
    await RecordingServer().run(LifespanMiddleware(Journal().app()))
    assert {record.module for record in caplog.records} == {"unit", "run"}


def test_nothing_is_configured_for_the_user() -> None:
    """Levels and handlers are the application's."""
    logger = logging.getLogger("asgi_lifespan_mw")
    assert logger.handlers == []
    assert logger.level == logging.NOTSET


@pytest.mark.parametrize("configured", [False, True])
def test_python_shows_warnings_and_what_is_configured_shows_the_rest(configured: bool) -> None:
    """Where the README says so: without a handler what is serious is on standard error all the same."""
    (line,) = re.findall(r"`(logging\.basicConfig\(.*?\))` in the module of the app", README)
    program = f"""
import logging, anyio
from starlette.applications import Starlette
from asgi_lifespan_mw import LifespanManager, LifespanMiddleware

{line if configured else ""}

async def breaks(scope, receive, send):
    raise AssertionError("no lifespan")

async def main():
    async with LifespanManager(LifespanMiddleware(breaks, on_startup=[lambda: None])):
        pass

anyio.run(main)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "no lifespan" in ran.stderr
    assert ("INFO:asgi_lifespan_mw:startup complete" in ran.stderr) == configured
    assert ("startup complete" in ran.stderr) == configured
    assert ran.stdout == ""


def test_an_import_brings_no_framework_no_server_and_no_trio() -> None:
    """What is installed beside us stays asleep, and nothing is printed."""
    code = (
        "import sys, asgi_lifespan_mw; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'trio', 'uvloop', 'starlette', 'fastapi', 'uvicorn', 'hypercorn', 'mcp', 'fastmcp', 'pydantic', 'httpx'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "[]\n"
    assert ran.stderr == ""


def test_the_version_is_one() -> None:
    """The package and its metadata agree."""
    from importlib.metadata import version

    assert version("asgi-lifespan-mw") == asgi_lifespan_mw.__version__
