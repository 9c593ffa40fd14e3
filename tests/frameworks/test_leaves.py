"""Falcon and Sanic, which cannot mount, and can be mounted."""

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.server import request
from tests.usages import serving, started_and_stopped

pytestmark = ASYNCIO


async def test_falcon_is_started(witness: Witness) -> None:
    """Its middleware for the lifespan runs once, and a request sees its state."""
    falcon = needs("falcon", "falcon.asgi")

    class Lifespan:
        async def process_startup(self, scope: Any, event: Any) -> None:
            scope["state"]["falcon"] = "falcon"
            witness.log.append("start falcon")

        async def process_shutdown(self, scope: Any, event: Any) -> None:
            witness.log.append("stop falcon")

    class State:
        async def on_get(self, request: Any, response: Any) -> None:
            response.media = list(request.scope["state"])

    app = falcon.App(middleware=[Lifespan()])
    app.add_route("/falcon/state", State())
    parent = Starlette(lifespan=witness.lifespan("parent"), routes=[Mount("/falcon", app), Mount("/again", app)])
    await witness.sees(parent, "parent", "falcon", state={"/falcon/state": "falcon"})


async def test_sanic_is_started_and_answers(witness: Witness) -> None:
    """Mounted and not started, it refuses every request."""
    sanic, response = needs("sanic", "sanic"), needs("sanic", "sanic.response")
    sanic.Sanic.test_mode = True
    app = sanic.Sanic("mounted", configure_logging=False)

    @app.before_server_start  # type: ignore[untyped-decorator, unused-ignore]
    async def start(_: Any) -> None:
        witness.log.append("start sanic")

    @app.after_server_stop  # type: ignore[untyped-decorator, unused-ignore]
    async def stop(_: Any) -> None:
        witness.log.append("stop sanic")

    @app.get("/sanic/hello")  # type: ignore[untyped-decorator, unused-ignore]
    async def hello(_: Any) -> Any:
        return response.text("hello")

    served = LifespanMiddleware(Starlette(routes=[Mount("/raw", witness.raw("raw")), Mount("/sanic", app)]))
    async with serving(served) as server:
        answer, *_ = await request(served, "/sanic/hello", state=server.state.copy())
    assert answer["status"] == 200
    assert witness.log == started_and_stopped("raw", "sanic")
