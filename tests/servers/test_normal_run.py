"""A light application with hooks and a mount in a mount, on every server: started once, served, stopped in reverse."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.servers.harness import UVICORN_RELOAD, Server, Setup
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


def test_a_change_stops_everything_and_starts_it_anew(tmp_path: Path) -> None:
    """Under ``--reload`` a new process takes the place of the old one, which is stopped first."""
    setup = replace(UVICORN_RELOAD, arguments=(*UVICORN_RELOAD.arguments, "--reload-dir", str(tmp_path)))
    with Server(setup, "tests.apps.faults:sound", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        (tmp_path / "changed.py").touch()
        server.wait_until_it_serves(2)
        server.signal(setup.stop)
        server.wait()

        assert server.announcements == [*started(TEA_ROOM), *stopped(TEA_ROOM)] * 2
        assert len(server.histories) == 2
