"""FastAPI with the middleware of fastapi-events, in either order; events come from a hook and from a request.

Serve it with ``uvicorn tests.apps.events:events_outside``, or with ``events_inside`` or ``events_around``.

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

from asgi_lifespan_mw import LifespanMiddleware

EVENTS: Final = 1
"""The id of the middleware of fastapi-events."""


class Prints(BaseEventHandler):
    """Prints each event, and tells who waits for it."""

    async def handle(self, event: Any) -> None:
        """An event is its name and what came with it."""
        name, handled = event
        print(f"handled {name}")
        if handled is not None:
            handled.set()


async def send(name: str) -> None:
    """Send an event from a hook, and wait until it is handled."""
    handled = anyio.Event()
    dispatch(name, payload=handled, middleware_id=EVENTS)
    await handled.wait()


async def cache() -> AsyncIterator[None]:
    """Sends an event when it has started, and one before it stops."""
    print("started cache")
    await send("cache filled")
    yield
    await send("cache emptied")
    print("stopped cache")


async def order() -> str:
    """An event of a request needs no id."""
    dispatch("ordered")
    return "thanks"


def create_api() -> FastAPI:
    """An app of one page."""
    api = FastAPI()
    api.add_api_route("/order", order)
    return api


# What is added last is outside.
events_outside = create_api()
events_outside.add_middleware(LifespanMiddleware, lifespan=cache)
events_outside.add_middleware(EventHandlerASGIMiddleware, handlers=[Prints()], middleware_id=EVENTS)

events_inside = create_api()
events_inside.add_middleware(EventHandlerASGIMiddleware, handlers=[Prints()], middleware_id=EVENTS)
events_inside.add_middleware(LifespanMiddleware, lifespan=cache)

# Around the app, both have to be: FastAPI makes what was added to it when it starts, which is after the hooks have.
events_around = LifespanMiddleware(
    EventHandlerASGIMiddleware(create_api(), handlers=[Prints()], middleware_id=EVENTS), lifespan=cache
)
