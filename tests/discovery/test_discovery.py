import logging
import math
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock
from wsgiref.simple_server import demo_app

import a2wsgi
import anyio
import anyio.lowlevel
import asgiref.wsgi
import pytest
import starlette.routing
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles

from asgi_lifespan_mw import Isolated, Lifespan, LifespanManager, LifespanMiddleware, LifespanTimeout
from asgi_lifespan_mw._apps.frameworks import LifespanPolicy
from asgi_lifespan_mw._apps.node import AppNode
from asgi_lifespan_mw._apps.walk import describe, look_inside
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.conftest import ONE_LOOP_IN_THE_QUICK_LOOP, VIRTUAL
from tests.plans import Boom, fails_to_start, hangs_at_start
from tests.server import RecordingServer, request
from tests.usages import (
    USAGES,
    Create,
    as_the_lifespan,
    lifespan_of,
    lived,
    recorded,
    serving,
    show_state,
    started_and_stopped,
    state_seen,
)

WSGI_APP: Any = demo_app


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    """What the package logged at `level`."""
    return [record for record in caplog.records if record.name == "asgi_lifespan_mw" and record.levelno == level]


def labels(app: ASGIApp) -> list[str]:
    """What is found in an app, by the names that messages use."""
    return [nested.label for nested in look_inside(AppNode(app)).nested]


@pytest.fixture(params=USAGES, ids=lambda usage: usage.__name__)
def create(request: pytest.FixtureRequest) -> Create:
    """The three ways of use in turn."""
    usage: Create = request.param
    return usage


class PassesOn:
    """A middleware that nobody knows."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class TurnsLifespanAway(PassesOn):
    """A middleware that lets nothing but requests through."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise ValueError("requests only, please")
        await self.app(scope, receive, send)


class RefusesLifespan:
    """An app without lifespan that says so, and remembers that it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["type"])
        assert scope["type"] == "lifespan"
        raise ValueError("requests only, please")


class ReturnsAtOnce:
    """An app without lifespan that says nothing."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        return


class FailsToStart:
    """An app whose startup fails."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        raise OSError("no database")


# --- Where apps are found ---


async def test_a_mounted_app_is_started_after_its_parent_and_stopped_before_it(create: Create) -> None:
    """A `Mount`'s app runs inside its parent's lifespan, and its requests see the state of both."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    app.mount("/sub", recorded(log, "sub"))
    async with serving(served) as server:
        assert await state_seen(served, server, "/sub/state") == ["parent", "sub"]
    assert log == started_and_stopped("parent", "sub")


async def test_mounts_start_in_route_order_each_parent_before_its_children(create: Create) -> None:
    """The tree is walked depth first, and stopped in exactly the reverse order."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    leaf = recorded(log, "leaf")
    app.mount("/a", recorded(log, "a", Mount("/inner", recorded(log, "inner", Mount("/leaf", leaf)))))
    app.mount("/b", recorded(log, "b"))
    async with serving(served) as server:
        assert await state_seen(served, server, "/a/inner/leaf/state") == ["parent", "a", "inner", "leaf", "b"]
    assert log == started_and_stopped("parent", "a", "inner", "leaf", "b")


async def test_an_app_behind_a_host_is_started(create: Create) -> None:
    """A `Host`'s app is a mount too."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    app.host("api.example.org", recorded(log, "api"))
    async with serving(served) as server:
        headers = [(b"host", b"api.example.org")]
        assert await state_seen(served, server, "/state", headers=headers) == ["parent", "api"]
    assert log == started_and_stopped("parent", "api")


async def test_a_nested_router_is_started_with_the_application_around_it(create: Create) -> None:
    """A bare router's lifespan is given the application, as that of a router which is no mount."""
    given: list[object] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
        given.append(app)
        yield {"router": 1}

    app, served = create(lifespan_of([], "parent"))
    app.mount("/sub", Router(routes=[Route("/state", show_state)], lifespan=lifespan))
    async with serving(served) as server:
        assert await state_seen(served, server, "/sub/state") == ["parent", "router"]
    assert given == [app]


async def test_a_router_behind_a_middleware_is_given_the_application_too(create: Create) -> None:
    """A middleware around a bare router takes nothing from it."""
    given: list[object] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        given.append(app)
        yield

    app, served = create(lifespan_of([], "parent"))
    app.router.routes.append(Mount("/sub", Router(lifespan=lifespan), middleware=[Middleware(GZipMiddleware)]))
    await lived(served)
    assert given == [app]


async def test_a_router_in_a_sub_app_is_given_the_sub_app(create: Create) -> None:
    """The nearest application around a router is its own."""
    given: list[object] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        given.append(app)
        yield

    app, served = create(lifespan_of([], "parent"))
    sub = Starlette(routes=[Mount("/group", routes=[Mount("/router", Router(lifespan=lifespan))])])
    app.mount("/sub", sub)
    await lived(served)
    assert given == [sub]


async def test_a_wrapped_router_is_the_application_of_the_routers_in_it() -> None:
    """Where there is no application at all, routers get what is wrapped, as hooks do."""
    given: list[object] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        given.append(app)
        yield

    router = Router(routes=[Mount("/sub", Router(lifespan=lifespan))])
    await lived(LifespanMiddleware(router))
    assert given == [router]


async def test_apps_in_a_group_of_routes_are_started(create: Create) -> None:
    """``Mount(routes=[...])`` is looked through, however deep."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    inner = Mount("/inner", routes=[Mount("/sub", recorded(log, "sub"))])
    app.router.routes.append(Mount("/group", routes=[inner]))
    async with serving(served) as server:
        assert await state_seen(served, server, "/group/inner/sub/state") == ["parent", "sub"]
    assert log == started_and_stopped("parent", "sub")


@pytest.mark.parametrize(
    "middleware",
    [
        [Middleware(GZipMiddleware)],
        [Middleware(TrustedHostMiddleware, allowed_hosts=["*"])],
        [Middleware(PassesOn), Middleware(GZipMiddleware)],
        [Middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))],
    ],
    ids=["gzip", "trusted-host", "two", "base-http"],
)
async def test_a_mount_with_middleware_is_sent_one_lifespan(create: Create, middleware: list[Middleware]) -> None:
    """The lifespan enters by the middleware and passes on to the app, which is not sent a second one."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    app.router.routes.append(Mount("/sub", recorded(log, "sub"), middleware=middleware))
    async with serving(served) as server:
        assert await state_seen(served, server, "/sub/state") == ["parent", "sub"]
    assert log == started_and_stopped("parent", "sub")


