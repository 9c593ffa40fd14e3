"""The admin application: restocking, done in the background by a worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypedDict

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute

from .announcements import announce
from .database import Database
from .metrics import create_metrics
from .state import tell_state

#: Seconds to unload one delivery: enough for a few to be still waiting when the shop is told to stop.
UNLOADING: Final = 0.1


@dataclass(frozen=True, slots=True)
class Delivery:
    """Ten more of one product, for the shop that this database belongs to."""

    database: Database
    product: str

    async def put_away(self) -> None:
        """Add the pieces to the stock, which takes a moment."""
        await anyio.sleep(UNLOADING)
        await self.database.run("update products set stock = stock + 10 where name = ?", self.product)


class Warehouse:
    """A queue of deliveries and the worker that puts them away, one after another."""

    def __init__(self) -> None:
        self._gate, self._yard = anyio.create_memory_object_stream[Delivery](max_buffer_size=100)
        self.delivered = 0

    @property
    def waiting(self) -> int:
        """How many deliveries wait for the worker."""
        return self._yard.statistics().current_buffer_used

    def accept(self, delivery: Delivery) -> None:
        """Queue a delivery."""
        self._gate.send_nowait(delivery)

    def close(self) -> None:
        """Accept nothing more; the worker ends when it has put away what is queued."""
        self._gate.close()

    async def work(self) -> None:
        """Put deliveries away until the warehouse is closed and empty."""
        async with self._yard:
            async for delivery in self._yard:
                await delivery.put_away()
                self.delivered += 1


class AdminState(TypedDict):
    """What ``request.state`` has in the admin application, besides the shop's."""

    warehouse: Warehouse


@asynccontextmanager
async def open_warehouse(app: Starlette) -> AsyncIterator[AdminState]:
    """Hold a task group with the worker open; the last deliveries still find the shop's database open."""
    warehouse = Warehouse()
    async with anyio.create_task_group() as workers:
        workers.start_soon(warehouse.work)
        announce("started admin")
        try:
            yield {"warehouse": warehouse}
        finally:
            warehouse.close()
    announce("stopped admin")


async def show_warehouse(request: Request) -> JSONResponse:
    """How busy the warehouse is."""
    warehouse: Warehouse = request.state.warehouse
    return JSONResponse({"waiting": warehouse.waiting, "delivered": warehouse.delivered})


async def restock(request: Request) -> JSONResponse:
    """Order more of a product."""
    request.state.warehouse.accept(Delivery(request.state.database, request.path_params["product"]))
    return JSONResponse({"restocking": request.path_params["product"]}, status_code=202)


def create_admin() -> Starlette:
    """The admin application, with the metrics mounted in it."""
    return Starlette(
        routes=[
            Route("/", show_warehouse),
            Route("/restock/{product}", restock, methods=["POST"]),
            WebSocketRoute("/state", tell_state),
            Mount("/metrics", create_metrics()),
        ],
        lifespan=open_warehouse,
    )
