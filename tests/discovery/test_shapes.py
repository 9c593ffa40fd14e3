"""The table of `shapes`: every program, in every way of use, on every kind of event loop."""

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import _asyncio_debug, _trio, _uvloop
from tests.discovery.shapes import SHAPES, Program, Shape
from tests.usages import Create, serving, state_seen

LOOPS = [
    pytest.param(_asyncio_debug, id="asyncio"),
    pytest.param(_uvloop, id="uvloop", marks=pytest.mark.slow),
    pytest.param(_trio, id="trio", marks=pytest.mark.slow),
]


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Each kind of event loop in turn."""
    backend: tuple[str, dict[str, Any]] = request.param()
    return backend


def _cells() -> Iterator[Any]:
    for name, shape in SHAPES.items():
        way: Any
        for way in shape.ways:
            yield pytest.param(shape, way, id=f"{name}-{way.__name__}")


def balanced(journal: list[str]) -> list[str]:
    """Return the names of what started, sorted; each stopped as often as it started."""
    starts = sorted(entry[:-1] for entry in journal if entry.endswith("+"))
    assert starts == sorted(entry[:-1] for entry in journal if entry.endswith("-"))
    return starts


def test_the_table_is_large() -> None:
    """Kinds are many, and the table does not shrink unnoticed."""
    assert len(SHAPES) >= 130


@pytest.mark.parametrize("name", SHAPES)
async def test_what_starts_without_the_package(name: str) -> None:
    """The programs are what they are said to be."""
    shape = SHAPES[name]
    program = Program(None)
    async with serving(shape.write(program)):
        pass
    assert balanced(program.journal) == sorted(shape.bare)


@pytest.mark.parametrize(("shape", "way"), list(_cells()))
async def test_each_app_starts_exactly_once(shape: Shape, way: Create, caplog: pytest.LogCaptureFixture) -> None:
    """What starts, before the startup is answered; what is warned of; what requests see."""
    program = Program(way)
    app = program.served(shape.write(program))
    async with serving(app) as server:
        assert sorted(entry[:-1] for entry in program.journal if entry.endswith("+")) == sorted(shape.starts)
        for path, key in shape.sees.items():
            assert key in await state_seen(app, server, path)
        for path in shape.tools:
            assert await initialize(app, path) == 200
    assert balanced(program.journal) == sorted(shape.starts)
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.name == "asgi_lifespan_mw" and record.levelno >= logging.WARNING
    ]
    assert len(warnings) == len(shape.warns), warnings
    for warning, beginning in zip(warnings, shape.warns, strict=True):
        assert warning.startswith(beginning)


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "a test", "version": "1"},
    },
}


async def initialize(app: Any, path: str) -> int:
    """Send an MCP server its first request, and return the status of the response."""
    headers = {"accept": "application/json, text/event-stream"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers) as client:
        return (await client.post(path, json=INITIALIZE)).status_code
