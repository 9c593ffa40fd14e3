"""Clean-up that awaits: a `finally` finishes, whatever ended its body, within the right time; on a virtual clock.

`finally: await consumer.stop()` is written for asyncio, which cancels once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Lifespan, LifespanMiddleware, LifespanTimeout
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.conftest import VIRTUAL
from tests.plans import Boom, Journal
from tests.server import RecordingServer


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: time limits take no time."""
    return request.param()


class Body:
    """A body that waits until it is cancelled, and then cleans up.

    Attributes:
        events: What happened.
        cancelled_at: The time of each cancellation that it has seen.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        """Make a body whose clean-up takes so many seconds."""
        self.events: list[str] = []
        self.cancelled_at: list[float] = []
        self._seconds = seconds

    async def __call__(self) -> None:
        """Wait, and clean up with three awaits."""
        try:
            await anyio.sleep_forever()
        finally:
            self._note_cancellation()
            await self._clean_up()

    async def _clean_up(self) -> None:
        try:
            for _ in range(3):
                await anyio.sleep(self._seconds / 3)
            self.events.append("cleaned up")
        except BaseException:
            self._note_cancellation()
            raise

    def _note_cancellation(self) -> None:
        self.cancelled_at.append(anyio.current_time())

    def starting(self) -> Callable[[], Any]:
        """Return a context that never starts."""

        @asynccontextmanager
        async def body() -> AsyncIterator[None]:
            await self()
            yield  # pragma: no cover - it makes a generator of it

        return body

    def stopping(self) -> Callable[[], Any]:
        """Return a context that never stops."""

        @asynccontextmanager
        async def body() -> AsyncIterator[None]:
            yield
            await self()

        return body

    def app(self, *, starts: bool = False) -> Any:
        """Return an app that never starts, or one that starts and never stops."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            if starts:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await self()

        return app


async def fails_soon() -> None:
    """Raise after a second."""
    await anyio.sleep(1)
    raise Boom("no start")


