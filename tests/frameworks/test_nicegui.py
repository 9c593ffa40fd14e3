"""NiceGUI: `ui.run_with()` mounts its only app and starts it around the parent's lifespan."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.server import request
from tests.usages import USAGES, Create, serving

nicegui = needs("nicegui", "nicegui")
testing = needs("nicegui", "nicegui.testing.general")

pytestmark = ASYNCIO


@pytest.fixture(autouse=True)
def _site(witness: Witness) -> Iterator[None]:
    """NiceGUI's app as it is in a new process, but for hooks that record its lifespan."""
    with testing.nicegui_reset_globals():
        nicegui.app.on_startup(lambda: witness.log.append("start nicegui"))
        nicegui.app.on_shutdown(lambda: witness.log.append("stop nicegui"))
        yield
        nicegui.app.routes[:] = [route for route in nicegui.app.routes if getattr(route, "name", None) != "a test's"]


def run_with(app: FastAPI) -> Any:
    """Mount it as its documentation says."""
    nicegui.ui.run_with(app, mount_path="/gui", show_welcome_message=False)
    return app


@pytest.mark.parametrize("usage", USAGES)
async def test_its_parent_starts_it_and_the_apps_beside_are_started(witness: Witness, usage: Create) -> None:
    """Each once, NiceGUI first, whichever way the package is used."""
    app, served = usage(witness.lifespan("app"))
    app.mount("/before", witness.raw("before"))
    run_with(app)
    app.mount("/after", witness.starlette("after"))
    state = {"/before/": "before", "/after/state": "after"}
    await witness.sees_served(served, "nicegui", "app", "before", "after", state=state)


async def test_its_pages_are_served() -> None:
    """Between the start and the stop."""

    @nicegui.ui.page("/hello")  # type: ignore[untyped-decorator, unused-ignore]
    def hello() -> None:
        nicegui.ui.label("hello")

    app = LifespanMiddleware(run_with(FastAPI()))
    async with serving(app) as server:
        start, *_ = await request(app, "/gui/hello", state=server.state.copy())
    assert start["status"] == 200


async def test_an_app_mounted_in_it_is_started(witness: Witness) -> None:
    """NiceGUI's app is a FastAPI, which skips what is mounted in it."""
    nicegui.app.routes.insert(0, Mount("/deep", witness.raw("deep"), name="a test's"))
    app = run_with(FastAPI(lifespan=witness.lifespan("app")))
    await witness.sees(app, "nicegui", "app", "deep", state={"/gui/deep/": "deep"})


async def test_it_is_started_again_in_a_second_run(witness: Witness) -> None:
    """Its shutdown leaves it as it was."""
    app = run_with(FastAPI())
    await witness.sees(app, "nicegui")
    witness.log.clear()
    await witness.sees(app, "nicegui")
