"""Starts that a request triggers, and the WARNING where nothing starts."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from asgiref.sync import async_to_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, StartupFailed
from tests.conftest import ONE_LOOP_IN_THE_QUICK_LOOP
from tests.plans import Boom, Journal, fails_to_start, fails_to_stop, hangs_at_start
from tests.server import RecordingServer, request


async def shows_state(request: Request) -> JSONResponse:
    """Answer with the state that the request was given."""
    return JSONResponse(request.state._state)


def started_on_request(*contexts: Any, **options: Any) -> LifespanMiddleware:
    """Return an app whose answers are the state of its requests."""
    app = Starlette(routes=[Route("/", shows_state)])
    return LifespanMiddleware(app, list(contexts), start_on_request=True, **options)


async def answer(app: LifespanMiddleware, **scope: Any) -> str:
    """Return the body of the answer to a request."""
    return "".join(message.get("body", b"").decode() for message in await request(app, **scope))


async def test_the_first_request_starts_everything(journal: Journal) -> None:
    """In the order of a lifespan, and its state reaches the request; the next one starts nothing."""
    app = started_on_request(journal.context("pool", pool=1), journal.context("cache"))
    assert await answer(app) == '{"pool":1}'
    assert app.ready
    assert await answer(app, state={"own": 2}) == '{"pool":1,"own":2}'
    assert journal.events == ["+pool", "+cache"]
    await app.stop()
    assert not app.ready
    assert journal.events == ["+pool", "+cache", "-cache", "-pool"]


async def test_fifty_requests_at_once_start_it_once(journal: Journal) -> None:
    """All wait for the one start."""
    app = started_on_request(journal.context("pool", pool=1))
    answers: list[str] = []

    async def ask() -> None:
        answers.append(await answer(app))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
    assert answers == ['{"pool":1}'] * 50
    await app.stop()
    assert journal.events == ["+pool", "-pool"]


async def test_after_a_stop_the_next_request_starts_anew(journal: Journal) -> None:
    """A second stop, and one before any request, do nothing."""
    app = started_on_request(journal.context("pool"))
    await app.stop()
    for _ in range(2):
        await answer(app)
        await app.stop()
        await app.stop()
    assert journal.events == ["+pool", "-pool"] * 2


def slow_to_stop(starts: list[int], stopping: anyio.Event, may_stop: anyio.Event) -> Any:
    """Return a context whose state is the number of its start, and which waits when it is left."""

    @asynccontextmanager
    async def context() -> AsyncIterator[dict[str, int]]:
        starts.append(len(starts) + 1)
        yield {"start": len(starts)}
        stopping.set()
        await may_stop.wait()

    return context


async def test_a_request_that_comes_during_a_stop_waits_for_it_and_starts_anew() -> None:
    """It sees the new state; a lifespan that comes then starts anew too."""
    starts: list[int] = []
    stopping, may_stop, answers = anyio.Event(), anyio.Event(), list[str]()
    app = started_on_request(slow_to_stop(starts, stopping, may_stop))

    async def ask() -> None:
        answers.append(await answer(app))

    assert await answer(app) == '{"start":1}'
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app.stop)
        await stopping.wait()
        for _ in range(2):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert (starts, answers) == ([1], [])
        may_stop.set()
    assert (starts, answers) == ([1, 2], ['{"start":2}'] * 2)
    await app.stop()


async def test_a_lifespan_that_comes_during_a_stop_starts_anew() -> None:
    """When the stop is over."""
    starts: list[int] = []
    stopping, may_stop = anyio.Event(), anyio.Event()
    app = started_on_request(slow_to_stop(starts, stopping, may_stop))
    await answer(app)
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app.stop)
        await stopping.wait()
        tasks.start_soon(server.run, app)
        await anyio.wait_all_tasks_blocked()
        assert server.answers == []
        may_stop.set()
        await server.started.wait()
        assert server.state == {"start": 2}
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]


async def test_a_stop_leaves_what_a_later_lifespan_holds_to_the_server(journal: Journal) -> None:
    """The server would go on with requests after its startup was answered."""
    app = started_on_request(journal.context("pool", pool=1))
    await answer(app)
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        await app.stop()
        assert await answer(app) == '{"pool":1}'
        assert journal.events == ["+pool"]
        server.may_stop.set()
    assert journal.events == ["+pool", "-pool"]


async def test_a_start_that_fails_raises_in_each_request_and_is_tried_again() -> None:
    """A database that comes up later is found by the next request."""
    attempts: list[int] = []

    @asynccontextmanager
    async def fails_once() -> AsyncIterator[dict[str, int]]:
        attempts.append(1)
        await anyio.lowlevel.checkpoint()
        if len(attempts) == 1:
            raise Boom("no database")
        yield {"attempts": len(attempts)}

    app = started_on_request(fails_once)
    errors: list[BaseException] = []

    async def ask() -> None:
        try:
            await answer(app)
        except (Boom, StartupFailed) as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)
    [original] = [error for error in errors if isinstance(error, Boom)]
    waited = [error for error in errors if isinstance(error, StartupFailed)]
    assert [error.__cause__ for error in waited] == [original, original]
    assert waited[0] is not waited[1]
    assert str(waited[0]) == "startup failed in start on request: tests.plans.Boom: no database"
    assert await answer(app) == '{"attempts":2}'
    await app.stop()


@ONE_LOOP_IN_THE_QUICK_LOOP
async def test_a_failed_start_gives_each_of_500_requests_an_exception_of_its_own() -> None:
    """What the last one raises is as long as that of the first, and knows of no other request."""

    @asynccontextmanager
    async def fails() -> AsyncIterator[None]:
        await anyio.sleep(0.01)
        raise Boom("no database")
        yield  # pragma: no cover - it makes a generator of it

    app = started_on_request(fails)
    raised: list[tuple[BaseException, int]] = []

    async def ask() -> None:
        try:
            await answer(app)
        except (Boom, StartupFailed) as error:
            raised.append((error, len(traceback.extract_tb(error.__traceback__))))

    async with anyio.create_task_group() as tasks:
        for _ in range(500):
            tasks.start_soon(ask)
    [(original, frames)] = [(error, frames) for error, frames in raised if isinstance(error, Boom)]
    assert original.__context__ is None
    assert len(traceback.extract_tb(original.__traceback__)) == frames
    waited = [(error, frames) for error, frames in raised if isinstance(error, StartupFailed)]
    assert len({id(error) for error, _ in waited}) == 499
    assert {(error.__cause__, error.__context__) for error, _ in waited} == {(original, None)}
    assert len({frames for _, frames in waited}) == 1, "each traceback is longer than the one before"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_start_whose_task_is_cancelled_before_a_lifespan_arrives_fails_that_lifespan(journal: Journal) -> None:
    """By a plain `Task.cancel()`, as some servers do: the lifespan is answered, and its own task is not cancelled."""
    is_waiting = anyio.Event()

    async def waits() -> None:
        is_waiting.set()
        await anyio.sleep_forever()

    app = started_on_request(journal.context("pool"))
    hook = app.on_startup(waits)
    first = asyncio.ensure_future(answer(app))
    await is_waiting.wait()
    cancel_the_start()
    server = RecordingServer()
    with pytest.raises(StartupFailed, match="start on request: it was cancelled"):
        await server.run(app)
    assert server.answers == ["startup.failed"]
    with pytest.raises(StartupFailed, match="start on request: it was cancelled"):
        await first
    assert journal.events == ["+pool", "-pool"]
    with app.override(hook, lambda: None):
        assert await answer(app) == "{}"
        await app.stop()
    assert journal.events == ["+pool", "-pool"] * 2


def cancel_the_start() -> None:
    """Cancel the task of a start on request."""
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "start on request"]
    task.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("turns", [1, 2, 5, 10, 20])
async def test_a_lifespan_that_arrives_after_a_cancelled_start_has_an_app_that_is_up(
    turns: int, journal: Journal
) -> None:
    """The task is cancelled while it serves, and the lifespan comes while everything stops, or after that."""
    app = started_on_request(journal.context("pool", pool=1))
    await answer(app)
    cancel_the_start()
    for _ in range(turns):
        await asyncio.sleep(0)
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        await anyio.wait_all_tasks_blocked()
        assert journal.events == ["+pool", "-pool", "+pool"]
        assert await answer(app) == '{"pool":1}'
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert journal.events == ["+pool", "-pool"] * 2


async def test_after_a_lifespan_that_failed_a_request_starts_anew() -> None:
    """A server that goes on after a failed startup sends requests, and each would find nothing open."""
    attempts: list[int] = []

    @asynccontextmanager
    async def fails_once() -> AsyncIterator[dict[str, int]]:
        attempts.append(1)
        if len(attempts) == 1:
            raise Boom("no database")
        yield {"attempts": len(attempts)}

    app, server = started_on_request(fails_once), RecordingServer()
    with pytest.raises(Boom):
        await server.run(app)
    assert server.answers == ["startup.failed"]
    assert await answer(app) == '{"attempts":2}'
    assert await answer(app) == '{"attempts":2}'
    await app.stop()


async def test_a_request_that_is_cancelled_leaves_the_start_to_the_others(journal: Journal) -> None:
    """The start has a task of its own."""
    may_start = anyio.Event()

    @asynccontextmanager
    async def waits() -> AsyncIterator[dict[str, int]]:
        await may_start.wait()
        yield {"pool": 1}

    app = started_on_request(waits, journal.context("cache"))
    with anyio.move_on_after(0.01) as limit:
        await answer(app)
    assert limit.cancelled_caught
    may_start.set()
    assert await answer(app) == '{"pool":1}'
    await app.stop()
    assert journal.events == ["+cache", "-cache"]


async def test_what_fails_at_the_stop_is_raised_by_stop() -> None:
    """The next request starts anew all the same."""
    app = started_on_request(fails_to_stop)
    await answer(app)
    with pytest.raises(Boom):
        await app.stop()
    assert await answer(app) == "{}"
    with pytest.raises(Boom):
        await app.stop()


NAME: ContextVar[str] = ContextVar("NAME", default="nobody")


async def test_hooks_do_not_see_the_context_variables_of_the_first_request() -> None:
    """They serve all requests."""
    seen: list[str] = []
    app = started_on_request()
    app.on_startup(lambda: seen.append(NAME.get()))
    NAME.set("visitor")
    await answer(app)
    await app.stop()
    assert seen == ["nobody"]


async def test_a_lifespan_that_comes_later_starts_nothing_twice(journal: Journal) -> None:
    """It is given the state, and its shutdown stops everything."""
    app = started_on_request(journal.context("pool", pool=1))
    await answer(app)
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        assert server.state == {"pool": 1}
        assert await answer(app) == '{"pool":1}'
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert journal.events == ["+pool", "-pool"]
    assert await answer(app) == "{}"
    assert journal.events == ["+pool", "-pool"]


async def test_a_lifespan_that_comes_later_is_told_what_fails() -> None:
    """A start that fails while it waits, and a stop."""

    @asynccontextmanager
    async def fails_soon() -> AsyncIterator[None]:
        await anyio.sleep(0.01)
        raise Boom("no start")
        yield  # pragma: no cover - it makes a generator of it

    async def ask(app: LifespanMiddleware) -> None:
        with suppress(Boom):
            await answer(app)

    starting, server = started_on_request(fails_soon), RecordingServer()
    with pytest.raises(ExceptionGroup) as raised:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, starting)
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(server.run, starting)
    assert raised.group_contains(Boom)
    assert server.answers == ["startup.failed"]

    stopping, server = started_on_request(fails_to_stop), RecordingServer()
    await answer(stopping)
    with pytest.raises(Boom):
        await server.run(stopping)
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert "no stop" in server.sent[-1]["message"]


async def test_a_later_lifespan_that_is_cancelled_stops_everything(journal: Journal) -> None:
    """In order, before the cancellation is raised."""
    app = started_on_request(journal.context("pool"), journal.context("cache"))
    await answer(app)
    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        tasks.cancel_scope.cancel()
    assert journal.events == ["+pool", "+cache", "-cache", "-pool"]


async def test_where_a_lifespan_came_first_requests_start_nothing(journal: Journal) -> None:
    """Neither while it is on nor after it."""
    app = started_on_request(journal.context("pool", pool=1))
    async with LifespanManager(app) as manager:
        assert await answer(manager.app) == '{"pool":1}'  # type: ignore[arg-type]
    assert await answer(app) == "{}"
    assert journal.events == ["+pool", "-pool"]


async def test_an_app_without_lifespan_and_without_hooks_just_answers() -> None:
    """There is nothing to start; it is not asked at each request."""
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["type"])
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    wrapped = LifespanMiddleware(app, start_on_request=True)
    assert [await answer(wrapped), await answer(wrapped)] == ["hello", "hello"]
    await wrapped.stop()
    assert asked == ["lifespan", "http", "http"]


def test_the_end_of_asyncio_run_stops_everything_in_order(journal: Journal) -> None:
    """It cancels all tasks, ours and those of the units."""
    app = started_on_request(journal.context("pool"), journal.context("cache"))
    asyncio.run(answer(app))
    assert journal.events == ["+pool", "+cache", "-cache", "-pool"]


def test_each_event_loop_starts_anew(journal: Journal) -> None:
    """As `async_to_sync` makes one for each request."""
    app = started_on_request(journal.context("pool", pool=1))
    assert [async_to_sync(answer)(app) for _ in range(2)] == ['{"pool":1}'] * 2
    assert journal.events == ["+pool", "-pool"] * 2


def test_the_end_of_a_loop_while_it_starts_ends_the_start() -> None:
    """A request that is given up with its loop leaves nothing behind."""
    app = started_on_request(hangs_at_start)

    async def give_up() -> None:
        with anyio.move_on_after(0.01):
            await answer(app)

    asyncio.run(give_up())

    async def is_cancelled_with_the_start() -> None:
        asking = asyncio.ensure_future(answer(app))
        while "start on request" not in {task.get_name() for task in asyncio.all_tasks()}:
            await asyncio.sleep(0)
        [start] = [task for task in asyncio.all_tasks() if task.get_name() == "start on request"]
        await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(Exception, match="it was cancelled"):
            await asking

    asyncio.run(is_cancelled_with_the_start())


async def test_a_request_that_was_called_before_a_lifespan_starts_nothing_after_it(journal: Journal) -> None:
    """The coroutine is awaited later."""
    app = started_on_request(journal.context("pool"))
    pending = answer_later(app)
    await RecordingServer().run(app)
    await pending
    assert journal.events == ["+pool", "-pool"]


def answer_later(app: LifespanMiddleware) -> Any:
    """Call an app with a request, and return its coroutine."""

    async def send(message: Any) -> None: ...

    async def receive() -> Any: ...  # pragma: no cover - the app does not ask

    return app({"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}, receive, send)


async def test_a_hook_may_send_a_request_to_its_own_app(journal: Journal) -> None:
    """It warms something up; the request does not wait for the hook."""
    app = started_on_request(journal.context("pool", pool=1))
    seen: list[str] = []

    async def warms_up() -> None:
        seen.append(await answer(app))

    app.on_startup(warms_up)
    with anyio.fail_after(60):
        assert await answer(app) == '{"pool":1}'
    assert seen == ["{}"]
    await app.stop()


def test_a_loop_that_is_closed_without_a_stop_is_forgotten(journal: Journal) -> None:
    """When the next one starts."""
    app = started_on_request(journal.context("pool", pool=1))
    closed, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    for loop in (closed, other):
        loop.run_until_complete(answer(app))
    closed.close()
    assert app._starts is not None
    assert set(app._starts._in_loop) == {closed, other}
    assert async_to_sync(answer)(app) == '{"pool":1}'
    assert list(app._starts._in_loop) == [other]
    other.run_until_complete(app.stop())
    other.close()


def test_a_request_in_a_new_loop_sees_nothing_of_a_closed_one(journal: Journal) -> None:
    """The loop ended without a shutdown, so what had started there is lost."""
    app = LifespanMiddleware(Starlette(routes=[Route("/", shows_state)]), journal.context("pool", pool=1))
    closed, server = asyncio.new_event_loop(), RecordingServer(holds_on=True)
    del server.scope["state"]

    async def serve() -> str:
        tasks.append(asyncio.ensure_future(server.run(app)))
        await server.started.wait()
        return await answer(app)

    tasks: list[asyncio.Future[None]] = []
    assert closed.run_until_complete(serve()) == '{"pool":1}'
    closed.close()
    assert asyncio.run(answer(app)) == "{}"


async def test_a_stop_where_nothing_starts_on_request_does_nothing() -> None:
    """As where no request came."""
    await LifespanMiddleware(Starlette()).stop()


def test_a_request_may_be_called_before_its_loop_runs(journal: Journal) -> None:
    """`asyncio.run(app(...))`."""
    app = started_on_request(journal.context("pool"))

    async def call(message: Any = None) -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    asyncio.run(app(scope, call, call))  # type: ignore[arg-type]
    assert journal.events == ["+pool", "-pool"]


@pytest.mark.parametrize("flag", [1, "yes", None])
def test_start_on_request_is_true_or_false(flag: Any) -> None:
    """Anything else is a mistake."""
    with pytest.raises(TypeError, match=r"start_on_request=\.\.\.\) got .*, expected True or False"):
        LifespanMiddleware(Starlette(), start_on_request=flag)


# --- the WARNING ---


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about requests without a lifespan."""
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in messages if "no lifespan reached" in message]


