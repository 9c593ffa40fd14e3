"""Workers, locks around a start, and workers that lead; on a virtual clock, over an engine in memory."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import anyio
import hypothesis
import hypothesis.strategies as st
import pytest
from starlette.applications import Starlette

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, LifespanTimeout, StartupFailed
from asgi_lifespan_mw._units.locking import HeldLock
from asgi_lifespan_mw._units.unit import Unit
from tests.conftest import VIRTUAL
from tests.plans import Boom, Journal
from tests.server import RecordingServer


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: pauses take no time."""
    return request.param()


class FakeEngine:
    """A lock engine in memory, which can lose locks and be out of reach.

    Attributes:
        inside: How many hold a lock.
        acquired: How often one was held.
        released: How often one was released.
        error: What it raises when a lock is asked for; None while it can be reached.
        release_error: What it raises at a release.
        release_seconds: How long a release takes.
        error_of_wait: What the watch raises.
    """

    def __init__(self) -> None:
        self.inside = self.acquired = self.released = 0
        self.error: Exception | None = None
        self.release_error: Exception | None = None
        self.release_seconds = 0.0
        self.error_of_wait: BaseException | None = None
        self._free = anyio.Semaphore(1)
        self._lost: list[anyio.Event] = []

    def lose(self) -> None:
        """Tell the holder that its lock was lost."""
        for event in self._lost:
            event.set()

    @asynccontextmanager
    async def lock(self) -> AsyncIterator["FakeEngine"]:
        """Wait until the lock is held, with a task group open, as the renewal of a lease needs one."""
        if self.error is not None:
            raise self.error
        async with self._free, anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            self.inside += 1
            self.acquired += 1
            self._lost.append(anyio.Event())
            try:
                yield self
            finally:
                await anyio.sleep(self.release_seconds)
                self.inside -= 1
                self.released += 1
                self._lost.pop()
                tasks.cancel_scope.cancel()
            if self.release_error is not None:
                raise self.release_error

    async def wait(self) -> None:
        """Return when the lock was lost."""
        await self._lost[-1].wait()
        if self.error_of_wait is not None:
            raise self.error_of_wait


class Work:
    """A worker that records when it runs.

    Attributes:
        events: What happened, with the time.
        error: What it raises when `may_end` is set; None to return.
    """

    def __init__(self, engine: FakeEngine | None = None) -> None:
        self.events: list[str] = []
        self.may_end = anyio.Event()
        self.error: Exception | None = None
        self._engine = engine

    async def __call__(self) -> None:
        """Run until it is cancelled, or `may_end` is set."""
        self.events.append("begins")
        try:
            await self.may_end.wait()
            if self.error is not None:
                raise self.error
            self.events.append("returns")
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)
            held = "" if self._engine is None else f", {self._engine.inside} inside"
            self.events.append(f"is cancelled{held}")
            raise


def app_of(worker: Any, journal: Journal | None = None, **options: Any) -> LifespanMiddleware:
    """Return an app with a worker between two contexts."""
    app = LifespanMiddleware(Starlette())
    journal = journal or Journal()
    app.context(journal.context("before"))
    app.worker(worker, **options)
    app.context(journal.context("after"))
    return app


# --- workers ---


async def test_a_worker_runs_for_the_life_of_the_app_and_is_cancelled_in_its_place(journal: Journal) -> None:
    """The startup does not wait for it; what came before it is still there in its `finally`."""

    async def works() -> None:
        journal.events.append("works")
        try:
            await anyio.sleep_forever()
        finally:
            journal.events.append("ends")

    app = app_of(works, journal)
    async with LifespanManager(app):
        await anyio.sleep(1)
        assert app.ready
        assert journal.events == ["+before", "works", "+after"]
    assert journal.events == ["+before", "works", "+after", "-after", "ends", "-before"]
    assert app.report is not None
    assert [row.outcome for row in app.report.units] == ["stopped"] * 4


