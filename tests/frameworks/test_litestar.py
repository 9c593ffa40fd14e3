"""Litestar, which answers the lifespan for itself alone."""

import copy
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import Records

litestar = needs("litestar", "litestar")

pytestmark = ASYNCIO


def mount(path: str, app: Any) -> Any:
    """A route to a mounted app."""
    return litestar.asgi(path, is_mount=True, copy_scope=True)(app)


@litestar.asgi("/endpoint", copy_scope=True)  # type: ignore[untyped-decorator]
async def endpoint(scope: Any, receive: Any, send: Any) -> None:
    """A function that is no app: it would answer a lifespan with a response."""
    raise AssertionError


async def test_mounts_are_started(witness: Witness) -> None:
    """A bare app and a Starlette, and an app that its route does not call a mount, in the order of the routes."""
    routes = [mount("/a", witness.raw("a")), mount("/b", witness.starlette("b", Mount("/deep", witness.raw("deep"))))]
    app = litestar.Litestar(
        [*routes, litestar.asgi("/c", copy_scope=True)(witness.raw("c"))], lifespan=[witness.lifespan("app")]
    )
    await witness.sees(app, "app", "a", "b", "deep", "c", state={"/a/": "a", "/b/deep/": "deep", "/c": "c"})


async def test_a_litestar_in_a_litestar_is_started(witness: Witness) -> None:
    """So are the mounts in it, and the requests to each see the state of the mount."""
    inner = litestar.Litestar([mount("/deep", witness.raw("deep"))], lifespan=[witness.lifespan("inner")])
    app = litestar.Litestar([mount("/inner", inner)], lifespan=[witness.lifespan("app")])
    await witness.sees(app, "app", "inner", "deep", state={"/inner/deep/": "deep"})


async def test_a_litestar_may_be_mounted(witness: Witness) -> None:
    """In a Starlette it is one app like any other."""
    inner = litestar.Litestar([mount("/deep", witness.raw("deep"))], lifespan=[witness.lifespan("inner")])
    app = Starlette(lifespan=witness.lifespan("app"), routes=[Mount("/inner", inner), Mount("/again", inner)])
    await witness.sees(app, "app", "inner", "deep", state={"/inner/deep/": "deep", "/again/deep/": "deep"})


async def test_endpoints_are_never_asked(witness: Witness) -> None:
    """A function is an endpoint, unless it is mounted."""
    raw = witness.raw("mounted")

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await raw(scope, receive, send)

    await witness.sees(litestar.Litestar([endpoint, mount("/f", mounted)]), "mounted", state={"/f/": "mounted"})


class Copied(Records):
    """A bare app that is told from its copies."""

    def __deepcopy__(self, memo: object) -> "Copied":
        return Copied(self.log, f"{self.name}-copy")


async def test_the_copy_that_a_router_makes_is_started(witness: Witness) -> None:
    """A Litestar router keeps a deep copy of what is mounted in it, and it is the copy that gets the requests."""
    router = litestar.Router("/r", route_handlers=[mount("/a", Copied(witness.log, "a"))])
    assert copy.deepcopy(Copied([], "a")).name == "a-copy"
    await witness.sees(litestar.Litestar([router]), "a-copy", state={"/r/a/": "a-copy"})
