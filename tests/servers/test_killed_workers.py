"""What each server does if one of its worker processes is killed."""

import os
import re
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.servers.harness import GRANIAN, GUNICORN_ASGI, GUNICORN_UVICORN, HYPERCORN, UVICORN_WORKERS, Server, Setup
from tests.test_readme import BESIDE

pytestmark = pytest.mark.servers

SETUPS: Final = (UVICORN_WORKERS, GUNICORN_UVICORN, GUNICORN_ASGI, HYPERCORN, GRANIAN)
TABLE: Final = BESIDE["docs/servers.md"].partition("<!-- table: killed workers -->")[2].partition("<!-- end -->")[0]
ROWS: Final = dict(re.findall(r"^\| (\S+) \| (starts a new worker|ends with \d+) \|$", TABLE, re.MULTILINE))


def test_the_table_has_a_row_for_each_server() -> None:
    """In the order of the tests."""
    assert [*ROWS] == [setup.name for setup in SETUPS]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_what_becomes_of_a_server_whose_worker_is_killed(setup: Setup, tmp_path: Path) -> None:
    """It starts another one, in which everything starts, or ends with the status of the table."""
    with Server(setup, "tests.apps.deployed:app", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        server.wait_for_announcement("started pool", setup.workers)
        process = int(server.request("GET", "/process").text)
        os.kill(process, signal.SIGKILL)
        if setup.replaces_workers:
            assert ROWS[setup.name] == "starts a new worker"
            server.wait_for_announcement("started pool", setup.workers + 1)
        else:
            assert ROWS[setup.name] == f"ends with {server.wait()}"
