"""Optional hooks and mounts: they may fail, and everything else goes on."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asgi_lifespan_mw import Isolated, Lifespan, LifespanManager, LifespanMiddleware, LifespanTimeout, UnitReport
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.conftest import VIRTUAL
from tests.plans import Boom, CrashesOnDemand, Journal, fails_to_start, fails_to_stop, hangs_at_start, hangs_at_stop
from tests.server import RecordingServer, request
from tests.units.test_locking import FakeEngine


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: time limits take no time."""
    return request.param()


def rows(app: LifespanMiddleware | Lifespan) -> dict[str, UnitReport]:
    """Return the rows of the report, by the name or the path of the unit."""
    assert app.report is not None
    return {row.path or row.name.removeprefix("hook ").strip("'"): row for row in app.report.units}


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of warnings; there are no errors."""
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    return [record for record in caplog.records if record.levelno == logging.WARNING]


def sub(lifespan: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None, *mounts: Mount) -> Starlette:
    """Return an app with a lifespan, which answers requests."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(",".join(sorted(request.state._state)))

    return Starlette(routes=[Route("/", answer), *mounts], lifespan=lifespan)


@asynccontextmanager
async def breaks(_: Any) -> AsyncIterator[dict[str, int]]:
    """Raise at the start."""
    raise Boom("no server")
    yield {"never": 1}  # pragma: no cover - it makes a generator of it


@asynccontextmanager
async def hangs(_: Any) -> AsyncIterator[None]:
    """Never start."""
    await anyio.sleep_forever()
    yield  # pragma: no cover - it makes a generator of it


def lifespan_of(journal: Journal, name: str) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """Return a lifespan that records its start and stop, and sets a key of the state."""

    @asynccontextmanager
    async def recorded(_: Any) -> AsyncIterator[dict[str, bool]]:
        async with journal.context(name)():
            yield {name: True}

    return recorded


# --- hooks ---


