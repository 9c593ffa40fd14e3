"""The middleware between a server and an app: answers, requests, bad input."""

import asyncio
import inspect
import json
import logging
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from asgi_lifespan_mw import Isolated, LifespanManager, LifespanMiddleware, LifespanNotSupported, ProtocolViolation
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.plans import Boom, Journal, fails_to_start, fails_to_stop, hangs_at_start, hangs_at_stop
from tests.server import RecordingServer, request


class ServerError(Exception):
    """What the server's `send` raises."""


class RaisesFromSend(RecordingServer):
    """A server whose `send` raises at one message, as hypercorn's does at each failure."""

    def __init__(self, at: str, **options: Any) -> None:
        super().__init__(**options)
        self.at = at

    async def send(self, message: dict[str, Any]) -> None:
        """Keep the message, or raise."""
        await super().send(message)
        if message["type"] == f"lifespan.{self.at}":
            raise ServerError(self.at)


# What the server is told.


async def test_it_receives_before_it_sends(journal: Journal) -> None:
    """Mangum and others refuse an answer that comes before the question."""

    class Server(RecordingServer):
        async def receive(self) -> dict[str, Any]:
            journal.events.append("receive")
            return await super().receive()

        async def send(self, message: dict[str, Any]) -> None:
            journal.server_send(message)

    await Server().run(LifespanMiddleware(journal.app()))
    assert journal.events == ["receive", "+app", "startup.complete", "receive", "-app", "shutdown.complete"]


