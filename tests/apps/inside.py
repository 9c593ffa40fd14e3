"""The shop with its hooks inside: as the framework's own lifespan, and as a middleware that the shop adds."""

from collections.abc import AsyncIterator

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from tests.apps.shop.announcements import announce
from tests.apps.shop.database import open_database
from tests.apps.shop.main import create_shop


async def exchange_rates() -> AsyncIterator[dict[str, dict[str, float]]]:
    """As in the shop itself, at another rate."""
    announce("started exchange rates")
    yield {"exchange_rates": {"GBP": 2.0}}
    announce("stopped exchange rates")


as_lifespan = create_shop(Lifespan(contexts=[exchange_rates, open_database], mounts="auto"))

as_middleware = create_shop()
as_middleware.add_middleware(LifespanMiddleware, lifespan=Lifespan(contexts=[exchange_rates]))
