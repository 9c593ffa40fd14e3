"""Datasette, which answers the lifespan for itself."""

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.server import request
from tests.usages import serving, started_and_stopped

datasette, plugins = needs("datasette", "datasette.app"), needs("datasette", "datasette.plugins")
datasette_hookimpl = needs("datasette", "datasette").hookimpl

pytestmark = [ASYNCIO, pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")]


def collect() -> None:
    """Let the connections go that were never closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


collect()  # the import opens one


@pytest.fixture
def site() -> Iterator[Any]:
    """A site without data. Its connections are never closed, which is told when the collector finds them."""
    yield datasette.Datasette([], memory=True)
    collect()


async def test_it_is_wrapped_and_answers(witness: Witness, site: Any) -> None:
    """Hooks run around its lifespan, without which it would start at its first request."""
    served = LifespanMiddleware(site.app(), lifespan=witness.lifespan("hook"))
    async with serving(served) as server:
        start, *_ = await request(served, "/-/versions.json", state=server.state.copy())
    assert start["status"] == 200
    assert witness.log == started_and_stopped("hook")


async def test_it_is_mounted_and_started(witness: Witness, site: Any) -> None:
    """It says so to the plugins that ask."""

    class Plugin:
        @staticmethod
        @datasette_hookimpl  # type: ignore[untyped-decorator, unused-ignore]
        def startup(datasette: object) -> None:
            if datasette is site:
                witness.log.append("start datasette")

    plugins.pm.register(Plugin, "a test's")
    try:
        app = Starlette(routes=[Mount("/before", witness.raw("before")), Mount("/site", site.app())])
        async with serving(LifespanMiddleware(app)):
            assert witness.log == ["start before", "start datasette"]
    finally:
        plugins.pm.unregister(name="a test's")