async def test_a_failed_hook_is_named_with_file_line_and_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in the morning: who, where, why, in the one message that the server prints."""
    monkeypatch.setattr(logging.getLogger("asgi_lifespan_mw"), "propagate", False)  # else the log has the traceback
    server = RecordingServer()
    with pytest.raises(Boom):
        await server.run(LifespanMiddleware(Journal().app(), fails_to_start))
    (message,) = [one["message"] for one in server.sent]
    assert message.startswith("startup failed in hook 'fails_to_start' (tests/plans.py:")
    assert "Boom: no start\n\nTraceback (most recent call last):\n" in message
    first_frame = message.split("Traceback (most recent call last):\n")[1].splitlines()[0]
    assert "plans.py" in first_frame


@pytest.mark.parametrize("hook", [fails_to_start, fails_to_stop])
async def test_the_error_of_the_servers_send_wins(hook: Any) -> None:
    """Hypercorn refuses to serve only if its own error comes out; ours is its context."""
    at = "startup.failed" if hook is fails_to_start else "shutdown.failed"
    server = RaisesFromSend(at)
    with pytest.raises(ServerError) as raised:
        await server.run(LifespanMiddleware(Journal().app(), hook))
    assert isinstance(raised.value.__context__, Boom)
    assert server.answers.count(at) == 1


async def test_an_error_of_send_at_the_success_stops_everything(journal: Journal) -> None:
    """The server is broken: everything is stopped, nothing more is sent, its error comes out."""
    server = RaisesFromSend("startup.complete")
    with pytest.raises(ServerError):
        await server.run(LifespanMiddleware(journal.app(), journal.context("a")))
    assert journal.events == ["+a", "+app", "-app", "-a"]
    assert server.answers == ["startup.complete"]


async def test_an_error_of_send_at_the_end_comes_out(journal: Journal) -> None:
    """Everything is stopped by then, and no second answer is tried."""
    server = RaisesFromSend("shutdown.complete")
    with pytest.raises(ServerError):
        await server.run(LifespanMiddleware(journal.app()))
    assert server.answers == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize("wrong", ["first", "second"])
async def test_a_server_that_sends_something_else_is_told(wrong: str, journal: Journal) -> None:
    """Nothing is guessed; what had started is stopped."""

    class SendsTheWrongMessage(RecordingServer):
        async def receive(self) -> dict[str, Any]:
            message = await super().receive()
            return {"type": "lifespan.pause"} if self._received == (1 if wrong == "first" else 2) else message

    server = SendsTheWrongMessage()
    with pytest.raises(ProtocolViolation, match=r"the server sent 'lifespan\.pause' while"):
        await server.run(LifespanMiddleware(journal.app()))
    assert journal.events in ([], ["+app", "-app"])


async def test_a_scope_needs_neither_state_nor_asgi() -> None:
    """The apps get both all the same."""
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)
        await Journal().app()(scope, receive, send)

    server = RecordingServer()
    del server.scope["state"], server.scope["asgi"]
    await server.run(LifespanMiddleware(app))
    assert seen["state"] == {}
    assert seen["asgi"]["version"] == "3.0"
    assert server.answers == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize(("state", "found"), [(None, "None"), ([], "of type 'list'")])
@pytest.mark.parametrize("on_request", [False, True])
async def test_a_state_that_cannot_be_filled_is_refused(state: Any, found: str, on_request: bool) -> None:
    """The server is answered, and told what it did."""
    server = RecordingServer(state=state)
    with pytest.raises(ProtocolViolation) as raised:
        await server.run(LifespanMiddleware(Journal().app(), start_on_request=on_request))
    assert str(raised.value) == f"the server sent state {found} while idle; expected a dict, or no state"
    assert server.sent == [{"type": "lifespan.startup.failed", "message": str(raised.value)}]


class PlainMapping(MutableMapping[str, Any]):
    """A state that is nothing but a `MutableMapping`: no `copy()`, no `|`, not a dict."""

    def __init__(self, **found: Any) -> None:
        self._items = found

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._items[key] = value

    def __delitem__(self, key: str) -> None:
        del self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("concurrent", "on_request"), [(False, False), (True, False), (False, True)])
async def test_any_mutable_mapping_will_do_as_the_servers_state(*, concurrent: bool, on_request: bool) -> None:
    """Hooks, the app and its mounts, isolated or not, fill it, and requests get it."""
    isolated = Starlette(lifespan=yields(own=3), routes=[Route("/", shows_state)])
    routes = [Mount("/sub", Starlette(lifespan=yields(sub=2))), Mount("/own", Isolated(isolated))]
    app = LifespanMiddleware(
        Starlette(lifespan=yields(app=1), routes=[*routes, Route("/", shows_state)]),
        yields(hook=0),
        concurrent=concurrent,
        start_on_request=on_request,
    )
    app.context(background=True)(yields(late=4))
    server = RecordingServer(state=PlainMapping(server="own"), holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, app)
        await server.started.wait()
        await anyio.wait_all_tasks_blocked()
        found = {"server": "own", "hook": 0, "app": 1, "sub": 2}
        assert dict(server.scope["state"]).items() >= found.items()
        given: dict[str, Any] = {"state": PlainMapping(**server.scope["state"])}
        assert len(given["state"]) == len(dict(given["state"]))
        for state in ({}, given):
            _, body = await request(app, "/", **state)
            assert json.loads(body["body"]).items() >= {**found, "late": 4}.items()
            _, body = await request(app, "/own/", **state)
            assert json.loads(body["body"]).items() >= {"own": 3}.items()
        server.may_stop.set()
    assert server.answers == ["startup.complete", "shutdown.complete"]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_failed_startup_restores_any_mutable_mapping() -> None:
    """The server finds in it what it had put there."""
    server = RecordingServer(state=PlainMapping(server="own", hook="own"))
    with pytest.raises(Boom):
        await server.run(LifespanMiddleware(Starlette(), [yields(hook=0, more=1), fails_to_start]))
    assert dict(server.scope["state"]) == {"server": "own", "hook": "own"}


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_one_scope_object_may_serve_two_lifespans(journal: Journal) -> None:
    """A server that keeps it, and a test: what the first run put into the state may be set anew in the second."""
    sub, own = (Starlette(lifespan=yields(**{name: object()})) for name in ("sub", "own"))
    app = LifespanMiddleware(
        Starlette(lifespan=yields(app=object()), routes=[Mount("/sub", sub), Mount("/own", Isolated(own))]),
        [yields(hook=object()), journal.context("pool", pool=object())],
    )
    server = RecordingServer()
    first, again = server.scope.copy(), RecordingServer()
    again.scope = server.scope
    for one in (server, again):
        await one.run(app)
        assert one.answers == ["startup.complete", "shutdown.complete"]
        assert server.scope == first
        assert set(one.state) == {"hook", "pool", "app", "sub"}
    assert journal.events == ["+pool", "-pool"] * 2
    other = RecordingServer()
    other.scope = server.scope
    await other.run(LifespanMiddleware(journal.app("other"), yields(hook=object())))
    assert other.answers == ["startup.complete", "shutdown.complete"]


def yields(**state: Any) -> Any:
    """Return a lifespan with this state."""

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[dict[str, Any]]:
        yield state

    return lifespan


async def shows_state(request: Request) -> JSONResponse:
    """Answer with the state that the request was given."""
    return JSONResponse(dict(request.scope["state"]))


async def test_the_wrapped_app_gets_the_servers_own_state_dict() -> None:
    """What it adds later is seen where the server looks at the live dict."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"])
        await Journal().app()(scope, receive, send)

    server = RecordingServer()
    await server.run(LifespanMiddleware(app))
    assert seen[0] is server.state


