"""Twenty mounted MCP servers on real servers, three of which have trouble, asked by a real client."""

from pathlib import Path

import pytest
from mcp import Client

from tests.servers.harness import HYPERCORN, UVICORN, Server, Setup

pytestmark = pytest.mark.servers


@pytest.fixture
def anyio_backend() -> str:
    """The client's loop."""
    return "asyncio"


@pytest.mark.parametrize("setup", [UVICORN, HYPERCORN], ids=lambda setup: setup.name)
async def test_the_others_start_where_one_raises_and_one_hangs(setup: Setup, tmp_path: Path) -> None:
    """A client calls the tool of each server that runs; the log names the two that do not, and why."""
    with Server(setup, "tests.apps.twenty_servers:app", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        outcomes = server.request("GET", "/").json()
        broken = {path for path, outcome in outcomes.items() if outcome == "failed"}
        assert broken == {"/fast2", "/sdk7"}
        assert len(outcomes) == 20
        for path in outcomes.keys() - broken:
            async with Client(f"{server.url}{path}/") as client:
                result = await client.call_tool("add", {"one": 20, "other": 22})
                assert result.structured_content == {"result": 42}
        # Requests reach a server that did not start, which says what it makes of them.
        assert server.request("POST", "/fast2/", json={}).status_code >= 400
        server.wait_for_error(r"startup failed in mount '/fast2': ConnectionError: no upstream; it is optional")
        server.wait_for_error(
            r"startup timed out after 5 s in mount '/sdk7'; it was at .*twenty_servers\.py:\d+ in hangs"
        )
    assert "shutdown failed" not in server.stderr
