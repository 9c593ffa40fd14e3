"""Run each row of the migration tables, by the old way and by the new one."""

import inspect
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import anyio
import asgi_lifespan_middleware
import fastapi_lifespan_manager
import pytest
from fastapi import APIRouter, FastAPI
from fastmcp import FastMCP
from fastmcp.utilities.lifespan import combine_lifespans
from hypercorn.middleware import dispatcher as hypercorn
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, Router

from asgi_lifespan_mw import Lifespan, LifespanMiddleware, StateCollision, threaded
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.frameworks import django_site
from tests.frameworks.versions import needs
from tests.plans import Boom
from tests.server import RecordingServer, request
from tests.test_readme import README, ROOT, run
from tests.usages import Records, lifespan_of, lived, recorded, serving, started_and_stopped, state_seen

F = TypeVar("F", bound=Callable[..., object])

# Untyped: what is deprecated, or has types that are narrower than what it takes.
Old: Any = FastAPI
Manager: Any = fastapi_lifespan_manager.LifespanManager

TABLES = [
    "Starlette",
    "FastAPI",
    "asgi-lifespan-middleware",
    "fastapi-lifespan-manager",
    "hypercorn",
    "AsyncExitStack",
    "MCP SDK",
    "FastMCP",
    "taskiq",
    "Django",
    "Sentry",
]
WELL = ["startup.complete", "shutdown.complete"]
shown: list[tuple[str, str]] = []
log: list[str] = []
"""What started and stopped."""

# FastAPI says of `on_event` that it is deprecated, Starlette of routers with generator functions.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio: most of the old ways know no other."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _empty_log() -> Iterator[None]:
    yield
    log.clear()


def row(table: str, first_cell: str) -> Callable[[F], F]:
    """The test that it decorates shows this row."""
    shown.append((table, first_cell))
    return lambda test: test


def rows(table: str) -> list[str]:
    """The first cells of one table of the README."""
    text = README.partition(f"<!-- table: from {table} -->")[2].partition("<!-- end -->")[0]
    return re.findall(r"^\| (.*?) \| .* \|$", text, re.MULTILINE)[1:]


def say(*words: str) -> Callable[[], None]:
    """A function without parameters that writes into the log."""
    return lambda: log.extend(words)


def lifespan(name: str) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """A lifespan that writes into the log, and whose state is its name."""
    return lifespan_of(log, name)


async def went(app: ASGIApp) -> list[str]:
    """See a lifespan through that goes well, and give what happened in it."""
    await lived(app)
    happened = log.copy()
    log.clear()
    return happened


async def ended(app: ASGIApp) -> tuple[list[str], list[str], BaseException | None]:
    """See a lifespan through, and give what happened in it, what the server was told, and what came out."""
    server = RecordingServer()
    error: BaseException | None = None
    try:
        await server.run(app)
    except Exception as raised:
        error = raised
    happened = log.copy()
    log.clear()
    return happened, server.answers, error


async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """An app for HTTP alone, which says so."""
    raise AssertionError("http only")


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that says that it failed, and raises nothing."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


def breaks() -> None:
    """A hook that breaks."""
    raise Boom("it broke")


@pytest.mark.parametrize("table", TABLES)
def test_each_row_is_shown_here_and_each_test_has_its_row(table: str) -> None:
    """One by one, and no table is left out."""
    assert rows(table) == [cell for of, cell in shown if of == table]
    assert set(re.findall(r"<!-- table: from (.*?) -->", README)) == set(TABLES)


# --- Starlette, whose functions went with 1.0; FastAPI has kept a copy of them, which is the old side here ---


@row("Starlette", "`Starlette(on_startup=[a, b], on_shutdown=[c, d])`")
async def test_functions_of_an_app() -> None:
    """In the order of the lists, both; Starlette refuses them."""
    hooks: Any = {"on_startup": [say("a"), say("b")], "on_shutdown": [say("c"), say("d")]}
    with pytest.raises(TypeError, match="on_startup"):
        Starlette(**hooks)
    before = await went(FastAPI(**hooks))
    assert await went(LifespanMiddleware(Starlette(), **hooks)) == before == ["a", "b", "c", "d"]


@row("Starlette", '`@app.on_event("startup")`')
async def test_the_decorator() -> None:
    """The same word on the middleware; what it decorates is given back."""
    assert not hasattr(Starlette, "on_event")
    for app in (Old(), LifespanMiddleware(Starlette())):
        start, stop = say("a"), say("b")
        assert app.on_event("startup")(start) is start
        assert app.on_event("shutdown")(stop) is stop
        assert await went(app) == ["a", "b"]


@row("Starlette", '`app.add_event_handler("startup", a)`')
async def test_the_method() -> None:
    """The same word on the middleware, and on a `Lifespan`."""
    assert not hasattr(Starlette, "add_event_handler")
    old, hooks, around = FastAPI(), Lifespan(), LifespanMiddleware(Starlette())
    for app in (old.router, hooks, around):
        app.add_event_handler("startup", say("a"))
        app.add_event_handler("shutdown", say("b"))
    assert await went(old) == await went(around) == await went(Starlette(lifespan=hooks)) == ["a", "b"]


@row("Starlette", "`Router(on_startup=[a], on_shutdown=[b])`")
async def test_functions_of_a_router() -> None:
    """As its lifespan, which Starlette still takes."""
    with pytest.raises(TypeError, match="on_startup"):
        Router(on_startup=[say("a")])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    before = await went(APIRouter(on_startup=[say("a")], on_shutdown=[say("b")]))
    hooks = Lifespan(on_startup=[say("a")], on_shutdown=[say("b")])
    assert await went(Router(lifespan=hooks)) == before == ["a", "b"]


