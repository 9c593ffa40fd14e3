"""An app whose requests leave tasks behind. Serve it with ``uvicorn tests.apps.receipts:app``."""

import os
import sqlite3
from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from asgi_lifespan_mw import LifespanMiddleware, Tasks
from tests.apps.shop.announcements import announce

tasks = Tasks(timeout=20)


async def send(database: sqlite3.Connection, name: str, seconds: float) -> None:
    """Write a row after some seconds, into a database that has to be open."""
    announce(f"began {name}")
    try:
        await anyio.sleep(seconds)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
        database.execute("INSERT INTO receipts VALUES (?)", [name])
        announce(f"sent {name}")


async def order(request: Request) -> PlainTextResponse:
    """Answer at once, and leave the receipt behind."""
    name, seconds = request.query_params["name"], float(request.query_params["seconds"])
    tasks.spawn(send, request.state.database, name, seconds)
    return PlainTextResponse("ordered")


app = LifespanMiddleware(Starlette(routes=[Route("/order", order)]))


@app.context
async def database() -> AsyncIterator[dict[str, sqlite3.Connection]]:
    """What the tasks need to the end."""
    connection = sqlite3.connect(os.environ["SHOP_DATABASE"], isolation_level=None, check_same_thread=False)
    connection.execute("CREATE TABLE receipts (name)")
    yield {"database": connection}
    connection.close()
    announce("closed database")


app.context(tasks)
