"""The three ways of use, and what the tests of nested apps look at: who started, who stopped, who sees which state."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import anyio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.server import RecordingServer, request

LifespanFunction = Callable[[Any], AbstractAsyncContextManager[Any]]


async def show_state(request: Request) -> JSONResponse:
    """Answer with the keys of the state that the request sees."""
    return JSONResponse(list(request.scope["state"]))


def lifespan_of(log: list[str], name: str) -> LifespanFunction:
    """A lifespan that writes into `log`, and whose state is its name."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
        log.append(f"start {name}")
        yield {name: name}
        log.append(f"stop {name}")

    return lifespan


def recorded(log: list[str], name: str, *routes: BaseRoute) -> Starlette:
    """An app that records its lifespan and tells the state of requests to it."""
    return Starlette(lifespan=lifespan_of(log, name), routes=[Route("/state", show_state), *routes])


class Records:
    """A bare app that writes its lifespan into `log`, and whose state is its name."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log = log
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the lifespan, and requests with the keys of the state that they see."""
        if scope["type"] == "lifespan":
            await receive()
            self.log.append(f"start {self.name}")
            scope["state"][self.name] = self.name
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.log.append(f"stop {self.name}")
            await send({"type": "lifespan.shutdown.complete"})
        else:  # pragma: no cover - asked by the frameworks' tests
            await JSONResponse(list(scope["state"]))(scope, receive, send)


async def lived(app: ASGIApp) -> RecordingServer:
    """See one lifespan of an app through, which must be answered as it should be."""
    server = RecordingServer()
    await server.run(app)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    return server


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[RecordingServer]:
    """Serve an app while the body runs."""
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        yield server
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]


async def state_seen(app: ASGIApp, server: RecordingServer, path: str, **scope: Any) -> list[str]:
    """The keys of the state that a request to `path` sees."""
    start, *parts = await request(app, path, state=server.state.copy(), **scope)
    assert start["status"] == 200
    keys: list[str] = json.loads(b"".join(part["body"] for part in parts))
    return keys


def started_and_stopped(*names: str) -> list[str]:
    """The log of units that start in this order and stop in reverse."""
    return [f"start {name}" for name in names] + [f"stop {name}" for name in reversed(names)]


class Create(Protocol):
    """Makes an application that uses the package, and what the server is given."""

    def __call__(self, lifespan: LifespanFunction, **options: Any) -> tuple[FastAPI, ASGIApp]: ...


def around(lifespan: LifespanFunction, **options: Any) -> tuple[FastAPI, ASGIApp]:
    """``app = LifespanMiddleware(app)``."""
    app = FastAPI(lifespan=lifespan)
    return app, LifespanMiddleware(app, **options)


def in_the_stack(lifespan: LifespanFunction, **options: Any) -> tuple[FastAPI, ASGIApp]:
    """``app.add_middleware(LifespanMiddleware)``."""
    app = FastAPI(lifespan=lifespan)
    app.add_middleware(LifespanMiddleware, **options)
    return app, app


def as_the_lifespan(lifespan: LifespanFunction, **options: Any) -> tuple[FastAPI, ASGIApp]:
    """``FastAPI(lifespan=Lifespan(mounts="auto"))``."""
    app = FastAPI(lifespan=Lifespan(contexts=[lifespan], **{"mounts": "auto", **options}))
    return app, app


USAGES = [around, in_the_stack, as_the_lifespan]
