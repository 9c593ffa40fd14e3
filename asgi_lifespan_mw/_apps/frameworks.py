"""The table of containers and wrappers: which classes keep apps inside, where, and what becomes of the lifespan there.

A row names a class in full; it is found along ``type(x).__mro__``, so that no framework is imported and subclasses
count. To add one: the class, the reason, and the ways inside. Most are of one of these kinds:

- ``_passes_on("app")``: a wrapper, whose app gets the lifespan that the wrapper gets,
- ``_skips("app")``: a container, whose app gets no lifespan, so that we start it,
- ``_forwards("app")``: a container that starts its app by itself.

Of two ways to one object, the first counts: what stands after a way with a condition is for when it does not hold.
Ways with one path stand together.
"""

import functools
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, final


class EdgeKind(Enum):
    """What a way inside means for the lifespan."""

    SELF = "is the same app under another name"
    PART = "is a part, not an app"
    MERGED = "has its lifespan run by the container, as part of its own"
    PASSES_ON = "gets the lifespan that its container gets"
    FORWARDS = "is started by its container, with a lifespan of its own"
    SKIPS = "gets no lifespan from its container"
    WRAPS = "may get the lifespan that its wrapper gets, which is observed"


class LifespanPolicy(Enum):
    """Whether an app is sent a lifespan by us."""

    ALWAYS = "wherever it is found"
    IF_NAMED = "as the wrapped app, and where the user names it"
    AS_ROOT = "only as the wrapped app, for what it is mounted in starts it"
    NEVER = "never"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """A way inside a container.

    Attributes:
        kind: What it means for the lifespan.
        path: The attribute that leads inside. Dots go on, ``[]`` stands for each item (of a mapping, each value), and
            ``[1]`` or ``[name]`` for one: ``"router.routes[]"``.
        when: An attribute of the container that must be true.
        only: The full name of a class; the way leads to its instances alone.
    """

    kind: EdgeKind
    path: str
    when: str | None = None
    only: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Door:
    """Where an app is started, by whoever starts it.

    Attributes:
        enter: The attribute that is called to start it.
        leave: The attribute that is called to stop it; None if `enter` returns an async context manager.
        may_be_method: Whether the framework takes a method for any other function.
    """

    enter: str
    leave: str | None = None
    may_be_method: bool = True


@final
@dataclass(frozen=True, slots=True, eq=False)
class ContainerSpec:
    """What is known of one class.

    Attributes:
        name: The full name of the class.
        why: The reason.
        ways: The ways inside; none for an app with nothing inside.
        segment: The attribute with the part of the URL that leads inside, or with ``[]`` to one for each app (of a
            mapping, each key); None where there is none.
        lifespan: The attribute with the function that is run for its lifespan; None where there is none to be read.
        sent: Whether it is sent a lifespan at all.
        doors: Where it is started.
    """

    name: str
    why: str
    ways: tuple[Edge, ...] = ()
    segment: str | None = None
    lifespan: str | None = None
    sent: LifespanPolicy = LifespanPolicy.ALWAYS
    doors: tuple[Door, ...] = ()


_self = functools.partial(Edge, EdgeKind.SELF)
_part = functools.partial(Edge, EdgeKind.PART)
_merged = functools.partial(Edge, EdgeKind.MERGED)
_passes_on = functools.partial(Edge, EdgeKind.PASSES_ON)
_forwards = functools.partial(Edge, EdgeKind.FORWARDS)
_skips = functools.partial(Edge, EdgeKind.SKIPS)


def _row(name: str, why: str, *ways: Edge, **known: Any) -> ContainerSpec:
    return ContainerSpec(name, why, ways, **known)


STARLETTE, ROUTER = "starlette.applications.Starlette", "starlette.routing.Router"
APPLICATIONS = (
    STARLETTE, "litestar.app.Litestar", "lilya.apps.BaseLilya", "quart.app.Quart",
    "blacksheep.server.application.Application",
)  # fmt: skip
"""Rows of what a user calls the app, of the frameworks that put middleware around it."""
SESSION_MANAGER = "mcp.server.streamable_http_manager.StreamableHTTPSessionManager"
"""The object that runs a server of the MCP SDK; it can be run only once."""
MCP_PACKAGES = ("mcp.", "fastmcp.")
"""The packages whose lifespan functions run such an object."""
PACKAGES_WITHOUT_LIFESPAN = ("django.", "channels.")
"""The packages whose apps never support the lifespan."""
ISOLATED = "asgi_lifespan_mw._isolated.Isolated"
MIDDLEWARE = "asgi_lifespan_mw._middleware.LifespanMiddleware"
_FUNCTION = "builtins.function"
_NOTEBOOK = "marimo._utils.lifespans.Lifespans"

