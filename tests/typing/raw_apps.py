"""Wrapping an app that is a function or a class of one's own, whatever types its scope and messages go by."""

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import asgiref.typing
import hypercorn.typing
import starlette.types
import uvicorn._types

from asgi_lifespan_mw import Isolated, LifespanManager, LifespanMiddleware, check_lifespan


async def asgiref_app(
    scope: asgiref.typing.Scope,
    receive: asgiref.typing.ASGIReceiveCallable,
    send: asgiref.typing.ASGISendCallable,
) -> None: ...


async def starlette_app(
    scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
) -> None: ...


async def hypercorn_app(
    scope: hypercorn.typing.Scope,
    receive: hypercorn.typing.ASGIReceiveCallable,
    send: hypercorn.typing.ASGISendCallable,
) -> None: ...


async def plain_app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None: ...


async def mapping_app(
    scope: MutableMapping[str, object],
    receive: Callable[[], Awaitable[MutableMapping[str, object]]],
    send: Callable[[MutableMapping[str, object]], Awaitable[None]],
) -> None: ...


def returns_awaitable(
    scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
) -> Awaitable[None]:
    return starlette_app(scope, receive, send)


class Dispatcher:
    """An app that is an object."""

    async def __call__(
        self,
        scope: asgiref.typing.Scope,
        receive: asgiref.typing.ASGIReceiveCallable,
        send: asgiref.typing.ASGISendCallable,
    ) -> None: ...

    async def asgi(
        self, scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
    ) -> None: ...


async def tenant_app(
    tenant: str, scope: starlette.types.Scope, receive: starlette.types.Receive, send: starlette.types.Send
) -> None: ...


def by_declared_types(
    asgiref_one: asgiref.typing.ASGI3Application,
    starlette_one: starlette.types.ASGIApp,
    uvicorn_one: uvicorn._types.ASGI3Application,
    hypercorn_one: hypercorn.typing.ASGIFramework,
) -> None:
    """What was declared with a library's own type for an app."""
    LifespanMiddleware(asgiref_one)
    LifespanMiddleware(starlette_one)
    LifespanMiddleware(uvicorn_one)
    LifespanMiddleware(hypercorn_one)


LifespanMiddleware(asgiref_app)
LifespanMiddleware(starlette_app)
LifespanMiddleware(hypercorn_app)
LifespanMiddleware(plain_app)
LifespanMiddleware(mapping_app)
LifespanMiddleware(returns_awaitable)
LifespanMiddleware(Dispatcher())
LifespanMiddleware(Dispatcher().asgi)
LifespanMiddleware(partial(tenant_app, "acme"))

# Whatever takes an app takes all of these.
Isolated(asgiref_app)
LifespanManager(plain_app)
LifespanMiddleware(Dispatcher(), mounts=[asgiref_app, starlette_app], exclude=(plain_app, Dispatcher()))


async def checked() -> None:
    """In a test suite."""
    await check_lifespan(hypercorn_app)
    await check_lifespan(Dispatcher())
