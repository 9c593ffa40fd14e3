"""The shop, served and stopped: by a signal, and by a second one while a request is still running."""

import re
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.harness import (
    EVERY_SETUP,
    GRANIAN,
    GUNICORN_ASGI,
    GUNICORN_UVICORN,
    HYPERCORN,
    HYPERCORN_TRIO,
    HYPERCORN_TRIO_ALONE,
    UVICORN,
    UVICORN_ON,
    Server,
    Setup,
)
from tests.servers.units import TEA_ROOM, UNITS, started, stopped

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_everything_once_in_reverse_order(setup: Setup, number: signal.Signals, tmp_path: Path) -> None:
    """Each unit is started once and stopped once, and the server ends as it does for any application."""
    with Server(setup, "tests.apps.shop.main:app", tmp_path / "shop.db") as server:
        assert server.request("GET", "/products").status_code == 200
        server.wait_for_announcements(started(UNITS))

        server.signal(number)

        assert server.wait() == (setup.terminated if number == signal.SIGTERM else 0)
        assert server.announcements == started(UNITS) + stopped(UNITS)
        assert "Traceback" not in server.stderr, str(server)


@pytest.mark.parametrize("loop", [UVICORN, HYPERCORN_TRIO], ids=["asyncio", "trio"])
def test_a_mount_that_stops_still_finds_its_parents_resources(loop: Setup, tmp_path: Path) -> None:
    """The deliveries that wait at SIGTERM are put away: the database is closed after the admin mount."""
    with Server(loop, "tests.apps.shop.main:app", tmp_path / "shop.db") as server:
        with ThreadPoolExecutor() as visitors:  # side by side, so that a busy machine does not put all away meanwhile
            answers = visitors.map(lambda _: server.request("POST", "/admin/restock/kettle"), range(20))
            assert {answer.status_code for answer in answers} == {202}
        assert server.request("GET", "/admin/").json()["waiting"] > 0
        server.signal(signal.SIGTERM)
        server.wait()

    with closing(sqlite3.connect(tmp_path / "shop.db")) as file:
        assert file.execute("select stock from products where name = 'kettle'").fetchone() == (7 + 200,)


STARTED = [*started(TEA_ROOM), "told startup.complete"]
CANCELLED = [*STARTED, *stopped(TEA_ROOM)]
STOPPED = [*CANCELLED, "told shutdown.complete"]

#: What the log says of a unit that was still being stopped when the server's own time for it was up.
CUT_SHORT = "cancelled by the server before it finished"
#: Here one signal is enough to cancel all, which has tests of its own.
FIRST_CANCELS = [(GUNICORN_ASGI, signal.SIGINT)]
#: Here a second one cancels all, or kills, if a request still runs.
SECOND_CANCELS = [(UVICORN, signal.SIGINT), (UVICORN_ON, signal.SIGINT)]
SECOND_KILLS = [(GUNICORN_UVICORN, signal.SIGINT)]

TWICE = [
    pytest.param(setup, number, id=f"{setup.name}-{number.name}")
    for setup in EVERY_SETUP
    for number in (signal.SIGTERM, signal.SIGINT)
    if (setup, number) not in FIRST_CANCELS
]


@pytest.mark.parametrize(("setup", "number"), TWICE)
def test_a_second_signal_does_not_disturb_the_stop(setup: Setup, number: signal.Signals, tmp_path: Path) -> None:
    """It comes while a hook is being stopped: that hook comes to its end, and so do the others."""
    with Server(setup, "tests.apps.faults:closing_late", tmp_path / "closed") as server:
        server.wait_until_it_serves()
        server.signal(number)
        server.wait_for_announcement("waiting", setup.workers)
        server.signal(number)
        (tmp_path / "closed").touch()
        server.wait()

        units = ["till", "guests", "shop", "admin", "metrics"]
        history = [*started(units), "told startup.complete", *stopped(units), "told shutdown.complete"]
        history.insert(history.index("stopped guests"), "waiting")
        assert server.histories == [history] * setup.workers


