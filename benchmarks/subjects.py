"""What is measured: apps that do next to nothing, and the wrappers around them.

Each wrapper imports what it needs when it is made, so that a process holds one of them alone.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any


class Suspend:
    """Gives control back once."""

    def __await__(self) -> Any:
        yield


def app_that_suspends(times: int) -> Any:
    """An app that does nothing but suspend."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(times):
            await Suspend()

    return app


class PlainWrapper:
    """The plainest pure-ASGI middleware, as it is written everywhere."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await self.app(scope, receive, send)


def closure(app: Any) -> Any:
    """The floor: a function that looks at the type of the scope and returns the app's awaitable."""

    def wrapper(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        return app(scope, receive, send)

    return wrapper


@asynccontextmanager
async def no_lifespan(app: Any) -> Any:
    yield


def ours(app: Any) -> Any:
    from asgi_lifespan_mw import LifespanMiddleware

    return LifespanMiddleware(app)


def asgi_lifespan_middleware(app: Any) -> Any:
    from asgi_lifespan_middleware import LifespanMiddleware

    return LifespanMiddleware(app, lifespan=no_lifespan)


def asgi_lifespan_0_6(app: Any) -> Any:
    """The last version with a middleware; it stands in a folder of its own, for the tests need a newer one."""
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(sys.prefix) / "rivals"))
    from asgi_lifespan import Lifespan, LifespanMiddleware

    return LifespanMiddleware(app, lifespan=Lifespan())


def dispatcher(app: Any) -> Any:
    from hypercorn.middleware.dispatcher import AsyncioDispatcherMiddleware

    return AsyncioDispatcherMiddleware({"": app})


def base_http_middleware(app: Any) -> Any:
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return BaseHTTPMiddleware(app, dispatch)


BARE, PLAIN, OURS = "bare app", "plain async wrapper", "asgi_lifespan_mw"

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    BARE: lambda app: app,
    "closure (floor)": closure,
    OURS: ours,
    PLAIN: PlainWrapper,
    "asgi-lifespan-middleware": asgi_lifespan_middleware,
    "asgi-lifespan 0.6": asgi_lifespan_0_6,
    "hypercorn DispatcherMiddleware": dispatcher,
    "starlette BaseHTTPMiddleware": base_http_middleware,
}


def mounted() -> Any:
    """The plainest app with a lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


def with_mounts(count: int) -> Any:
    """A Starlette app with so many mounts, wrapped by ours."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return ours(Starlette(routes=[Mount(f"/{number}", mounted()) for number in range(count)]))


def dispatched(count: int) -> Any:
    """As many apps in hypercorn's dispatcher."""
    from hypercorn.middleware import DispatcherMiddleware

    return DispatcherMiddleware({f"/{number}": mounted() for number in range(count)})


def with_starlettes(count: int) -> Any:
    """A Starlette app with so many Starlette apps mounted, wrapped by ours."""
    return ours(_starlette_of(count))


def recipe(count: int) -> Any:
    """The same apps, started by the code that users write instead: the parent's lifespan enters those of its mounts."""

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with AsyncExitStack() as stack:
            for route in app.routes:
                await stack.enter_async_context(route.app.router.lifespan_context(route.app))
            yield

    return _starlette_of(count, lifespan)


def _starlette_of(count: int, lifespan: Any = None) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    mounts = [Mount(f"/{number}", Starlette(lifespan=no_lifespan)) for number in range(count)]
    return Starlette(routes=mounts, lifespan=lifespan)


class Server:
    """The server's side of one lifespan.

    Attributes:
        answers: What the app sent.
    """

    def __init__(self) -> None:
        self.answers: list[str] = []
        self._started = asyncio.Event()
        self._to_come = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

    async def receive(self) -> Any:
        if len(self._to_come) == 1:
            await self._started.wait()
        return self._to_come.pop()

    async def send(self, message: Any) -> None:
        self.answers.append(message["type"])
        self._started.set()


async def lifespan(app: Any, pause: Callable[[], object] | None = None) -> None:
    """Start an app and stop it; `pause` is called in between."""
    server = Server()

    async def receive() -> Any:
        message = await server.receive()
        if message["type"] == "lifespan.shutdown" and pause is not None:
            pause()
        return message

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, server.send)
    assert server.answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"], server.answers