async def test_a_request_without_a_lifespan_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what waits to be started, and what to do."""
    app = LifespanMiddleware(Starlette(routes=[Mount("/sub", Starlette())]), on_startup=[lambda: None])
    await request(app)
    await request(app, state={})
    [warning] = warnings_of(caplog)
    assert "app Starlette before the first request; 1 hook and 1 mount have not started" in warning
    assert "start_on_request=True" in warning


@pytest.mark.parametrize("kind", ["hook", "mount"])
async def test_either_is_enough_for_the_warning(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A WebSocket is a request too."""
    routes = [Mount("/sub", Starlette())] if kind == "mount" else []
    app = LifespanMiddleware(Starlette(routes=routes), on_startup=[lambda: None] if kind == "hook" else [])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}  # pragma: no cover - Starlette does not ask

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/x", "headers": [], "query_string": b""}, receive, send)
    assert len(warnings_of(caplog)) == 1
    assert sent[0]["type"] == "websocket.close"


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(LifespanMiddleware(Starlette()), id="nothing to start"),
        pytest.param(LifespanMiddleware(Starlette(routes=[Mount("/sub", Starlette())]), mounts="off"), id="mounts off"),
    ],
)
async def test_where_nothing_waits_there_is_no_warning(
    app: LifespanMiddleware, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests just pass."""
    await request(app)
    assert warnings_of(caplog) == []


async def test_after_a_lifespan_there_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever the middleware stands: around an app, inside it, in a mount."""
    mounted = LifespanMiddleware(Starlette(), on_startup=[lambda: None])
    inside = Starlette(routes=[Mount("/mounted", mounted)])
    inside.add_middleware(LifespanMiddleware, lifespan=Lifespan(on_startup=[lambda: None]))
    app = LifespanMiddleware(inside)
    async with LifespanManager(app):
        await request(app)
        await request(app, path="/mounted/")
    await request(app)
    assert warnings_of(caplog) == []


async def test_a_start_on_request_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing waits for a lifespan."""
    app = started_on_request(fails_to_start)
    with pytest.raises(Boom):
        await request(app)
    assert warnings_of(caplog) == []
