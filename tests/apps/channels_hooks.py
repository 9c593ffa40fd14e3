"""Django Channels: FastAPI for HTTP and a consumer for WebSockets, behind a router that turns the lifespan away.

Serve it with ``uvicorn tests.apps.channels_hooks:app``.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportTypedDictNotRequiredAccess=false

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import django
from django.conf import settings

settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="for the example")
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402 - asks for the settings
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 - as above
from django.urls import path  # noqa: E402 - as above
from fastapi import FastAPI, Request  # noqa: E402 - as above

from asgi_lifespan_mw import LifespanMiddleware  # noqa: E402 - as above


@asynccontextmanager
async def open_api(app: FastAPI) -> AsyncIterator[None]:
    """The lifespan of the app behind the router."""
    print("started api")
    yield
    print("stopped api")


api = FastAPI(lifespan=open_api)


@api.get("/")
async def rates(request: Request) -> dict[str, float]:
    """What a hook yielded."""
    found: dict[str, float] = request.state.rates
    return found


class Rate(AsyncWebsocketConsumer):
    """Answers the name of a currency with its rate."""

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        """The hook's state is in the scope here, too."""
        await self.send(text_data=str(self.scope["state"]["rates"][text_data]))


app = LifespanMiddleware(ProtocolTypeRouter({"http": api, "websocket": URLRouter([path("rate", Rate.as_asgi())])}))


@app.context
async def exchange_rates() -> AsyncIterator[dict[str, dict[str, float]]]:
    """Starts before the app behind the router does, and stops after it."""
    print("started rates")
    yield {"rates": {"GBP": 0.87}}
    print("stopped rates")
