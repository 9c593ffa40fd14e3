"""Mounts of unknown kind are asked and judged by what they do; what cannot expect a lifespan is not asked."""

import enum
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from asgi_lifespan_mw import Isolated, Lifespan, LifespanManager, LifespanMiddleware, LifespanTimeout
from asgi_lifespan_mw._apps.wrappers import mentions_lifespan
from tests.conftest import VIRTUAL
from tests.server import RecordingServer
from tests.usages import lifespan_of, lived, recorded, started_and_stopped


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: an app that receives late is waited for."""
    return request.param()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the package logged at WARNING."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def answers(log: list[str], name: str, receive: Any, send: Any) -> None:
    """Answer a lifespan, and write it into a log."""
    await receive()
    log.append(f"start {name}")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    log.append(f"stop {name}")
    await send({"type": "lifespan.shutdown.complete"})


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator, as tracers and timers are."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **options: Any) -> Any:
        return await function(*args, **options)

    return wrapper


# --- Who is asked ---


class Kinds(enum.Enum):
    """Scope types, as an enum."""

    STARTUP = "lifespan"


class ByName:
    """Dispatches by a name that is computed."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await getattr(self, "on_" + scope["type"])(receive, send)

    async def on_lifespan(self, receive: Any, send: Any) -> None:
        """Answer."""
        await answers(self.log, "sub", receive, send)


class ByTable:
    """Dispatches by a dictionary."""

    def __init__(self, log: list[str]) -> None:
        self.handlers = {"lifespan": functools.partial(answers, log, "sub")}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.handlers[scope["type"]](receive, send)


class Decorated(ByTable):
    """Its `__call__` is decorated."""

    @timed
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.handlers[scope["type"]](receive, send)


class ByParts:
    """Hands all to an object that is not callable."""

    def __init__(self, log: list[str]) -> None:
        self.parts = Parts(log)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.parts.serve(scope["type"], receive, send)


class Parts:
    """Knows the lifespan by an enum's member."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def serve(self, kind: str, receive: Any, send: Any) -> None:
        """Answer."""
        assert kind == Kinds["STARTUP"].value, "a lifespan"
        await answers(self.log, "sub", receive, send)


@pytest.mark.parametrize("make", [ByName, ByTable, Decorated, ByParts])
async def test_apps_that_mention_the_lifespan_somewhere_near_are_asked(make: Callable[[list[str]], Any]) -> None:
    """By a name that is computed, in a table, behind a decorator, in an object that they hold."""
    log: list[str] = []
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/sub", make(log))])))
    assert log == started_and_stopped("sub")


def test_what_is_far_away_does_not_count() -> None:
    """At most three steps are read."""

    def far(left: int) -> Callable[..., Any]:
        if left == 0:
            return lambda scope: scope["type"] == "lifespan"
        inner = far(left - 1)
        return lambda scope: inner(scope)  # noqa: PLW0108 - one more step

    assert mentions_lifespan(far(3))
    assert not mentions_lifespan(far(4))


def test_an_app_around_does_not_count() -> None:
    """A page that keeps the app that it is mounted in, for its version, is a page."""
    app = Starlette()

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"version": app.debug})  # pragma: no cover - it is only read

    assert mentions_lifespan(page)
    assert not mentions_lifespan(page, lambda thing: thing is app)


# --- What wrappers hold ---


@dataclass
class Settings:
    """A record of apps."""

    apps: list[Any]


class Holds:
    """A wrapper that finds its app in what it holds."""

    def __init__(self, held: Any, find: Callable[[Any], Any]) -> None:
        self.held, self.find = held, find

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.find(self.held)(scope, receive, send)


@pytest.mark.parametrize(
    ("hold", "find"),
    [
        (lambda app: SimpleNamespace(app=app), lambda held: held.app),
        (lambda app: Settings([app]), lambda held: held.apps[0]),
        (lambda app: {"a": [[app]]}, lambda held: held["a"][0][0]),
    ],
    ids=["namespace", "dataclass", "nested lists"],
)
async def test_apps_in_containers_of_a_wrapper_are_found(
    hold: Callable[[Any], Any], find: Callable[[Any], Any]
) -> None:
    """What is mounted in them starts too."""
    log: list[str] = []
    app = recorded(log, "sub", Mount("/deep", recorded(log, "deep")))
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/x", Holds(hold(app), find))])))
    assert log == started_and_stopped("sub", "deep")


async def test_a_middleware_whose_class_was_patched_is_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Sentry's SDK patches those of Starlette: the function that it puts there keeps the original one."""
    log: list[str] = []
    original = ServerErrorMiddleware.__call__

    async def patched(app: Any, scope: Any, receive: Any, send: Any, **options: Any) -> Any:
        return await original(app, scope, receive, send, **options)

    monkeypatch.setattr(ServerErrorMiddleware, "__call__", patched)
    app = Starlette(middleware=[Middleware(LifespanMiddleware)], routes=[Mount("/sub", recorded(log, "sub"))])
    await lived(app)
    assert log == started_and_stopped("sub")


