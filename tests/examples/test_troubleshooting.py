"""The page on troubleshooting: each text that it has for a heading is what a user sees, and the cure works."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from mcp.server import MCPServer
from starlette.applications import Starlette

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware
from tests.frameworks.versions import needs
from tests.server import RecordingServer
from tests.servers.harness import UVICORN, Server
from tests.test_readme import BESIDE
from tests.usages import lived, recorded, started_and_stopped

F = TypeVar("F", bound=Callable[..., object])

HEADINGS = re.findall(r"^## (.*)$", BESIDE["docs/troubleshooting.md"], re.MULTILINE)
ELSEWHERE = {
    "The startup hangs, and Ctrl-C does nothing": "units/test_supervisor.py::test_the_startup_timeout_names_the_unit",
    "The server says that it exits, and the process stays": (
        "hooks/test_threaded.py::test_a_thread_cannot_be_cancelled_and_is_left_to_end_by_itself"
    ),
    "Hooks do not run": "servers/test_without_lifespan.py::test_a_server_without_lifespan_serves_all_the_same",
    "A message of this package": "test_log.py::test_the_lines_in_the_readme_are_those_of_a_run",
}
"""Headings without a text to look for, each with a test of what stands there."""
shown: list[str] = []


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio: what most of the others know."""
    return "asyncio"


def heading(start: str) -> Callable[[F], F]:
    """The test that it decorates shows what stands under the heading that begins so."""
    [found] = [one for one in HEADINGS if one.startswith(start)]
    shown.append(found)
    return lambda test: test


def text(start: str) -> str:
    """Return the text of a heading, without the dots that stand for what differs."""
    [found] = [one for one in HEADINGS if one.startswith(start)]
    return str(found).strip("`").replace("'...'", "").rstrip(".")


def test_each_heading_is_shown() -> None:
    """By a test here, or by one that is named for it."""
    assert [*shown, *ELSEWHERE] == [*(one for one in HEADINGS if one not in ELSEWHERE), *ELSEWHERE]
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}" in (Path(__file__).parent.parent / file).read_text(encoding="utf-8"), place


def mounted_server(app: FastAPI) -> FastAPI:
    """Mount a new MCP server in an app."""
    app.mount("/mcp", MCPServer("assistant").streamable_http_app(streamable_http_path="/", json_response=True))
    return app


def call(client: TestClient) -> int:
    """Call the MCP server; return the status of the answer."""
    accept = {"accept": "application/json, text/event-stream"}
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    return int(client.post("/mcp/", json=body, headers={**accept, "host": "127.0.0.1:8000"}).status_code)


@heading("`Task group is not initialized")
def test_a_mounted_mcp_server_does_not_run_without_its_lifespan() -> None:
    """With the package it answers."""
    with TestClient(mounted_server(FastAPI())) as client, pytest.raises(RuntimeError) as raised:
        call(client)
    assert text("`Task group is not initialized") in str(raised.value)
    with TestClient(mounted_server(FastAPI(lifespan=Lifespan(mounts="auto")))) as client:
        assert call(client) == 200


@heading("`.run() can only be called once")
async def test_an_mcp_app_runs_once() -> None:
    """A second app is started."""
    app = mounted_server(FastAPI(lifespan=Lifespan(mounts="auto")))
    await lived(app)
    server = RecordingServer()
    with pytest.raises(RuntimeError) as raised:
        await server.run(app)
    assert text("`.run() can only") in str(raised.value)
    await lived(mounted_server(FastAPI(lifespan=Lifespan(mounts="auto"))))


@heading("`Django can only handle")
async def test_django_refuses_the_lifespan() -> None:
    """Hooks around it run."""
    site = pytest.importorskip("tests.frameworks.django_site")
    site.set_up()
    django_app = needs("django", "django.core.asgi").get_asgi_application()
    with pytest.raises(ValueError, match=text("`Django can only handle")):
        await django_app({"type": "lifespan"}, anyio.sleep_forever, anyio.sleep_forever)
    ran: list[str] = []
    await lived(LifespanMiddleware(django_app, exclude=[django_app], on_startup=[lambda: ran.append("hook")]))
    assert ran == ["hook"]


