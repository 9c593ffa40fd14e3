"""The shop with a page that never comes to an end."""

import anyio

from asgi_lifespan_mw import LifespanMiddleware
from tests.apps.shop.announcements import announce
from tests.apps.shop.main import create_shop

shop = create_shop()


@shop.get("/browse")
async def browse() -> None:
    """Keep the request open for ever."""
    announce("browsing")
    await anyio.sleep_forever()


app = LifespanMiddleware(shop)
