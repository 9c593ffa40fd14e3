"""At the door: who comes first starts an app, who comes second joins; exactly once, or told."""

import logging
import math
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware
from tests.conftest import ONE_LOOP_IN_THE_QUICK_LOOP
from tests.usages import LifespanFunction, lifespan_of, lived, started_and_stopped

log: list[str] = []


@pytest.fixture(autouse=True)
def _empty_log() -> Iterator[None]:
    yield
    log.clear()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the package logged at WARNING; the clock of the tests jumps while threads work, which looks slow."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asgi_lifespan_mw"
        and record.levelno == logging.WARNING
        and "takes more than" not in record.getMessage()
    ]


# --- Lifespans of each kind ---


def _by_a_class() -> FastAPI:
    class Resources:
        def __init__(self, _: object) -> None: ...

        async def __aenter__(self) -> None:
            log.append("start sub")

        async def __aexit__(self, *_: object) -> None:
            log.append("stop sub")

    return FastAPI(lifespan=Resources)


def _by_a_generator() -> FastAPI:
    def lifespan(_: object) -> Iterator[None]:
        log.append("start sub")
        yield
        log.append("stop sub")

    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return FastAPI(lifespan=lifespan)  # type: ignore[arg-type]


def _by_handlers() -> FastAPI:
    app = FastAPI()
    app.router.on_startup.append(lambda: log.append("start sub"))
    app.router.on_shutdown.append(lambda: log.append("stop sub"))
    return app


def _made_by(make: Callable[..., LifespanFunction]) -> LifespanFunction:
    def lifespan(app: object) -> AbstractAsyncContextManager[Any]:
        return make(log, "sub")(app)

    return lifespan


KINDS: dict[str, Callable[[], FastAPI]] = {
    "function": lambda: FastAPI(lifespan=lifespan_of(log, "sub")),
    "class": _by_a_class,
    "generator": _by_a_generator,
    "factory_of_a_factory": lambda: FastAPI(lifespan=lambda app: _made_by(lifespan_of)(app)),  # noqa: PLW0108
    "hooks": lambda: FastAPI(lifespan=Lifespan(contexts=[lifespan_of(log, "sub")])),
    "handlers": _by_handlers,
}


# --- Ways to start an app ---


@asynccontextmanager
async def enters(sub: Any) -> AsyncIterator[None]:
    """Enter the door."""
    async with sub.router.lifespan_context(sub):
        yield


@asynccontextmanager
async def tries_again(sub: Any) -> AsyncIterator[None]:
    """Fail around the app once, after it had started, and start it again."""
    with suppress(OSError):
        async with enters(sub):
            log.clear()
            raise OSError("the broker is not there yet")
    log.clear()
    async with enters(sub):
        yield


@asynccontextmanager
async def in_a_task(sub: Any) -> AsyncIterator[None]:
    """Make a task that is not waited for."""
    stop = anyio.Event()

    async def serve() -> None:
        async with enters(sub):
            await stop.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        yield
        stop.set()


@asynccontextmanager
async def in_a_thread(sub: Any) -> AsyncIterator[None]:
    """Run an event loop in a worker thread."""
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with enters(sub):
            started.set()
            while not stop.is_set():
                await anyio.sleep(0.001)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, anyio.run, serve)
        await anyio.to_thread.run_sync(started.wait, 5)
        yield
        stop.set()


@asynccontextmanager
async def in_a_plain_thread(sub: Any) -> AsyncIterator[None]:
    """Run an event loop in a thread that has not our context."""
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with enters(sub):
            started.set()
            while not stop.is_set():
                await anyio.sleep(0.001)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    await anyio.to_thread.run_sync(started.wait, 5)
    yield
    stop.set()
    await anyio.to_thread.run_sync(thread.join, 5)


@asynccontextmanager
async def by_a_manager(sub: Any) -> AsyncIterator[None]:
    """Use the manager of this package."""
    async with LifespanManager(sub):
        yield


