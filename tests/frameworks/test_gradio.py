"""Gradio: `mount_gradio_app()` puts the lifespan of its app around the parent's, which starts it therefore."""

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import Create, around, as_the_lifespan, in_the_stack

gradio = needs("gradio", "gradio")
routes = needs("gradio", "gradio.routes")

pytestmark = ASYNCIO


def demo() -> Any:
    """The least that Gradio shows."""
    with gradio.Blocks(analytics_enabled=False) as blocks:
        gradio.Markdown("hello")
    return blocks


def mount(app: FastAPI, witness: Witness, name: str = "gradio") -> Any:
    """Mount a demo, and give its own app, which records its lifespan."""
    gradio.mount_gradio_app(app, demo(), f"/{name}", app_kwargs={"lifespan": witness.lifespan(name)})
    return app.router.routes[-1].app  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("usage", "order"),
    [
        (around, ["app", "gradio", "before", "after"]),
        (in_the_stack, ["app", "gradio", "before", "after"]),
        (as_the_lifespan, ["app", "before", "after", "gradio"]),  # mounts are part of the app's own lifespan
    ],
)
async def test_its_parent_starts_it_and_the_apps_beside_are_started(
    witness: Witness, usage: Create, order: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each once, whichever way the package is used, and without a word of doubt."""
    app, served = usage(witness.lifespan("app"))
    app.mount("/before", witness.raw("before"))
    mount(app, witness)
    app.mount("/after", witness.starlette("after"))
    await witness.sees_served(served, *order, state={"/before/": "before", "/after/state": "after"})
    assert "is not started" not in caplog.text


async def test_an_app_mounted_in_it_is_started(witness: Witness) -> None:
    """Gradio's app is a FastAPI, which skips what is mounted in it."""
    app = FastAPI()
    mount(app, witness).mount("/deep", witness.raw("deep"))
    await witness.sees(app, "gradio", "deep")


async def test_several_demos_are_started_once_each(witness: Witness) -> None:
    """Each wraps the lifespan once more, and a router that is included later wraps them all."""
    app = FastAPI(lifespan=witness.lifespan("app"))
    mount(app, witness, "one")
    mount(app, witness, "two")
    app.include_router(APIRouter(lifespan=witness.lifespan("router")))
    await witness.sees(app, "app", "one", "two", "router")


async def test_a_parent_that_is_mounted_starts_it(witness: Witness) -> None:
    """A level deeper it is as on top."""
    app = FastAPI(lifespan=witness.lifespan("app"))
    mount(app, witness)
    await witness.sees(Starlette(routes=[Mount("/app", app)]), "app", "gradio")


@pytest.mark.parametrize("named", [False, True], ids=["wrapped", "named"])
async def test_its_app_on_its_own_is_started(witness: Witness, named: bool) -> None:
    """As the wrapped app, and where the user names it because `mount_gradio_app()` did not mount it."""
    app = routes.App.create_app(demo(), app_kwargs={"lifespan": witness.lifespan("gradio")})
    if named:
        await witness.sees(Starlette(routes=[Mount("/gradio", app)]), "gradio", mounts=[app])
    else:
        await witness.sees(app, "gradio")
