import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, Report, UnitReport
from asgi_lifespan_mw._apps.frameworks import register_container
from tests.conftest import ONE_LOOP_IN_THE_QUICK_LOOP
from tests.plans import Boom, Journal, fails_to_start, fails_to_stop, hangs_at_start
from tests.server import RecordingServer
from tests.usages import Records, lifespan_of, recorded, serving


def rows(report: Report | None) -> list[tuple[int, str, str, str]]:
    """Of each unit its depth, kind, path (or name) and outcome."""
    assert report is not None
    return [
        (row.depth, row.kind, row.path or row.unit.partition(" (")[0].partition(" ")[2], row.outcome)
        for row in report.units
    ]


def row_of(report: Report | None, path: str) -> UnitReport:
    """The row of a mount."""
    assert report is not None
    (row,) = (row for row in report.units if row.path == path and row.kind == "mount")
    return row


def shop(log: list[str], *routes: Mount) -> Starlette:
    """An app with a mount in a mount, and static files."""
    metrics = recorded(log, "metrics")
    admin = recorded(log, "admin", Mount("/metrics", metrics))
    return recorded(log, "shop", Mount("/static", StaticFiles(directory=".")), Mount("/admin", admin), *routes)


async def test_there_is_none_before_the_first_run() -> None:
    """And a request makes none."""
    assert LifespanMiddleware(shop([])).report is None


async def test_it_tells_of_hooks_app_and_mounts_as_a_tree() -> None:
    """In the order of their start, with the keys of state that each set and what was left out."""
    app = LifespanMiddleware(shop([]), Journal().context("pool", pool=1))
    await RecordingServer().run(app)
    assert rows(app.report) == [
        (0, "hook", "'pool'", "stopped"),
        (0, "app", "Starlette", "stopped"),
        (1, "mount", "/static", "left out"),
        (1, "mount", "/admin", "stopped"),
        (2, "mount", "/admin/metrics", "stopped"),
    ]
    assert app.report is not None
    assert [row.state for row in app.report.units] == [("pool",), ("shop",), (), ("admin",), ("metrics",)]


async def test_times_count_from_the_beginning_of_the_run() -> None:
    """Starts follow one another, stops are their mirror, and the whole holds them all."""
    app = LifespanMiddleware(shop([]), Journal().context("pool"))
    await RecordingServer().run(app)
    report = app.report
    assert report is not None
    assert report.start_seconds is not None
    assert report.stop_began is not None
    assert report.stop_seconds is not None
    units = [row for row in report.units if row.outcome == "stopped"]
    moments: list[Any] = [0.0]
    for row in units:
        moments += [row.began, (row.began or 0) + (row.start_seconds or 0)]
    moments += [report.start_seconds, report.stop_began]
    for row in reversed(units):
        moments += [row.stop_began, (row.stop_began or 0) + (row.stop_seconds or 0)]
    moments.append(report.stop_began + report.stop_seconds)
    assert moments == sorted(moments)


async def test_it_is_at_hand_while_the_app_serves() -> None:
    """What has started is told; stops are not there yet."""
    app = LifespanMiddleware(shop([]), on_startup=[lambda: None], on_shutdown=[lambda: None])
    async with serving(app):
        assert [outcome for *_, outcome in rows(app.report)] == [
            "stopped", "started", "started", "left out", "started", "started",
        ]  # fmt: skip
        assert app.report is not None
        assert app.report.start_seconds is not None
        assert app.report.stop_began is None
        assert app.report.stop_seconds is None
    assert [outcome for *_, outcome in rows(app.report)][1] == "stopped"


async def test_it_is_at_hand_in_the_midst_of_a_start_and_a_stop() -> None:
    """A hook can read how far the run is; from another thread as well."""
    seen: list[list[str]] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append([outcome for *_, outcome in rows(app.report)]))
        thread.start()
        thread.join()

    async def looks() -> AsyncIterator[None]:
        look()
        yield
        look()

    app = LifespanMiddleware(Journal().app(), Lifespan(contexts=[looks]), on_startup=[lambda: None])
    await RecordingServer().run(app)
    assert seen == [["starting", "waiting", "waiting"], ["stopping", "stopped", "stopped"]]