WAYS = [enters, tries_again, in_a_task, in_a_thread, in_a_plain_thread, by_a_manager]
Way = Callable[[Any], AbstractAsyncContextManager[None]]


def _lifespan(way: Way, sub: Any) -> LifespanFunction:
    return lambda _: way(sub)


def _by_the_parent(way: Way, sub: Any) -> LifespanMiddleware:
    app = FastAPI(lifespan=_lifespan(way, sub))
    app.mount("/sub", sub)
    return LifespanMiddleware(app)


def _by_a_hook(way: Way, sub: Any) -> LifespanMiddleware:
    return LifespanMiddleware(Starlette(routes=[Mount("/sub", sub)]), lifespan=_lifespan(way, sub))


def _by_a_sibling(way: Way, sub: Any) -> LifespanMiddleware:
    sibling = Starlette(lifespan=_lifespan(way, sub))
    return LifespanMiddleware(Starlette(routes=[Mount("/sub", sub), Mount("/sibling", sibling)]))


def _behind_a_wrapper(way: Way, sub: Any) -> LifespanMiddleware:
    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        await sub(scope, receive, send)

    return LifespanMiddleware(Starlette(lifespan=_lifespan(way, sub), routes=[Mount("/sub", wrapper)]))


PLACES = [_by_the_parent, _by_a_hook, _by_a_sibling, _behind_a_wrapper]


@ONE_LOOP_IN_THE_QUICK_LOOP
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_an_app_starts_once_whoever_starts_it(
    place: Callable[[Way, Any], LifespanMiddleware],
    way: Way,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lifespans of each kind, by each way, from each place; nothing is in doubt, so nothing is warned of."""
    # The virtual clock jumps while the event loop waits for a thread.
    monkeypatch.setattr("asgi_lifespan_mw._units.supervisor.SLOW_AFTER", math.inf)
    sub = KINDS[kind]()
    original = sub.router.lifespan_context
    await lived(place(way, sub))
    # An entry from outside cannot join, so that a wrapper of the app, which is asked, starts it again.
    twice = way is in_a_plain_thread and place is _behind_a_wrapper
    assert log.count("start sub") == log.count("stop sub") == (2 if twice else 1)
    assert not told(caplog)
    assert sub.router.lifespan_context is original


# --- Who comes second ---


def _second(sub: Any, moment: anyio.Event) -> LifespanFunction:
    """A lifespan with a task that enters an app later."""

    async def serve() -> None:
        await moment.wait()
        async with enters(sub):
            await anyio.sleep_forever()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield
            tasks.cancel_scope.cancel()

    return lifespan


async def test_code_that_comes_second_joins_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A task of the parent's enters a mount that runs already; both are named."""
    sub, moment = FastAPI(lifespan=lifespan_of(log, "sub")), anyio.Event()
    app = FastAPI(lifespan=_second(sub, moment))
    app.mount("/sub", sub)
    async with LifespanManager(LifespanMiddleware(app)):
        moment.set()
        await anyio.wait_all_tasks_blocked()
        assert log == ["start sub"]
    assert log == started_and_stopped("sub")
    [warning] = told(caplog)
    assert warning.startswith("mount '/sub' had been started by this package when the code of app FastAPI entered")


async def test_two_hooks_that_start_one_app_share_it(caplog: pytest.LogCaptureFixture) -> None:
    """The second one gets the state of the first, and the warning names both hooks."""
    sub = FastAPI(lifespan=lifespan_of(log, "sub"))
    states: list[Any] = []

    @asynccontextmanager
    async def first(_: object) -> AsyncIterator[None]:
        async with sub.router.lifespan_context(sub) as state:
            states.append(state)
            yield

    @asynccontextmanager
    async def second(_: object) -> AsyncIterator[None]:
        async with sub.router.lifespan_context(sub) as state:
            states.append(state)
            yield

    app = FastAPI()
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app, lifespan=[first, second]))
    assert log == started_and_stopped("sub")
    assert states == [{"sub": "sub"}] * 2
    [warning] = told(caplog)
    assert "started by the code of hook 'first'" in warning
    assert "the code of hook 'second'" in warning


