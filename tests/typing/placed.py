"""The places of hooks: around an app, among its middleware, as the framework's own lifespan."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastmcp import FastMCP
from litestar import Litestar
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Router

from asgi_lifespan_mw import Lifespan, LifespanMiddleware

hooks = Lifespan()
more = Lifespan()


@asynccontextmanager
async def of_the_app(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
    """A lifespan as FastAPI's documentation has it."""
    yield {"title": app.title}


# Around.
around = LifespanMiddleware(FastAPI(), hooks)
LifespanMiddleware(FastAPI(), lifespan=hooks)
LifespanMiddleware(FastAPI(), lifespan=of_the_app)
LifespanMiddleware(FastAPI(), lifespan=[hooks, of_the_app, more])
LifespanMiddleware(FastAPI(), lifespan=(more, of_the_app))
LifespanMiddleware(FastAPI(), lifespan=None)

# Among the app's own middleware. The arguments are checked there as well: see `refused.py`.
inside = FastAPI()
inside.add_middleware(LifespanMiddleware, lifespan=hooks)
inside.add_middleware(LifespanMiddleware, lifespan=[hooks, of_the_app], mounts="off", startup_timeout=30)
inside.add_middleware(LifespanMiddleware)
plain = Starlette()
plain.add_middleware(LifespanMiddleware, lifespan=hooks, exclude=[FastAPI()], on_crash="stop")
in_a_list = Starlette(middleware=[Middleware(LifespanMiddleware, lifespan=hooks)])
in_fastapis_list = FastAPI(middleware=[Middleware(LifespanMiddleware, hooks, concurrent=True)])

# Lifespans of other packages.
tools = FastMCP("tools").http_app()
LifespanMiddleware(FastAPI(), lifespan=[hooks, tools.lifespan])
hooks.include(tools.lifespan)
hooks.context(MCPServer("tools").session_manager.run)

# As the framework's own lifespan.
FastAPI(lifespan=hooks)
FastAPI(lifespan=Lifespan(mounts="auto"))
APIRouter(lifespan=hooks)
Starlette(lifespan=hooks)
Router(lifespan=hooks)
Litestar(lifespan=[hooks])


@asynccontextmanager
async def larger(app: FastAPI) -> AsyncGenerator[None]:
    """Part of a lifespan that does more."""
    async with hooks(app):
        yield


async def worker() -> None:
    """In a program without any app."""
    async with hooks(None) as state:
        print(state)
