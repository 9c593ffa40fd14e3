"""`RedisLock`: a lease in Redis or Valkey, for the processes of several hosts."""

import math
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, cast, final
from uuid import uuid4

import anyio

from .._config import check
from .._units.locking import LockLost
from .engine import check_name, imported, need_asyncio, now, succeed

RETRY_AFTER = 0.25
"""Seconds before a renewal that failed is tried again."""


@final
class RedisLock:
    """A lease in Redis, which is renewed while it is held. It needs the extra ``redis``, which is redis-py.

    *Guarantee:* While its clock and that of the server run at the same pace, a holder gives up before the server frees
    the lock: the lease is renewed every third of `ttl` and given up at two thirds, so that a third is left for the work
    to end. If its holder is killed, the lock is free after `ttl` at most.

    *No guarantee:* A lease can overlap for moments: an event loop that is blocked for longer than `ttl` gives up late,
    and a server that fails over to a replica may forget the lock. Work that must never overlap has to check a token
    where it writes.

    It needs asyncio, or uvloop.
    """

    def __init__(self, client_or_url: Any, name: str, ttl: float = 30) -> None:
        """Prepare a lock; nothing is connected yet.

        Args:
            client_or_url: A ``redis.asyncio.Redis``, or a URL such as ``"redis://host/0"``. It is never shown.
            name: The key of the lock, which is the same in all processes.
            ttl: Seconds after which the server frees the lock of a process that does not renew it; at least 1.

        Raises:
            ImportError: If redis is not installed.
            TypeError: If an argument has the wrong type.
            ValueError: If the URL is not valid, `name` is empty, or `ttl` is less than 1.
        """
        self._redis = imported("redis.asyncio", "redis", "RedisLock")
        self._errors = imported("redis.exceptions", "redis", "RedisLock")
        self._name = check_name(name, "RedisLock")
        where, given = "RedisLock(ttl=...)", cast("object", ttl)
        check(where, ttl, "seconds as a number", fits=isinstance(given, (int, float)) and not isinstance(given, bool))
        check(where, ttl, "at least 1 s", fits=1 <= ttl < math.inf, refusal=ValueError)
        self._ttl = float(ttl)
        if isinstance(client_or_url, str):
            if not client_or_url.startswith(("redis://", "rediss://", "unix://")):
                raise ValueError("RedisLock got a URL that is not valid, expected such as 'redis://host/0'")
        elif not isinstance(client_or_url, (self._redis.Redis, self._redis.RedisCluster)):
            kind = type(cast("object", client_or_url))
            raise TypeError(
                f"RedisLock got a {kind.__module__}.{kind.__qualname__}, expected a redis.asyncio.Redis or a URL"
            )
        self._client_or_url = client_or_url

    def __call__(self) -> "AbstractAsyncContextManager[RedisLease]":
        """Return a context manager that holds the lock, and yields an object that renews it and reports its loss.

        *Cancellation:* The wait is given up, and nothing is held.
        """
        return self._held()

    def __repr__(self) -> str:
        return f"RedisLock(..., {self._name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RedisLock) and (self._name, self._client_or_url) == (other._name, other._client_or_url)

    def __hash__(self) -> int:
        return hash(self._name)

    @asynccontextmanager
    async def _held(self) -> "AsyncGenerator[RedisLease]":
        need_asyncio("RedisLock")
        is_url = isinstance(self._client_or_url, str)
        limits = {"socket_timeout": self._ttl / 3, "socket_connect_timeout": self._ttl / 3}
        client: Any = self._redis.Redis.from_url(self._client_or_url, **limits) if is_url else self._client_or_url
        lock: Any = client.lock(self._name, timeout=self._ttl, thread_local=False)
        lease = RedisLease(lock, self._ttl, self._errors)
        try:
            await succeed(lease.acquired)
            try:
                yield lease
            finally:
                await lease.release()
        finally:
            if is_url:
                with anyio.move_on_after(1, shield=True):
                    await client.aclose()


@final
class RedisLease:
    """Renews a lock of Redis, and tells when it was lost."""

    def __init__(self, lock: Any, ttl: float, errors: Any) -> None:
        self._lock = lock
        self._ttl = ttl
        self._errors = errors
        self._sent = 0.0  # when the command was sent that the lease counts from; the server counts from later
        self._is_lost = False

    async def acquired(self) -> bool:
        """Try to get the lock once; return whether it is held."""
        self._sent, token = now(), uuid4().hex
        try:
            return bool(await self._lock.acquire(blocking=False, token=token))
        except BaseException:  # the server may have taken it before the answer was lost, or a cancellation came
            self._is_lost = True
            with anyio.move_on_after(1, shield=True), suppress(Exception):
                await self._lock.do_release(token)
            raise

    async def wait(self) -> None:
        """Renew the lease, and return when it is lost, or may be lost soon."""
        while True:
            await anyio.sleep(max(0.0, self._sent + self._ttl / 3 - now()))
            left = self._sent + self._ttl * 2 / 3 - now()
            if left <= 0:
                break
            sent = now()
            try:
                with anyio.fail_after(left):
                    await self._lock.reacquire()
            except self._errors.LockError:
                break
            except (self._errors.RedisError, OSError, TimeoutError):
                await anyio.sleep(min(RETRY_AFTER, self._ttl / 12))
            else:
                self._sent = sent
        self._is_lost = True

    async def release(self) -> None:
        """Release the lock, unless it is known to be lost.

        Raises:
            LockLost: If another process may have held the lock meanwhile.
            redis.exceptions.RedisError: If the server cannot be reached, within the lease.
        """
        if self._is_lost:
            return
        try:
            with anyio.fail_after(self._ttl / 3):
                await self._lock.release()
        except self._errors.LockError as error:
            raise LockLost("the server does not know of it, or has given it to another process") from error
        except (self._errors.RedisError, OSError) as error:
            if now() < self._sent + self._ttl:
                raise
            raise LockLost("its lease has run out") from error
