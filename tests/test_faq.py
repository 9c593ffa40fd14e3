"""Show each answer of the page of questions by a run."""

import asyncio
import functools
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import anyio
import mangum
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from asgi_lifespan_mw import Isolated, Lifespan, LifespanManager, LifespanMiddleware, threaded
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.plans import Boom, CrashesOnDemand
from tests.server import RecordingServer
from tests.test_readme import BESIDE
from tests.usages import Records, lifespan_of, lived, recorded, serving, started_and_stopped

F = TypeVar("F", bound=Callable[..., object])

QUESTIONS = re.findall(r"^## (.*)$", BESIDE["docs/faq.md"], re.MULTILINE)
answered: list[str] = []


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio: each answer is shown on all event loops by the tests of its module."""
    return "asyncio"


@pytest.fixture
def log() -> list[str]:
    """What started and stopped."""
    return []


def answers(question: str) -> Callable[[F], F]:
    """The test that it decorates shows the answer."""
    answered.append(question)
    return lambda test: test


def test_each_question_has_its_test_and_each_test_its_question() -> None:
    """In the order of the page. The last two say what no program can show: what ASGI does not have."""
    assert answered == QUESTIONS[:-2]
    assert all(re.match("Is there|Can a hook", question) for question in QUESTIONS[-2:])


nobody: Any = None
"""For what is not called."""


async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that turns the lifespan away."""
    raise AssertionError("http only")


@answers("Why is my mount not started?")
async def test_the_reason_is_told(log: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Each mount that is not started is in the report, with why."""
    by_hand, mine = recorded(log, "by hand"), recorded(log, "mine")

    class Unknown:
        """A container, and an app without lifespan."""

        def __init__(self, app: object) -> None:
            self.mine = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] != "lifespan"

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with by_hand.router.lifespan_context(by_hand):
            yield

    routes = [Mount("/by-hand", by_hand), Mount("/unknown", Unknown(mine))]
    app = LifespanMiddleware(Starlette(lifespan=lifespan, routes=routes))
    await lived(app)
    assert log == started_and_stopped("by hand")
    assert app.report is not None
    _, left_out, unsupported = app.report.units
    assert (left_out.outcome, unsupported.outcome) == ("left out", "unsupported")
    assert left_out.reason == "is started by its parent"
    log.clear()
    other = recorded(log, "named")
    await lived(LifespanMiddleware(no_lifespan, mounts=[other]))
    assert log == started_and_stopped("named")


@answers("I mount an app while serving. Is it started?")
async def test_what_is_mounted_while_serving_is_not_started(log: list[str]) -> None:
    """What a lifespan mounts is."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.mount("/early", recorded(log, "early"))
        yield

    app = Starlette(lifespan=lifespan)
    served = LifespanMiddleware(app)

    @served.on_startup
    def mounts() -> None:
        app.mount("/hook", recorded(log, "by a hook"))

    async with serving(served):
        app.mount("/late", recorded(log, "late"))
    assert log == started_and_stopped("by a hook", "early")


@answers("Does it cost anything per request?")
async def test_a_request_gets_the_apps_own_awaitable() -> None:
    """The same scope goes in, the app's own awaitable comes out; with exceptions that are named."""
    given: list[Any] = []

    def app(scope: Any, receive: Any, send: Any) -> Any:
        given.append(scope)
        return anyio.sleep(0)

    scope = {"type": "http", "state": {}}
    await LifespanMiddleware(app)(scope, nobody, nobody)
    assert given.pop() is scope
    if sys.version_info >= (3, 12):  # pragma: no cover before 3.12
        awaitable = app(scope, nobody, nobody)
        one = LifespanMiddleware(lambda *_: awaitable)
        assert one(scope, nobody, nobody) is awaitable
        await awaitable
    own = FastAPI(lifespan=Lifespan(mounts="auto"))
    assert not own.user_middleware
    await Isolated(app)(scope, nobody, nobody)
    assert given.pop() is scope  # no run gave it a state


@answers("`fastapi run` does not run my hooks.")
def test_fastapi_run_finds_the_object_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for `FastAPI` objects alone: one that is wrapped under a name of its own is served bare."""
    discover = pytest.importorskip("fastapi_cli.discover")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    start = "from fastapi import FastAPI\nfrom asgi_lifespan_mw import Lifespan, LifespanMiddleware\n"

    def found(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(start + source, encoding="utf-8")
        return str(discover.get_import_data(path=tmp_path / f"{name}.py").import_string)

    assert found("wrapped", "api = FastAPI()\napp = LifespanMiddleware(api)\n") == "wrapped:api"
    assert found("own", "app = FastAPI(lifespan=Lifespan(mounts='auto'))\n") == "own:app"
    with pytest.raises(Exception, match="Could not find FastAPI app in module"):
        found("nameless", "app = LifespanMiddleware(FastAPI())\n")


@answers("`TestClient(app)` without `with`?")
def test_a_test_client_without_with_starts_nothing(log: list[str]) -> None:
    """Within its `with`, everything."""
    app = LifespanMiddleware(recorded(log, "app"))
    assert TestClient(LifespanMiddleware(Starlette())).get("/").status_code == 404
    assert log == []
    with TestClient(app) as client:
        assert client.get("/state").json() == ["app"]
    assert log == started_and_stopped("app")


EVENT = {
    "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": "", "headers": {"host": "test"},
    "requestContext": {"http": {"method": "GET", "path": "/", "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"}},
    "isBase64Encoded": False,
}  # fmt: skip
"""An invocation by AWS's HTTP gateway."""


@answers("And serverless, with Mangum?")
def test_mangum_and_invocations(log: list[str]) -> None:
    """It runs a lifespan around each one, or none at all; then the first invocation starts everything."""
    bare = Starlette(lifespan=lifespan_of(log, "app"), routes=[Route("/", lambda _: PlainTextResponse("hello"))])
    started_by_request = LifespanMiddleware(bare, start_on_request=True)
    context: Any = None
    make: Any = mangum.Mangum
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())  # it would make one and leave it open
        for app, lifespan, expected in (
            (bare, "auto", started_and_stopped("app") * 2),
            (LifespanMiddleware(bare), "auto", started_and_stopped("app") * 2),
            (bare, "off", []),
            (started_by_request, "off", ["start app"]),
        ):
            handler = make(app, lifespan=lifespan)
            assert [handler(EVENT, context)["body"] for _ in range(2)] == ["hello"] * 2
            assert log == expected
            log.clear()
        asyncio.set_event_loop(None)
    assert log == ["stop app"]


