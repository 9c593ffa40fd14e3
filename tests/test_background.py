"""Background hooks: the startup is answered without waiting for them; on a virtual clock."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, LifespanTimeout, StateCollision
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.clock import JumpingLoop
from tests.conftest import VIRTUAL
from tests.plans import Boom, Journal, fails_to_start, hangs_at_start
from tests.server import RecordingServer, request


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: time limits take no time."""
    return request.param()


class Model:
    """A context that loads until the test says so.

    Attributes:
        may_load: Set it, and the model is there.
        events: What happened.
    """

    def __init__(self, error: BaseException | None = None, **state: Any) -> None:
        self.may_load = anyio.Event()
        self.events: list[str] = []
        self._error = error
        self._state = state

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[dict[str, Any]]:
        try:
            await self.may_load.wait()
            if self._error is not None:
                raise self._error
            self.events.append("loaded")
            yield self._state
        finally:
            self.events.append("left")


async def shows_state(request: Request) -> JSONResponse:
    """Answer with the state that the request was given."""
    return JSONResponse(request.state._state)


def app_that_shows_its_state(**options: Any) -> LifespanMiddleware:
    """Return an app whose answers are the state of its requests."""
    return LifespanMiddleware(Starlette(routes=[Route("/", shows_state)]), **options)


async def answer(app: LifespanMiddleware, **scope: Any) -> str:
    """Return the body of the answer to a request."""
    return "".join(message.get("body", b"").decode() for message in await request(app, **scope))


@asynccontextmanager
async def served(app: Any, server: RecordingServer | None = None) -> AsyncIterator[RecordingServer]:
    """Run a lifespan until the end of the block. What it raises comes out as it is."""
    server = server or RecordingServer(holds_on=True)
    raised: list[BaseException] = []

    async def live() -> None:
        try:
            await server.run(app)
        except Exception as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(live)
        await server.started.wait()
        yield server
        server.may_stop.set()
    for error in raised:
        raise error


async def test_the_startup_is_answered_before_a_background_hook_has_started(journal: Journal) -> None:
    """What comes after it in the order has started by then, and stops before it is left."""
    model = Model()
    app = LifespanMiddleware(journal.app())
    app.context(journal.context("pool"))
    app.context(model, background=True)
    app.context(journal.context("cache"))
    async with served(app):
        assert journal.events == ["+pool", "+cache", "+app"]
        assert not app.ready
        model.may_load.set()
        await anyio.sleep(1)
        assert app.ready
    assert not app.ready
    assert model.events == ["loaded", "left"]
    assert journal.events == ["+pool", "+cache", "+app", "-app", "-cache", "-pool"]


async def test_a_background_function_runs_beside_the_requests() -> None:
    """Registered by either decorator form."""
    done = anyio.Event()

    async def warms_up() -> None:
        await anyio.sleep(5)
        done.set()

    app = LifespanMiddleware(Starlette())
    assert app.on_startup(background=True)(warms_up) is warms_up
    async with served(app):
        assert not app.ready
        await done.wait()
        await anyio.sleep(1)
        assert app.ready


@pytest.mark.parametrize("server_state", [{"state": {}}, {}], ids=["state", "no state"])
async def test_the_state_of_a_background_hook_reaches_the_requests_that_come_later(server_state: Any) -> None:
    """Also on a server that copied the state when the startup was answered, and on one that has none."""
    model = Model(model="large")
    app = app_that_shows_its_state()
    app.context(model, background=True)
    app.context(Journal().context("pool", pool=1))
    server = RecordingServer(holds_on=True)
    if not server_state:
        del server.scope["state"]
    async with served(app, server):
        copied = {key: dict(value) for key, value in server.scope.items() if key == "state"}
        assert await answer(app, **copied) == '{"pool":1}'
        model.may_load.set()
        await anyio.sleep(1)
        assert '"model":"large"' in await answer(app, **copied)
        assert '"own":2' in await answer(app, state={"own": 2})


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers 503 to everything."""
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b"busy"})


async def test_another_app_answers_until_everything_has_started() -> None:
    """It is the one that `while_starting` names."""
    first, second = Model(), Model()
    app = app_that_shows_its_state(while_starting=busy)
    app.context(first, background=True)
    app.context(second, background=True)
    async with served(app):
        assert await answer(app, state={}) == "busy"
        first.may_load.set()
        await anyio.sleep(1)
        assert await answer(app, state={}) == "busy"
        second.may_load.set()
        await anyio.sleep(1)
        assert await answer(app, state={}) == "{}"
    assert await answer(app, state={}) == "{}"


async def test_without_background_hooks_the_other_app_never_answers() -> None:
    """Everything has started when the startup is answered."""
    app = app_that_shows_its_state(while_starting=busy)
    async with served(app):
        assert app.ready
        assert await answer(app, state={}) == "{}"


async def test_a_background_hook_that_fails_later_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, at once; the rest stays up, is never ready, and the shutdown says that it failed."""
    model, told = Model(Boom("no model")), list[BaseException]()
    app = app_that_shows_its_state(while_starting=busy, on_crash=told.append)
    app.context(model, background=True, name="model")
    server = RecordingServer(holds_on=True)
    with pytest.raises(Boom):
        async with served(app, server):
            model.may_load.set()
            await anyio.sleep(1)
            assert [type(error) for error in told] == [Boom]
            assert await answer(app, state={}) == "busy"
            assert not app.ready
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "crash in hook 'model'" in caplog.text


