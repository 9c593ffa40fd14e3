"""`PostgresLock`: a session advisory lock, for the processes of several hosts."""

from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, final

from .._config import checked_flag
from .._units.locking import LockLost, LockRefused
from .engine import check_name, check_string, imported, need_asyncio, succeed

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
    ends, also by SIGKILL, and within half a minute if its host or the network is gone; then another one has it within
    1 s. A holder notices a lost connection at once, and a network that fails in silence within 10 s.

    *No guarantee:* If a connection is severed, the server may give the lock to another one moments before the holder
    has noticed. Work that must never overlap has to check a token where it writes.

    *Poolers:* A transaction pooler breaks session locks, so a connection that does not lead to the server itself is
    refused.

    *Costs:* One connection for each process that holds the lock or waits for it. A process that waits asks once a
    second, and keeps no snapshot: it holds up neither VACUUM nor ``CREATE INDEX CONCURRENTLY``.

    It needs asyncio, or uvloop.
    """

    def __init__(self, conninfo: str, name: str, *, allow_pooler: bool = False) -> None:
        """Prepare a lock; nothing is connected yet.

        Args:
            conninfo: A connection string of libpq, such as ``"postgresql://user@host/shop"``. It is never shown.
            name: The name of the lock, which is the same in all processes. Locks of one name in one database exclude
                each other.
            allow_pooler: Whether the connection may lead through a pooler or proxy. It has to be in session mode, where
                a connection of the client has one of the server to itself until it is closed.

        Raises:
            ImportError: If psycopg is not installed.
            TypeError: If an argument has the wrong type.
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
        self._allow_pooler = checked_flag(allow_pooler, "PostgresLock(allow_pooler=...)")

    def __call__(self) -> "AbstractAsyncContextManager[PostgresWatch]":
        """Return a context manager that holds the lock, and yields an object that reports its loss.

        *Cancellation:* The wait is given up, and the connection is closed.
        """
        return self._held()

    def __repr__(self) -> str:
        return f"PostgresLock(..., {self._name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PostgresLock) and (self._name, self._options) == (other._name, other._options)

    def __hash__(self) -> int:
        return hash(self._name)

    @asynccontextmanager
    async def _held(self) -> "AsyncGenerator[PostgresWatch]":
        need_asyncio("PostgresLock")
        connection = await self._psycopg.AsyncConnection.connect(autocommit=True, **self._options)
        try:
            await self._check_server(connection)
            for setting, value in _SERVER.items():
                # An older server, or one without TCP, has not all of them.
                await connection.execute(
                    "select set_config(name, %s, false) from pg_settings where name = %s", (value, setting)
                )
            # Not `pg_advisory_lock`: a statement that waits keeps its snapshot, for which the holder's
            # `CREATE INDEX CONCURRENTLY` would wait in turn.
            await succeed(lambda: self._ask(connection, "pg_try_advisory_lock"))
            watch = PostgresWatch(connection, self._psycopg.Error)
            try:
                yield watch
            finally:
                await self._unlock(connection, watch)
        finally:
            await connection.close()

    async def _check_server(self, connection: Any) -> None:
        """Raise LockRefused if the connection leads to a pooler, which sends a process ID of its own making."""
        [pid] = await (await connection.execute("select pg_backend_pid()")).fetchone()
        if pid != connection.info.backend_pid and not self._allow_pooler:
            raise LockRefused(
                f"{self!r} got a connection through a pooler or proxy, such as PgBouncer; expected one to the server "
                "itself, since a pooler in transaction mode gives the lock to two processes. Connect to the server; if "
                "the pooler runs in session mode, pass allow_pooler=True"
            )

    async def _unlock(self, connection: Any, watch: "PostgresWatch") -> None:
        """Release the lock, and close the connection in any case.

        Raises:
            LockLost: If it was not held any more.
        """
        try:
            was_held = await watch.ask(self._ask(connection, "pg_advisory_unlock"))
        except (self._psycopg.Error, TimeoutError) as error:
            raise LockLost(f"the connection was lost: {error}") from error
        finally:
            await connection.close()
            watch.close()
        if not was_held:
            raise LockLost("the server does not know of it")

    async def _ask(self, connection: Any, function: str) -> bool:
        query = f"select {function}(hashtextextended(%s, 0))"
        [answer] = await (await connection.execute(query, (self._name,))).fetchone()
        return bool(answer)


@final
class PostgresWatch:
    """Tells when a lock of PostgreSQL was lost."""

    def __init__(self, connection: Any, severed: type[Exception]) -> None:
        self._connection = connection
        self._severed = severed

    async def wait(self) -> None:
        """Return when the connection is lost, or the server does not answer."""
        try:
            while True:
                # Listening sees the end of the connection at once, but not a network that fails in silence.
                _ = [notice async for notice in self._connection.notifies(timeout=CHECK_EVERY)]
                await self.ask(self._connection.execute("select 1"))
        except (self._severed, TimeoutError):
            return

    async def ask(self, question: Coroutine[Any, Any, Any]) -> Any:
        """Return the answer to a question to the server.

        Raises:
            TimeoutError: If there is no answer in time.
        """
        import asyncio

        # A task, for psycopg's own answer to a cancellation is a question to the server, which may be silent.
        self._question = asyncio.create_task(question)
        await asyncio.wait({self._question}, timeout=CHECK_LIMIT)
        if not self._question.done():
            raise TimeoutError
        return self._question.result()

    def close(self) -> None:
        """Give up the last question if it was not answered. The connection is closed by then."""
        self._question.cancel()
