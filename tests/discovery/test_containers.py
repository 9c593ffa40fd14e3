import logging
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any
from wsgiref.simple_server import demo_app

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Isolated, LifespanMiddleware, register_container
from asgi_lifespan_mw._apps import frameworks as _containers
from asgi_lifespan_mw._apps.frameworks import full_name, spec_of
from asgi_lifespan_mw._apps.node import AppNode
from asgi_lifespan_mw._apps.walk import describe, look_inside
from asgi_lifespan_mw._apps.wrappers import mentions_lifespan
from asgi_lifespan_mw._types import ASGIApp
from tests.usages import Records, lived, recorded, started_and_stopped

WSGI_APP: Any = demo_app


class RefusesLifespan:
    """An app without lifespan."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise ValueError(scope["type"])


class HandsOn:
    """A wrapper that keeps its app in a place of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.inner = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.inner(scope, receive, send)


class ByTenant(RefusesLifespan):
    """A container of the user's own, which answers no lifespan."""

    def __init__(self, tenants: Mapping[str, ASGIApp]) -> None:
        self.tenants = tenants
        self.base = "/tenants/"


def an(name: str, base: type = RefusesLifespan, /, **attributes: Any) -> Any:
    """An object of a class that has a framework's name, with the attributes that the table knows."""
    module, _, qualname = name.rpartition(".")
    thing: Any = object.__new__(type(qualname, (base,), {"__module__": module}))
    vars(thing).update(attributes)
    return thing


def found(app: ASGIApp) -> list[Any]:
    """The apps that are nested in an app that took its lifespan."""
    return [nested.app for nested in look_inside(AppNode(app)).nested]


def labels(app: ASGIApp, path: str = "") -> list[str]:
    """What is found in an app, by the names that messages use."""
    return [nested.label for nested in look_inside(AppNode(app, path)).nested]


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    """What the package logged at `level`."""
    return [record for record in caplog.records if record.name == "asgi_lifespan_mw" and record.levelno == level]


INNER = RefusesLifespan()
OTHER = RefusesLifespan()


async def function(scope: Any, receive: Any, send: Any) -> None:
    """An endpoint."""
    raise AssertionError


# --- Ways with a condition, an index or a key ---

SOCKETIO = "engineio.async_drivers.asgi.ASGIApp"
CONNEXION = "connexion.middleware.main.ConnexionMiddleware"
PROTOCOLS = "channels.routing.ProtocolTypeRouter"
SUBPATHS = "baize.asgi.routing.Subpaths"
BLACKSHEEP = "blacksheep.server.application.Application"
LILYA_ROUTER = "lilya.routing.router.BaseRouter"


def socketio(**callbacks: Any) -> Any:
    """Around an app."""
    return an(SOCKETIO, **{"other_asgi_app": INNER, "on_startup": None, "on_shutdown": None, **callbacks})


def connexion(**attributes: Any) -> Any:
    """Around an app, before its first call if it has no stack."""
    return an(CONNEXION, **{"app": INNER, "lifespan": None, "middleware_stack": None, **attributes})


def blacksheep(child: Any, *, auto_events: bool = True) -> Any:
    """With a mounted app."""
    route = an("blacksheep.Route", handler=child, pattern=b"/sub/*")
    return an(BLACKSHEEP, mount_registry=an("blacksheep.Mounts", mounted_apps=[route], auto_events=auto_events))


def litestar(fn: Any, *, is_mount: bool = False) -> Any:
    """With a route to an app or an endpoint."""
    handler = an("litestar.Handler", fn=fn, is_mount=is_mount)
    route = an("litestar.routes.asgi.ASGIRoute", route_handler=handler, path="/x")
    return an("litestar.app.Litestar", routes=[route])


CHILD = blacksheep(INNER)


