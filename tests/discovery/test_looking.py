"""The corners of the look at apps: what is empty, broken, compiled, cyclic or very deep."""

import functools
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import FunctionType, MethodType
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from asgi_lifespan_mw import Isolated, LifespanMiddleware
from asgi_lifespan_mw._apps.node import AppNode
from asgi_lifespan_mw._apps.objects import attributes_of, called_function, closure_of
from asgi_lifespan_mw._apps.walk import describe, look_inside
from asgi_lifespan_mw._apps.watch import Watch, observing, watching
from asgi_lifespan_mw._apps.wrappers import mentions_lifespan, names_lifespan, wrapped_by
from asgi_lifespan_mw._types import ASGIApp
from tests.server import RecordingServer
from tests.usages import lived, recorded, serving, started_and_stopped, state_seen

# --- objects ---


class Slots:
    """An object whose attributes are in slots, one of them empty."""

    __slots__ = ("empty", "full")

    def __init__(self) -> None:
        self.full = 1


def test_slots_are_read() -> None:
    """An empty one is skipped."""
    assert attributes_of(Slots()) == {"full": 1}


def test_a_variable_that_is_not_set_yet_is_skipped() -> None:
    """A closure may be looked at before the function around it is done."""

    def inner() -> object:
        return later, now

    now = 1
    assert isinstance(inner, FunctionType)
    assert closure_of(inner) == {"now": 1}
    later = 2
    assert inner() == (2, 1)


def test_what_calls_itself_ends_the_search() -> None:
    """A partial of itself, and what is written in C."""
    endless = functools.partial(print)
    endless.__setstate__((endless, (), {}, {}))  # type: ignore[attr-defined]
    assert called_function(endless) == (None, ())
    assert called_function(min) == (None, ())
    assert not names_lifespan(min)


class Auth:
    """A wrapper of the user's own."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(scope, receive, send)


def test_a_wrapper_of_what_is_sent_nothing_wraps_no_app() -> None:
    """Static files are not looked for in wrappers."""
    assert wrapped_by(Auth(StaticFiles(directory="."))) == []


def traced(inner: ASGIApp) -> ASGIApp:
    """A wrapper that is a function."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)  # pragma: no cover - it is looked at, and not called

    return outer


def test_very_many_wrappers_are_looked_through_no_further_than_a_hundred() -> None:
    """Nobody has so many; the search ends."""
    app: ASGIApp = Starlette()
    for _ in range(300):
        app = traced(app)
    node = describe(AppNode(app))
    assert len(node.members) + len(node.wrapped) == 100
    assert len(look_inside(node).reached) == 101


class ByName:
    """A wrapper that reads its attribute by a name that is made while it runs."""

    def __init__(self, inner: ASGIApp) -> None:
        self.tenant_1 = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await getattr(self, f"tenant_{1}")(scope, receive, send)


async def test_a_wrapper_that_reads_names_is_looked_through() -> None:
    """Any of its attributes may be the app."""
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/x", ByName(recorded(log, "sub")))])))
    assert log == started_and_stopped("sub")


def test_what_is_not_written_in_python_may_expect_a_lifespan() -> None:
    """Its code cannot be read; what cannot be called expects nothing."""
    assert mentions_lifespan(min)
    assert not mentions_lifespan(object())


# --- observation ---


async def begun(*given: object) -> AsyncIterator[None]:
    """An asynchronous generator with arguments."""
    yield


def step(generator: Any) -> None:
    """Run a generator up to its yield, without an event loop."""
    with pytest.raises(StopIteration):
        generator.asend(None).send(None)


def test_generators_are_seen_without_an_event_loop() -> None:
    """The hook that was there before comes back, and what is compiled is passed over."""
    before = sys.get_asyncgen_hooks()
    watch = Watch()
    token = watching.set(watch)
    try:
        with observing(watch), observing(watch):
            step(begun("a", "b"))
            watch.observed.record(object())
            watching.set(None)
            step(begun("unseen"))
            [one] = watch.observed.unassigned(begun, ())  # type: ignore[arg-type]
            assert one.arguments == ["a", "b"]
    finally:
        watching.reset(token)
    assert watch.observed.unassigned(begun, ()) == []  # type: ignore[arg-type]
    assert sys.get_asyncgen_hooks() == before


def test_a_hook_that_was_set_meanwhile_stays() -> None:
    """Another tool may watch generators as well."""
    before = sys.get_asyncgen_hooks()

    def another(generator: object) -> None:
        raise AssertionError

    with observing(Watch()):
        sys.set_asyncgen_hooks(firstiter=another)
    assert sys.get_asyncgen_hooks().firstiter is another
    sys.set_asyncgen_hooks(*before)


# --- who starts what ---

log: list[str] = []


@pytest.fixture(autouse=True)
def _empty_log() -> Iterator[None]:
    yield
    log.clear()


class Server:
    """Has a lifespan that is a method."""

    def __init__(self, name: str) -> None:
        self.name = name

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        log.append(f"start {self.name}")
        yield
        log.append(f"stop {self.name}")


@asynccontextmanager
async def titled(app: FastAPI) -> AsyncIterator[None]:
    """One function for several apps."""
    log.append(f"start {app.title}")
    yield
    log.append(f"stop {app.title}")


