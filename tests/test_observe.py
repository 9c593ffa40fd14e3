"""`observe=`: a function that is called at each change of a hook or an app."""

from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware, UnitReport
from tests.plans import Boom, CrashesOnDemand, Journal, fails_to_start, fails_to_stop, hangs_at_start
from tests.server import RecordingServer


class Watched:
    """An observer that keeps what it is called with."""

    def __init__(self) -> None:
        self.rows: list[UnitReport] = []

    def __call__(self, row: UnitReport) -> None:
        self.rows.append(row)

    @property
    def changes(self) -> list[str]:
        """The names and outcomes, in order."""
        return [f"{_short(row)} {row.outcome}" for row in self.rows]


def _short(row: UnitReport) -> str:
    return row.path or row.unit.removeprefix("hook ").partition(" (")[0].strip("'")


async def test_each_change_is_shown_in_order(journal: Journal) -> None:
    """Hooks, the app and its mounts; a function has done its part when it has started."""
    watched = Watched()
    app = LifespanMiddleware(Starlette(routes=[Mount("/sub", Starlette())]), observe=watched)
    app.context(journal.context("pool"))
    app.on_startup(lambda: None, name="check")
    app.on_shutdown(lambda: None, name="bye")
    await RecordingServer().run(app)
    assert watched.changes == [
        *("pool starting", "pool started"),
        *("check starting", "check started", "check stopped"),
        "bye started",
        *("app Starlette starting", "app Starlette started"),
        *("/sub starting", "/sub started"),
        *("/sub stopping", "/sub stopped"),
        *("app Starlette stopping", "app Starlette stopped"),
        *("bye stopping", "bye stopped"),
        *("pool stopping", "pool stopped"),
    ]
    times = [row.began for row in watched.rows if row.outcome == "started" and row.began is not None]
    assert times == sorted(times)
    assert [row.depth for row in watched.rows if row.path] == [1] * 4
    starts = [row for row in watched.rows if row.outcome == "started"]
    assert [row.unit for row in starts if row.start_seconds is None] == [starts[2].unit]  # the shutdown function


async def test_failures_are_shown_with_their_reason() -> None:
    """In the start and in the stop; what waited is not shown."""
    watched = Watched()
    app = LifespanMiddleware(Starlette(), [fails_to_stop, fails_to_start], observe=watched)
    with pytest.raises(ExceptionGroup):
        await RecordingServer().run(app)
    assert watched.changes == [
        *("fails_to_stop starting", "fails_to_stop started"),
        *("fails_to_start starting", "fails_to_start failed"),
        *("fails_to_stop stopping", "fails_to_stop failed"),
    ]
    assert "no start" in watched.rows[3].reason


async def test_a_crash_is_shown_when_it_happens() -> None:
    """While serving, and once."""
    watched, worker = Watched(), CrashesOnDemand()
    app = LifespanMiddleware(Starlette(), observe=watched)
    app.context(worker, name="worker")
    with pytest.raises(ExceptionGroup) as raised:
        async with LifespanManager(app):
            worker.demand.set()
            while watched.changes[-1] != "worker crashed":
                await anyio.lowlevel.checkpoint()
    assert raised.group_contains(Boom)
    assert app.report is not None
    assert app.report.units[0].outcome == "crashed"
    assert watched.changes.count("worker crashed") == 1


async def test_a_start_that_is_cancelled_is_shown() -> None:
    """With the place where it waited."""
    watched = Watched()
    app = LifespanMiddleware(Starlette(), hangs_at_start, observe=watched)
    with anyio.move_on_after(0.01):
        await RecordingServer().run(app)
    assert watched.changes == ["hangs_at_start starting", "hangs_at_start cancelled"]
    assert "plans.py" in watched.rows[-1].reason


async def test_what_is_left_out_and_what_does_not_support_the_lifespan_is_shown() -> None:
    """With the reason; the wrapped app may be left out too."""

    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError(scope["type"])

    watched, sub = Watched(), Starlette()
    routes = [Mount("/sub", sub), Mount("/old", LifespanMiddleware(refuses, mounts="off"))]
    app = LifespanMiddleware(Starlette(routes=routes), exclude=[sub], observe=watched)
    await RecordingServer().run(app)
    assert "/sub left out" in watched.changes
    assert "/old unsupported" in watched.changes
    assert {row.reason for row in watched.rows if row.outcome == "left out"} == {"is excluded"}

    watched, inner = Watched(), Starlette()
    await RecordingServer().run(LifespanMiddleware(inner, exclude=[inner], on_startup=[print], observe=watched))
    assert "app Starlette left out" in watched.changes


async def test_the_units_of_a_run_inside_are_shown_with_their_place(journal: Journal) -> None:
    """A middleware in a mount: its hooks are deeper, and its paths are those of a client."""
    watched, inside = Watched(), Watched()
    inner = LifespanMiddleware(Starlette(routes=[Mount("/deep", Starlette())]), journal.context("pool"), observe=inside)
    outer = Starlette(routes=[Mount("/in", inner)])
    await RecordingServer().run(LifespanMiddleware(outer, observe=watched))
    starts = [(_short(row), row.depth) for row in watched.rows if row.outcome == "started"]
    assert starts == [("app Starlette", 0), ("/in", 2), ("/in", 2), ("/in/deep", 3), ("/in", 1)]
    assert [row.unit for row in inside.rows if row.outcome == "started"] == [
        row.unit for row in watched.rows if row.outcome == "started" and row.depth > 1
    ]
    assert all(row.began is not None and row.began >= 0 for row in watched.rows if row.outcome == "started")


async def test_the_manager_around_it_shows_nothing_twice(journal: Journal) -> None:
    """It has no observer."""
    watched = Watched()
    async with LifespanManager(LifespanMiddleware(Starlette(), journal.context("pool"), observe=watched)):
        pass
    assert len(watched.changes) == len(set(watched.changes)) == 8


@pytest.mark.parametrize("error", [ValueError("no collector"), SystemExit(3)])
async def test_an_observer_that_raises_harms_nothing(
    error: BaseException, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged each time, with who and when."""

    def breaks(row: UnitReport) -> None:
        raise error

    server = RecordingServer()
    await server.run(LifespanMiddleware(journal.app(), journal.context("pool"), observe=breaks))
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert journal.events == ["+pool", "+app", "-app", "-pool"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 8
    assert messages[0].startswith("observe= failed at hook 'pool' ")
    assert ", starting: " in messages[0]


async def observes_later(row: UnitReport) -> None:
    """A coroutine function."""


class CalledLater:
    """An object whose call is a coroutine function."""

    async def __call__(self, row: UnitReport) -> None:
        """Do nothing."""


@pytest.mark.parametrize("observe", [1, "log", observes_later, CalledLater()], ids=["1", "log", "async", "object"])
def test_an_observer_is_a_plain_function(observe: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(TypeError, match=r"observe=\.\.\.\) got .*, expected a plain function that takes a UnitReport"):
        LifespanMiddleware(Starlette(), observe=observe)
