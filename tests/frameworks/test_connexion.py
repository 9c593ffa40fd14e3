"""Connexion, whose first call puts its whole stack of middleware in the place of its app."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs

connexion = needs("connexion", "connexion")

pytestmark = ASYNCIO


async def test_an_app_that_it_skips_is_started(witness: Witness) -> None:
    """Given a lifespan it answers by itself, in a first run and in a second."""
    app = connexion.ConnexionMiddleware(witness.starlette("sub"), lifespan=witness.lifespan("connexion"))
    for _ in range(2):
        witness.log.clear()
        await witness.sees(app, "connexion", "sub", state={"/state": "sub"})


async def test_an_app_that_it_passes_the_lifespan_on_to_is_started_once(witness: Witness) -> None:
    """Without one, the app inside gets it; what is mounted there is started too."""
    app = connexion.ConnexionMiddleware(witness.starlette("sub", Mount("/deep", witness.raw("deep"))))
    for _ in range(2):
        witness.log.clear()
        await witness.sees(app, "sub", "deep", state={"/state": "sub", "/deep/": "deep"})


@pytest.mark.parametrize("kind", ["AsyncApp", "FlaskApp"])
async def test_its_apps_may_be_mounted(witness: Witness, kind: str) -> None:
    """Once, though one is mounted twice; the Flask app that a FlaskApp keeps is asked for nothing."""
    app: Any = getattr(connexion, kind)(__name__, lifespan=witness.lifespan("connexion"))
    routes = [Mount("/a", app), Mount("/again", app), Mount("/raw", witness.raw("raw"))]
    parent = Starlette(lifespan=witness.lifespan("parent"), routes=routes)
    await witness.sees(parent, "parent", "connexion", "raw", state={"/raw/": "raw"})