async def test_the_fallback_of_a_router_is_started(create: Create) -> None:
    """``Router.default``, which answers what no route matches, may be an app."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    app.router.default = recorded(log, "fallback")
    async with serving(served) as server:
        assert await state_seen(served, server, "/state") == ["parent", "fallback"]
    assert log == started_and_stopped("parent", "fallback")


async def test_an_included_router_runs_once_and_its_mounts_are_started(create: Create) -> None:
    """``include_router()`` merges the router's lifespan, and skips what is mounted on the router.

    Where the package is the application's lifespan, FastAPI runs those of its routers inside that.
    """
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    router = APIRouter(lifespan=lifespan_of(log, "router"))
    router.mount("/sub", recorded(log, "sub"))
    app.include_router(router, prefix="/api")
    async with serving(served) as server:
        assert sorted(await state_seen(served, server, "/api/sub/state")) == ["parent", "router", "sub"]
    if create is as_the_lifespan:
        assert log == started_and_stopped("parent", "sub", "router")
    else:
        assert log == started_and_stopped("parent", "router", "sub")


async def test_nested_included_routers_run_once_each_and_their_mounts_are_started(create: Create) -> None:
    """An included router may include others."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    outer, inner = APIRouter(lifespan=lifespan_of(log, "outer")), APIRouter(lifespan=lifespan_of(log, "inner"))
    inner.mount("/sub", recorded(log, "sub"))
    outer.include_router(inner, prefix="/v1")
    app.include_router(outer, prefix="/api")
    async with serving(served) as server:
        assert sorted(await state_seen(served, server, "/api/v1/sub/state")) == ["inner", "outer", "parent", "sub"]
    if create is as_the_lifespan:
        assert log == started_and_stopped("parent", "sub", "outer", "inner")
    else:
        assert log == started_and_stopped("parent", "outer", "inner", "sub")


async def test_a_router_included_twice_starts_its_mounts_once(create: Create) -> None:
    """The two ways to one mount are found to lead to one app."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    router = APIRouter()
    router.mount("/sub", recorded(log, "sub"))
    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    async with serving(served) as server:
        assert await state_seen(served, server, "/v2/sub/state") == ["parent", "sub"]
    assert log == started_and_stopped("parent", "sub")


async def test_an_app_mounted_in_its_parents_lifespan_is_started(create: Create) -> None:
    """Mounts are looked for when the parent has started, for lifespans add them."""
    log: list[str] = []

    @asynccontextmanager
    async def mounts_late(parent: FastAPI) -> AsyncIterator[dict[str, Any]]:
        log.append("start parent")
        parent.mount("/late", sub)
        yield {}
        log.append("stop parent")

    @asynccontextmanager
    async def mounts_later(parent: Starlette) -> AsyncIterator[dict[str, Any]]:
        log.append("start sub")
        parent.mount("/later", recorded(log, "later"))
        yield {}
        log.append("stop sub")

    sub = Starlette(lifespan=mounts_later)
    _, served = create(mounts_late)
    async with serving(served) as server:
        assert await state_seen(served, server, "/late/later/state") == ["later"]
    assert log == started_and_stopped("parent", "sub", "later")


async def test_an_app_that_a_hook_mounts_is_started() -> None:
    """Hooks run before the wrapped app, and may add mounts to it."""
    log: list[str] = []
    app = recorded(log, "parent")
    wrapped = LifespanMiddleware(app)

    @wrapped.on_startup
    def mount(app: Starlette) -> None:
        app.mount("/late", recorded(log, "late"))

    await lived(wrapped)
    assert log == started_and_stopped("parent", "late")


async def test_a_bare_mount_may_be_wrapped() -> None:
    """What is no application, but leads to one, is looked into as well."""
    log: list[str] = []
    await lived(LifespanMiddleware(Mount("/sub", recorded(log, "sub")), on_startup=[lambda: None]))
    assert log == started_and_stopped("sub")


async def test_the_mounts_of_an_app_whose_lifespan_passes_through_middleware_are_found() -> None:
    """Wrappers around the wrapped app are looked through."""
    log: list[str] = []
    app = recorded(log, "parent", Mount("/sub", recorded(log, "sub")))
    await lived(LifespanMiddleware(PassesOn(GZipMiddleware(app))))
    assert log == started_and_stopped("parent", "sub")


async def test_a_mounted_isolated_app_keeps_its_state_to_the_requests_to_it(create: Create) -> None:
    """`Isolated` is a wrapper that is known; what is mounted inside shares the state, the siblings do not."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    app.mount("/sub", GZipMiddleware(Isolated(recorded(log, "sub", Mount("/deep", recorded(log, "deep"))))))
    app.mount("/other", recorded(log, "other"))
    for _ in range(2):
        async with serving(served) as server:
            assert sorted(await state_seen(served, server, "/sub/deep/state")) == ["deep", "other", "parent", "sub"]
            assert await state_seen(served, server, "/other/state") == ["parent", "other"]
    assert log == started_and_stopped("parent", "sub", "deep", "other") * 2


async def test_the_end_of_one_of_two_runs_leaves_the_isolated_state_of_the_other() -> None:
    """Requests see the state of the run that was answered last, while it lasts."""
    log: list[str] = []
    app = recorded(log, "parent", Mount("/sub", Isolated(recorded(log, "sub"))))
    wrapped = LifespanMiddleware(app)
    first = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run, wrapped)
        await first.started.wait()
        async with serving(wrapped) as last:
            first.may_stop.set()
            while len(first.sent) < 2:
                await anyio.lowlevel.checkpoint()
            assert await state_seen(wrapped, last, "/sub/state") == ["parent", "sub"]
    assert first.answers == ["startup.complete", "shutdown.complete"]


# --- What a mount is called ---


def _plain(mounted: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/sub/", mounted)])


def _on_included_router(mounted: ASGIApp) -> ASGIApp:
    router, app = APIRouter(), FastAPI()
    router.mount("/sub", mounted)
    app.include_router(router, prefix="/api")
    return app


def _on_included_router_with_prefix(mounted: ASGIApp) -> ASGIApp:
    router, app = APIRouter(prefix="/ignored/by/mount"), FastAPI()
    router.mount("/sub", mounted)
    app.include_router(router, prefix="/api")
    return app


def _on_nested_included_router(mounted: ASGIApp) -> ASGIApp:
    inner, outer, app = APIRouter(), APIRouter(), FastAPI()
    inner.mount("/sub", mounted)
    outer.include_router(inner, prefix="/v1")
    app.include_router(outer, prefix="/api")
    return app


def _at_the_root(mounted: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("", mounted)])


