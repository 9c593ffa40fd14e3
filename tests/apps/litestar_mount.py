"""Litestar with a mounted Starlette app, whose lifespan Litestar does not run.

Serve it with ``uvicorn tests.apps.litestar_mount:app``.
"""

# pyright: reportMissingImports=false

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, asgi, get
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from asgi_lifespan_mw import LifespanMiddleware


@asynccontextmanager
async def open_site(app: Any) -> AsyncIterator[None]:
    """The lifespan of the Litestar itself."""
    print("started litestar")
    yield
    print("stopped litestar")


@asynccontextmanager
async def open_reports(app: Starlette) -> AsyncIterator[dict[str, str]]:
    """The lifespan of the mounted app."""
    print("started reports")
    yield {"printer": "ready"}
    print("stopped reports")


async def report(request: Request) -> PlainTextResponse:
    """Sees what the lifespan of its app yielded."""
    return PlainTextResponse(request.state.printer)


@get("/")
async def index() -> str:
    """A page of Litestar's own."""
    return "litestar"


reports = asgi("/reports", is_mount=True, copy_scope=True)(
    Starlette(routes=[Route("/", report)], lifespan=open_reports)
)
app = LifespanMiddleware(Litestar([index, reports], lifespan=[open_site]))
