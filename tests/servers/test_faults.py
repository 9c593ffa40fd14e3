"""Applications in which one part fails, on every server: what had started is stopped, and everybody is told."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.harness import HYPERCORN_TRIO, Server, Setup
from tests.servers.units import TEA_ROOM, started, stopped

pytestmark = pytest.mark.servers


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in an application of ``tests.apps.faults``.

    Args:
        app: Which application.
        units: What else is started before.
        log: What stderr says of it, in these lines and maybe others.
    """

    app: str
    units: list[str]
    log: list[str]


#: A traceback that goes down to the line that failed.
TRACEBACK = [r"^[ |]*Traceback \(most recent call last\):", r'^[ |]*File ".*faults\.py", line \d+, in ']

IN_STARTUP = [
    Fault(
        "failing_hook",
        ["till"],
        [r"^startup failed in hook 'load_prices' \(.*faults\.py:\d+\): FileNotFoundError: .*prices\.csv'$", *TRACEBACK],
    ),
    Fault(
        "failing_mount",
        ["till", "shop", "admin"],
        ["^startup failed in mount '/admin/metrics': FileNotFoundError: .*meter'$", *TRACEBACK],
    ),
    Fault(
        "quitting",
        ["till"],
        [r"^startup failed in hook 'close_for_good' \(.*faults\.py:\d+\): SystemExit: 7$", *TRACEBACK],
    ),
    Fault(
        "hanging",
        ["till"],
        [r"^startup timed out after 0\.5 s in hook 'boil_water' \(.*faults\.py:\d+\); it was at .*\d+ in boil_water$"],
    ),
]

IN_SHUTDOWN = [
    Fault(
        "failing_at_the_end",
        ["till", "shop", "admin", "metrics"],
        [r"^shutdown failed in hook 'count_the_till' \(.*faults\.py:\d+\): ValueError: the till is short$", *TRACEBACK],
    ),
    Fault(
        "hanging_at_the_end",
        ["till", "shop", "admin", "metrics"],
        [r"^shutdown timed out after 0\.5 s in hook 'wash_up' \(.*faults\.py:\d+\); it was at .*\d+ in wash_up$"],
    ),
]

SOUND = [*started(TEA_ROOM), "told startup.complete", *stopped(TEA_ROOM), "told shutdown.complete"]
#: The kettle is not stopped, for it has boiled over.
CRASHED = [*started(TEA_ROOM), "told startup.complete", *stopped(["till", "shop", "admin", "metrics"])]
CRASH = r"^crash in hook 'watch_the_kettle' \(.*faults\.py:\d+\): RuntimeError: the kettle boiled over"


def assert_said(patterns: list[str], server: Server) -> None:
    """Fail unless each pattern occurs in the output."""
    missing = [pattern for pattern in patterns if not re.search(pattern, str(server), re.MULTILINE)]
    assert not missing, str(server)


@pytest.mark.parametrize("fault", IN_STARTUP, ids=lambda fault: fault.app)
def test_a_part_that_does_not_start_keeps_the_server_from_serving(
    every_setup: Setup, fault: Fault, tmp_path: Path
) -> None:
    """No request is answered, what had started is stopped, the server is told once, the output tells what failed."""
    with (
        Server(every_setup, f"tests.apps.faults:{fault.app}", tmp_path / "shop.db") as server,
        server.visit("/") as visit,
    ):
        if every_setup.stays_up:  # it waits for somebody to mend the application
            server.wait_for_log("Application startup failed. Exiting.")
            server.signal(every_setup.stop)

        assert server.wait() == every_setup.failure, str(server)
        assert not visit.is_answered()

        # Where one worker fails, another may not even get so far.
        assert 1 <= len(server.histories) <= every_setup.workers
        for history in server.histories:
            assert history == [*started(fault.units), *stopped(fault.units), "told startup.failed"]
        assert_said(fault.log, server)


@pytest.mark.parametrize("fault", IN_SHUTDOWN, ids=lambda fault: fault.app)
def test_a_part_that_does_not_stop_keeps_no_other_from_being_stopped(
    every_setup: Setup, fault: Fault, tmp_path: Path
) -> None:
    """All others are stopped, the server is told once, and the output tells what failed."""
    with Server(every_setup, f"tests.apps.faults:{fault.app}", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        server.signal(every_setup.stop)

        assert server.wait() == every_setup.failed_stop, str(server)
        history = [*started(fault.units), "told startup.complete", *stopped(fault.units), "told shutdown.failed"]
        assert server.histories == [history] * every_setup.workers
        # Hypercorn on trio prints nothing of a failed shutdown, whose traceback it is sent.
        assert_said(fault.log[:1] if every_setup is HYPERCORN_TRIO else fault.log, server)


def test_a_crash_is_logged_at_once_and_told_at_the_end(every_setup: Setup, tmp_path: Path) -> None:
    """With a hook's task group broken, requests are answered as before; the shutdown fails for it."""
    with Server(every_setup, "tests.apps.faults:crashing", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/crash").text == "hiss"
        server.wait_for_error(CRASH)
        assert server.request("GET", "/admin/metrics/").status_code == 200
        server.wait_for_error("^[ |]*RuntimeError: the kettle boiled over")

        server.signal(every_setup.stop)

        assert server.wait() == every_setup.failed_stop, str(server)
        crashed = [*CRASHED, "told shutdown.failed"]
        assert sorted(server.histories) == sorted([crashed, *[SOUND] * (every_setup.workers - 1)])


def test_a_crash_that_is_to_stop_the_process_stops_all_in_order(every_setup: Setup, tmp_path: Path) -> None:
    """With ``on_crash="stop"`` the worker ends by itself; some servers end with it, others give it a successor."""
    with Server(every_setup, "tests.apps.faults:crashing_for_good", tmp_path / "shop.db") as server:
        server.wait_until_it_serves()
        server.request("GET", "/crash")
        server.wait_for_announcement("stopped till")
        successors = 0
        if every_setup.replaces_workers:
            successors = 1
            server.wait_until_it_serves(every_setup.workers + successors)
        if every_setup.crashed is None:
            server.signal(every_setup.stop)

        assert server.wait() == (every_setup.crashed or 0), str(server)
        crashed = [*CRASHED, "told shutdown.failed"] if every_setup.is_told_of_crash else CRASHED
        assert sorted(server.histories) == sorted([crashed, *[SOUND] * (every_setup.workers - 1 + successors)])
        assert_said([CRASH], server)
