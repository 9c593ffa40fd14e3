"""Apps for the command line to check: slow, waiting, broken, not wrapped."""

import functools
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from asgi_lifespan_mw import Lifespan, LifespanMiddleware


@asynccontextmanager
async def open_admin(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """The lifespan of the mount."""
    yield {"clerk": "Ada"}


@asynccontextmanager
async def breaks(app: Starlette) -> AsyncIterator[None]:
    """A lifespan that fails."""
    raise ConnectionRefusedError(111, "Connection refused")
    yield


def create(lifespan: Any = None, mounted: Any = open_admin) -> Starlette:
    """An app with a mount and static files."""
    routes = [Mount("/static", StaticFiles(directory=".")), Mount("/admin", Starlette(lifespan=mounted))]
    return Starlette(lifespan=lifespan, routes=routes)


async def pool() -> AsyncIterator[dict[str, str]]:
    """A hook with state."""
    print("the pool opens")
    yield {"pool": "open"}


async def other_pool() -> AsyncIterator[dict[str, str]]:
    """A hook with the same key of the state."""
    yield {"pool": "another one"}


async def waits() -> AsyncIterator[None]:
    """Waits until there is the file that ``WAIT_FOR`` names; on the way it writes half a line."""
    print("waiting ", end="", flush=True)
    print("for the file", flush=True)
    while not Path(os.environ["WAIT_FOR"]).exists():
        await anyio.sleep(0.01)
    yield


async def hangs() -> AsyncIterator[None]:
    """Never starts."""
    print("it hangs", flush=True)
    await anyio.sleep_forever()
    yield  # pragma: no cover - it makes a generator of it


async def hangs_at_stop() -> AsyncIterator[None]:
    """Never stops."""
    yield
    await anyio.sleep_forever()


def sleeps() -> None:
    """Blocks the event loop for longer than anybody waits."""
    print("it sleeps")
    time.sleep(600)


def sleeps_at_stop() -> Iterator[None]:
    """Does so when it is left."""
    yield
    sleeps()


def blocks() -> None:
    """Blocks the event loop."""
    time.sleep(0.5)


async def breaks_at_stop() -> AsyncIterator[None]:
    """Fails at shutdown."""
    yield
    raise RuntimeError("cannot flush")


async def says_too_much(scope: Any, receive: Any, send: Any) -> None:
    """Answers the startup twice."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def only_http(scope: Any, receive: Any, send: Any) -> None:
    """Does not support the lifespan."""
    assert scope["type"] == "http"


async def only_says_so(scope: Any, receive: Any, send: Any) -> None:
    """Fails without an exception."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no disk"})


def make_wrapped() -> LifespanMiddleware:
    """A factory."""
    return LifespanMiddleware(create(), pool)


def broken_factory() -> None:
    """A factory that fails."""
    raise RuntimeError("no configuration")


wrapped = make_wrapped()
waiting = LifespanMiddleware(create(), [pool, waits])
hanging = LifespanMiddleware(create(), [pool, hangs])
hanging_at_stop = LifespanMiddleware(create(), [pool, hangs_at_stop])
sleeping = LifespanMiddleware(create(), pool, on_startup=[sleeps])
sleeping_at_stop = LifespanMiddleware(create(), [pool, sleeps_at_stop])
blocking = LifespanMiddleware(create(), on_startup=[blocks])
failing = LifespanMiddleware(create(mounted=breaks), pool)
failing_at_stop = LifespanMiddleware(create(), [breaks_at_stop, functools.partial(breaks_at_stop)])
colliding = LifespanMiddleware(create(), [pool, other_pool])
colliding_and_failing = LifespanMiddleware(create(), [pool, breaks_at_stop, other_pool])
inside = create()
inside.add_middleware(LifespanMiddleware, lifespan=pool, shutdown_timeout=1)
inside.add_middleware(GZipMiddleware)
misspelt = create()
misspelt.add_middleware(LifespanMiddleware, on_startp=[])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
group = Lifespan(concurrent=True)
group.include(Lifespan(contexts=[pool], on_startup=[anyio.lowlevel.checkpoint]))
group.context(background=True)(breaks_at_stop)
ordered = LifespanMiddleware(create(), group, on_startup=[print], concurrent=True)
own = create(Lifespan(contexts=[pool], mounts="auto"))
bare = create()
bare_failing = create(breaks)
text = "no app"


async def create_later() -> LifespanMiddleware:
    """A factory that is a coroutine function."""
    await anyio.sleep(0)
    return LifespanMiddleware(Starlette())
