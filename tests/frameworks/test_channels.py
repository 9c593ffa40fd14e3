"""Django, which has no lifespan, and Channels, whose routers and stacks turn it away."""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks import django_site
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import show_state

needs("channels", "channels")
urls = needs("django", "django.urls")

pytestmark = ASYNCIO

django_site.set_up()

asgi = needs("django", "django.core.asgi")
static = needs("django", "django.contrib.staticfiles.handlers")
auth, routing = needs("channels", "channels.auth"), needs("channels", "channels.routing")
origins, consumers = needs("channels", "channels.security.websocket"), needs("channels", "channels.generic.websocket")


def fastapi(witness: Witness) -> FastAPI:
    """An app that takes the lifespan."""
    app = FastAPI(lifespan=witness.lifespan("http"))
    app.add_route("/state", show_state)
    return app


async def test_hooks_run_around_django(witness: Witness) -> None:
    """A Django site gets a lifespan, and its requests see the state."""
    app = asgi.get_asgi_application()
    await witness.sees(app, "hook", state={"/hello": "hook"}, lifespan=witness.lifespan("hook"))


@pytest.mark.parametrize("handler", [lambda app: app, static.ASGIStaticFilesHandler], ids=["bare", "static-files"])
async def test_apps_beside_django_are_started(witness: Witness, handler: Any) -> None:
    """Django turns the lifespan away, in peace."""
    site = handler(asgi.get_asgi_application())
    app = Starlette(routes=[Mount("/sub", witness.starlette("sub")), Mount("", site)])
    await witness.sees(app, "sub", state={"/sub/state": "sub", "/hello": "sub"})


async def test_an_app_behind_a_protocol_is_started(witness: Witness) -> None:
    """The router knows no lifespan, so the app for HTTP is asked itself, and stacks of WebSockets refuse in peace."""
    sockets = auth.AuthMiddlewareStack(routing.URLRouter([]))
    app = routing.ProtocolTypeRouter({"http": fastapi(witness), "websocket": sockets})
    await witness.sees(app, "http", state={"/state": "http"})


async def test_an_app_for_the_lifespan_gets_it_once(witness: Witness) -> None:
    """Where the router has an entry for the lifespan, the apps of the others are still not reached."""
    one, other = fastapi(witness), witness.raw("other")
    app = routing.ProtocolTypeRouter({"http": one, "lifespan": one, "websocket": other})
    await witness.sees(app, "http", "other", state={"/state": "http"})


async def test_apps_behind_routes_stacks_and_origin_validators_are_started(witness: Witness) -> None:
    """However deep, in the order of the routes."""
    inner = routing.URLRouter([urls.path("chat", witness.raw("chat")), urls.path("news", witness.raw("news"))])
    sockets = origins.OriginValidator(auth.AuthMiddlewareStack(routing.URLRouter([urls.path("ws/", inner)])), ["*"])
    await witness.sees(
        routing.ProtocolTypeRouter({"http": fastapi(witness), "websocket": sockets}), "http", "chat", "news"
    )


async def test_consumers_are_never_asked(witness: Witness) -> None:
    """A consumer takes the startup for a message that it has no handler for, and would fail the whole."""
    consumer = type("Consumer", (consumers.AsyncWebsocketConsumer,), {}).as_asgi()  # type: ignore[attr-defined]
    sockets = routing.URLRouter([urls.path("chat", consumer), urls.path("news", auth.AuthMiddlewareStack(consumer))])
    app = routing.ProtocolTypeRouter({"http": fastapi(witness), "websocket": sockets, "other": consumer})
    await witness.sees(app, "http")


async def test_the_router_may_be_mounted(witness: Witness) -> None:
    """Then the apps in it are started after what it is mounted in."""
    app = FastAPI(lifespan=witness.lifespan("parent"))
    app.mount("/ws", routing.ProtocolTypeRouter({"http": fastapi(witness)}))
    await witness.sees(app, "parent", "http", state={"/ws/state": "http"})
