"""A tea room of which one part fails; each application is named after what goes wrong, and in ``sound`` nothing does.

Each has the hook ``till``, most have another one that may fail, and all have a mount in a mount.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from asgi_lifespan_mw import LifespanMiddleware
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.apps.shop.announcements import announce


def say(what: str) -> None:
    """Announce it, with the process that does: a server may have several workers."""
    announce(what, f"shop {os.getpid()}")


def steady(name: str) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A lifespan that starts and stops without trouble, and says so."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        say(f"started {name}")
        yield
        say(f"stopped {name}")

    return lifespan


async def load_prices() -> AsyncIterator[dict[str, str]]:
    """A context that fails before it yields, for there is no such file."""
    yield {"prices": Path("no such folder", "prices.csv").read_text(encoding="utf-8")}


async def boil_water() -> None:
    """A startup function that never comes to its end."""
    await anyio.sleep_forever()


def close_for_good() -> None:
    """A startup function that wants to end the process."""
    raise SystemExit(7)


async def count_the_till() -> AsyncIterator[None]:
    """A context that fails when it is left."""
    yield
    raise ValueError("the till is short")


async def wash_up() -> AsyncIterator[None]:
    """A context that never comes to its end."""
    yield
    await anyio.sleep_forever()


async def close_late() -> AsyncIterator[None]:
    """A context that says when it is left, and comes to its end when a file appears."""
    say("started guests")
    yield
    say("waiting")
    while not Path(os.environ["SHOP_DATABASE"]).exists():
        await anyio.sleep(0.01)
    say("stopped guests")


async def watch_the_kettle() -> AsyncIterator[dict[str, anyio.Event]]:
    """A context whose task group breaks as soon as a request sets the event."""
    boiled_over = anyio.Event()

    async def watch() -> None:
        await boiled_over.wait()
        raise RuntimeError("the kettle boiled over")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        say("started kettle")
        yield {"boiled_over": boiled_over}
        tasks.cancel_scope.cancel()
    say("stopped kettle")


@asynccontextmanager
async def measure_without_a_meter(app: Starlette) -> AsyncIterator[dict[str, str]]:
    """A mounted application's lifespan that fails before it yields, for there is no such file."""
    yield {"meter": Path("no such folder", "meter").read_text(encoding="utf-8")}


async def crash(request: Request) -> Response:
    """Let the kettle boil over."""
    request.state.boiled_over.set()
    return PlainTextResponse("hiss")


async def linger(request: Request) -> Response:
    """Keep the request open until the client goes."""
    say("lingering")
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()


async def show_state(request: Request) -> Response:
    """Answer with the names of what is in the state."""
    return JSONResponse(sorted(request.scope.get("state", {})))


def tea_room(metrics: Callable[[Starlette], AbstractAsyncContextManager[Any]] | None = None) -> Starlette:
    """What is wrapped: an application, one mounted in it, and one mounted in that."""
    innermost = Starlette(routes=[Route("/", show_state)], lifespan=metrics or steady("metrics"))
    admin = Starlette(routes=[Mount("/metrics", innermost)], lifespan=steady("admin"))
    routes = [Route("/crash", crash), Route("/linger", linger), Mount("/admin", admin)]
    return Starlette(routes=routes, lifespan=steady("shop"))


def overheard(app: ASGIApp) -> ASGIApp:
    """An app whose answers to the server's lifespan are announced."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Any) -> None:
            say(f"told {message['type'].removeprefix('lifespan.')}")
            await send(message)

        await app(scope, receive, tell if scope["type"] == "lifespan" else send)

    return asgi


sound = LifespanMiddleware(tea_room(), lifespan=[steady("till"), watch_the_kettle])

crashing = overheard(sound)

started_by_a_request = LifespanMiddleware(tea_room(), lifespan=[steady("till")], start_on_request=True)

failing_hook = overheard(LifespanMiddleware(tea_room(), lifespan=[steady("till"), load_prices]))

failing_mount = overheard(LifespanMiddleware(tea_room(measure_without_a_meter), lifespan=[steady("till")]))

quitting = overheard(LifespanMiddleware(tea_room(), lifespan=steady("till"), on_startup=[close_for_good]))

hanging = overheard(
    LifespanMiddleware(tea_room(), lifespan=steady("till"), on_startup=[boil_water], startup_timeout=0.5)
)

failing_at_the_end = overheard(LifespanMiddleware(tea_room(), lifespan=[steady("till"), count_the_till]))

hanging_at_the_end = overheard(LifespanMiddleware(tea_room(), lifespan=[steady("till"), wash_up], shutdown_timeout=0.5))

closing_late = overheard(LifespanMiddleware(tea_room(), lifespan=[steady("till"), close_late]))

crashing_for_good = overheard(
    LifespanMiddleware(tea_room(), lifespan=[steady("till"), watch_the_kettle], on_crash="stop")
)


async def raising_bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without the middleware that breaks in its startup."""
    if scope["type"] == "lifespan":
        await receive()
        raise RuntimeError("there is no water")
    await PlainTextResponse("tea")(scope, receive, send)


async def hanging_bare(scope: Scope, receive: Receive, send: Send) -> None:  # pragma: no cover - its process is killed
    """An application without the middleware that never comes to the end of its startup."""
    await receive()
    say("waiting")
    await anyio.sleep_forever()
