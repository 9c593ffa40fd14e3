import functools
import importlib.util
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastmcp import FastMCP
from fastmcp.utilities.lifespan import combine_lifespans
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Mount, Route

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from asgi_lifespan_mw._types import ASGIApp
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


def lifespan_named(name: str) -> LifespanFunction:
    """A lifespan that holds nothing but a text, and therefore can be anybody's."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
        log.append(f"start {name}")
        yield {}
        log.append(f"stop {name}")

    return lifespan


@asynccontextmanager
async def plain_lifespan(app: object) -> AsyncIterator[dict[str, Any]]:
    """A lifespan that any app may have."""
    log.append("start plain")
    yield {}
    log.append("stop plain")


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


# --- A parent that runs its sub-app itself ---


def _certain(sub: Starlette) -> LifespanFunction:
    lifespan: LifespanFunction = sub.router.lifespan_context
    return lifespan


def _in_a_partial(sub: Starlette) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(runs: Any, app: object) -> AsyncIterator[Any]:
        async with runs(app) as state:
            yield state

    return functools.partial(lifespan, sub.router.lifespan_context)


def _behind_a_decorator(sub: Starlette) -> LifespanFunction:
    @functools.wraps(sub.router.lifespan_context)
    def lifespan(app: object) -> AbstractAsyncContextManager[Any]:
        manager: AbstractAsyncContextManager[Any] = sub.router.lifespan_context(app)
        return manager

    return lifespan


def _in_a_default(sub: Starlette) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(app: object, *, runs: Any = sub.router.lifespan_context) -> AsyncIterator[Any]:
        async with runs(app) as state:
            yield state

    return lifespan


def _combined(sub: Starlette) -> LifespanFunction:
    return combine_lifespans(lifespan_of("own"), sub.router.lifespan_context)


@pytest.mark.parametrize("give", [_certain, _in_a_partial, _behind_a_decorator, _in_a_default, _combined])
async def test_an_app_whose_own_lifespan_its_parent_runs_is_not_started_again(
    create: Create, give: Callable[[Starlette], LifespanFunction], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is in doubt, unless parent and mount have one function: then the run was the parent's."""
    sub = recorded("sub")
    app, served = create(give(sub))
    app.mount("/sub", sub)
    async with serving(served) as server:
        assert "sub" in await state_seen(served, server, "/sub/state")
    assert [line for line in log if line.endswith("sub")] == started_and_stopped("sub")
    if give in {_certain, _behind_a_decorator}:
        assert "the same lifespan function" in assert_is_left_alone_in_doubt(caplog, "/sub")
    else:
        assert not warnings_of(caplog)


def _in_a_closure(sub: Starlette) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        async with sub.router.lifespan_context(sub) as state:
            yield state

    return lifespan


def _by_its_router_in_a_closure(sub: Starlette) -> LifespanFunction:
    router = sub.router

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        async with router.lifespan_context(app) as state:
            yield state

    return lifespan


def _in_a_list(sub: Starlette) -> LifespanFunction:
    subs = [recorded("other"), sub]

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        for one in subs[1:]:
            async with one.router.lifespan_context(one) as state:
                yield state

    return lifespan


def _in_a_dict(sub: Starlette) -> LifespanFunction:
    subs = {"/sub": (sub,)}

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        async with subs["/sub"][0].router.lifespan_context(app) as state:
            yield state

    return lifespan


def _as_an_argument_of_a_partial(sub: Starlette) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(app: object, *, runs: Starlette) -> AsyncIterator[Any]:
        async with runs.router.lifespan_context(runs) as state:
            yield state

    return functools.partial(lifespan, runs=sub)


def _in_a_method(sub: Starlette) -> LifespanFunction:
    class Service:
        @asynccontextmanager
        async def lifespan(self, app: object) -> AsyncIterator[Any]:
            async with sub.router.lifespan_context(sub) as state:
                yield state

    return Service().lifespan


def _in_an_inner_function(sub: Starlette) -> LifespanFunction:
    def start() -> Any:
        return sub.router.lifespan_context(sub)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        async with start() as state:
            yield state

    return lifespan


def _by_the_class_of_a_context(sub: Starlette) -> LifespanFunction:
    class Runs:
        def __init__(self, app: object) -> None:
            self.manager: Any = sub.router.lifespan_context(app)

        async def __aenter__(self) -> Any:
            return await self.manager.__aenter__()

        async def __aexit__(self, *error: object) -> Any:
            return await self.manager.__aexit__(*error)

    return Runs


