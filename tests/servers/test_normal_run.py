"""A light application with hooks and a mount in a mount, on every server: started once, served, stopped in reverse."""

from pathlib import Path

import pytest

from tests.servers.harness import Server, Setup
from tests.servers.units import TEA_ROOM, started, stopped

pytestmark = pytest.mark.servers


def test_everything_is_started_and_stopped_once_in_each_worker(every_setup: Setup, tmp_path: Path) -> None:
    """The hooks' state reaches a mount in a mount, and nobody has anything to complain of."""
    with Server(every_setup, "tests.apps.faults:sound", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/admin/metrics/").json() == ["boiled_over"]

        server.signal(every_setup.stop)

        assert server.wait() == 0, str(server)
        assert server.histories == [started(TEA_ROOM) + stopped(TEA_ROOM)] * every_setup.workers
        assert "Traceback" not in server.stderr, str(server)
