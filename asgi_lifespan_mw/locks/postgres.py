"""`PostgresLock`: a session advisory lock, for the processes of several hosts."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, final

from .engine import check_name, check_string, imported, need_asyncio

CHECK_EVERY = 5.0
"""Seconds between two questions to the server, for networks that fail in silence."""

CHECK_LIMIT = 5.0
"""Seconds for the answer; after that, the lock counts as lost."""

_CLIENT: Final = {
    "connect_timeout": 10, "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip
"""Defaults of the connection; what the connection string says wins."""

_SERVER: Final = {
    "statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0",
    "tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "20s",
}  # fmt: skip
"""Settings of the session: no timeout ends the wait, and a host that is gone is noticed within half a minute."""


@final
class PostgresLock:
    """A session advisory lock of PostgreSQL, on a connection of its own. It needs the extra ``postgres``: psycopg 3.

    *Guarantee:* The server gives the lock to one session at a time. It frees the lock when the holder's connection
    ends, also by SIGKILL, and within half a minute if its host or the network is gone. A holder notices a lost
    connection at once, and a network that fails in silence within 10 s.

    *No guarantee:* If a connection is severed, the server may give the lock to another one moments before the holder
    has noticed. Work that must never overlap has to check a token where it writes. A transaction pooler, such as
    PgBouncer, breaks session locks: connect to the server itself.

    It needs asyncio, or uvloop.
    """

    def __init__(self, conninfo: str, name: str) -> None:
        """Prepare a lock; nothing is connected yet.

        Args:
            conninfo: A connection string of libpq, such as ``"postgresql://user@host/shop"``. It is never shown.
            name: The name of the lock, which is the same in all processes. Locks of one name in one database exclude
                each other.

        Raises:
            ImportError: If psycopg is not installed.
            TypeError: If an argument is not a string.
            ValueError: If `conninfo` is not a connection string, or `name` is empty.
        """
        self._psycopg = imported("psycopg", "postgres", "PostgresLock")
        self._name = check_name(name, "PostgresLock")
        check_string(conninfo, "conninfo", "PostgresLock")
        try:
            given = self._psycopg.conninfo.conninfo_to_dict(conninfo)
        except self._psycopg.ProgrammingError:  # its text shows the string, with the password
            given = None
        if given is None:
            raise ValueError(
                "PostgresLock got a conninfo that libpq does not understand, expected such as "
                "'postgresql://user@host/shop', without a driver's name as SQLAlchemy has it"
            )
        self._options: dict[str, Any] = {**_CLIENT, **given}

    def __call__(self) -> "AbstractAsyncContextManager[PostgresWatch]":
        """Return a context manager that holds the lock, and yields what tells of its loss.

        *Cancellation:* The wait is given up, and the connection is closed.
        """
        return self._held()

    def __repr__(self) -> str:
        return f"PostgresLock(..., {self._name!r})"

    @asynccontextmanager
    async def _held(self) -> "AsyncGenerator[PostgresWatch]":
        need_asyncio("PostgresLock")
        connection = await self._psycopg.AsyncConnection.connect(autocommit=True, **self._options)
        try:
            for setting, value in _SERVER.items():
                # An older server, or one without TCP, has not all of them.
                await connection.execute(
                    "select set_config(name, %s, false) from pg_settings where name = %s", (value, setting)
                )
            await connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", (self._name,))
            watch = PostgresWatch(connection, self._psycopg.Error)
            try:
                yield watch
            finally:
                await connection.close()  # which frees the lock
                watch.close()
        finally:
            await connection.close()


@final
class PostgresWatch:
    """Tells when a lock of PostgreSQL was lost."""

    def __init__(self, connection: Any, severed: type[Exception]) -> None:
        self._connection = connection
        self._severed = severed
        self._question: asyncio.Task[Any] | None = None

    async def wait(self) -> None:
        """Return when the connection is lost, or the server does not answer."""
        try:
            while True:
                # Listening sees the end of the connection at once, but not a network that fails in silence.
                _ = [notice async for notice in self._connection.notifies(timeout=CHECK_EVERY)]
                # A task, for psycopg's own answer to a cancellation is a question to the server, which may be silent.
                question = self._question = asyncio.create_task(self._connection.execute("select 1"))
                await asyncio.wait({question}, timeout=CHECK_LIMIT)
                if not question.done():
                    return
                question.result()
        except self._severed:
            return

    def close(self) -> None:
        """Give up a question that was not answered. The connection is closed by then."""
        if self._question is not None:
            self._question.cancel()