async def test_a_background_hook_that_fails_before_the_answer_fails_the_startup(journal: Journal) -> None:
    """What had started is stopped, and what is starting is cancelled."""
    model = Model(Boom("no model"))
    model.may_load.set()
    app = LifespanMiddleware(journal.app())
    app.context(journal.context("pool"))
    app.context(model, background=True)
    app.context(hangs_at_start)
    server = RecordingServer()
    with pytest.raises(Boom):
        await server.run(app)
    assert server.answers == ["startup.failed"]
    assert journal.events == ["+pool", "-pool"]


async def test_a_shutdown_cancels_what_still_starts_in_its_place(journal: Journal) -> None:
    """The functions for the shutdown run all the same, and nothing has failed."""
    model = Model()
    app = LifespanMiddleware(journal.app())
    app.context(journal.context("pool"))
    app.context(model, background=True)
    app.context(journal.context("cache"))
    app.on_shutdown(lambda: journal.events.append("told the others"))
    server = RecordingServer(holds_on=True)
    async with served(app, server):
        pass
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert model.events == ["left"]
    assert journal.events == ["+pool", "+cache", "+app", "-app", "told the others", "-cache", "-pool"]
    assert app.report is not None
    assert [row.outcome for row in app.report.units] == ["stopped", "cancelled", "stopped", "stopped", "stopped"]


async def test_a_background_hook_has_its_own_time_limit_alone() -> None:
    """That of the whole startup does not end it."""
    app = LifespanMiddleware(Starlette(), startup_timeout=5)
    app.context(hangs_at_start, background=True, timeout=20)
    server = RecordingServer(holds_on=True)
    with pytest.raises(LifespanTimeout, match=r"startup timed out after 20 s in hook 'hangs_at_start'"):
        async with served(app, server):
            await anyio.sleep(19)
            outcomes = [_first_outcome(app)]
            await anyio.sleep(2)
            assert [*outcomes, _first_outcome(app)] == ["starting", "crashed"]
    assert server.answers == ["startup.complete", "shutdown.failed"]


def _first_outcome(app: LifespanMiddleware) -> str:
    assert app.report is not None
    return app.report.units[0].outcome


async def test_a_background_hook_that_ignores_its_time_limit_is_abandoned(caplog: pytest.LogCaptureFixture) -> None:
    """While serving, as at the stop."""

    @asynccontextmanager
    async def ignores_its_cancellation() -> AsyncIterator[None]:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)
        yield  # pragma: no cover - it is cancelled before

    app = LifespanMiddleware(Starlette())
    app.context(ignores_its_cancellation, background=True, timeout=2)
    with pytest.raises(LifespanTimeout):
        async with served(app):
            await anyio.sleep(10)
            assert "did not stop after being cancelled; abandoning it" in caplog.text
            assert "startup timed out after 2 s in hook 'ignores_its_cancellation'" in caplog.text