def _as_fallback(mounted: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/sub", Router(default=mounted))])


@pytest.mark.parametrize(
    ("nest", "path"),
    [
        (_plain, "/sub"),
        (_on_included_router, "/api/sub"),
        (_on_included_router_with_prefix, "/api/sub"),
        (_on_nested_included_router, "/api/v1/sub"),
        (_at_the_root, "/"),
        (_as_fallback, "/sub"),
    ],
)
async def test_a_mount_is_named_by_the_path_that_a_client_types(nest: Callable[[ASGIApp], ASGIApp], path: str) -> None:
    """The path in a failure's message is one at which the app answers requests."""

    class AnswersRequests(FailsToStart):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await PlainTextResponse("here")(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    app = nest(AnswersRequests())
    assert (await request(app, path.rstrip("/") + "/"))[1]["body"] == b"here"
    server = RecordingServer()
    with pytest.raises(OSError, match="no database"):
        await server.run(LifespanMiddleware(app))
    assert f"startup failed in mount {path!r}: OSError: no database" in server.sent[0]["message"]


def test_a_path_grows_with_the_depth() -> None:
    """Groups and sub-apps lend their paths to what is mounted in them."""
    group = Mount("/group", routes=[Mount("/sub", RefusesLifespan())])
    [nested] = look_inside(AppNode(Starlette(routes=[group]), "/app")).nested
    assert nested.label == "mount '/app/group'"
    assert [inner.label for inner in look_inside(nested).nested] == ["mount '/app/group/sub'"]


def test_a_host_is_named_before_the_path() -> None:
    """A client types the host first."""
    assert labels(Starlette(routes=[Host("api.example.org", RefusesLifespan())])) == ["mount 'api.example.org'"]
    assert labels(Mount("/admin", Starlette(routes=[]))) == ["mount '/admin'"]
    [behind] = look_inside(AppNode(Host("{tenant}.example.org", RefusesLifespan()), "/admin")).nested
    assert behind.label == "mount '{tenant}.example.org/admin'"


async def test_the_failure_of_a_mount_deep_inside_names_its_whole_path() -> None:
    """The path of a mount counts from the wrapped app."""
    app = Starlette(routes=[Mount("/a", Starlette(routes=[Mount("/b", FailsToStart())]))])
    server = RecordingServer()
    with pytest.raises(OSError, match="no database"):
        await server.run(LifespanMiddleware(app))
    assert "mount '/a/b'" in server.sent[0]["message"]


# --- One app under several names ---


def _twice(app: Starlette) -> list[ASGIApp]:
    return [app, app]


def _bare_and_wrapped(app: Starlette) -> list[ASGIApp]:
    return [app, GZipMiddleware(app)]


def _wrapped_and_bare(app: Starlette) -> list[ASGIApp]:
    return [PassesOn(app), app]


def _wrapped_twice(app: Starlette) -> list[ASGIApp]:
    return [PassesOn(app), PassesOn(GZipMiddleware(app))]


def _app_and_router(app: Starlette) -> list[ASGIApp]:
    return [app, app.router]


def _router_and_app(app: Starlette) -> list[ASGIApp]:
    return [app.router, app]


@ONE_LOOP_IN_THE_QUICK_LOOP
@pytest.mark.parametrize("concurrent", [False, True], ids=["in-turn", "concurrent"])
@pytest.mark.parametrize(
    "mounted", [_twice, _bare_and_wrapped, _wrapped_and_bare, _wrapped_twice, _app_and_router, _router_and_app]
)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["one-parent", "two-parents"])
async def test_an_app_mounted_under_several_names_is_started_once(
    mounted: Callable[[Starlette], list[ASGIApp]], elsewhere: bool, concurrent: bool
) -> None:
    """Twice, wrapped, or by its own router: it is one app."""
    log: list[str] = []
    first, second = mounted(recorded(log, "sub"))
    routes: list[starlette.routing.BaseRoute] = [Mount("/first", first), Mount("/second", second)]
    if elsewhere:
        routes = [Mount("/x", routes=[Mount("/first", first)]), Mount("/y", routes=[Mount("/second", second)])]
    await lived(LifespanMiddleware(Starlette(routes=routes), concurrent=concurrent))
    assert log == started_and_stopped("sub")


async def test_an_app_mounted_twice_serves_at_both_paths(create: Create) -> None:
    """Its state reaches the requests to either mount."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    sub = recorded(log, "sub")
    app.mount("/first", sub)
    app.mount("/second", sub)
    async with serving(served) as server:
        assert await state_seen(served, server, "/first/state") == ["parent", "sub"]
        assert await state_seen(served, server, "/second/state") == ["parent", "sub"]
    assert log == started_and_stopped("parent", "sub")


async def test_an_app_mounted_in_itself_is_started_once(create: Create) -> None:
    """A cycle of one; by its router too."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "app"))
    app.mount("/self", app)
    app.mount("/router", app.router)
    app.mount("/wrapped", GZipMiddleware(app))
    await lived(served)
    assert log == started_and_stopped("app")


async def test_apps_mounted_in_each_other_are_started_once(create: Create) -> None:
    """A cycle of two."""
    log: list[str] = []
    x, served = create(lifespan_of(log, "x"))
    y = recorded(log, "y")
    x.mount("/y", y)
    y.mount("/x", x)
    await lived(served)
    assert log == started_and_stopped("x", "y")


async def test_a_wrapper_that_leads_back_to_itself_ends_the_search() -> None:
    """A cycle of wrappers has no app in it, and no end."""
    loop = PassesOn(RefusesLifespan())
    refuses, loop.app = loop.app, loop
    assert list(describe(AppNode(loop)).members.values()) == [loop]
    loop.app = refuses
    await lived(LifespanMiddleware(loop, on_startup=[lambda: None]))


async def test_mounts_that_are_equal_but_not_the_same_are_all_started(create: Create) -> None:
    """Routers and mounts compare by value and have no hash; identity alone tells apps apart."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    one, other = (Mount("/sub", Router(lifespan=lifespan_of(log, name))) for name in ("one", "other"))
    assert one == other
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    app.router.routes += [one, other]
    await lived(served)
    assert log == started_and_stopped("parent", "one", "other")


# --- What is never sent a lifespan ---


class RecordsResponse(PlainTextResponse):
    """A response that remembers what it was asked for."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__("hello")
        self.asked = asked

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["type"])
        await super().__call__(scope, receive, send)


