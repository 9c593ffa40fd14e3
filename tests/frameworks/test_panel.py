"""Panel and bokeh-fastapi: what they serve is no mount, and they put its lifespan around the parent's."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.server import request
from tests.usages import (
    Create,
    around,
    as_the_lifespan,
    in_the_stack,
    serving,
    started_and_stopped,
    state_seen,
)

panel, panes = needs("panel", "panel.io.fastapi"), needs("panel", "panel.pane")
applications = needs("panel", "panel.io.application")
handlers, lifecycle = (
    needs("bokeh-fastapi", f"bokeh.application.handlers.{name}") for name in ("function", "lifecycle")
)
bokeh_fastapi = needs("bokeh-fastapi", "bokeh_fastapi")

pytestmark = ASYNCIO


def page(document: Any) -> None:
    """The least that Panel shows."""
    panes.Markdown("hello").server_doc(document)


def add_panel(app: FastAPI, witness: Witness) -> None:
    """Add an application of Panel's that records when the server starts and stops."""
    handler = lifecycle.LifecycleHandler()
    handler._on_server_loaded = lambda _: witness.log.append("start panel")
    handler._on_server_unloaded = lambda _: witness.log.append("stop panel")
    panel.add_applications({"/panel": applications.Application(handlers.FunctionHandler(page), handler)}, app=app)


@pytest.mark.parametrize("usage", [around, in_the_stack])
async def test_its_parent_starts_it_and_the_apps_beside_are_started(witness: Witness, usage: Create) -> None:
    """Each once, Panel first."""
    app, served = usage(witness.lifespan("app"))
    add_panel(app, witness)
    app.mount("/beside", witness.starlette("beside"))
    await witness.sees_served(served, "panel", "app", "beside", state={"/beside/state": "beside"})


async def test_it_drops_the_state_that_its_parents_own_lifespan_yields(witness: Witness) -> None:
    """So a `Lifespan(mounts="auto")` starts the apps beside, but can't give them their state; the middleware can."""
    app, served = as_the_lifespan(witness.lifespan("app"))
    add_panel(app, witness)
    app.mount("/beside", witness.starlette("beside"))
    async with serving(served) as server:
        assert await state_seen(served, server, "/beside/state") == []
    assert witness.log == started_and_stopped("panel", "app", "beside")


async def test_a_parent_that_is_mounted_starts_it(witness: Witness) -> None:
    """Its parent is sent its lifespan as any mount, and Panel answers."""
    app = FastAPI(lifespan=witness.lifespan("app"))
    add_panel(app, witness)
    served = LifespanMiddleware(Starlette(routes=[Mount("/app", app)]))
    async with serving(served) as server:
        start, *_ = await request(served, "/app/panel", state=server.state.copy(), headers=[(b"host", b"test")])
    assert start["status"] == 200
    assert witness.log == started_and_stopped("panel", "app")


async def test_the_parent_of_bokeh_fastapi_runs_its_task(witness: Witness) -> None:
    """Its task is there once while the app runs, and the apps beside are started."""
    app = FastAPI(lifespan=witness.lifespan("app"))
    bokeh_fastapi.BokehFastAPI({"/bokeh": page}, app=app)
    app.mount("/beside", witness.raw("beside"))
    async with serving(LifespanMiddleware(app)):
        assert sum("_cleanup_loop" in repr(task) for task in asyncio.all_tasks()) == 1
    assert witness.log == started_and_stopped("app", "beside")
