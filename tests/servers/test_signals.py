"""The shop, served and stopped: by a signal, and by a second one while a request is still running."""

import signal
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from tests.servers.harness import HYPERCORN_TRIO, UVICORN, Server, Setup
from tests.servers.units import UNITS, started, stopped

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_everything_once_in_reverse_order(setup: Setup, number: signal.Signals, tmp_path: Path) -> None:
    """Each unit is started once and stopped once, and the server ends as it does for any application."""
    with Server(setup, "tests.apps.shop.main:app", tmp_path / "shop.db") as server:
        assert server.request("GET", "/products").status_code == 200
        assert server.announcements == started(UNITS)

        server.signal(number)

        assert server.wait() == (setup.terminated if number == signal.SIGTERM else 0)
        assert server.announcements == started(UNITS) + stopped(UNITS)
        assert "Traceback" not in server.stderr, str(server)


@pytest.mark.parametrize("loop", [UVICORN, HYPERCORN_TRIO], ids=["asyncio", "trio"])
def test_a_mount_that_stops_still_finds_its_parents_resources(loop: Setup, tmp_path: Path) -> None:
    """The deliveries that wait at SIGTERM are put away: the database is closed after the admin mount."""
    with Server(loop, "tests.apps.shop.main:app", tmp_path / "shop.db") as server:
        for _ in range(5):
            assert server.request("POST", "/admin/restock/kettle").status_code == 202
        assert server.request("GET", "/admin/").json()["waiting"] > 0
        server.signal(signal.SIGTERM)
        server.wait()

    with closing(sqlite3.connect(tmp_path / "shop.db")) as file:
        assert file.execute("select stock from products where name = 'kettle'").fetchone() == (7 + 50,)


def test_a_second_ctrl_c_while_a_request_runs_still_stops_everything_in_order(tmp_path: Path) -> None:
    """Uvicorn then cancels every task of the loop and sends no shutdown; all is stopped in order even so."""
    with Server(UVICORN, "tests.apps.lingering:app", tmp_path / "shop.db") as server:
        units = UNITS[1:]
        assert server.url

        def visit() -> None:
            with suppress(httpx.TransportError):
                server.request("GET", "/browse")

        visitor = threading.Thread(target=visit)
        visitor.start()
        server.wait_for_announcement("browsing")

        server.signal(signal.SIGINT)
        server.wait_for_log("waiting for connections to close|waiting for background tasks")
        server.signal(signal.SIGINT)

        server.wait()
        visitor.join()
        assert server.announcements == [*started(units), "browsing", *stopped(units)]
