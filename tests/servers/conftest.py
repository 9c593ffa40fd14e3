"""The server set-ups, as a fixture."""

import pytest

from tests.servers.harness import SETUPS, Setup


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def setup(request: pytest.FixtureRequest) -> Setup:
    """Each server set-up in turn."""
    chosen: Setup = request.param
    return chosen