def _by_an_object_that_can_be_called(sub: Starlette) -> LifespanFunction:
    class Runs:
        @asynccontextmanager
        async def __call__(self, app: object) -> AsyncIterator[Any]:
            async with sub.router.lifespan_context(sub) as state:
                yield state

    return Runs()


BY_HAND = [
    _in_a_closure,
    _by_its_router_in_a_closure,
    _in_a_list,
    _in_a_dict,
    _as_an_argument_of_a_partial,
    _in_a_method,
    _in_an_inner_function,
    _by_the_class_of_a_context,
    _by_an_object_that_can_be_called,
]


@pytest.mark.parametrize("run", BY_HAND)
async def test_an_app_that_its_parents_lifespan_enters_by_hand_is_not_started_again(
    create: Create, run: Callable[[Starlette], LifespanFunction], caplog: pytest.LogCaptureFixture
) -> None:
    """It is seen to begin, from whichever line."""
    sub = recorded("sub")
    app, served = create(run(sub))
    app.mount("/sub", sub)
    async with serving(served) as server:
        assert "sub" in await state_seen(served, server, "/sub/state")
    assert log == started_and_stopped("sub")
    assert not warnings_of(caplog)


@pytest.mark.parametrize("give", [_certain, _in_a_closure])
async def test_an_app_that_its_parent_runs_is_known_behind_a_middleware(
    create: Create, give: Callable[[Starlette], LifespanFunction]
) -> None:
    """The lifespan names the app, and the mount is a middleware around it."""
    sub = recorded("sub")
    app, served = create(give(sub))
    app.mount("/sub", GZipMiddleware(PassesOn(sub)))
    await lived(served)
    assert log == started_and_stopped("sub")


@pytest.mark.parametrize("run", BY_HAND)
async def test_an_app_that_its_parent_runs_can_be_excluded_and_the_warning_is_gone(
    run: Callable[[Starlette], LifespanFunction], caplog: pytest.LogCaptureFixture
) -> None:
    """What the warning advises works."""
    sub = recorded("sub")
    app = FastAPI(lifespan=run(sub))
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app, exclude=[sub]))
    assert log == started_and_stopped("sub")
    assert not warnings_of(caplog)


@pytest.mark.parametrize("give", [_certain, _in_a_closure])
async def test_a_router_that_is_included_later_does_not_hide_who_is_run(
    create: Create, give: Callable[[Starlette], LifespanFunction]
) -> None:
    """``include_router()`` puts the parent's lifespan into a new one."""
    sub = recorded("sub")
    app, served = create(give(sub))
    app.mount("/sub", sub)
    app.include_router(APIRouter(lifespan=lifespan_of("router")))
    await lived(served)
    assert log == started_and_stopped("sub", "router")


MODULE = """
from contextlib import asynccontextmanager

sub = None
subs = []
plain = None


@asynccontextmanager
async def by_name(app):
    async with sub.router.lifespan_context(sub) as state:
        yield state


@asynccontextmanager
async def in_a_list(app):
    async with subs[0].router.lifespan_context(app) as state:
        yield state


def helper():
    return sub.router.lifespan_context(sub)


@asynccontextmanager
async def by_helper(app):
    async with helper() as state:
        yield state


@asynccontextmanager
async def by_lifespan_function(app):
    async with plain(app) as state:
        yield state


@asynccontextmanager
async def in_an_inner_function(app):
    def inner():
        return sub.router.lifespan_context(sub)

    async with inner() as state:
        yield state


@asynccontextmanager
async def only_mounts(app):
    app.mount("/sub", sub)
    yield {}


@asynccontextmanager
async def runs_another(app):
    app.mount("/sub", sub)
    async with subs[0].router.lifespan_context(app):
        yield {}
"""
"""A user's module, in which the apps are globals."""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    """The user's module, imported anew."""
    path = tmp_path / "shop_under_test.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


GLOBALS = ["by_name", "in_a_list", "by_helper", "in_an_inner_function", "by_lifespan_function"]