# fmt: off
ROWS = (
    # Starlette; what is built on it needs no row: FastAPI, FastHTML, piccolo-admin, sqladmin, the MCP SDK, FastMCP.
    _row(STARLETTE, "hands the lifespan to its router", _self("router")),
    _row(ROUTER, "answers for itself alone", _self("lifespan_context", only=_NOTEBOOK), _part("routes[]"),
         _skips("default"), lifespan="lifespan_context",
         doors=(Door("lifespan_context"), Door("startup", "shutdown"), Door("_startup", "_shutdown"))),
    _row("starlette.routing.Mount", "a route to an app", _skips("app"), segment="path"),
    _row("starlette.routing.Host", "a route to an app", _skips("app"), segment="host"),
    _row("starlette.staticfiles.StaticFiles", "serves files and fails at any other scope", sent=LifespanPolicy.NEVER),
    _row("starlette.responses.Response", "answers any scope with a response", sent=LifespanPolicy.NEVER),
    _row("fastapi.routing._IncludedRouter", "include_router() merges the router's lifespan into the app's",
         _merged("original_router"), segment="include_context.prefix"),
    _row("gradio.routes.App", "mount_gradio_app() puts its lifespan around the parent's", _self("router"),
         sent=LifespanPolicy.AS_ROOT),
    _row("nicegui.app.app.App", "ui.run_with() puts its lifespan around the parent's", _self("router"),
         sent=LifespanPolicy.AS_ROOT),
    _row(_NOTEBOOK, "the lifespan by which a notebook is known, fails in any server but marimo's own",
         sent=LifespanPolicy.NEVER),
    _row("shiny._app.App", "hands all to a Starlette", _passes_on("starlette_app")),

    # Other frameworks.
    _row("litestar.app.Litestar", "answers for itself alone", _part("routes[]"), lifespan="lifespan"),
    _row("litestar.routes.asgi.ASGIRoute", "a route to an app, or to an endpoint, which is a function",
         _skips("route_handler.fn", when="route_handler.is_mount"), _part("route_handler.fn", only=_FUNCTION),
         _skips("route_handler.fn"), segment="path"),
    _row("lilya.apps.BaseLilya", "hands the lifespan to its router; Ravyn is one", _self("router")),
    _row("lilya.routing.router.BaseRouter", "answers for itself alone; a function in `default` is not an app",
         _part("routes[]"), _part("default", only=_FUNCTION), _skips("default"), lifespan="lifespan_context",
         doors=(Door("lifespan_context", may_be_method=False),)),
    _row("lilya.routing.include.Include", "a route to an app", _skips("app"), segment="path"),
    _row("lilya.routing.host.Host", "a route to an app", _skips("app"), segment="host"),
    _row("blacksheep.server.application.Application", "starts its own kind by its events, and nothing else",
         _forwards("mount_registry.mounted_apps[].handler", when="mount_registry.auto_events",
                   only="blacksheep.server.application.Application"),
         _skips("mount_registry.mounted_apps[].handler"), segment="mount_registry.mounted_apps[].pattern",
         doors=(Door("start", "stop"),)),
    _row("quart.app.Quart", "its middleware stands around a method of its own", _passes_on("asgi_app"),
         doors=(Door("startup", "shutdown"),)),
    _row("builtins.method", "Quart's `asgi_app` is the Quart", _passes_on("__self__", only="quart.app.Quart")),
    _row("connexion.apps.abstract.AbstractApp", "hands all to its middleware", _passes_on("middleware")),
    _row("connexion.middleware.main.ConnexionMiddleware", "its first call puts its whole stack in the place of its app",
         _passes_on("app", when="middleware_stack"), _skips("app", when="lifespan"), _passes_on("app")),
    _row("connexion.middleware.lifespan.LifespanMiddleware", "answers by itself if it was given a lifespan",
         _skips("next_app", when="_lifespan"), _passes_on("next_app")),
    _row("connexion.apps.flask.FlaskASGIApp", "its `.app` is a WSGI app"),
    _row("dash.dash.Dash", "hands all to FastAPI, Quart or Flask", _passes_on("server")),
    _row("datasette.utils.asgi.AsgiLifespan", "answers the lifespan for what is inside it"),

    # Dispatchers.
    *(_row(f"{server}.middleware.dispatcher._DispatcherMiddleware",
           "hangs or falls if one of its apps takes no lifespan",
           _skips("mounts[]"), segment="mounts[]", sent=LifespanPolicy.NEVER) for server in ("anycorn", "hypercorn")),
    _row("channels.routing.ProtocolTypeRouter", "has an app for each type of scope",
         _passes_on("application_mapping[lifespan]"), _skips("application_mapping[]")),
    _row("channels.routing.URLRouter", "does not support the lifespan", _part("routes[]")),
    _row("django.urls.resolvers.URLPattern", "a route of Channels to an app", _skips("callback")),
    _row("engineio.async_drivers.asgi.ASGIApp", "answers by itself if it has callbacks; that of python-socketio is one",
         _skips("other_asgi_app", when="on_startup"), _skips("other_asgi_app", when="on_shutdown"),
         _passes_on("other_asgi_app")),
    _row("baize.asgi.routing.Router", "does not support the lifespan; functions in it are endpoints",
         _part("_route_array[].endpoint", only=_FUNCTION), _skips("_route_array[].endpoint")),
    _row("baize.asgi.routing.Subpaths", "does not support the lifespan; functions in it are endpoints",
         _part("_route_array[][1]", only=_FUNCTION), _skips("_route_array[][1]"), segment="_route_array[][0]"),
    _row("baize.asgi.routing.Hosts", "does not support the lifespan; functions in it are endpoints",
         _part("_host_array[][1]", only=_FUNCTION), _skips("_host_array[][1]"), segment="_host_array[][0].pattern"),

    # Wrappers that keep their app elsewhere than in `.app`; several do not support the lifespan.
    *(_row(name, "a wrapper", _passes_on(attribute)) for attribute, names in {
        "_app": ("asgi_lifespan_middleware._middleware.LifespanMiddleware", "asgi_user_agents.middleware.UAMiddleware",
                 "elasticapm.contrib.asgi.ASGITracingMiddleware", "msgpack_asgi._middleware.MessagePackMiddleware"),
        "_application": ("blacknoise._impl.BlackNoise",),
        "application": ("channels.security.websocket.OriginValidator", "servestatic.base.ServeStaticBase",
                        "django.contrib.staticfiles.handlers.ASGIStaticFilesHandler"),
        "asgi": ("datasette.utils.asgi.AsgiRunOnFirstRequest",),
        "inner": ("channels.middleware.BaseMiddleware", "channels.sessions.CookieMiddleware",
                  "channels.sessions.SessionMiddleware"),
    }.items() for name in names),
    _row(MIDDLEWARE, "starts what is inside it", _forwards("app")),
    _row(ISOLATED, "keeps the state of its app apart", _self("app")),

    _row(SESSION_MANAGER, "runs a server of the MCP SDK, once", doors=(Door("run"),), sent=LifespanPolicy.NEVER),

    # What is not an ASGI app.
    *(_row(name, "is a WSGI app, or adapts one", sent=LifespanPolicy.NEVER) for name in (
        "a2wsgi.wsgi.WSGIMiddleware", "anycorn.middleware.wsgi._WSGIMiddleware", "asgiref.wsgi.WsgiToAsgi",
        "django.core.handlers.wsgi.WSGIHandler", "flask.app.Flask", "hypercorn.middleware.wsgi._WSGIMiddleware",
        "starlette.middleware.wsgi.WSGIMiddleware")),
    *(_row(f"channels.consumer.{name}", "takes any message for one to its handlers", sent=LifespanPolicy.NEVER)
      for name in ("AsyncConsumer", "SyncConsumer")),
    _row("builtins.type", "a class is not an app; a consumer of Channels is a function that wraps one",
         sent=LifespanPolicy.NEVER),
)