async def test_a_worker_is_given_the_app_if_it_requires_an_argument() -> None:
    """As functions are; the decorator gives it back."""
    seen: list[object] = []

    async def works(app: Starlette) -> None:
        seen.append(app)

    app = LifespanMiddleware(Starlette())
    assert app.worker(works) is works
    async with LifespanManager(app):
        await anyio.sleep(1)
    assert seen == [app.app]


async def test_a_worker_that_returns_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """That is no failure."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    work = Work()
    async with LifespanManager(app_of(work, name="work")):
        work.may_end.set()
        await anyio.sleep(1)
        assert "hook 'work'" in caplog.text
        assert "ended before the shutdown" in caplog.text
    assert work.events == ["begins", "returns"]


async def test_a_worker_that_raises_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """It is told at once, as it is, and the rest stays up."""
    work = Work()
    work.error = Boom("broke")
    with pytest.raises(Boom):
        async with LifespanManager(app_of(work, name="work")):
            work.may_end.set()
            await anyio.sleep(1)
            assert "crash in hook 'work'" in caplog.text


async def test_the_finally_of_a_worker_has_its_own_time() -> None:
    """One that takes longer has failed."""

    async def ends_slowly() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(100)

    with pytest.raises(LifespanTimeout, match=r"shutdown timed out after 3 s in hook 'ends_slowly'"):
        async with LifespanManager(app_of(ends_slowly, timeout=3), None, None):
            pass


async def test_an_error_in_the_finally_of_a_worker_fails_the_shutdown() -> None:
    """It was not cancelled badly, it broke."""

    async def breaks_at_its_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Boom("no end")

    server = RecordingServer()
    with pytest.raises(Boom):
        await server.run(app_of(breaks_at_its_end))
    assert server.answers == ["startup.complete", "shutdown.failed"]


async def test_a_worker_can_be_replaced_and_left_out() -> None:
    """A replacement runs without the lock: a test needs no engine."""
    engine, other = FakeEngine(), Work()
    engine.error = OSError("no engine in tests")
    work = Work()
    hooks = Lifespan()
    hooks.worker(work, leader=engine.lock, name="work")
    with hooks.override("work", other):
        async with LifespanManager(hooks):
            await anyio.sleep(1)
    with hooks.override("work", None):
        async with LifespanManager(hooks):
            await anyio.sleep(1)
    assert other.events == ["begins", "is cancelled"]
    assert work.events == []


def generator() -> Any:
    """A generator function."""
    yield  # pragma: no cover - it makes a generator of it


@pytest.mark.parametrize(
    "worker", [lambda: None, generator, Work, None, 1], ids=["def", "generator", "class", "None", "1"]
)
def test_what_is_no_async_def_is_no_worker(worker: Any) -> None:
    """A `def` would block the event loop for good."""
    with pytest.raises(TypeError, match=r"worker\(\) got"):
        Lifespan().worker(worker)


# --- lock= ---


async def test_a_hook_starts_under_its_lock_and_stops_without_it() -> None:
    """A context that has a task group open, as the lock has one."""
    engine, inside = FakeEngine(), list[int]()

    @asynccontextmanager
    async def migrates() -> AsyncIterator[dict[str, int]]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            inside.append(engine.inside)
            yield {"migrated": 1}
            inside.append(engine.inside)
            tasks.cancel_scope.cancel()

    app = LifespanMiddleware(Starlette())
    app.context(lock=engine.lock)(migrates)
    app.on_startup(lock=engine.lock)(lambda: inside.append(engine.inside))
    async with LifespanManager(app) as manager:
        assert manager.state == {"migrated": 1}
        assert engine.inside == 0
    assert inside == [1, 1, 0]
    assert engine.acquired == engine.released == 2


async def test_apps_start_one_at_a_time_under_one_lock() -> None:
    """Any context manager will do: an `asynccontextmanager` function that yields nothing."""
    gate, inside, most = anyio.Semaphore(1), list[int](), list[int]()

    @asynccontextmanager
    async def plain() -> AsyncIterator[None]:
        async with gate:
            yield

    async def migrates() -> None:
        inside.append(1)
        most.append(len(inside))
        await anyio.sleep(1)
        inside.pop()

    async def run() -> None:
        hooks = Lifespan()
        hooks.on_startup(lock=plain)(migrates)
        async with LifespanManager(hooks, None, None):
            pass

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(run)
    assert most == [1] * 4


async def test_the_wait_for_a_lock_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """By the slow log, the report and the timeout, which covers the wait and the start together."""
    engine = FakeEngine()
    app = LifespanMiddleware(Starlette())
    app.on_startup(lock=engine.lock, timeout=15, name="migrate")(lambda: None)
    async with engine.lock(), anyio.create_task_group() as tasks:
        tasks.start_soon(_fails_by_timeout, app)
        await anyio.sleep(11)
        assert app.report is not None
        assert [row.reason for row in app.report.units] == ["waiting for the lock", ""]
    slow = [record.getMessage() for record in caplog.records if "takes more than" in record.getMessage()]
    assert len(slow) == 1
    assert slow[0].endswith("takes more than 10 s, waiting for the lock")
    assert engine.acquired == engine.released == 1


async def _fails_by_timeout(app: LifespanMiddleware) -> None:
    with pytest.raises(LifespanTimeout, match=r"15 s in hook 'migrate'") as raised:
        await RecordingServer().run(app)
    assert raised.value.__notes__ == ["it was waiting for the lock"]


async def test_an_engine_that_cannot_be_reached_fails_the_start() -> None:
    """With its own error."""
    engine = FakeEngine()
    engine.error = OSError("connection refused")
    hooks = Lifespan()
    hooks.on_startup(lock=engine.lock)(lambda: None)
    with pytest.raises(OSError, match="connection refused"):
        async with LifespanManager(hooks):
            raise AssertionError("it did not start")  # pragma: no cover


async def test_a_start_that_fails_frees_the_lock() -> None:
    """It fails this process alone."""
    engine = FakeEngine()

    def breaks() -> None:
        raise Boom("no migration")

    hooks = Lifespan()
    hooks.on_startup(lock=engine.lock)(breaks)
    with pytest.raises(Boom):
        async with LifespanManager(hooks):
            raise AssertionError("it did not start")  # pragma: no cover
    assert engine.acquired == engine.released == 1


@pytest.mark.parametrize("error", [None, OSError("gone"), SystemExit(3)])
async def test_a_lock_that_is_lost_while_the_hook_starts_fails_the_start(error: BaseException | None) -> None:
    """The hook is cancelled, and the lock is left after it has ended."""
    engine, ends = FakeEngine(), list[int]()
    engine.error_of_wait = error

    async def migrates() -> None:
        engine.lose()
        try:
            await anyio.sleep_forever()
        finally:
            ends.append(engine.inside)

    hooks = Lifespan()
    hooks.on_startup(lock=engine.lock, name="migrate")(migrates)
    with pytest.raises(StartupFailed, match=r"'migrate'.* its lock was lost meanwhile"):
        async with LifespanManager(hooks):
            raise AssertionError("it did not start")  # pragma: no cover
    assert ends == [1]
    assert engine.acquired == engine.released == 1


async def test_a_release_that_fails_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The hook has started; the engine frees the lock when the process ends."""
    engine = FakeEngine()
    engine.release_error = OSError("gone")
    hooks = Lifespan()
    hooks.on_startup(lock=engine.lock, name="migrate")(lambda: None)
    async with LifespanManager(hooks):
        pass
    assert "its lock could not be released: OSError: gone" in caplog.text