@pytest.mark.parametrize(
    ("container", "nested"),
    [
        (socketio(), []),
        (socketio(on_startup=print), [INNER]),
        (socketio(on_shutdown=print), [INNER]),
        (connexion(), []),
        (connexion(lifespan=print), [INNER]),
        (connexion(lifespan=print, middleware_stack=[INNER]), []),
        (blacksheep(INNER), [INNER]),
        (blacksheep(CHILD), [INNER]),
        (blacksheep(CHILD, auto_events=False), [CHILD]),
        (an(LILYA_ROUTER, routes=[], default=INNER), [INNER]),
        (an(LILYA_ROUTER, routes=[], default=function), []),
        (litestar(INNER), [INNER]),
        (litestar(function), []),
        (litestar(function, is_mount=True), [function]),
        (
            an(SUBPATHS, _route_array=[("/a", INNER), ("", function), ("/b", OTHER)]),
            [INNER, OTHER],
        ),
        (an(PROTOCOLS, application_mapping={"lifespan": INNER, "http": INNER}), []),
        (an(PROTOCOLS, application_mapping={"lifespan": INNER, "http": OTHER}), [OTHER]),
        (an(PROTOCOLS, application_mapping={"http": OTHER}), [OTHER]),
    ],
)
def test_a_way_leads_where_its_condition_holds(container: Any, nested: list[Any]) -> None:
    """The first way to an object counts: what passes the lifespan on, or starts its app, is not found."""
    assert found(container) == nested


def test_apps_of_several_kinds_are_found_in_the_order_of_the_routes() -> None:
    """A BlackSheep app starts one of its children by itself, and not the one before."""
    routes = [an("blacksheep.Route", handler=child, pattern=b"/sub/*") for child in (OTHER, blacksheep(INNER))]
    mounts = an("blacksheep.Mounts", mounted_apps=routes, auto_events=True)
    assert found(an(BLACKSHEEP, mount_registry=mounts)) == [OTHER, INNER]


def test_a_container_gives_each_app_its_own_part_of_the_path() -> None:
    """Keys of a mapping, items of pairs, patterns; where there is no such part, an app has a name and no path."""
    mounts = {"/a": RefusesLifespan(), "/b/": RefusesLifespan()}
    assert labels(an("hypercorn.middleware.dispatcher._DispatcherMiddleware", mounts=mounts)) == [
        "mount '/a'",
        "mount '/b'",
    ]
    assert labels(an(SUBPATHS, _route_array=[("/a", INNER), ("", OTHER)]), "/x") == [
        "mount '/x/a'",
        "mount '/x'",
    ]
    assert labels(blacksheep(INNER)) == ["mount '/sub'"]
    assert labels(an(PROTOCOLS, application_mapping={"http": INNER})) == ["app RefusesLifespan"]


# --- Functions and methods ---


def decorated(app: Any) -> Any:
    """A function that wraps an app, as asgi-csrf's decorator makes it."""

    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    wrapper.__wrapped__ = app  # type: ignore[attr-defined]
    return wrapper


async def test_a_decorated_app_is_the_app_that_it_wraps() -> None:
    """It is sent one lifespan."""
    log: list[str] = []
    sub = Records(log, "sub")
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/decorated", decorated(sub)), Mount("/bare", sub)])))
    assert log == started_and_stopped("sub")


def test_a_function_that_wraps_a_class_is_no_app_to_ask() -> None:
    """``Consumer.as_asgi()`` is one, and takes any message for one to a WebSocket."""
    assert not mentions_lifespan(decorated(RefusesLifespan))


def test_a_quart_is_its_method_and_its_middleware() -> None:
    """``app.asgi_app = Middleware(app.asgi_app)`` is Quart's way; methods of others are apps of their own."""
    attributes = {"__module__": "quart.app", "asgi_app": RefusesLifespan.__call__}
    quart: Any = type("Quart", (RefusesLifespan,), attributes)()
    method = quart.asgi_app
    assert list(describe(AppNode(quart)).members.values()) == [quart]
    assert list(describe(AppNode(method)).members.values()) == [method, quart]
    quart.asgi_app = HandsOn(method)
    assert list(describe(AppNode(quart)).members.values()) == [quart, quart.asgi_app]
    refuses = RefusesLifespan().__call__
    assert list(describe(AppNode(refuses)).members.values()) == [refuses]


# --- Whether it is sent ---


async def test_what_its_parent_starts_is_sent_nothing_as_a_mount() -> None:
    """Gradio and NiceGUI put their lifespan around the parent's; what is mounted in them is started."""
    log: list[str] = []
    inner = Records(log, "inner")
    gradio = an("gradio.routes.App", Starlette, **vars(Starlette(routes=[Mount("/inner", inner)])))
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/gradio", gradio)])))
    assert log == started_and_stopped("inner")


