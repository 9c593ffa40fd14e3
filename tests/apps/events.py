"""FastAPI with the middleware of fastapi-events, around ours or within it; events come from a hook and from a request.

Serve it with ``uvicorn tests.apps.events:events_outside`` or ``uvicorn tests.apps.events:events_inside``.

A hook runs outside of any request, so its `dispatch` has to name the middleware by its id. The event is then handled in
a task of its own, which the hook waits for here. That of a request is handled after the answer.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
from fastapi import FastAPI
from fastapi_events.dispatcher import dispatch
from fastapi_events.handlers.base import BaseEventHandler
from fastapi_events.middleware import EventHandlerASGIMiddleware

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from tests.apps.shop.announcements import announce

EVENTS: Final = 1
"""The id of the middleware of fastapi-events."""


class Announces(BaseEventHandler):
    """Announces each event, and tells who waits for it."""

    async def handle(self, event: Any) -> None:
        """An event is its name and what came with it."""
        name, handled = event
        announce(f"handled {name}")
        if handled is not None:
            handled.set()


async def cache() -> AsyncIterator[None]:
    """Sends an event when it has started, and one before it stops."""
    announce("started cache")
    await _send("cache filled")
    yield
    await _send("cache emptied")
    announce("stopped cache")


async def _send(name: str) -> None:
    handled = anyio.Event()
    dispatch(name, payload=handled, middleware_id=EVENTS)
    await handled.wait()


async def order() -> str:
    """An event of a request needs no id."""
    dispatch("ordered")
    return "thanks"


def create_api() -> FastAPI:
    """A new app of one page."""
    api = FastAPI()
    api.add_api_route("/order", order)
    return api


def create_hooks() -> Lifespan:
    """New hooks."""
    hooks = Lifespan()
    hooks.context(cache)
    return hooks


events_outside = EventHandlerASGIMiddleware(
    LifespanMiddleware(create_api(), lifespan=create_hooks()),
    handlers=[Announces()],
    middleware_id=EVENTS,
)
events_inside = LifespanMiddleware(
    EventHandlerASGIMiddleware(create_api(), handlers=[Announces()], middleware_id=EVENTS),
    lifespan=create_hooks(),
)