@pytest.mark.parametrize("name", GLOBALS)
async def test_an_app_that_is_a_global_and_is_entered_by_hand_is_not_started_again(
    create: Create, name: str, module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The lifespan is seen to begin, through helper functions and lists."""
    module.sub = recorded("sub")
    module.subs = [module.sub]
    module.plain = module.sub.router.lifespan_context
    app, served = create(getattr(module, name))
    app.mount("/sub", module.sub)
    await lived(served)
    assert log == started_and_stopped("sub")
    assert not warnings_of(caplog)


@pytest.mark.parametrize("name", GLOBALS)
@pytest.mark.parametrize(
    "wrap",
    [
        functools.partial,
        lambda lifespan: combine_lifespans(lifespan_of("own"), lifespan),
        lambda lifespan: Lifespan(contexts=[lifespan]),
    ],
    ids=["partial", "combine_lifespans", "Lifespan"],
)
async def test_globals_are_read_behind_what_wraps_a_lifespan(
    name: str, wrap: Callable[[LifespanFunction], LifespanFunction], module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What the user's function was handed to does not matter."""
    module.sub = recorded("sub")
    module.subs = [module.sub]
    module.plain = module.sub.router.lifespan_context
    app = FastAPI(lifespan=wrap(getattr(module, name)))
    app.mount("/sub", module.sub)
    await lived(LifespanMiddleware(app))
    assert [line for line in log if line.endswith("sub")] == started_and_stopped("sub")
    assert not warnings_of(caplog)


@pytest.mark.parametrize("name", GLOBALS)
async def test_globals_are_read_in_a_lifespan_that_include_router_merged(
    create: Create, name: str, module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """FastAPI's merged lifespan is a function of FastAPI's, with the user's inside."""
    module.sub = recorded("sub")
    module.subs = [module.sub]
    module.plain = module.sub.router.lifespan_context
    app, served = create(getattr(module, name))
    app.mount("/sub", module.sub)
    app.include_router(APIRouter())
    await lived(served)
    assert log == started_and_stopped("sub")
    assert not warnings_of(caplog)


async def test_an_app_that_a_lifespan_names_only_to_mount_it_is_started(
    create: Create, module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Naming an app is no sign of running it."""
    module.sub = recorded("sub")
    _, served = create(module.only_mounts)
    await lived(served)
    assert log == started_and_stopped("sub")
    assert not warnings_of(caplog)


async def test_an_app_in_a_closure_that_is_only_mounted_is_started(create: Create) -> None:
    """So it is for a closure."""
    sub = recorded("sub")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.mount("/sub", sub)
        app.state.sub = sub
        yield

    _, served = create(lifespan)
    await lived(served)
    assert log == started_and_stopped("sub")


async def test_an_app_beside_one_that_is_run_is_started(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A lifespan that starts one of the apps that it names is no reason to leave out the other one."""
    module.sub = recorded("sub")
    module.subs = [recorded("another")]
    app = FastAPI(lifespan=module.runs_another)
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("another", "sub")
    assert not warnings_of(caplog)


async def test_what_a_lifespan_of_a_parent_further_up_runs_is_not_started(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """A parent of the parent may start an app as well."""
    inner = recorded("inner")
    app, served = create(_in_a_closure(inner))
    app.mount("/outer", recorded("outer", Mount("/inner", inner)))
    await lived(served)
    assert log == started_and_stopped("inner", "outer")
    assert not warnings_of(caplog)


async def test_a_sub_app_that_runs_its_own_sub_app_is_read_too(create: Create) -> None:
    """A parent is any app with mounts, not the wrapped app alone."""
    inner = recorded("inner")
    outer = Starlette(lifespan=_certain(inner), routes=[Mount("/inner", inner)])
    app, served = create(lifespan_of("app"))
    app.mount("/outer", outer)
    await lived(served)
    assert log == started_and_stopped("app", "inner")


async def test_what_is_mounted_in_an_app_that_its_parent_runs_is_started(create: Create) -> None:
    """The parent certainly starts the sub-app, and nobody starts what is mounted inside it."""
    sub = recorded("sub", Mount("/deep", recorded("deep")))
    app, served = create(_certain(sub))
    app.mount("/sub", sub)
    async with serving(served) as server:
        assert "deep" in await state_seen(served, server, "/sub/deep/state")
    assert log == started_and_stopped("sub", "deep")


async def test_an_app_merged_by_include_router_and_mounted_is_started_once(create: Create) -> None:
    """``include_router(sub.router)`` runs the lifespan of the app, which is mounted as well."""
    sub = FastAPI(lifespan=lifespan_of("sub"))
    sub.mount("/deep", recorded("deep"))
    app, served = create(lifespan_of("parent"))
    app.include_router(sub.router, prefix="/merged")
    app.mount("/sub", sub)
    await lived(served)
    assert sorted(log) == sorted(started_and_stopped("parent", "sub", "deep"))


async def test_an_included_router_that_is_mounted_too_is_started_once(create: Create) -> None:
    """A router may be included at one path and mounted at another."""
    router = APIRouter(lifespan=lifespan_of("router"))
    app, served = create(lifespan_of("parent"))
    app.mount("/mounted", router)
    app.include_router(router, prefix="/included")
    await lived(served)
    assert log == started_and_stopped("parent", "router")


# --- Hooks that run an app ---


@pytest.mark.parametrize("run", BY_HAND)
async def test_an_app_that_a_hook_runs_by_hand_is_not_started_again(
    run: Callable[[Starlette], LifespanFunction], caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks of ours may start an app like a parent's lifespan."""
    sub = recorded("sub")
    app = recorded("app", Mount("/sub", sub))
    await lived(LifespanMiddleware(app, lifespan=run(sub)))
    assert log == started_and_stopped("sub", "app")
    assert not warnings_of(caplog)


async def test_an_app_whose_lifespan_is_a_hook_is_not_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """``LifespanMiddleware(app, lifespan=sub.router.lifespan_context)`` may be a function that both share."""
    sub = recorded("sub")
    app = recorded("app", Mount("/sub", sub))
    await lived(LifespanMiddleware(app, lifespan=_certain(sub)))
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


# --- One lifespan of several apps ---


async def test_siblings_with_one_lifespan_are_each_started(create: Create, caplog: pytest.LogCaptureFixture) -> None:
    """A plain function may serve several apps, each with a run of its own."""
    app, served = create(lifespan_of("parent"))
    for path in ("/a", "/b"):
        app.mount(path, FastAPI(lifespan=plain_lifespan))
    await lived(served)
    assert log == started_and_stopped("parent", "plain", "plain")
    assert not warnings_of(caplog)


async def test_siblings_with_one_lifespan_out_of_a_factory_are_each_started(create: Create) -> None:
    """So may one that holds something."""
    shared = lifespan_of("shared")
    app, served = create(lifespan_of("parent"))
    app.mount("/a", Starlette(lifespan=shared))
    app.mount("/b", Starlette(lifespan=shared))
    await lived(served)
    assert log == started_and_stopped("parent", "shared", "shared")


async def test_siblings_with_one_collection_of_hooks_are_each_started(create: Create) -> None:
    """So may a `Lifespan`."""
    hooks = Lifespan(contexts=[plain_lifespan])
    app, served = create(lifespan_of("parent"))
    app.mount("/a", Starlette(lifespan=hooks))
    app.mount("/b", Starlette(lifespan=hooks))
    await lived(served)
    assert log == started_and_stopped("parent", "plain", "plain")


@pytest.mark.parametrize(
    ("shared", "name"),
    [
        (plain_lifespan, "plain"),
        (lifespan_named("made"), "made"),
        (Lifespan(contexts=[plain_lifespan]), "plain"),
    ],
    ids=["plain", "factory", "Lifespan"],
)
async def test_a_lifespan_shared_by_parent_and_child_leaves_the_child_alone_with_a_warning(
    shared: LifespanFunction, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be the same run or another one; the warning tells how to insist."""
    app = FastAPI(lifespan=shared)
    app.mount("/sub", FastAPI(lifespan=shared))
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped(name)
    assert_is_left_alone_in_doubt(caplog, "/sub")


async def test_insisting_starts_a_child_that_shares_its_parents_lifespan(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """What the warning advises works."""
    sub = FastAPI(lifespan=plain_lifespan)
    app, served = create(plain_lifespan, mounts=[sub])
    app.mount("/sub", sub)
    await lived(served)
    assert log == started_and_stopped("plain", "plain")
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


# --- MCP servers ---


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "a test", "version": "1"},
    },
}


async def initialize(app: Any, path: str) -> int:
    """POST an initialize request to an MCP server, and return the status of the answer."""
    headers = {"accept": "application/json, text/event-stream"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers) as client:
        return (await client.post(path, json=INITIALIZE)).status_code


def sdk_server() -> tuple[MCPServer[Any], Starlette]:
    """A server of the MCP SDK, which records its lifespan and can be run only once."""
    server: MCPServer[Any] = MCPServer("sdk", lifespan=lifespan_of("sdk"), log_level="WARNING")
    return server, server.streamable_http_app(streamable_http_path="/", json_response=True, stateless_http=True)


def fast_server() -> Any:
    """A server of FastMCP, which records its lifespan."""
    server = FastMCP("fast", lifespan=lifespan_of("fast"))
    return server.http_app(path="/", json_response=True, stateless_http=True)


async def test_mounted_mcp_servers_are_started_and_answer(create: Create) -> None:
    """Without their lifespans they answer 500."""
    app, served = create(lifespan_of("parent"))
    app.mount("/sdk", sdk_server()[1])
    app.mount("/fast", fast_server())
    async with serving(served):
        assert await initialize(served, "/sdk/") == 200
        assert await initialize(served, "/fast/") == 200
    assert log == started_and_stopped("parent", "sdk", "fast")


def _fast_itself(fast: Any) -> LifespanFunction:
    lifespan: LifespanFunction = fast.lifespan
    return lifespan


def _fast_combined(fast: Any) -> LifespanFunction:
    return combine_lifespans(lifespan_of("own"), fast.lifespan)


def _fast_combined_first(fast: Any) -> LifespanFunction:
    return combine_lifespans(fast.lifespan, lifespan_of("own"))


def _fast_in_a_stack(fast: Any) -> LifespanFunction:
    return combine_lifespans(combine_lifespans(fast.lifespan))


@pytest.mark.parametrize("give", [_fast_itself, _fast_combined, _fast_combined_first, _fast_in_a_stack])
@pytest.mark.parametrize("includes", [False, True], ids=["plain", "include_router"])
async def test_a_fastmcp_server_whose_lifespan_its_parent_runs_is_not_started_again(
    create: Create,
    give: Callable[[Any], LifespanFunction],
    includes: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """``lifespan=mcp_app.lifespan`` and ``combine_lifespans()`` are FastMCP's own recipes, and certain."""
    fast = fast_server()
    app, served = create(give(fast))
    app.mount("/fast", fast)
    if includes:
        app.include_router(APIRouter())
    async with serving(served):
        assert await initialize(served, "/fast/") == 200
    assert [line for line in log if line.endswith("fast")] == started_and_stopped("fast")
    assert not warnings_of(caplog)


async def test_a_fastmcp_server_that_its_parent_enters_by_hand_is_not_started_again(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """``async with mcp_app.lifespan(app)`` names the app's lifespan."""
    fast = fast_server()

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with fast.lifespan(app):
            yield

    app, served = create(lifespan)
    app.mount("/fast", fast)
    async with serving(served):
        assert await initialize(served, "/fast/") == 200
    assert log == started_and_stopped("fast")
    assert not warnings_of(caplog)


def sdk_run_by_hand() -> tuple[LifespanFunction, Starlette]:
    """The recipe in the MCP SDK's documentation, and the app that is mounted beside it."""
    server, sdk = sdk_server()

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    return lifespan, sdk


async def test_a_session_manager_that_its_parent_runs_by_hand_is_not_run_again(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """The recipe in the MCP SDK's documentation works as it did, with the mounts of others started beside it."""
    lifespan, sdk = sdk_run_by_hand()
    app, served = create(lifespan)
    app.mount("/tools/sdk", sdk)
    app.mount("/sub", recorded("sub"))
    async with serving(served):
        assert await initialize(served, "/tools/sdk/") == 200
    assert log == started_and_stopped("sdk", "sub")
    assert not warnings_of(caplog)


async def test_a_session_manager_that_is_run_by_hand_works_if_its_app_is_excluded(create: Create) -> None:
    """What the failure advises works."""
    lifespan, sdk = sdk_run_by_hand()
    app, served = create(lifespan, exclude=[sdk])
    app.mount("/sdk", sdk)
    app.mount("/sub", recorded("sub"))
    async with serving(served):
        assert await initialize(served, "/sdk/") == 200
    assert log == started_and_stopped("sdk", "sub")


async def test_an_app_that_is_made_in_its_parents_lifespan_is_started(create: Create) -> None:
    """An object that is new in each run can't be known beforehand."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.mount("/new", recorded("new"))
        yield

    _, served = create(lifespan)
    await lived(served)
    assert log == started_and_stopped("new")


async def test_an_app_that_its_parent_makes_mounts_and_enters_is_not_started_again(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """An object that is new in each run is seen to begin as well."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _, sdk = sdk_server()
        app.mount("/sdk", sdk)
        async with sdk.router.lifespan_context(sdk):
            yield

    _, served = create(lifespan)
    await lived(served)
    assert log == started_and_stopped("sdk")
    assert not warnings_of(caplog)


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
    assert warning.endswith("is run by app FastAPI too, and only there; remove it in one place")
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
