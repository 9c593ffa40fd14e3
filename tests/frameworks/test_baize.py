"""baize, whose routers turn the lifespan away."""

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks.nested import Witness
from tests.frameworks.versions import needs

baize = needs("baize", "baize.asgi")


@baize.request_response  # type: ignore[untyped-decorator, unused-ignore]
async def view(request: Any) -> Any:
    """A function, which is an endpoint and no app."""
    raise AssertionError


async def test_apps_behind_routers_are_started(witness: Witness) -> None:
    """Of paths, of hosts, of routes, in their order; the endpoints are asked for nothing."""
    routes = baize.Router(("/view", view), ("/x", witness.raw("x")))
    hosts = baize.Hosts((r"sub\\.test", witness.raw("host")), (r".*", view))
    app = baize.Subpaths(("/a", witness.raw("a")), ("/view", view), ("/routes", routes), ("", hosts))
    await witness.sees(app, "a", "x", "host", state={"/a/": "a", "/routes/x": "x"})


async def test_it_may_be_mounted(witness: Witness) -> None:
    """What is behind it is found there too, once."""
    paths = baize.Subpaths(("/a", witness.starlette("a")))
    app = Starlette(lifespan=witness.lifespan("app"), routes=[Mount("/again", paths), Mount("", paths)])
    await witness.sees(app, "app", "a", state={"/a/state": "a"})