class RecordsStaticFiles(StaticFiles):
    """A file server that remembers what it was asked for."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__(check_dir=False)
        self.asked = asked

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["type"])


def _of_a2wsgi(asked: list[str]) -> ASGIApp:
    class Records(a2wsgi.WSGIMiddleware):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope["type"])

    adapter: Any = Records(WSGI_APP)
    return adapter  # type: ignore[no-any-return]


def _of_asgiref(asked: list[str]) -> ASGIApp:
    class Records(asgiref.wsgi.WsgiToAsgi):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope["type"])

    adapter: Any = Records
    return adapter(WSGI_APP)  # type: ignore[no-any-return]


def _of_starlette(asked: list[str]) -> ASGIApp:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the module is deprecated, and says so when it is imported
        from starlette.middleware.wsgi import WSGIMiddleware

    class Records(WSGIMiddleware):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope["type"])

    adapter: Any = Records
    return adapter(WSGI_APP)  # type: ignore[no-any-return]


def _class_endpoint(asked: list[str]) -> Any:
    class Endpoint(HTTPEndpoint):
        def __init__(self, scope: Any, receive: Any, send: Any) -> None:
            asked.append(scope["type"])
            super().__init__(scope, receive, send)

    return Endpoint


def _around_a_response(asked: list[str]) -> ASGIApp:
    return GZipMiddleware(RecordsResponse(asked))


def _around_static_files(asked: list[str]) -> ASGIApp:
    return PassesOn(RecordsStaticFiles(asked))


@pytest.mark.parametrize(
    "make",
    [
        RecordsResponse,
        RecordsStaticFiles,
        _of_a2wsgi,
        _of_asgiref,
        _of_starlette,
        _class_endpoint,
        _around_a_response,
        _around_static_files,
    ],
)
async def test_what_has_no_lifespan_is_not_asked_for_one(
    make: Callable[[list[str]], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Responses, file servers, WSGI adapters and classes are left alone, and its siblings are started."""
    asked: list[str] = []
    log: list[str] = []
    app = recorded(log, "parent", Mount("/before", make(asked)), Mount("/sub", recorded(log, "sub")))
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("parent", "sub")
    assert asked == []
    assert not told(caplog, logging.WARNING)
    await request(app, "/before/")
    assert asked == ["http"]


async def test_an_asgi_app_behind_a_wsgi_adapter_is_not_started() -> None:
    """Nothing behind an adapter is reached by requests as an ASGI app of its own."""
    log: list[str] = []
    adapter: Any = a2wsgi.WSGIMiddleware(a2wsgi.ASGIMiddleware(recorded(log, "behind")))  # type: ignore[arg-type]
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/wsgi", adapter)])))
    assert log == []


async def test_the_endpoints_of_routes_are_not_asked_for_a_lifespan() -> None:
    """An endpoint answers requests: functions, classes, and apps as endpoints."""
    asked: list[str] = []

    async def function(request: Request) -> PlainTextResponse:
        raise AssertionError

    endpoints: list[Any] = [
        function,
        _class_endpoint(asked),
        RecordsResponse(asked),
        GZipMiddleware(RecordsResponse(asked)),
    ]
    app = Starlette(routes=[Route(f"/{index}", endpoint) for index, endpoint in enumerate(endpoints)])
    await lived(LifespanMiddleware(app))
    assert asked == []