async def test_who_joins_a_start_that_fails_gets_the_same_exception() -> None:
    """A later entry starts anew."""
    attempts: list[str] = []
    errors: list[Exception] = []

    @asynccontextmanager
    async def fails_once(_: object) -> AsyncIterator[None]:
        attempts.append("attempt")
        await anyio.sleep(0)
        if len(attempts) == 1:
            raise OSError("no database")
        yield

    sub = FastAPI(lifespan=fails_once)

    async def attempt() -> None:
        try:
            await sub.router.lifespan_context(sub).__aenter__()
        except OSError as error:
            errors.append(error)

    @asynccontextmanager
    async def parent(_: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt)
            tasks.start_soon(attempt)
        async with enters(sub):
            yield

    app = FastAPI(lifespan=parent)
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app))
    assert len(attempts) == 2
    assert errors[0] is errors[1]


async def test_a_start_that_is_cancelled_is_begun_by_who_waits_for_it() -> None:
    """The cancellation is not the waiting one's."""
    attempts: list[str] = []

    @asynccontextmanager
    async def slow_once(_: object) -> AsyncIterator[None]:
        attempts.append("attempt")
        if len(attempts) == 1:
            await anyio.sleep_forever()
        yield

    sub = FastAPI(lifespan=slow_once)

    @asynccontextmanager
    async def parent(_: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def given_up() -> None:
                with scope:
                    async with enters(sub):
                        raise AssertionError

            async def waits() -> None:
                async with enters(sub):
                    pass

            tasks.start_soon(given_up)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(waits)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
        async with enters(sub):
            yield

    app = FastAPI(lifespan=parent)
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app))
    assert len(attempts) == 3


async def test_who_leaves_an_app_that_another_one_uses_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A hook's task stops the app while serving; a second hook is still inside."""
    sub, stop = FastAPI(lifespan=lifespan_of(log, "sub")), anyio.Event()

    async def serve(*, task_status: Any) -> None:
        async with enters(sub):
            task_status.started()
            await stop.wait()

    @asynccontextmanager
    async def first(_: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve)
            yield

    app = FastAPI()
    app.mount("/sub", sub)
    async with LifespanManager(LifespanMiddleware(app, lifespan=[first, lambda _: enters(sub)])):
        caplog.clear()
        stop.set()
        await anyio.wait_all_tasks_blocked()
        [warning] = told(caplog)
    assert warning.startswith("mount '/sub' is stopped by the code of hook 'first'")
    assert warning.endswith("still uses it")
    assert log == started_and_stopped("sub")


async def test_an_app_that_is_left_while_another_one_comes_starts_anew() -> None:
    """Who comes while the app stops waits for the end of that."""
    leaving, go_on = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def slow_stop(_: object) -> AsyncIterator[None]:
        log.append("start sub")
        yield
        leaving.set()
        await go_on.wait()
        log.append("stop sub")

    sub = FastAPI(lifespan=slow_stop)

    @asynccontextmanager
    async def parent(_: object) -> AsyncIterator[None]:
        async def first() -> None:
            async with enters(sub):
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await leaving.wait()
            tasks.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            assert log == ["start sub"]
            go_on.set()
        async with enters(sub):
            yield

    app = FastAPI(lifespan=parent)
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app))
    assert log == ["start sub", "stop sub"] * 3


async def test_other_runs_of_an_app_do_not_join() -> None:
    """A test may run the mount alone while the app serves, and two servers may run one app."""
    sub = FastAPI(lifespan=lifespan_of(log, "sub"))
    app = Starlette(routes=[Mount("/sub", sub)])
    async with LifespanManager(LifespanMiddleware(app)), LifespanManager(LifespanMiddleware(app)):
        async with LifespanManager(sub):
            assert log == ["start sub"] * 3


