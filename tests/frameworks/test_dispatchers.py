"""The dispatchers of hypercorn and anycorn, which hang or fall when one of their apps takes no lifespan."""

from typing import Any

import pytest
import sniffio
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks.nested import Witness
from tests.frameworks.versions import needs


def hypercorn(mounts: dict[str, Any]) -> Any:
    """The dispatcher for the event loop that runs."""
    dispatcher = needs("hypercorn", "hypercorn.middleware.dispatcher")
    on_trio = sniffio.current_async_library() == "trio"
    return (dispatcher.TrioDispatcherMiddleware if on_trio else dispatcher.AsyncioDispatcherMiddleware)(mounts)


def anycorn(mounts: dict[str, Any]) -> Any:
    """The dispatcher, which is one for all event loops."""
    return needs("anycorn", "anycorn.middleware").DispatcherMiddleware(mounts)


pytestmark = pytest.mark.parametrize("dispatcher", [hypercorn, anycorn])


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    """An app without lifespan."""
    raise ValueError(scope["type"])


async def test_its_apps_are_started_by_us(witness: Witness, dispatcher: Any) -> None:
    """One that has no lifespan is no obstacle, and one under two prefixes is started once."""
    sub = witness.raw("sub")
    app = dispatcher({"/a": witness.raw("a"), "/none": refuses, "/sub": sub, "/again": sub})
    await witness.sees(app, "a", "sub", state={"/a/": "a", "/sub/": "sub", "/again/": "sub"})


async def test_it_may_be_mounted(witness: Witness, dispatcher: Any) -> None:
    """Its apps are named by their prefixes."""
    app = Starlette(lifespan=witness.lifespan("parent"), routes=[Mount("/x", dispatcher({"/x/a": witness.raw("a")}))])
    await witness.sees(app, "parent", "a", state={"/x/a/": "a"})


async def test_it_may_be_empty(witness: Witness, dispatcher: Any) -> None:
    """An empty one would hang for ever."""
    await witness.sees(dispatcher({}))