@pytest.mark.parametrize("concurrent", [False, True], ids=["in order", "side by side"])
@pytest.mark.parametrize("background", [False, True], ids=["waited for", "in the background"])
async def test_an_optional_hook_may_fail(
    concurrent: bool, background: bool, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING has the headline and the traceback; the report says why, `ready` does not wait for it."""
    app = LifespanMiddleware(journal.app(), concurrent=concurrent)
    app.context(journal.context("first"))
    app.context(fails_to_start, optional=True, background=background)
    app.context(journal.context("last"))
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        await anyio.sleep(1)
        assert app.ready
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert sorted(journal.events) == ["+app", "+first", "+last", "-app", "-first", "-last"]
    (record,) = warnings(caplog)
    assert record.getMessage().startswith("startup failed in hook 'fails_to_start' (tests/plans.py:")
    assert record.getMessage().endswith("Boom: no start; it is optional, all else goes on")
    assert record.exc_info
    row = rows(app)["fails_to_start"]
    assert (row.outcome, row.state) == ("failed", ())
    assert "no start" in row.reason


async def test_what_it_had_opened_is_unwound_at_once(journal: Journal) -> None:
    """Before the next hook starts."""

    @asynccontextmanager
    async def half() -> AsyncIterator[dict[str, int]]:
        async with journal.context("half")():
            await anyio.sleep_forever()
            yield {"half": 1}  # pragma: no cover - it makes a generator of it

    app = LifespanMiddleware(journal.app())
    app.context(half, optional=True, timeout=5)
    app.context(journal.context("next", pool=1))
    server = RecordingServer()
    await server.run(app)
    assert journal.events[:3] == ["+half", journal.events[1], "+next"]
    assert journal.events[1].startswith("-half")
    assert server.state == {"pool": 1}


async def test_the_units_after_it_see_the_context_variables_from_before_it() -> None:
    """In a member of a group too."""
    variable: ContextVar[str] = ContextVar("variable", default="")
    seen: list[str] = []
    member = Lifespan()

    @member.on_startup
    def sets() -> None:
        variable.set("set")

    member.context(fails_to_start, optional=True)

    @member.on_startup
    def sees() -> None:
        seen.append(variable.get())

    group = Lifespan(concurrent=True)
    group.include(member)
    async with LifespanManager(group):
        assert seen == ["set"]


async def test_on_shutdown_functions_run_although_it_failed(journal: Journal) -> None:
    """It does not count for their `Lifespan`."""
    hooks = Lifespan(on_shutdown=[lambda: journal.events.append("shutdown")])
    hooks.context(fails_to_start, optional=True)
    async with LifespanManager(Starlette(lifespan=hooks)):
        assert hooks.ready
    assert journal.events == ["shutdown"]


async def test_its_own_timeout_is_covered_and_that_of_the_whole_is_not(caplog: pytest.LogCaptureFixture) -> None:
    """The whole has no time left for anything else."""
    app = LifespanMiddleware(Starlette(), startup_timeout=10)
    app.context(hangs_at_start, optional=True, timeout=5)
    async with LifespanManager(app, startup_timeout=None):
        (record,) = warnings(caplog)
        assert "startup timed out after 5 s in hook 'hangs_at_start'" in record.getMessage()
        assert "; it was at " in record.getMessage()
    app = LifespanMiddleware(Starlette(), startup_timeout=10)
    app.context(hangs_at_start, optional=True)
    with pytest.raises(LifespanTimeout, match="startup timed out after 10 s in hook 'hangs_at_start'"):
        await RecordingServer().run(app)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_what_ends_the_process_is_not_covered(error: type[BaseException]) -> None:
    """By a hook, or by an app that sends `startup.failed` for it first, as Starlette does."""

    def ends() -> None:
        raise error

    @asynccontextmanager
    async def ending(_: Any) -> AsyncIterator[None]:
        raise error
        yield  # pragma: no cover - it makes a generator of it

    app = LifespanMiddleware(Starlette())
    app.on_startup(ends, optional=True)
    mounted = LifespanMiddleware(Starlette(routes=[Mount("/sub", sub(ending))]), optional="mounts")
    for one in (app, mounted):
        server = RecordingServer()
        with pytest.raises(error):
            await server.run(one)
        assert server.answers == ["startup.failed"]


async def test_a_cancellation_by_the_server_is_not_covered(journal: Journal) -> None:
    """Everything stops."""
    app = LifespanMiddleware(journal.app(), [journal.context("first")])
    app.context(hangs_at_start, optional=True)
    server = RecordingServer()
    with anyio.move_on_after(5) as scope:
        await server.run(app)
    assert scope.cancelled_caught
    assert journal.events == ["+first", "-first"]
    assert server.answers == []


@pytest.mark.parametrize("is_app", [False, True], ids=["hook", "mount"])
async def test_a_crash_while_serving_is_a_warning(is_app: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It calls no `on_crash`, and is no part of the answer."""
    crashes = CrashesOnDemand()
    called: list[BaseException] = []

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await crashes.demand.wait()
        raise Boom("worker broke")

    mounts = [Mount("/sub", raw)] if is_app else []
    app = LifespanMiddleware(Starlette(routes=mounts), on_crash=called.append, optional="mounts")
    if not is_app:
        app.context(crashes.__call__, optional=True)
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        crashes.demand.set()
        await anyio.sleep(5)
        (record,) = warnings(caplog)
        assert record.getMessage().startswith("crash in ")
        assert app.ready
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert not called
    assert "crashed" in [row.outcome for row in rows(app).values()]


@pytest.mark.parametrize("hook", [fails_to_stop, hangs_at_stop])
async def test_a_failing_stop_is_a_warning(hook: Any, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """The server is answered with success."""
    app = LifespanMiddleware(journal.app(), [journal.context("first")])
    app.context(hook, optional=True, timeout=5)
    server = RecordingServer()
    await server.run(app)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert journal.events == ["+first", "+app", "-app", "-first"]
    (record,) = warnings(caplog)
    assert record.getMessage().startswith("shutdown ")
    assert rows(app)[hook.__name__].outcome == "failed"


async def test_a_lock_that_cannot_be_had_or_is_lost_is_covered(caplog: pytest.LogCaptureFixture) -> None:
    """The hook has not started."""
    engine = FakeEngine()
    engine.error = ConnectionError("no engine")
    lost = FakeEngine()

    async def loses() -> None:
        lost.lose()
        await anyio.sleep_forever()

    app = LifespanMiddleware(Starlette())
    app.on_startup(anyio.sleep_forever, optional=True, lock=engine.lock, name="none")
    app.on_startup(loses, optional=True, lock=lost.lock)
    async with LifespanManager(app):
        assert [row.outcome for row in rows(app).values()] == ["failed", "failed", "started"]
    first, second = warnings(caplog)
    assert "no engine" in first.getMessage()
    assert "its lock was lost" in second.getMessage()
    assert lost.inside == 0


# --- mounts ---


@pytest.mark.parametrize("concurrent", [False, True], ids=["in order", "side by side"])
@pytest.mark.parametrize("background", [False, True], ids=["waited for", "in the background"])
async def test_optional_mounts_may_fail(
    concurrent: bool, background: bool, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """What is mounted in one that failed is not started; requests reach it all the same."""
    inner = sub(lifespan_of(journal, "inner"))
    routes = [
        Mount("/broken", sub(breaks, Mount("/inner", inner))),
        Mount("/hangs", sub(hangs)),
        Mount("/good", sub(lifespan_of(journal, "good"))),
    ]
    app = LifespanMiddleware(
        Starlette(routes=routes), optional="mounts", mount_timeout=5, concurrent=concurrent, background=background
    )
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        await anyio.sleep(10)
        assert app.ready
        assert {key: row.outcome for key, row in rows(app).items() if row.path} == {
            "/broken": "failed",
            "/hangs": "failed",
            "/good": "started",
        }
        assert rows(app)["/broken"].reason.endswith("Boom: no server")
        for path in ("/broken", "/broken/inner", "/hangs", "/good"):
            (start, body) = await request(app, f"{path}/", state=dict(server.state))
            assert start["status"] == 200
            assert body["body"] == b"good"
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert journal.events == ["+good", "-good"]
    texts = sorted(record.getMessage() for record in warnings(caplog))
    assert len(texts) == 2
    assert texts[0].startswith("startup failed in mount '/broken': tests.plans.Boom: no server; it is optional")
    assert texts[1].startswith("startup timed out after 5 s in mount '/hangs'; it was at ")


@pytest.mark.parametrize("wrap", [Isolated, CORSMiddleware], ids=["Isolated", "CORS"])
@pytest.mark.parametrize("names_wrapper", [False, True], ids=["inside", "wrapper"])
async def test_it_finds_an_app_in_its_wrappers(wrap: Any, names_wrapper: bool) -> None:
    """As `exclude=` does."""
    broken = sub(breaks)
    wrapped = wrap(broken)
    app = Starlette(routes=[Mount("/broken", wrapped)])
    server = RecordingServer()
    await server.run(LifespanMiddleware(app, optional=[wrapped if names_wrapper else broken]))
    assert server.answers == ["startup.complete", "shutdown.complete"]


async def test_requests_to_an_isolated_app_that_failed_see_nothing_of_its_state() -> None:
    """It had set a key before it failed."""

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["half"] = True
            raise Boom("no server")
        await sub()(scope, receive, send)

    isolated = Isolated(raw)
    app = LifespanMiddleware(Starlette(routes=[Mount("/raw", isolated)]), optional=[isolated])
    async with LifespanManager(app) as manager:
        (_, body) = await request(manager.app, "/raw/")
        assert body["body"] == b""


async def test_those_that_are_not_named_fail_the_startup(journal: Journal) -> None:
    """What is mounted in an optional mount is not optional by that."""
    outer = sub(lifespan_of(journal, "outer"), Mount("/inner", sub(breaks)))
    server = RecordingServer()
    with pytest.raises(Boom):
        await server.run(LifespanMiddleware(Starlette(routes=[Mount("/outer", outer)]), optional=[outer]))
    assert server.answers == ["startup.failed"]
    assert journal.events == ["+outer", "-outer"]


async def test_a_framework_s_own_lifespan_has_it_too(caplog: pytest.LogCaptureFixture) -> None:
    """And an included one counts, as for `exclude=`."""
    broken = sub(breaks)
    hooks = Lifespan(optional=[broken])
    own = Starlette(routes=[Mount("/broken", broken)], lifespan=hooks)
    async with LifespanManager(own):
        assert rows(hooks)["/broken"].outcome == "failed"
    assert len(warnings(caplog)) == 1
    async with LifespanManager(LifespanMiddleware(Starlette(routes=[Mount("/broken", broken)]), hooks)):
        assert len(warnings(caplog)) == 2


async def test_a_failure_that_a_run_inside_has_logged_has_its_traceback_there(caplog: pytest.LogCaptureFixture) -> None:
    """The mounted app's hooks are its own run's, which knows nothing of `optional=`."""
    inner = Starlette(lifespan=Lifespan(contexts=[fails_to_start]))
    async with LifespanManager(LifespanMiddleware(Starlette(routes=[Mount("/inner", inner)]), optional="mounts")):
        pass
    assert sum(record.exc_info is not None for record in caplog.records) == 1


async def test_a_late_start_of_an_unknown_mount_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """It was asked, had not received anything after 10 s, and fails later."""

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await anyio.sleep(20)
        await receive()
        raise Boom("too late")

    app = LifespanMiddleware(Starlette(routes=[Mount("/raw", raw)]), optional="mounts")
    async with LifespanManager(app, startup_timeout=None):
        await anyio.sleep(30)
        assert rows(app)["/raw"].outcome == "failed"
        assert app.ready
    assert "too late; it is optional" in caplog.text


# --- what is refused ---


async def test_an_app_that_is_found_nowhere_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The start goes on."""
    async with LifespanManager(LifespanMiddleware(Starlette(), optional=[sub()])):
        (record,) = warnings(caplog)
    assert record.getMessage() == "optional=[...] names app Starlette, which is found nowhere in app Starlette"


@pytest.mark.parametrize("way", ["in a wrapper", "own"])
async def test_a_part_of_the_wrapped_app_is_a_warning(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is no mount: it starts with the wrapped app, or is the app whose lifespan we are."""
    api = Starlette()
    app: Any = LifespanMiddleware(CORSMiddleware(api), optional=[api])
    if way == "own":
        hooks = Lifespan()
        app = Starlette(lifespan=hooks)
        hooks.include(Lifespan(optional=[app]))
    async with LifespanManager(app):
        (record,) = warnings(caplog)
    assert record.getMessage() == "optional=[...] names app Starlette, whose failure is that of the wrapped app"


def test_what_cannot_be_optional_is_refused() -> None:
    """The wrapped app, another string, one app in place of a sequence, a flag that is none."""
    app = Starlette()
    with pytest.raises(ValueError, match=r"optional=\.\.\.\) got <starlette.*, the wrapped app; expected apps mounted"):
        LifespanMiddleware(app, optional=[app])
    with pytest.raises(ValueError, match=r"optional=\.\.\.\) got 'all', expected 'mounts' or a sequence of apps"):
        Lifespan(optional="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"optional=\.\.\.\) got <starlette.*, expected 'mounts' or a sequence of apps"):
        LifespanMiddleware(app, optional=Starlette())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"context\(optional=\.\.\.\) got 1, expected True or False"):
        Lifespan().context(fails_to_start, optional=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
