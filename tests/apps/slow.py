"""Applications whose model loads in the background, until a file beside the database says that it may."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from asgi_lifespan_mw import LifespanMiddleware
from tests.apps.faults import say


async def busy(scope: Any, receive: Any, send: Any) -> None:
    """Answer the probe, and ask everybody else to come later."""
    is_probe = scope["path"] == "/health/live"
    answer = PlainTextResponse("alive") if is_probe else PlainTextResponse("busy", 503, {"Retry-After": "1"})
    await answer(scope, receive, send)


async def show_state(request: Request) -> JSONResponse:
    """Answer with the state."""
    return JSONResponse({"model": request.state.model, "pool": request.state.pool})


def _app(**options: Any) -> LifespanMiddleware:
    routes = [Route("/", show_state), Route("/health/live", lambda _: PlainTextResponse("alive"))]
    return LifespanMiddleware(Starlette(routes=routes), while_starting=busy, **options)


async def pool() -> AsyncIterator[dict[str, str]]:
    """What the model needs; it checks what may refuse the start."""
    say("started pool")
    yield {"pool": "open"}
    say("stopped pool")


async def _until_it_may() -> None:
    gate = Path(os.environ["SHOP_DATABASE"] + ".may-load")
    while not gate.exists():
        await anyio.sleep(0.02)


async def model() -> AsyncIterator[dict[str, str]]:
    """What takes long."""
    try:
        await _until_it_may()
    except BaseException:
        say("gave the model up")
        raise
    say("started model")
    yield {"model": "large"}
    say("stopped model")


async def failing_model() -> None:
    """What takes long, and fails."""
    await _until_it_may()
    raise OSError("the model is not there")


loading = _app()
loading.context(pool)
loading.context(model, background=True)

failing = _app()
failing.context(pool)
failing.on_startup(failing_model, background=True)

stopping = _app(on_crash="stop")
stopping.context(pool)
stopping.on_startup(failing_model, background=True)
