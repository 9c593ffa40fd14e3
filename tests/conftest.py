"""Event loops for the asynchronous tests: each runs on all of them. Signals and coverage for the whole suite."""

import signal
import sys
from typing import Any

import hypothesis
import pytest
import trio.testing

from tests.clock import EagerJumpingLoop, JumpingLoop
from tests.plans import Journal

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")

LOST_BEFORE_312 = 0.5
"""Percent of the lines that Python 3.11 may fail to tell the coverage of: after an event loop it goes on in silence."""


def pytest_configure(config: pytest.Config) -> None:
    """Restore the signals of Ctrl-C and Ctrl-backslash, and lower the coverage gate where Python loses lines.

    A shell that starts the suite in the background of a script (`pytest &`) ignores SIGINT and SIGQUIT in it. Child
    processes inherit ignored signals, and Python raises no KeyboardInterrupt then. Restored here, once, they are the
    default in every test and in every process that a test starts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    measure: Any = config.pluginmanager.getplugin("_cov")
    if sys.version_info < (3, 12) and measure is not None:  # pragma: no cover from 3.12
        measure.options.cov_fail_under = 100 - LOST_BEFORE_312


LONG = ("servers", "engines", "soak", "exhaustive")
"""The marks of tests that are slow, so that ``-m "not slow"`` leaves out all of them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as slow, and refuse names of tests that hold an address.

    Processes that share the tests would collect different names.
    """
    for item in items:
        if any(item.get_closest_marker(mark) for mark in LONG):
            item.add_marker("slow")
    addresses = [item.nodeid for item in items if " at 0x" in item.nodeid]
    assert not addresses, f"give these tests ids of their own: {addresses}"


def _asyncio_debug() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"debug": True, "loop_factory": JumpingLoop}


def _asyncio_eager() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": EagerJumpingLoop}


def _uvloop() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


def _trio() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


VIRTUAL = [
    pytest.param(_asyncio_debug, id="asyncio"),
    pytest.param(_asyncio_eager, id="eager"),
    pytest.param(_trio, id="trio"),
]
"""Loops on a virtual clock: time limits of seconds take no time."""

BACKENDS = [*VIRTUAL, pytest.param(_uvloop, id="uvloop")]


ONE_LOOP_IN_THE_QUICK_LOOP = pytest.mark.parametrize(
    "anyio_backend",
    [BACKENDS[0], *(pytest.param(*one.values, id=one.id, marks=pytest.mark.slow) for one in BACKENDS[1:])],
    indirect=True,
)
"""For a table that is long or a test that takes long, and that hardly depends on the event loop."""


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Each event loop in turn. A module whose tests wait for seconds overrides it with `VIRTUAL`."""
    backend: tuple[str, dict[str, Any]] = request.param()
    return backend


@pytest.fixture
def journal() -> Journal:
    """What happens in a test."""
    return Journal()