@row("Starlette", "`on_startup=[a, b]`, and `b` fails")
async def test_a_function_that_fails() -> None:
    """What `a` opened stays open there; as a context it is closed here."""
    app = FastAPI(on_startup=[say("open"), breaks], on_shutdown=[say("close")])
    happened, answers, error = await ended(app)
    assert (happened, answers) == (["open"], ["startup.failed"])
    assert isinstance(error, Boom)

    def opened() -> Iterator[None]:
        log.append("open")
        yield
        log.append("close")

    hooks = Lifespan(contexts=[opened], on_startup=[breaks])
    happened, answers, error = await ended(LifespanMiddleware(Starlette(), lifespan=hooks))
    assert (happened, answers) == (["open", "close"], ["startup.failed"])
    assert isinstance(error, Boom)


@row("Starlette", "`on_shutdown=[c, d]`, and `c` fails")
async def test_a_function_that_fails_at_shutdown() -> None:
    """`d` is left out there."""
    functions: Any = [breaks, say("d")]
    happened, answers, _ = await ended(FastAPI(on_shutdown=functions))
    assert (happened, answers) == ([], ["startup.complete", "shutdown.failed"])
    happened, answers, _ = await ended(LifespanMiddleware(Starlette(), on_shutdown=functions))
    assert (happened, answers) == (["d"], ["startup.complete", "shutdown.failed"])


@row("Starlette", '`Mount("/sub", sub)`, and `sub` has a lifespan')
async def test_a_mount() -> None:
    """It never runs there."""
    app = Starlette(routes=[Mount("/sub", recorded(log, "sub"))])
    assert await went(app) == []
    assert await went(LifespanMiddleware(app)) == started_and_stopped("sub")


# --- FastAPI ---


@row("FastAPI", '`@app.on_event("startup")`')
async def test_the_decorator_of_fastapi() -> None:
    """Deprecated there."""
    old, app = Old(), FastAPI()
    with pytest.warns(DeprecationWarning, match="on_event is deprecated"):
        old.on_event("startup")(say("a"))
    hooks = Lifespan()
    hooks.on_event("startup")(say("a"))
    app.add_middleware(LifespanMiddleware, lifespan=hooks)
    assert await went(old) == await went(app) == ["a"]


@row("FastAPI", '`@app.on_event("startup")` beside `lifespan=f`')
async def test_the_decorator_beside_a_lifespan() -> None:
    """Ignored there, without a word."""
    old = Old(lifespan=lifespan("f"))
    old.on_event("startup")(say("a"))
    assert await went(old) == started_and_stopped("f")
    app = LifespanMiddleware(FastAPI(lifespan=lifespan("f")))
    app.on_event("startup")(say("a"))
    assert await went(app) == ["a", "start f", "stop f"]


@row("FastAPI", "`FastAPI(lifespan=f, on_startup=[a])`")
async def test_functions_beside_a_lifespan() -> None:
    """Ignored there; here the lifespan and then the functions."""
    assert await went(FastAPI(lifespan=lifespan("f"), on_startup=[say("a")])) == started_and_stopped("f")
    hooks = Lifespan(contexts=[lifespan("f")], on_startup=[say("a")])
    assert await went(FastAPI(lifespan=hooks)) == ["start f", "a", "stop f"]


@row("FastAPI", "`app.include_router(APIRouter(on_startup=[a]))`")
async def test_functions_of_an_included_router() -> None:
    """They run twice there; as the router's lifespan once."""
    old, app = FastAPI(), FastAPI()
    old.include_router(APIRouter(on_startup=[say("a")]))
    app.include_router(APIRouter(lifespan=Lifespan(on_startup=[say("a")])))
    assert await went(old) == ["a", "a"]
    assert await went(app) == ["a"]


@row("FastAPI", "`app.include_router(router)` twice, and `router` has a lifespan")
async def test_a_router_that_is_included_twice() -> None:
    """It runs twice there, with a `Lifespan` as well; put in the app's place, a second time is refused."""
    hooks = Lifespan(contexts=[lifespan("router")])
    for of_the_router in (lifespan("router"), hooks):
        old, router = FastAPI(), APIRouter(lifespan=of_the_router)
        old.include_router(router)
        old.include_router(router, prefix="/v2")
        assert sorted(await went(old)) == sorted(started_and_stopped("router", "router"))
    app = LifespanMiddleware(FastAPI())
    app.include(hooks)
    with pytest.raises(ValueError, match="included already and would run twice"):
        app.include(hooks)
    assert await went(app) == started_and_stopped("router")


@row("FastAPI", '`app.mount("/sub", FastAPI(lifespan=f))`')
async def test_a_mount_in_fastapi() -> None:
    """It never runs there; here around the app, in its stack, and as its lifespan."""
    app, inside, own = FastAPI(), FastAPI(), FastAPI(lifespan=Lifespan(mounts="auto"))
    for one in (app, inside, own):
        one.mount("/sub", FastAPI(lifespan=lifespan("f")))
    assert await went(app) == []
    inside.add_middleware(LifespanMiddleware)
    for served in (LifespanMiddleware(app), inside, own):
        assert await went(served) == started_and_stopped("f")


# --- asgi-lifespan-middleware ---

MIDDLEWARE: list[Any] = [asgi_lifespan_middleware.LifespanMiddleware, LifespanMiddleware]


