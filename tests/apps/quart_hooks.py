"""Quart with a hook; the middleware goes around the whole of it.

Serve it with ``uvicorn tests.apps.quart_hooks:app``.
"""

# pyright: reportMissingImports=false

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from quart import Quart, request

from asgi_lifespan_mw import LifespanMiddleware

site = Quart(__name__)


@site.get("/")
async def rates() -> Any:
    """What a hook yielded is in the request's scope."""
    return request.scope["state"]["rates"]


@site.while_serving
async def open_site() -> AsyncGenerator[None, None]:
    """Quart's own lifespan."""
    print("started quart")
    yield
    print("stopped quart")


app = LifespanMiddleware(site)


@app.context
async def exchange_rates() -> AsyncIterator[dict[str, dict[str, float]]]:
    """Starts before Quart does, and stops after it."""
    print("started rates")
    yield {"rates": {"GBP": 0.87}}
    print("stopped rates")