async def test_each_worker_has_its_own_lifespan(log: list[str]) -> None:
    """As two runs of one app, which share nothing; real ones are under `tests/servers`."""
    app = LifespanMiddleware(no_lifespan, lifespan=lifespan_of(log, "hook"))
    async with serving(app) as one, serving(app) as other:
        assert one.state == other.state == {"hook": "hook"}
        assert one.state is not other.state
    assert sorted(log) == sorted(started_and_stopped("hook") * 2)


@answers("Ctrl-C twice?")
async def test_a_cancelled_lifespan_is_stopped_in_order(log: list[str]) -> None:
    """And nothing is sent."""
    server = RecordingServer(holds_on=True)
    app = LifespanMiddleware(recorded(log, "app"), lifespan=[lifespan_of(log, "f"), lifespan_of(log, "g")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        tasks.cancel_scope.cancel()
    assert log == started_and_stopped("f", "g", "app")
    assert server.answers == ["startup.complete"]


async def test_def_hooks_run_on_the_event_loop() -> None:
    """Unless they are `threaded`."""
    threads: list[threading.Thread] = []

    def hook() -> None:
        threads.append(threading.current_thread())

    await lived(LifespanMiddleware(no_lifespan, on_startup=[hook, threaded(hook)]))
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


async def test_hooks_and_mounts_start_side_by_side() -> None:
    """Each waits until both have begun, which would take longer than the timeout if one came after the other."""
    waiting: list[str] = []
    met = anyio.Event()

    async def meets(name: str) -> None:
        waiting.append(name)
        if len(waiting) == 2:
            met.set()
        await met.wait()

    hooks = [functools.partial(meets, "a"), functools.partial(meets, "b")]
    await lived(LifespanMiddleware(no_lifespan, on_startup=hooks, concurrent=True, startup_timeout=1))
    assert waiting == ["a", "b"]

    def mount(name: str) -> Starlette:
        @asynccontextmanager
        async def lifespan(app: object) -> AsyncIterator[None]:
            await meets(name)
            yield

        return Starlette(lifespan=lifespan)

    met = anyio.Event()
    waiting.clear()
    await lived(LifespanMiddleware(no_lifespan, mounts=[mount("a"), mount("b")], concurrent=True, startup_timeout=1))
    assert sorted(waiting) == ["a", "b"]


variable: ContextVar[str] = ContextVar("variable", default="unset")


@answers("Do requests see a context variable that a hook set?")
async def test_context_variables_reach_units_and_no_requests() -> None:
    """Hooks, the app and mounts that start later see it."""
    seen: list[tuple[str, str]] = []

    class Looks:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append((f"{self.name} {scope['type']}", variable.get()))
            if scope["type"] == "lifespan":
                await Records([], self.name)(scope, receive, send)

    def sets() -> Iterator[None]:
        variable.set("set")
        yield

    def sees() -> None:
        seen.append(("hook", variable.get()))

    hooks = Lifespan(contexts=[sets], on_startup=[sees])
    async with LifespanManager(LifespanMiddleware(Looks("app"), hooks, mounts=[Looks("mount")])) as manager:
        await manager.app({"type": "http"}, nobody, nobody)
    assert seen == [("hook", "set"), ("app lifespan", "set"), ("mount lifespan", "set"), ("app http", "unset")]


@answers("Why is not everything in one task group?")
async def test_what_breaks_takes_nothing_else_with_it(log: list[str]) -> None:
    """As it would in a group; and the stop is in reverse, not at once."""
    breaks = CrashesOnDemand()
    hooks: list[Any] = [lifespan_of(log, "f"), breaks, lifespan_of(log, "g")]
    with pytest.raises(ExceptionGroup) as raised:
        async with LifespanManager(LifespanMiddleware(no_lifespan, lifespan=hooks)):
            breaks.demand.set()
            await anyio.wait_all_tasks_blocked()
            assert log == ["start f", "start g"]
    assert raised.group_contains(Boom)
    assert log == started_and_stopped("f", "g")
    log.clear()
    in_group: list[str] = []

    async def live(name: str) -> None:
        try:
            in_group.append(name)
            await anyio.sleep_forever()
        finally:
            in_group.append(f"cancelled {name}")

    with pytest.raises(ExceptionGroup):
        async with anyio.create_task_group() as group:
            group.start_soon(live, "f")
            await anyio.wait_all_tasks_blocked()
            raise Boom
    assert in_group == ["f", "cancelled f"]


@answers("What if it is there twice?")
@pytest.mark.parametrize("where", ["around and inside", "around twice", "in a mount"])
async def test_twice_starts_once(log: list[str], where: str) -> None:
    """Each app, however many middleware would start it."""
    app, sub = recorded(log, "app"), recorded(log, "sub")
    app.mount("/sub", LifespanMiddleware(sub) if where == "in a mount" else sub)
    if where == "around and inside":
        app.add_middleware(LifespanMiddleware)
    served = LifespanMiddleware(LifespanMiddleware(app) if where == "around twice" else app)
    await lived(served)
    assert log == started_and_stopped("app", "sub")


@answers("The server served my app although its startup raised; now it refuses. Why?")
async def test_an_app_that_took_the_startup_and_broke_has_failed(log: list[str]) -> None:
    """One that raises at once has no lifespan."""

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise Boom("no database")

    server = RecordingServer()
    with pytest.raises(Boom):
        await server.run(LifespanMiddleware(breaks))
    assert server.answers == ["startup.failed"]
    await lived(LifespanMiddleware(no_lifespan, lifespan=lifespan_of(log, "hook")))
    assert log == started_and_stopped("hook")
