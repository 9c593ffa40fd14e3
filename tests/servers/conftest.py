"""The server set-ups, as fixtures."""

import pytest

from tests.servers.harness import EVERY_SETUP, SETUPS, WITHOUT_LIFESPAN, Setup


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def setup(request: pytest.FixtureRequest) -> Setup:
    """Each server set-up in turn on which the shop is served."""
    chosen: Setup = request.param
    return chosen


@pytest.fixture(params=EVERY_SETUP, ids=lambda setup: setup.name)
def every_setup(request: pytest.FixtureRequest) -> Setup:
    """Each server set-up in turn that has a lifespan."""
    chosen: Setup = request.param
    return chosen


@pytest.fixture(params=WITHOUT_LIFESPAN, ids=lambda setup: setup.name)
def setup_without_lifespan(request: pytest.FixtureRequest) -> Setup:
    """Each server set-up in turn that has none."""
    chosen: Setup = request.param
    return chosen
