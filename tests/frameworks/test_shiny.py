"""Shiny: an app hands all to a Starlette of its own."""

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.server import request
from tests.usages import lived, serving

shiny = needs("shiny", "shiny")

pytestmark = ASYNCIO


def app_that_records(witness: Witness) -> Any:
    """Shiny has a hook for the end alone."""
    app = shiny.App(shiny.ui.page_fluid("hello"), None)
    app.on_shutdown(lambda: witness.log.append("stop shiny"))
    return app


async def test_a_mounted_app_is_run_once(witness: Witness) -> None:
    """Its end is recorded between those of the apps around it and in it."""
    app = app_that_records(witness)
    app.starlette_app.routes.insert(0, Mount("/deep", witness.raw("deep")))
    routes = [
        Mount("/before", witness.raw("before")),
        Mount("/shiny", app),
        Mount("/after", witness.raw("after")),
    ]
    await lived(LifespanMiddleware(Starlette(lifespan=witness.lifespan("parent"), routes=routes)))
    starts = ["start parent", "start before", "start deep", "start after"]
    assert witness.log == [*starts, "stop after", "stop deep", "stop shiny", "stop before", "stop parent"]


async def test_a_wrapped_app_passes_the_lifespan_on(witness: Witness) -> None:
    """Its requests are answered, and hooks go around it."""
    served = LifespanMiddleware(app_that_records(witness), lifespan=witness.lifespan("hook"))
    async with serving(served) as server:
        start, *_ = await request(served, "/", state=server.state.copy())
    assert start["status"] == 200
    assert witness.log == ["start hook", "stop shiny", "stop hook"]