async def test_a_release_that_takes_too_long_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """After some seconds."""

    @asynccontextmanager
    async def releases_slowly() -> AsyncIterator[None]:
        yield
        await anyio.sleep(100)

    hooks = Lifespan()
    hooks.on_startup(lock=releases_slowly, name="migrate")(lambda: None)
    began = anyio.current_time()
    async with LifespanManager(hooks, None, None):
        assert anyio.current_time() - began == pytest.approx(5, abs=0.1)
    assert "releasing its lock took more than 5 s" in caplog.text


class EnteredOnce:
    """A context manager in place of a function that makes one."""

    async def __aenter__(self) -> None: ...  # pragma: no cover - it is refused

    async def __aexit__(self, *error: object) -> None: ...  # pragma: no cover - it is refused


async def is_a_coroutine_function() -> None:
    """What is awaited, and not entered."""


@pytest.mark.parametrize(
    "lock", [1, "postgresql://user:secret@db", EnteredOnce(), dict, is_a_coroutine_function, lambda path: path],
    ids=["number", "string", "manager", "class", "coroutine", "argument"],
)  # fmt: skip
def test_what_is_no_lock_is_refused(lock: Any) -> None:
    """Without showing it: it may be a connection string."""
    with pytest.raises(TypeError, match=r"context\(lock=\.\.\.\) got .*expected a function without") as raised:
        Lifespan().context(generator, lock=lock)
    assert "secret" not in str(raised.value)
    with pytest.raises(TypeError, match=r"on_startup\(lock=\.\.\.\) got"):
        Lifespan().on_startup(is_a_coroutine_function, lock=lock)
    with pytest.raises(TypeError, match=r"worker\(leader=\.\.\.\) got"):
        Lifespan().worker(leader=lock)(is_a_coroutine_function)


