"""Workers, locks around a start, and workers that lead; on a virtual clock, over an engine in memory."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any
from unittest.mock import AsyncMock

import anyio
import anyio.to_thread
import hypothesis
import hypothesis.strategies as st
import pytest
from starlette.applications import Starlette

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, LifespanTimeout, StartupFailed, threaded
from asgi_lifespan_mw._units import locking
from asgi_lifespan_mw._units.backend import current_asyncio_task
from asgi_lifespan_mw._units.locking import HeldLock, LockLost, LockRefused
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
        await anyio.sleep(2)
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


async def test_a_worker_that_cleans_up_slowly_after_a_loss_is_cancelled_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its clean-up may take 10 s; an ERROR names it after one."""
    engine, cleaned_up = FakeEngine(), list[str]()

    async def cleans_up() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(5)
            cleaned_up.append("done")

    async with LifespanManager(app_of(cleans_up, leader=engine.lock), None, None):
        await anyio.sleep(1)
        engine.lose()
        await anyio.sleep(20)
        assert cleaned_up == ["done"]
    assert "did not stop after losing its lock" in caplog.text


@pytest.mark.parametrize("swallows", [False, True], ids=["raises", "swallows"])
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_lock_that_is_lost_while_its_worker_cleans_up_at_the_stop(
    when: str, swallows: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The clean-up is not cancelled, the worker does not begin again, and a WARNING tells the loss."""
    engine, events = FakeEngine(), list[str]()

    async def cleans_up() -> None:
        events.append("begins")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if when == "later":
                await anyio.sleep(0.5)
            engine.lose()
            await anyio.sleep(0.5)
            events.append("cleaned up")
            if not swallows:
                raise

    app = app_of(cleans_up, leader=engine.lock)
    async with LifespanManager(app, None, None):
        await anyio.sleep(1)
    assert events == ["begins", "cleaned up"]
    assert engine.acquired == engine.released == 1
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("hook 'cleans_up' ")
    assert warning.endswith(
        " lost its lock while it stopped; another process may have begun: the lock reported its loss"
    )


async def test_a_wait_that_returns_when_it_is_cancelled_reports_no_loss() -> None:
    """A library may end its `wait()` quietly at the release, when nobody needs it any more."""

    class Quiet:
        async def wait(self) -> None:
            with suppress(anyio.get_cancelled_exc_class()):
                await anyio.sleep_forever()

    @asynccontextmanager
    async def lock() -> AsyncIterator[Quiet]:
        yield Quiet()

    hooks = Lifespan()
    hooks.on_startup(lambda: None, lock=lock)
    async with LifespanManager(hooks) as manager:
        assert manager.state == {}
    assert hooks.report is not None
    assert [row.outcome for row in hooks.report.units] == ["stopped"]


async def test_a_worker_that_ignores_the_loss_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Two may run now; it does not lead again before it has ended."""
    engine, runs = FakeEngine(), list[int]()

    async def ignores_its_cancellation() -> None:
        runs.append(1)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(15)

    async with LifespanManager(app_of(ignores_its_cancellation, leader=engine.lock), None, None):
        await anyio.sleep(1)
        engine.lose()
        await anyio.sleep(13)
        [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert "did not stop after losing its lock (still running at tests/units/test_locking.py" in error
        assert error.endswith("); another process may be running it")
        assert len(runs) == 1
        await anyio.sleep(3)
        assert len(runs) == 2


@pytest.mark.parametrize(("timeout", "limit"), [(None, 10), (3, 3)])
async def test_the_cleanup_after_a_loss_may_wait_for_some_seconds(timeout: float | None, limit: float) -> None:
    """The loss is raised once, as ``Task.cancel()`` of asyncio does; when the time is up, every wait is cancelled."""
    engine, events = FakeEngine(), list[str]()

    async def cleans_up_slowly() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            began = anyio.current_time()
            await anyio.sleep(1)
            events.append("cleaned up")
            try:
                await anyio.sleep_forever()
            finally:
                events.append(f"cut off after {anyio.current_time() - began:.0f} s, {engine.inside} inside")

    async with LifespanManager(app_of(cleans_up_slowly, leader=engine.lock, timeout=timeout), None, 1):
        await anyio.sleep(1)
        engine.lose()
        await anyio.sleep(limit + 0.5)
        assert events == ["cleaned up", f"cut off after {limit} s, 1 inside"]
        assert engine.inside == 0


async def test_a_leader_that_crashes_frees_the_lock_and_leads_no_more() -> None:
    """Another process may run it; this one does not."""
    engine = FakeEngine()
    work = Work(engine)
    work.error = Boom("broke")
    with pytest.raises(Boom):
        async with LifespanManager(app_of(work, leader=engine.lock)):
            work.may_end.set()
            await anyio.sleep(10)
            assert engine.acquired == engine.released == 1


async def test_a_leader_that_returns_keeps_its_lock_until_the_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    """A job that is done is not done again by each other process in turn."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    engine, works = FakeEngine(), [Work(), Work()]
    first, second = (app_of(work, name="job", leader=engine.lock) for work in works)
    works[0].may_end.set()
    async with LifespanManager(first):
        async with LifespanManager(second):
            await anyio.sleep(10)
            assert first.report is not None
            assert [row.reason for row in first.report.units if row.reason] == ["has returned, holds the lock"]
            assert works[1].events == []
    assert works[0].events == ["begins", "returns"]
    assert engine.acquired == engine.released == 1
    assert "has returned; it holds its lock until the shutdown" in caplog.text


async def test_a_lock_that_is_lost_after_the_worker_returned_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Another process may run the job again; this one does not."""
    engine, work = FakeEngine(), Work()
    work.may_end.set()
    async with LifespanManager(app_of(work, leader=engine.lock)):
        await anyio.sleep(1)
        engine.lose()
        await anyio.sleep(10)
        assert work.events == ["begins", "returns"]
        assert engine.acquired == engine.released == 1
    assert "lost its lock after it had returned; another process may run it again" in caplog.text


async def test_a_worker_that_waited_for_its_lock_begins_a_second_later(caplog: pytest.LogCaptureFixture) -> None:
    """The processes of a server are stopped within a second; the one that gets the lock must not begin the job anew."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    engine, work = FakeEngine(), Work()
    async with LifespanManager(app_of(work, leader=engine.lock)):
        await anyio.sleep(0.1)
        assert work.events == ["begins"]  # it did not wait
    engine, work = FakeEngine(), Work()
    held = engine.lock()
    await held.__aenter__()
    async with LifespanManager(app_of(work, name="work", leader=engine.lock)):
        await anyio.sleep(10)
        assert "waits for its lock" in caplog.text
        await held.__aexit__(None, None, None)
        await anyio.sleep(0.9)
        assert (engine.inside, work.events) == (1, [])
        await anyio.sleep(0.2)
        assert work.events == ["begins"]


@pytest.mark.parametrize("fault", ["stop", "lose"])
async def test_a_worker_whose_lock_goes_before_it_began_does_not_begin(fault: str) -> None:
    """In the second before its beginning."""
    engine, work = FakeEngine(), Work()
    held = engine.lock()
    await held.__aenter__()
    async with LifespanManager(app_of(work, leader=engine.lock)):
        await anyio.sleep(10)
        await held.__aexit__(None, None, None)
        await anyio.sleep(0.5)
        if fault == "lose":
            engine.lose()
            await anyio.sleep(0.9)
        assert work.events == []
    assert work.events == []
    assert engine.inside == 0


async def test_a_worker_whose_engine_was_away_begins_a_second_later_too() -> None:
    """Other processes tried it as well, and their server may be stopping."""
    engine, work = FakeEngine(), Work()
    engine.error = OSError("gone")
    async with LifespanManager(app_of(work, leader=engine.lock)):
        await anyio.sleep(0.5)
        engine.error = None
        await anyio.sleep(1)
        assert (engine.inside, work.events) == (1, [])
        await anyio.sleep(1)
        assert work.events == ["begins"]


async def test_an_engine_that_refuses_the_lock_is_not_tried_again() -> None:
    """A pooler stays one: the worker has crashed."""

    def refuses() -> Any:
        raise LockRefused("behind a pooler")

    app = app_of(Work(), leader=refuses)
    with pytest.raises(LockRefused, match="behind a pooler"):
        async with LifespanManager(app):
            raise AssertionError
    assert app.report is not None
    assert app.report.units[1].outcome == "crashed"


async def test_the_log_and_the_report_say_who_gave_a_lock_back(caplog: pytest.LogCaptureFixture) -> None:
    """For a hook and for a worker."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    engine, other = FakeEngine(), FakeEngine()
    app = app_of(Work(), name="work", leader=engine.lock)
    app.on_startup(lambda: None, name="migrate", lock=other.lock)
    async with LifespanManager(app):
        await anyio.sleep(1)
    told = [re.sub(r" \(.*?\)", "", line) for line in caplog.messages if re.search("lock|leads", line)]
    assert told == [
        "hook 'work' leads: it holds the lock",
        "hook 'migrate' released its lock",
        "hook 'work' released its lock",
    ]
    assert app.report is not None
    assert app.report.units[1].reason == "released the lock"


# --- what counts as a loss ---


def group_of_anyio(renew: Any) -> Any:
    """A lock whose renewal runs in a task group."""

    @asynccontextmanager
    async def lock() -> AsyncIterator[Any]:
        async with anyio.create_task_group() as group:
            group.start_soon(renew)
            yield None
            group.cancel_scope.cancel()

    return lock


def group_of_asyncio(renew: Any) -> Any:
    """A lock whose renewal runs in a task group of asyncio."""

    @asynccontextmanager
    async def lock() -> AsyncIterator[Any]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(renew())
            yield None
            task.cancel()

    return lock


def limited(renew: Any) -> Any:
    """A lock whose context manager ends by itself, without an error."""

    @asynccontextmanager
    async def lock() -> AsyncIterator[Any]:
        with anyio.move_on_after(3), suppress(ValueError):
            yield None

    return lock


def limited_with_an_error(renew: Any) -> Any:
    """A lock whose context manager raises after some time."""

    @asynccontextmanager
    async def lock() -> AsyncIterator[Any]:
        with anyio.fail_after(3):
            yield None

    return lock


def with_a_wait_that_never_returns(lock: Any) -> Any:
    """The same lock, which also has a `wait()`."""

    @asynccontextmanager
    async def waits() -> AsyncIterator[Any]:
        async with lock():
            yield anyio.Event()

    return waits


async def breaks() -> None:
    """Renew a lock until the engine gives an answer that cannot be read."""
    await anyio.sleep(3)
    raise ValueError("not JSON")


BREAKING = pytest.mark.parametrize("kind", [group_of_anyio, group_of_asyncio, limited, limited_with_an_error])


def breaking(kind: Any, *, has_wait: bool) -> Any:
    """Return a lock that breaks after three seconds."""
    if kind is group_of_asyncio and current_asyncio_task() is None:
        pytest.skip("a group of asyncio's")
    return with_a_wait_that_never_returns(kind(breaks)) if has_wait else kind(breaks)


@BREAKING
@pytest.mark.parametrize("has_wait", [True, False])
async def test_a_lock_that_cancels_what_it_holds_is_lost_for_its_leader(
    kind: Any, has_wait: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker is cancelled at once, and leads again when it has the lock again."""
    work = Work()
    async with LifespanManager(app_of(work, leader=breaking(kind, has_wait=has_wait))):
        await anyio.sleep(2.9)
        assert work.events == ["begins"]
        await anyio.sleep(1)
        assert work.events == ["begins", "is cancelled"]
        assert caplog.text.count("lost its lock and was stopped") == 1
        await anyio.sleep(1.5)
        assert work.events == ["begins", "is cancelled", "begins"]
    assert work.events == ["begins", "is cancelled", "begins", "is cancelled"]


@BREAKING
@pytest.mark.parametrize("has_wait", [True, False])
async def test_a_lock_that_cancels_what_it_holds_fails_the_start(kind: Any, has_wait: bool) -> None:
    """Of the hook that starts under it."""
    lock = breaking(kind, has_wait=has_wait)
    hooks = Lifespan()
    hooks.on_startup(lock=lock)(anyio.sleep_forever)
    with pytest.raises(StartupFailed, match="its lock was lost meanwhile"):
        async with LifespanManager(hooks, None, None):
            raise AssertionError("it did not start")  # pragma: no cover


class ReportsByTheClock:
    """A handle whose `wait()` returns two seconds after it began, however long the event loop is blocked."""

    async def wait(self) -> None:
        """Return when the lock was lost."""
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            await anyio.sleep(0.01)


@asynccontextmanager
async def reports_by_the_clock() -> AsyncIterator[ReportsByTheClock]:
    """A lock that is lost after a short time."""
    yield ReportsByTheClock()


@asynccontextmanager
async def finds_at_its_release() -> AsyncIterator[anyio.Event]:
    """A lock that notices at its release that it was lost."""
    yield anyio.Event()
    raise LockLost("another process has it")


@asynccontextmanager
async def raises_at_its_release() -> AsyncIterator[None]:
    """A lock as redis-py has it: without a `wait()`, with an error at the release."""
    yield
    raise OSError("not owned")


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", ["on_startup", "context"])
@pytest.mark.parametrize("lock", [reports_by_the_clock, finds_at_its_release, raises_at_its_release])
async def test_a_loss_that_is_seen_at_the_release_fails_the_start(lock: Any, kind: str) -> None:
    """A hook that blocked the event loop has started by then; a context is left again."""
    events: list[str] = []

    async def blocks() -> None:
        time.sleep(0.1)
        events.append("started")

    async def context() -> AsyncIterator[None]:
        await blocks()
        yield
        events.append("left")

    hooks = Lifespan()
    hooks.on_startup(blocks, lock=lock) if kind == "on_startup" else hooks.context(context, lock=lock)
    with pytest.raises(StartupFailed, match="its lock was lost meanwhile"):
        async with LifespanManager(hooks, None, None):
            raise AssertionError("it did not start")  # pragma: no cover
    assert events == (["started"] if kind == "on_startup" else ["started", "left"])


async def noting(events: list[str], seconds: float) -> AsyncIterator[None]:
    """A context that notes what it sees at its yield, and the end of its clean-up, which takes so many seconds."""
    try:
        yield
    except BaseException as error:  # pragma: no cover
        events.append(repr(error))
        raise
    finally:
        await anyio.sleep(seconds)
        events.append("left")


@pytest.mark.parametrize("cause", ["its time is up", "a sibling fails"])
async def test_a_context_that_is_cancelled_while_its_lock_is_released_is_left_as_at_the_shutdown(cause: str) -> None:
    """It has been entered: it sees no cancellation at its yield, and its clean-up may wait."""
    engine = FakeEngine()
    engine.release_seconds = 1.5
    events: list[str] = []

    async def fails() -> None:
        await anyio.sleep(1)
        if cause == "a sibling fails":
            raise Boom

    hooks = Lifespan(concurrent=True)
    hooks.context(lambda: noting(events, 0.2), lock=engine.lock, timeout=1 if cause == "its time is up" else None)
    hooks.on_startup(fails)
    with pytest.raises(Boom if cause == "a sibling fails" else LifespanTimeout):
        async with LifespanManager(hooks, None, None):
            raise AssertionError("it did not start")  # pragma: no cover
    assert events == ["left"]
    assert engine.released == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_context_whose_lock_is_released_as_the_server_cancels_all_tasks_is_left_as_at_the_shutdown() -> None:
    """The server may be uvicorn, at a second Ctrl-C."""
    engine = FakeEngine()
    engine.release_seconds = 0.1
    events: list[str] = []

    before = asyncio.all_tasks()
    app = LifespanMiddleware(Starlette())
    app.context(lambda: noting(events, 0.1), lock=engine.lock)
    task = asyncio.create_task(RecordingServer().run(app))
    while not engine.acquired:
        await anyio.sleep(0.01)
    await anyio.sleep(0.03)
    for one in asyncio.all_tasks() - before:
        one.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert events == ["left"]


async def test_a_hook_that_fails_under_a_lock_that_is_lost_shows_its_own_error() -> None:
    """The loss is seen at the release, when the start has failed already."""
    hooks = Lifespan()

    def broken() -> None:
        raise Boom("no migration")

    hooks.on_startup(broken, lock=finds_at_its_release)
    with pytest.raises(Boom, match="no migration"):
        async with LifespanManager(hooks):
            raise AssertionError("it did not start")  # pragma: no cover


async def await_a_cancelled_task() -> None:
    """Raise a cancellation that nobody asked for, as an engine's library may."""
    if current_asyncio_task() is None:
        raise asyncio.CancelledError
    task = asyncio.ensure_future(asyncio.sleep(10))
    task.cancel()
    await task


@asynccontextmanager
async def cancelled_while_waiting() -> AsyncIterator[None]:
    """A lock that raises a cancellation when it is waited for."""
    await await_a_cancelled_task()
    yield  # pragma: no cover


class CancelledWait:
    """A handle whose `wait()` raises a cancellation."""

    async def wait(self) -> None:
        """Return when the lock was lost."""
        await anyio.sleep(1)
        await await_a_cancelled_task()


@asynccontextmanager
async def cancelled_while_held() -> AsyncIterator[CancelledWait]:
    """A lock whose handle raises a cancellation."""
    yield CancelledWait()


@asynccontextmanager
async def cancelled_while_released() -> AsyncIterator[anyio.Event]:
    """A lock that raises a cancellation at its release."""
    yield anyio.Event()
    await await_a_cancelled_task()


async def test_an_engine_that_raises_a_cancellation_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """A leader tries again; that is no crash."""
    work = Work()
    async with LifespanManager(app_of(work, leader=cancelled_while_waiting)):
        await anyio.sleep(4)
    assert work.events == []
    assert caplog.text.count("cannot get its lock and tries again: RuntimeError: the lock raised") == 1


async def test_a_start_fails_if_its_engine_raises_a_cancellation() -> None:
    """With words, and not as if the start had been cancelled."""
    hooks = Lifespan()
    hooks.on_startup(lambda: None, lock=cancelled_while_waiting)
    with pytest.raises(RuntimeError, match=r"the lock raised .*CancelledError") as raised:
        async with LifespanManager(hooks):
            raise AssertionError("it did not start")  # pragma: no cover
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)


async def test_a_watch_that_raises_a_cancellation_is_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    """As any error of it."""
    work = Work()
    async with LifespanManager(app_of(work, leader=cancelled_while_held)):
        await anyio.sleep(2)
        assert work.events == ["begins", "is cancelled"]
    assert "lost its lock and was stopped; it waits for the lock again: " in caplog.text


async def test_a_release_that_raises_a_cancellation_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The lock was held to the end."""
    hooks = Lifespan()
    hooks.on_startup(lambda: None, lock=cancelled_while_released)
    async with LifespanManager(hooks):
        pass
    assert "its lock could not be released: " in caplog.text


async def test_a_lock_that_is_lost_while_its_worker_stops_is_not_waited_for_again() -> None:
    """The cancellation of the shutdown is delivered once, and must not be taken for that of the loss."""
    engine, work = FakeEngine(), Work()
    async with anyio.create_task_group() as tasks:
        async with LifespanManager(app_of(work, leader=engine.lock), None, 5):
            await anyio.sleep(1)
            tasks.start_soon(_lose_later, engine)
    assert work.events == ["begins", "is cancelled"]
    assert engine.acquired == engine.released == 1


async def _lose_later(engine: FakeEngine) -> None:
    await anyio.sleep(0.2)
    engine.lose()


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


@pytest.mark.parametrize("has_group", [True, False])
def test_a_lock_is_renewed_until_its_release_if_a_server_cancels_all_tasks(has_group: bool) -> None:
    """Also if a group in the lock loses its tasks by that: the work under the lock still ends."""
    order: list[str] = []
    begun = asyncio.Event()

    class Renewed:
        async def wait(self) -> None:
            """Renew the lock every moment."""
            while True:
                await anyio.sleep(0.01)
                order.append("renewed")

    @asynccontextmanager
    async def lock() -> AsyncIterator[Renewed]:
        async with anyio.create_task_group() as group:
            if has_group:
                group.start_soon(anyio.sleep_forever)
            yield Renewed()
            group.cancel_scope.cancel()
        order.append("released")

    async def works() -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            order.clear()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)
            order.append("ended")

    async def serve() -> None:
        server = RecordingServer(holds_on=True)
        task = asyncio.ensure_future(server.run(app_of(works, leader=lock)))
        await begun.wait()
        del task

    began = time.process_time()
    asyncio.run(serve())
    assert "ended" in order
    assert order[-1] == "released"
    assert order.count("renewed") > 3
    assert time.process_time() - began < 2  # a loop that never waits would take all of it and more


# --- threads ---

HOOK_KINDS = pytest.mark.parametrize("kind", ["on_startup", "context"])


class Migration:
    """A migration in a thread, which ends when it may.

    Attributes:
        running: Whether its thread runs.
    """

    def __init__(self) -> None:
        self.running = threading.Event()
        self.may_end = threading.Event()

    def run(self) -> None:
        """Migrate."""
        self.running.set()
        assert self.may_end.wait(10)
        self.running.clear()

    def function(self) -> None:
        """A hook for `on_startup`."""
        self.run()

    def context(self) -> Iterator[None]:
        """A hook for `context`."""
        self.run()
        yield

    def hooks(self, kind: str, engine: FakeEngine, *, timeout: float | None = None) -> Lifespan:
        """Return a Lifespan with the migration under a lock, and another hook that may fail beside it."""
        hooks = Lifespan(concurrent=True)
        if kind == "on_startup":
            hooks.on_startup(threaded(self.function), name="migrate", lock=engine.lock, timeout=timeout)
        else:
            hooks.context(threaded(self.context), name="migrate", lock=engine.lock, timeout=timeout)
        return hooks


REAL = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
"""Threads do not know of a virtual clock."""


@REAL
@HOOK_KINDS
@pytest.mark.parametrize("end", ["timeout", "cancelled", "another fails", "stop"])
async def test_a_thread_under_a_lock_keeps_the_lock_until_it_returns(
    end: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever ended the wait for it; the start is answered after that."""
    engine, migration = FakeEngine(), Migration()
    hooks = migration.hooks(kind, engine, timeout=0.5 if end == "timeout" else None)
    app = LifespanMiddleware(Starlette(), lifespan=hooks)
    answered = anyio.Event()

    async def fails() -> None:
        await anyio.to_thread.run_sync(migration.running.wait)
        raise Boom("beside it")

    if end == "another fails":
        hooks.on_startup(fails)

    async def start(scope: anyio.CancelScope) -> None:
        with scope, suppress(Boom, LifespanTimeout):
            async with LifespanManager(app, None, None):
                raise AssertionError("it did not start")  # pragma: no cover
        answered.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(start, scope)
            await anyio.to_thread.run_sync(migration.running.wait)
            if end in ("cancelled", "stop"):
                scope.cancel()
            while "goes on in a thread" not in caplog.text:
                await anyio.sleep(0.01)
            await anyio.sleep(0.1)
            assert engine.inside == 1
            assert not answered.is_set()
            assert app.report is not None
            migration.may_end.set()
            await answered.wait()
            assert not migration.running.is_set()
            assert engine.acquired == engine.released == 1
    assert "'migrate'" in caplog.text
    assert "has not returned" not in caplog.text


@REAL
@HOOK_KINDS
async def test_a_thread_that_does_not_return_in_time_is_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The start is answered; the lock is released when the thread returns, while the event loop runs."""
    engine, migration = FakeEngine(), Migration()
    hooks = migration.hooks(kind, engine, timeout=0.5)  # in which the thread begins
    app = LifespanMiddleware(Starlette(), lifespan=hooks, shutdown_timeout=0.3)
    with anyio.fail_after(10):
        with pytest.raises(LifespanTimeout):
            async with LifespanManager(app, None, None):
                raise AssertionError("it did not start")  # pragma: no cover
        [error] = [line for line in caplog.messages if "has not returned" in line]
        assert re.fullmatch(
            r"the thread of hook 'migrate' \(.*\) has not returned; another process may go on beside it", error
        )
        assert engine.inside == 1
        migration.may_end.set()
        while engine.inside:
            await anyio.sleep(0.01)


@REAL
async def test_a_stop_without_a_limit_waits_some_seconds_for_a_thread(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of them, which are shorter here."""
    assert locking.THREAD_LIMIT == 10
    monkeypatch.setattr(locking, "THREAD_LIMIT", 0.3)
    engine, migration = FakeEngine(), Migration()
    app = LifespanMiddleware(Starlette(), lifespan=migration.hooks("on_startup", engine, timeout=0.5))
    try:
        with pytest.raises(LifespanTimeout), anyio.fail_after(10):
            async with LifespanManager(app, None, None):
                raise AssertionError("it did not start")  # pragma: no cover
        assert "has not returned" in caplog.text
    finally:
        migration.may_end.set()


@REAL
async def test_a_thread_that_never_began_is_not_waited_for() -> None:
    """All threads are busy: the cancelled call does not begin later."""
    engine, migration = FakeEngine(), Migration()
    limiter = anyio.to_thread.current_default_thread_limiter()
    tokens, limiter.total_tokens = limiter.total_tokens, 1
    try:
        await limiter.acquire_on_behalf_of("another")
        with pytest.raises(LifespanTimeout), anyio.fail_after(5):
            async with LifespanManager(migration.hooks("on_startup", engine, timeout=0.05), None, None):
                raise AssertionError("it did not start")  # pragma: no cover
        assert engine.acquired == engine.released == 1
    finally:
        limiter.release_on_behalf_of("another")
        limiter.total_tokens = tokens
    assert not migration.running.is_set()


@REAL
async def test_a_background_hook_in_a_thread_keeps_its_lock_at_the_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    """The shutdown is answered when its thread has returned."""
    engine, migration = FakeEngine(), Migration()
    app = LifespanMiddleware(Starlette())
    app.on_startup(threaded(migration.function), name="migrate", lock=engine.lock, background=True)

    async def end() -> None:
        while "goes on in a thread" not in caplog.text:
            await anyio.sleep(0.01)
        assert engine.inside == 1
        migration.may_end.set()

    async with anyio.create_task_group() as tasks:
        async with LifespanManager(app, None, None):
            await anyio.to_thread.run_sync(migration.running.wait)
            tasks.start_soon(end)
    assert engine.acquired == engine.released == 1


# --- any interleaving ---

STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "stop", "lose", "crash", "cancel", "fail", "heal", "wait"]), st.integers(0, 2)),
    max_size=12,
)


@pytest.mark.slow
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
