"""What an app is, what it is called, and how requests pass."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from asgi_lifespan_mw import Isolated, LifespanManager, LifespanMiddleware
from asgi_lifespan_mw._types import ASGIApp
from tests.server import RecordingServer, request


class App:
    """An app that turns the lifespan away, and answers requests with their state."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise ValueError(scope["type"])
        self.scopes.append(scope)
        await send({"type": "answer"})

    async def method(self, scope: Any, receive: Any, send: Any) -> None:
        await self(scope, receive, send)


class LegacyApp:
    """An ASGI 2 application."""

    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


TAKE_AN_APP: list[Any] = [LifespanMiddleware, LifespanManager, Isolated]


@pytest.mark.parametrize("takes", TAKE_AN_APP)
@pytest.mark.parametrize("app", [App, LegacyApp])
def test_a_class_is_refused(takes: Any, app: type) -> None:
    """It was not called, or is an ASGI 2 application; the refusal says what to do about either."""
    expected = rf"^{takes.__name__}\(\) got the class {app.__name__}, expected an ASGI 3 application: give an instance"
    with pytest.raises(
        TypeError, match=rf"{expected}.* ASGI 2 application there is asgiref\.compatibility\.guarantee_single_callable$"
    ):
        takes(app)


@pytest.mark.parametrize("takes", TAKE_AN_APP)
@pytest.mark.parametrize("app", [None, "shop:app", 5], ids=repr)
def test_what_cannot_be_called_is_refused(takes: Any, app: Any) -> None:
    """The refusal shows it, and the signature of an app."""
    expected = rf"^{takes.__name__}\(\) got {re.escape(repr(app))}, which can't be called.*"
    with pytest.raises(
        TypeError,
        match=rf"{expected}async def app\(scope, receive, send\).*asgiref\.compatibility\.guarantee_single_callable",
    ):
        takes(app)


def test_any_callable_object_is_taken_for_an_app() -> None:
    """A plain `__call__` is no sign of an ASGI 2 application: Dash has one."""

    class PlainCall:
        def __call__(self, scope: Any, receive: Any, send: Any) -> Any: ...

    app = PlainCall()
    assert LifespanMiddleware(app).app is app


async def function_app(scope: Any, receive: Any, send: Any) -> None:
    """An app that turns the lifespan away."""
    raise ValueError(scope["type"])


NAMES: dict[str, tuple[Any, str]] = {
    "object": (App(), "app App"),
    "function": (function_app, r"app function_app\(\)"),
    "bound method": (App().method, r"app App\.method\(\)"),
    "partial": (functools.partial(function_app), r"app function_app\(\)"),
    "partial of an object": (functools.partial(App()), r"app App\(\)"),
}


@pytest.mark.parametrize(("app", "name"), NAMES.values(), ids=NAMES)
async def test_an_app_is_named_by_its_type_a_function_by_its_name(
    app: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """So the log tells which app has no lifespan."""
    with caplog.at_level("WARNING", "asgi_lifespan_mw"):
        await RecordingServer().run(LifespanMiddleware(app, on_startup=[dir], mounts="off"))
    (warning,) = caplog.messages
    assert re.search(rf"^{name} does not support the lifespan", warning)


@pytest.mark.parametrize("takes", [LifespanMiddleware, Isolated, lambda app: LifespanManager(app).app])
async def test_servers_take_it_for_an_asgi_3_application(takes: Callable[[Any], Any]) -> None:
    """It is a coroutine function by any test of a server, and has the three parameters by their names."""
    app = takes(App())
    assert inspect.iscoroutinefunction(app.__call__)
    assert list(inspect.signature(app).parameters) == ["scope", "receive", "send"]


@pytest.mark.parametrize("takes", [LifespanMiddleware, Isolated])
async def test_requests_go_straight_through(takes: Callable[[Any], Any]) -> None:
    """The app is given the very scope, receive and send of the server."""
    given: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend([scope, receive, send])

    async def receive() -> None: ...
    async def send(message: Any) -> None: ...

    scope = {"type": "http"}
    await takes(app)(scope=scope, receive=receive, send=send)
    assert given[0] is scope
    assert given[1:] == [receive, send]


async def test_requests_are_answered_before_and_after_a_run() -> None:
    """A server without lifespan can use the app as well."""
    inner = App()
    app = LifespanMiddleware(inner)
    assert await request(app) == [{"type": "answer"}]
    assert "state" not in inner.scopes[0]


def make_app() -> ASGIApp:
    """A factory, which was to be called."""
    raise AssertionError


class Server:
    """Makes apps by a method."""

    def streamable_http_app(self, path: str = "/") -> ASGIApp:
        """Another factory."""
        raise AssertionError


@pytest.mark.parametrize(
    "given", [make_app, Server().streamable_http_app, lambda scope: None], ids=lambda given: given.__name__
)
def test_what_cannot_take_the_three_arguments_is_refused(given: Any) -> None:
    """A factory that was not called fails at the first request otherwise."""
    with pytest.raises(
        TypeError, match=r"cannot be called with \(scope, receive, send\).* If it is a factory, call it"
    ):
        LifespanMiddleware(given)


class Awaitable:
    """A class whose instances are awaited, as Starlette's `HTTPEndpoint` is: an app."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    def __await__(self) -> Any:
        raise AssertionError


def test_a_class_whose_instances_can_be_awaited_is_an_app() -> None:
    """It is called with the three arguments, and what comes of it is awaited."""
    assert LifespanMiddleware(Awaitable).app is Awaitable


class RaisesForItsSignature:
    """An app whose signature cannot be read."""

    @property
    def __signature__(self) -> Any:
        raise NameError("a name for type checkers only")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Take anything."""


@pytest.mark.parametrize("app", [RaisesForItsSignature(), min], ids=["raises", "builtin"])
def test_an_app_whose_signature_cannot_be_read_is_taken(app: Any) -> None:
    """It may well be an app."""
    assert LifespanMiddleware(app).app is app
