"""Event loops for the asynchronous tests: each runs on all of them."""

from typing import Any

import hypothesis
import pytest
import trio.testing

from tests.clock import EagerJumpingLoop, JumpingLoop
from tests.plans import Journal

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


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


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Each event loop in turn. A module whose tests wait for seconds overrides it with `VIRTUAL`."""
    backend: tuple[str, dict[str, Any]] = request.param()
    return backend


@pytest.fixture
def journal() -> Journal:
    """What happens in a test."""
    return Journal()
