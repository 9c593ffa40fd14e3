"""Workers that begin anew: `restart=` after a failure, `every=` at intervals; on a virtual clock."""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, UnitReport, check_lifespan
from asgi_lifespan_mw._types import ASGIApp
from asgi_lifespan_mw._units.backend import current_asyncio_task
from tests.conftest import VIRTUAL
from tests.plans import Boom, Journal
from tests.server import RecordingServer
from tests.units.test_locking import FakeEngine


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: pauses take no time."""
    return request.param()


class Runs:
    """A worker that records when each of its runs begins.

    Attributes:
        times: When each began, in seconds from the first.
        ended: How many have ended, in whichever way.
        then: What each run does.
    """

    def __init__(self, then: Callable[[int], Any]) -> None:
        self.times: list[float] = []
        self.ended = 0
        self.open = 0
        self._first = 0.0
        self._then = then

    async def __call__(self) -> None:
        """Begin a run; two of them never overlap."""
        assert not self.open
        self.open += 1
        self._first = self._first if self.times else anyio.current_time()
        self.times.append(round(anyio.current_time() - self._first, 3))
        try:
            result = self._then(len(self.times))
            if result is not None:
                await result
        finally:
            self.open -= 1
            self.ended += 1


def fails(_: int = 0) -> None:
    """Raise at once."""
    raise Boom("gone")


def app_of(worker: Any, **options: Any) -> LifespanMiddleware:
    """Return an app with one worker."""
    app = LifespanMiddleware(Starlette())
    app.worker(worker, name="work", **options)
    return app


def row(app: LifespanMiddleware | Lifespan) -> UnitReport:
    """Return the row of the worker."""
    assert app.report is not None
    return app.report.units[0]


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of errors."""
    return [record for record in caplog.records if record.levelno == logging.ERROR]


# --- what is refused ---


@pytest.mark.parametrize("given", [0, -1])
def test_a_number_of_restarts_below_one_is_refused(given: int) -> None:
    """It would be a worker that never restarts, or nothing at all."""
    with pytest.raises(ValueError, match=rf"restart=\.\.\.\) got {given}, expected True, or the number .*at least 1"):
        Lifespan().worker(Runs(fails), restart=given)


@pytest.mark.parametrize("given", [None, 1.5, "always"])
def test_restart_is_a_flag_or_an_integer(given: Any) -> None:
    """The refusal says what belongs there."""
    with pytest.raises(TypeError, match=r"worker\(restart=\.\.\.\) got .*, expected True, or the number of restarts"):
        Lifespan().worker(Runs(fails), restart=given)


@pytest.mark.parametrize("given", [0, -1, math.nan])
def test_an_interval_that_is_not_positive_is_refused(given: float) -> None:
    """The refusal says what belongs there."""
    with pytest.raises(ValueError, match=r"worker\(every=\.\.\.\) got .*, expected .* seconds, or None for one call"):
        Lifespan().worker(Runs(fails), every=given)


@pytest.mark.parametrize("given", ["60", True])
def test_an_interval_is_a_number(given: Any) -> None:
    """The refusal says what belongs there."""
    with pytest.raises(TypeError, match=r"worker\(every=\.\.\.\) got .*, expected seconds as a number, or None for"):
        Lifespan().worker(Runs(fails), every=given)


@pytest.mark.parametrize("restart", [True, 3])
def test_restart_and_every_are_refused_together(restart: bool | int) -> None:
    """A run that fails is followed by the next one anyway."""
    with pytest.raises(ValueError, match=r"worker\(every=60\) got restart=.*, expected one of the two"):
        Lifespan().worker(Runs(fails), restart=restart, every=60)


# --- restart= ---