UNASKED = [_row("chainlit.server.app", "its shutdown ends the process at once, and its startup may open a browser",
                sent=LifespanPolicy.IF_NAMED)]
"""Rows of apps, each by the module and the name in it."""
# fmt: on

UNKNOWN = _row("", "not in the table")
"""The row of all other objects: a wrapper, if the code that a call runs uses an app that the object holds."""

NO_APP = _row("", "it can't be called", sent=LifespanPolicy.NEVER)

_table = {row.name: row for row in ROWS}


def register_container(
    container: type | str,
    inside: str,
    kind: Literal["passes_on", "forwards", "skips", "taken_over"],
    *,
    segment: str | None = None,
    why: str = "registered by the user",
) -> None:
    """Tell where a container or wrapper of your own keeps its apps, so that they are found.

    It counts for all runs that begin later, and for subclasses. A class that is known already is known anew.

    Args:
        container: The class, or its full name, ``"shop.dispatch.ByTenant"``.
        inside: The attribute that leads to the app: ``"app"``. Dots go on, ``"tenants[]"`` leads to each of several (of
            a mapping, to its values), ``"routes[][1]"`` or ``"apps[web]"`` to one item.
        kind: What becomes of a lifespan that the container gets. ``"passes_on"``: it reaches the app. ``"forwards"``:
            the container starts and stops the app by itself. ``"skips"``: the app gets none, so we start it.
            ``"taken_over"``: we start the app, and send the container nothing.
        segment: The attribute with the part of the URL that leads inside, for messages; with ``[]``, as
            ``"tenants[]"``, one for each app (of a mapping, its keys).
        why: The reason, for readers of the table.

    Raises:
        TypeError: If `container` is neither a class nor a string, or another argument is not a string.
        ValueError: If `kind` is none of these, or `inside` is empty.
    """
    name = full_name(container) if isinstance(container, type) else container
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - the user may be untyped
        raise TypeError(f"register_container() got {container!r}, expected a class or its full name")
    for argument, value in (("inside", inside), ("segment", "" if segment is None else segment), ("why", why)):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - as above
            raise TypeError(f"register_container() got {argument}={value!r}, expected a string")
    kinds = {
        "passes_on": EdgeKind.PASSES_ON,
        "forwards": EdgeKind.FORWARDS,
        "skips": EdgeKind.SKIPS,
        "taken_over": EdgeKind.SKIPS,
    }
    if kind not in kinds:
        raise ValueError(f"register_container() got kind={kind!r}, expected one of {', '.join(map(repr, kinds))}")
    if not inside:
        raise ValueError("register_container() got an empty attribute, expected one such as 'app' or 'apps[]'")
    sent = LifespanPolicy.NEVER if kind == "taken_over" else LifespanPolicy.ALWAYS
    _table[name] = ContainerSpec(name, why, (Edge(kinds[kind], inside),), segment, sent=sent)
    _rows_of_classes.clear()