def test_a_builtin_whose_signature_cannot_be_read_may_be_a_lock() -> None:
    """Nobody can tell."""
    Lifespan().worker(is_a_coroutine_function, leader=vars)  # type: ignore[arg-type]


# --- leader= ---


async def test_one_of_several_leads_and_another_follows_it(caplog: pytest.LogCaptureFixture) -> None:
    """The startup waits for none; the lock is released after the worker has ended."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    engine = FakeEngine()
    works = [Work(engine), Work(engine)]
    apps = [app_of(work, name=f"work {number}", leader=engine.lock) for number, work in enumerate(works)]
    async with LifespanManager(apps[1]):
        async with LifespanManager(apps[0]):
            await anyio.sleep(1)
            reports = [app.report for app in apps]
            assert [[row.reason for row in report.units if row.reason] for report in reports if report] == [
                ["waiting for the lock"],
                ["leading"],
            ]
            assert [work.events for work in works] == [[], ["begins"]]
        assert works[0].events == []
    assert works[1].events == ["begins", "is cancelled, 1 inside"]
    assert "hook 'work 1'" in caplog.text
    assert "leads: it holds the lock" in caplog.text
    assert engine.inside == 0


async def test_a_leader_that_stops_is_followed() -> None:
    """By one that waits."""
    engine = FakeEngine()
    first, second = Work(engine), Work(engine)
    leading = await LifespanManager(app_of(first, leader=engine.lock)).__aenter__()
    await anyio.sleep(1)
    async with LifespanManager(app_of(second, leader=engine.lock)):
        await anyio.sleep(1)
        assert second.events == []
        await leading.__aexit__(None, None, None)
        await anyio.sleep(1)
        assert second.events == ["begins"]
    assert first.events == ["begins", "is cancelled, 1 inside"]


async def test_a_lost_lock_cancels_the_worker_at_once_and_it_leads_again(caplog: pytest.LogCaptureFixture) -> None:
    """The lock is left after the worker has ended."""
    engine = FakeEngine()
    work = Work(engine)
    async with LifespanManager(app_of(work, name="work", leader=engine.lock)):
        await anyio.sleep(1)
        engine.lose()
        await anyio.sleep(2)
        assert work.events == ["begins", "is cancelled, 1 inside", "begins"]
        assert "lost its lock and was stopped; it waits for the lock again" in caplog.text
    assert engine.acquired == engine.released == 2


async def test_a_worker_that_returned_before_the_loss_was_seen_does_not_lead_again() -> None:
    """The worker has ended by itself, even if the engine reports the loss during the release."""
    lost, runs = list[anyio.Event](), list[int]()

    @asynccontextmanager
    async def lock() -> AsyncIterator[anyio.Event]:
        lost.append(anyio.Event())
        yield lost[-1]

    async def returns() -> None:
        runs.append(1)
        await anyio.sleep(1)
        lost[-1].set()

    async with LifespanManager(app_of(returns, leader=lock)):
        await anyio.sleep(5)
    assert runs == [1]


async def test_a_lock_that_is_lost_each_time_is_asked_for_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that closes each connection at once gets neither a tight loop nor a flooded log."""
    engine, reasons = FakeEngine(), list[str]()

    class Loses(Work):
        async def __call__(self) -> None:
            """Lose the lock as soon as the worker runs."""
            engine.lose()
            await anyio.sleep_forever()

    app = app_of(Loses(), name="work", leader=engine.lock)
    async with LifespanManager(app):
        await anyio.sleep(9.5)
        assert app.report is not None
        reasons.extend(row.reason for row in app.report.units if row.reason)
    assert engine.acquired == engine.released == 10
    assert len([record for record in caplog.records if "lost its lock" in record.getMessage()]) == 10
    assert reasons == ["waiting for the lock"]