class Unhashable(type):  # noqa: PLW1641 - that is the point
    """A metaclass whose classes have no hash."""

    def __eq__(cls, other: object) -> bool:  # pragma: no cover - as long as nobody asks
        raise AssertionError


async def test_classes_without_a_hash_are_mounted() -> None:
    """Classes are compared by identity."""
    log: list[str] = []

    class Sub(Starlette, metaclass=Unhashable):
        pass

    class Wrapper(Holds, metaclass=Unhashable):
        pass

    sub = Sub(lifespan=lifespan_of(log, "sub"))
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/sub", Wrapper(sub, lambda held: held))])))
    assert log == started_and_stopped("sub")


# --- How they are judged ---


@pytest.mark.parametrize("strict", [False, True])
async def test_what_makes_an_asked_mount_unsupported_is_no_deviation(
    strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It returns at once, sends a response, or returns after it received: all of that is DEBUG, under strict too."""

    async def returns(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()

    async def responds(scope: Any, receive: Any, send: Any) -> None:
        status = 404 if scope["type"] == "lifespan" else 200
        await send({"type": "http.response.start", "status": status})

    log: list[str] = []
    mounts = [Mount("/a", returns), Mount("/b", responds), Mount("/sub", recorded(log, "sub"))]
    await lived(LifespanMiddleware(Starlette(routes=mounts), strict=strict))
    assert log == started_and_stopped("sub")
    assert not told(caplog)


async def test_a_wrapper_that_raises_before_anything_in_it_began_is_unsupported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It takes the message and chokes on it; the app that it holds is started by itself."""
    log: list[str] = []
    sub = recorded(log, "sub")

    async def chokes(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        await sub({**scope, "body": message["body"]}, receive, send)

    await lived(LifespanMiddleware(Starlette(routes=[Mount("/sub", chokes)])))
    assert log == started_and_stopped("sub")
    [warning] = told(caplog)
    assert warning.startswith("mount '/sub' raised when it was sent a lifespan, before anything inside it had begun")


def _fails(error: Exception) -> Any:
    async def raw(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        raise error

    return raw


@pytest.mark.parametrize("wrap", [lambda app: app, GZipMiddleware])
async def test_an_app_that_received_and_raised_has_failed(wrap: Callable[[Any], Any]) -> None:
    """Also behind a wrapper, where its start is not seen."""
    app = LifespanMiddleware(Starlette(routes=[Mount("/sub", wrap(_fails(OSError("no database"))))]))
    with pytest.raises(OSError, match="no database"):
        await RecordingServer().run(app)


async def test_a_failure_of_what_a_wrapper_holds_is_no_refusal_of_the_wrapper() -> None:
    """Something inside had begun."""

    def lifespan(_: object) -> Any:
        raise OSError("no database")

    for of in (lifespan, _Breaks):
        app = LifespanMiddleware(Starlette(routes=[Mount("/sub", GZipMiddleware(FastAPI(lifespan=of)))]))
        with pytest.raises(OSError, match="no database"):
            async with LifespanManager(app):
                raise AssertionError


class _Breaks:
    """A lifespan that is a class, and fails."""

    def __init__(self, _: object) -> None: ...

    async def __aenter__(self) -> None:
        raise OSError("no database")

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError


# --- How long they are waited for ---


def _polls(log: list[str], seconds: float) -> Any:
    async def polls(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await anyio.sleep(seconds)
        scope["state"]["late"] = "late"
        await answers(log, "late", receive, send)

    return polls


async def test_an_asked_mount_that_does_not_receive_is_waited_for_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The startup goes on; if it starts later, it counts from then on."""
    log: list[str] = []
    app = LifespanMiddleware(Starlette(routes=[Mount("/poll", _polls(log, 60)), Mount("/sub", recorded(log, "sub"))]))
    async with LifespanManager(app, None) as manager:
        assert log == ["start sub"]
        # The manager is a run around ours, which names what takes long.
        [warning] = [warning for warning in told(caplog) if "takes more than" not in warning]
        assert warning.startswith("mount '/poll' was sent a lifespan and has not received it; the startup goes on")
        await anyio.sleep(120)
        assert log == ["start sub", "start late"]
        assert "late" in manager.state
    assert sorted(log[2:]) == ["stop late", "stop sub"]


async def test_a_named_mount_is_waited_for() -> None:
    """`mounts=` says that it has a lifespan."""
    log: list[str] = []
    polls = _polls(log, 60)
    app = LifespanMiddleware(Starlette(routes=[Mount("/poll", polls)]), mounts=[polls])
    async with LifespanManager(app, None):
        assert log == ["start late"]


async def test_a_mount_that_is_never_waited_for_again_is_stopped() -> None:
    """It never receives."""
    log: list[str] = []
    async with LifespanManager(LifespanMiddleware(Starlette(routes=[Mount("/poll", _polls(log, 1e6))])), None):
        pass
    assert log == []


async def test_late_state_that_collides_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """The mount fails, and the app goes on."""

    def hook() -> dict[str, object]:
        return {}

    app = LifespanMiddleware(Starlette(routes=[Mount("/poll", _polls([], 60))]), on_startup=[hook])

    @app.context
    async def late(_: object) -> Any:
        yield {"late": object()}

    server = RecordingServer(holds_on=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_run_to_its_failure, server, app)
        await server.started.wait()
        await anyio.sleep(120)
        server.may_stop.set()
    assert any("late" in record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)


async def _run_to_its_failure(server: RecordingServer, app: Any) -> None:
    with pytest.raises(Exception, match="late"):
        await server.run(app)


async def test_mount_timeout_bounds_each_mount() -> None:
    """A mount that starts too slowly fails the startup, and is named."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await anyio.sleep(60)

    app = LifespanMiddleware(Starlette(routes=[Mount("/slow", slow)]), mount_timeout=5)
    with pytest.raises(LifespanTimeout, match=r"after 5 s in mount '/slow'"):
        await RecordingServer().run(app)


async def test_mount_timeout_of_an_asked_mount_that_does_not_receive(caplog: pytest.LogCaptureFixture) -> None:
    """It is waited for so long, and no failure."""
    log: list[str] = []
    hooks = Lifespan(mounts="auto", mount_timeout=30)
    app = FastAPI(lifespan=hooks)
    app.mount("/poll", _polls(log, 1e6))
    async with LifespanManager(app, None):
        assert anyio.current_time() >= 30
    assert len([warning for warning in told(caplog) if "has not received it" in warning]) == 1


# --- State ---


async def test_an_isolated_app_gets_the_state_of_its_own_event_loop() -> None:
    """Two servers in two threads may run one app."""
    isolated = Isolated(recorded([], "sub"))
    isolated.states[:] = [(object(), {"db": "other"}), (object(), {"db": "another"})]
    assert isolated._state() == {"db": "another"}
    app = LifespanMiddleware(Starlette(routes=[Mount("/sub", isolated)]))
    async with LifespanManager(app):
        isolated.states.append((object(), {"db": "another"}))
        assert isolated._state() == {"sub": "sub"}
        isolated.states.pop()
