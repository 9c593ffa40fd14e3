"""Applications in which one part fails, served: the server does not serve, and says who is to blame."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.harness import Server, Setup

pytestmark = pytest.mark.servers


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in an application of ``tests.apps.faults``.

    Args:
        app: Which application.
        culprit: How the part that fails is named.
        error: Its exception.
        started: What has started before.
    """

    app: str
    culprit: str
    error: str
    started: list[str]


FAULTS = [
    Fault(
        "failing_context",
        r"hook 'load_prices' \(.*faults\.py:\d+\)",
        r"FileNotFoundError: .*prices\.csv",
        ["till"],
    ),
    Fault(
        "failing_function",
        r"hook 'check_prices' \(.*faults\.py:\d+\)",
        "ValueError: the teapot costs nothing",
        ["till"],
    ),
    Fault("failing_mount", "mount '/admin/metrics'", "FileNotFoundError: .*meter", ["till", "shop", "admin"]),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.app)
def test_a_part_that_fails_keeps_the_server_from_serving(setup: Setup, fault: Fault, tmp_path: Path) -> None:
    """The server ends by itself, what had started is stopped in reverse, and stderr tells what failed."""
    with Server(setup, f"tests.apps.faults:{fault.app}", tmp_path / "shop.db") as server:
        assert not server.answers()
        assert server.wait() == setup.failure, str(server)

        assert server.announcements == [
            *(f"started {unit}" for unit in fault.started),
            *(f"stopped {unit}" for unit in reversed(fault.started)),
        ]
        assert re.search(fault.culprit, server.stderr), str(server)
        assert "Traceback (most recent call last)" in server.stderr
        assert re.search(fault.error, server.stderr), str(server)
        assert 'faults.py", line' in server.stderr, "the traceback goes down to the line that failed"


def test_a_hook_that_fails_at_the_end_keeps_no_other_from_being_stopped(setup: Setup, tmp_path: Path) -> None:
    """Stderr names the hook and has its traceback, on trio as well, where hypercorn itself prints nothing."""
    with Server(setup, "tests.apps.faults:failing_at_the_end", tmp_path / "shop.db") as server:
        assert server.url
        server.signal(signal.SIGINT)
        server.wait()

        assert server.announcements == [
            *["started till", "started counting", "started shop", "started admin"],
            *["stopped admin", "stopped shop", "stopped till"],
        ]
        assert re.search(r"hook 'count_the_till' \(.*faults\.py:\d+\)", server.stderr), str(server)
        assert "ValueError: the till is short" in server.stderr
        assert 'faults.py", line' in server.stderr, "the traceback goes down to the line that failed"