async def test_a_worker_that_ignores_the_loss_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Two may run now; it does not lead again before it has ended."""
    engine, runs = FakeEngine(), list[int]()

    async def ignores_its_cancellation() -> None:
        runs.append(1)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(10)

    async with LifespanManager(app_of(ignores_its_cancellation, leader=engine.lock)):
        await anyio.sleep(1)
        engine.lose()
        await anyio.sleep(5)
        [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert "lost its lock and ignores its cancellation, at tests/units/test_locking.py" in error
        assert error.endswith("; two of them may run now")
        assert len(runs) == 1
        await anyio.sleep(7)
        assert len(runs) == 2
        await anyio.sleep(10)


@pytest.mark.parametrize("error", [None, Boom("broke")], ids=["returns", "raises"])
async def test_a_leader_that_ends_frees_the_lock_and_leads_no_more(error: Exception | None) -> None:
    """Whether it returns or crashes."""
    engine = FakeEngine()
    work = Work(engine)
    work.error = error
    raised: list[Exception] = []
    try:
        async with LifespanManager(app_of(work, leader=engine.lock)):
            work.may_end.set()
            await anyio.sleep(10)
            assert engine.acquired == engine.released == 1
    except Boom as failure:
        raised.append(failure)
    assert bool(raised) == (error is not None)


async def test_an_engine_that_cannot_be_reached_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """With growing pauses; the log says so at once, then every minute."""
    engine = FakeEngine()
    engine.error = OSError("connection refused")
    work = Work(engine)
    async with LifespanManager(app_of(work, name="work", leader=engine.lock)):
        await anyio.sleep(130)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 3
        assert all("cannot get its lock and tries again: OSError: connection refused" in message for message in told)
        engine.error = None
        await anyio.sleep(30)
        assert work.events == ["begins"]


async def test_a_stop_while_the_lock_is_waited_for_ends_the_wait() -> None:
    """It is no failure, and the lock is not taken later."""
    engine = FakeEngine()
    work = Work(engine)
    async with engine.lock():
        async with LifespanManager(app_of(work, leader=engine.lock)):
            await anyio.sleep(1)
    await anyio.sleep(1)
    assert work.events == []
    assert engine.acquired == engine.released == 1


async def test_a_lock_that_is_granted_in_the_moment_of_the_stop_is_released() -> None:
    """Leaving a lock takes a message to the engine; a cancellation that came too late must not break that."""
    events: list[str] = []
    granted = anyio.Event()

    @asynccontextmanager
    async def lock() -> AsyncIterator[None]:
        await granted.wait()
        events.append("granted")
        try:
            yield
        finally:
            await anyio.sleep(1)
            events.append("released")

    held = HeldLock(Unit("hook", AsyncMock()), lock, AsyncMock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(held.acquire)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        granted.set()
    assert events == ["granted", "released"]


def test_a_server_that_cancels_all_tasks_releases_the_lock_after_the_worker(journal: Journal) -> None:
    """As gunicorn's ASGI worker does at SIGQUIT, and `asyncio.run` at its end."""
    order: list[str] = []

    async def serve() -> None:
        @asynccontextmanager
        async def lock() -> AsyncIterator[None]:
            yield
            order.append("released")

        async def works() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
                order.append("ended")

        server = RecordingServer(holds_on=True)
        task = asyncio.ensure_future(server.run(app_of(works, journal, leader=lock)))
        await server.started.wait()
        await asyncio.sleep(0)
        del task

    asyncio.run(serve())
    assert order == ["ended", "released"]
    assert journal.events == ["+before", "+after", "-after", "-before"]


