"""A pytest plugin for an anyio that has no ``anyio_mode = "auto"`` yet: each asynchronous test is one of anyio's."""

import inspect
from collections.abc import Generator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting that this anyio does not declare."""
    parser.addini("anyio_mode", "which asynchronous tests are anyio's")


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(obj: Any) -> Generator[None, Any, Any]:
    """Mark a coroutine function before anyio looks for the mark; what hypothesis wraps is inside."""
    if inspect.iscoroutinefunction(obj.hypothesis.inner_test if hasattr(obj, "hypothesis") else obj):
        pytest.mark.anyio(obj)
    return (yield)