def full_name(cls: type) -> str:
    """Return the name of a class, as the table has it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def never_takes_it(thing: object) -> bool:
    """Return whether an object is of a package whose apps never support the lifespan."""
    return any(cls.__module__.startswith(PACKAGES_WITHOUT_LIFESPAN) for cls in type(thing).__mro__)


def spec_of(thing: object) -> ContainerSpec:
    """Return the row of an object's class, or of the nearest class that it inherits from; else `UNKNOWN`."""
    return spec_of_class(type(thing))


def spec_of_class(cls: type) -> ContainerSpec:
    """Return the row of a class, or of the nearest class that it inherits from; else `UNKNOWN`."""
    found = _rows_of_classes.get(id(cls))
    if found is None:
        if len(_rows_of_classes) >= _MAX_CLASSES:  # pragma: no cover - a program that makes classes by the thousand
            _rows_of_classes.clear()
        found = _rows_of_classes[id(cls)] = cls, _row_of(cls)
    return found[1]


_rows_of_classes: dict[int, tuple[type, ContainerSpec]] = {}
"""The rows that were looked up, by the identity of the class: a metaclass may make classes that have no hash."""

_MAX_CLASSES = 1000
"""How many are kept; some programs make classes by the thousand."""


def _row_of(cls: type) -> ContainerSpec:
    for at, base in enumerate(cls.__mro__):
        if row := _table.get(full_name(base)):
            # class Site(StaticFiles) with a __call__ of its own may well answer a lifespan.
            is_overridden = any("__call__" in vars(derived) for derived in cls.__mro__[:at])
            return UNKNOWN if is_overridden and row.sent is LifespanPolicy.NEVER else row
    return UNKNOWN