async def test_a_worker_that_raises_is_restarted_with_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """After 1, 2, 4, ... 30 s; each failure is an ERROR with its traceback, and no part of the answer."""
    runs = Runs(fails)
    app = app_of(runs, restart=True)
    async with LifespanManager(app):
        await anyio.sleep(100)
        assert app.ready
    assert runs.times == [0, 1, 3, 7, 15, 31, 61, 91]
    assert row(app).restarts == 7
    assert row(app).outcome == "stopped"
    assert len(errors(caplog)) == 8
    for record, pause in zip(errors(caplog), [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert record.getMessage().startswith("run failed in hook 'work' (")
        assert record.getMessage().endswith(f"Boom: gone (it is restarted in {pause} s)")
        assert record.exc_info


async def test_a_run_that_lasted_a_minute_begins_the_pauses_anew() -> None:
    """The count of restarts in a row too; the report counts them all."""
    lasts = {3: 60}

    async def then(number: int) -> None:
        await anyio.sleep(lasts.get(number, 0))
        fails()

    runs = Runs(then)
    app = app_of(runs, restart=2)
    async with LifespanManager(app):
        await anyio.sleep(65)
    assert runs.times == [0, 1, 3, 64]
    assert row(app).restarts == 3


async def test_after_its_last_restart_in_a_row_a_failure_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """`restart=1` is one restart; the crash calls `on_crash`, once."""
    crashes: list[BaseException] = []
    app = LifespanMiddleware(Starlette(), on_crash=crashes.append)
    runs = Runs(fails)
    app.worker(runs, restart=1)
    with pytest.raises(Boom):
        async with LifespanManager(app):
            await anyio.sleep(100)
    assert runs.times == [0, 1]
    assert len(crashes) == 1
    assert [record.getMessage().partition(" in ")[0] for record in errors(caplog)] == ["run failed", "crash"]
    assert (row(app).outcome, row(app).restarts) == ("crashed", 1)


async def test_a_worker_that_returns_is_over() -> None:
    """It is not restarted."""
    runs = Runs(lambda number: fails() if number == 1 else None)
    async with LifespanManager(app_of(runs, restart=True)):
        await anyio.sleep(100)
    assert runs.times == [0, 1]


async def test_the_report_and_the_observers_see_each_pause() -> None:
    """The reason says when it is restarted, and after which error."""
    seen: list[tuple[str, str, int]] = []
    app = LifespanMiddleware(
        Starlette(),
        observe=lambda one: seen.append((one.outcome, one.reason, one.restarts)) if one.kind == "hook" else None,
    )
    app.worker(Runs(fails), restart=True)
    async with LifespanManager(app):
        await anyio.sleep(0.5)
        assert row(app).outcome == "restarting"
        await anyio.sleep(1.5)
    assert seen == [
        ("starting", "", 0),
        ("started", "", 0),
        ("restarting", "is restarted in 1 s, after tests.plans.Boom: gone", 0),
        ("started", "", 1),
        ("restarting", "is restarted in 2 s, after tests.plans.Boom: gone", 1),
        ("stopping", "is restarted in 2 s, after tests.plans.Boom: gone", 1),
        ("stopping", "", 1),
        ("stopped", "", 1),
    ]


async def test_a_failure_before_the_answer_does_not_fail_the_startup(journal: Journal) -> None:
    """A plain worker would end it."""
    app = app_of(Runs(fails), restart=True)

    async def slow() -> None:
        await anyio.sleep(5)

    app.on_startup(slow)
    app.context(journal.context("after"))
    server = RecordingServer()
    await server.run(app)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert journal.events == ["+after", "-after"]


async def test_a_cancellation_that_nobody_requested_is_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """``await cancelled_task``; on trio it is asyncio's exception, which nothing there asks for."""

    def then(number: int) -> Any:
        if number > 1:
            return None
        if current_asyncio_task() is None:
            raise asyncio.CancelledError
        task = asyncio.ensure_future(anyio.sleep_forever())
        task.cancel()
        return task

    app = app_of(Runs(then), restart=True)
    async with LifespanManager(app):
        await anyio.sleep(3)
        assert row(app).restarts == 1
    assert "run failed in hook 'work'" in caplog.text
    assert "cancelled unexpectedly: asyncio.exceptions.CancelledError" in caplog.text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
async def test_what_ends_the_process_is_a_crash(error: type[BaseException], options: dict[str, Any]) -> None:
    """It is not restarted."""

    def then(_: int) -> None:
        raise error

    runs = Runs(then)
    app = app_of(runs, **options)
    with pytest.raises(error):
        await LifespanManager(app).__aenter__()
    assert runs.times == [0]
    assert row(app).outcome == "crashed"


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
@pytest.mark.parametrize("after", [0.0, 0.5], ids=["while it runs", "in its clean-up"])
async def test_the_stop_waits_for_clean_up_that_awaits(options: dict[str, Any], after: float, journal: Journal) -> None:
    """As for any worker; what was opened before is still open."""

    async def works() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(1)
            journal.events.append("ends")

    app = LifespanMiddleware(Starlette(), [journal.context("pool")])
    app.worker(works, **options)
    async with LifespanManager(app):
        await anyio.sleep(after)
    assert journal.events == ["+pool", "ends", "-pool"]


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
async def test_the_stop_ends_a_pause_at_once(options: dict[str, Any]) -> None:
    """No run begins anew."""
    runs = Runs(fails)
    app = app_of(runs, **options)
    async with LifespanManager(app):
        await anyio.sleep(0.5)
        before = anyio.current_time()
    assert anyio.current_time() - before < 0.5
    assert runs.times == [0]
    assert row(app).outcome == "stopped"


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
async def test_an_error_in_the_clean_up_at_the_stop_is_a_failed_shutdown(options: dict[str, Any]) -> None:
    """Not a run that failed, and no pause follows."""

    async def works() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            fails()

    app = app_of(works, **options)
    with pytest.raises(Boom):
        async with LifespanManager(app):
            await anyio.sleep(1)
    assert (row(app).outcome, row(app).restarts) == ("failed", 0)


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
async def test_a_run_that_swallows_its_cancellation_is_the_last(options: dict[str, Any]) -> None:
    """It was to end."""

    async def then(_: int) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass

    runs = Runs(then)
    async with LifespanManager(app_of(runs, **options)):
        await anyio.sleep(1)
    assert runs.times == [0]


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
@pytest.mark.parametrize("leads", [False, True], ids=["alone", "leads"])
@pytest.mark.parametrize("is_pausing", [False, True], ids=["runs", "pauses"])
async def test_the_server_may_cancel_all_tasks(options: dict[str, Any], leads: bool, is_pausing: bool) -> None:
    """Uvicorn at a second Ctrl-C: nothing begins anew."""
    if current_asyncio_task() is None:
        return
    runs = Runs(fails if is_pausing else lambda _: anyio.sleep_forever())
    engine = FakeEngine()
    app = app_of(runs, leader=engine.lock if leads else None, **options)
    server = RecordingServer(holds_on=True)
    of_test = asyncio.all_tasks()
    lifespan = asyncio.ensure_future(server.run(app))
    await server.started.wait()
    await anyio.sleep(0.5)
    for task in asyncio.all_tasks() - of_test:
        task.cancel()
    await asyncio.wait([lifespan])
    assert lifespan.cancelled()
    assert runs.times == [0]
    assert runs.ended == 1
    assert engine.acquired == leads


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
async def test_a_cancellation_of_the_worker_s_own_task_ends_it(options: dict[str, Any]) -> None:
    """``for task in asyncio.all_tasks(): task.cancel()`` in user code, or the end of `asyncio.run`: a crash."""
    if current_asyncio_task() is None:
        return
    tasks: list[Any] = []

    async def works() -> None:
        tasks.append(asyncio.current_task())
        await anyio.sleep_forever()

    app = app_of(works, **options)
    with pytest.raises(Exception, match="cancelled unexpectedly"):
        async with LifespanManager(app):
            await anyio.sleep(0.1)
            tasks[0].cancel()
            await anyio.sleep(200)
    assert len(tasks) == 1


# --- every= ---


async def test_a_worker_is_called_at_once_and_then_at_intervals() -> None:
    """The pause begins when the call has ended."""
    runs = Runs(lambda _: anyio.sleep(5))
    app = app_of(runs, every=60)
    async with LifespanManager(app):
        await anyio.sleep(200)
        assert app.ready
    assert runs.times == [0, 65, 130, 195]
    assert (row(app).outcome, row(app).restarts) == ("stopped", 0)


async def test_a_run_that_raises_is_followed_by_the_next_one_at_its_time(caplog: pytest.LogCaptureFixture) -> None:
    """An ERROR with its traceback, and no part of the answer."""
    runs = Runs(lambda number: fails() if number == 2 else None)
    async with LifespanManager(app_of(runs, every=60)):
        await anyio.sleep(150)
    assert runs.times == [0, 60, 120]
    (record,) = errors(caplog)
    assert record.getMessage().startswith("run failed in hook 'work' (")
    assert record.getMessage().endswith("Boom: gone")
    assert record.exc_info


async def test_the_timeout_bounds_each_run(caplog: pytest.LogCaptureFixture) -> None:
    """One that exceeds it is cancelled, has failed, and is named with the line at which it waited."""
    runs = Runs(lambda number: anyio.sleep_forever() if number == 1 else None)
    async with LifespanManager(app_of(runs, every=60, timeout=5)):
        await anyio.sleep(100)
    assert runs.times == [0, 65]
    (record,) = errors(caplog)
    assert record.getMessage().startswith("run timed out after 5 s in hook 'work' (")
    assert "; it was at tests/test_repeating.py:" in record.getMessage()


async def test_a_run_that_is_out_of_time_has_a_second_for_its_clean_up(caplog: pytest.LogCaptureFixture) -> None:
    """Then it is cancelled for good."""
    cleaned: list[float] = []

    async def hangs(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.5 if number == 1 else 100)
            cleaned.append(number)

    runs = Runs(lambda number: hangs(number) if number < 3 else None)
    async with LifespanManager(app_of(runs, every=60, timeout=5)):
        await anyio.sleep(132)
    assert cleaned == [1]
    assert runs.times == [0, 65.5, 131.5]
    assert len(errors(caplog)) == 2


async def test_a_run_that_is_out_of_time_may_raise_or_return(caplog: pytest.LogCaptureFixture) -> None:
    """It has timed out, whatever it makes of that."""

    async def then(number: int) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if number == 1:
                fails()

    async with LifespanManager(app_of(Runs(then), every=60, timeout=5)):
        await anyio.sleep(80)
    timed_out = "run timed out after 5 s"
    assert [one.getMessage().partition(" in ")[0] for one in errors(caplog)] == [timed_out, "run failed", timed_out]


async def test_the_log_names_a_run_that_takes_longer_than_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    """Then after twice that, and so on, with the line at which it waits; the next run comes after it."""
    runs = Runs(lambda number: anyio.sleep(250) if number == 1 else None)
    async with LifespanManager(app_of(runs, every=60)):
        await anyio.sleep(320)
    assert runs.times == [0, 310]
    slow = [record.getMessage() for record in caplog.records if "takes more than" in record.getMessage()]
    assert [text.partition("more than ")[2].partition(",")[0] for text in slow] == ["60 s", "120 s", "240 s"]
    assert all(", at tests/test_repeating.py:" in text for text in slow)


async def test_a_run_that_is_out_of_time_at_the_stop_is_told_and_does_not_fail_the_shutdown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run has failed, the worker has not."""

    async def then(_: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.5)

    app = app_of(Runs(then), every=60, timeout=5)
    async with LifespanManager(app):
        await anyio.sleep(5.2)
    assert row(app).outcome == "stopped"
    assert [record.getMessage().partition(" in ")[0] for record in errors(caplog)] == ["run timed out after 5 s"]


async def test_a_run_that_blocks_the_event_loop_beyond_its_time_has_failed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be cancelled, and is named when it returns."""
    now = anyio.current_time
    late = [0.0]
    monkeypatch.setattr("asgi_lifespan_mw._run.repeating.anyio.current_time", lambda: now() + late[0])

    def then(number: int) -> None:
        late[0] += 6 if number == 1 else 0

    async with LifespanManager(app_of(Runs(then), every=60, timeout=5)):
        await anyio.sleep(80)
    assert [record.getMessage().partition(" in ")[0] for record in errors(caplog)] == ["run timed out after 5 s"]


async def test_the_clean_up_at_the_stop_is_not_a_run_that_is_out_of_time(caplog: pytest.LogCaptureFixture) -> None:
    """The stop's own limit names it, and it has failed."""

    async def then(_: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(4)

    app = app_of(Runs(then), every=60, timeout=5)
    async with LifespanManager(app):
        await anyio.sleep(3)
    assert row(app).outcome == "stopped"
    assert not errors(caplog)


# --- with leader= ---


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 2}], ids=["restart", "every"])
async def test_the_lock_is_held_between_two_runs(options: dict[str, Any]) -> None:
    """It is acquired once, and released at the stop; in a pause the report says `leading` again afterwards."""
    engine = FakeEngine()
    runs = Runs(fails)
    app = app_of(runs, leader=engine.lock, **options)
    async with LifespanManager(app):
        await anyio.sleep(5.5)
        assert engine.inside == 1
    assert (engine.acquired, engine.released) == (1, 1)
    assert len(runs.times) == 3


