import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Mount, Route

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from asgi_lifespan_mw._types import ASGIApp
from tests.discovery.shapes import enters
from tests.server import RecordingServer
from tests.usages import (
    USAGES,
    Create,
    LifespanFunction,
    around,
    as_the_lifespan,
    in_the_stack,
    lived,
    serving,
    show_state,
    started_and_stopped,
    state_seen,
)

log: list[str] = []
"""What started and stopped."""


@pytest.fixture(autouse=True)
def _empty_log() -> Iterator[None]:
    yield
    log.clear()


class Pool:
    """Something that a lifespan opens, which makes it the lifespan of one app."""


def lifespan_of(name: str) -> LifespanFunction:
    """A lifespan that writes into the log, and whose state is its name; it holds a pool."""
    pool = Pool()

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
        log.append(f"start {name}")
        yield {name: pool}
        log.append(f"stop {name}")

    return lifespan


def recorded(name: str, *routes: BaseRoute) -> Starlette:
    """An app that records its lifespan and tells the state of requests to it."""
    return Starlette(lifespan=lifespan_of(name), routes=[Route("/state", show_state), *routes])


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package logged at WARNING."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asgi_lifespan_mw" and record.levelno == logging.WARNING
    ]


def assert_is_left_alone_in_doubt(caplog: pytest.LogCaptureFixture, mount: str) -> str:
    """One warning says which mount is not started, why, and how to insist."""
    [warning] = warnings_of(caplog)
    assert warning.startswith(f"mount {mount!r} is not started: ")
    assert "mounts=[" in warning
    assert "exclude=[" in warning
    return warning


@pytest.fixture(params=USAGES, ids=lambda usage: usage.__name__)
def create(request: pytest.FixtureRequest) -> Create:
    """The three ways of use in turn."""
    usage: Create = request.param
    return usage


# --- Hooks that run an app ---


async def test_an_app_that_a_hook_runs_by_hand_is_not_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """Hooks of ours may start an app like a parent's lifespan."""
    sub = recorded("sub")
    app = recorded("app", Mount("/sub", sub))
    await lived(LifespanMiddleware(app, lifespan=enters(sub)))
    assert log == started_and_stopped("sub", "app")
    assert not warnings_of(caplog)


async def test_an_app_whose_lifespan_is_a_hook_is_not_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """``LifespanMiddleware(app, lifespan=sub.router.lifespan_context)`` may be a function that both share."""
    sub = recorded("sub")
    app = recorded("app", Mount("/sub", sub))
    await lived(LifespanMiddleware(app, lifespan=sub.router.lifespan_context))
    assert log == started_and_stopped("sub", "app")
    assert_is_left_alone_in_doubt(caplog, "/sub")


