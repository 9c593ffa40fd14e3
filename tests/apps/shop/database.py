"""The shop's SQLite file and the pool of connections to it."""

import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypedDict

import anyio
import anyio.to_thread
from fastapi import FastAPI

from .announcements import announce

SCHEMA = """
create table if not exists products (
    id integer primary key, name text unique not null, cents integer not null, stock integer not null
);
create table if not exists orders (
    id integer primary key, product_id integer not null references products, quantity integer not null
);
insert or ignore into products (name, cents, stock)
values ('teapot', 3400, 12), ('kettle', 5200, 7), ('tea strainer', 650, 40);
"""

Row = dict[str, Any]


class Database:
    """A pool of connections to one SQLite file; queries wait for a free one and run in a worker thread."""

    def __init__(self, connections: list[sqlite3.Connection]) -> None:
        self._connections = connections
        self._return, self._borrow = anyio.create_memory_object_stream[sqlite3.Connection](len(connections))
        for connection in connections:
            self._return.send_nowait(connection)

    @classmethod
    async def open(cls, path: Path, size: int = 3) -> Self:
        """Open ``size`` connections, and create the tables and the first products if they are not there."""

        def connect() -> list[sqlite3.Connection]:
            connections = [sqlite3.connect(path, check_same_thread=False) for _ in range(size)]
            connections[0].executescript(SCHEMA)
            for connection in connections:
                connection.row_factory = sqlite3.Row
            return connections

        return cls(await anyio.to_thread.run_sync(connect))

    async def run(self, statement: str, *values: object) -> list[Row]:
        """Run one statement in a transaction of its own and return its rows."""
        connection = await self._borrow.receive()

        def query() -> list[Row]:
            with connection:
                return [dict(row) for row in connection.execute(statement, values)]

        try:
            return await anyio.to_thread.run_sync(query)
        finally:
            self._return.send_nowait(connection)

    async def close(self) -> None:
        """Close every connection."""
        self._return.close()
        self._borrow.close()
        for connection in self._connections:
            await anyio.to_thread.run_sync(connection.close)


class DatabaseState(TypedDict):
    """What ``request.state`` has in the whole shop."""

    database: Database


@asynccontextmanager
async def open_database(app: FastAPI) -> AsyncIterator[DatabaseState]:
    """Hold the pool open: the shop's own lifespan.

    The file is the one that the environment variable ``SHOP_DATABASE`` names, else one in the directory for
    temporary files.
    """
    path = Path(os.environ.get("SHOP_DATABASE") or Path(tempfile.gettempdir(), "teashop.sqlite"))
    database = await Database.open(path)
    announce("started database")
    try:
        yield {"database": database}
    finally:
        await database.close()
        announce("stopped database")
