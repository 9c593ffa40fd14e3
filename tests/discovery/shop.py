"""A user's module: the mounted apps are globals, which a shape sets before it runs."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

sub: Any = None
plain: Any = None
apps: list[Any] = []


@asynccontextmanager
async def by_name(_: object) -> AsyncIterator[Any]:
    """Enter the lifespan of the global."""
    async with sub.router.lifespan_context(sub) as state:
        yield state


@asynccontextmanager
async def in_a_list(app: object) -> AsyncIterator[Any]:
    """Enter the lifespan of the first app in the list, with the parent as its argument."""
    async with apps[0].router.lifespan_context(app) as state:
        yield state


def _helper() -> AbstractAsyncContextManager[Any]:
    context: AbstractAsyncContextManager[Any] = sub.router.lifespan_context(sub)
    return context


@asynccontextmanager
async def by_helper(_: object) -> AsyncIterator[Any]:
    """Enter what a helper function returns."""
    async with _helper() as state:
        yield state


@asynccontextmanager
async def by_lifespan_function(app: object) -> AsyncIterator[Any]:
    """Call the lifespan function of the app, which is a global."""
    async with plain(app) as state:
        yield state


@asynccontextmanager
async def only_mounts(app: Any) -> AsyncIterator[None]:
    """Mount the global and leave its start to others."""
    app.mount("/sub", sub)
    yield


@asynccontextmanager
async def starts_another(app: Any) -> AsyncIterator[None]:
    """Mount the global, and start another app."""
    app.mount("/sub", sub)
    async with apps[0].router.lifespan_context(app):
        yield


@asynccontextmanager
async def start_all(*those: Any) -> AsyncIterator[None]:
    """Start apps: a helper that other modules import."""
    async with AsyncExitStack() as stack:
        for app in those:
            await stack.enter_async_context(app.router.lifespan_context(app))
        yield