async def test_a_server_that_clears_the_state_before_the_shutdown_does_no_harm(journal: Journal) -> None:
    """Granian does: nothing is read from the state at shutdown."""

    class ClearsState(RecordingServer):
        async def receive(self) -> dict[str, Any]:
            message = await super().receive()
            if message["type"] == "lifespan.shutdown":
                self.state.clear()
            return message

    server = ClearsState()
    await server.run(LifespanMiddleware(journal.app(), journal.context("a", db=1)))
    assert journal.events == ["+a", "+app", "-app", "-a"]


# Runs.


async def test_the_same_instance_can_be_run_again(journal: Journal) -> None:
    """Nothing of one run is left for the next."""
    app = LifespanMiddleware(journal.app(), journal.context("a"))
    for _ in range(2):
        server = RecordingServer()
        await server.run(app)
        assert server.answers == ["startup.complete", "shutdown.complete"]
    assert journal.events == ["+a", "+app", "-app", "-a"] * 2


async def test_the_same_instance_can_run_in_two_threads_at_once(journal: Journal) -> None:
    """All that belongs to a run is in the call."""
    app = LifespanMiddleware(journal.app(), journal.context("a"))

    async def serve() -> list[str]:
        server = RecordingServer()
        await server.run(app)
        return server.answers

    here = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.run, app)
        await here.started.wait()
        answers = await anyio.to_thread.run_sync(lambda: anyio.run(serve))
        assert answers == ["startup.complete", "shutdown.complete"]
        here.may_stop.set()
    assert here.answers == ["startup.complete", "shutdown.complete"]


async def test_a_hook_sees_the_framework_app_or_else_the_wrapped_one() -> None:
    """`scope["app"]` where a framework sets it: we are one of its middlewares then."""
    seen: list[object] = []
    inner = Journal().app()
    scopes: list[dict[str, Any]] = [{}, {"app": "the framework's"}]
    for scope in scopes:
        await RecordingServer(**scope).run(LifespanMiddleware(inner, on_startup=[seen.append]))
    assert seen == [inner, "the framework's"]


@pytest.mark.parametrize("at", ["starting", "serving", "stopping"])
def test_an_event_loop_that_is_closed_under_us_is_left_in_peace(at: str) -> None:
    """A server that goes without a word: our coroutines are closed, and await nothing any more."""
    server = RecordingServer(holds_on=at != "stopping")
    hook = hangs_at_stop if at == "stopping" else hangs_at_start if at == "starting" else fails_to_stop
    loop = asyncio.new_event_loop()
    task = loop.create_task(server.run(LifespanMiddleware(Journal().app(), hook)))
    for _ in range(50):
        loop.run_until_complete(asyncio.sleep(0))
    assert server.answers == ([] if at == "starting" else ["startup.complete"])
    others = [one.get_coro() for one in asyncio.all_tasks(loop)]
    loop.close()
    for coroutine in others:
        assert coroutine is not None
        # What the garbage collector does. "coroutine ignored GeneratorExit" would be raised by one that awaits more.
        try:
            coroutine.close()
        except RuntimeError as error:
            assert "no running event loop" in str(error)
    task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_the_hooks_of_a_mounted_middleware_see_their_own_app() -> None:
    """What a framework puts into its lifespan scope is not for the apps that are mounted in it."""
    seen: list[object] = []
    sub = Starlette()
    app = Starlette(routes=[Mount("/sub", LifespanMiddleware(sub, on_startup=[seen.append]))])
    app.add_middleware(LifespanMiddleware)
    await RecordingServer().run(app)
    assert seen == [sub]


def test_a_test_client_may_be_entered_again() -> None:
    """Starlette's keeps the state of its last run, and gives it to the next."""

    @asynccontextmanager
    async def opens(app: object) -> AsyncIterator[dict[str, object]]:
        yield {"db": object()}

    client = TestClient(LifespanMiddleware(Starlette(), opens))
    for _ in range(2):
        with client:
            assert client.get("/").status_code == 404


