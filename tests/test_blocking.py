"""Nothing of this package blocks the event loop: a start, a stop and requests run under blockbuster."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from blockbuster import BlockBuster, BlockingError
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware
from tests.server import RecordingServer

HTTP = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}


@pytest.fixture
def blockbuster() -> Any:
    """Raise an error for each blocking call on the event loop."""
    watched = BlockBuster()
    watched.activate()
    yield watched
    watched.deactivate()


async def pool() -> AsyncIterator[dict[str, int]]:
    """Give state."""
    yield {"pool": 1}


def apps() -> list[LifespanMiddleware | Starlette]:
    """Build an app for each way of use."""
    hooks = Lifespan(contexts=[pool], on_startup=[lambda: None], on_shutdown=[lambda: None])
    return [
        LifespanMiddleware(Starlette(routes=[Mount("/sub", FastAPI())]), hooks, startup_timeout=5, shutdown_timeout=5),
        LifespanMiddleware(Starlette(routes=[Mount("/sub", Starlette())]), hooks, concurrent=True, background=True),
        LifespanMiddleware(Starlette(), pool, start_on_request=True),
        LifespanMiddleware(Starlette(), pool, mounts="off"),
        Starlette(lifespan=hooks, routes=[Mount("/sub", FastAPI())]),
    ]


async def ask(app: Any) -> None:
    """Send a request without state."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}  # pragma: no cover - nothing asks for it

    async def send(message: dict[str, Any]) -> None: ...

    await app(dict(HTTP), receive, send)


@pytest.mark.parametrize("number", range(len(apps())))
def test_neither_a_start_nor_a_stop_nor_a_request_blocks(number: int, blockbuster: BlockBuster) -> None:
    """A request comes before the lifespan, while it is on, and after it."""
    app = apps()[number]

    async def main() -> None:
        await ask(app)
        async with LifespanManager(app) as manager:
            await manager.wait_until_ready()
            await ask(manager.app)
            await ask(app)
        await RecordingServer().run(app)
        await ask(app)
        if isinstance(app, LifespanMiddleware):
            assert app.report is not None
            await app.stop()

    asyncio.run(main())


def test_a_blocking_call_is_seen(blockbuster: BlockBuster) -> None:
    """The check can fail."""
    import time

    app = LifespanMiddleware(Starlette(), on_startup=[lambda: time.sleep(0.01)])

    async def main() -> None:
        async with LifespanManager(app):
            raise AssertionError

    with pytest.raises(BlockingError):
        asyncio.run(main())