@heading("`No application configured for scope type")
async def test_a_router_of_channels_refuses_the_lifespan() -> None:  # pragma: no cover - Channels may be missing
    """What is behind it is started by the package."""
    pytest.importorskip("tests.frameworks.django_site").set_up()
    router = needs("channels", "channels.routing").ProtocolTypeRouter
    log: list[str] = []
    app = router({"http": recorded(log, "api")})
    with pytest.raises(ValueError, match=text("`No application configured")):
        await app({"type": "lifespan"}, anyio.sleep_forever, anyio.sleep_forever)
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("api")


@pytest.mark.servers
@heading("`ASGI 'lifespan' protocol appears unsupported.")
def test_uvicorn_serves_an_app_whose_startup_broke(tmp_path: Path) -> None:
    """And says this."""
    with Server(UVICORN, "tests.apps.faults:raising_bare", tmp_path / "none.db") as server:
        server.wait_for_error(re.escape(text("`ASGI 'lifespan'")))
        assert server.request("GET", "/").status_code == 200


@asynccontextmanager
async def yields_state(app: object) -> AsyncIterator[dict[str, str]]:
    """A lifespan that yields a mapping."""
    yield {"pool": "open"}


class WithoutState(RecordingServer):
    """A server without lifespan state."""

    async def run(self, app: Any, **scope: Any) -> None:
        """Run the app's lifespan without a state in its scope."""

        async def bare(scope: Any, receive: Any, send: Any) -> None:
            await app({key: value for key, value in scope.items() if key != "state"}, receive, send)

        await super().run(bare, **scope)


@heading('`The server does not support "state"')
async def test_a_mapping_needs_a_state() -> None:
    """The package gives one."""
    with pytest.raises(RuntimeError, match=text('`The server does not support "state"')):
        await WithoutState().run(Starlette(lifespan=yields_state))
    server = WithoutState()
    await server.run(LifespanMiddleware(Starlette(lifespan=yields_state)))
    assert server.answers == ["startup.complete", "shutdown.complete"]


@heading("`'State' object has no attribute")
def test_an_attribute_is_missing_where_no_lifespan_ran() -> None:
    """With the package, a mount's own lifespan runs."""
    sub = FastAPI(lifespan=yields_state)

    @sub.get("/")
    def pool(request: Request) -> str:
        return str(request.state.pool)

    app, cured = FastAPI(), FastAPI(lifespan=Lifespan(mounts="auto"))
    app.mount("/sub", sub)
    cured.mount("/sub", sub)
    with TestClient(app) as client, pytest.raises(AttributeError, match=text("`'State' object").strip()):
        client.get("/sub/")
    with TestClient(cured) as client:
        assert client.get("/sub/").json() == "open"


@heading("`'NoneType' object has no attribute 'on_startup'")
async def test_add_middleware_returns_none() -> None:
    """Hooks go into a `Lifespan`."""
    app: Any = FastAPI()
    with pytest.raises(AttributeError, match=text("`'NoneType'")):
        app.add_middleware(LifespanMiddleware).on_startup(print)
    ran: list[str] = []
    cured = FastAPI()
    cured.add_middleware(LifespanMiddleware, lifespan=Lifespan(on_startup=[lambda: ran.append("hook")]))
    await lived(cured)
    assert ran == ["hook"]


@heading("`LifespanMiddleware has no 'get'")
def test_routes_belong_to_the_wrapped_app() -> None:
    """Which is `app.app`."""
    app: Any = LifespanMiddleware(FastAPI())
    with pytest.raises(AttributeError, match=text("`LifespanMiddleware has no")):
        app.get("/")
    assert app.app.get("/")


@heading("An app is started twice")
async def test_a_loop_over_the_mounts_may_stay() -> None:
    """Each app starts once."""
    log: list[str] = []
    sub = recorded(log, "sub")

    @asynccontextmanager
    async def starts_sub(app: object) -> AsyncIterator[None]:
        async with sub.router.lifespan_context(sub):
            yield

    app = Starlette(lifespan=starts_sub)
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("sub")


@heading("`Attempted to exit cancel scope in a different task")
async def test_a_task_group_is_left_in_its_own_task() -> None:
    """A context is one task; here the test enters and leaves it from two."""
    group = anyio.create_task_group()
    await asyncio.create_task(group.__aenter__())
    with pytest.raises(RuntimeError, match=text("`Attempted to exit")):
        await group.__aexit__(None, None, None)

    async def with_a_group() -> AsyncIterator[None]:
        async with anyio.create_task_group():
            yield

    manager = LifespanManager(Lifespan(contexts=[with_a_group]))
    await asyncio.create_task(manager.__aenter__())
    await manager.__aexit__(None, None, None)