@row("asgi-lifespan-middleware", "`LifespanMiddleware(app, lifespan=f)`")
async def test_the_lifespan_is_around_that_of_the_app() -> None:
    """In both; the shutdown is answered twice there, which uvicorn takes for a mistake."""
    old, new = (make(recorded(log, "app"), lifespan=lifespan("f")) for make in MIDDLEWARE)
    happened, answers, _ = await ended(old)
    assert happened == started_and_stopped("f", "app")
    assert answers == [*WELL, "shutdown.complete"]
    assert await went(new) == happened


@row("asgi-lifespan-middleware", "`app.add_middleware(LifespanMiddleware, lifespan=f)`")
async def test_inside_an_app() -> None:
    """The lifespan is given the next middleware there, here the app."""
    given: list[object] = []

    @asynccontextmanager
    async def keeps(app: object) -> AsyncIterator[None]:
        given.append(app)
        yield

    apps = [Starlette(), Starlette()]
    for app, make in zip(apps, MIDDLEWARE, strict=True):
        app.add_middleware(make, lifespan=keeps)
        await ended(app)
    assert [isinstance(app, Starlette) for app in given] == [False, True]
    assert given[1] is apps[1]


@row("asgi-lifespan-middleware", "one inside another, for several lifespans")
async def test_several_lifespans() -> None:
    """One for all here."""
    inner, outer = (MIDDLEWARE[0], MIDDLEWARE[0])
    happened, answers, _ = await ended(outer(inner(no_lifespan, lifespan=lifespan("g")), lifespan=lifespan("f")))
    assert happened == started_and_stopped("f", "g")
    assert answers != WELL
    new = LifespanMiddleware(no_lifespan, lifespan=[lifespan("f"), lifespan("g")])
    assert await went(new) == happened


@row("asgi-lifespan-middleware", "`f` yields a mapping")
async def test_the_state_of_the_lifespan() -> None:
    """Dropped there."""
    states: list[dict[str, Any]] = []
    for make in MIDDLEWARE:
        server = RecordingServer()
        await server.run(make(Starlette(), lifespan=lifespan("f")))
        states.append(server.state)
    assert states == [{}, {"f": "f"}]


@row("asgi-lifespan-middleware", "the app fails at startup")
async def test_an_app_that_fails_to_start() -> None:
    """It is told twice there, or not as a failure alone; a lifespan without ``finally`` is not left in full."""

    @asynccontextmanager
    async def broken(app: object) -> AsyncIterator[None]:
        breaks()
        yield  # pragma: no cover - it makes a generator of it

    told = [(await ended(make(Starlette(lifespan=broken), lifespan=lifespan("f"))))[:2] for make in MIDDLEWARE]
    assert told == [(["start f"], ["startup.failed"] * 2), (["start f", "stop f"], ["startup.failed"])]
    told = [(await ended(make(fails, lifespan=lifespan("f"))))[:2] for make in MIDDLEWARE]
    assert [answers for _, answers in told] == [["startup.failed", "shutdown.complete"], ["startup.failed"]]


# --- fastapi-lifespan-manager ---


@row("fastapi-lifespan-manager", "`FastAPI(lifespan=LifespanManager([f, g]))`")
async def test_a_list_of_lifespans() -> None:
    """In the order of the list."""
    both = [lifespan("f"), lifespan("g")]
    old = FastAPI(lifespan=Manager(both))
    assert await went(old) == await went(FastAPI(lifespan=Lifespan(contexts=both))) == started_and_stopped("f", "g")


@row("fastapi-lifespan-manager", "`@manager.add`")
async def test_the_decorator_of_the_manager() -> None:
    """Generator functions with and without the app, and what is decorated already."""

    async def without() -> AsyncIterator[dict[str, object]]:
        log.append("start without")
        yield {"without": 1}
        log.append("stop without")

    async def with_app(app: FastAPI) -> AsyncIterator[None]:
        assert isinstance(app, FastAPI)
        log.append("start with")
        yield
        log.append("stop with")

    manager, hooks = Manager(), Lifespan()
    for add in (manager.add, hooks.context):
        for hook in (without, with_app, lifespan("decorated")):
            assert add(hook) is hook
    for registry in (manager, hooks):
        assert await went(FastAPI(lifespan=registry)) == started_and_stopped("without", "with", "decorated")


@row("fastapi-lifespan-manager", "`manager.include(other)`")
async def test_one_in_another() -> None:
    """What it has by then there, in its place and with what is registered later here; not twice."""
    old, inner = (Manager() for _ in range(2))
    hooks, other = Lifespan(), Lifespan()
    for outer, one, add in ((old, inner, inner.add), (hooks, other, other.context)):
        add(lifespan("early"))
        outer.include(one)
        add(lifespan("late"))
    assert await went(FastAPI(lifespan=old)) == started_and_stopped("early")
    assert await went(FastAPI(lifespan=hooks)) == started_and_stopped("early", "late")
    old.include(inner)
    with pytest.raises(ValueError, match="would run twice"):
        hooks.include(other)
    assert await went(FastAPI(lifespan=old)) == started_and_stopped("early", "early", "late")


@row("fastapi-lifespan-manager", "`manager.remove(f)`")
async def test_one_that_is_taken_out() -> None:
    """For the time of a `with` here."""
    both = [lifespan("f"), lifespan("g")]
    old, hooks = Manager(both), Lifespan(contexts=both)
    old.remove(both[0])
    assert await went(FastAPI(lifespan=old)) == started_and_stopped("g")
    with hooks.override(both[0], None):
        assert await went(FastAPI(lifespan=hooks)) == started_and_stopped("g")
    assert await went(FastAPI(lifespan=hooks)) == started_and_stopped("f", "g")