async def test_a_slow_background_hook_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Where it waits, after 10 seconds and twice as long again."""
    app = LifespanMiddleware(Starlette())
    app.context(hangs_at_start, background=True)
    async with served(app):
        await anyio.sleep(25)
    slow = [record.getMessage() for record in caplog.records if "takes more than" in record.getMessage()]
    assert [message.partition(" takes more than ")[2].partition(",")[0] for message in slow] == ["10 s", "20 s"]
    assert all("hangs_at_start" in message for message in slow)


async def test_the_log_counts_what_still_starts(caplog: pytest.LogCaptureFixture) -> None:
    """One line for the startup, and one when the background hooks have started."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    model = Model()
    app = LifespanMiddleware(Starlette())
    app.context(model, background=True)
    app.on_startup(lambda: None)
    async with served(app):
        model.may_load.set()
        await anyio.sleep(1)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" s: ")[2] for line in lines] == [
        "app Starlette, hooks 1, mounts 0, still starting in the background hooks 1",
        "hooks 1",
        "app Starlette, hooks 2, mounts 0",
    ]
    assert lines[1].startswith("background start complete in ")


async def test_late_state_that_collides_is_a_crash_of_the_hook() -> None:
    """The error names both units; the context is left without seeing it."""
    model = Model(pool=object())
    app = app_that_shows_its_state()
    app.context(Journal().context("pool", pool=object()))
    app.context(model, background=True, name="model")
    with pytest.raises(StateCollision, match=r"pool.*hook 'model'"):
        async with served(app):
            model.may_load.set()
            await anyio.sleep(1)
            assert not app.ready
    assert model.events == ["loaded", "left"]


async def test_in_a_frameworks_own_lifespan_a_background_hook_starts_as_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A WARNING says so: no requests pass by that could be given its state."""
    model = Model(model=1)
    model.may_load.set()
    hooks = Lifespan()
    hooks.context(model, background=True, name="model")
    async with LifespanManager(Starlette(lifespan=hooks)) as manager:
        assert manager.state == {"model": 1}
    assert "hook 'model'" in caplog.text
    assert "background=True has no effect in a framework's own lifespan" in caplog.text


async def test_the_manager_waits_for_background_hooks_when_asked() -> None:
    """Entering returns when a server would be answered."""
    model = Model(model=1)
    app = LifespanMiddleware(Starlette())
    app.context(model, background=True)
    async with LifespanManager(app) as manager, anyio.create_task_group() as tasks:
        assert manager.state == {}
        tasks.start_soon(_set_later, model.may_load)
        await manager.wait_until_ready()
        assert manager.state == {"model": 1}
        await manager.wait_until_ready()


async def _set_later(event: anyio.Event) -> None:
    await anyio.sleep(1)
    event.set()


async def test_the_manager_runs_the_background_hooks_of_a_lifespan() -> None:
    """Without an app, its state is the manager's."""
    model = Model(model=1)
    hooks = Lifespan()
    hooks.context(model, background=True)
    async with LifespanManager(hooks) as manager:
        assert manager.state == {}
        model.may_load.set()
        await manager.wait_until_ready()
        assert manager.state == {"model": 1}


async def test_waiting_for_a_background_hook_that_fails_raises_its_error() -> None:
    """The stop fails with the same error, which is raised once."""
    model = Model(Boom("no model"))
    app = LifespanMiddleware(Starlette())
    app.context(model, background=True)
    with pytest.raises(Boom):
        async with LifespanManager(app) as manager:
            model.may_load.set()
            await manager.wait_until_ready()


async def test_waiting_ends_when_the_app_stops() -> None:
    """Nothing would come any more."""
    hooks = Lifespan()
    hooks.context(hangs_at_start, background=True)
    waits: list[str] = []

    async def wait(manager: LifespanManager) -> None:
        try:
            await manager.wait_until_ready()
        except RuntimeError as error:
            waits.append(str(error))

    async with anyio.create_task_group() as tasks, LifespanManager(hooks) as manager:
        tasks.start_soon(wait, manager)
        await anyio.sleep(1)
    assert len(waits) == 1
    assert waits[0].endswith("was stopped before it was ready")
    with pytest.raises(RuntimeError, match=r"LifespanManager (was not entered|has been left); wait_until_ready"):
        await manager.wait_until_ready()


