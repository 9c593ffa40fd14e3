"""`Tasks`: what requests leave behind ends before what was opened before it is closed, on a virtual clock."""

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, Tasks, threaded
from tests.clock import JumpingLoop
from tests.conftest import VIRTUAL
from tests.plans import Boom, Journal


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: time limits take no time."""
    return request.param()


class Job:
    """A task that works, and cleans up for a second when it is cancelled."""

    def __init__(self, journal: Journal, seconds: float) -> None:
        """Work for so many seconds."""
        self._journal = journal
        self._seconds = seconds

    async def send(self, name: str) -> None:
        """Work, and note how it ended."""
        try:
            await anyio.sleep(self._seconds)
            self._journal.events.append(f"{name} done")
        except BaseException:
            with anyio.move_on_after(0):  # a cancellation of its own in the clean-up
                await anyio.sleep(1)
            await anyio.sleep(0.5)
            await anyio.sleep(0.5)
            self._journal.events.append(f"{name} cleaned up")
            raise


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ERROR lines of the log."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


async def test_the_end_of_the_block_waits_for_the_tasks_and_for_those_that_they_spawn(journal: Journal) -> None:
    """In the time that they need."""
    tasks = Tasks()
    job = Job(journal, 3)

    async def first() -> None:
        await anyio.sleep(2)
        tasks.spawn(job.send, "second")

    began = anyio.current_time()
    async with tasks as entered:
        assert entered is tasks
        tasks.spawn(first)
        assert tasks.open == 1
    assert anyio.current_time() - began == 5
    assert journal.events == ["second done"]
    assert tasks.open == 0


@pytest.mark.parametrize(("timeout", "waited"), [(20, 20), (0, 0), (2.5, 2.5)])
async def test_what_takes_longer_is_cancelled_once_and_named(
    timeout: float, waited: float, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Its clean-up may await, and nothing is raised."""
    tasks = Tasks(timeout)
    job = Job(journal, 100)
    began = anyio.current_time()
    async with tasks:
        tasks.spawn(job.send, "letter", name="letter")
        tasks.spawn(job.send, "receipt")
    assert anyio.current_time() - began == waited + 1
    assert sorted(journal.events) == ["letter cleaned up", "receipt cleaned up"]
    [line] = errors(caplog)
    assert line.startswith("Tasks (tests/test_tasks.py:")
    assert f"cancelled 2 of its tasks, which were open {timeout:g} s after its block had ended: task 'letter', " in line
    assert "task 'send' (tests/test_tasks.py:" in line


