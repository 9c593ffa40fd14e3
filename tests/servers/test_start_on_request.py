"""Starts on request where nobody sends a lifespan: Mangum, httpx, an event loop for each request, and real servers."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import mangum
import pytest
from asgiref.sync import async_to_sync
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from asgi_lifespan_mw import LifespanMiddleware
from tests.plans import Journal
from tests.servers import harness
from tests.servers.harness import Server, Setup
from tests.test_on_request import shows_state


def event(path: str, body: str = "", method: str = "GET") -> dict[str, Any]:
    """An invocation as AWS's HTTP API sends it."""
    headers = {"host": "shop.test", "accept": "application/json, text/event-stream", "content-type": "application/json"}
    request = {"http": {"method": method, "path": path, "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"}}
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "headers": headers,
        "requestContext": {**request, "domainName": "shop.test", "stage": "$default"},
        "body": body, "isBase64Encoded": False,
    }  # fmt: skip


def app_with_a_pool(journal: Journal) -> LifespanMiddleware:
    """Return an app whose pool is in its state."""
    return LifespanMiddleware(
        Starlette(routes=[Route("/", shows_state)]), journal.context("pool", pool=1), start_on_request=True
    )


@pytest.fixture
def warm_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop that stays between invocations."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


def test_warm_invocations_of_mangum_start_nothing_again(journal: Journal, warm_loop: asyncio.AbstractEventLoop) -> None:
    """One loop serves them all; without us, each invocation runs the whole lifespan."""
    app = app_with_a_pool(journal)
    handler = mangum.Mangum(app, lifespan="off")
    for _ in range(3):
        answer: Any = handler(event("/"), {})  # type: ignore[arg-type]
        assert (answer["statusCode"], answer["body"]) == (200, '{"pool":1}')
    assert journal.events == ["+pool"]
    warm_loop.run_until_complete(app.stop())
    assert journal.events == ["+pool", "-pool"]


def test_an_mcp_server_answers_warm_invocations(warm_loop: asyncio.AbstractEventLoop) -> None:
    """Its session manager is good for one run, so it breaks at the second invocation of a bare app."""
    server = MCPServer("shop", instructions="")
    inner = server.streamable_http_app(stateless_http=True, json_response=True, host="shop.test")
    app = LifespanMiddleware(Starlette(routes=[Mount("/mcp", inner)]), start_on_request=True)
    handler = mangum.Mangum(app, lifespan="off")
    hello = (
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
        '"capabilities":{},"clientInfo":{"name":"test","version":"1"}}}'
    )
    for _ in range(2):
        answer: Any = handler(event("/mcp/mcp", hello, "POST"), {})  # type: ignore[arg-type]
        assert answer["statusCode"] == 200, answer
        assert '"serverInfo"' in answer["body"]
    warm_loop.run_until_complete(app.stop())


async def test_httpx_gets_a_started_app(journal: Journal) -> None:
    """Its transport sends requests alone."""
    app = app_with_a_pool(journal)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for _ in range(2):
            assert (await client.get("/")).json() == {"pool": 1}
    await app.stop()
    assert journal.events == ["+pool", "-pool"]


def test_each_loop_of_async_to_sync_starts_and_stops_everything(journal: Journal) -> None:
    """As a WSGI server does that serves an ASGI app with a loop for each request."""
    app = app_with_a_pool(journal)

    async def ask() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return (await client.get("/")).json()

    assert [async_to_sync(ask)() for _ in range(2)] == [{"pool": 1}] * 2
    assert journal.events == ["+pool", "-pool"] * 2


@pytest.mark.servers
def test_fifty_visitors_at_once_start_everything_once(setup_without_lifespan: Setup, tmp_path: Path) -> None:
    """On a server that sends no lifespan."""
    with Server(setup_without_lifespan, "tests.apps.faults:started_by_a_request", tmp_path / "shop.db") as server:
        server.wait_for_log(setup_without_lifespan.serving)
        with ThreadPoolExecutor(50) as visitors:
            answers = visitors.map(lambda _: server.request("GET", "/admin/metrics/").status_code, range(50))
            assert set(answers) == {200}
    assert server.announcements.count("started shop") == 1


@pytest.mark.servers
@pytest.mark.parametrize(
    ("setup", "number", "stops"),
    [
        (harness.UVICORN_OFF, signal.SIGINT, True),
        (harness.UVICORN_OFF, signal.SIGTERM, False),
        (harness.DAPHNE, signal.SIGINT, False),
        (harness.DAPHNE, signal.SIGTERM, False),
    ],
    ids=["uvicorn_ctrl_c", "uvicorn_sigterm", "daphne_ctrl_c", "daphne_sigterm"],
)
def test_what_a_signal_stops(setup: Setup, number: signal.Signals, stops: bool, tmp_path: Path) -> None:
    """Uvicorn ends at Ctrl-C with its event loop, which cancels all tasks; otherwise the process just ends."""
    with Server(setup, "tests.apps.faults:started_by_a_request", tmp_path / "shop.db") as server:
        server.wait_for_log(setup.serving)
        server.request("GET", "/admin/metrics/")
        server.wait_for_announcement("started till")
        server.signal(number)
        server.wait()
        assert ("stopped till" in server.announcements) is stops


RUNSERVER = Setup(
    "runserver",
    ("django", "runserver", "--noreload", "127.0.0.1:{port}", "--settings"),
    serving="Starting ASGI/Daphne",
    failure=1,
    logs_to_stdout=True,
)


@pytest.mark.servers
def test_djangos_runserver_with_daphne_starts_at_the_first_request(tmp_path: Path) -> None:
    """Once, and its requests see the state."""
    with Server(RUNSERVER, "tests.apps.runserver", tmp_path / "shop.db") as server:
        server.wait_for_log(RUNSERVER.serving)
        assert [server.request("GET", "/").json() for _ in range(2)] == [{"GBP": 0.87}] * 2
    assert server.announcements.count("started rates") == 1