async def test_it_is_that_of_the_run_that_began_last() -> None:
    """The end of an older run changes nothing."""
    app = LifespanMiddleware(Journal().app())
    async with serving(app):
        first = app.report
        async with serving(app):
            second = app.report
            assert second != first
        assert app.report != second
    assert app.report is not None
    assert app.report.stop_seconds is not None


async def test_an_older_run_that_ends_later_leaves_it_alone() -> None:
    """The report is frozen with the newer run."""
    app = LifespanMiddleware(Journal().app())
    async with serving(app):
        async with LifespanManager(app):
            pass
        report = app.report
    assert app.report is report


async def test_a_failure_is_told_with_its_unit_and_what_was_never_reached() -> None:
    """What had started is stopped, what comes after it waits for ever."""
    app = LifespanMiddleware(shop([]), [Journal().context("a"), fails_to_start, Journal().context("b")])
    with pytest.raises(Boom):
        await RecordingServer().run(app)
    assert [(name, outcome) for _, _, name, outcome in rows(app.report)] == [
        ("'a'", "stopped"),
        ("'fails_to_start'", "failed"),
        ("'b'", "waiting"),
        ("Starlette", "waiting"),
    ]
    assert app.report is not None
    assert app.report.units[1].reason.startswith("startup failed in hook 'fails_to_start'")
    assert app.report.units[1].reason.endswith("Boom: no start")
    assert app.report.units[1].start_seconds is not None
    assert app.report.start_seconds is None
    assert app.report.stop_seconds is not None


async def test_a_failed_stop_is_told() -> None:
    """With the start and the stop timed."""
    app = LifespanMiddleware(Journal().app(), fails_to_stop)
    with pytest.raises(Boom):
        await RecordingServer().run(app)
    assert app.report is not None
    assert app.report.units[0].outcome == "failed"
    assert app.report.units[0].reason.startswith("shutdown failed in hook")
    assert app.report.units[0].stop_seconds is not None


async def test_a_start_that_was_given_up_tells_where_it_stood() -> None:
    """The place in the user's code at which the server's cancellation found it."""
    app = LifespanMiddleware(Journal().app(), hangs_at_start)
    with anyio.move_on_after(0.05):
        await RecordingServer().run(app)
    assert app.report is not None
    assert app.report.units[0].outcome == "cancelled"
    assert "plans.py:" in app.report.units[0].reason
    assert "in hangs_at_start" in app.report.units[0].reason


