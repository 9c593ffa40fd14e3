"""The light application where nobody sends a lifespan: nothing is started, and requests go straight through."""

import signal
from pathlib import Path

import httpx
import pytest

from tests.apps.faults import sound
from tests.servers.harness import Server, Setup

pytestmark = pytest.mark.servers


def test_a_server_without_lifespan_serves_all_the_same(setup_without_lifespan: Setup, tmp_path: Path) -> None:
    """A mount in a mount is reached, there is no state, and the hooks never run."""
    with Server(setup_without_lifespan, "tests.apps.faults:sound", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/admin/metrics/").json() == []

        server.signal(signal.SIGINT)

        assert server.wait() == 0, str(server)
        assert server.announcements == []
        assert "Traceback" not in server.stderr, str(server)


async def test_httpx_reaches_the_application_without_a_lifespan(capsys: pytest.CaptureFixture[str]) -> None:
    """Its transport sends requests alone, and the application gets no state with them."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sound), base_url="http://test") as client:
        assert (await client.get("/admin/metrics/")).json() == []

    assert capsys.readouterr().out == ""
