"""The light application where nobody sends a lifespan: nothing is started, and requests go straight through.

And what servers make of an application that breaks in its lifespan, where nothing is around it.
"""

import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.apps.faults import sound
from tests.servers.harness import EVERY_SETUP, UVICORN, UVICORN_ON, Server, Setup
from tests.servers.units import started

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


def test_a_request_starts_everything_and_sigterm_stops_nothing(setup_without_lifespan: Setup, tmp_path: Path) -> None:
    """With `start_on_request` all requests see the state; the server ends without a word to the application."""
    with Server(setup_without_lifespan, "tests.apps.faults:started_by_a_request", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/admin/metrics/").status_code == 200

        server.signal(signal.SIGTERM)

        server.wait()
        assert server.announcements == started(["till", "shop", "admin", "metrics"]), str(server)


async def test_httpx_reaches_the_application_without_a_lifespan(capsys: pytest.CaptureFixture[str]) -> None:
    """Its transport sends requests alone, and the application gets no state with them."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sound), base_url="http://test") as client:
        assert (await client.get("/admin/metrics/")).json() == []

    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("setup", [one for one in EVERY_SETUP if one is not UVICORN_ON], ids=lambda setup: setup.name)
def test_without_the_middleware_an_application_that_raises_in_its_startup_is_served(
    setup: Setup, tmp_path: Path
) -> None:
    """On every server but the one that is told that there is a lifespan; uvicorn does not even say what was raised."""
    with Server(setup, "tests.apps.faults:raising_bare", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/").text == "tea"
    if "uvicorn" in setup.name:
        assert "there is no water" not in str(server)


@pytest.mark.soak
def test_without_the_middleware_a_startup_that_hangs_is_waited_for_in_silence(tmp_path: Path) -> None:
    """For longer than it takes this package to name the unit."""
    with Server(UVICORN, "tests.apps.faults:hanging_bare", tmp_path / "shop.db") as server:
        server.wait_for_announcement("waiting")
        server.wait_for_log("Waiting for application startup")  # another pipe, which may be read later
        before = str(server)
        time.sleep(12)
        assert str(server) == before
        server.signal(signal.SIGKILL)  # it hears no other one
        assert server.wait() == -signal.SIGKILL
