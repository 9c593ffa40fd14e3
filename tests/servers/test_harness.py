"""The harness itself: whatever goes wrong with a server, a test says why, and leaves nothing behind."""

import signal
from pathlib import Path

import pytest

from tests.servers.harness import HYPERCORN_TRIO, UVICORN, Server

pytestmark = pytest.mark.servers


def test_a_server_that_ends_early_is_not_waited_for(tmp_path: Path) -> None:
    """What was waited for cannot come any more, and the message shows what the server said."""
    with Server(UVICORN, "tests.apps.faults:missing", tmp_path / "shop.db") as server:
        with pytest.raises(AssertionError, match='Attribute "missing" not found in module'):
            server.request("GET", "/")
        with pytest.raises(AssertionError, match="'started shop' was not announced"):
            server.wait_for_announcement("started shop")
        assert str(server).startswith("$ ")
        assert 'Attribute "missing" not found in module' in str(server)


@pytest.mark.parametrize("name", ["announcements", "histories", "stderr"])
def test_the_whole_output_is_not_there_before_the_end(name: str, tmp_path: Path) -> None:
    """A line that was written may not have been read yet, so a test has to wait for it."""
    with Server(UVICORN, "tests.apps.faults:sound", tmp_path / "shop.db") as server:
        with pytest.raises(AssertionError, match="the server runs; wait"):
            getattr(server, name)
        with pytest.raises(AssertionError, match="started till"):
            server.wait_for_announcements(["started shop"])
    assert getattr(server, name)


def test_a_server_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """One that does not end within the patience fails the test and is killed."""
    server = Server(UVICORN, "tests.apps.faults:failing_at_the_end", tmp_path / "shop.db")
    with pytest.raises(AssertionError, match=r"still runs after 0\.1 s"), server:
        assert server.request("GET", "/").status_code == 404
        server.patience = 0.1
        server.signal(signal.SIGSTOP)

    assert server.wait() == -signal.SIGKILL


def test_a_child_that_outlives_the_server_is_killed(tmp_path: Path) -> None:
    """A worker whose parent was killed holds on to the output; it fails the test and is killed as well."""
    with Server(HYPERCORN_TRIO, "tests.apps.faults:failing_at_the_end", tmp_path / "shop.db") as server:
        assert server.request("GET", "/").status_code == 404
        server.signal(signal.SIGKILL)
        server.patience = 0.2
        with pytest.raises(AssertionError, match="left a child behind"):
            server.wait()

    assert server.wait() == -signal.SIGKILL
