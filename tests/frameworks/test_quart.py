"""Quart, which cannot mount; middleware goes around its ``asgi_app``, a method of its own."""

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import LifespanFunction, serving, started_and_stopped, state_seen

quart = needs("quart", "quart")

pytestmark = ASYNCIO


class PassesOn:
    """A middleware, as those that its documentation shows."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        await self.app(scope, receive, send)


def app_that_records(lifespan: LifespanFunction) -> Any:
    """A Quart that answers with the keys of the state that a request sees."""
    app = quart.Quart(__name__)

    @app.get("/state")  # type: ignore[untyped-decorator, unused-ignore]
    async def state() -> list[str]:
        return list(quart.request.scope["state"])

    @app.while_serving  # type: ignore[untyped-decorator, unused-ignore]
    async def life() -> Any:
        async with lifespan(app):
            yield

    return app


async def test_hooks_run_around_it(witness: Witness) -> None:
    """Its requests see the state of the hooks."""
    app = app_that_records(witness.lifespan("quart"))
    await witness.sees(app, "hook", "quart", state={"/state": "hook"}, lifespan=witness.lifespan("hook"))


async def test_the_idiom_of_its_documentation_works(witness: Witness) -> None:
    """``app.asgi_app = LifespanMiddleware(app.asgi_app)``, and the Quart itself is served."""
    app = app_that_records(witness.lifespan("quart"))
    app.asgi_app = LifespanMiddleware(app.asgi_app, lifespan=witness.lifespan("hook"))
    async with serving(app) as server:
        assert "hook" in await state_seen(app, server, "/state")
    assert witness.log == started_and_stopped("hook", "quart")


async def test_it_is_started_once_however_it_is_mounted(witness: Witness) -> None:
    """The Quart, its method, and a middleware around that are one app."""
    app = app_that_records(witness.lifespan("quart"))
    method = app.asgi_app
    app.asgi_app = PassesOn(method)
    routes = [Mount("/a", app), Mount("/b", app.asgi_app), Mount("/c", method), Mount("/raw", witness.raw("raw"))]
    parent = Starlette(lifespan=witness.lifespan("parent"), routes=routes)
    await witness.sees(parent, "parent", "quart", "raw", state={"/raw/": "raw"})
