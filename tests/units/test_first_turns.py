"""A server cancels every task of the event loop in one of the first turns of a lifespan, or of a start on request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from asgi_lifespan_mw import LifespanMiddleware, ShutdownFailed, StartupFailed
from tests.clock import EagerJumpingLoop, JumpingLoop
from tests.plans import Journal
from tests.server import RecordingServer

LOOPS = pytest.mark.parametrize("loop", [JumpingLoop, EagerJumpingLoop])


@asynccontextmanager
async def lock() -> AsyncIterator[None]:
    """Take a turn to be entered, and one to be left."""
    await asyncio.sleep(0)
    yield
    await asyncio.sleep(0)


async def works() -> None:
    """Run for a while."""
    await asyncio.sleep(10)


def app_with(kind: str, journal: Journal) -> LifespanMiddleware:
    """Return an app with a context, and a unit of a kind after it."""
    app = LifespanMiddleware(journal.app())

    @app.context
    async def first() -> AsyncIterator[None]:
        journal.events.append("+first")
        yield
        journal.events.append("-first")

    async def other() -> AsyncIterator[None]:
        await asyncio.sleep(0)
        journal.events.append("+other")
        try:  # the cancellation may come while the lock of the entered context is released
            yield
        finally:
            journal.events.append("-other")

    match kind:
        case "context":
            app.context(other)
        case "lock":
            app.context(other, lock=lock)
        case "worker":
            app.worker(works)
        case "leader":
            app.worker(works, leader=lock)
        case "background":
            app.on_startup(works, background=True)
        case _:
            assert kind == "plain"
    return app


async def cancel_all_at(turn: int, task: "asyncio.Task[Any]") -> None:
    """Cancel every other task after so many turns of the event loop, and wait for one of them."""
    for _ in range(turn):
        await asyncio.sleep(0)
    for one in asyncio.all_tasks() - {asyncio.current_task()}:
        one.cancel()
    began = asyncio.get_running_loop().time()
    await asyncio.wait({task}, timeout=60)
    assert task.done(), "it hangs"
    assert asyncio.get_running_loop().time() - began < 0.5, "something that never ran was waited for"


@LOOPS
@pytest.mark.parametrize("turn", range(1, 14))
@pytest.mark.parametrize("kind", ["plain", "context", "lock", "worker", "leader", "background"])
def test_a_lifespan_whose_tasks_are_all_cancelled_ends_at_once(kind: str, turn: int, loop: Any) -> None:
    """What had started is stopped in reverse, and nothing is waited for that never ran."""
    journal = Journal()

    async def main() -> None:
        server = RecordingServer(holds_on=True)
        task = asyncio.ensure_future(server.run(app_with(kind, journal)))
        await cancel_all_at(turn, task)
        assert task.cancelled()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    starts = [event[1:] for event in journal.events if event.startswith("+")]
    assert journal.events == [f"+{name}" for name in starts] + [f"-{name}" for name in reversed(starts)]


@LOOPS
@pytest.mark.parametrize("turn", range(1, 6))
def test_after_a_start_whose_tasks_are_all_cancelled_the_next_request_starts_anew(turn: int, loop: Any) -> None:
    """The event loop goes on, and the request does not wait for a start that never ran."""
    journal, answered = Journal(), list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await journal.app()(scope, receive, send)
        else:
            answered.append(scope["path"])

    @asynccontextmanager
    async def pool() -> AsyncIterator[None]:
        journal.events.append("+pool")
        try:
            yield
        finally:
            journal.events.append("-pool")

    async def nothing(*_: object) -> Any:
        """Stand for `receive` and `send`, which the app does not call."""

    async def call(wrapped: LifespanMiddleware, path: str) -> None:
        await wrapped({"type": "http", "path": path}, nothing, nothing)

    async def main() -> None:
        wrapped = LifespanMiddleware(app, pool, start_on_request=True)
        await cancel_all_at(turn, asyncio.ensure_future(call(wrapped, "/first")))
        async with asyncio.timeout(60):
            with suppress(StartupFailed):  # a request that comes while that start ends fails with it
                await call(wrapped, "/second")
            await call(wrapped, "/third")
            with suppress(ShutdownFailed):  # the start had answered, and it is the stop that is cancelled
                await wrapped.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    assert answered[-1] == "/third"
    assert journal.events[-4:] == ["+pool", "+app", "-app", "-pool"]
