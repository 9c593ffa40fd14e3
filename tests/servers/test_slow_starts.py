"""Background hooks under real servers: the start is answered at once, and the late state reaches the requests."""

import re
import time
from pathlib import Path

import pytest

from tests.servers.harness import (
    GRANIAN,
    GUNICORN_ASGI,
    GUNICORN_UVICORN,
    HYPERCORN,
    HYPERCORN_TRIO,
    UVICORN,
    UVICORN_WORKERS,
    Server,
    Setup,
)

pytestmark = pytest.mark.servers

EACH = pytest.mark.parametrize(
    "setup",
    [UVICORN, UVICORN_WORKERS, HYPERCORN, HYPERCORN_TRIO, GRANIAN, GUNICORN_UVICORN, GUNICORN_ASGI],
    ids=lambda setup: setup.name,
)
README = (Path(__file__).parent.parent.parent / "docs" / "slow-starts.md").read_text(encoding="utf-8")


def let_it_load(database: Path) -> None:
    """Let the model load, in each worker."""
    Path(f"{database}.may-load").touch()


def until_it_is_there(server: Server) -> dict[str, str]:
    """Ask until the application answers, and return its state."""
    deadline = time.monotonic() + server.patience
    while (answer := server.request("GET", "/")).status_code == 503:
        assert time.monotonic() < deadline, str(server)  # pragma: no cover - a fast machine has it at once
    state: dict[str, str] = answer.json()
    return state


@EACH
def test_the_probe_is_answered_while_the_model_loads(setup: Setup, tmp_path: Path) -> None:
    """Everybody else gets 503 with `Retry-After`, then the answer with the late state; the stop is in order."""
    database = tmp_path / "shop.db"
    with Server(setup, "tests.apps.slow:loading", database) as server:
        server.wait_for_log(setup.serving, setup.workers)
        assert server.request("GET", "/health/live").text == "alive"
        refused = server.request("GET", "/")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")

        let_it_load(database)

        server.wait_for_announcement("started model", setup.workers)
        assert until_it_is_there(server) == {"model": "large", "pool": "open"}
        server.signal(setup.stop)
        assert server.wait() == 0, str(server)
        whole = ["started pool", "started model", "stopped model", "stopped pool"]
        assert server.histories == [whole] * setup.workers, str(server)


@EACH
def test_a_stop_while_the_model_loads_unwinds_in_order(setup: Setup, tmp_path: Path) -> None:
    """The load is cancelled in its place."""
    with Server(setup, "tests.apps.slow:loading", tmp_path / "shop.db") as server:
        server.wait_for_log(setup.serving, setup.workers)
        assert server.request("GET", "/health/live").text == "alive"
        server.signal(setup.stop)
        assert server.wait() == 0, str(server)
        assert server.histories == [["started pool", "gave the model up", "stopped pool"]] * setup.workers, str(server)


@EACH
def test_a_model_that_fails_is_told_once_and_the_other_app_answers_for_good(setup: Setup, tmp_path: Path) -> None:
    """It is a crash: the shutdown fails, and the log has one traceback of it."""
    database = tmp_path / "shop.db"
    with Server(setup, "tests.apps.slow:failing", database) as server:
        server.wait_for_log(setup.serving, setup.workers)
        assert server.request("GET", "/").status_code == 503
        let_it_load(database)
        server.wait_for_error(r"crash in hook 'failing_model'.*OSError: the model is not there")
        assert server.request("GET", "/").status_code == 503
        server.signal(setup.stop)
        server.wait()
        # The headline is in our log, and in the message of the failed shutdown.
        told = len(re.findall(r"crash in hook 'failing_model'", str(server)))
        assert setup.workers <= told <= 2 * setup.workers, str(server)
        assert len(re.findall(r"^ +raise OSError\(", str(server), re.MULTILINE)) == setup.workers, str(server)


def told_in_the_readme(setup: Setup) -> str:
    """Return what the README says that a server does after a crash."""
    table = README.partition("<!-- table: slow starts -->")[2].partition("<!-- end -->")[0]
    row = re.search(rf"^\| {re.escape(setup.name)} \| (.*) \|$", table, re.MULTILINE)
    assert row is not None, f"README has no row for {setup.name}"
    return row[1]


@EACH
def test_with_on_crash_stop_the_process_ends(setup: Setup, tmp_path: Path) -> None:
    """What each server makes of that is in the README's table."""
    database = tmp_path / "shop.db"
    with Server(setup, "tests.apps.slow:stopping", database) as server:
        server.wait_for_log(setup.serving, setup.workers)
        assert server.request("GET", "/health/live").text == "alive"
        let_it_load(database)
        if setup.replaces_workers:
            assert told_in_the_readme(setup) == "starts a new worker, again and again"
            server.wait_for_announcement("started pool", setup.workers + 1)
        else:
            code = server.wait()
            assert told_in_the_readme(setup) == f"ends with {code}"
    assert server.histories[0] == ["started pool", "stopped pool"], str(server)