@asynccontextmanager
async def crashes_soon() -> AsyncIterator[None]:
    """Start, and break a second later."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fails_soon)
        yield


def mounted(*apps: Any) -> Starlette:
    """Return an app in which others are mounted."""
    return Starlette(routes=[Mount(f"/{number}", app) for number, app in enumerate(apps)])


async def lived(app: LifespanMiddleware, server: RecordingServer | None = None, cancel_after: float = 1e6) -> list[str]:
    """Run a lifespan that may fail, or that the server cancels, and return the answers."""
    server = server or RecordingServer()
    with anyio.move_on_after(cancel_after):
        try:
            await server.run(app)
        except Exception as error:
            assert isinstance(error, (Boom, LifespanTimeout, ExceptionGroup))
    return server.answers


# --- a start that is cancelled ---


def _a_context(body: Body, **options: Any) -> LifespanMiddleware:
    app = LifespanMiddleware(Journal().app(), **options)
    app.context(body.starting())
    return app


def _a_function(body: Body, **options: Any) -> LifespanMiddleware:
    return LifespanMiddleware(Journal().app(), on_startup=[body.__call__], **options)


def _an_app(body: Body, **options: Any) -> LifespanMiddleware:
    return LifespanMiddleware(body.app(), **options)


def _a_mount(body: Body, **options: Any) -> LifespanMiddleware:
    return LifespanMiddleware(mounted(body.app()), **options)


STARTS = pytest.mark.parametrize("make", [_a_context, _a_function, _an_app, _a_mount])
Make = Callable[..., LifespanMiddleware]


@STARTS
async def test_a_start_that_the_startup_timeout_ends_cleans_up(make: Make) -> None:
    """The clean-up has a second, and the timeout is what fails."""
    body = Body()
    app = make(body, startup_timeout=3)
    assert await lived(app) == ["startup.failed"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


@STARTS
async def test_a_start_that_a_crash_elsewhere_ends_cleans_up(make: Make) -> None:
    """A unit that had started breaks before the startup was answered."""
    body = Body(5)
    assert await lived(make(body, lifespan=crashes_soon)) == ["startup.failed"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


@STARTS
async def test_a_start_that_the_server_cancels_cleans_up(make: Make) -> None:
    """By a cancel scope around the lifespan."""
    body = Body(5)
    assert await lived(make(body), cancel_after=2) == []
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


@pytest.mark.parametrize("kind", ["context", "function"])
async def test_a_start_that_its_own_timeout_ends_cleans_up(kind: str) -> None:
    """Other than by the limit for the whole, only this hook is cancelled."""
    body, app = Body(), LifespanMiddleware(Journal().app())
    if kind == "context":
        app.context(body.starting(), timeout=2)
    else:
        app.on_startup(body.__call__, timeout=2)
    assert await lived(app) == ["startup.failed"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


@pytest.mark.parametrize("kind", ["context", "function", "mount"])
async def test_a_start_that_a_siblings_failure_ends_cleans_up(kind: str) -> None:
    """In a group, and among the mounts of one level."""
    body = Body(5)
    if kind == "mount":

        async def fails(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "lifespan"
            await receive()
            await fails_soon()

        app = LifespanMiddleware(mounted(body.app(), fails), concurrent=True)
    else:
        app = LifespanMiddleware(Journal().app(), concurrent=True, on_startup=[fails_soon])
        if kind == "context":
            app.context(body.starting())
        else:
            app.on_startup(body.__call__)
    assert await lived(app) == ["startup.failed"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


@pytest.mark.parametrize("kind", ["context", "function", "app", "mount"])
async def test_a_start_in_the_background_that_the_shutdown_cancels_cleans_up(kind: str) -> None:
    """The shutdown waits for the clean-up, and succeeds."""
    body = Body(5)
    if kind in ("context", "function"):
        app = LifespanMiddleware(Journal().app())
        register: Any = app.context if kind == "context" else app.on_startup
        register(body.starting() if kind == "context" else body.__call__, background=True)
    else:
        app = LifespanMiddleware(body.app() if kind == "app" else mounted(body.app()), background=True)
    server = await served(app)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


async def served(app: LifespanMiddleware, seconds: float = 1) -> RecordingServer:
    """Serve an app for so many seconds, with a lifespan that may fail."""
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lived, app, server)
        await server.started.wait()
        await anyio.sleep(seconds)
        server.may_stop.set()
    return server


# --- a stop that is cancelled ---


@pytest.mark.parametrize("kind", ["context", "function", "app", "mount"])
async def test_a_stop_that_the_shutdown_timeout_ends_cleans_up(kind: str) -> None:
    """The clean-up has a second beyond the limit."""
    body = Body()
    assert await lived(_that_hangs_at_stop(body, kind, shutdown_timeout=3)) == ["startup.complete", "shutdown.failed"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


@pytest.mark.parametrize("kind", ["context", "function", "app", "mount"])
async def test_a_stop_that_the_server_cancels_has_ten_seconds_and_then_cleans_up(kind: str) -> None:
    """The cancellation reaches the lifespan, not the units, which stop in their order."""
    body = Body()
    began = anyio.current_time()
    assert await lived(_that_hangs_at_stop(body, kind), cancel_after=2) == ["startup.complete"]
    assert body.events == ["cleaned up"]
    assert [round(at - began, 1) for at in body.cancelled_at] == [12]


def _that_hangs_at_stop(body: Body, kind: str, **options: Any) -> LifespanMiddleware:
    wrapped: Any = {"app": body.app(starts=True), "mount": mounted(body.app(starts=True))}.get(kind, Journal().app())
    app = LifespanMiddleware(wrapped, **options)
    if kind == "context":
        app.context(body.stopping())
    elif kind == "function":
        app.on_shutdown(body.__call__)
    return app


@pytest.mark.parametrize("kind", ["context", "function"])
async def test_a_stop_that_its_own_timeout_ends_cleans_up(kind: str) -> None:
    """A hook's `timeout` counts for its stop too."""
    body, app = Body(), LifespanMiddleware(Journal().app())
    if kind == "context":
        app.context(body.stopping(), timeout=2)
    else:
        app.on_shutdown(body.__call__, timeout=2)
    assert await lived(app) == ["startup.complete", "shutdown.failed"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


# --- workers ---


def working(body: Body, *hooks: Any, timeout: float | None = None, **options: Any) -> LifespanMiddleware:
    """Return an app with a worker, and `on_startup` functions after the worker."""
    app = LifespanMiddleware(Journal().app(), **options)
    app.worker(body.__call__, timeout=timeout)
    for hook in hooks:
        app.on_startup(hook)
    return app


async def test_a_worker_cleans_up_at_a_normal_shutdown() -> None:
    """The shutdown succeeds, for a worker is cancelled by design."""
    body = Body(5)
    server = await served(working(body))
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert body.events == ["cleaned up"]


async def test_a_worker_cleans_up_after_a_failed_start_and_before_the_answer() -> None:
    """What started before it is stopped after it."""
    body, journal = Body(5), Journal()
    app = LifespanMiddleware(Journal().app(), journal.context("pool"))
    app.worker(body.__call__)
    app.on_startup(fails_soon)
    assert await lived(app) == ["startup.failed"]
    assert body.events == ["cleaned up"]
    assert journal.events == ["+pool", "-pool"]


async def test_a_worker_that_the_server_cancels_cleans_up() -> None:
    """While the app serves."""
    body = Body(5)
    assert await lived(working(body), RecordingServer(holds_on=True), cancel_after=2) == ["startup.complete"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


async def test_a_worker_cleans_up_after_a_crash_elsewhere() -> None:
    """The crash leaves it alone; the shutdown, which fails, cancels it."""
    body = Body(5)
    app = working(body)
    app.context(crashes_soon)
    server = await served(app, 3)
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert body.events == ["cleaned up"]
    assert len(body.cancelled_at) == 1


async def test_a_worker_without_a_limit_has_all_the_time_at_a_normal_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    """The slow log names it, with the line at which it waits."""
    body = Body(75)
    app = working(body)
    server = await served(app)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert body.events == ["cleaned up"]
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text.split(" takes more than ")[1].split(",")[0] for text in texts] == ["10 s", "20 s", "40 s"]
    assert all(text.endswith("in _clean_up; no shutdown_timeout is set") for text in texts)


# --- clean-up that hangs ---


def _in_a_group(body: Body, *, timeout: float | None = None, **options: Any) -> LifespanMiddleware:
    app = LifespanMiddleware(Journal().app(), concurrent=True, on_startup=[fails_soon], **options)
    app.on_startup(body.__call__, timeout=timeout)
    return app


@pytest.mark.parametrize(
    ("app", "seconds", "cancel_after"),
    [
        pytest.param(lambda body: working(body, timeout=3), 3, 1e6, id="worker, own timeout"),
        pytest.param(lambda body: working(body, shutdown_timeout=4), 4, 1e6, id="worker, shutdown_timeout"),
        pytest.param(lambda body: working(body, fails_soon), 10, 1e6, id="worker, failed start"),
        pytest.param(
            lambda body: working(body, fails_soon, shutdown_timeout=4), 4, 1e6, id="worker, failed start, limit"
        ),
        pytest.param(working, 10, 2, id="worker, cancelled"),
        pytest.param(lambda body: _a_function(body, startup_timeout=3), 1, 1e6, id="startup_timeout"),
        pytest.param(lambda body: _an_app(body, startup_timeout=3), 1, 1e6, id="startup_timeout, app"),
        pytest.param(
            lambda body: _that_hangs_at_stop(body, "context", shutdown_timeout=3), 1, 1e6, id="shutdown_timeout"
        ),
        pytest.param(_in_a_group, 10, 1e6, id="sibling's failure"),
        pytest.param(lambda body: _in_a_group(body, timeout=3), 3, 1e6, id="sibling's failure, own timeout"),
        pytest.param(lambda body: _in_a_group(body, shutdown_timeout=4), 4, 1e6, id="sibling's failure, limit"),
        pytest.param(lambda body: _a_context(body, lifespan=crashes_soon), 10, 1e6, id="crash elsewhere"),
        pytest.param(_a_context, 10, 2, id="cancelled start"),
        pytest.param(lambda body: _a_context(body, shutdown_timeout=4), 4, 2, id="cancelled start, limit"),
        pytest.param(_a_mount, 10, 2, id="cancelled start, mount"),
    ],
)
async def test_clean_up_that_hangs_is_cancelled_for_good_when_its_time_is_up(
    app: Make, seconds: float, cancel_after: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own timeout counts first, then what is left of the shutdown, then ten seconds; one after a limit ran out."""
    body = Body(1e5)
    server = RecordingServer(holds_on=cancel_after < 1e6)
    with anyio.fail_after(1000):
        await lived(app(body), server, cancel_after)
    assert body.events == []
    first, second = body.cancelled_at
    assert second - first == pytest.approx(seconds, abs=0.05)
    assert "hook '" in caplog.text or "mount '" in caplog.text or "app " in caplog.text
    assert "abandoning" not in caplog.text


class Stubborn(Body):
    """A body whose clean-up takes a shield and never ends."""

    async def _clean_up(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1e3)
        self.events.append("ended")


@pytest.mark.parametrize("kind", ["context", "function", "app", "mount"])
async def test_clean_up_that_ignores_its_cancellation_is_abandoned_by_name(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A tenth of a second after it was cancelled for good; the answer does not wait longer."""
    body = Stubborn()
    began = anyio.current_time()
    assert await lived(_that_hangs_at_stop(body, kind, shutdown_timeout=3)) == ["startup.complete", "shutdown.failed"]
    assert anyio.current_time() - began == pytest.approx(3 + 1 + 0.1, abs=0.05)
    [error] = [record.getMessage() for record in caplog.records if "abandoning it" in record.getMessage()]
    assert {"context": "hook 'body'", "function": "hook ", "app": "app ", "mount": "mount '/0'"}[kind] in error
    assert "_clean_up" in error
    await anyio.sleep(1e3)
    assert body.events == ["ended"]


async def test_a_section_that_the_body_shields_is_cancelled_when_it_is_left() -> None:
    """The cancellation is neither lost nor delivered twice."""
    events: list[str] = []

    async def shields() -> None:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
                events.append("shielded")
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(1)
            events.append("cleaned up")

    app = LifespanMiddleware(Journal().app())
    app.worker(shields)
    assert await lived(app) == ["startup.complete", "shutdown.complete"]
    assert events == ["shielded", "cleaned up"]


class TestAllTasks:
    """A server that cancels every task of the loop: uvicorn at a second Ctrl-C, gunicorn's worker at SIGQUIT."""

    @pytest.fixture(params=VIRTUAL[:2])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Asyncio only."""
        return request.param()

    async def _cancelled(self, app: LifespanMiddleware, server: RecordingServer) -> None:
        before = asyncio.all_tasks()
        lifespan = asyncio.create_task(server.run(app))
        await asyncio.sleep(2)
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.wait([lifespan], timeout=100)
        assert lifespan.cancelled()

    @STARTS
    async def test_a_start_cleans_up(self, make: Make) -> None:
        """The task of the unit is cancelled natively, which delivers the cancellation once."""
        body = Body(5)
        await self._cancelled(make(body), RecordingServer())
        assert body.events == ["cleaned up"]
        assert len(body.cancelled_at) == 1

    async def test_a_worker_cleans_up(self) -> None:
        """While the app serves: what started before it is stopped after its clean-up."""
        body, events = Body(5), list[str]()

        @asynccontextmanager
        async def pool() -> AsyncIterator[None]:
            yield
            events.extend(body.events)

        app = LifespanMiddleware(Journal().app(), pool)
        app.worker(body.__call__)
        await self._cancelled(app, RecordingServer(holds_on=True))
        assert events == ["cleaned up"]
        assert len(body.cancelled_at) == 1


async def test_an_included_lifespan_cleans_up_too() -> None:
    """A worker of an included `Lifespan` in a group, at a normal shutdown."""
    body, hooks = Body(5), Lifespan()
    hooks.worker(body.__call__)
    group = Lifespan(concurrent=True)
    group.include(hooks)
    server = await served(LifespanMiddleware(Journal().app(), group))
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert body.events == ["cleaned up"]
