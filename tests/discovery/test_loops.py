"""A startup during which the event loop stops and runs again, which replaces the interpreter's hook for generators."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_stops_and_runs_again_while_an_app_starts_is_told_once(
    new_loop: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    """The mounts start, and a WARNING says what cannot be seen."""
    log: list[str] = []

    def mounted(name: str) -> Mount:
        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            log.append(f"start {name}")
            yield
            log.append(f"stop {name}")

        return Mount(f"/{name}", Starlette(lifespan=lifespan))

    app = LifespanMiddleware(Starlette(routes=[mounted("first"), mounted("second")]))

    @app.on_startup
    async def stop_the_loop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    async def live() -> None:
        async with LifespanManager(app):
            assert log == ["start first", "start second"]

    loop = new_loop()
    task = loop.create_task(live())
    loop.run_forever()
    loop.run_until_complete(asyncio.wait_for(task, 10))
    loop.close()
    assert log == ["start first", "start second", "stop second", "stop first"]
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == (
        "the interpreter's hook for asynchronous generators was replaced while app Starlette was starting, for "
        "example because its event loop stopped and ran again; a mount whose lifespan function was called by its name "
        "meanwhile may be started twice. List such an app in exclude=[...]"
    )
