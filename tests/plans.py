"""Parts that lifespans are put together from: apps and hooks that record, hang or fail, with names that say which."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio

from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send


class Boom(Exception):
    """What the parts raise."""


class Journal:
    """What happened, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def context(self, name: str, **state: Any) -> Callable[[], AbstractAsyncContextManager[Any]]:
        """A hook that records its start and its stop, with a task group open in between."""

        @asynccontextmanager
        async def recorded() -> AsyncIterator[dict[str, Any]]:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                self.events.append(f"+{name}")
                try:
                    yield state
                finally:
                    seen = sys.exc_info()[1]
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                    self.events.append(f"-{name} which saw {seen!r}" if seen else f"-{name}")
                    tasks.cancel_scope.cancel()

        recorded.__wrapped__.__name__ = name  # type: ignore[attr-defined]
        return recorded

    def app(self, name: str = "app") -> ASGIApp:
        """An app that records its start and its stop."""

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "lifespan"
            await receive()
            self.events.append(f"+{name}")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.events.append(f"-{name}")
            await send({"type": "lifespan.shutdown.complete"})

        return recorded

    def server_send(self, message: dict[str, Any]) -> None:
        """Record an answer to the server."""
        self.events.append(message["type"].removeprefix("lifespan."))


@asynccontextmanager
async def fails_to_start() -> AsyncIterator[None]:
    """Raises at startup."""
    raise Boom("no start")
    yield  # pragma: no cover - it makes a generator of it


@asynccontextmanager
async def fails_to_stop() -> AsyncIterator[None]:
    """Raises at shutdown."""
    yield
    raise Boom("no stop")


@asynccontextmanager
async def hangs_at_start() -> AsyncIterator[None]:
    """Never starts."""
    await anyio.sleep_forever()
    yield  # pragma: no cover - it makes a generator of it


@asynccontextmanager
async def hangs_at_stop() -> AsyncIterator[None]:
    """Never stops."""
    yield
    await anyio.sleep_forever()


@asynccontextmanager
async def ignores_its_cancellation_at_stop() -> AsyncIterator[None]:
    """Never stops, and takes a shield for it."""
    yield
    with anyio.CancelScope(shield=True):
        await anyio.sleep(100)


class CrashesOnDemand:
    """A context that breaks while serving: a task in its task group raises when `demand` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.demand = anyio.Event()
        self._error = error or Boom("worker broke")

    async def _worker(self) -> None:
        await self.demand.wait()
        raise self._error

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._worker)
            yield