async def test_functions_at_startup_and_shutdown_that_run_an_app_are_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The two halves of a run by hand."""
    sub = recorded("sub")
    managers: list[Any] = []

    async def start() -> None:
        managers.append(sub.router.lifespan_context(sub))
        await managers[0].__aenter__()

    async def stop() -> None:
        await managers[0].__aexit__(None, None, None)

    app = Starlette(routes=[Mount("/sub", sub)])
    await lived(LifespanMiddleware(app, on_startup=[start], on_shutdown=[stop]))
    assert log == started_and_stopped("sub")
    assert not warnings_of(caplog)


# --- The package inside itself ---


async def test_a_middleware_as_a_mount_runs_its_own_hooks_and_apps(create: Create) -> None:
    """It is sent a lifespan like any mount, and starts what is in it by itself."""
    sub = recorded("sub", Mount("/deep", recorded("deep")))
    app, served = create(lifespan_of("parent"))
    app.mount("/sub", LifespanMiddleware(sub, lifespan=lifespan_of("hook")))
    async with serving(served) as server:
        assert await state_seen(served, server, "/sub/deep/state") == ["parent", "hook", "sub", "deep"]
    assert log == started_and_stopped("parent", "hook", "sub", "deep")


async def test_a_middleware_directly_in_another_one_runs_each_app_once() -> None:
    """The hooks of both are run, from the outside in."""
    app = recorded("app", Mount("/sub", recorded("sub")))
    inner = LifespanMiddleware(app, lifespan=lifespan_of("inner"))
    async with serving(LifespanMiddleware(inner, lifespan=lifespan_of("outer"))) as server:
        assert await state_seen(app, server, "/sub/state") == ["outer", "inner", "app", "sub"]
    assert log == started_and_stopped("outer", "inner", "app", "sub")


async def test_a_middleware_around_an_app_with_one_in_its_stack_runs_each_app_once(create: Create) -> None:
    """The application uses the package inside, whichever way, and whoever serves it wraps it once more."""
    app, served = create(lifespan_of("app"))
    app.mount("/sub", recorded("sub", Mount("/deep", recorded("deep"))))
    wrapped = LifespanMiddleware(PassesOn(served), lifespan=lifespan_of("hook"))
    async with serving(wrapped) as server:
        assert await state_seen(app, server, "/sub/deep/state") == ["hook", "app", "sub", "deep"]
    assert log == started_and_stopped("hook", "app", "sub", "deep")


async def test_an_application_that_uses_the_package_twice_runs_each_app_once() -> None:
    """In its stack, and as its lifespan."""
    app = FastAPI(lifespan=Lifespan(contexts=[lifespan_of("app")], mounts="auto"))
    app.add_middleware(LifespanMiddleware, lifespan=lifespan_of("hook"))
    app.mount("/sub", recorded("sub"))
    await lived(app)
    assert log == started_and_stopped("hook", "app", "sub")


async def test_a_sub_app_that_uses_the_package_itself_runs_each_app_once(create: Create) -> None:
    """A sub-app may be made to be served alone as well."""
    outer, served = create(lifespan_of("outer"))
    for path, usage in {"/a": around, "/b": in_the_stack, "/c": as_the_lifespan}.items():
        inner, mounted = usage(lifespan_of(f"app {path}"))
        inner.mount("/sub", recorded(f"sub of {path}"))
        outer.mount(path, mounted)
    await lived(served)
    names = [f"{kind} {path}" for path in ("/a", "/b", "/c") for kind in ("app", "sub of")]
    assert log == started_and_stopped("outer", *names)


async def test_an_app_mounted_in_two_applications_that_use_the_package_runs_once(create: Create) -> None:
    """What the one has started, the other and the outer one leave alone."""
    shared = recorded("shared")
    outer, served = create(lifespan_of("outer"))
    for path, usage in {"/a": around, "/b": in_the_stack}.items():
        inner, mounted = usage(lifespan_of(f"app {path}"))
        inner.mount("/shared", shared)
        outer.mount(path, mounted)
    outer.mount("/shared", shared)
    await lived(served)
    assert log == started_and_stopped("outer", "app /a", "shared", "app /b")


@pytest.mark.parametrize("usage", [around, in_the_stack, as_the_lifespan])
async def test_what_the_inner_one_excludes_is_not_started_by_the_outer_one(usage: Create) -> None:
    """Whoever excluded it knew more."""
    sub = recorded("sub", Mount("/deep", recorded("deep")))
    app, served = usage(lifespan_of("app"), exclude=[sub])
    app.mount("/sub", sub)
    app.mount("/other", recorded("other"))
    await lived(LifespanMiddleware(served))
    assert log == started_and_stopped("app", "other")


@pytest.mark.parametrize("usage", [around, in_the_stack, as_the_lifespan])
async def test_what_the_outer_one_excludes_is_not_started_by_the_inner_one(usage: Create) -> None:
    """Excluded is never."""
    sub = recorded("sub")
    app, served = usage(lifespan_of("app"))
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(served, exclude=[sub]))
    assert log == started_and_stopped("app")


@pytest.mark.parametrize("usage", [around, in_the_stack, as_the_lifespan])
async def test_what_a_mounted_application_excludes_is_not_started_by_the_one_around_it(usage: Create) -> None:
    """So it is a level deeper."""
    sub = recorded("sub")
    app, mounted = usage(lifespan_of("app"), exclude=[sub])
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(recorded("outer", Mount("/app", mounted))))
    assert log == started_and_stopped("outer", "app")


class PassesOn:
    """A middleware that nobody knows."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


# --- Again ---


async def test_the_same_instance_can_be_run_twice_in_a_row(create: Create) -> None:
    """Nothing of the first run is left over for the second."""
    shared = recorded("shared")
    app, served = create(lifespan_of("app"))
    app.mount("/a", recorded("a", Mount("/shared", shared)))
    app.mount("/shared", shared)
    await lived(served)
    once = started_and_stopped("app", "a", "shared")
    assert log == once
    await lived(served)
    assert log == once * 2


async def test_apps_can_be_run_again_after_a_startup_that_failed(create: Create) -> None:
    """The failed run has let go of what it had started."""
    attempts: list[str] = []

    @asynccontextmanager
    async def fails_once(app: object) -> AsyncIterator[None]:
        attempts.append("attempt")
        if len(attempts) == 1:
            raise OSError("no database")
        yield

    app, served = create(lifespan_of("app"))
    app.mount("/sub", recorded("sub"))
    app.mount("/fails", Starlette(lifespan=fails_once))
    server = RecordingServer()
    with pytest.raises(OSError, match="no database"):
        await server.run(served)
    assert server.answers == ["startup.failed"]
    await lived(served)
    assert log == started_and_stopped("app", "sub") * 2


async def test_two_runs_at_once_do_not_share_what_runs() -> None:
    """Each lifespan call has a tree of its own: one process may serve an app twice."""
    app = LifespanMiddleware(recorded("app", Mount("/sub", recorded("sub"))))
    async with serving(app), serving(app):
        pass
    assert sorted(log) == sorted(started_and_stopped("app", "sub") * 2)


