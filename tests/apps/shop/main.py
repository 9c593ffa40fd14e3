"""The shop, put together. Serve it with ``uvicorn tests.apps.shop.main:app``."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI

from asgi_lifespan_mw import LifespanMiddleware

from . import catalogue
from .admin import create_admin
from .announcements import announce
from .assistants import create_fast_assistant, create_sdk_assistant
from .database import open_database
from .reports import create_office
from .state import tell_state


def create_shop(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]] = open_database) -> FastAPI:
    """A new shop, with new applications mounted in it."""
    shop = FastAPI(title="Teashop", lifespan=lifespan)
    shop.include_router(catalogue.router)
    shop.add_api_websocket_route("/state", tell_state)
    shop.mount("/admin", create_admin())
    shop.include_router(create_office(), prefix="/office")
    shop.mount("/mcp-sdk", create_sdk_assistant())
    shop.mount("/mcp-fast", create_fast_assistant())
    return shop


shop = create_shop()
app = LifespanMiddleware(shop)


@app.context
async def exchange_rates() -> AsyncIterator[dict[str, dict[str, float]]]:
    """Prices in other currencies: ``/products?currency=GBP``."""
    announce("started exchange rates")
    yield {"exchange_rates": {"GBP": 0.87, "SEK": 11.2}}
    announce("stopped exchange rates")