@pytest.mark.parametrize("options", [{"restart": 1}, {"every": 60}], ids=["restart", "every"])
@pytest.mark.parametrize("raises", [False, True], ids=["cancelled", "raises"])
async def test_a_lost_lock_is_not_a_failure(
    options: dict[str, Any], raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker waits for the lock again. What its clean-up raises is logged, and no run begins without the lock."""
    engine = FakeEngine()

    async def then(number: int) -> None:
        assert engine.inside == 1
        try:
            await anyio.sleep_forever()
        finally:
            if raises and number < 4:
                fails()

    runs = Runs(then)
    app = app_of(runs, leader=engine.lock, **options)
    async with LifespanManager(app):
        for times in (1, 2, 3):
            await anyio.sleep(10)
            assert len(runs.times) == times
            engine.lose()
        await anyio.sleep(10)
        assert row(app).restarts == 0
    assert engine.acquired == 4
    assert len(errors(caplog)) == 3 * raises


@pytest.mark.parametrize("options", [{"restart": True}, {"every": 60}], ids=["restart", "every"])
async def test_a_lock_that_is_lost_in_a_pause_ends_it(options: dict[str, Any]) -> None:
    """The next run begins under the next lock."""
    engine = FakeEngine()

    def then(number: int) -> Any:
        assert engine.inside == 1
        return fails() if number < 5 and "restart" in options else None

    runs = Runs(then)
    async with LifespanManager(app_of(runs, leader=engine.lock, **options)):
        await anyio.sleep(9)
        engine.lose()
        await anyio.sleep(3)
        assert engine.acquired == 2
    assert len(runs.times) == (5 if "restart" in options else 2)


async def test_an_error_after_a_lost_lock_does_not_use_up_the_restarts(caplog: pytest.LogCaptureFixture) -> None:
    """The worker has had its last restart, loses its lock, and raises in its clean-up: it waits for the lock."""
    engine = FakeEngine()

    async def then(number: int) -> None:
        try:
            if number != 1:
                await anyio.sleep_forever()
        finally:
            if number < 3:
                fails()

    runs = Runs(then)
    app = app_of(runs, leader=engine.lock, restart=1)
    async with LifespanManager(app):
        await anyio.sleep(10)
        engine.lose()
        await anyio.sleep(10)
        assert row(app).outcome == "started"
    assert len(runs.times) == 3
    assert engine.acquired == 2
    assert "it is restarted when it has its lock" in caplog.text


# --- ways of use ---


def mounted(app: ASGIApp) -> LifespanMiddleware:
    """Return an app in which another one is mounted."""
    return LifespanMiddleware(Starlette(routes=[Mount("/sub", app)]))


@pytest.mark.parametrize("way", ["own", "manager", "included", "mounted"])
async def test_it_works_in_each_way_of_use(way: str) -> None:
    """A framework's own lifespan, a manager around hooks alone, an included `Lifespan`, a mounted app."""
    hooks = Lifespan()
    ticks, fragile = Runs(lambda _: None), Runs(fails)
    hooks.worker(ticks, every=10)
    hooks.worker(fragile, restart=True)
    apps: dict[str, Any] = {
        "own": Starlette(lifespan=hooks),
        "manager": hooks,
        "included": LifespanMiddleware(Starlette(), hooks),
        "mounted": mounted(Starlette(lifespan=hooks)),
    }
    async with LifespanManager(apps[way]):
        await anyio.sleep(25)
        assert hooks.ready
    assert ticks.times == [0, 10, 20]
    assert fragile.times == [0, 1, 3, 7, 15]
    assert hooks.report is not None
    assert [one.restarts for one in hooks.report.units[-2:]] == [0, 4] or way != "manager"


async def test_a_check_runs_them_once(journal: Journal) -> None:
    """A worker that is well gives no finding."""
    app = app_of(Runs(lambda _: journal.events.append("runs")), every=60)
    assert [finding.text for finding in await check_lifespan(app)] == []
    assert journal.events


async def test_an_override_keeps_the_options() -> None:
    """The replacement in a test is called as the worker is."""
    app = app_of(Runs(fails), every=60)
    runs = Runs(lambda _: None)
    with app.override("work", runs):
        async with LifespanManager(app):
            await anyio.sleep(130)
    assert runs.times == [0, 60, 120]
