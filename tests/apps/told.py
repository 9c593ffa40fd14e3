"""Applications that fail in six ways, each bare and in a `LifespanMiddleware`; the parts that fail are the same.

With ``TOLD_LOG=basicConfig`` in the environment the log is configured as most applications do, else not at all.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import anyio
from fastapi import FastAPI, Request

from asgi_lifespan_mw import LifespanMiddleware

if os.environ.get("TOLD_LOG") == "basicConfig":
    logging.basicConfig()


def resolve(host: str) -> NoReturn:
    """Fail, as a library does, in a function that the user's code calls."""
    raise OSError(f"no such host: {host}")


async def connect() -> None:
    """Fail two calls deep."""
    resolve("db.internal")


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """A lifespan that fails before it yields."""
    await connect()
    yield  # pragma: no cover - it makes a generator of it


@asynccontextmanager
async def hanging(app: FastAPI) -> AsyncIterator[None]:
    """A lifespan that would not come to its end, but for its own limit."""
    with anyio.fail_after(0.2):
        await anyio.sleep_forever()
    yield  # pragma: no cover - it makes a generator of it


async def hang() -> None:
    """A hook that never comes to its end."""
    await anyio.sleep_forever()


@asynccontextmanager
async def watched(app: FastAPI) -> AsyncIterator[dict[str, anyio.Event]]:
    """A lifespan with a task that fails as soon as a request asks for it."""
    demand, failing = anyio.Event(), anyio.Event()

    async def watch() -> None:
        await demand.wait()
        failing.set()
        await connect()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield {"demand": demand, "failing": failing}


@asynccontextmanager
async def closed(app: FastAPI) -> AsyncIterator[None]:
    """A lifespan that fails after it has yielded."""
    yield
    await connect()


def served(app: FastAPI) -> FastAPI:
    """Add the routes that the tests ask for."""

    @app.get("/")
    async def home() -> str:
        return "home"

    @app.get("/crash")
    async def crash(request: Request) -> str:
        request.state.demand.set()
        await request.state.failing.wait()
        return "failing"

    return app


bare = served(FastAPI(lifespan=connected))
bare_timeout = served(FastAPI(lifespan=hanging))
bare_stop = served(FastAPI(lifespan=closed))
bare_crash = served(FastAPI(lifespan=watched))

in_app = LifespanMiddleware(served(FastAPI(lifespan=connected)))
in_hook = LifespanMiddleware(served(FastAPI()), on_startup=[connect])
_outer = served(FastAPI())
_outer.mount("/admin", FastAPI(lifespan=connected))
in_mount = LifespanMiddleware(_outer)
in_timeout = LifespanMiddleware(served(FastAPI()), on_startup=[hang], startup_timeout=0.2)
in_stop = LifespanMiddleware(served(FastAPI()), lifespan=closed)
in_crash = LifespanMiddleware(served(FastAPI()), lifespan=watched)
