"""python-socketio and python-engineio: an app beside them gets the lifespan only if they have no callbacks."""

from typing import Any

import pytest
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs
from tests.usages import lived

socketio, engineio = needs("python-socketio", "socketio"), needs("python-engineio", "engineio")

pytestmark = [ASYNCIO, pytest.mark.parametrize("kind", [socketio, engineio], ids=["socketio", "engineio"])]


def around(kind: Any, app: Any, **callbacks: Any) -> Any:
    """The ASGI app of one of the two, around another app."""
    return kind.ASGIApp(kind.AsyncServer(async_mode="asgi"), app, **callbacks)


async def test_the_app_inside_gets_the_lifespan_once(witness: Witness, kind: Any) -> None:
    """Without callbacks it is passed on; what is mounted in the app is started."""
    sub = witness.starlette("sub", Mount("/deep", witness.raw("deep")))
    await witness.sees(around(kind, sub), "sub", "deep", state={"/state": "sub", "/deep/": "deep"})


async def test_an_app_that_callbacks_keep_the_lifespan_from_is_started(witness: Witness, kind: Any) -> None:
    """With them it would be skipped."""
    start, stop = (lambda word=word: witness.log.append(f"{word} callbacks") for word in ("start", "stop"))
    app = around(kind, witness.starlette("sub"), on_startup=start, on_shutdown=stop)
    await witness.sees(app, "callbacks", "sub", state={"/state": "sub"})


@pytest.mark.parametrize("only", ["on_startup", "on_shutdown"])
async def test_one_callback_is_enough_to_be_skipped(witness: Witness, kind: Any, only: str) -> None:
    """Whichever it is."""
    app = around(kind, witness.starlette("sub"), **{only: lambda: witness.log.append(only)})
    await lived(LifespanMiddleware(app))
    started = [only] if only == "on_startup" else []
    assert witness.log == [*started, "start sub", "stop sub", *([] if started else [only])]
