"""The metrics application: mounted in the admin application, which is mounted in the shop."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from .announcements import announce
from .state import tell_state


class MetricsState(TypedDict):
    """What ``request.state`` has in the metrics application, besides the admin application's."""

    meter: Counter[str]


@asynccontextmanager
async def open_meter(app: Starlette) -> AsyncIterator[MetricsState]:
    """Begin to count."""
    announce("started metrics")
    yield {"meter": Counter()}
    announce("stopped metrics")


async def show_metrics(request: Request) -> JSONResponse:
    """How often this page was seen, and how much of each product the shop has sold."""
    request.state.meter["views"] += 1
    sold = await request.state.database.run(
        "select name, sum(quantity) as sold from orders join products on product_id = products.id group by name"
    )
    return JSONResponse(
        {
            "views": request.state.meter["views"],
            "deliveries": request.state.warehouse.delivered,
            "sold": {row["name"]: row["sold"] for row in sold},
        }
    )


def create_metrics() -> Starlette:
    """The metrics application."""
    return Starlette(
        routes=[Route("/", show_metrics), WebSocketRoute("/state", tell_state)],
        lifespan=open_meter,
    )