async def test_functions_and_methods_that_turn_the_lifespan_away_are_no_errors(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """A mount without a lifespan is told of at DEBUG, with its traceback, and its siblings are started."""
    caplog.set_level(logging.DEBUG, "asgi_lifespan_mw")
    log: list[str] = []

    async def function(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan"

    class Transport:
        async def method(self, scope: Any, receive: Any, send: Any) -> None:
            scope["method" if scope["type"] == "lifespan" else "path"]

    app, served = create(lifespan_of(log, "parent"))
    app.mount("/function", function)
    app.mount("/method", Transport().method)
    app.mount("/silent", ReturnsAtOnce())
    app.mount("/sub", recorded(log, "sub"))
    await lived(served)
    assert log == started_and_stopped("parent", "sub")
    refusals = [record for record in told(caplog, logging.DEBUG) if "does not support" in record.getMessage()]
    assert [record.getMessage() for record in refusals] == [
        f"mount '/{path}' does not support the lifespan protocol" for path in ("function", "method")
    ]
    assert [record.exc_info and record.exc_info[0] for record in refusals] == [AssertionError, KeyError]
    assert "mount '/silent' is sent no lifespan: its code does not mention it" in caplog.messages
    assert not told(caplog, logging.WARNING)


async def test_a_mounted_function_with_a_lifespan_is_started() -> None:
    """Any ASGI app may have one."""
    log: list[str] = []

    async def function(scope: Any, receive: Any, send: Any) -> None:
        log.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        log.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    await lived(LifespanMiddleware(Starlette(routes=[Mount("/sub", function)])))
    assert log == ["lifespan.startup", "lifespan.shutdown"]


# --- Wrappers and apps that turn the lifespan away ---


async def test_an_app_in_a_mounted_wrapper_that_turns_the_lifespan_away_is_asked_itself(create: Create) -> None:
    """The wrapper's refusal is not its app's."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"))
    sub = recorded(log, "sub", Mount("/deep", recorded(log, "deep")))
    app.mount("/sub", PassesOn(TurnsLifespanAway(PassesOn(sub))))
    async with serving(served) as server:
        assert await state_seen(served, server, "/sub/deep/state") == ["parent", "sub", "deep"]
    assert log == started_and_stopped("parent", "sub", "deep")


async def test_the_app_in_a_wrapper_that_turns_the_lifespan_away_is_asked_itself() -> None:
    """So it is where the wrapper is the wrapped app, with the mounts of the app inside."""
    log: list[str] = []
    app = recorded(log, "app", Mount("/sub", recorded(log, "sub")))
    async with serving(LifespanMiddleware(TurnsLifespanAway(app))) as server:
        assert await state_seen(app, server, "/sub/state") == ["app", "sub"]
    assert log == started_and_stopped("app", "sub")


async def test_an_app_that_runs_already_is_not_asked_again_when_a_wrapper_around_it_refuses() -> None:
    """Mounted bare first, then in a wrapper that turns the lifespan away."""
    log: list[str] = []
    sub = recorded(log, "sub")
    app = Starlette(routes=[Mount("/bare", sub), Mount("/wrapped", TurnsLifespanAway(sub))])
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("sub")


async def test_an_app_is_started_where_it_is_bare_if_the_wrapper_before_it_refused() -> None:
    """Mounted in a wrapper that turns the lifespan away first, then bare."""
    log: list[str] = []
    sub = recorded(log, "sub")
    app = Starlette(routes=[Mount("/wrapped", TurnsLifespanAway(sub)), Mount("/bare", sub)])
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("sub")


async def test_two_refusing_wrappers_around_one_app_start_it_once() -> None:
    """The app is found behind each of them."""
    log: list[str] = []
    sub = recorded(log, "sub")
    app = Starlette(routes=[Mount("/one", TurnsLifespanAway(sub)), Mount("/other", TurnsLifespanAway(sub))])
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("sub")


async def test_hooks_and_mounts_run_though_the_wrapped_app_turns_the_lifespan_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server is answered by us, and the log warns, with the traceback."""

    class RefusingRouter(Router):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("requests only, please")

    log: list[str] = []
    router = RefusingRouter(routes=[Mount("/sub", recorded(log, "sub"))])
    await lived(LifespanMiddleware(router, lifespan=lifespan_of(log, "hook")))
    assert log == started_and_stopped("hook", "sub")
    [record] = told(caplog, logging.WARNING)
    assert "RefusingRouter does not support the lifespan protocol" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


async def test_an_app_that_returns_without_a_word_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """There is no traceback to show."""
    log: list[str] = []
    await lived(LifespanMiddleware(ReturnsAtOnce(), lifespan=lifespan_of(log, "hook")))
    assert log == started_and_stopped("hook")
    [record] = told(caplog, logging.WARNING)
    assert "ReturnsAtOnce does not support the lifespan protocol" in record.getMessage()
    assert not record.exc_info


@pytest.mark.parametrize("module", ["django.core.handlers.asgi", "channels.routing"])
@pytest.mark.parametrize("wrap", [lambda app: app, PassesOn], ids=["bare", "wrapped"])
async def test_the_refusal_of_apps_that_never_take_a_lifespan_is_no_warning(
    module: str, wrap: Callable[[ASGIApp], ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    """Django and Channels turn every lifespan away, which is worth a line at INFO."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    handler: type[RefusesLifespan] = type("Handler", (RefusesLifespan,), {"__module__": module})
    log: list[str] = []
    await lived(LifespanMiddleware(wrap(handler()), lifespan=lifespan_of(log, "hook")))
    assert log == started_and_stopped("hook")
    assert not told(caplog, logging.WARNING)
    assert any("does not support the lifespan protocol" in record.getMessage() for record in told(caplog, logging.INFO))


@pytest.mark.parametrize("options", [{}, {"mounts": "off"}], ids=str)
async def test_the_refusal_goes_to_the_server_where_nothing_of_ours_is_run(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Without hooks and mounts, it is as if we were not there."""
    server = RecordingServer()
    with pytest.raises(ValueError, match="requests only, please"):
        await server.run(LifespanMiddleware(RefusesLifespan(), **options))
    assert server.sent == []
    assert not told(caplog, logging.WARNING)


async def test_a_wrapper_and_its_app_may_both_turn_the_lifespan_away() -> None:
    """Who of them refused can't be seen from outside, so the app is asked itself in the end."""
    inner = RefusesLifespan()
    await lived(LifespanMiddleware(TurnsLifespanAway(PassesOn(inner)), on_startup=[lambda: None]))
    assert inner.asked == ["lifespan", "lifespan"]


# --- mounts= and exclude= ---


async def test_mounts_can_be_left_alone(create: Create) -> None:
    """``mounts="off"`` starts none of them."""
    log: list[str] = []
    app, served = create(lifespan_of(log, "parent"), mounts="off")
    app.mount("/sub", recorded(log, "sub"))
    await lived(served)
    assert log == started_and_stopped("parent")


async def test_named_mounts_take_the_place_of_looking(create: Create) -> None:
    """Only they are started, in the order of their names, and what is mounted inside them is looked for."""
    log: list[str] = []
    first = recorded(log, "first", Mount("/inner", recorded(log, "inner")))
    second, third = recorded(log, "second"), recorded(log, "third")
    app, served = create(lifespan_of(log, "parent"), mounts=[second, first])
    for path, sub in {"/first": first, "/second": second, "/third": third}.items():
        app.mount(path, sub)
    async with serving(served) as server:
        assert await state_seen(served, server, "/first/inner/state") == ["parent", "second", "first", "inner"]
    assert log == started_and_stopped("parent", "second", "first", "inner")


async def test_a_named_app_is_started_though_nothing_leads_to_it() -> None:
    """An app that is only called by hand can be named."""
    log: list[str] = []
    hidden = recorded(log, "hidden")
    await lived(LifespanMiddleware(recorded(log, "parent"), mounts=[hidden]))
    assert log == started_and_stopped("parent", "hidden")


async def test_a_named_app_is_started_though_a_lifespan_seems_to_run_it(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """Naming it is how to insist, and then there is no warning."""
    log: list[str] = []
    sub = recorded(log, "sub")

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
        log.append(f"start {sub.router.lifespan_context is not None}")
        yield {}

    app, served = create(lifespan, mounts=[sub])
    app.mount("/sub", sub)
    await lived(served)
    assert log == ["start True", *started_and_stopped("sub")]
    assert not told(caplog, logging.WARNING)


@pytest.mark.parametrize("concurrent", [False, True], ids=["in-turn", "concurrent"])
async def test_an_app_that_is_named_twice_is_started_once(concurrent: bool) -> None:
    """Exactly once counts for named apps as well."""
    log: list[str] = []
    sub = recorded(log, "sub")
    app = Starlette(routes=[Mount("/sub", sub)])
    await lived(LifespanMiddleware(app, mounts=[sub, sub], concurrent=concurrent))
    assert log == started_and_stopped("sub")


async def test_a_named_app_beside_one_that_is_mounted_twice_is_found() -> None:
    """Each app is looked into once."""
    log: list[str] = []
    sub, twice = recorded(log, "sub"), recorded(log, "twice")
    routes = [Mount("/twice", twice), Mount("/x", routes=[Mount("/again", twice), Mount("/sub", sub)])]
    app = Starlette(routes=routes)
    await lived(LifespanMiddleware(app, mounts=[sub]))
    assert log == started_and_stopped("sub")


@pytest.mark.parametrize("concurrent", [False, True], ids=["in-turn", "concurrent"])
async def test_a_named_app_inside_another_named_one_is_started_once(concurrent: bool) -> None:
    """It is found by looking inside the first, before its own turn comes."""
    log: list[str] = []
    inner = recorded(log, "inner")
    outer = recorded(log, "outer", Mount("/inner", inner))
    app = Starlette(routes=[Mount("/outer", outer)])
    await lived(LifespanMiddleware(app, mounts=[outer, inner], concurrent=concurrent))
    assert sorted(log) == sorted(started_and_stopped("outer", "inner"))


async def test_a_named_app_deep_inside_is_named_by_its_whole_path() -> None:
    """Messages name it as a client would type it."""
    inner = FailsToStart()
    app = Starlette(routes=[Mount("/outer", Starlette(routes=[Mount("/inner", inner)]))])
    server = RecordingServer()
    with pytest.raises(OSError, match="no database"):
        await server.run(LifespanMiddleware(app, mounts=[inner]))
    assert "mount '/outer/inner'" in server.sent[0]["message"]


async def test_a_named_app_that_is_mounted_isolated_stays_isolated() -> None:
    """The mount is what is started, and `Isolated` keeps the state to the requests to it."""
    log: list[str] = []
    sub = recorded(log, "sub")
    app = recorded(log, "parent", Mount("/sub", Isolated(sub)))
    async with serving(LifespanMiddleware(app, mounts=[sub])) as server:
        assert await state_seen(app, server, "/state") == ["parent"]
        assert await state_seen(app, server, "/sub/state") == ["parent", "sub"]
    assert log == started_and_stopped("parent", "sub")


async def test_an_excluded_app_is_never_sent_a_lifespan_nor_what_lies_inside(create: Create) -> None:
    """Its siblings are started."""
    log: list[str] = []
    sub = recorded(log, "sub", Mount("/inner", recorded(log, "inner")))
    app, served = create(lifespan_of(log, "parent"), exclude=[sub])
    app.mount("/sub", sub)
    app.mount("/other", recorded(log, "other"))
    await lived(served)
    assert log == started_and_stopped("parent", "other")


async def test_an_excluded_app_may_be_deep_inside(create: Create) -> None:
    """What it is mounted in is started."""
    log: list[str] = []
    inner = recorded(log, "inner", Mount("/innermost", recorded(log, "innermost")))
    app, served = create(lifespan_of(log, "parent"), exclude=[inner])
    app.mount("/sub", recorded(log, "sub", Mount("/inner", inner)))
    await lived(served)
    assert log == started_and_stopped("parent", "sub")


@pytest.mark.parametrize("wrap", [GZipMiddleware, TurnsLifespanAway, Isolated, LifespanMiddleware])
async def test_excluding_an_app_excludes_it_behind_its_wrappers(wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    """A lifespan sent to the wrapper would reach it."""
    log: list[str] = []
    sub = recorded(log, "sub", Mount("/inner", recorded(log, "inner")))
    app = recorded(log, "parent", Mount("/sub", wrap(PassesOn(sub))))
    await lived(LifespanMiddleware(app, exclude=[sub]))
    assert log == started_and_stopped("parent")


async def test_excluding_an_app_excludes_its_router() -> None:
    """The router is the same app under another name."""
    log: list[str] = []
    sub = recorded(log, "sub")
    await lived(LifespanMiddleware(recorded(log, "parent", Mount("/sub", sub.router)), exclude=[sub]))
    assert log == started_and_stopped("parent")


async def test_excluding_a_wrapper_excludes_the_app_in_it() -> None:
    """What lies inside an excluded app is not started where it is mounted once more."""
    log: list[str] = []
    sub = recorded(log, "sub")
    wrapper = PassesOn(sub)
    app = recorded(log, "parent", Mount("/wrapped", wrapper), Mount("/bare", sub))
    await lived(LifespanMiddleware(app, exclude=[wrapper]))
    assert log == started_and_stopped("parent")


async def test_the_wrapped_app_may_be_excluded() -> None:
    """Then nothing but the hooks is run."""
    log: list[str] = []
    app = recorded(log, "app", Mount("/sub", recorded(log, "sub")))
    await lived(LifespanMiddleware(app, lifespan=lifespan_of(log, "hook"), exclude=[app]))
    assert log == started_and_stopped("hook")


async def test_the_wrapped_app_may_be_excluded_behind_a_middleware() -> None:
    """It is the app that is excluded, however it is wrapped."""
    log: list[str] = []
    app = recorded(log, "app", Mount("/sub", recorded(log, "sub")))
    await lived(LifespanMiddleware(PassesOn(app), lifespan=lifespan_of(log, "hook"), exclude=[app]))
    assert log == started_and_stopped("hook")


async def test_a_lifespan_among_the_hooks_may_exclude_apps() -> None:
    """``exclude=`` of an included `Lifespan` counts."""
    log: list[str] = []
    sub = recorded(log, "sub")
    hooks = Lifespan(contexts=[lifespan_of(log, "hook")], exclude=[sub])
    await lived(LifespanMiddleware(recorded(log, "parent", Mount("/sub", sub)), lifespan=hooks))
    assert log == started_and_stopped("hook", "parent")


async def test_an_app_that_is_named_and_excluded_is_not_started(create: Create) -> None:
    """Excluded is never: there, double runs are known of."""
    log: list[str] = []
    sub = recorded(log, "sub")
    app, served = create(lifespan_of(log, "parent"), mounts=[sub], exclude=[sub])
    app.mount("/sub", sub)
    await lived(served)
    assert log == started_and_stopped("parent")


# --- concurrent= ---


class TakesItsTime:
    """An app that starts and stops in 100 ms each, and records when."""

    def __init__(self, log: list[tuple[str, float]], name: str) -> None:
        self.log = log
        self.name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await anyio.sleep(0.1)
        self.log.append((f"start {self.name}", anyio.current_time()))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await anyio.sleep(0.1)
        self.log.append((f"stop {self.name}", anyio.current_time()))
        await send({"type": "lifespan.shutdown.complete"})


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
@pytest.mark.parametrize(("concurrent", "seconds"), [(True, 0.1), (False, 1.0)])
async def test_concurrent_mounts_start_and_stop_side_by_side(concurrent: bool, seconds: float) -> None:
    """Ten mounts of 100 ms take 100 ms, and a second one after the other."""
    log: list[tuple[str, float]] = []
    app = Starlette(routes=[Mount(f"/{index}", TakesItsTime(log, str(index))) for index in range(10)])
    wrapped = LifespanMiddleware(app, concurrent=concurrent)
    began = anyio.current_time()
    await lived(wrapped)
    ends = {word: max(when for what, when in log if what.startswith(word)) for word in ("start", "stop")}
    assert len(log) == 20
    assert math.isclose(ends["start"] - began, seconds, abs_tol=0.05)
    assert math.isclose(ends["stop"] - ends["start"], seconds, abs_tol=0.05)


async def test_a_concurrent_mount_that_is_cancelled_for_another_is_no_failure() -> None:
    """Starlette answers a cancellation with a failure; what its sibling raised comes out alone."""
    failing, waiting = (
        Starlette(lifespan=lambda _, lives=lives: lives()) for lives in (fails_to_start, hangs_at_start)
    )
    app = Starlette(routes=[Mount("/waiting", waiting), Mount("/failing", failing)])
    server = RecordingServer()
    with pytest.raises(Boom, match="no start"):
        await server.run(LifespanMiddleware(app, concurrent=True))
    assert "mount '/waiting'" not in server.sent[0]["message"]


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
async def test_concurrent_parents_start_before_their_children_and_stop_after_them() -> None:
    """Only siblings go side by side."""
    log: list[tuple[str, float]] = []

    class HasMounts(Router):
        def __init__(self, name: str, *routes: starlette.routing.BaseRoute) -> None:
            super().__init__(routes)
            self.lives = TakesItsTime(log, name)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.lives(scope, receive, send)

    children = [Mount(f"/{name}", TakesItsTime(log, name)) for name in ("b", "c")]
    app = Starlette(routes=[Mount("/a", HasMounts("a", *children)), Mount("/d", HasMounts("d"))])
    began = anyio.current_time()
    await lived(LifespanMiddleware(app, concurrent=True))
    when = {what: round(at - began, 2) for what, at in log}
    assert when == {
        "start a": 0.1, "start d": 0.1, "start b": 0.2, "start c": 0.2,
        "stop b": 0.3, "stop c": 0.3, "stop a": 0.4, "stop d": 0.4,
    }  # fmt: skip


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
async def test_the_errors_of_concurrent_mounts_are_collected_and_the_rest_is_stopped() -> None:
    """The first failure ends the start of the others, which may fail in turn; children are not started any more."""
    log: list[str] = []

    class FailsAfter:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "lifespan"
            await receive()
            try:
                await anyio.sleep(self.seconds)
            finally:
                raise OSError(f"was to fail after {self.seconds}")

    app = recorded(
        log,
        "parent",
        Mount("/early", FailsAfter(0.1)),
        Mount("/sub", recorded(log, "sub", Mount("/child", recorded(log, "child")))),
        Mount("/late", FailsAfter(20)),
    )
    server = RecordingServer()
    began = anyio.current_time()
    with pytest.raises(ExceptionGroup) as caught:
        await server.run(LifespanMiddleware(app, concurrent=True))
    assert math.isclose(anyio.current_time() - began, 0.1, abs_tol=0.05)
    assert [str(error) for error in caught.value.exceptions] == ["was to fail after 0.1", "was to fail after 20"]
    assert log == started_and_stopped("parent", "sub")
    assert server.answers == ["startup.failed"]
    assert all(mount in server.sent[0]["message"] for mount in ("mount '/early'", "mount '/late'"))


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
async def test_time_that_runs_out_among_concurrent_mounts_names_the_one_that_took_it() -> None:
    """A sibling that was in time is stopped."""
    log: list[str] = []

    class HangsInStartup:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "lifespan"
            await receive()
            await anyio.sleep_forever()

    app = Starlette(routes=[Mount("/hangs", HangsInStartup()), Mount("/sub", recorded(log, "sub"))])
    server = RecordingServer()
    with pytest.raises(LifespanTimeout, match="mount '/hangs'"):
        await server.run(LifespanMiddleware(app, concurrent=True, startup_timeout=5))
    assert log == started_and_stopped("sub")


# --- What is looked at ---


async def test_an_attribute_that_raises_is_no_way_inside() -> None:
    """An app may have an ``.app`` that is not ready to be looked at, which is no reason not to start."""

    class NotReady(RefusesLifespan):
        @property
        def app(self) -> Any:
            raise AssertionError

    log: list[str] = []
    app = Starlette(routes=[Mount("/x", NotReady()), Mount("/sub", recorded(log, "sub"))])
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("sub")


def test_routes_and_unknown_parts_lead_nowhere() -> None:
    """A part that nobody knows is no wrapper, even if it has an ``.app``; nor is what cannot be called an app."""

    class HasApp(starlette.routing.BaseRoute):
        app = RefusesLifespan()

    assert labels(Starlette(routes=[Route("/", show_state), HasApp()])) == []
    not_callable: Any = object()
    assert describe(AppNode(not_callable)).policy.sent is LifespanPolicy.NEVER


def test_an_excluded_app_is_not_looked_into() -> None:
    """What lies inside is not found."""
    inner = RefusesLifespan()
    sub = Starlette(routes=[Mount("/inner", inner)])
    wrapped = PassesOn(sub)
    assert [nested.app for nested in look_inside(AppNode(wrapped)).nested] == [inner]
    assert look_inside(AppNode(wrapped), excluded=[id(sub)]).nested == []


def test_looking_changes_nothing() -> None:
    """The objects are as before, and nothing was called."""
    app = FastAPI()
    app.include_router(APIRouter())
    app.mount("/sub", RefusesLifespan())
    before = {id(thing): dict(vars(thing)) for thing in (app, app.router, *app.routes)}
    look_inside(AppNode(app))
    assert {id(thing): dict(vars(thing)) for thing in (app, app.router, *app.routes)} == before


# --- Objects that are not what they seem ---


class Unbound:
    """A lazy object, as werkzeug's proxies are: whoever asks it anything has it look for its context."""

    def __getattr__(self, name: str) -> Any:  # pragma: no cover - nobody shall ask
        raise RuntimeError(f"working outside of application context: {name}")

    @property
    def __class__(self) -> Any:  # pragma: no cover - nobody shall ask
        raise RuntimeError("working outside of application context: __class__")

    @__class__.setter
    def __class__(self, value: Any) -> None:  # pragma: no cover - only here for type checkers
        raise AssertionError

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("requests only, please")


class WrappedAnew(RefusesLifespan):
    """An app that makes its ``.app`` anew whenever it is looked at."""

    @property
    def app(self) -> Any:
        raise AssertionError


@pytest.mark.parametrize("make", [Unbound, AsyncMock, WrappedAnew])
async def test_an_object_that_is_not_what_it_seems_is_no_obstacle(make: Callable[[], Any]) -> None:
    """As a mount, as the wrapped app, and in `exclude=`."""
    log: list[str] = []
    app = Starlette(routes=[Mount("/x", make()), Mount("/sub", recorded(log, "sub"))])
    await lived(LifespanMiddleware(app, exclude=[make()]))
    await lived(LifespanMiddleware(make(), on_startup=[lambda: None]))
    assert log == started_and_stopped("sub")


async def test_the_wrapped_app_that_is_named_as_a_mount_is_started_once() -> None:
    """Also behind a middleware."""
    log: list[str] = []
    sub = recorded(log, "sub")
    await lived(LifespanMiddleware(PassesOn(sub), mounts=[sub]))
    assert log == started_and_stopped("sub")


def test_wrappers_that_never_end_are_looked_through_no_further_than_a_hundred() -> None:
    """Properties of a wrapper are not called at all."""
    assert look_inside(AppNode(WrappedAnew())).reached == []


async def test_the_properties_of_a_wrapper_are_not_called() -> None:
    """They may do anything: open a file, wait for a lock, end the process."""

    class Lazy(RefusesLifespan):
        @property
        def app(self) -> Any:
            raise AssertionError

    log: list[str] = []
    await lived(LifespanMiddleware(Lazy(), lifespan=lifespan_of(log, "hook")))
    assert log == started_and_stopped("hook")


def mounted(app: ASGIApp) -> Starlette:
    """An app that has it mounted."""
    return Starlette(routes=[Mount("/x", app)])


NESTED: dict[str, Callable[[ASGIApp], LifespanMiddleware]] = {
    "once": LifespanMiddleware,
    "twice": lambda inner: LifespanMiddleware(LifespanMiddleware(inner)),
    "mounted": lambda inner: LifespanMiddleware(mounted(LifespanMiddleware(inner))),
    "mounted, twice": lambda inner: LifespanMiddleware(mounted(LifespanMiddleware(LifespanMiddleware(inner)))),
}


@pytest.mark.parametrize("nest", [*NESTED])
async def test_what_is_behind_a_refusal_is_started_in_nested_runs_too(nest: str) -> None:
    """The run around took up what the refusing wrapper holds; when that refuses, it is started, and once."""
    log: list[str] = []
    app = NESTED[nest](TurnsLifespanAway(recorded(log, "sub")))
    await lived(app)
    async with LifespanManager(app):
        pass
    assert log == ["start sub", "stop sub"] * 2


class WrongKeyword:
    """A middleware whose app was given a keyword that it does not take."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] in {"http", "lifespan"}
        make: Any = RefusesLifespan
        make(app=self)


class NotAwaitable:
    """A function that was to be asynchronous."""

    def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] in {"http", "lifespan"}


class LacksName:
    """An app with a mistake."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] in {"http", "lifespan"}
        raise NameError("name 'pool' is not defined")


@pytest.mark.parametrize("mistaken", [WrongKeyword, NotAwaitable, LacksName])
@pytest.mark.parametrize("place", ["mount", "wrapped app"])
async def test_a_refusal_that_is_not_about_the_lifespan_is_a_warning(
    mistaken: Callable[[], ASGIApp], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests will fail too, so the error is shown at once."""
    app = Starlette(routes=[Mount("/x", mistaken())]) if place == "mount" else mistaken()
    await lived(LifespanMiddleware(app, on_startup=[lambda: None]))
    [warning] = told(caplog, logging.WARNING)
    who = "mount '/x'" if place == "mount" else f"app {mistaken.__name__}"
    assert warning.getMessage().startswith(f"{who} cannot be called with a lifespan: ")
    assert warning.exc_info


async def test_hooks_are_given_the_framework_s_application_behind_middleware() -> None:
    """So is the log: ``app FastAPI``, not the name of a middleware."""
    given: list[object] = []
    app = FastAPI()
    wrapped = LifespanMiddleware(CORSMiddleware(GZipMiddleware(app)))

    @wrapped.on_startup
    def takes(app: object) -> None:
        given.append(app)

    await lived(wrapped)
    assert given == [app]
    assert wrapped.report is not None
    assert [row.unit for row in wrapped.report.units][1:] == ["app FastAPI"]


@pytest.mark.parametrize("is_awaited", [False, True], ids=["class", "awaited"])
async def test_a_mounted_class_is_a_warning(is_awaited: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An instance was meant, unless instances can be awaited."""
    service = type("Service", (), {"__await__": lambda _: iter(())} if is_awaited else {})
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/service", service)])))
    assert [record.getMessage() for record in told(caplog, logging.WARNING)] == (
        [] if is_awaited else ["mount '/service' is the class Service, expected an instance; mount Service(...)"]
    )


@pytest.mark.parametrize("mounts", ["auto", "off"])
async def test_a_middleware_with_nothing_to_run_around_an_app_without_lifespan_is_unsupported(mounts: Any) -> None:
    """It received the startup for the app inside, which is no failure of its mount; nor if it is wrapped twice."""

    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError(scope["type"])

    inner = LifespanMiddleware(refuses, mounts=mounts)
    app = LifespanMiddleware(Starlette(routes=[Mount("/old", inner)]), on_startup=[lambda: None])
    await lived(app)
    assert app.report is not None
    assert [row.outcome for row in app.report.units] == ["stopped", "stopped", "unsupported", "unsupported"]
    await lived(LifespanMiddleware(inner, on_startup=[lambda: None]))


async def test_an_opaque_wrapper_of_an_app_that_shares_its_parents_lifespan_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One function is given to both, so nobody can tell whose run it was."""

    @asynccontextmanager
    async def both(_: Any) -> AsyncIterator[None]:
        yield

    class Opaque:
        def __init__(self, inner: ASGIApp) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.inner(scope, receive, send)  # pragma: no cover - it is not started, and not requested

    sub = Starlette(lifespan=both)
    app = LifespanMiddleware(Starlette(routes=[Mount("/sub", Opaque(sub))], lifespan=both))
    await lived(app)
    assert "mount '/sub' is not started: it has the same lifespan function as an app around it" in caplog.text
