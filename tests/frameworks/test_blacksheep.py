"""BlackSheep, which starts the BlackSheeps that are mounted in it by itself, and nothing else."""

from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import lived

blacksheep = needs("blacksheep", "blacksheep")

pytestmark = ASYNCIO


def sheep(witness: Witness, name: str) -> Any:
    """A BlackSheep that records its lifespan."""
    app = blacksheep.Application(router=blacksheep.Router())

    async def start(_: Any) -> None:
        witness.log.append(f"start {name}")

    async def stop(_: Any) -> None:
        witness.log.append(f"stop {name}")

    app.on_start(start)
    app.on_stop(stop)
    return app


async def test_apps_of_other_kinds_are_started(witness: Witness) -> None:
    """It skips them; their requests see their state."""
    app = sheep(witness, "app")
    app.mount("/raw", witness.raw("raw"))
    app.mount("/starlette", witness.starlette("starlette", Mount("/deep", witness.raw("deep"))))
    await witness.sees(app, "app", "raw", "starlette", "deep", state={"/raw/": "raw", "/starlette/deep/": "deep"})


async def test_its_own_kind_is_started_by_itself_and_what_is_in_it_by_us(witness: Witness) -> None:
    """Each once; what we started is stopped first, then it stops itself before its children."""
    app, child = sheep(witness, "app"), sheep(witness, "child")
    child.mount("/raw", witness.raw("raw"))
    app.mount("/child", child)
    await lived(LifespanMiddleware(app))
    assert witness.log == ["start app", "start child", "start raw", "stop raw", "stop app", "stop child"]


async def test_a_child_whose_events_it_does_not_pass_on_is_started_by_us(witness: Witness) -> None:
    """That is a setting of its registry of mounts."""
    app, child = sheep(witness, "app"), sheep(witness, "child")
    app.mount_registry.auto_events = False
    app.mount("/child", child)
    await witness.sees(app, "app", "child")


async def test_it_may_be_mounted(witness: Witness) -> None:
    """In a Starlette it is one app like any other."""
    app = sheep(witness, "app")
    app.mount("/raw", witness.raw("raw"))
    parent = Starlette(lifespan=witness.lifespan("parent"), routes=[Mount("/again", app), Mount("", app)])
    await witness.sees(parent, "parent", "app", "raw", state={"/raw/": "raw"})
