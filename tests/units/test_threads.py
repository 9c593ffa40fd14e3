"""`call_in_thread`: what becomes of a call that nobody waits for any more."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import anyio
import anyio.from_thread
import pytest

from asgi_lifespan_mw._units.threads import call_in_thread, collect_thread_calls


async def test_a_call_that_was_cancelled_before_it_began_never_begins() -> None:
    """It waits for a thread, and nothing is dropped, for there is no result."""
    limiter = anyio.CapacityLimiter(1)
    happened: list[Any] = []
    async with limiter, anyio.create_task_group() as tasks:
        with collect_thread_calls() as calls:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call_in_thread(lambda: happened.append("began"), if_abandoned=happened.append, limiter=limiter)
            [call] = calls
        tasks.cancel_scope.cancel()
    assert call.cancelled()
    assert happened == []


async def test_a_thread_that_begins_after_the_cancellation_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may begin it so late."""
    late: list[Callable[[], None]] = []

    async def begins_late(call: Callable[[], None], **_options: Any) -> None:
        late.append(call)
        await anyio.sleep_forever()

    monkeypatch.setattr("anyio.to_thread.run_sync", begins_late)
    happened: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_in_thread, lambda: happened.append("called"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    [call] = late
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert happened == []


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
async def test_the_result_of_an_abandoned_call_is_dropped_when_its_thread_returns(fails: bool) -> None:
    """What raises has no result."""
    begun, may_end, over = anyio.Event(), threading.Event(), threading.Event()
    dropped: list[str] = []

    def open_something() -> str:
        anyio.from_thread.run_sync(begun.set)
        assert may_end.wait(10)
        if fails:
            raise OSError
        return "opened"

    def note_end(_call: Future[Any]) -> None:
        over.set()

    with collect_thread_calls() as calls:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: call_in_thread(open_something, if_abandoned=dropped.append))
            await begun.wait()
            tasks.cancel_scope.cancel()
    [call] = calls
    call.add_done_callback(note_end)  # after the callback that drops the result
    may_end.set()
    assert over.wait(10)
    assert dropped == ([] if fails else ["opened"])
