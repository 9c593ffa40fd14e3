"""BlackSheep, which starts the BlackSheeps that are mounted in it, and nothing else."""

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import serving, state_seen

blacksheep = needs("blacksheep", "blacksheep")

pytestmark = ASYNCIO


def recorded(witness: Witness, name: str, **mounts: Any) -> Any:
    """A BlackSheep that records its lifespan and tells the state of requests, with apps mounted by their names."""
    app = blacksheep.Application(router=blacksheep.Router())

    @app.router.get("/state")  # type: ignore[untyped-decorator]
    async def state(request: Any) -> Any:
        return blacksheep.json(list(request.scope["state"]))

    @app.on_start  # type: ignore[untyped-decorator]
    async def start(_: object) -> None:
        witness.log.append(f"start {name}")

    @app.on_stop  # type: ignore[untyped-decorator]
    async def stop(_: object) -> None:
        witness.log.append(f"stop {name}")

    for path, mounted in mounts.items():
        app.mount(f"/{path}", mounted)
    return app


async def test_mounted_apps_are_started(witness: Witness) -> None:
    """Those of other frameworks, and what is mounted in them."""
    sub = witness.starlette("sub", Mount("/deep", witness.raw("deep")))
    app = recorded(witness, "app", raw=witness.raw("raw"), sub=sub)
    seen = {"/raw/": "raw", "/sub/deep/": "deep"}
    await witness.sees(app, "app", "raw", "sub", "deep", state=seen)


async def test_a_child_is_started_by_its_parent(witness: Witness) -> None:
    """Not again by us, but the apps mounted in it are; the parent stops before its child, as BlackSheep has it."""
    app = recorded(witness, "app", child=recorded(witness, "child", raw=witness.raw("raw")))
    served = LifespanMiddleware(app)
    async with serving(served) as server:
        assert "raw" in await state_seen(served, server, "/child/state")
    assert witness.log == ["start app", "start child", "start raw", "stop raw", "stop app", "stop child"]


async def test_a_child_without_automatic_events_is_started_by_us(witness: Witness) -> None:
    """A parent that was told not to start it leaves that to others."""
    child = recorded(witness, "child", raw=witness.raw("raw"))
    app = recorded(witness, "app")
    app.mount_registry.auto_events = False
    app.mount("/child", child)
    await witness.sees(app, "app", "child", "raw", state={"/child/state": "raw"})


async def test_a_blacksheep_may_be_mounted(witness: Witness) -> None:
    """In a Starlette it is one app like any other, once, though it is there twice."""
    inner = recorded(witness, "inner", raw=witness.raw("raw"))
    app = Starlette(lifespan=witness.lifespan("app"), routes=[Mount("/a", inner), Mount("/b", inner)])
    await witness.sees(app, "app", "inner", "raw", state={"/a/state": "raw", "/b/state": "raw"})