async def test_a_middleware_inside_another_is_waited_for() -> None:
    """The outer one is ready, and lets requests pass, when the inner one is."""
    model = Model(model=1)
    inner = app_that_shows_its_state()
    inner.context(model, background=True)
    app = LifespanMiddleware(Starlette(routes=[Mount("/inner", inner)]), while_starting=busy)
    async with served(app):
        assert not app.ready
        assert await answer(app, state={}) == "busy"
        model.may_load.set()
        await anyio.sleep(1)
        assert app.ready
        assert await answer(app, path="/inner/", state={}) == '{"model":1}'


async def test_a_background_hook_in_a_group_and_what_comes_after_it() -> None:
    """What starts after it waits for its beginning alone, and sees the context variables from before it."""
    model = Model(model=1)
    series = Lifespan()
    series.context(model, background=True)
    series.context(Journal().context("cache", cache=1))
    group = Lifespan(contexts=[Journal().context("pool", pool=1)], concurrent=True)
    group.include(series)
    async with LifespanManager(group) as manager:
        assert manager.state == {"pool": 1, "cache": 1}
        model.may_load.set()
        await manager.wait_until_ready()
        assert manager.state == {"pool": 1, "cache": 1, "model": 1}


# --- the app itself in the background ---


class LoadingApp:
    """An app whose startup ends when the test says so, and which then shows the state of its requests."""

    def __init__(self, journal: Journal, *, error: BaseException | None = None, routes: Any = (), **state: Any) -> None:
        self.model = Model(error, **state)
        self._journal = journal

        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[dict[str, Any]]:
            async with self.model() as loaded:
                journal.events.append("+app")
                yield loaded
                journal.events.append("-app")

        self.app = Starlette(lifespan=lifespan, routes=[Route("/", shows_state), *routes])


def mount_of(journal: Journal, name: str) -> Mount:
    """Return a mount that records its lifespan."""
    return Mount(f"/{name}", Starlette(lifespan=lambda _: journal.context(name)()))


async def test_the_app_and_its_mounts_start_in_the_background_in_their_order(journal: Journal) -> None:
    """Hooks start before the answer, the rest after it; another app answers meanwhile; the stop is in reverse."""
    loading = LoadingApp(journal, routes=[mount_of(journal, "a"), mount_of(journal, "b")])
    app = LifespanMiddleware(loading.app, journal.context("pool"), background=True, while_starting=busy)
    async with served(app):
        assert journal.events == ["+pool"]
        assert not app.ready
        assert await answer(app, state={}) == "busy"
        loading.model.may_load.set()
        await anyio.sleep(1)
        assert journal.events == ["+pool", "+app", "+a", "+b"]
        assert app.ready
        assert await answer(app, state={}) == "{}"
        assert app._next is app.app
    assert journal.events[4:] == ["-b", "-a", "-app", "-pool"]


@pytest.mark.parametrize("server_state", [{"state": {}}, {}], ids=["state", "no state"])
async def test_what_the_app_sets_in_the_background_reaches_later_requests(server_state: Any, journal: Journal) -> None:
    """Also on a server that copied the state at the answer, and on one without state."""
    loading = LoadingApp(journal, model="large")
    app = LifespanMiddleware(loading.app, journal.context("pool", pool=1), background=True)
    server = RecordingServer(holds_on=True)
    if not server_state:
        del server.scope["state"]
    async with served(app, server):
        copied = {key: dict(value) for key, value in server.scope.items() if key == "state"}
        loading.model.may_load.set()
        await anyio.sleep(1)
        assert await answer(app, **copied) == '{"pool":1,"model":"large"}'


