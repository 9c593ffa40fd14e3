"""`Lifespan` as a framework's own lifespan, and alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.lowlevel
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware
from tests.server import RecordingServer, request

Log = list[object]


def lives(log: Log, **state: object) -> Callable[[], Any]:
    """Make a context that logs, takes a while, and gives state."""

    async def context() -> AsyncIterator[dict[str, object]]:
        await anyio.lowlevel.checkpoint()
        log.append("up")
        yield state
        await anyio.lowlevel.checkpoint()
        log.append("down")

    return context


FRAMEWORKS: list[Any] = [Starlette, FastAPI]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_framework_runs_it_as_its_lifespan(framework: Any) -> None:
    """The hooks are run with the framework's app, and their state reaches the server."""
    log: Log = []

    def takes(app: object) -> None:
        log.append(app)

    app = framework(lifespan=Lifespan(contexts=[lives(log, db="open")], on_startup=[takes]))
    server = RecordingServer()
    await server.run(app)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert server.state == {"db": "open"}
    assert log == ["up", app, "down"]


async def test_requests_of_a_framework_see_its_state() -> None:
    """`request.state` has what the hooks gave."""

    async def shows(request: Request) -> JSONResponse:
        return JSONResponse(request.state.db)

    app = Starlette(lifespan=Lifespan(contexts=[lives([], db="open")]), routes=[Route("/", shows)])
    async with LifespanManager(app) as manager:
        answer = await request(manager.app)
    assert answer[1]["body"] == b'"open"'


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_without_state_it_works_on_a_server_without_state(framework: Any) -> None:
    """Starlette refuses even an empty mapping there, so it is given None."""
    log: Log = []
    server = RecordingServer()
    del server.scope["state"]
    await server.run(framework(lifespan=Lifespan(contexts=[lives(log)])))
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert log == ["up", "down"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_failure_comes_out_through_the_framework(framework: Any) -> None:
    """What had started is stopped, and the framework tells the server."""
    log: Log = []

    def fails() -> None:
        raise OSError("no such host")

    server = RecordingServer()
    with pytest.raises(OSError, match="no such host"):
        await server.run(framework(lifespan=Lifespan(contexts=[lives(log)], on_startup=[fails])))
    assert server.answers == ["startup.failed"]
    assert "no such host" in server.sent[0]["message"]
    assert log == ["up", "down"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_it_starts_mounts_if_it_is_to(framework: Any) -> None:
    """`Lifespan(mounts="auto")` forwards, and what the mounts set reaches the requests."""
    log: Log = []
    inner = Starlette(lifespan=Lifespan(contexts=[lives(log, inner="set")]))
    hooks = Lifespan(contexts=[lives(log, outer="set")], mounts="auto")
    app = framework(lifespan=hooks, routes=[Mount("/inner", inner)])
    server = RecordingServer()
    await server.run(app)
    assert server.state == {"outer": "set", "inner": "set"}
    assert log == ["up", "up", "down", "down"]


@pytest.mark.parametrize(("settings", "expected"), [({}, ["up", "down"]), ({"mounts": "off"}, [])], ids=repr)
async def test_it_starts_mounts_by_default(settings: Any, expected: Log) -> None:
    """With ``mounts="off"``, hooks are all that it runs."""
    log: Log = []
    inner = Starlette(lifespan=Lifespan(contexts=[lives(log)]))
    await RecordingServer().run(Starlette(lifespan=Lifespan(**settings), routes=[Mount("/inner", inner)]))
    assert log == expected


async def test_it_is_ready_and_has_a_report_however_it_is_used() -> None:
    """Of the run that began last: as a framework's own lifespan, in a middleware, in a manager, and included."""
    hooks = Lifespan(on_startup=[lambda: None])
    outer = Lifespan()
    outer.include(hooks)
    assert (hooks.ready, hooks.report) == (False, None)
    for app in (Starlette(lifespan=hooks), LifespanMiddleware(Starlette(), hooks), hooks, outer):
        async with LifespanManager(app):
            assert hooks.ready
        assert not hooks.ready
        assert hooks.report is not None
        assert [unit.outcome for unit in hooks.report.units if unit.kind == "hook"] == ["stopped"]


async def test_it_leaves_excluded_mounts_alone() -> None:
    """`exclude=` counts, its own and that of what it includes."""
    log: Log = []
    first, second = (Starlette(lifespan=Lifespan(contexts=[lives(log)])) for _ in range(2))
    hooks = Lifespan(mounts="auto", exclude=[first])
    hooks.include(Lifespan(exclude=[second]))
    await RecordingServer().run(Starlette(lifespan=hooks, routes=[Mount("/1", first), Mount("/2", second)]))
    assert log == []


async def test_it_can_be_a_routers_lifespan() -> None:
    """FastAPI merges it into the app's by `include_router`."""
    log: Log = []
    app = FastAPI(lifespan=Lifespan(contexts=[lives(log, app=1)]))
    app.include_router(APIRouter(lifespan=Lifespan(contexts=[lives(log, router=2)])))
    server = RecordingServer()
    await server.run(app)
    assert server.state == {"app": 1, "router": 2}
    assert log == ["up", "up", "down", "down"]


async def test_it_runs_alone_in_a_script() -> None:
    """`async with hooks(None)` needs no app, and gives the state as a dict."""
    log: Log = []
    hooks = Lifespan(contexts=[lives(log, db="open")], on_startup=[log.append], on_shutdown=[lambda: log.append("end")])
    async with hooks(None) as state:
        assert state == {"db": "open"}
        assert type(state) is dict
        assert log == ["up", None]
    assert log == ["up", None, "end", "down"]


async def test_it_gives_none_where_there_is_no_state() -> None:
    """Neither hooks without state nor no hooks at all give an empty dict."""
    async with Lifespan()(None) as state:
        assert state is None
    async with Lifespan(contexts=[lives([])])(None) as state:
        assert state is None


async def test_it_can_be_run_again_and_side_by_side() -> None:
    """Each call is a run of its own."""
    log: Log = []
    hooks = Lifespan(contexts=[lives(log, db="open")])
    async with hooks(None) as first, hooks(None) as second:
        assert first == second
        assert first is not second
    async with hooks(None):
        pass
    assert log == ["up", "up", "down", "down", "up", "down"]


def test_its_repr_names_its_hooks() -> None:
    """In the order of their start; those of the shutdown come last."""
    hooks = Lifespan(contexts=[lives([])], on_shutdown=[dir])
    hooks.on_startup(name="load")(dir)
    assert repr(hooks) == "<Lifespan of 'context', 'load', 'dir'>"


# The body of `async with`.


class Deliberate(Exception):
    """What a body raises in a test."""


def fails_to_stop(log: Log) -> Callable[[], Any]:
    """Make a context whose stop fails."""

    async def context() -> AsyncIterator[None]:
        yield
        log.append("failing")
        raise OSError("could not stop")

    return context


async def test_a_body_that_raises_is_followed_by_the_stop() -> None:
    """Its error comes out as itself, and hooks are left as at any shutdown."""
    log: Log = []

    async def looks() -> AsyncIterator[None]:
        yield
        log.append("no error seen")

    with pytest.raises(Deliberate):
        async with Lifespan(contexts=[lives(log), looks], on_shutdown=[lambda: log.append("end")])(None):
            raise Deliberate
    assert log == ["up", "end", "no error seen", "down"]


async def test_a_body_that_raises_comes_first_where_stopping_fails_too() -> None:
    """Both errors come out, in a group."""
    log: Log = []
    error = Deliberate()
    with pytest.raises(ExceptionGroup) as caught:
        async with Lifespan(contexts=[lives(log), fails_to_stop(log)])(None):
            raise error
    assert caught.value.exceptions[0] is error
    assert type(caught.value.exceptions[1]) is OSError
    assert len(caught.value.exceptions) == 2
    assert log == ["up", "failing", "down"]


async def test_all_errors_of_the_stop_follow_the_bodys() -> None:
    """However many there are; the group's split finds each."""
    with pytest.raises(ExceptionGroup) as caught:
        async with Lifespan(contexts=[fails_to_stop([]), fails_to_stop([])])(None):
            raise Deliberate
    assert type(caught.value.exceptions[0]) is Deliberate
    _, rest = caught.value.split(Deliberate)
    assert rest is not None
    own, others = rest.split(OSError)
    assert own is not None
    assert others is None


async def test_a_base_exception_of_the_body_comes_out() -> None:
    """`SystemExit` too; with an error of the stop, in a group that may hold it."""
    log: Log = []
    with pytest.raises(SystemExit):
        async with Lifespan(contexts=[lives(log)])(None):
            raise SystemExit(3)
    assert log == ["up", "down"]
    with pytest.raises(BaseExceptionGroup) as caught:
        async with Lifespan(contexts=[fails_to_stop(log)])(None):
            raise SystemExit(3)
    assert [type(error) for error in caught.value.exceptions] == [SystemExit, OSError]


async def test_a_body_that_is_cancelled_is_followed_by_the_stop() -> None:
    """Shielded: the hooks can await as at any shutdown, and the cancellation comes out."""
    log: Log = []
    with anyio.CancelScope() as scope:
        async with Lifespan(contexts=[lives(log)])(None):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["up", "down"]


async def test_a_body_that_is_cancelled_stops_all_though_one_fails() -> None:
    """The failure is logged; the cancellation comes out."""
    log: Log = []
    with anyio.CancelScope() as scope:
        async with Lifespan(contexts=[lives(log), fails_to_stop(log)])(None):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert log == ["up", "failing", "down"]


async def test_a_startup_that_is_cancelled_stops_what_had_started() -> None:
    """In reverse and shielded; the body is never reached."""
    log: Log = []
    begun = anyio.Event()

    async def hangs() -> None:
        begun.set()
        await anyio.sleep_forever()

    async def starts() -> None:
        async with Lifespan(contexts=[lives(log)], on_startup=[hangs], on_shutdown=[lambda: log.append("end")])(None):
            ...

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(starts)
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert log == ["up", "down"]


def manager_of(hooks: Lifespan) -> LifespanManager:
    """Drive an app whose lifespan the hooks are."""
    return LifespanManager(Starlette(lifespan=hooks))


@pytest.mark.parametrize("run", [lambda hooks: hooks(None), manager_of], ids=["Lifespan", "LifespanManager"])
async def test_an_error_of_a_body_that_is_cancelled_as_well_comes_out(run: Callable[[Lifespan], Any]) -> None:
    """The stop is shielded, so the cancellation around it does not take the error's place."""
    log: Log = []
    with pytest.raises(Deliberate):
        with anyio.CancelScope() as scope:
            async with run(Lifespan(contexts=[lives(log)])):
                scope.cancel()
                raise Deliberate
    assert log == ["up", "down"]


def run_without_leaving(hooks: Lifespan) -> object:
    """Enter the hooks on an event loop that ends before they are left."""

    async def enters() -> object:
        context = hooks(None)
        await context.__aenter__()
        return context

    return asyncio.run(enters())


def test_an_event_loop_that_ends_under_a_lifespan_lets_it_go() -> None:
    """A script that enters it and never leaves it ends without waiting, and can run it again."""
    log: Log = []
    hooks = Lifespan(contexts=[lives(log)])
    assert [run_without_leaving(hooks) is run_without_leaving(hooks), *log] == [False, "up", "up"]
