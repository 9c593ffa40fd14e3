"""The examples of integrations under ``tests/apps``, each on a real server; the shop has tests of its own."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest
from mcp import Client

from tests.frameworks.versions import needs
from tests.servers.harness import GUNICORN_UVICORN, HYPERCORN_TRIO, UVICORN, Server, Setup
from tests.servers.units import UNITS, started, stopped
from tests.test_readme import README

pytestmark = pytest.mark.servers


def stops_in_order(server: Server, setup: Setup, *expected: str) -> None:
    """Stop it by its signal; then it has announced this and nothing else, and nobody complained."""
    server.signal(setup.stop)
    assert server.wait() == 0, str(server)
    assert server.announcements == list(expected), str(server)
    assert "Traceback" not in server.stderr, str(server)


def test_fastapi_with_mcp_servers(tmp_path: Path) -> None:
    """A client of the MCP SDK calls the tool of each mounted server."""

    async def ask(url: str) -> object:
        async with Client(url) as client:
            answer = await client.call_tool("in_stock", {"product": "tea strainer"})
            return answer.structured_content

    with Server(UVICORN, "tests.apps.shop.main:app", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        for path in ("/mcp-sdk/", "/mcp-fast/"):
            assert anyio.run(ask, server.url + path) == {"result": 40}
        stops_in_order(server, UVICORN, *started(UNITS), *stopped(UNITS))


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's visitor is curl")
def test_the_shop_is_served_and_visited_as_the_readme_says(tmp_path: Path) -> None:
    """By its commands as they stand, but for the port, which the system picks here."""
    (chapter,) = re.findall(r"^## The shop\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    serve, visit = re.findall(r"^```sh\n((?:\.venv|curl).*?)^```", chapter, re.DOTALL | re.MULTILINE)
    assert serve == ".venv/bin/python -m uvicorn tests.apps.shop.main:app\n"
    with Server(UVICORN, serve.split()[-1], tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        address = server.url.removeprefix("http://")
        script = "set -e\n" + re.sub(r"^curl", "curl -sS --fail -w '\\n'", visit, flags=re.MULTILINE)
        script = script.replace("127.0.0.1:8000", address)
        ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert ran.returncode == 0, f"{ran.stderr}\n{server}"
        products, metrics, assistant = map(json.loads, ran.stdout.splitlines())
        assert products[0] == {"name": "teapot", "cents": round(3400 * 0.87), "stock": 12}
        assert metrics == {"views": 1, "deliveries": 0, "sold": {}}
        assert assistant["result"]["serverInfo"]["name"] == "teashop"


@pytest.mark.parametrize("app", ["events_outside", "events_inside", "events_around"])
def test_fastapi_events_in_either_order(app: str, tmp_path: Path) -> None:
    """An event of a hook is handled before the hook is done, and that of a request while the app serves."""
    with Server(UVICORN, f"tests.apps.events:{app}", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/order").json() == "thanks"
        server.wait_for_announcement("handled ordered")
        stops_in_order(
            server,
            UVICORN,
            *("started cache", "handled cache filled", "handled ordered", "handled cache emptied", "stopped cache"),
        )


def test_django_with_hooks(tmp_path: Path) -> None:
    """A view sees what a hook yielded."""
    with Server(UVICORN, "tests.apps.django_hooks:app", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/").json() == {"GBP": 0.87}
        stops_in_order(server, UVICORN, "started rates", "warmed up", "said goodbye", "stopped rates")


def test_litestar_with_a_mounted_starlette(tmp_path: Path) -> None:
    """Both answer, and the mount sees the state of its own lifespan."""
    needs("litestar", "litestar")
    units = ["litestar", "reports"]
    with Server(UVICORN, "tests.apps.litestar_mount:app", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/").text == "litestar"
        assert server.request("GET", "/reports/").text == "ready"
        stops_in_order(server, UVICORN, *started(units), *stopped(units))


def test_quart_with_hooks(tmp_path: Path) -> None:
    """A view sees what a hook yielded."""
    needs("quart", "quart")
    units = ["rates", "quart"]
    with Server(UVICORN, "tests.apps.quart_hooks:app", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/").json() == {"GBP": 0.87}
        stops_in_order(server, UVICORN, *started(units), *stopped(units))


def test_channels_with_hooks(tmp_path: Path) -> None:
    """The app for HTTP and the consumer of a WebSocket see what a hook yielded."""
    needs("channels", "channels")
    units = ["rates", "api"]
    with Server(UVICORN, "tests.apps.channels_hooks:app", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/").json() == {"GBP": 0.87}
        assert server.exchange("/rate", "GBP") == "0.87"
        stops_in_order(server, UVICORN, *started(units), *stopped(units))


@pytest.mark.parametrize(
    ("setup", "loop"),
    [pytest.param(GUNICORN_UVICORN, "asyncio", id="gunicorn"), pytest.param(HYPERCORN_TRIO, "trio", id="trio")],
)
def test_gunicorn_with_uvicorn_workers_and_hypercorn_on_trio(setup: Setup, loop: str, tmp_path: Path) -> None:
    """A mount sees the state of the hook and of its own lifespan, on the loop that was asked for."""
    units = ["loop", "reports"]
    with Server(setup, "tests.apps.plain_starlette:app", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/reports/").json() == {"loop": loop, "printer": "ready"}
        stops_in_order(server, setup, *started(units), *stopped(units))
