"""The shop, served: what reaches the application and each mount, and what state it finds there."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.servers.harness import SETUPS, UVICORN, Server
from tests.test_readme import blocks

pytestmark = pytest.mark.servers

ASSISTANTS = ["/mcp-sdk/", "/mcp-fast/"]


@pytest.fixture(scope="module", params=SETUPS, ids=lambda setup: setup.name)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shop with the middleware around it, on each server in turn."""
    database = tmp_path_factory.mktemp("shop") / "shop.db"
    with Server(request.param, "tests.apps.shop.main:app", database) as server:
        yield server


@pytest.fixture(scope="module")
def bare_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shop without the middleware."""
    with Server(UVICORN, "tests.apps.shop.main:shop", tmp_path_factory.mktemp("shop") / "shop.db") as server:
        yield server


def call_assistant(server: Server, path: str, method: str, **params: Any) -> httpx.Response:
    """Send one JSON-RPC request to an MCP server."""
    return server.request(
        "POST",
        path,
        headers={"accept": "application/json, text/event-stream"},
        json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params},
    )


def initialize(server: Server, path: str) -> httpx.Response:
    """Send what an MCP client sends first."""
    return call_assistant(
        server,
        path,
        "initialize",
        protocolVersion="2025-06-18",
        capabilities={},
        clientInfo={"name": "a test", "version": "1"},
    )


def stock_of(server: Server, product: str) -> int:
    """How many pieces of a product the shop says it has."""
    products: list[dict[str, Any]] = server.request("GET", "/products").json()
    return int(next(row["stock"] for row in products if row["name"] == product))


def test_the_visits_of_the_readme_are_answered(shop: Server) -> None:
    """Each line of its block that is typed beside a server; here on another port, by another client, on each server."""
    serve, visit = (block for block in blocks("sh") if "curl" in block or "-m uvicorn" in block)
    assert serve == ".venv/bin/python -m uvicorn tests.apps.shop.main:app\n"
    visits = visit.replace("\\\n", "").splitlines()
    for visit in visits:
        _, address, *options = shlex.split(visit, comments=True)
        pairs = [*zip(options[::2], options[1::2], strict=True)]
        headers = dict(value.split(": ") for option, value in pairs if option == "-H")
        host, _, path = address.partition("/")
        assert host == "127.0.0.1:8000"
        body = dict(pairs).get("-d")
        answer = shop.request("POST" if body else "GET", f"/{path}", headers=headers, content=body)
        assert answer.status_code == 200, answer.text
    assert len(visits) == 3


def test_the_shop_queries_the_database_that_its_lifespan_opened(shop: Server) -> None:
    """What is ordered is written to the file and found there by the next request."""
    before = stock_of(shop, "kettle")

    answer = shop.request("POST", "/orders", json={"product": "kettle", "quantity": 2})

    assert (answer.status_code, answer.json()["left"]) == (201, before - 2)
    assert shop.request("GET", "/orders").json()[-1].items() >= {"product": "kettle", "quantity": 2}.items()
    assert shop.request("POST", "/orders", json={"product": "kettle", "quantity": 99}).status_code == 409


def test_a_hooks_state_reaches_the_shop(shop: Server) -> None:
    """The exchange rates come from a hook of the middleware."""
    answer = shop.request("GET", "/products", params={"currency": "GBP"})

    assert answer.json()[0]["cents"] == round(3400 * 0.87)
    assert shop.request("GET", "/products", params={"currency": "USD"}).status_code == 422


def test_the_admin_mounts_worker_runs_while_requests_are_served(shop: Server) -> None:
    """A request hands a delivery to the worker in the task group, and it arrives in the shop's database."""
    before = stock_of(shop, "teapot")
    delivered = shop.request("GET", "/admin/").json()["delivered"]

    assert shop.request("POST", "/admin/restock/teapot").status_code == 202

    done = {"waiting": 0, "delivered": delivered + 1}
    assert any(shop.request("GET", "/admin/").json() == done for _ in range(1000)), "a thousand requests later"
    assert stock_of(shop, "teapot") == before + 10


def test_a_second_level_mount_sees_its_own_state_and_that_of_both_parents(shop: Server) -> None:
    """The metrics read their meter, the admin application's warehouse and the shop's database."""
    first = shop.request("GET", "/admin/metrics/").json()
    shop.request("POST", "/orders", json={"product": "teapot", "quantity": 1})
    second = shop.request("GET", "/admin/metrics/").json()

    assert second["views"] == first["views"] + 1
    assert second["deliveries"] == first["deliveries"]
    assert second["sold"]["teapot"] == first["sold"].get("teapot", 0) + 1


def test_a_mount_on_an_included_router_is_served_under_the_prefix_of_the_inclusion(shop: Server) -> None:
    """The reports find their printer and the shop's database, and other paths find nothing."""
    answer = shop.request("GET", "/office/reports/stock")

    assert answer.text.startswith("Teashop - stock - page ")
    assert " tea strainer\n" in answer.text
    assert shop.request("GET", "/reports/stock").status_code == 404


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("/state", {"database": "Database", "exchange_rates": "dict"}),
        ("/admin/state", {"database": "Database", "warehouse": "Warehouse"}),
        ("/admin/metrics/state", {"database": "Database", "warehouse": "Warehouse", "meter": "Counter"}),
        ("/office/reports/state", {"database": "Database", "exchange_rates": "dict", "printer": "Printer"}),
    ],
    ids=["shop", "admin", "metrics", "reports"],
)
def test_a_websocket_finds_the_state(shop: Server, path: str, state: dict[str, str]) -> None:
    """In the shop and in each mount, a websocket's state has what their lifespans and the hooks yielded."""
    assert {name: json.loads(shop.exchange(path, name))[name] for name in state} == state
    assert json.loads(shop.exchange(path, "till")) == {"till": "NoneType"}


@pytest.mark.parametrize("path", ASSISTANTS)
def test_a_mounted_mcp_server_is_initialized(shop: Server, path: str) -> None:
    """Wrapped, ``initialize`` is answered with 200, on trio as well: both SDKs run there."""
    answer = initialize(shop, path)

    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["serverInfo"]["name"] == "teashop"


@pytest.mark.parametrize("path", ASSISTANTS)
def test_a_mounted_mcp_servers_tool_queries_the_shops_database(shop: Server, path: str) -> None:
    """A tool finds the shop's pool in the state of the HTTP request that called it."""
    answer = call_assistant(shop, path, "tools/call", name="in_stock", arguments={"product": "tea strainer"})

    assert answer.json()["result"]["structuredContent"] == {"result": 40}


@pytest.mark.parametrize("path", ASSISTANTS)
def test_without_the_middleware_a_mounted_mcp_server_fails(bare_shop: Server, path: str) -> None:
    """Unwrapped, ``initialize`` is answered with 500: nobody has started the session manager."""
    assert initialize(bare_shop, path).status_code == 500

    bare_shop.wait_for_log("task group (is|was) not initialized")


def test_without_the_middleware_only_the_shop_itself_is_started(bare_shop: Server) -> None:
    """Unwrapped, FastAPI runs its own lifespan and that of no mount."""
    assert bare_shop.request("GET", "/products").status_code == 200
    assert bare_shop.request("GET", "/admin/").status_code == 500
    bare_shop.wait_for_announcements(["started database"])