# --- One lifespan in two places ---


@asynccontextmanager
async def _own(app: object) -> AsyncIterator[None]:
    log.append("start own")
    yield
    log.append("stop own")


async def _generator(app: object) -> AsyncIterator[None]:
    log.append("start own")
    yield
    log.append("stop own")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "given", [_own, _generator, Lifespan(contexts=[_own])], ids=["function", "generator", "Lifespan"]
)
@pytest.mark.parametrize("wrap", [lambda app: app, GZipMiddleware], ids=["bare", "behind a middleware"])
async def test_a_lifespan_in_two_places_runs_once_with_a_warning(
    given: Any, wrap: Callable[[ASGIApp], ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    """It stays in ``FastAPI(lifespan=...)`` and is given to the middleware as well."""
    served = LifespanMiddleware(wrap(FastAPI(lifespan=given)), lifespan=given)
    served.on_startup(lambda: log.append("start hook"))
    await lived(served)
    assert log == ["start hook", "start own", "stop own"]
    [warning] = warnings_of(caplog)
    assert warning.endswith("is also the lifespan of app FastAPI; it runs once, there. Remove one of the two")
    assert served.report is not None
    assert [row.kind for row in served.report.units][:2] == ["hook", "app"]


async def test_a_middleware_that_is_added_twice_runs_its_hooks_once(caplog: pytest.LogCaptureFixture) -> None:
    """By ``add_middleware``, with the same hooks."""
    hooks, app = Lifespan(contexts=[_own]), FastAPI()
    for _ in range(2):
        app.add_middleware(LifespanMiddleware, lifespan=hooks)
    await lived(app)
    assert log == started_and_stopped("own")
    assert len(warnings_of(caplog)) == 1


# --- Event handlers ---


def _with_handler(**options: Any) -> FastAPI:
    app = FastAPI(**options)
    app.router.on_startup.append(lambda: log.append("start handler"))
    return app


def _startup_by_hand(app: FastAPI) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        await app.router._startup()
        yield

    return lifespan


async def test_event_handlers_that_never_run_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """FastAPI ignores them beside a lifespan, in silence; as the wrapped app and as a mount."""
    app = _with_handler(lifespan=_own)
    app.mount("/sub", _with_handler(lifespan=lifespan_of("sub")))
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("own", "sub")
    assert [warning.partition(" has on_event handlers that never run")[0] for warning in warnings_of(caplog)] == [
        "app FastAPI",
        "mount '/sub'",
    ]


async def test_event_handlers_that_run_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """By the default lifespan, by one that include_router() merged, and by hand."""
    merged, by_hand = _with_handler(), FastAPI()
    merged.include_router(APIRouter(lifespan=lifespan_of("router")))
    by_hand.router.on_startup.append(lambda: log.append("start by hand"))
    by_hand.router.lifespan_context = _startup_by_hand(by_hand)
    app = _with_handler()
    app.mount("/merged", merged)
    app.mount("/hand", by_hand)
    await lived(LifespanMiddleware(app))
    assert log == ["start handler", "start handler", "start router", "start by hand", "stop router"]
    assert not warnings_of(caplog)


# --- exclude= ---


async def test_an_excluded_app_that_is_nowhere_is_warned_of(create: Create, caplog: pytest.LogCaptureFixture) -> None:
    """It is most often another instance; one that is mounted, or inside a wrapper, is found."""
    mounted, wrapped = recorded("mounted", Mount("/deep", deep := recorded("deep"))), recorded("wrapped")
    app, served = create(lifespan_of("app"), exclude=[mounted, wrapped, deep, recorded("elsewhere")])
    app.mount("/mounted", mounted)
    app.mount("/wrapped", PassesOn(wrapped))
    await lived(served)
    assert log == started_and_stopped("app")
    [warning] = warnings_of(caplog)
    assert warning.startswith("exclude=[...] names app Starlette, which is found nowhere in app ")


async def test_two_hooks_that_are_made_of_one_function_both_run() -> None:
    """Partials that bind equal values to different parameters, and functions that decorators made."""

    @asynccontextmanager
    async def pool(_: object, *, primary: bool = False, replica: bool = False) -> AsyncIterator[None]:
        log.append("primary" if primary else "replica")
        assert primary is not replica
        yield

    def traced(name: str) -> LifespanFunction:
        @functools.wraps(pool)
        @asynccontextmanager
        async def lifespan(app: object) -> AsyncIterator[None]:
            log.append(name)
            async with pool(app, primary=True):
                yield

        return lifespan

    own = FastAPI(lifespan=functools.partial(pool, primary=True))
    await lived(LifespanMiddleware(own, lifespan=functools.partial(pool, replica=True)))
    assert log == ["replica", "primary"]
    log.clear()
    await lived(LifespanMiddleware(FastAPI(lifespan=traced("own")), lifespan=traced("hook")))
    assert log == ["hook", "primary", "own", "primary"]