async def test_what_its_parent_starts_is_started_at_the_root_and_where_it_is_named() -> None:
    """Nothing else would start it there."""
    log: list[str] = []
    gradio = an("gradio.routes.App", Records, log=log, name="gradio")
    await lived(LifespanMiddleware(gradio))
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/gradio", gradio)]), mounts=[gradio]))
    assert log == started_and_stopped("gradio") * 2


@pytest.mark.parametrize("wrap", [lambda app: app, decorated, Isolated], ids=["bare", "wrapped", "isolated"])
async def test_an_app_whose_kind_of_lifespan_fails_elsewhere_is_sent_nothing(
    wrap: Callable[[ASGIApp], ASGIApp],
) -> None:
    """A notebook of marimo is a plain Starlette, known by its lifespan alone; what is mounted in it is started."""
    log: list[str] = []
    notebook = Starlette(
        lifespan=an("marimo._utils.lifespans.Lifespans"), routes=[Mount("/deep", Records(log, "deep"))]
    )
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/notebook", wrap(notebook))])))
    await lived(LifespanMiddleware(wrap(notebook)))
    assert log == started_and_stopped("deep") * 2


@pytest.fixture
def chainlit(monkeypatch: pytest.MonkeyPatch) -> Records:
    """The one app of Chainlit's module."""
    module: Any = ModuleType("chainlit.server")
    module.app = Records([], "chainlit")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.app  # type: ignore[no-any-return]