# --- any interleaving ---

STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "stop", "lose", "crash", "cancel", "fail", "heal", "wait"]), st.integers(0, 2)),
    max_size=12,
)


@hypothesis.given(steps=STEPS)
@hypothesis.settings(max_examples=150)
def test_any_interleaving_leaves_at_most_one_inside(steps: list[tuple[str, int]]) -> None:
    """Of three apps over one engine; nobody waits for ever, and each acquire has its release."""

    async def run() -> None:
        engine = FakeEngine()
        engine.release_seconds = 0.05
        running: dict[int, tuple[anyio.CancelScope, anyio.Event, list[Work]]] = {}
        inside: list[int] = []

        def new_app(number: int, works: list[Work]) -> LifespanMiddleware:
            async def works_alone() -> None:
                work = Work(engine)
                works.append(work)
                inside.append(number)
                assert len(inside) == 1
                try:
                    await work()
                finally:
                    inside.remove(number)

            app = LifespanMiddleware(Starlette())
            app.worker(leader=engine.lock)(works_alone)
            return app

        async def live(number: int, scope: anyio.CancelScope, may_stop: anyio.Event, works: list[Work]) -> None:
            with scope:
                try:
                    async with LifespanManager(new_app(number, works), None, None):
                        await may_stop.wait()
                except Boom:
                    pass

        async with anyio.create_task_group() as tasks:
            for step, number in steps:
                scope, may_stop, works = running.get(number, (anyio.CancelScope(), anyio.Event(), []))
                match step:
                    case "start" if number not in running:
                        running[number] = scope, may_stop, works
                        tasks.start_soon(live, number, scope, may_stop, works)
                    case "stop":
                        may_stop.set()
                        running.pop(number, None)
                    case "cancel":
                        scope.cancel()
                        running.pop(number, None)
                    case "crash" if works:
                        works[-1].error = Boom("broke")
                        works[-1].may_end.set()
                    case "lose":
                        engine.lose()
                    case "fail":
                        engine.error = OSError("gone")
                    case "heal":
                        engine.error = None
                    case _:
                        await anyio.sleep(3)
                await anyio.sleep(0.1)
            engine.error = None
            for _, may_stop, _ in running.values():
                may_stop.set()
        assert inside == []
        assert engine.inside == 0
        assert engine.acquired == engine.released

    for param in VIRTUAL[::2]:
        make: Callable[[], Any] = param.values[0]  # type: ignore[assignment]
        backend, options = make()
        anyio.run(run, backend=backend, backend_options=options)


def test_the_context_manager_of_a_lock_is_typed() -> None:
    """What a lock returns."""
    engine_lock: Callable[[], AbstractAsyncContextManager[Any]] = FakeEngine().lock
    assert Lifespan().worker(leader=engine_lock)(is_a_coroutine_function) is is_a_coroutine_function
