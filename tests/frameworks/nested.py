"""Nested apps that record their lifespan, and who looks at them."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from asgi_lifespan_mw import LifespanMiddleware
from asgi_lifespan_mw._types import ASGIApp
from tests.usages import LifespanFunction, Records, lifespan_of, recorded, serving, started_and_stopped, state_seen

ASYNCIO = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {}), id="asyncio")], indirect=True)
"""For frameworks that run on asyncio alone."""


class Witness:
    """Makes apps that record their lifespan in one log, and sees them through a life.

    Attributes:
        log: Who started and stopped.
    """

    def __init__(self) -> None:
        self.log: list[str] = []

    def raw(self, name: str) -> Any:
        """A bare ASGI app, whose state is its name; it answers requests with the keys of the state that they see."""
        return Records(self.log, name)

    def starlette(self, name: str, *routes: BaseRoute) -> Starlette:
        """The same as a Starlette, at ``/state``."""
        return recorded(self.log, name, *routes)

    def lifespan(self, name: str) -> LifespanFunction:
        """A lifespan for the framework's own app."""
        return lifespan_of(self.log, name)

    async def sees(
        self, app: ASGIApp, *names: str, state: dict[str, str] | None = None, host: str = "test", **options: Any
    ) -> None:
        """See an app through a life: these start in this order, once, and stop in reverse.

        Args:
            app: The app, which is wrapped here.
            names: Who is to start.
            state: For paths, whose state a request there sees, among others.
            host: The host that is asked.
            options: What else the middleware is given.
        """
        await self.sees_served(LifespanMiddleware(app, **options), *names, state=state, host=host)

    async def sees_served(
        self, served: ASGIApp, *names: str, state: dict[str, str] | None = None, host: str = "test"
    ) -> None:
        """The same for an app that uses the package already."""
        async with serving(served) as server:
            for path, name in (state or {}).items():
                assert name in await state_seen(served, server, path, headers=[(b"host", host.encode())])
        assert self.log == started_and_stopped(*names)