@pytest.mark.parametrize(("setup", "number"), TWICE)
def test_a_second_signal_while_a_request_runs(setup: Setup, number: signal.Signals, tmp_path: Path) -> None:
    """Whether the server waits for the request or cancels all that runs, everything is stopped in order."""
    with Server(setup, "tests.apps.faults:crashing", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        with server.visit("/linger"):
            server.wait_for_announcement("lingering")
            server.signal(number)
            if "hypercorn" not in setup.name:  # it does not say that it stops
                server.wait_for_log("shutting down")
            server.signal(number)
            if (setup, number) in SECOND_CANCELS + SECOND_KILLS:
                server.wait()
        assert server.wait() == (setup.terminated if number == signal.SIGTERM else 0), str(server)

        history = STOPPED
        if (setup, number) in SECOND_CANCELS:
            history = CANCELLED
        if (setup, number) in SECOND_KILLS:
            history = STARTED
        assert [[what for what in told if what != "lingering"] for told in server.histories] == [
            history
        ] * setup.workers


def cancelled_while_a_request_runs(number: signal.Signals, folder: Path) -> Server:
    """Serve on gunicorn's own worker, cancel everything by a signal, and return the server when it has ended."""
    with Server(GUNICORN_ASGI, "tests.apps.faults:crashing", folder / "shop.db") as server:
        server.wait_until_it_serves()
        with server.visit("/linger"):
            server.wait_for_announcement("lingering")
            server.signal(number)
            assert server.wait() == 0, str(server)
    return server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["SIGINT", "SIGQUIT"])
def test_a_cancellation_in_place_of_a_shutdown_stops_all_in_order(number: signal.Signals, tmp_path: Path) -> None:
    """Gunicorn's own worker then cancels every task of the loop, and is told nothing."""
    server = cancelled_while_a_request_runs(number, tmp_path)
    # Gunicorn leaves one second. A machine may be so busy that this was not enough, of which the log tells.
    attempts = iter(range(4))
    while CUT_SHORT in server.stderr and next(attempts, None) is not None:  # pragma: no cover - on a busy machine
        server = cancelled_while_a_request_runs(number, tmp_path)
    assert server.histories == [[*STARTED, "lingering", *stopped(TEA_ROOM)]], str(server)
    assert "failed" not in server.stderr, str(server)


def test_a_cancellation_leaves_one_second(tmp_path: Path) -> None:
    """Gunicorn's own worker then cancels what is still being stopped: the log says so, and the others are stopped."""
    with Server(GUNICORN_ASGI, "tests.apps.faults:closing_late", tmp_path / "never") as server:
        server.wait_until_it_serves()
        server.signal(signal.SIGINT)
        server.wait()

        units = ["till", "guests", "shop", "admin", "metrics"]
        history = [*started(units), "told startup.complete", *stopped(units)]
        history[history.index("stopped guests")] = "waiting"
        assert server.histories == [history]
        assert re.search(
            rf"shutdown failed in hook 'close_late' \(.*faults\.py:\d+\): {CUT_SHORT}",
            server.stderr,
        ), str(server)


def test_ctrl_c_stops_all_in_order_wherever_it_strikes(tmp_path: Path) -> None:
    """Hypercorn on trio without a child raises it in whatever code runs: that ends in a shutdown or a cancellation."""
    with Server(HYPERCORN_TRIO_ALONE, "tests.apps.faults:crashing", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        server.signal(signal.SIGINT)
        server.wait()

        assert server.histories in ([STOPPED], [CANCELLED])


@pytest.mark.parametrize(
    ("setup", "number"),
    [
        pytest.param(HYPERCORN, signal.SIGTERM, id="hypercorn, SIGTERM to all"),
        pytest.param(HYPERCORN_TRIO_ALONE, signal.SIGTERM, id="hypercorn on trio without a child, SIGTERM"),
        pytest.param(UVICORN, signal.SIGQUIT, id="uvicorn, SIGQUIT"),
        pytest.param(GRANIAN, signal.SIGKILL, id="granian, SIGKILL"),
    ],
)
def test_what_is_killed_stops_nothing(setup: Setup, number: signal.Signals, tmp_path: Path) -> None:
    """These ends come without a word, and nobody can help it."""
    with Server(setup, "tests.apps.faults:crashing", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        server.signal_all(number)
        server.wait()

        assert server.histories == [STARTED]
