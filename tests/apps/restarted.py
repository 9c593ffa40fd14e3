"""A light application whose answers tell what of it is open, to be started and stopped many times."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asgi_lifespan_mw import LifespanMiddleware
from tests.apps.shop.announcements import announce

_open: list[str] = []


@asynccontextmanager
async def unit(app: Starlette, *, name: str, seconds: float) -> AsyncIterator[dict[str, str]]:
    """One that takes a while to start, and to stop; it is open in between, and that alone."""
    await anyio.sleep(seconds)
    _open.append(name)
    announce(f"started {name}")
    yield {name: name}
    _open.remove(name)
    await anyio.sleep(seconds)
    announce(f"stopped {name}")


def _page(*needs: str) -> Route:
    async def page(request: Request) -> PlainTextResponse:
        # The last of the requests are under way when the signal comes.
        await anyio.sleep(0.01)
        seen = " ".join(getattr(request.state, name) for name in needs)  # raises where one has not started
        return PlainTextResponse(f"{os.getpid()} sees {seen}, open: {' '.join(_open)}")

    return Route("/", page)


def _app(seconds: float) -> Starlette:
    mount = Starlette(routes=[_page("pool", "root", "mount")], lifespan=partial(unit, name="mount", seconds=seconds))
    routes = [_page("root"), Mount("/mount", mount)]
    return Starlette(routes=routes, lifespan=partial(unit, name="root", seconds=seconds))


bare = _app(0)
quick = LifespanMiddleware(_app(0), partial(unit, name="pool", seconds=0))
slow = LifespanMiddleware(_app(0.07), partial(unit, name="pool", seconds=0.07))
