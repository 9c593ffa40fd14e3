"""The work of a startup grows with the number of mounts, and not with its square; counted, not timed."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import FunctionType
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware


def mounted(starts: list[str], name: str) -> Any:
    """Return an app that records that it started."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        starts.append(name)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Start and stop."""
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def copy_of_plain() -> Any:
    """Return an app of its own that holds nothing: no closure, no defaults, no attributes."""
    return FunctionType(plain.__code__, plain.__globals__, "plain")


def calls_of_a_run(app: Any) -> int:
    """Return how many Python functions a start and a stop call."""
    count = 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"  # pragma: no cover - nothing traces what profiles

    async def run() -> None:
        async with LifespanManager(LifespanMiddleware(app)):
            pass

    asyncio.run(run())  # caches are filled
    sys.setprofile(profile)
    try:
        asyncio.run(run())
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("make", [copy_of_plain, Starlette], ids=["functions", "Starlettes"])
def test_the_calls_of_a_run_grow_linearly_with_the_mounts(make: Any) -> None:
    """Each mount more costs as many calls as the one before it."""
    few, many, most = (
        calls_of_a_run(Starlette(routes=[Mount(f"/{number}", make()) for number in range(count)]))
        for count in (10, 30, 50)
    )

    assert many > few
    assert most - many <= (many - few) * 1.1


def test_a_mount_that_a_task_adds_in_its_first_step_is_started() -> None:
    """The loop turns before the last look for mounts, also where no app's start can be seen."""
    starts: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    parent = Starlette()

    async def add() -> None:
        parent.mount("/late", mounted(starts, "late"))

    async def adds_by_a_task(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(add()))
        await mounted(starts, "early")(scope, receive, send)

    parent.mount("/early", adds_by_a_task)

    async def run() -> None:
        async with LifespanManager(LifespanMiddleware(parent)):
            pass

    asyncio.run(run())

    assert starts == ["early", "late"]


@pytest.mark.parametrize("concurrent", [False, True], ids=["in-turn", "concurrent"])
def test_a_mount_that_a_lifespan_adds_and_a_task_starts_by_the_name_of_its_lifespan_starts_once(
    concurrent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop turns when the first app is found whose start can be seen, before it is decided on."""
    starts: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    left = asyncio.Event()

    @asynccontextmanager
    async def of_sub(_app: Any) -> AsyncGenerator[None]:
        starts.append("sub")
        yield

    sub = Starlette(lifespan=of_sub)

    async def runs_sub() -> None:
        for _ in range(2):  # it begins after the turn in which its parent has started
            await asyncio.sleep(0)
        async with of_sub(sub):
            await left.wait()

    @asynccontextmanager
    async def of_parent(app: Starlette) -> AsyncGenerator[None]:
        app.mount("/sub", sub)
        tasks.append(asyncio.create_task(runs_sub()))
        yield
        left.set()
        await tasks[0]

    async def run() -> None:
        async with LifespanManager(LifespanMiddleware(Starlette(lifespan=of_parent), concurrent=concurrent)):
            pass

    asyncio.run(run())

    assert starts == ["sub"]
    assert not caplog.records
