"""The example of the README that registers hooks, as it stands."""

from collections.abc import AsyncIterator
from typing import TypedDict

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asgi_lifespan_mw import LifespanMiddleware, threaded


class State(TypedDict):
    jobs: list[str]


async def waiting(request: Request[State]) -> JSONResponse:
    return JSONResponse({"waiting": len(request.state["jobs"])})


app = LifespanMiddleware(Starlette(routes=[Route("/", waiting)]), startup_timeout=30, shutdown_timeout=10)


@app.context
async def jobs() -> AsyncIterator[State]:
    """Run up to the yield at startup, and the rest at shutdown. What is yielded becomes lifespan state."""
    yield {"jobs": []}


@app.on_startup(timeout=5)
def check_configuration() -> None:
    """Raise an exception to refuse the start."""


@app.on_startup
@threaded
def load_model() -> None:
    """Block in a worker thread."""


@app.worker
async def tidy_up() -> None:
    """Run while the app serves; be cancelled at shutdown."""
    while True:
        await anyio.sleep(60)


@app.on_shutdown
async def say_goodbye() -> None:
    """Run before the contexts are left."""
