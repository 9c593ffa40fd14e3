"""Lilya, and Ravyn, which is built on it: both answer the lifespan for themselves alone."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs

lilya, routing = needs("lilya", "lilya.apps"), needs("lilya", "lilya.routing")
middleware, compression = needs("lilya", "lilya.middleware"), needs("lilya", "lilya.middleware.compression")
ravyn = needs("ravyn", "ravyn")

FAMILIES = [
    pytest.param(lilya.Lilya, lilya.ChildLilya, routing.Include, routing.Host, id="lilya"),
    pytest.param(ravyn.Ravyn, ravyn.ChildRavyn, ravyn.Include, ravyn.Host, id="ravyn"),
]

pytestmark = [ASYNCIO, pytest.mark.parametrize(("create", "child", "include", "at_host"), FAMILIES)]


async def test_included_apps_are_started(witness: Witness, create: Any, child: Any, include: Any, at_host: Any) -> None:
    """A child, what is in it, and what is at a host; the child once, though it is there twice."""
    inner = child(lifespan=witness.lifespan("child"), routes=[include("/raw", app=witness.raw("raw"))])
    routes = [include("/child", app=inner), at_host("sub.test", app=witness.raw("sub")), include("/again", app=inner)]
    app = create(lifespan=witness.lifespan("app"), routes=routes)
    seen = {"/child/raw/": "raw", "/again/raw/": "raw"}
    await witness.sees(app, "app", "child", "raw", "sub", state=seen)


async def test_an_app_at_a_host_is_started(
    witness: Witness, create: Any, child: Any, include: Any, at_host: Any
) -> None:
    """The requests to the host see its state."""
    app = create(routes=[at_host("sub.test", app=witness.raw("sub"))])
    await witness.sees(app, "sub", state={"/": "sub"}, host="sub.test")


async def test_middleware_of_a_route_is_looked_through(
    witness: Witness, create: Any, child: Any, include: Any, at_host: Any
) -> None:
    """What it wraps is started through it, and what is in there, too."""
    inner = child(lifespan=witness.lifespan("child"), routes=[include("/raw", app=witness.raw("raw"))])
    wrapped = include("/child", app=inner, middleware=[middleware.DefineMiddleware(compression.GZipMiddleware)])
    await witness.sees(create(routes=[wrapped]), "child", "raw", state={"/child/raw/": "raw"})


async def test_routers_are_started(witness: Witness, create: Any, child: Any, include: Any, at_host: Any) -> None:
    """One with a lifespan of its own, what is in it, and the app that it falls back to."""
    routes = [include("/raw", app=witness.raw("raw"))]
    router = routing.Router(routes=routes, default=witness.raw("default"), lifespan=witness.lifespan("router"))
    app = create(lifespan=witness.lifespan("app"), routes=[include("/router", app=router)])
    await witness.sees(app, "app", "router", "raw", "default", state={"/router/raw/": "raw"})


async def test_apps_in_groups_are_started(
    witness: Witness, create: Any, child: Any, include: Any, at_host: Any
) -> None:
    """The router of a group falls back to a function that is no app, and that raises."""
    group = include("/group", routes=[include("/raw", app=witness.raw("raw"))])
    await witness.sees(create(routes=[group]), "raw", state={"/group/raw/": "raw"})


async def test_beside_starlette(witness: Witness, create: Any, child: Any, include: Any, at_host: Any) -> None:
    """A Starlette may be included, and the whole may be mounted in one."""
    inner = create(lifespan=witness.lifespan("inner"), routes=[include("/sub", app=witness.starlette("sub"))])
    app = Starlette(lifespan=witness.lifespan("app"), routes=[Mount("/inner", inner)])
    await witness.sees(app, "app", "inner", "sub", state={"/inner/sub/state": "sub"})


async def test_a_child_that_its_parent_runs_is_not_started_again(
    witness: Witness, create: Any, child: Any, include: Any, at_host: Any
) -> None:
    """The lifespan of the parent enters that of the child by hand."""
    inner = child(lifespan=witness.lifespan("child"))

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    app = create(lifespan=lifespan, routes=[include("/child", app=inner)])
    await witness.sees(app, "child")
