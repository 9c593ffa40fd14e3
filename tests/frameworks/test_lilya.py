"""Lilya, and Ravyn, which is built on it: both answer the lifespan for themselves alone."""

from typing import Any

import pytest

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs

apps, routing = needs("lilya", "lilya.apps"), needs("lilya", "lilya.routing")
define, gzip = needs("lilya", "lilya.middleware"), needs("lilya", "lilya.middleware.compression")
ravyn = needs("ravyn", "ravyn")

Include = routing.Include

pytestmark = [
    ASYNCIO,
    pytest.mark.parametrize(
        ("create", "child"), [(apps.Lilya, apps.ChildLilya), (ravyn.Ravyn, ravyn.ChildRavyn)], ids=["lilya", "ravyn"]
    ),
]


async def test_included_apps_are_started(witness: Witness, create: Any, child: Any) -> None:
    """A child and what is in it, then a bare app, each once."""
    inner = child(lifespan=witness.lifespan("child"), routes=[Include("/raw", app=witness.raw("raw"))])
    routes = [Include("/child", app=inner), Include("/b", app=witness.raw("b")), Include("/again", app=inner)]
    app = create(lifespan=witness.lifespan("app"), routes=routes)
    await witness.sees(app, "app", "child", "raw", "b", state={"/child/raw/": "raw", "/again/raw/": "raw", "/b/": "b"})