@pytest.mark.parametrize("wrap", [lambda app: app, decorated], ids=["bare", "wrapped"])
async def test_an_app_that_does_harm_is_not_started_unasked(
    chainlit: Records, wrap: Callable[[ASGIApp], ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    """A warning says why, and how to insist."""
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/chat", wrap(chainlit)), Mount("/x", Records([], "x"))])))
    assert chainlit.log == []
    [warning] = [record.getMessage() for record in told(caplog, logging.WARNING)]
    assert warning.startswith("mount '/chat' is not started: its shutdown ends the process")
    assert "mounts=[...]" in warning
    assert "exclude=[...]" in warning


@pytest.mark.parametrize(("options", "runs"), [("mounts", True), ("exclude", False)])
async def test_an_app_that_does_harm_is_the_users_choice(
    chainlit: Records, options: str, runs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Named, it is started; excluded, it is not; and there is no warning."""
    app = Starlette(routes=[Mount("/chat", chainlit)])
    given: Any = {options: [chainlit]}
    await lived(LifespanMiddleware(app, **given))
    assert chainlit.log == (started_and_stopped("chainlit") if runs else [])
    assert not told(caplog, logging.WARNING)


# --- register_container() ---


@pytest.fixture
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test write into the table."""
    monkeypatch.setattr(_containers, "_table", dict(_containers._table))


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize("container", [ByTenant, f"{ByTenant.__module__}.ByTenant"], ids=["class", "name"])
async def test_apps_in_a_container_of_the_users_own_are_started(container: type | str) -> None:
    """Each value of a mapping, at the path of the container; it counts for subclasses."""
    register_container(container, "tenants[]", "skips", segment="base")

    class Special(ByTenant):
        pass

    log: list[str] = []
    tenants = Special({"a": recorded(log, "a"), "b": recorded(log, "b")})
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/x", tenants)])))
    assert log == started_and_stopped("a", "b")
    assert labels(tenants, "/x") == ["mount '/x/tenants'"] * 2


@pytest.mark.usefixtures("_table")
async def test_a_container_can_be_taken_over() -> None:
    """It is sent nothing, not even as the wrapped app; each of its apps is named by its key."""
    register_container(ByTenant, "tenants[]", "taken_over", segment="tenants[]")
    log: list[str] = []
    tenants = an(full_name(ByTenant), Records, log=log, name="tenants", tenants={"/a": Records(log, "a")})
    assert labels(tenants) == ["mount '/a'"]
    await lived(LifespanMiddleware(tenants))
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/x", tenants)])))
    assert log == started_and_stopped("a") * 2


async def test_apps_in_a_container_that_nobody_knows_are_not_found() -> None:
    """Without a row, there is no way inside but ``.app``."""
    log: list[str] = []
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/x", ByTenant({"a": recorded(log, "a")}))])))
    assert log == []


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize("kind", ["passes_on", "forwards"])
async def test_an_app_that_its_container_starts_is_not_sent_a_lifespan(kind: Any) -> None:
    """But what is mounted in it is started."""
    register_container(HandsOn, "inner", kind)
    log: list[str] = []
    inner = recorded(log, "inner", Mount("/deep", recorded(log, "deep")))
    app = recorded(log, "parent", Mount("/starts", HandsOn(inner)), Mount("/bare", inner))
    await lived(LifespanMiddleware(app))
    assert log == started_and_stopped("parent", "inner", "deep")


@pytest.mark.usefixtures("_table")
async def test_apps_in_a_dispatcher_that_turns_the_lifespan_away_are_asked_themselves() -> None:
    """As in ``ProtocolTypeRouter`` of Channels, which passes on what it knows and raises at the lifespan."""
    register_container(ByTenant, "tenants[]", "passes_on")
    log: list[str] = []
    tenants = ByTenant({"http": recorded(log, "http", Mount("/sub", recorded(log, "sub"))), "ws": RefusesLifespan()})
    await lived(LifespanMiddleware(tenants, on_startup=[lambda: None]))
    assert log == started_and_stopped("http", "sub")


@pytest.mark.usefixtures("_table")
def test_a_later_row_for_a_class_replaces_the_earlier_one() -> None:
    """So that a wrong row of ours, too, can be set right."""
    register_container(ByTenant, "tenants[]", "skips", why="a first try")
    register_container(ByTenant, "other", "skips")
    row = spec_of(ByTenant({}))
    assert row is not None
    assert row.why == "registered by the user"
    assert row.ways[0].path == "other"


@pytest.mark.usefixtures("_table")
def test_an_attribute_that_is_not_there_is_no_way_inside(caplog: pytest.LogCaptureFixture) -> None:
    """A framework's next version may lack it, which is told of at DEBUG."""
    caplog.set_level(logging.DEBUG, "asgi_lifespan_mw")
    register_container(ByTenant, "renamed.apps[]", "skips", segment="renamed.base")
    assert labels(ByTenant({})) == []
    assert "ByTenant has no 'renamed.apps[]' to look into" in [
        record.getMessage() for record in told(caplog, logging.DEBUG)
    ]


@pytest.mark.usefixtures("_table")
def test_what_is_no_app_is_not_nested() -> None:
    """A row may lead to an attribute that holds something else, or nothing yet."""
    register_container(ByTenant, "tenants[]", "skips", segment="tenants")
    tenants: Any = {"empty": None, "text": "no app", "app": RefusesLifespan()}
    assert labels(ByTenant(tenants)) == ["mount '/'"]


@pytest.mark.usefixtures("_table")
async def test_an_attribute_that_holds_nothing_yet_is_no_error() -> None:
    """Where a row expects several apps, there may be None."""
    register_container(ByTenant, "tenants[]", "skips")
    nothing: Any = None
    await lived(LifespanMiddleware(Starlette(routes=[Mount("/x", ByTenant(nothing))])))


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TypeError, (42, "app", "skips")),
        (TypeError, (None, "app", "skips")),
        (TypeError, (ByTenant, 3, "skips")),
        (ValueError, (ByTenant, "app", "maybe")),
        (ValueError, (ByTenant, "", "skips")),
    ],
)
def test_a_row_that_cannot_be_is_refused(error: type[Exception], arguments: tuple[Any, Any, Any]) -> None:
    """The message says what was given and what was expected."""
    with pytest.raises(error, match=r"register_container\(\) got .*, expected "):
        register_container(*arguments)


@pytest.mark.parametrize("argument", ["inside", "segment", "why"])
def test_what_should_be_a_text_and_is_none_is_refused(argument: str) -> None:
    """The message names the argument."""
    arguments: dict[str, Any] = {"container": ByTenant, "inside": "app", "kind": "skips", argument: 3}
    with pytest.raises(TypeError, match=rf"register_container\(\) got {argument}=3, expected a string"):
        register_container(**arguments)