@row("fastapi-lifespan-manager", "a `def` with a `yield`")
async def test_one_that_is_no_coroutine() -> None:
    """In a worker thread there; here where it says so."""

    def where() -> Iterator[None]:
        log.append("loop" if threading.current_thread() is threading.main_thread() else "thread")
        yield

    old = Manager([where])
    assert await went(FastAPI(lifespan=old)) == ["thread"]
    assert await went(FastAPI(lifespan=Lifespan(contexts=[where]))) == ["loop"]
    assert await went(FastAPI(lifespan=Lifespan(contexts=[threaded(where)]))) == ["thread"]


pool: ContextVar[str] = ContextVar("pool")


@row("fastapi-lifespan-manager", "`async def g(app, state)`")
async def test_one_that_reads_the_state_of_those_before() -> None:
    """A hook here takes the app at most; what those before it set in a context variable it sees."""

    async def f() -> AsyncIterator[dict[str, str]]:
        pool.set("open")
        yield {"pool": "open"}

    async def g(app: FastAPI, state: dict[str, str]) -> AsyncIterator[None]:
        log.append(state["pool"])
        yield

    async def reads() -> AsyncIterator[None]:
        log.append(pool.get())
        yield

    old = Manager([f, g])
    with pytest.raises(TypeError, match="expected no parameter or one, the app"):
        Lifespan(contexts=[f, g])  # type: ignore[list-item]
    new = Lifespan(contexts=[f, reads])
    assert await went(FastAPI(lifespan=old)) == await went(FastAPI(lifespan=new)) == ["open"]


@row("fastapi-lifespan-manager", "two that set one key")
async def test_two_that_set_one_key() -> None:
    """The later one wins there."""

    async def first() -> AsyncIterator[dict[str, str]]:
        yield {"pool": "first"}

    async def second() -> AsyncIterator[dict[str, str]]:
        yield {"pool": "second"}

    server = RecordingServer()
    await server.run(FastAPI(lifespan=Manager([first, second])))
    assert server.state == {"pool": "second"}
    _, answers, error = await ended(FastAPI(lifespan=Lifespan(contexts=[first, second])))
    assert answers == ["startup.failed"]
    assert isinstance(error, StateCollision)


@row("fastapi-lifespan-manager", "a `TypeError` raised in a function that makes a context")
async def test_a_mistake_in_a_function() -> None:
    """It is taken for a wrong signature there, and something else comes out."""

    def makes(app: FastAPI) -> AbstractAsyncContextManager[None]:
        raise TypeError("the mistake")

    made = Manager([makes]), Lifespan(contexts=[makes])
    errors = [str((await ended(FastAPI(lifespan=one)))[2]) for one in made]
    assert "missing 1 required positional argument" in errors[0]
    assert errors[1] == "the mistake"


# --- hypercorn's dispatcher ---


def dispatcher(*apps: ASGIApp) -> Any:
    """Of the event loop that runs, with the apps under numbers."""
    mounts: Any = {f"/{number}": app for number, app in enumerate(apps)}
    return hypercorn.AsyncioDispatcherMiddleware(mounts)


@row("hypercorn", "`AsyncioDispatcherMiddleware({prefix: app, ...})`")
async def test_the_apps_of_a_dispatcher() -> None:
    """All at once there, also at the stop; here one after the other, and in reverse."""
    old, new = (dispatcher(Records(log, "a"), Records(log, "b")) for _ in range(2))
    assert await went(old) == ["start a", "start b", "stop a", "stop b"]
    assert await went(LifespanMiddleware(new)) == ["start a", "start b", "stop b", "stop a"]


@row("hypercorn", "`TrioDispatcherMiddleware({prefix: app, ...})`")
def test_the_apps_of_a_dispatcher_on_trio() -> None:
    """The same."""

    async def main() -> None:
        mounts: Any = {"/a": Records(log, "a"), "/b": Records(log, "b")}
        old = hypercorn.TrioDispatcherMiddleware(mounts)
        assert sorted(await went(old)) == ["start a", "start b", "stop a", "stop b"]
        assert await went(LifespanMiddleware(old)) == started_and_stopped("a", "b")

    anyio.run(main, backend="trio")


@row("hypercorn", "one of them has no lifespan")
async def test_an_app_without_lifespan_in_a_dispatcher() -> None:
    """All fall with it there."""
    happened, answers, error = await ended(dispatcher(Records(log, "a"), no_lifespan))
    assert "stop a" not in happened
    assert answers == []
    assert isinstance(error, ExceptionGroup)
    assert await went(LifespanMiddleware(dispatcher(Records(log, "a"), no_lifespan))) == started_and_stopped("a")


@row("hypercorn", "one of them says `startup.failed`")
async def test_a_failure_in_a_dispatcher() -> None:
    """It is kept back there, and the server waits for ever."""
    server = RecordingServer(holds_on=True)
    with anyio.move_on_after(0.1) as waited:
        await server.run(dispatcher(Records(log, "a"), fails))
    assert waited.cancelled_caught
    assert server.answers == []
    log.clear()
    happened, answers, error = await ended(LifespanMiddleware(dispatcher(Records(log, "a"), fails)))
    assert happened == started_and_stopped("a")
    assert answers == ["startup.failed"]
    assert "no database" in str(error)


@row("hypercorn", "two of them set one key of the state")
async def test_the_state_in_a_dispatcher() -> None:
    """They share one dict there, and the last one wins."""

    def sets(name: str) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"]["pool"] = name
            await Records(log, name)(scope, receive, send)

        return app

    server = RecordingServer()
    await server.run(dispatcher(sets("a"), sets("b")))
    assert (server.answers, server.state["pool"]) == (WELL, "b")
    _, answers, error = await ended(LifespanMiddleware(dispatcher(sets("a"), sets("b"))))
    assert answers == ["startup.failed"]
    assert isinstance(error, StateCollision)