async def test_the_end_of_one_run_leaves_another_ones_state_to_requests() -> None:
    """Of two runs that are on, the one that was answered last counts; when it is over, the other one does."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Journal().app()(scope, receive, send)
        else:
            seen.append(scope["state"]["run"])

    runs = iter((1, 2))

    @asynccontextmanager
    async def numbers(app: object) -> AsyncIterator[dict[str, int]]:
        yield {"run": next(runs)}

    wrapped = LifespanMiddleware(app, numbers)
    servers = [RecordingServer(holds_on=True), RecordingServer(holds_on=True)]
    async with anyio.create_task_group() as tasks:
        for server in servers:
            del server.scope["state"]
            tasks.start_soon(server.run, wrapped)
            await server.started.wait()
        await request(wrapped)
        servers[1].may_stop.set()
        await anyio.wait_all_tasks_blocked()
        await request(wrapped)
        servers[0].may_stop.set()
    assert seen == [2, 1]


async def test_an_app_that_refused_once_may_be_mounted(journal: Journal) -> None:
    """Nothing is kept of a run that came to nothing."""

    class RefusesAtFirst:
        asked = 0

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            self.asked += 1
            if scope["type"] == "lifespan" and self.asked == 1:
                raise Boom
            await journal.app()(scope, receive, send)

    app = RefusesAtFirst()

    manager = LifespanManager(app)

    async def drives_it() -> None:
        with pytest.raises(LifespanNotSupported):
            await manager.__aenter__()

    routes = [Mount("/sub", app)]
    await RecordingServer().run(LifespanMiddleware(Starlette(routes=routes), on_startup=[drives_it]))
    assert journal.events == ["+app", "-app"]


class UnreadableError(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("str broke")


async def test_an_error_that_cannot_be_shown_is_answered_all_the_same() -> None:
    """The server is told, and the error itself comes out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise UnreadableError

    server = RecordingServer()
    with pytest.raises(UnreadableError):
        await server.run(LifespanMiddleware(app))
    assert "UnreadableError" in server.sent[0]["message"]


# Requests.


class KeepsAwaitables:
    """An app that keeps what it returned."""

    def __init__(self) -> None:
        self.returned: list[Awaitable[None]] = []
        self.got: list[tuple[Any, Any, Any]] = []

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        self.got.append((scope, receive, send))
        self.returned.append(self._answer())
        return self.returned[-1]

    async def _answer(self) -> None:
        await anyio.sleep(0)


async def test_a_request_is_passed_on_as_it_is() -> None:
    """The very scope, the very `receive`, the very `send`."""
    app = KeepsAwaitables()
    scope: Any = {"type": "http", "state": {}}
    receive: Any = object()
    send: Any = object()
    await LifespanMiddleware(app)(scope, receive, send)
    assert app.got[0][0] is scope
    assert app.got[0][1:] == (receive, send)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.11 has no mark for such a function")
@pytest.mark.parametrize("wrap", [LifespanMiddleware, Isolated])
async def test_a_request_gets_the_apps_own_awaitable(wrap: Any) -> None:  # pragma: no cover before 3.12
    """No frame of ours, no cost per await: the object that the wrapped app returned is returned."""
    app = KeepsAwaitables()
    awaitable = wrap(app)({"type": "http", "state": {}}, None, None)
    assert awaitable is app.returned[0]
    await awaitable


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.11 has no mark for such a function")
async def test_a_requests_traceback_does_not_show_us() -> None:  # pragma: no cover before 3.12
    """What an app raises in a request has its own frames alone, and those of the caller."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise Boom

    with pytest.raises(Boom) as raised:
        await request(LifespanMiddleware(app))
    files = [frame.filename for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert not [file for file in files if "asgi_lifespan_mw" in file.replace("\\", "/").split("/")[-2]]


def test_the_call_is_what_servers_look_for() -> None:
    """Three plain parameters, a coroutine function: uvicorn probes for factories, daphne calls by keyword."""
    app = LifespanMiddleware(Journal().app())
    for instance in (app, Isolated(app)):
        parameters = inspect.signature(instance).parameters
        assert list(parameters) == ["scope", "receive", "send"]
        assert {(one.kind, one.default) for one in parameters.values()} == {
            (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty)
        }
        assert inspect.iscoroutinefunction(instance.__call__)
        with pytest.raises(TypeError):
            instance()  # type: ignore[call-arg, unused-awaitable]


async def test_requests_get_a_copy_of_the_state_where_the_server_has_none() -> None:
    """Daphne and httpx have no state: a shallow copy for each request, until the run is over."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await Journal().app()(scope, receive, send)
        else:
            seen.append(scope.get("state") and scope["state"].copy())
            scope.get("state", {})["mine"] = True

    pool = object()

    @asynccontextmanager
    async def opens_a_pool() -> AsyncIterator[dict[str, object]]:
        yield {"pool": pool}

    wrapped = LifespanMiddleware(app, opens_a_pool)
    server = RecordingServer(holds_on=True)
    del server.scope["state"]
    await request(wrapped)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, wrapped)
        await server.started.wait()
        await request(wrapped)
        await request(wrapped, state={"server": 1})
        await request(wrapped)
        server.may_stop.set()
    await request(wrapped)
    assert seen[0] is None
    assert seen[1] == {"pool": pool}
    assert seen[2] == {"server": 1}
    assert seen[3] == {"pool": pool}
    assert seen[4] is None


