"""Twenty mounted MCP servers, of the MCP SDK and of FastMCP: one raises, one hangs, one is slow."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI
from fastmcp import FastMCP
from mcp.server import MCPServer

from asgi_lifespan_mw import Lifespan

logging.basicConfig()  # before the SDK's own, which breaks lines

Life = Callable[[Any], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def raises(_: Any) -> AsyncIterator[None]:
    """Fail to start: the upstream is down."""
    raise ConnectionError("no upstream")
    yield  # pragma: no cover - it makes a generator of it


@asynccontextmanager
async def hangs(_: Any) -> AsyncIterator[None]:
    """Never start."""
    await anyio.sleep_forever()
    yield  # pragma: no cover - it makes a generator of it


@asynccontextmanager
async def is_slow(_: Any) -> AsyncIterator[None]:
    """Start in a second."""
    await anyio.sleep(1)
    yield


def add(one: int, other: int) -> int:
    """Add two numbers."""
    return one + other


def fast(number: int, life: Life | None = None) -> Any:
    """Return the app of a server of FastMCP."""
    server: Any = FastMCP(f"fast{number}", lifespan=life)
    server.tool(add)
    return server.http_app(path="/")


def sdk(number: int, life: Life | None = None) -> Any:
    """Return the app of a server of the SDK, whose session manager runs inside `life`."""
    server = MCPServer(f"sdk{number}")
    server.tool()(add)
    app = server.streamable_http_app(streamable_http_path="/")
    own = app.router.lifespan_context

    @asynccontextmanager
    async def both(app: Any) -> AsyncIterator[Any]:
        async with (life or own)(app), own(app) as state:
            yield state  # pragma: no cover - what runs before it here hangs

    if life is not None:
        app.router.lifespan_context = both
    return app


hooks = Lifespan(optional="mounts", mount_timeout=5)
app = FastAPI(lifespan=hooks)


@app.get("/")
def report() -> dict[str, str]:
    """Say which servers run."""
    assert hooks.report is not None
    return {unit.path: unit.outcome for unit in hooks.report.units if unit.kind == "mount"}


for number in range(10):
    app.mount(f"/fast{number}", fast(number, {2: raises, 5: is_slow}.get(number)))
    app.mount(f"/sdk{number}", sdk(number, {7: hangs}.get(number)))