async def test_no_limit_waits_as_long_as_it_takes(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """With ``timeout=None``."""
    async with Tasks(None) as tasks:
        tasks.spawn(Job(journal, 1000).send, "letter")
    assert journal.events == ["letter done"]
    assert errors(caplog) == []


async def test_a_message_names_ten_tasks_at_most(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """And says how many there are."""
    async with Tasks(0) as tasks:
        for number in range(12):
            tasks.spawn(anyio.sleep, 100, name=f"n{number}")
    [line] = errors(caplog)
    assert "cancelled 12 of its tasks" in line
    assert line.endswith("task 'n9' and 2 more")


async def test_a_task_that_raises_is_an_error_with_its_line_and_the_others_go_on(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises."""

    async def fail(error: BaseException) -> None:
        await anyio.sleep(0)
        raise error

    async with Tasks() as tasks:
        tasks.spawn(fail, Boom("no paper"))
        tasks.spawn(fail, SystemExit(3))
        tasks.spawn(Job(journal, 3).send, "letter")
    assert journal.events == ["letter done"]
    lines = sorted(errors(caplog), key=lambda line: "Boom" not in line)
    assert lines[0].startswith("task 'fail' (tests/test_tasks.py:")
    assert lines[0].endswith("failed: tests.plans.Boom: no paper")
    assert lines[1].endswith("failed: SystemExit: 3")
    assert len(lines) == 2
    assert all(record.exc_info for record in caplog.records)


async def test_a_cancellation_that_nobody_asked_for_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """The task awaited a task that was cancelled."""

    async def fail() -> None:
        raise asyncio.CancelledError

    async with Tasks() as tasks:
        tasks.spawn(fail)
        await anyio.wait_all_tasks_blocked()
    [line] = errors(caplog)
    assert line.endswith("failed: asyncio.exceptions.CancelledError")


async def test_a_cancelled_block_cancels_the_tasks_at_once_and_waits_for_them(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Shielded from the cancellation of its own."""
    tasks = Tasks()
    began = anyio.current_time()
    with anyio.move_on_after(5) as scope:
        async with tasks:
            tasks.spawn(Job(journal, 100).send, "letter")
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() - began == 6
    assert journal.events == ["letter cleaned up"]
    [line] = errors(caplog)
    assert "cancelled 1 of its tasks, because its block was cancelled: task 'send'" in line


async def test_an_end_that_is_cancelled_cancels_the_tasks_at_once(journal: Journal) -> None:
    """While it waits for them."""
    began = anyio.current_time()
    with anyio.move_on_after(5) as scope:
        async with Tasks() as tasks:
            tasks.spawn(Job(journal, 100).send, "letter")
    assert scope.cancelled_caught
    assert anyio.current_time() - began == 6
    assert journal.events == ["letter cleaned up"]


async def test_a_block_that_raises_waits_for_its_tasks(journal: Journal) -> None:
    """Its exception is raised after them."""
    with pytest.raises(Boom):
        async with Tasks() as tasks:
            tasks.spawn(Job(journal, 3).send, "letter")
            raise Boom
    assert journal.events == ["letter done"]


async def test_a_clean_up_that_spawns_or_hangs_is_cancelled_too(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """After ten seconds for good."""

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            tasks.spawn(Job(journal, 100).send, "letter")
            await anyio.sleep(100)

    began = anyio.current_time()
    tasks = Tasks(0)
    async with tasks:
        tasks.spawn(hang)
        await anyio.wait_all_tasks_blocked()
    assert anyio.current_time() - began == 10
    assert journal.events == ["letter cleaned up"]
    [line] = errors(caplog)
    assert "cancelled 2 of its tasks" in line


async def test_a_task_that_ignores_its_cancellations_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    """The end of the block does not wait for it for ever."""
    let_go = anyio.Event()

    async def ignore() -> None:
        with anyio.CancelScope(shield=True):
            await let_go.wait()

    began = anyio.current_time()
    async with Tasks(0) as tasks:
        tasks.spawn(ignore, name="deaf")
        await anyio.wait_all_tasks_blocked()
    assert anyio.current_time() - began == pytest.approx(10.1)
    [line] = errors(caplog)
    assert line.endswith("task 'deaf'")
    let_go.set()
    await anyio.wait_all_tasks_blocked()


variable: ContextVar[str] = ContextVar("variable", default="")


async def test_tasks_see_the_context_variables_of_the_block_each_in_a_copy() -> None:
    """Not those of the request that spawns them."""
    seen: list[str] = []

    async def look(value: str) -> None:
        seen.append(variable.get())
        variable.set(value)
        await anyio.sleep(0)
        seen.append(variable.get())

    variable.set("block")
    async with Tasks() as tasks:
        variable.set("request")
        tasks.spawn(look, "one")
        tasks.spawn(look, "two")
    assert sorted(seen) == ["block", "block", "one", "two"]


async def test_tasks_end_before_what_was_opened_before_them_is_closed(journal: Journal) -> None:
    """As a hook of each way of use, and in a lifespan function; it adds nothing to the state."""
    tasks = Tasks()

    @asynccontextmanager
    async def pool(app: object) -> AsyncIterator[dict[str, int]]:
        journal.events.append("+pool")
        yield {"pool": 1}
        journal.events.append("-pool")

    @asynccontextmanager
    async def whole(app: object) -> AsyncIterator[None]:
        async with pool(app), tasks:
            yield

    async def hello(scope: Any, receive: Any, send: Any) -> None: ...

    decorated = LifespanMiddleware(hello, lifespan=pool)
    assert decorated.context(tasks) is tasks
    ways = {
        "context": decorated,
        "contexts": LifespanMiddleware(hello, lifespan=Lifespan(contexts=[pool, tasks])),
        "lifespans": LifespanMiddleware(hello, lifespan=[pool, tasks]),
        "lifespan function": LifespanMiddleware(hello, lifespan=whole),
    }
    for way, app in ways.items():
        async with LifespanManager(app) as manager:
            tasks.spawn(Job(journal, 3).send, "letter")
            if way != "lifespan function":
                assert manager.state == {"pool": 1}
            assert app.report is not None
            assert [row.open_tasks for row in app.report.units if row.kind == "hook"][-1] == 1
        assert app.report is not None
        assert [row.open_tasks for row in app.report.units] == [0] * len(app.report.units)
        assert journal.events == ["+pool", "letter done", "-pool"], way
        journal.events.clear()


async def test_a_hook_of_tasks_is_named_by_the_line_that_made_it() -> None:
    """Two of them can be told from each other."""

    async def hello(scope: Any, receive: Any, send: Any) -> None: ...

    app = LifespanMiddleware(hello)
    app.context(Tasks())
    app.context(Tasks(), name="receipts")
    async with LifespanManager(app):
        assert app.report is not None
        first, second, *_ = app.report.units
    assert first.unit.startswith("hook 'Tasks' (tests/test_tasks.py:")
    assert second.name == "hook 'receipts'"
    assert first.location != second.location


async def test_the_shutdown_timeout_cancels_the_tasks(journal: Journal) -> None:
    """Which is less than the time of the tasks."""

    async def hello(scope: Any, receive: Any, send: Any) -> None: ...

    tasks = Tasks()
    app = LifespanMiddleware(hello, shutdown_timeout=3)
    app.context(tasks)
    with pytest.raises(TimeoutError, match="hook 'Tasks'"):
        async with LifespanManager(app):
            tasks.spawn(Job(journal, 100).send, "letter")
    assert journal.events == ["letter cleaned up"]


async def test_entering_twice_is_refused_and_entering_again_is_not() -> None:
    """In one event loop."""
    tasks = Tasks()
    async with tasks:
        with pytest.raises(
            RuntimeError, match=r"Tasks \(tests/test_tasks.py:\d+\) was entered twice in one event loop"
        ):
            async with tasks:
                raise AssertionError
        tasks.spawn(anyio.sleep, 1)  # the first block goes on
    async with tasks:
        assert tasks.open == 0


async def test_outside_of_the_block_spawn_says_what_to_do() -> None:
    """Before and after it."""
    tasks = Tasks()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"outside of the block of Tasks .* register it by context\(tasks\)"):
            tasks.spawn(anyio.sleep, 1)
        async with tasks:
            pass


def test_without_an_event_loop_spawn_says_what_to_do() -> None:
    """In a worker thread."""
    with pytest.raises(RuntimeError, match=r"anyio.from_thread.run_sync\(tasks.spawn, fn\)"):
        Tasks().spawn(anyio.sleep, 1)


async def test_a_worker_thread_spawns_through_anyio(journal: Journal) -> None:
    """As the message says."""
    async with Tasks() as tasks:
        job = Job(journal, 1)
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(tasks.spawn, job.send, "letter"))
    assert journal.events == ["letter done"]


async def test_what_is_not_a_function_that_awaits_is_refused(journal: Journal) -> None:
    """Without a task, and without a coroutine that is never awaited."""
    job: Any = Job(journal, 1)
    async with Tasks() as tasks:
        with pytest.raises(
            TypeError, match=r"got a coroutine, expected a function and its arguments: tasks.spawn\(send"
        ):
            tasks.spawn(job.send("letter"))
        with pytest.raises(TypeError, match="got 3, expected an async def and its arguments"):
            tasks.spawn(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match=r"got None, expected an async def; wrap a `def` in threaded\(\)"):
            tasks.spawn(lambda: None)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="positional argument"):
            tasks.spawn(job.send)
        assert tasks.open == 0


async def test_a_blocking_function_is_spawned_in_a_thread() -> None:
    """By `threaded`."""
    threads: list[int] = []
    async with Tasks(None) as tasks:
        tasks.spawn(threaded(lambda: threads.append(threading.get_ident())))
    assert threads != [threading.get_ident()]
    assert len(threads) == 1


@pytest.mark.parametrize("timeout", [-1, math.nan])
def test_a_timeout_below_zero_is_refused(timeout: float) -> None:
    """NaN too."""
    with pytest.raises(ValueError, match=r"Tasks\(timeout=...\) got .*, expected seconds from 0 on, or None"):
        Tasks(timeout)


@pytest.mark.parametrize("timeout", [True, "20"])
def test_a_timeout_that_is_not_a_number_is_refused(timeout: Any) -> None:
    """True is none either."""
    with pytest.raises(TypeError, match=r"Tasks\(timeout=...\) got .*, expected seconds from 0 on, or None"):
        Tasks(timeout)


def test_each_event_loop_has_tasks_of_its_own(journal: Journal) -> None:
    """One object serves an app that runs in two threads; a loop that was closed in the block holds nothing up."""
    tasks = Tasks()
    both = threading.Barrier(2, timeout=10)

    async def live(name: str) -> None:
        async with tasks:
            tasks.spawn(Job(journal, 0.01).send, name)
            await asyncio.to_thread(both.wait)
            assert len(tasks._blocks) == 2
            await asyncio.to_thread(both.wait)

    threads = [threading.Thread(target=asyncio.run, args=[live(name)]) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(journal.events) == ["one done", "two done"]

    loop = asyncio.new_event_loop()
    loop.run_until_complete(tasks.__aenter__())
    loop.close()
    asyncio.run(live_alone(tasks))


async def live_alone(tasks: Tasks) -> None:
    """Enter, where another loop was closed."""
    async with tasks:
        assert len(tasks._blocks) == 1


def cancel_all(but: "asyncio.Task[Any] | None") -> None:
    """Cancel every task of the event loop but one, as a server does."""
    for task in asyncio.all_tasks() - {but}:
        task.cancel()


@pytest.mark.parametrize("times", [1, 2])
def test_a_server_that_cancels_all_tasks_is_told_and_the_clean_up_runs(
    times: int, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Uvicorn at a second Ctrl-C; gunicorn's ASGI worker does it again after a second."""
    tasks = Tasks()

    async def hello(scope: Any, receive: Any, send: Any) -> None: ...

    app = LifespanMiddleware(hello)
    app.context(tasks)

    async def live() -> None:
        async with LifespanManager(app):
            tasks.spawn(Job(journal, 100).send, "letter")
            await asyncio.sleep(100)

    async def serve() -> None:
        serving = asyncio.create_task(live())
        for _ in range(times):
            await asyncio.sleep(0.5)
            cancel_all(but=asyncio.current_task())
        with pytest.raises(asyncio.CancelledError):
            await serving

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(serve())
    assert len(errors(caplog)) == (1 if times == 1 else 3)  # a stop that is cancelled is a failed shutdown
    assert "cancelled 1 of its tasks" in errors(caplog)[0]
    assert journal.events == (["letter cleaned up"] if times == 1 else [])
    assert tasks.open == 0


def test_a_block_that_is_cancelled_again_waits_on(journal: Journal) -> None:
    """By a plain ``Task.cancel()``, which no shield stops; it is raised after the clean-up."""
    tasks = Tasks()

    async def live() -> None:
        async with tasks:
            tasks.spawn(Job(journal, 100).send, "letter")
            await asyncio.sleep(100)

    async def cancel_twice() -> None:
        living = asyncio.create_task(live())
        for _ in range(2):
            await asyncio.sleep(0.7)
            living.cancel()
        with pytest.raises(asyncio.CancelledError):
            await living
        assert journal.events == ["letter cleaned up"]

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(cancel_twice())


@pytest.mark.parametrize("seconds", [0, 100])
def test_a_loop_that_is_closed_in_the_block_raises_nothing(seconds: int, caplog: pytest.LogCaptureFixture) -> None:
    """In its body, or while its end waits. The garbage collector closes the coroutines."""
    tasks = Tasks()

    async def live() -> None:
        async with tasks:
            tasks.spawn(anyio.sleep, 100)
            await asyncio.sleep(seconds)

    loop = asyncio.new_event_loop()
    tasks_of_loop = {loop.create_task(live())}
    loop.run_until_complete(asyncio.sleep(0.01))
    tasks_of_loop |= asyncio.all_tasks(loop)
    for task in tasks_of_loop:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        coroutine: Any = task.get_coro()
        coroutine.close()
    loop.close()
    assert errors(caplog) == []