async def test_an_app_without_lifespan_is_told_of() -> None:
    """As the wrapped app and as a mount; with nothing else to run too."""

    async def only_http(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    async def not_lifespan(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan"

    app = LifespanMiddleware(Starlette(routes=[Mount("/old", not_lifespan), Mount("/plain", only_http)]))
    await RecordingServer().run(app)
    assert row_of(app.report, "/old").outcome == "unsupported"
    assert row_of(app.report, "/plain").outcome == "left out"
    assert row_of(app.report, "/plain").reason == "not asked: no mention of lifespan"
    alone = LifespanMiddleware(only_http)
    with pytest.raises(AssertionError):
        await RecordingServer().run(alone)
    assert alone.report is not None
    assert [row.outcome for row in alone.report.units] == ["unsupported"]
    assert alone.report.start_seconds is None


class Forwards:
    """A container that starts its app by itself."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


register_container(Forwards, "app", "forwards")


async def test_each_left_out_app_has_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Excluded, forwarded by its parent, run by a lifespan around it, in doubt, or of a kind that has none."""
    caplog.set_level(logging.CRITICAL, "asgi_lifespan_mw")
    log: list[str] = []
    excluded, forwarded, run_by_hand = (recorded(log, name) for name in ("excluded", "forwarded", "by hand"))
    app = LifespanMiddleware(
        shop(
            log,
            Mount("/excluded", excluded),
            Mount("/forwards", Forwards(forwarded)),
            Mount("/by-hand", run_by_hand),
        ),
        run_by_hand.router.lifespan_context,
        exclude=[excluded],
    )
    await RecordingServer().run(app)
    assert row_of(app.report, "/static").reason == "is sent no lifespan: serves files and fails at any other scope"
    assert row_of(app.report, "/excluded").reason == "is excluded"
    assert row_of(app.report, "/by-hand").outcome == "left out"
    assert row_of(app.report, "/by-hand").reason == "shares the lifespan of an app around it"
    assert row_of(app.report, "/forwards").outcome == "stopped"
    (inside,) = (row for row in app.report.units if row.kind == "app" and row.depth == 2)  # type: ignore[union-attr]
    assert (inside.outcome, inside.reason) == ("left out", "is started by its parent")


async def test_a_wrapped_app_that_is_left_out_has_its_reason_and_its_mounts() -> None:
    """An excluded one, and one of a kind that has no lifespan."""
    root = shop([])
    app = LifespanMiddleware(root, exclude=[root], on_startup=[lambda: None])
    await RecordingServer().run(app)
    assert [(row.outcome, row.reason) for row in app.report.units[1:]] == [("left out", "is excluded")]  # type: ignore[union-attr]
    files = LifespanMiddleware(StaticFiles(directory="."), on_startup=[lambda: None])
    await RecordingServer().run(files)
    assert files.report is not None
    assert files.report.units[1].reason == "is sent no lifespan: serves files and fails at any other scope"


async def test_named_mounts_are_told_of() -> None:
    """Those of ``mounts=[...]``, and nothing beside them."""
    log: list[str] = []
    sub = recorded(log, "sub")
    app = LifespanMiddleware(shop(log, Mount("/sub", sub)), mounts=[sub])
    await RecordingServer().run(app)
    assert [row.path for row in app.report.units] == ["", "/sub"]  # type: ignore[union-attr]


async def test_a_run_inside_a_unit_is_told_of_there() -> None:
    """A framework's own `Lifespan`, and a middleware in a mount, whose apps have their whole paths."""
    log: list[str] = []
    inner = LifespanMiddleware(recorded(log, "inner", Mount("/deep", recorded(log, "deep"))))
    outer = Starlette(
        lifespan=Lifespan(mounts="auto", contexts=[lifespan_of(log, "hook")]),
        routes=[Mount("/inner", inner), Mount("/bare", Records(log, "bare"))],
    )
    app = LifespanMiddleware(outer)
    await RecordingServer().run(app)
    assert [(depth, path) for depth, _, path, _ in rows(app.report)] == [
        (0, "Starlette"),
        (1, "'lifespan'"),
        (1, "/inner"),
        (2, "/inner"),
        (3, "/inner/deep"),
        (1, "/bare"),
    ]


async def test_runs_that_begin_later_in_a_unit_are_not_kept() -> None:
    """A worker that runs an app's lifespan again and again would gather them."""

    async def worker() -> AsyncIterator[None]:
        yield
        async with LifespanManager(Journal().app()):
            pass

    app = LifespanMiddleware(Journal().app(), Lifespan(contexts=[worker]))
    await RecordingServer().run(app)
    assert [row.kind for row in app.report.units] == ["hook", "app"]  # type: ignore[union-attr]


@ONE_LOOP_IN_THE_QUICK_LOOP
async def test_it_holds_nothing_of_the_run() -> None:
    """After the run only texts and numbers are left: the pool that a hook gave is free."""
    import gc
    import weakref

    class Pool:
        pass

    pools: list[weakref.ref[Pool]] = []

    async def pool() -> AsyncIterator[dict[str, Pool]]:
        made = Pool()
        pools.append(weakref.ref(made))
        yield {"pool": made}

    app = LifespanMiddleware(Journal().app(), Lifespan(contexts=[pool]))
    await RecordingServer().run(app)
    await anyio.lowlevel.checkpoint()
    gc.collect()
    assert pools[0]() is None
    assert app.report is not None


async def test_its_records_cannot_be_changed() -> None:
    """They are a photograph."""
    app = LifespanMiddleware(Journal().app())
    await RecordingServer().run(app)
    assert app.report is not None
    with pytest.raises(AttributeError):
        app.report.units[0].outcome = "failed"  # type: ignore[misc]