async def test_a_parent_that_starts_event_handlers_stops_them() -> None:
    """By `router._startup()` and `router._shutdown()`; a wrapper of the app joins and leaves in between."""
    sub = _by_handlers()

    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        await sub(scope, receive, send)

    @asynccontextmanager
    async def parent(_: object) -> AsyncIterator[None]:
        await sub.router._startup()
        yield
        assert log == ["start sub"]
        await sub.router._shutdown()

    await lived(LifespanMiddleware(Starlette(lifespan=parent, routes=[Mount("/sub", wrapper)])))
    assert log == started_and_stopped("sub")


async def test_a_plain_thread_that_runs_event_handlers_counts() -> None:
    """It has not our context."""
    sub = _by_handlers()

    @asynccontextmanager
    async def parent(_: object) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(_in_a_thread, sub.router._startup)
        yield
        await anyio.to_thread.run_sync(_in_a_thread, sub.router._shutdown)

    app = FastAPI(lifespan=parent)
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("sub")


def _in_a_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=anyio.run, args=(function,))
    thread.start()
    thread.join(5)


async def test_a_start_outside_that_fails_is_no_start() -> None:
    """The app is started by us."""
    attempts: list[str] = []

    @asynccontextmanager
    async def fails_once(_: object) -> AsyncIterator[None]:
        attempts.append("attempt")
        if len(attempts) == 1:
            raise OSError("no database")
        yield

    sub = FastAPI(lifespan=fails_once)

    async def start() -> None:
        with suppress(OSError):
            async with enters(sub):
                raise AssertionError

    @asynccontextmanager
    async def parent(_: object) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(_in_a_thread, start)
        yield

    app = FastAPI(lifespan=parent)
    app.mount("/sub", sub)
    await lived(LifespanMiddleware(app))
    assert len(attempts) == 2


# --- What the objects look like afterwards ---


async def test_a_door_that_was_replaced_meanwhile_stays_replaced() -> None:
    """The recorder takes out itself alone."""
    sub = FastAPI(lifespan=lifespan_of(log, "sub"))
    another = lifespan_of(log, "another")
    async with LifespanManager(LifespanMiddleware(Starlette(routes=[Mount("/sub", sub)]))):
        sub.router.lifespan_context = another
    assert sub.router.lifespan_context is another
    assert "_startup" not in vars(sub.router)


async def test_a_recorder_that_code_keeps_passes_on_after_the_run() -> None:
    """``original = sub.router.lifespan_context`` in a lifespan."""
    sub = FastAPI(lifespan=lifespan_of(log, "sub"))
    async with LifespanManager(LifespanMiddleware(Starlette(routes=[Mount("/sub", sub)]))):
        kept = sub.router.lifespan_context
    log.clear()
    async with kept(sub):
        pass
    assert log == started_and_stopped("sub")


async def test_a_door_that_gives_no_context_manager_fails_as_it_does_without_us() -> None:
    """What the lifespan returns is given back as it is."""
    sub = FastAPI(lifespan=lambda _: None)  # type: ignore[arg-type]
    with pytest.raises((TypeError, AttributeError)):
        await lived(LifespanMiddleware(Starlette(routes=[Mount("/sub", sub)])))