async def test_unknown_scope_types_go_straight_through() -> None:
    """What comes after HTTP and WebSocket is the app's business."""
    app = KeepsAwaitables()
    unused: Any = None
    await LifespanMiddleware(app)({"type": "webtransport"}, unused, unused)
    assert app.got[0][0] == {"type": "webtransport"}


# Bad input.


class AnApp:
    """A class, where an instance belongs."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an app."""


BAD_INPUT: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"app": AnApp}, TypeError, "class AnApp.*give an instance.*guarantee_single_callable"),
    ({"app": None}, TypeError, "can't be called.*guarantee_single_callable"),
    ({"mounts": "all"}, ValueError, "'all', expected 'auto', 'off' or a sequence"),
    ({"mounts": AnApp()}, TypeError, "expected 'auto', 'off' or a sequence"),
    ({"exclude": AnApp()}, TypeError, "exclude.*expected a sequence of apps"),
    ({"startup_timeout": 0}, ValueError, "startup_timeout.*more than 0 seconds"),
    ({"shutdown_timeout": "5"}, TypeError, "shutdown_timeout.*a number"),
    ({"on_crash": "die"}, ValueError, "expected 'log', 'stop' or a plain function"),
    ({"on_crash": request}, TypeError, "expected 'log', 'stop' or a plain function"),
    ({"startup": []}, TypeError, "unexpected keyword argument"),
    ({"lifespan": "app.lifespan"}, TypeError, "lifespan', expected a Lifespan"),
]


@pytest.mark.parametrize(("given", "error", "text"), BAD_INPUT, ids=lambda value: str(value)[:30])
def test_bad_input_is_refused_at_construction(given: dict[str, Any], error: type[Exception], text: str) -> None:
    """What was given, what was expected, what to do, before anything runs."""
    with pytest.raises(error, match=text):
        LifespanMiddleware(**{"app": AnApp(), **given})


async def test_an_override_leaves_a_mounted_app_out(journal: Journal) -> None:
    """At any depth, for the time of a `with`, also after an error; what is mounted in it is left out too."""
    inner = Starlette(routes=[Mount("/deep", journal.app("deep"))])
    app = LifespanMiddleware(Starlette(routes=[Mount("/a", journal.app("a")), Mount("/b", inner), Mount("/c", inner)]))
    deep = inner.routes[0].app  # type: ignore[attr-defined]
    with pytest.raises(Boom), app.override(inner, None), app.override(inner, None):
        await RecordingServer().run(app)
        raise Boom
    with app.override(deep, None):
        await RecordingServer().run(app)
    await RecordingServer().run(app)
    assert journal.events == ["+a", "-a", "+a", "-a", "+a", "+deep", "-deep", "-a"]


def test_an_override_of_what_is_not_mounted_is_a_lookup_error(journal: Journal) -> None:
    """So is a replacement of a mounted app, which is no hook."""
    mounted, other = journal.app("mounted"), journal.app("other")
    app = LifespanMiddleware(Starlette(routes=[Mount("/a", mounted), Mount("/again", Starlette())]))
    for wanted, replacement in ((other, None), (mounted, lambda: None)):
        with pytest.raises(LookupError, match="is not registered"), app.override(wanted, replacement):
            raise AssertionError


def test_repr_shows_the_app() -> None:
    """A middleware stack can be read in a debugger."""
    assert repr(LifespanMiddleware(Isolated(AnApp()))).startswith("LifespanMiddleware(Isolated(<")


def test_an_attribute_of_the_wrapped_app_is_named_with_its_place() -> None:
    """``app.get`` of a wrapped FastAPI is ``app.app.get``; all else is missing as ever."""
    app: Any = LifespanMiddleware(FastAPI())
    with pytest.raises(AttributeError, match=r"LifespanMiddleware has no 'get'; .* use app\.app\.get") as caught:
        app.get  # noqa: B018
    assert caught.value.name == "get"
    for name in ("nothing", "_private"):
        assert not hasattr(app, name)
    assert not hasattr(LifespanMiddleware.__new__(LifespanMiddleware), "app")
