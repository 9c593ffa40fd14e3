"""Tests with the real frameworks: those that a machine lacks are skipped, and the summary says which."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks.nested import Witness
from tests.frameworks.versions import MISSING

BACKENDS = [pytest.param(("asyncio", {}), id="asyncio"), pytest.param(("trio", {}), id="trio")]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Each event loop in turn. A module whose framework runs on asyncio alone has ``pytestmark = ASYNCIO``."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture
def witness() -> Witness:
    """Who starts and stops in a test."""
    return Witness()


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Restore the root logger: Litestar's apps set its level and handlers, which tests of other folders would meet."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore deprecated calls of frameworks, and the databases that they leave open when they are imported."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for category in ("DeprecationWarning", "PendingDeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"))
            item.add_marker(
                pytest.mark.filterwarnings(
                    "ignore:Exception ignored in. <sqlite3.Connection:pytest.PytestUnraisableExceptionWarning"
                )
            )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which frameworks were not there."""
    if MISSING:
        terminalreporter.section("frameworks that are not installed, whose tests were skipped")
        terminalreporter.line(", ".join(sorted(MISSING)))
