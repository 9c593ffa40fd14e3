"""A Starlette app with a hook and a mount, for any server and any loop.

Serve it with ``gunicorn -k uvicorn_worker.UvicornWorker tests.apps.plain_starlette:app`` or, on trio, with
``hypercorn -k trio tests.apps.plain_starlette:app``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sniffio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from asgi_lifespan_mw import LifespanMiddleware


@asynccontextmanager
async def open_reports(app: Starlette) -> AsyncIterator[dict[str, str]]:
    """The lifespan of the mounted app, which Starlette would skip."""
    print("started reports")
    yield {"printer": "ready"}
    print("stopped reports")


async def report(request: Request) -> JSONResponse:
    """Sees the state of the hook, and that of the mount."""
    return JSONResponse({"loop": request.state.loop, "printer": request.state.printer})


reports = Starlette(routes=[Route("/", report)], lifespan=open_reports)
app = LifespanMiddleware(Starlette(routes=[Mount("/reports", reports)]))


@app.context
async def loop() -> AsyncIterator[dict[str, str]]:
    """The loop that the server runs."""
    print("started loop")
    yield {"loop": sniffio.current_async_library()}
    print("stopped loop")
