"""Starlette, and what is built on it: FastAPI, FastHTML, marimo, admin sites."""

import functools
import inspect
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Host, Mount, Route, Router

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import serving, show_state, started_and_stopped


async def test_mounts_hosts_groups_and_routers_of_starlette(witness: Witness) -> None:
    """In the order of the routes; a router of its own lifespan is started as an app is."""
    router = Router([Route("/state", show_state)], lifespan=witness.lifespan("router"))
    routes = [
        Mount("/group", routes=[Mount("/mount", witness.raw("mount"))]),
        Mount("/router", router),
        Host("sub.test", witness.starlette("host")),
    ]
    app = Starlette(lifespan=witness.lifespan("app"), routes=routes)
    state = {"/group/mount/": "mount", "/router/state": "router"}
    await witness.sees(app, "app", "mount", "router", "host", state=state)


async def test_sub_apps_and_included_routers_of_fastapi(witness: Witness) -> None:
    """FastAPI merges the lifespan of an included router, and skips what is mounted on it."""
    app = FastAPI(lifespan=witness.lifespan("app"))
    router = APIRouter(lifespan=witness.lifespan("router"))
    router.mount("/on-router", witness.raw("on router"))
    app.include_router(router, prefix="/included")
    sub = FastAPI(lifespan=witness.lifespan("sub"))
    sub.mount("/deep", witness.raw("deep"))
    app.mount("/sub", sub)
    state = {"/included/on-router/": "on router", "/sub/deep/": "deep"}
    await witness.sees(app, "app", "router", "on router", "sub", "deep", state=state)


def fasthtml_app(**options: Any) -> Any:
    """A FastHTML."""
    return needs("python-fasthtml", "fasthtml.core").FastHTML(secret_key="for tests", **options)


async def test_fasthtml_in_fasthtml(witness: Witness) -> None:
    """One with a lifespan, one with functions at its start and end; lifespans are generator functions there."""
    own, inner = (inspect.unwrap(witness.lifespan(name)) for name in ("app", "sub"))
    start, stop = (functools.partial(witness.log.append, f"{word} functions") for word in ("start", "stop"))
    app, sub = fasthtml_app(lifespan=own), fasthtml_app(lifespan=inner)
    sub.mount("/deep", witness.starlette("deep"))
    app.mount("/functions", fasthtml_app(on_startup=start, on_shutdown=stop))
    app.mount("/sub", sub)
    await witness.sees(app, "app", "functions", "sub", "deep", state={"/sub/deep/state": "deep"})


async def test_an_app_that_a_fasthtml_enters_by_hand_is_not_started_again(
    witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """FastHTML keeps its lifespan in an object of its own."""
    sub = witness.starlette("sub")

    async def lifespan(app: object) -> AsyncIterator[Any]:
        async with sub.router.lifespan_context(sub) as state:
            yield state

    app = fasthtml_app(lifespan=lifespan)
    app.mount("/sub", sub)
    await witness.sees(app, "sub", state={"/sub/state": "sub"})
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


NOTEBOOK = """
import marimo

app = marimo.App()


@app.cell
def _():
    return
"""


@ASYNCIO
@pytest.mark.parametrize("mounted", [False, True])
async def test_a_notebook_of_marimo_is_sent_nothing_and_works(witness: Witness, tmp_path: Path, mounted: bool) -> None:
    """Its lifespan asks for what only marimo's own server sets; the apps beside it are started."""
    marimo = needs("marimo", "marimo")
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    notebooks: Any = marimo.create_asgi_app(quiet=True)
    app = notebooks.with_app(path="/notebook", root=str(tmp_path / "notebook.py")).build()
    if mounted:
        app = Starlette(routes=[Mount("/beside", witness.raw("beside")), Mount("", app)])
    else:
        app.mount("/beside", witness.raw("beside"))
    served = LifespanMiddleware(app)
    async with serving(served):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://test") as client:
            response = await client.get("/notebook/")
    assert response.status_code == 200
    assert witness.log == started_and_stopped("beside")


async def test_an_admin_of_piccolo_is_started_and_what_is_mounted_in_it(witness: Witness) -> None:
    """It is a FastAPI, with apps and static files mounted in it."""
    piccolo = needs("piccolo-admin", "piccolo_admin.endpoints")
    admin = piccolo.create_admin([])
    admin.router.lifespan_context = witness.lifespan("admin")
    admin.mount("/deep", witness.raw("deep"))
    app = Starlette(lifespan=witness.lifespan("app"), routes=[Mount("/admin", admin)])
    await witness.sees(app, "app", "admin", "deep", state={"/admin/deep/": "deep"})


async def test_an_admin_of_sqladmin_is_started_and_the_app_that_it_keeps_once(witness: Witness) -> None:
    """The admin holds the app that it is mounted in, which is a cycle."""
    sqladmin, sqlalchemy = needs("sqladmin", "sqladmin"), needs("sqladmin", "sqlalchemy")
    app = witness.starlette("app")
    admin = sqladmin.Admin(app, sqlalchemy.create_engine("sqlite://"))
    admin.admin.router.lifespan_context = witness.lifespan("admin")
    app.mount("/beside", witness.raw("beside"))
    await witness.sees(app, "app", "admin", "beside", state={"/beside/": "beside"})


async def test_an_admin_of_starlette_admin_is_no_obstacle(witness: Witness) -> None:
    """One of its middleware falls at the lifespan, so that it has none; the apps beside and in it are started."""
    starlette_admin = needs("starlette-admin", "starlette_admin.base")
    app = witness.starlette("app")
    admin = starlette_admin.BaseAdmin(secret_key="for tests")
    admin.mount_to(app)
    admin.app.mount("/deep", witness.raw("deep"))
    app.mount("/beside", witness.raw("beside"))
    await witness.sees(app, "app", "deep", "beside", state={"/beside/": "beside"})