@pytest.mark.parametrize("which", ["app", "mount"])
async def test_an_app_that_fails_in_the_background_is_a_crash_and_nothing_starts_after_it(
    which: str, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_crash` gets the error, the log has it once, `ready` stays false, and the shutdown says that it failed."""
    crashes: list[BaseException] = []
    failing = Mount("/a", Starlette(lifespan=lambda _: fails_to_start()))
    error = Boom("no model") if which == "app" else None
    loading = LoadingApp(journal, error=error, routes=[failing, mount_of(journal, "b")])
    app = LifespanMiddleware(
        loading.app, journal.context("pool"), background=True, while_starting=busy, on_crash=crashes.append
    )
    server = RecordingServer(holds_on=True)
    with pytest.raises(Boom):
        async with served(app, server):
            loading.model.may_load.set()
            await anyio.sleep(5)
            assert [type(one) for one in crashes] == [Boom]
            assert not app.ready
            assert await answer(app, state={}) == "busy"
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert journal.events == (["+pool", "-pool"] if which == "app" else ["+pool", "+app", "-app", "-pool"])


async def test_a_shutdown_unwinds_an_app_that_still_starts_in_the_background(journal: Journal) -> None:
    """Its mounts do not start, the hooks are left after it, and nothing has failed."""
    loading = LoadingApp(journal, routes=[mount_of(journal, "a")])
    app = LifespanMiddleware(loading.app, journal.context("pool"), background=True)
    server = RecordingServer(holds_on=True)
    async with served(app, server):
        await anyio.sleep(1)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert loading.model.events == ["left"]
    assert journal.events == ["+pool", "-pool"]


async def test_a_collision_of_state_in_the_background_is_a_crash(journal: Journal) -> None:
    """The error names both units, and `ready` stays false."""

    def mount_with_pool(path: str) -> Mount:
        return Mount(path, Starlette(lifespan=lambda _: journal.context(path[1:], pool=object())()))

    loading = LoadingApp(journal, routes=[mount_with_pool("/a"), mount_with_pool("/b")])
    crashes: list[BaseException] = []
    app = LifespanMiddleware(loading.app, background=True, on_crash=crashes.append)
    server = RecordingServer(holds_on=True)
    with pytest.raises(StateCollision, match=r"mount '/a'.*mount '/b'"):
        async with served(app, server):
            loading.model.may_load.set()
            await anyio.sleep(5)
            assert [type(one) for one in crashes] == [StateCollision]
            assert not app.ready
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert sorted(journal.events) == ["+a", "+app", "+b", "-a", "-app", "-b"]


@pytest.mark.parametrize("error", [None, Boom("no model")], ids=["ready", "failed"])
async def test_the_manager_waits_for_an_app_in_the_background(error: BaseException | None, journal: Journal) -> None:
    """`wait_until_ready` returns when the mounts have started too, and raises what failed."""
    loading = LoadingApp(journal, error=error, routes=[mount_of(journal, "a")])
    app = LifespanMiddleware(loading.app, background=True)

    async def use() -> None:
        async with LifespanManager(app) as manager:
            assert journal.events == []
            loading.model.may_load.set()
            await manager.wait_until_ready()
            assert journal.events == ["+app", "+a"]

    if error is None:
        await use()
    else:
        with pytest.raises(Boom):
            await use()
        assert journal.events == []


@pytest.mark.parametrize("place", ["nowhere", "here", "inside"])
async def test_another_app_for_the_start_where_nothing_starts_in_the_background_is_warned_of(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, unless a hook here or one in a middleware inside starts in the background."""
    inner = app_that_shows_its_state()
    app = LifespanMiddleware(Starlette(routes=[Mount("/inner", inner)]), while_starting=busy)
    if place != "nowhere":
        (app if place == "here" else inner).on_startup(background=True)(lambda: None)
    async with served(app):
        await anyio.sleep(1)
        assert app.ready
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["while_starting=...) of app Starlette has no effect" in text for text in texts] == [True] * (
        place == "nowhere"
    )


# --- runs that began and ended in a hook ---


async def _fails_inside() -> None:
    broken = LifespanMiddleware(Starlette(), fails_to_start)
    broken.context(hangs_at_start, background=True)
    with pytest.raises(Boom):
        await RecordingServer().run(broken)


async def _is_over_inside() -> None:
    inner = app_that_shows_its_state()
    inner.context(hangs_at_start, background=True)
    async with LifespanManager(inner):
        pass


async def _is_surveyed_inside() -> None:
    other = app_that_shows_its_state()
    other.on_startup(lambda: None)
    assert await answer(other) == "{}"  # without a lifespan: a WARNING looks for what waits


@pytest.mark.parametrize("hook", [_fails_inside, _is_over_inside, _is_surveyed_inside])
async def test_a_run_that_ended_in_a_hook_does_not_count_for_readiness(hook: Any) -> None:
    """Neither does one that failed there, nor a look that starts nothing."""
    app = app_that_shows_its_state(while_starting=busy, on_startup=[hook])
    async with served(app):
        assert app.ready
        assert await answer(app, state={}) == "{}"


@pytest.mark.parametrize("background", [1, "yes", None])
def test_background_is_true_or_false(background: Any) -> None:
    """Anything else is a mistake."""
    with pytest.raises(TypeError, match=r"context\(background=\.\.\.\) got .*, expected True or False"):
        Lifespan().context(background=background)(hangs_at_start)


def test_a_shutdown_function_cannot_run_in_the_background() -> None:
    """There is no such argument."""
    with pytest.raises(TypeError, match="background"):
        Lifespan().on_shutdown(background=True)  # type: ignore[call-overload]


def test_what_answers_meanwhile_is_an_app() -> None:
    """Anything else is refused."""
    with pytest.raises(TypeError, match=r"LifespanMiddleware\(while_starting=\.\.\.\)"):
        LifespanMiddleware(Starlette(), while_starting="busy")  # type: ignore[arg-type]


# --- several event loops ---


def test_two_threads_that_run_one_app_keep_their_states() -> None:
    """A request gets the state of the run in its own event loop, on a server without state."""
    entered = threading.Barrier(2, timeout=60)
    names: dict[int, str] = {}

    @asynccontextmanager
    async def names_its_thread() -> AsyncIterator[dict[str, Any]]:
        yield {"thread": names[threading.get_ident()]}

    app = app_that_shows_its_state(lifespan=names_its_thread)
    answers: dict[str, list[str]] = {"first": [], "second": []}

    async def serve(name: str) -> None:
        server = RecordingServer(holds_on=True)
        del server.scope["state"]
        async with served(app, server):
            entered.wait()
            answers[name].append(await answer(app))
            entered.wait()
            if name == "second":
                entered.wait()
                answers[name].append(await answer(app))
        if name == "first":
            entered.wait()

    def run(name: str, backend: str) -> None:
        names[threading.get_ident()] = name
        anyio.run(serve, name, backend=backend)

    threads = [threading.Thread(target=run, args=pair) for pair in [("first", "asyncio"), ("second", "trio")]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {"first": ['{"thread":"first"}'], "second": ['{"thread":"second"}'] * 2}


def test_a_loop_that_was_closed_without_a_shutdown_leaves_no_state() -> None:
    """The next run, in another loop, is not mistaken for it, and nothing is left after that one."""
    app = app_that_shows_its_state(lifespan=[Journal().context("pool", pool=1)])
    kept: list[Awaitable[Any]] = []

    async def begin() -> None:
        server = RecordingServer(holds_on=True)
        del server.scope["state"]
        kept.append(asyncio.ensure_future(server.run(app)))
        await server.started.wait()

    loop = JumpingLoop()
    loop.run_until_complete(begin())
    loop.close()

    async def again() -> str:
        server = RecordingServer(holds_on=True)
        del server.scope["state"]
        async with served(app, server):
            return await answer(app)

    assert anyio.run(again) == '{"pool":1}'
    assert anyio.run(answer, app) == "{}"


def test_a_request_outside_of_any_loop_gets_the_state_of_the_only_run() -> None:
    """`asyncio.run(app(...))` calls the app before its loop runs."""
    app = app_that_shows_its_state(lifespan=[Journal().context("pool", pool=1)])
    with LifespanManager(app) as manager:
        bodies: list[Any] = []

        async def send(message: dict[str, Any]) -> None:
            bodies.append(message.get("body"))

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}  # pragma: no cover - the app does not ask

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        asyncio.run(manager.app(scope, receive, send))  # type: ignore[arg-type]
    assert bodies[-1] == b'{"pool":1}'


async def test_an_app_that_a_background_hook_starts_is_listed_in_exclude() -> None:
    """The mounts do not wait for the hook, and nobody sees what it starts later."""
    journal, model = Journal(), Model()
    sub = Starlette(lifespan=lambda _: journal.context("sub")())
    app = LifespanMiddleware(Starlette(routes=[Mount("/sub", sub)]), exclude=[sub])

    @app.context(background=True)
    async def starts_sub() -> AsyncIterator[None]:
        await model.may_load.wait()
        async with sub.router.lifespan_context(sub):
            yield

    async with LifespanManager(app) as manager:
        assert journal.events == []
        model.may_load.set()
        await manager.wait_until_ready()
        assert journal.events == ["+sub"]
    assert journal.events == ["+sub", "-sub"]
