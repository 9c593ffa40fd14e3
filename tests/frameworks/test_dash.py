"""Dash, which hands all to a FastAPI or a Quart of its own."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import serving, started_and_stopped

dash = needs("dash", "dash")

pytestmark = ASYNCIO


def on_fastapi(witness: Witness) -> Any:
    """A dashboard on a FastAPI."""
    return FastAPI(lifespan=witness.lifespan("dash"))


def on_quart(witness: Witness) -> Any:
    """A dashboard on a Quart."""
    server = needs("dash", "quart").Quart(__name__)
    server.before_serving(lambda: witness.log.append("start dash"))
    server.after_serving(lambda: witness.log.append("stop dash"))
    return server


def dashboard(server: Any) -> Any:
    """The least that Dash shows."""
    app = dash.Dash(__name__, server=server)
    app.layout = dash.html.Div("hello")
    return app


@pytest.mark.parametrize("make", [on_fastapi, on_quart])
@pytest.mark.parametrize("inner", [lambda app: app, lambda app: app.server], ids=["Dash", "server"])
async def test_a_mounted_dashboard_is_started_once_and_answers(witness: Witness, make: Any, inner: Any) -> None:
    """Its page is there only after its lifespan has started; what is mounted is the Dash or its server."""
    app = dashboard(make(witness))
    routes = [Mount("/beside", witness.raw("beside")), Mount("/again", app.server), Mount("", inner(app))]
    served = LifespanMiddleware(Starlette(routes=routes))
    async with serving(served):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://test") as client:
            response = await client.get("/")
    assert response.status_code == 200
    assert "Dash" in response.text
    assert witness.log == started_and_stopped("beside", "dash")


async def test_an_app_mounted_in_its_server_is_started(witness: Witness) -> None:
    """The server is a FastAPI, and its requests see what its apps set."""
    server = on_fastapi(witness)
    server.mount("/deep", witness.raw("deep"))
    app = Starlette(routes=[Mount("/dash", dashboard(server))])
    await witness.sees(app, "dash", "deep", state={"/dash/deep/": "deep"})