def test_doors_are_restored_under_threads_and_failures() -> None:
    """Eight threads run one app at once; every other start fails."""
    sub = FastAPI(lifespan=lifespan_of(log, "sub"))
    original = sub.router.lifespan_context

    async def run(*, fails: bool) -> None:
        app = LifespanMiddleware(Starlette(routes=[Mount("/sub", sub)]))
        if fails:
            app.app.mount("/broken", FastAPI(lifespan=_breaks))  # type: ignore[attr-defined]
        with suppress(OSError):
            async with LifespanManager(app):
                pass

    threads = [threading.Thread(target=lambda at=at: anyio.run(lambda: run(fails=at % 2 == 0))) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sub.router.lifespan_context is original
    assert log.count("start sub") == log.count("stop sub") == 8


@asynccontextmanager
async def _breaks(_: object) -> AsyncIterator[None]:
    raise OSError("broken")
    yield  # pragma: no cover - makes it a generator


# --- MCP ---


def _sdk() -> tuple[Any, Any]:
    from mcp.server import MCPServer

    server: Any = MCPServer("tools", lifespan=lifespan_of(log, "sdk"), log_level="WARNING")
    return server, server.streamable_http_app(streamable_http_path="/")


async def test_a_session_manager_that_is_run_after_the_startup_is_joined(caplog: pytest.LogCaptureFixture) -> None:
    """A task of the parent's runs it by hand when the mount has started; bare, only the task starts it."""
    server, mounted = _sdk()
    moment, ran = anyio.Event(), anyio.Event()

    async def serve() -> None:
        await moment.wait()
        async with server.session_manager.run():
            ran.set()
            await anyio.sleep_forever()

    @asynccontextmanager
    async def parent(_: object) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            yield
            tasks.cancel_scope.cancel()

    app = Starlette(lifespan=parent, routes=[Mount("/mcp", mounted)])
    async with LifespanManager(LifespanMiddleware(app)):
        moment.set()
        with anyio.fail_after(5):
            await ran.wait()
    assert log == started_and_stopped("sdk")
    assert len(told(caplog)) == 1


async def test_a_session_manager_that_a_hook_has_run_is_not_run_again(caplog: pytest.LogCaptureFixture) -> None:
    """It can be run only once; a warm-up uses it up, as it does without the package."""
    server, mounted = _sdk()

    @asynccontextmanager
    async def warm_up(_: object) -> AsyncIterator[None]:
        async with server.session_manager.run():
            pass
        yield

    app = Starlette(routes=[Mount("/mcp", mounted)])
    await lived(LifespanMiddleware(app, lifespan=warm_up))
    assert log == started_and_stopped("sdk")
    [warning] = told(caplog)
    assert warning.startswith("mount '/mcp' is not started: it was run by a lifespan around it, or a hook, and can be")


# --- Order, and hooks in the background ---


@pytest.mark.parametrize("concurrent", [False, True])
async def test_siblings_that_hold_others_start_first(concurrent: bool) -> None:
    """In a chain, and in a circle, in which the order of the routes stays."""
    first = FastAPI(lifespan=lifespan_of(log, "first"))

    def starts(app: Any, name: str) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            log.append(f"start {name}")
            async with enters(app):
                yield
            log.append(f"stop {name}")

        return FastAPI(lifespan=lifespan)

    second = starts(first, "second")
    third = starts(second, "third")
    mounts = [Mount("/first", first), Mount("/second", second), Mount("/third", third)]
    await lived(LifespanMiddleware(Starlette(routes=mounts), concurrent=concurrent))
    assert log == ["start third", "start second", "start first", "stop first", "stop second", "stop third"]


async def test_siblings_that_hold_each_other_start() -> None:
    """The order of the routes stays."""
    apps: list[FastAPI] = []

    def holds(name: str) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            assert len(apps) == 2
            log.append(name)
            yield

        return FastAPI(lifespan=lifespan)

    apps += [holds("a"), holds("b")]
    for concurrent in (False, True):
        mounts = [Mount(f"/{at}", app) for at, app in enumerate(apps)]
        await lived(LifespanMiddleware(Starlette(routes=mounts), concurrent=concurrent))
    assert sorted(log) == ["a", "a", "b", "b"]


async def test_a_background_hook_that_holds_the_lifespan_function_of_a_mount_is_doubt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It calls the function by its name when nobody watches any more."""
    of_sub = lifespan_of(log, "sub")
    sub, moment = FastAPI(lifespan=of_sub), anyio.Event()

    @asynccontextmanager
    async def warm_up(_: object) -> AsyncIterator[None]:
        await moment.wait()
        async with of_sub(sub):
            yield

    app = FastAPI()
    app.mount("/sub", sub)
    middleware = LifespanMiddleware(app)
    middleware.context(background=True)(warm_up)
    async with LifespanManager(middleware) as manager:
        moment.set()
        await manager.wait_until_ready()
    assert log == started_and_stopped("sub")
    [warning] = told(caplog)
    assert warning.startswith("mount '/sub' is not started: a background hook or a worker holds its lifespan function")
