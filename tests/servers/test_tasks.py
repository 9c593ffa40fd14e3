"""`Tasks` on real servers: SIGTERM comes while the tasks of answered requests run."""

import signal
import sqlite3
from pathlib import Path

import pytest

from tests.servers.harness import HYPERCORN, HYPERCORN_TRIO, UVICORN, Server, Setup

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("setup", [UVICORN, HYPERCORN, HYPERCORN_TRIO], ids=lambda setup: setup.name)
def test_the_database_is_closed_after_the_tasks(setup: Setup, tmp_path: Path) -> None:
    """All of them have written their rows, and nothing has failed."""
    path = tmp_path / "shop.db"
    names = {f"n{number}" for number in range(5)}
    with Server(setup, "tests.apps.receipts:app", path) as server:
        for name in sorted(names):
            assert server.request("GET", f"/order?name={name}&seconds=1").text == "ordered"
            server.wait_for_announcement(f"began {name}")
        server.signal(signal.SIGTERM)
        server.wait()
        told = server.announcements
        assert told[-1] == "closed database", str(server)
        assert {line.removeprefix("sent ") for line in told if line.startswith("sent ")} == names
        assert "Traceback" not in server.stderr, str(server)
    with sqlite3.connect(path) as database:
        assert {name for [name] in database.execute("SELECT name FROM receipts")} == names
    database.close()


def test_a_second_ctrl_c_cancels_the_tasks_and_their_clean_up_runs(tmp_path: Path) -> None:
    """Uvicorn cancels every task of the event loop then; the database is closed after the tasks, which are named."""
    with Server(UVICORN, "tests.apps.receipts:app", tmp_path / "shop.db") as server:
        assert server.request("GET", "/order?name=slow&seconds=100").text == "ordered"
        server.wait_for_announcement("began slow")
        server.signal(signal.SIGINT)
        server.wait_for_log("Waiting for application shutdown")
        server.signal(signal.SIGINT)
        server.wait()
        assert server.announcements == ["began slow", "sent slow", "closed database"], str(server)
        assert "cancelled 1 of its tasks" in server.stderr, str(server)