def starting(app: FastAPI) -> Callable[[object], Any]:
    """The lifespan of a parent that starts one app by hand."""

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            yield

    return lifespan


@pytest.mark.parametrize("by_hand", [0, 1])
@pytest.mark.parametrize("kind", ["method", "function"])
async def test_one_of_two_siblings_with_one_function_is_started_by_the_parent(by_hand: int, kind: str) -> None:
    """The other one is started by us, in whichever order they are mounted."""
    apps = [
        FastAPI(title=name, lifespan=Server(name).lifespan if kind == "method" else titled)
        for name in ("first", "second")
    ]
    app = FastAPI(lifespan=starting(apps[by_hand]))
    for at, sub in enumerate(apps):
        app.mount(f"/{at}", sub)
    await lived(LifespanMiddleware(app))
    assert sorted(log) == ["start first", "start second", "stop first", "stop second"]


async def test_an_app_that_a_mount_mounts_in_its_parent_is_started() -> None:
    """The parent was looked into before, and is looked into again."""
    parent = Starlette()

    @asynccontextmanager
    async def plugin(app: object) -> AsyncIterator[None]:
        log.append("start plugin")
        parent.mount("/extra", recorded(log, "extra"))
        yield
        log.append("stop plugin")

    parent.mount("/plugin", Starlette(lifespan=plugin))
    await lived(LifespanMiddleware(parent))
    assert log == started_and_stopped("plugin", "extra")
    parent.router.routes.pop()
    log.clear()
    await lived(LifespanMiddleware(parent, mounts=[parent.router.routes[0].app]))  # type: ignore[attr-defined]
    assert log == ["start plugin", "stop plugin"]


async def test_one_isolated_app_at_two_paths_has_one_state() -> None:
    """It is the same object, once behind a middleware."""
    isolated = Isolated(recorded(log, "sub"))
    app = LifespanMiddleware(Starlette(routes=[Mount("/a", isolated), Mount("/b", Auth(isolated))]))
    async with serving(app) as server:
        assert await state_seen(app, server, "/a/state") == await state_seen(app, server, "/b/state") == ["sub"]
    assert log == started_and_stopped("sub")


def with_handlers() -> FastAPI:
    """An app whose start is an event handler."""
    app = FastAPI()
    app.router.on_startup.append(lambda: log.append("start sub"))
    return app


def by_name(sub: FastAPI) -> FastAPI:
    """A lifespan that starts it."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        await sub.router._startup()
        yield

    return FastAPI(lifespan=lifespan)


def by_routes(_: FastAPI) -> FastAPI:
    """A lifespan that starts whatever is mounted."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for route in app.routes:
            if isinstance(route, Mount):
                sub: Any = route.app
                await sub.router._startup()
        yield

    return FastAPI(lifespan=lifespan)


def by_class(sub: FastAPI) -> FastAPI:
    """A lifespan that is a class."""

    class Starts:
        def __init__(self, app: object) -> None:
            """Take the app."""

        async def __aenter__(self) -> None:
            await sub.router._startup()

        async def __aexit__(self, *error: object) -> None:
            """Leave."""

    return FastAPI(lifespan=Starts)


def mentioned(sub: FastAPI) -> FastAPI:
    """A lifespan that only mentions it."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        log.append(f"about to serve {sub.title}")
        yield

    return FastAPI(lifespan=lifespan)


@pytest.mark.parametrize("parent", [by_name, by_routes, by_class, mentioned])
async def test_event_handlers_that_a_parent_runs_run_once(
    parent: Callable[[FastAPI], FastAPI], caplog: pytest.LogCaptureFixture
) -> None:
    """They are run by `router._startup()`, at which a recorder stands; a mention runs nothing."""
    sub = with_handlers()
    app = parent(sub)
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app))
    assert log.count("start sub") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_app_that_breaks_the_look_is_answered_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong before the first unit, the server is told."""

    def breaks(*_: object) -> None:
        raise RuntimeError("a look that fails")

    monkeypatch.setattr("asgi_lifespan_mw._run.run.Tree", breaks)
    app = LifespanMiddleware(Starlette(), on_startup=[lambda: None])
    server = RecordingServer()
    with pytest.raises(RuntimeError, match="a look that fails"):
        await server.run(app)
    assert server.answers == ["startup.failed"]
    assert app.report is not None
    assert [row.outcome for row in app.report.units] == ["waiting"]


@pytest.mark.slow
async def test_five_hundred_nested_apps_start_and_stop() -> None:
    """No step is a recursion."""
    app = recorded(log, "0")
    for depth in range(1, 500):
        app = recorded(log, str(depth), Mount("/x", app))
    served = LifespanMiddleware(app)
    await lived(served)
    assert log == started_and_stopped(*map(str, range(499, -1, -1)))
    assert served.report is not None
    assert len(served.report.units) == 500


def test_a_bound_method_of_an_app_is_that_app() -> None:
    """``Starlette().__call__`` may be mounted too."""
    app = Starlette()
    assert wrapped_by(MethodType(Starlette.__call__, app)) == [app]