# --- the recipe for mounts ---


def by_hand(*subs: Starlette) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """The recipe: enter the lifespan of each mount in that of the app."""

    @asynccontextmanager
    async def entered(app: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for sub in subs:
                await stack.enter_async_context(sub.router.lifespan_context(sub))
            yield

    return entered


def with_mounts(*subs: Starlette, **options: Any) -> Starlette:
    """An app with these mounted by their number."""
    return Starlette(routes=[Mount(f"/{number}", sub) for number, sub in enumerate(subs)], **options)


@row("AsyncExitStack", "`await stack.enter_async_context(sub.router.lifespan_context(sub))` for each mount")
async def test_the_recipe() -> None:
    """The same order with nothing by hand."""
    subs = recorded(log, "a"), recorded(log, "b")
    before = await went(with_mounts(*subs, lifespan=by_hand(*subs)))
    assert await went(LifespanMiddleware(with_mounts(*subs))) == before == started_and_stopped("a", "b")


@row("AsyncExitStack", "the recipe, left in place")
async def test_the_recipe_left_in_place(caplog: pytest.LogCaptureFixture) -> None:
    """Each is started once, by the recipe."""
    subs = recorded(log, "a"), recorded(log, "b")
    app = with_mounts(*subs, lifespan=by_hand(*subs))
    assert await went(LifespanMiddleware(app)) == started_and_stopped("a", "b")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@row("AsyncExitStack", "a mount inside a mount")
async def test_the_recipe_and_what_is_deeper() -> None:
    """Each level needs the recipe there."""
    deep = recorded(log, "deep")
    sub = recorded(log, "sub", Mount("/deep", deep))
    assert await went(with_mounts(sub, lifespan=by_hand(sub))) == started_and_stopped("sub")
    assert await went(LifespanMiddleware(with_mounts(sub))) == started_and_stopped("sub", "deep")


@row("AsyncExitStack", "an app that has no `router`")
async def test_the_recipe_and_what_is_no_starlette() -> None:
    """There is nothing to enter there."""
    sub: Any = Records(log, "sub")
    _, answers, error = await ended(with_mounts(sub, lifespan=by_hand(sub)))
    assert answers == ["startup.failed"]
    assert isinstance(error, AttributeError)
    assert await went(LifespanMiddleware(with_mounts(sub))) == started_and_stopped("sub")


@row("AsyncExitStack", "state of the mount")
async def test_the_recipe_and_state() -> None:
    """What the stack was given is dropped there."""
    seen: list[list[str]] = []
    sub = recorded(log, "sub")
    for app in (with_mounts(sub, lifespan=by_hand(sub)), LifespanMiddleware(with_mounts(sub))):
        async with serving(app) as server:
            seen.append(await state_seen(app, server, "/0/state"))
    assert seen == [[], ["sub"]]


# --- the MCP SDK ---


def sdk_server() -> MCPServer[Any]:
    """Make a server of the MCP SDK, which can run once, and whose lifespan writes into the log."""
    return MCPServer("sdk", lifespan=lifespan("sdk"), log_level="WARNING")


def sdk_apps(own: Callable[..., Any] | None, *servers: MCPServer[Any]) -> FastAPI:
    """Make an app with this lifespan of its own and these servers mounted."""
    app = FastAPI(lifespan=own)
    for number, server in enumerate(servers):
        app.mount(f"/mcp{number}", server.streamable_http_app(streamable_http_path="/", json_response=True))
    return app


def runs(*servers: MCPServer[Any]) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Make the lifespan of the SDK's documentation: run each session manager by hand."""

    @asynccontextmanager
    async def entered(app: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for server in servers:
                await stack.enter_async_context(server.session_manager.run())
            yield

    return entered


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of this package at WARNING and above."""
    ours = [record for record in caplog.records if record.name == "asgi_lifespan_mw"]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


@row("MCP SDK", '`app.mount("/mcp", server.streamable_http_app())` alone')
async def test_a_server_of_the_sdk_that_nobody_runs() -> None:
    """Each request fails without us; with us the server answers."""
    app = sdk_apps(None, sdk_server())
    async with serving(app):
        with pytest.raises(RuntimeError, match="Task group is not initialized"):
            await request(app, "/mcp0/")
    assert log == []
    served = LifespanMiddleware(app)
    async with serving(served):
        answer = await request(served, "/mcp0/", headers=[(b"host", b"127.0.0.1:8000")])
        assert answer[0]["status"] == 406  # the client takes no JSON
    assert log == started_and_stopped("sdk")


@row("MCP SDK", "`async with server.session_manager.run()` in the app's lifespan")
async def test_a_session_manager_that_is_run_by_hand() -> None:
    """The same order with nothing by hand, as the app's lifespan and around the app."""
    server = sdk_server()
    assert await went(sdk_apps(runs(server), server)) == started_and_stopped("sdk")
    assert await went(sdk_apps(Lifespan(mounts="auto"), sdk_server())) == started_and_stopped("sdk")
    assert await went(LifespanMiddleware(sdk_apps(None, sdk_server()))) == started_and_stopped("sdk")


@row("MCP SDK", "an `AsyncExitStack` for several servers")
async def test_several_session_managers() -> None:
    """In route order, and back."""
    servers = sdk_server(), sdk_server()
    expected = ["start sdk", "start sdk", "stop sdk", "stop sdk"]
    assert await went(sdk_apps(runs(*servers), *servers)) == expected
    assert await went(LifespanMiddleware(sdk_apps(None, sdk_server(), sdk_server()))) == expected


@row("MCP SDK", "`session_manager.run()`, left in place")
async def test_a_session_manager_that_is_run_by_hand_still(caplog: pytest.LogCaptureFixture) -> None:
    """A second `run()` would raise; the first is observed, and nothing is said."""
    by_hand, beside = sdk_server(), sdk_server()
    app = LifespanMiddleware(sdk_apps(runs(by_hand), by_hand, beside))
    assert await went(app) == ["start sdk", "start sdk", "stop sdk", "stop sdk"]
    assert warnings_in(caplog) == []


@row("MCP SDK", "a second run of the same app, as in a second test")
async def test_a_second_run_of_a_server_of_the_sdk() -> None:
    """The SDK refuses it, whoever runs the server: make the app in a function."""
    server = sdk_server()
    for app in (sdk_apps(runs(server), server), LifespanMiddleware(sdk_apps(None, sdk_server()))):
        assert await went(app) == started_and_stopped("sdk")
        _, answers, error = await ended(app)
        assert answers == ["startup.failed"]
        assert "can only be called once per instance" in str(error)


# --- FastMCP ---


def fast_app(name: str = "fast") -> Any:
    """Make a mounted server of FastMCP whose lifespan writes into the log."""
    return FastMCP(name, lifespan=lifespan(name)).http_app(path="/")


def with_fast(mcp_app: Any, own: Callable[..., Any] | None) -> FastAPI:
    """Make an app with this lifespan of its own and the server mounted."""
    app = FastAPI(lifespan=own)
    app.mount("/mcp", mcp_app)
    return app


@row("FastMCP", '`app.mount("/mcp", mcp_app)` alone')
async def test_a_server_of_fastmcp_that_nobody_runs() -> None:
    """Each request fails without us; with us the server answers."""
    app = with_fast(fast_app(), None)
    async with serving(app):
        with pytest.raises(RuntimeError, match="task group was not initialized"):
            await request(app, "/mcp/")
    assert log == []
    served = LifespanMiddleware(with_fast(fast_app(), None))
    async with serving(served):
        assert (await request(served, "/mcp/"))[0]["status"] == 406
    assert log == started_and_stopped("fast")


@row("FastMCP", "`FastAPI(lifespan=mcp_app.lifespan)`")
async def test_the_lifespan_of_a_server_of_fastmcp(caplog: pytest.LogCaptureFixture) -> None:
    """It leaves no place for a lifespan of one's own; it may stay, and nothing is said."""
    mcp_app = fast_app()
    assert await went(with_fast(mcp_app, mcp_app.lifespan)) == started_and_stopped("fast")
    assert await went(with_fast(fast_app(), Lifespan(mounts="auto"))) == started_and_stopped("fast")
    mcp_app = fast_app()
    assert await went(LifespanMiddleware(with_fast(mcp_app, mcp_app.lifespan))) == started_and_stopped("fast")
    mcp_app = fast_app()
    hooks = Lifespan(contexts=[lifespan("f"), mcp_app.lifespan], mounts="auto")
    assert await went(with_fast(mcp_app, hooks)) == started_and_stopped("f", "fast")
    assert warnings_in(caplog) == []


@row("FastMCP", "`FastAPI(lifespan=mcp_app.lifespan)`, and a second server")
async def test_the_lifespan_of_a_server_of_fastmcp_beside_another() -> None:
    """The second one never runs there; its requests fail."""
    for around, expected in ((False, ["one"]), (True, ["one", "two"])):
        one, two = fast_app("one"), fast_app("two")
        app = with_fast(one, one.lifespan)
        app.mount("/two", two)
        assert await went(LifespanMiddleware(app) if around else app) == started_and_stopped(*expected)


@row("FastMCP", "`outer.mount(inner)` of two FastMCP servers")
async def test_a_server_of_fastmcp_in_a_server() -> None:
    """FastMCP runs the inner one, in both."""
    made: list[Any] = []
    for _ in range(2):
        outer, inner = (FastMCP(name, lifespan=lifespan(name)) for name in ("outer", "inner"))
        outer.mount(inner, "inner")
        made.append(outer.http_app(path="/"))
    old, new = made
    expected = started_and_stopped("outer", "inner")
    assert await went(with_fast(old, old.lifespan)) == await went(LifespanMiddleware(with_fast(new, None))) == expected


@row("FastMCP", "`FastAPI(lifespan=combine_lifespans(f, mcp_app.lifespan))`")
async def test_a_server_of_fastmcp() -> None:
    """The mount starts by itself here, and what is left in place is started once."""

    def app(*, combines: bool) -> FastAPI:
        mcp_app = FastMCP("tools", lifespan=lifespan("mcp")).http_app(path="/")
        own = combine_lifespans(lifespan("f"), mcp_app.lifespan) if combines else lifespan("f")
        app = FastAPI(lifespan=own)
        app.mount("/mcp", mcp_app)
        return app

    before = await went(app(combines=True))
    assert before == started_and_stopped("f", "mcp")
    assert await went(app(combines=False)) == started_and_stopped("f")
    assert await went(LifespanMiddleware(app(combines=False))) == before
    assert await went(LifespanMiddleware(app(combines=True))) == before


@row("FastMCP", "`combine_lifespans(f, g)`")
async def test_lifespans_of_ones_own() -> None:
    """In order and back, with the state of both."""
    both = [lifespan("f"), lifespan("g")]
    servers = RecordingServer(), RecordingServer()
    for server, combined in zip(servers, (combine_lifespans(*both), Lifespan(contexts=both)), strict=True):
        await server.run(Old(lifespan=combined))
        assert server.state == {"f": "f", "g": "g"}
    assert log == started_and_stopped("f", "g") * 2


@row("FastMCP", "the app that a lifespan is given")
async def test_who_is_given_to_the_lifespan_of_a_mount() -> None:
    """The parent there, so that `app.state` is written into another app's."""
    given: list[object] = []

    @asynccontextmanager
    async def keeps(app: object) -> AsyncIterator[None]:
        given.append(app)
        yield

    sub = FastAPI(lifespan=keeps)
    old = FastAPI(lifespan=combine_lifespans(lifespan("f"), sub.router.lifespan_context))
    await went(old)
    new = FastAPI(lifespan=lifespan("f"))
    new.mount("/sub", sub)
    await went(LifespanMiddleware(new))
    assert given[0] is old
    assert given[1] is sub


@row("FastMCP", "two that set one key")
async def test_two_lifespans_that_set_one_key() -> None:
    """The later one wins there, without a word."""

    @asynccontextmanager
    async def sets(app: object) -> AsyncIterator[dict[str, object]]:
        yield {"f": "another"}

    server = RecordingServer()
    await server.run(FastAPI(lifespan=combine_lifespans(lifespan("f"), sets)))
    assert server.state == {"f": "another"}
    _, _, error = await ended(FastAPI(lifespan=Lifespan(contexts=[lifespan("f"), sets])))
    assert isinstance(error, StateCollision)


# --- taskiq ---


async def ran_in_a_worker(app: object) -> tuple[list[str], dict[str, object]]:
    """Start a worker process's broker for this app, and return what happened and the state that a task sees."""
    taskiq = pytest.importorskip("taskiq")
    broker = taskiq.InMemoryBroker(await_inplace=True)
    broker.is_worker_process = True
    pytest.importorskip("taskiq_fastapi").init(broker, app)

    async def state(request: Request = taskiq.TaskiqDepends()) -> dict[str, object]:  # noqa: B008 - taskiq's way
        return dict(request.scope["state"])

    await broker.startup()
    task = await broker.register_task(state, task_name="state").kiq()
    result = await task.wait_result()
    await broker.shutdown()
    happened = log.copy()
    log.clear()
    return happened, result.return_value


def with_sub(own: Callable[..., Any]) -> FastAPI:
    """Make an app with this lifespan and one mount."""
    app = FastAPI(lifespan=own)
    app.mount("/sub", recorded(log, "sub"))
    return app


@row("taskiq", "`taskiq_fastapi.init(broker, app)` with `FastAPI(lifespan=f)`")
async def test_a_worker_of_taskiq_and_a_lifespan() -> None:
    """A worker enters the lifespan of the `FastAPI` object, which is all that it sees."""
    assert await ran_in_a_worker(with_sub(lifespan("f"))) == (started_and_stopped("f"), {"f": "f"})
    hooks = Lifespan(contexts=[lifespan("f")], mounts="auto")
    both = {"f": "f", "sub": "sub"}
    assert await ran_in_a_worker(with_sub(hooks)) == (started_and_stopped("f", "sub"), both)


@row("taskiq", "`taskiq_fastapi.init(broker, app)` with a wrapped app")
async def test_a_worker_of_taskiq_and_a_middleware() -> None:
    """Around the app it is refused; among its middleware its hooks are not run."""
    app = with_sub(lifespan("f"))
    with pytest.raises(TypeError, match="missing 3 required positional arguments"):
        await ran_in_a_worker(LifespanMiddleware(app))
    app.add_middleware(LifespanMiddleware, lifespan=lifespan("hook"))
    assert await ran_in_a_worker(app) == (started_and_stopped("f"), {"f": "f"})


@row("taskiq", '`app.add_event_handler("startup", broker.startup)`')
async def test_a_broker_that_an_app_starts() -> None:
    """The app sends tasks, so the broker is opened and closed with it."""
    taskiq = pytest.importorskip("taskiq")
    broker = taskiq.InMemoryBroker()
    broker.add_event_handler(taskiq.TaskiqEvents.CLIENT_STARTUP, lambda _: log.append("start broker"))
    broker.add_event_handler(taskiq.TaskiqEvents.CLIENT_SHUTDOWN, lambda _: log.append("stop broker"))
    old, hooks = FastAPI(), Lifespan(contexts=[lifespan("f")])
    for app in (old.router, hooks):
        app.add_event_handler("startup", broker.startup)
        app.add_event_handler("shutdown", broker.shutdown)
    assert await went(old) == started_and_stopped("broker")
    assert await went(FastAPI(lifespan=hooks)) == started_and_stopped("f", "broker")


# --- Django ---


def django_application() -> Any:
    """The application of a site."""
    django_site.set_up()
    return needs("django", "django.core.asgi").get_asgi_application()


@row("Django", "`application = get_asgi_application()`")
async def test_an_application_of_django() -> None:
    """It turns the lifespan away; hooks are run around it."""
    happened, answers, error = await ended(django_application())
    assert (happened, answers) == ([], [])
    assert "not lifespan" in str(error)
    assert await went(LifespanMiddleware(django_application(), lifespan=lifespan("f"))) == started_and_stopped("f")


@row("Django", "`AppConfig.ready()`")
async def test_the_hook_of_an_app_config() -> None:
    """It runs wherever Django is set up, in every command, and has no counterpart and no event loop."""
    app_config = needs("django", "django.apps").AppConfig
    shop: Any = type("Shop", (app_config,), {"path": "shop", "ready": lambda _: log.append("ready")})
    assert not inspect.iscoroutinefunction(app_config.ready)
    needs("django", "django.apps.registry").Apps([shop("shop", ModuleType("shop"))])  # as every command does it
    assert log == ["ready"]
    log.clear()
    app = LifespanMiddleware(django_application(), on_startup=[say("start")], on_shutdown=[say("stop")])
    assert log == []
    assert await went(app) == ["start", "stop"]


@row("Django", '`if scope["type"] == "lifespan"` in `asgi.py`')
async def test_a_switch_by_hand() -> None:
    """The loop over messages is not needed here, and a failure is told."""
    application = django_application()

    def switch(start: Callable[[], None]) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":  # pragma: no cover - no request is sent
                await application(scope, receive, send)
                return
            while True:
                message = await receive()
                if message["type"] == "lifespan.startup":
                    start()
                    await send({"type": "lifespan.startup.complete"})
                else:
                    log.append("stop")
                    await send({"type": "lifespan.shutdown.complete"})
                    return

        return app

    def ours(start: Callable[[], None]) -> ASGIApp:
        return LifespanMiddleware(application, on_startup=[start], on_shutdown=[say("stop")])

    assert await went(switch(say("start"))) == await went(ours(say("start"))) == ["start", "stop"]
    assert [(await ended(make(breaks)))[1] for make in (switch, ours)] == [[], ["startup.failed"]]


@row("Django", '`Starlette(lifespan=f, routes=[Mount("/", application)])`')
async def test_a_starlette_around_a_site() -> None:
    """Works in both; here nothing stands between the server and Django."""
    around = Starlette(lifespan=lifespan("f"), routes=[Mount("/", django_application())])
    ours = LifespanMiddleware(django_application(), lifespan=lifespan("f"))
    assert await went(around) == await went(ours) == await went(LifespanMiddleware(around)) == started_and_stopped("f")
    seen: list[list[str]] = []
    for app in (around, ours):
        async with serving(app) as server:
            seen.append(await state_seen(app, server, "/hello"))
    assert seen == [["f"], ["f"]]


# --- Sentry, with Django: its SDK changes classes of Django for good, so each case is a process ---

SENTRY = """
import anyio
from sentry_sdk import init
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

from asgi_lifespan_mw import LifespanMiddleware
from tests.frameworks import django_site
from tests.server import RecordingServer


class Prints(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            for exception in item.payload.json["exception"]["values"]:
                print("sent", exception["value"])


init(
    dsn="http://key@localhost/1",
    transport=Prints,
    integrations=[DjangoIntegration()],
    auto_enabling_integrations=False,
    auto_session_tracking=False,
)
django_site.set_up()

from django.core.asgi import get_asgi_application

application = get_asgi_application()


def breaks():
    raise RuntimeError("no database")


async def main(app):
    server = RecordingServer()
    try:
        await server.run(app)
    except Exception as error:
        print("raised", type(error).__name__)
    print(*server.answers)


"""

REFUSED = "sent Django can only handle ASGI/HTTP connections, not lifespan."


def under_sentry(case: str, folder: Path) -> list[str]:
    """Run a case in a process with Sentry's SDK and Django, and return the lines that it prints."""
    pytest.importorskip("sentry_sdk")
    needs("django", "django")
    return run(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{SENTRY}{case}\n", folder).splitlines()


@pytest.mark.slow
@row("Sentry", "`application = get_asgi_application()`")
def test_a_start_of_a_site_is_an_error_in_sentry(tmp_path: Path) -> None:
    """Django refuses the lifespan, and the SDK reports that; an app that is excluded is sent none."""
    assert under_sentry("anyio.run(main, application)", tmp_path) == [REFUSED, "raised ValueError", ""]
    wrapped = "anyio.run(main, LifespanMiddleware(application, on_startup=[print]))"
    assert under_sentry(wrapped, tmp_path) == ["", REFUSED, "startup.complete shutdown.complete"]
    excluded = "anyio.run(main, LifespanMiddleware(application, exclude=[application], on_startup=[print]))"
    assert under_sentry(excluded, tmp_path) == ["", "startup.complete shutdown.complete"]


@pytest.mark.slow
@row("Sentry", "`SentryAsgiMiddleware(application)`")
def test_the_middleware_of_sentry(tmp_path: Path) -> None:
    """Inside of ours or outside it reports the refusal once more; what is inside of an excluded app is excluded."""
    around = "from sentry_sdk.integrations.asgi import SentryAsgiMiddleware\napp = SentryAsgiMiddleware(application)\n"
    bare = around + "anyio.run(main, app)"
    assert under_sentry(bare, tmp_path) == [REFUSED, "raised ValueError", ""]
    inside = around + "anyio.run(main, LifespanMiddleware(app, exclude=[application], on_startup=[print]))"
    assert under_sentry(inside, tmp_path) == ["", "startup.complete shutdown.complete"]


@pytest.mark.slow
@row("Sentry", "`logging.basicConfig()` beside `sentry_sdk.init()`")
def test_a_failed_hook_is_an_error_in_sentry(tmp_path: Path) -> None:
    """By the log, once, with its exception; the SDK knows of no hook."""
    fails = "import logging\nlogging.basicConfig()\n"
    fails += "anyio.run(main, LifespanMiddleware(application, exclude=[application], on_startup=[breaks]))"
    assert under_sentry(fails, tmp_path) == ["sent no database", "raised RuntimeError", "startup.failed"]
