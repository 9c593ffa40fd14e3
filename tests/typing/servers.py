"""Giving a wrapped app to servers, and to whatever asks for an app by a type of its own."""

import asgiref.typing
import hypercorn.typing
import mangum.types
import starlette.types
import uvicorn
import uvicorn._types
from fastapi import FastAPI
from granian.constants import Interfaces
from granian.server.embed import Server
from hypercorn.asyncio import serve  # pyright: ignore[reportUnknownVariableType] - the types of its WSGI are open
from hypercorn.config import Config
from hypercorn.trio import serve as serve_on_trio  # pyright: ignore[reportUnknownVariableType] - as above
from mangum import Mangum

from asgi_lifespan_mw import Isolated, LifespanManager, LifespanMiddleware

app = LifespanMiddleware(FastAPI())
isolated = Isolated(FastAPI())


def uvicorn_server() -> None:
    """In three ways."""
    uvicorn.run(app, host="127.0.0.1", lifespan="on")
    uvicorn.Server(uvicorn.Config(app)).run()
    uvicorn.run(isolated)


async def hypercorn_on_asyncio() -> None:
    """As its documentation has it."""
    await serve(app, Config(), mode="asgi")
    await serve(isolated, Config())


async def hypercorn_on_trio() -> None:
    """As its documentation has it."""
    await serve_on_trio(app, Config())
    await serve_on_trio(isolated, Config(), mode="asgi")


async def granian_server() -> None:
    """Embedded in a program; granian takes any object for an app."""
    await Server(app, interface=Interfaces.ASGI).serve()


on_lambda = Mangum(app, lifespan="auto")
isolated_on_lambda = Mangum(isolated)

# By the types of others.
as_asgiref: asgiref.typing.ASGI3Application = app
as_asgiref_any: asgiref.typing.ASGIApplication = app
as_starlette: starlette.types.ASGIApp = app
as_uvicorn: uvicorn._types.ASGI3Application = app
as_hypercorn: hypercorn.typing.ASGIFramework = app
as_mangum: mangum.types.ASGI = app

isolated_as_asgiref: asgiref.typing.ASGI3Application = isolated
isolated_as_starlette: starlette.types.ASGIApp = isolated
isolated_as_uvicorn: uvicorn._types.ASGI3Application = isolated
isolated_as_hypercorn: hypercorn.typing.ASGIFramework = isolated
isolated_as_mangum: mangum.types.ASGI = isolated


async def by_name(
    scope: asgiref.typing.Scope,
    receive: asgiref.typing.ASGIReceiveCallable,
    send: asgiref.typing.ASGISendCallable,
) -> None:
    """Called as daphne does, and from an app of one's own."""
    await app(scope=scope, receive=receive, send=send)
    await isolated(scope, receive, send)


async def from_a_manager() -> None:
    """What a manager gives can be served as well."""
    async with LifespanManager(app) as manager:
        await serve(manager.app, Config())
        await uvicorn.Server(uvicorn.Config(manager.app, lifespan="off")).serve()
