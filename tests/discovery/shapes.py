"""Programs that mount apps, as users write them, and what must start in each of them.

A shape is a function that writes one small program with the help of a `Program`, and returns what the server is given.
The decorator says which apps start without the package, which start with it, and which warnings are logged.
"""

import functools
import logging
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import demo_app

import a2wsgi
import anyio
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles

from asgi_lifespan_mw import Isolated, Lifespan, LifespanManager, LifespanMiddleware
from tests.discovery import shop
from tests.usages import Create, LifespanFunction, around, as_the_lifespan, in_the_stack, show_state

logger = logging.getLogger("shop")


class Pool:
    """What a lifespan opens."""


class Program:
    """A program that is being written.

    Attributes:
        journal: The lifespans that started ("a+") and stopped ("a-").
        way: Where the package is used; None for a program without it.
        options: What the package is given.
    """

    def __init__(self, way: Create | None) -> None:
        self.journal: list[str] = []
        self.way = way
        self.options: dict[str, Any] = {}

    def parent(self, lifespan: Any = None, handlers: tuple[Any, Any] | None = None, **options: Any) -> Any:
        """Return the parent app; `handlers` are functions at startup and at shutdown."""
        self.options = options
        hooks: dict[str, Any] = {}
        if handlers is not None:
            hooks = {"on_startup": [handlers[0]], "on_shutdown": [handlers[1]]}
        if self.way is as_the_lifespan:
            contexts = [] if lifespan is None else [lifespan]
            return FastAPI(
                lifespan=Lifespan(contexts=contexts, mounts=options.pop("mounts", "auto"), **hooks, **options)
            )
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            app = FastAPI(lifespan=lifespan, **hooks)
        if self.way is in_the_stack:
            app.add_middleware(LifespanMiddleware, **options)
        return app

    def served(self, app: Any) -> Any:
        """Return what the server is given for what the program returned."""
        return LifespanMiddleware(app, **self.options) if self.way is around else app

    def life(self, name: str) -> LifespanFunction:
        """Return a lifespan that writes into the journal, and whose state has its name as a key."""
        pool = Pool()

        @asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[dict[str, Any]]:
            self.journal.append(f"{name}+")
            yield {name: pool}
            self.journal.append(f"{name}-")

        return lifespan

    def sub(self, name: str, *routes: BaseRoute) -> Any:
        """Return an app with such a lifespan."""
        return Starlette(lifespan=self.life(name), routes=[Route("/state", show_state), *routes])

    def handled(self, name: str) -> Any:
        """Return an app whose start is an event handler, which cannot be observed."""
        app = FastAPI()
        app.router.on_startup.append(lambda: self.journal.append(f"{name}+"))
        app.router.on_shutdown.append(lambda: self.journal.append(f"{name}-"))
        return app

    def by_class(self, name: str) -> Any:
        """Return an app whose lifespan is a class, which cannot be observed."""
        journal = self.journal

        class Context:
            def __init__(self, _: object) -> None: ...

            async def __aenter__(self) -> None:
                journal.append(f"{name}+")

            async def __aexit__(self, *_: object) -> None:
                journal.append(f"{name}-")

        return Starlette(lifespan=Context)

    def sdk(self, name: str) -> tuple[Any, Any]:
        """Return a server of the MCP SDK and its app, which can be run only once."""
        from mcp.server import MCPServer

        server: MCPServer[Any] = MCPServer(name, lifespan=self.life(name), log_level="WARNING")
        return server, server.streamable_http_app(streamable_http_path="/", json_response=True, stateless_http=True)

    def fast(self, name: str) -> Any:
        """Return the app of a FastMCP server."""
        from fastmcp import FastMCP

        return FastMCP(name, lifespan=self.life(name)).http_app(path="/", json_response=True, stateless_http=True)


@dataclass(frozen=True)
class Shape:
    """A program, and what must come of it.

    Attributes:
        write: Writes it.
        bare: The apps that start without the package, each as often as it starts.
        starts: The apps that start with the package.
        warns: How the warnings begin.
        sees: Paths whose requests see the state of an app.
        tools: Paths at which an MCP server answers.
        ways: The ways of use that fit.
    """

    write: Callable[[Program], Any]
    bare: Sequence[str]
    starts: Sequence[str]
    warns: Sequence[str] = ()
    sees: dict[str, str] = field(default_factory=dict[str, str])
    tools: Sequence[str] = ()
    ways: Sequence[Create] = (around, in_the_stack, as_the_lifespan)


SHAPES: dict[str, Shape] = {}


def shape(
    bare: str,
    starts: str,
    *warns: str,
    sees: str = "",
    tools: str = "",
    ways: Sequence[Create] = (around, in_the_stack, as_the_lifespan),
    name: str = "",
) -> Callable[[Callable[[Program], Any]], Callable[[Program], Any]]:
    """Add a program to the table; words are separated by spaces, and `sees` has words such as ``/a/state=a``."""

    def add(write: Callable[[Program], Any]) -> Callable[[Program], Any]:
        seen = dict(word.split("=") for word in sees.split())
        key = name or write.__name__
        assert key not in SHAPES
        SHAPES[key] = Shape(write, bare.split(), starts.split(), warns, seen, tools.split(), ways)
        return write

    return add


def has_failed(path: str) -> str:
    """Return how the warning begins that somebody tried to start a mount, which failed."""
    return f"mount {path!r} is not started: its start failed in a lifespan around it, or a hook"


def same_function(path: str) -> str:
    """Return how the warning begins that a mount shares its parent's lifespan."""
    return f"mount {path!r} is not started: it has the same lifespan function as an app around it"


# --- The parent starts what it mounts ---


def enters(*apps: Any) -> LifespanFunction:
    """Return a lifespan that enters those of apps."""

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    return lifespan


async def start_mounts(stack: AsyncExitStack, app: Any) -> None:
    """Enter the lifespans of all mounts, by the routes."""
    for route in app.routes:
        if isinstance(route, Mount):
            await stack.enter_async_context(route.app.router.lifespan_context(route.app))  # type: ignore[attr-defined]


@asynccontextmanager
async def starts_mounts(app: Any) -> AsyncIterator[None]:
    """Start whatever is mounted."""
    async with AsyncExitStack() as stack:
        await start_mounts(stack, app)
        yield


@shape("a b", "a b")
def loop_over_the_routes(p: Program) -> Any:
    """The recipe that is copied most."""
    app = p.parent(starts_mounts)
    app.mount("/a", p.sub("a"))
    app.mount("/b", p.sub("b"))
    return app


@shape("a", "a b", sees="/b/state=b")
def loop_over_the_routes_with_a_mark(p: Program) -> Any:
    """Only the marked mounts are started by the parent."""
    a, b = p.sub("a"), p.sub("b")
    a.state.is_marked = True

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for sub in [route.app for route in app.routes if isinstance(route, Mount)]:
                if hasattr(sub.state, "is_marked"):  # type: ignore[attr-defined]
                    await stack.enter_async_context(sub.router.lifespan_context(sub))  # type: ignore[attr-defined]
            yield

    app = p.parent(lifespan)
    app.mount("/a", a)
    app.mount("/b", b)
    return app


@shape("a b", "a b")
def mounts_start_side_by_side(p: Program) -> Any:
    """Each mount lives in a task of its own."""

    async def live(app: Any, stop: anyio.Event, *, task_status: Any) -> None:
        async with app.router.lifespan_context(app):
            task_status.started()
            await stop.wait()

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for route in app.routes[-2:]:
                await tasks.start(live, route.app, stop)
            yield
            stop.set()

    app = p.parent(lifespan)
    app.mount("/a", p.sub("a"))
    app.mount("/b", p.sub("b"))
    return app


def by_hand(name: str, *warns: str, sees: str = "") -> Callable[[Callable[[Any], LifespanFunction]], Any]:
    """Add the program whose parent has a lifespan that starts its one mount."""

    def add(make: Callable[[Any], LifespanFunction]) -> Any:
        def write(p: Program) -> Any:
            sub = p.sub("sub")
            app = p.parent(make(sub))
            app.mount("/sub", sub)
            return app

        return shape("sub", "sub", *warns, sees=sees, name=name)(write)

    return add


@by_hand("in_a_closure")
def _closure(sub: Any) -> LifespanFunction:
    return enters(sub)


@by_hand("by_its_router", sees="/sub/state=sub")
def _router(sub: Any) -> LifespanFunction:
    router = sub.router

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[Any]:
        async with router.lifespan_context(app) as state:
            yield state

    return lifespan


@by_hand("its_lifespan_is_an_argument_of_a_partial", same_function("/sub"), sees="/sub/state=sub")
def _partial(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(runs: Any, app: object) -> AsyncIterator[Any]:
        async with runs(app) as state:
            yield state

    return functools.partial(lifespan, sub.router.lifespan_context)


@by_hand("it_is_an_argument_of_a_partial")
def _argument(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object, *, runs: Any) -> AsyncIterator[Any]:
        async with runs.router.lifespan_context(runs) as state:
            yield state

    return functools.partial(lifespan, runs=sub)


@by_hand("in_a_default", same_function("/sub"))
def _default(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(app: object, *, runs: Any = sub.router.lifespan_context) -> AsyncIterator[Any]:
        async with runs(app) as state:
            yield state

    return lifespan


@by_hand("in_a_list")
def _list(sub: Any) -> LifespanFunction:
    subs = [object(), sub]

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with subs[1].router.lifespan_context(app):
            yield

    return lifespan


@by_hand("in_a_dictionary")
def _dictionary(sub: Any) -> LifespanFunction:
    subs = {"/sub": (sub,)}

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with subs["/sub"][0].router.lifespan_context(app):
            yield

    return lifespan


@by_hand("in_a_registry")
def _registry(sub: Any) -> LifespanFunction:
    registry = SimpleNamespace(sub=sub)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with registry.sub.router.lifespan_context(registry.sub):
            yield

    return lifespan


@by_hand("in_a_dataclass")
def _dataclass(sub: Any) -> LifespanFunction:
    @dataclass
    class Configuration:
        apps: list[Any]

    @asynccontextmanager
    async def lifespan(configuration: Configuration, _: object) -> AsyncIterator[None]:
        async with enters(*configuration.apps)(None):
            yield

    return functools.partial(lifespan, Configuration([sub]))


@by_hand("by_getattr")
def _getattr(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with getattr(sub.router, "lifespan" + "_context")(sub):
            yield

    return lifespan


@by_hand("kept_in_self")
def _self(sub: Any) -> LifespanFunction:
    class Service:
        def __init__(self) -> None:
            self.sub = sub

        @asynccontextmanager
        async def lifespan(self, _: object) -> AsyncIterator[None]:
            async with self.sub.router.lifespan_context(self.sub):
                yield

    return Service().lifespan


@by_hand("in_an_inner_function")
def _inner(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        def start() -> Any:
            return sub.router.lifespan_context(sub)

        async with start():
            yield

    return lifespan


@by_hand("by_a_class_of_contexts")
def _class(sub: Any) -> LifespanFunction:
    class Runs:
        def __init__(self, app: object) -> None:
            self.context: Any = sub.router.lifespan_context(app)

        async def __aenter__(self) -> Any:
            return await self.context.__aenter__()

        async def __aexit__(self, *error: object) -> Any:
            return await self.context.__aexit__(*error)

    return Runs


@by_hand("by_a_callable_object")
def _callable(sub: Any) -> LifespanFunction:
    class Runs:
        @asynccontextmanager
        async def __call__(self, _: object) -> AsyncIterator[None]:
            async with sub.router.lifespan_context(sub):
                yield

    return Runs()


@by_hand("by_a_chain_of_parts", same_function("/sub"))
def _chain(sub: Any) -> LifespanFunction:
    class Parts:
        def __init__(self, *parts: Any) -> None:
            self.parts = parts

        @asynccontextmanager
        async def run(self, app: object) -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                for part in self.parts:
                    await stack.enter_async_context(part(app))
                yield

    return Parts(sub.router.lifespan_context).run


@by_hand("by_a_helper_of_another_module")
def _imported(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with shop.start_all(sub):
            yield

    return lifespan


@by_hand("by_our_manager")
def _manager(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with LifespanManager(sub):
            yield

    return lifespan


@by_hand("by_combined_lifespans", same_function("/sub"))
def _combined(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def own(_: object) -> AsyncIterator[None]:
        yield

    from fastmcp.utilities.lifespan import combine_lifespans

    return combine_lifespans(own, sub.router.lifespan_context)


async def converse(app: Any, started: anyio.Event, stop: anyio.Event) -> None:
    """Send an app the messages of a lifespan."""
    messages = ["lifespan.shutdown", "lifespan.startup"]

    async def receive() -> dict[str, Any]:
        if len(messages) == 1:
            await stop.wait()
        return {"type": messages.pop()}

    async def send(message: dict[str, Any]) -> None:
        started.set()

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


@by_hand("by_messages_in_a_task")
def _messages(sub: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        started, stop = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(converse, sub, started, stop)
            await started.wait()
            yield
            stop.set()

    return lifespan


def by_global(name: str) -> None:
    """Add the program whose parent has a lifespan of the module `shop`."""

    def write(p: Program) -> Any:
        shop.sub = p.sub("sub")
        shop.plain, shop.apps = shop.sub.router.lifespan_context, [shop.sub]
        app = p.parent(getattr(shop, name))
        app.mount("/sub", shop.sub)
        app.include_router(APIRouter())  # which puts the parent's lifespan into a merged one
        return app

    warns = [same_function("/sub")] if name == "by_lifespan_function" else []
    shape("sub", "sub", *warns, name=f"global_{name}")(write)


for _name in ("by_name", "in_a_list", "by_helper", "by_lifespan_function"):
    by_global(_name)


@shape("a", "a")
def in_the_state_of_the_app(p: Program) -> Any:
    """The mounted app is an attribute of ``app.state``."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with app.state.sub.router.lifespan_context(app.state.sub):
            yield

    app = p.parent(lifespan)
    app.state.sub = p.sub("a")
    app.mount("/a", app.state.sub)
    return app


@shape("a", "a")
def entered_in_event_handlers(p: Program) -> Any:
    """A function at startup enters the lifespan, and one at shutdown leaves it."""
    sub, stack = p.sub("a"), AsyncExitStack()

    async def start() -> None:
        await stack.enter_async_context(sub.router.lifespan_context(sub))

    app = p.parent(handlers=(start, stack.aclose))
    app.mount("/a", sub)
    return app


@shape("a", "a")
def event_handlers_entered_in_event_handlers(p: Program) -> Any:
    """So it is of an app that has nothing but event handlers, which cannot be observed."""
    sub, stack = p.handled("a"), AsyncExitStack()

    async def start() -> None:
        await stack.enter_async_context(sub.router.lifespan_context(sub))

    app = p.parent(handlers=(start, stack.aclose))
    app.mount("/a", sub)
    return app


@shape("", "a")
def event_handlers_alone(p: Program) -> Any:
    """An app with event handlers that nobody starts."""
    app = p.parent()
    app.mount("/a", p.handled("a"))
    return app


@shape("a", "a")
def a_class_entered_by_a_wrapped_parent(p: Program) -> Any:
    """The parent is behind a wrapper that nobody knows."""
    sub = p.by_class("a")
    app = p.parent(enters(sub))
    app.mount("/a", sub)
    return Attribute(app)


@shape("a", "a")
def a_class_entered_by_the_parent(p: Program) -> Any:
    """A lifespan that is a class cannot be observed; the parent's code enters it."""
    sub = p.by_class("a")
    app = p.parent(enters(sub))
    app.mount("/a", sub)
    return app


@shape("main", "main a")
def a_class_alone(p: Program) -> Any:
    """The same app under a parent that does not know it."""
    app = p.parent(p.life("main"))
    app.mount("/a", p.by_class("a"))
    return app


@shape("a", "a", name="a_class_insisted_on")
def _insisted(p: Program) -> Any:
    sub = p.by_class("a")
    app = p.parent(enters(sub), mounts=[sub])
    app.mount("/a", sub)
    return app


@shape("a", "a", name="a_class_excluded")
def _excluded_class(p: Program) -> Any:
    sub = p.by_class("a")
    app = p.parent(enters(sub), exclude=[sub])
    app.mount("/a", sub)
    return app


@shape("child", "child grandchild", sees="/child/grandchild/state=grandchild")
def the_grandchild_is_left(p: Program) -> Any:
    """The parent starts the child, and nobody what is mounted inside."""
    child = p.sub("child", Mount("/grandchild", p.sub("grandchild")))
    app = p.parent(enters(child))
    app.mount("/child", child)
    return app


@shape("grandchild", "grandchild child")
def the_grandchild_is_started(p: Program) -> Any:
    """A parent further up starts an app."""
    grandchild = p.sub("grandchild")
    app = p.parent(enters(grandchild))
    app.mount("/child", p.sub("child", Mount("/grandchild", grandchild)))
    return app


@shape("main", "main grandchild")
def the_child_starts_the_grandchild(p: Program) -> Any:
    """A parent is any app with mounts."""
    app = p.parent(p.life("main"))
    app.mount("/child", Starlette(lifespan=starts_mounts, routes=[Mount("/grandchild", p.sub("grandchild"))]))
    return app


@shape("main sub", "main sub deep")
def included_and_mounted(p: Program) -> Any:
    """``include_router(sub.router)`` runs the lifespan of the app, which is mounted too."""
    sub = FastAPI(lifespan=p.life("sub"))
    sub.mount("/deep", p.sub("deep"))
    app = p.parent(p.life("main"))
    app.include_router(sub.router, prefix="/merged")
    app.mount("/sub", sub)
    return app


@shape("main router", "main router")
def an_included_router_is_mounted(p: Program) -> Any:
    """A router is mounted first and included afterwards."""
    router = APIRouter(lifespan=p.life("router"))
    app = p.parent(p.life("main"))
    app.mount("/mounted", router)
    app.include_router(router, prefix="/included")
    return app


@shape("main a", "main a", ways=(around,))
def a_forwarding_middleware(p: Program) -> Any:
    """A middleware of the user's own hands the lifespan to the parent and to the mount."""
    app, sub = p.parent(p.life("main")), p.sub("a")
    app.mount("/a", sub)
    return Forwards(app, sub)


@shape("broken", "broken", has_failed("/broken"))
def a_failure_that_the_parent_tolerates(p: Program) -> Any:
    """A second try would end the startup."""

    @asynccontextmanager
    async def broken(_: object) -> AsyncIterator[None]:
        p.journal.extend(["broken+", "broken-"])
        raise OSError("no such host")
        yield  # pragma: no cover - makes it a generator

    sub = Starlette(lifespan=broken)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        with suppress(OSError):
            await sub.router.lifespan_context(sub).__aenter__()
        yield

    app = p.parent(lifespan)
    app.mount("/broken", sub)
    return app


# --- MCP servers ---


@shape("one", "one two", tools="/one/ /two/", name="one_of_two_session_managers")
def _one_of_two(p: Program) -> Any:
    (server, one), (_, two) = p.sdk("one"), p.sdk("two")

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    app = p.parent(lifespan)
    app.mount("/one", one)
    app.mount("/two", two)
    return app


@shape("one two three", "one two three sub", tools="/one/ /two/ /three/")
def session_managers_in_a_stack(p: Program) -> Any:
    """The SDK's recipe for several servers."""
    servers = {name: p.sdk(name) for name in ("one", "two", "three")}

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for server, _app in servers.values():
                await stack.enter_async_context(server.session_manager.run())
            yield

    app = p.parent(lifespan)
    for name, (_, sub) in servers.items():
        app.mount(f"/{name}", sub)
    app.mount("/sub", p.sub("sub"))
    return app


@shape("one", "one", tools="/one/")
def an_mcp_app_in_the_state(p: Program) -> Any:
    """The parent enters the lifespan of the SDK's app, which it finds in its state."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with app.state.mcp.router.lifespan_context(app.state.mcp):
            yield

    app = p.parent(lifespan)
    app.state.mcp = p.sdk("one")[1]
    app.mount("/one", app.state.mcp)
    return app


@shape("one", "one")
def an_mcp_app_that_is_made_in_the_lifespan(p: Program) -> Any:
    """The app is new in each run."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        server, sub = p.sdk("one")
        app.mount("/one", sub)
        async with server.session_manager.run():
            yield

    return p.parent(lifespan)


@shape("one sub", "one sub", tools="/one/", name="a_session_manager_whose_app_is_excluded")
def _excluded_sdk(p: Program) -> Any:
    server, one = p.sdk("one")

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with server.session_manager.run(), enters(sub)(app):
            yield

    sub = p.sub("sub")
    app = p.parent(lifespan, exclude=[one])
    app.mount("/one", one)
    app.mount("/sub", sub)
    return app


@shape("main", "main sdk fast", tools="/sdk/ /fast/")
def mcp_servers_alone(p: Program) -> Any:
    """Nobody starts them; without the package they answer 500."""
    app = p.parent(p.life("main"))
    app.mount("/sdk", p.sdk("sdk")[1])
    app.mount("/fast", p.fast("fast"))
    return app


@shape("fast", "fast", tools="/fast/")
def fastmcp_as_the_lifespan(p: Program) -> Any:
    """FastMCP's recipe: ``FastAPI(lifespan=mcp_app.lifespan)``."""
    fast = p.fast("fast")
    app = p.parent(fast.lifespan)
    app.mount("/fast", fast)
    app.include_router(APIRouter())
    return app


@shape("main fast", "main fast", tools="/fast/")
def fastmcp_combined(p: Program) -> Any:
    """FastMCP's recipe with ``combine_lifespans``."""
    from fastmcp.utilities.lifespan import combine_lifespans

    fast = p.fast("fast")
    app = p.parent(combine_lifespans(p.life("main"), fast.lifespan))
    app.mount("/fast", fast)
    return app


@shape("fast", "fast", tools="/outer/fast/")
def fastmcp_in_a_nested_mount(p: Program) -> Any:
    """FastMCP's recipe for nested mounts."""
    fast = p.fast("fast")
    app = p.parent(fast.lifespan)
    app.mount("/outer", Starlette(routes=[Mount("/fast", fast)]))
    return app


@shape("fast", "fast", tools="/fast/")
def fastmcp_entered_by_hand(p: Program) -> Any:
    """``async with mcp_app.lifespan(app)`` in a lifespan."""
    fast = p.fast("fast")

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with fast.lifespan(app):
            yield

    app = p.parent(lifespan)
    app.mount("/fast", fast)
    return app


# --- Lifespans that add apps, or only mention them ---


@shape("a", "a b", sees="/b/state=b")
def two_are_made_and_one_is_entered(p: Program) -> Any:
    """Both apps are made and mounted in the lifespan."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        a = p.sub("a")
        app.mount("/a", a)
        app.mount("/b", p.sub("b"))
        async with a.router.lifespan_context(a):
            yield

    return p.parent(lifespan)


@shape("", "a")
def mentioned_in_the_log(p: Program) -> Any:
    """A lifespan that is logged is not entered."""
    sub = p.sub("a")

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        logger.debug("%s has the lifespan %s", sub, sub.router.lifespan_context)
        yield

    app = p.parent(lifespan)
    app.mount("/a", sub)
    return app


@shape("", "a")
def switched_off(p: Program) -> Any:
    """The code that would start the app does not run."""
    subs = {"on": [], "off": [p.sub("a")]}

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with enters(*subs["on"])(app):
            yield

    app = p.parent(lifespan)
    app.mount("/a", subs["off"][0])
    return app


@shape("", "sub", name="only_mounted_by_a_lifespan", sees="/sub/state=sub")
def _only_mounted(p: Program) -> Any:
    shop.sub = p.sub("sub")
    return p.parent(shop.only_mounts)


@shape("other", "other sub", name="mounted_by_a_lifespan_that_starts_another")
def _another(p: Program) -> Any:
    shop.sub, shop.apps = p.sub("sub"), [p.sub("other")]
    return p.parent(shop.starts_another)


@shape("", "a")
def settings_that_raise(p: Program) -> Any:
    """The lifespan names a mapping that raises when it is read."""

    class Settings(dict[str, str]):
        def values(self) -> Any:
            raise AssertionError

        __iter__ = __len__ = items = values

    settings = Settings()

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.state.settings = settings
        assert app.router.lifespan_context
        yield

    app = p.parent(lifespan)
    app.mount("/a", p.sub("a"))
    return app


# --- One lifespan for several apps ---


@shape("sub", "sub", same_function("/sub"), name="the_parent_has_the_lifespan_of_its_mount")
def _same(p: Program) -> Any:
    sub = p.sub("sub")
    app = p.parent(sub.router.lifespan_context)
    app.mount("/sub", sub)
    return app


@shape("sub", "sub", name="a_decorated_function_around_the_lifespan_of_a_mount")
def _decorated(p: Program) -> Any:
    sub = p.sub("sub")

    @functools.wraps(sub.router.lifespan_context)
    def lifespan(app: object) -> AbstractAsyncContextManager[Any]:
        context: AbstractAsyncContextManager[Any] = sub.router.lifespan_context(app)
        return context

    app = p.parent(lifespan)
    app.mount("/sub", sub)
    return app


@shape("one", "one one", name="one_lifespan_insisted_on")
def _insisted_shared(p: Program) -> Any:
    shared = p.life("one")
    sub = Starlette(lifespan=shared)
    app = p.parent(shared, mounts=[sub])
    app.mount("/sub", sub)
    return app


def shared_by_siblings(kind: str, make: Callable[[LifespanFunction], Any]) -> None:
    """Add a program in which two mounts have one lifespan: each has a run of its own."""

    def write(p: Program) -> Any:
        shared = make(p.life("one"))
        app = p.parent(p.life("main"))
        app.mount("/a", Starlette(lifespan=shared))
        app.mount("/b", Starlette(lifespan=shared))
        return app

    shape("main", "main one one", name=f"siblings_share_{kind}")(write)


class CallableLifespan:
    """A lifespan that is an object, or a method."""

    def __init__(self, lifespan: LifespanFunction) -> None:
        self.lifespan = lifespan

    @asynccontextmanager
    async def __call__(self, app: object) -> AsyncIterator[Any]:
        async with self.lifespan(app) as state:
            yield state


shared_by_siblings("a_function", lambda lifespan: lifespan)
shared_by_siblings("a_partial", functools.partial)
shared_by_siblings("an_object", CallableLifespan)
shared_by_siblings("a_method", lambda lifespan: CallableLifespan(lifespan).__call__)
shared_by_siblings("our_hooks", lambda lifespan: Lifespan(contexts=[lifespan]))


def shared_with_the_parent(kind: str, make: Callable[[LifespanFunction], Any]) -> None:
    """Add a program in which parent and mount have one lifespan: the run was the parent's, and a warning says so."""

    def write(p: Program) -> Any:
        shared = make(p.life("one"))
        app = p.parent(shared)
        app.mount("/sub", Starlette(lifespan=shared))
        return app

    shape("one", "one", same_function("/sub"), name=f"the_parent_shares_{kind}")(write)


shared_with_the_parent("a_function", lambda lifespan: lifespan)
shared_with_the_parent("a_partial", functools.partial)
shared_with_the_parent("an_object", CallableLifespan)
shared_with_the_parent("a_method", lambda lifespan: CallableLifespan(lifespan).__call__)


# --- Wrappers of the user's own ---


class Forwards:
    """A middleware that hands the lifespan to several apps, and requests to the first."""

    def __init__(self, *apps: Any) -> None:
        self.apps = apps

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":  # pragma: no cover - no request is sent
            await self.apps[0](scope, receive, send)
            return
        await receive()
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for app in self.apps:
                started = anyio.Event()
                tasks.start_soon(converse, app, started, stop)
                await started.wait()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            stop.set()
        await send({"type": "lifespan.shutdown.complete"})


class Attribute:
    """A wrapper with an attribute of its own name."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(scope, receive, send)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Do the same, to be mounted as a bound method."""
        await self._inner(scope, receive, send)


class Slots:
    """A wrapper with slots, one of which is empty."""

    __slots__ = ("application", "cache")

    def __init__(self, inner: Any) -> None:
        self.application = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.application(scope, receive, send)


class InAList:
    """A wrapper that keeps apps in a list."""

    def __init__(self, inner: Any) -> None:
        self.apps = [inner]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.apps[0](scope, receive, send)


class Answers:
    """A wrapper that answers the lifespan and keeps it from its app."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for answer in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{answer}.complete"})
            return
        await self.inner(scope, receive, send)


class Refuses(Answers):
    """A wrapper that does not support the lifespan."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise ValueError("requests only")
        await self.inner(scope, receive, send)


def in_a_function(inner: Any) -> Any:
    """Wrap an app in a function."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    return outer


async def _pass(inner: Any, scope: Any, receive: Any, send: Any) -> None:
    await inner(scope, receive, send)


def decorated(inner: Any) -> Any:
    """Wrap an app in a function that has the name of another one."""

    @functools.wraps(inner, updated=())
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    return outer


def in_a_class(inner: Any) -> Any:
    """Wrap an app in an object whose class holds the app."""

    class Site:
        app_of_all = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app_of_all(scope, receive, send)

    return Site()


PASSING: dict[str, Callable[[Any], Any]] = {
    "attribute": Attribute,
    "slots": Slots,
    "list": InAList,
    "class": in_a_class,
    "function": in_a_function,
    "decorated": decorated,
    "lambda": lambda inner: lambda scope, receive, send: inner(scope, receive, send),  # noqa: PLW0108 - a function of its own
    "partial": lambda inner: functools.partial(_pass, inner),
    "keyword_partial": lambda inner: functools.partial(in_a_function(inner)),
    "method": lambda inner: Attribute(inner).handle,
    "middleware": GZipMiddleware,
    "two_wrappers": lambda inner: GZipMiddleware(in_a_function(Attribute(inner))),
    "isolated": Isolated,
}
"""Wrappers that pass the lifespan on."""

WRAPPERS = PASSING | {"answers": Answers, "refuses": Refuses}


def around_the_parent(kind: str, wrap: Callable[[Any], Any]) -> None:
    """Add the program whose parent is wrapped: the lifespan reaches it, and its mount is ours."""

    def write(p: Program) -> Any:
        app = p.parent(p.life("main"))
        app.mount("/a", p.sub("a"))
        return wrap(app)

    shape("main", "main a", sees="/a/state=a", name=f"around_the_parent_{kind}")(write)


def around_a_mount(kind: str, wrap: Callable[[Any], Any]) -> None:
    """Add the programs whose mount is wrapped: nobody starts it, the parent starts it, it is excluded."""

    def alone(p: Program) -> Any:
        app = p.parent(p.life("main"))
        app.mount("/a", wrap(p.sub("a", Mount("/deep", p.sub("deep")))))
        return app

    def started(p: Program) -> Any:
        sub = p.sub("a", Mount("/deep", p.sub("deep")))
        app = p.parent(enters(sub))
        app.mount("/a", wrap(sub))
        return app

    def excluded(p: Program) -> Any:
        sub = p.sub("a", Mount("/deep", p.sub("deep")))
        app = p.parent(p.life("main"), exclude=[sub])
        app.mount("/a", wrap(sub))
        return app

    shape("main", "main a deep", sees="/a/state=a /a/deep/state=deep", name=f"around_a_mount_{kind}")(alone)
    shape("a", "a deep", name=f"around_a_started_mount_{kind}")(started)
    shape("main", "main", name=f"around_an_excluded_mount_{kind}")(excluded)


for _kind, _wrap in PASSING.items():
    around_the_parent(_kind, _wrap)
for _kind, _wrap in WRAPPERS.items():
    around_a_mount(_kind, _wrap)


@shape("main", "main a", sees="/old/state=a /new/state=a")
def mounted_twice_once_wrapped(p: Program) -> Any:
    """One app at two paths."""
    app, sub = p.parent(p.life("main")), p.sub("a")
    app.mount("/old", in_a_function(sub))
    app.mount("/new", sub)
    return app


@shape("main", "main a")
def a_method_at_two_paths(p: Program) -> Any:
    """``gate.handle`` is another object each time."""
    app, gate = p.parent(p.life("main")), Attribute(p.sub("a"))
    app.mount("/old", gate.handle)
    app.mount("/new", gate.handle)
    return app


@shape("site", "api site", sees="/state=api", ways=(around,))
def a_dispatcher(p: Program) -> Any:
    """A function sends requests to one of two apps, and the lifespan to one of them."""
    api, site = p.sub("api"), p.sub("site")

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        await (api if scope["type"] == "http" else site)(scope, receive, send)

    return dispatch


# --- Apps that keep other apps ---


class Plugin(Starlette):
    """A sub-app that keeps another app as ``.app``."""

    def __init__(self, app: Any, lifespan: Any) -> None:
        super().__init__(lifespan=lifespan, routes=[Route("/state", show_state)])
        self.app = app


class RawPlugin:
    """A raw ASGI app that keeps another app for its version, and handles the lifespan."""

    def __init__(self, app: Any, p: Program, name: str) -> None:
        self.app, self.p, self.name = app, p, name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        assert self.app is not None
        for sign, answer in (("+", "startup"), ("-", "shutdown")):
            await receive()
            self.p.journal.append(self.name + sign)
            await send({"type": f"lifespan.{answer}.complete"})


@shape("main", "main plugin", sees="/plugin/state=plugin")
def a_mount_keeps_its_parent(p: Program) -> Any:
    """A sub-app knows the app that it is mounted in."""
    app = p.parent(p.life("main"))
    app.mount("/plugin", Plugin(app, p.life("plugin")))
    return app


@shape("main", "main plugin")
def a_raw_mount_keeps_its_parent(p: Program) -> Any:
    """So does an app without a framework."""
    app = p.parent(p.life("main"))
    app.mount("/plugin", RawPlugin(app, p, "plugin"))
    return app


@shape("main", "main a plugin", sees="/plugin/state=plugin")
def a_mount_keeps_a_sibling(p: Program) -> Any:
    """A sub-app knows another sub-app."""
    app, sub = p.parent(p.life("main")), p.sub("a")
    app.mount("/a", sub)
    app.mount("/plugin", Plugin(sub, p.life("plugin")))
    return app


@shape("main", "main a", name="an_excluded_mount_keeps_its_parent")
def _excluded_plugin(p: Program) -> Any:
    plugin = Plugin(None, p.life("plugin"))
    app = p.parent(p.life("main"), exclude=[plugin])
    plugin.app = app
    app.mount("/plugin", plugin)
    app.mount("/a", p.sub("a"))
    return app


@shape("main", "main plugin page")
def a_mount_mounts_another_one_in_its_parent(p: Program) -> Any:
    """The lifespan of a sub-app adds a route to the parent."""
    app = p.parent(p.life("main"))
    own = p.life("plugin")

    @asynccontextmanager
    async def lifespan(sub: object) -> AsyncIterator[None]:
        app.mount("/page", p.sub("page"))
        async with own(sub):
            yield

    app.mount("/plugin", Plugin(app, lifespan))
    return app


# --- What expects no lifespan ---


def expects_none(kind: str, make: Callable[[Program], Any], *warns: str) -> None:
    """Add the program that mounts something which must not be sent a lifespan."""

    def write(p: Program) -> Any:
        app = p.parent(p.life("main"))
        app.mount("/none", make(p))
        return app

    shape("main", "main", *warns, name=f"expects_no_lifespan_{kind}")(write)


def _called(p: Program) -> Any:
    async def listen(scope: Any, receive: Any, send: Any) -> None:  # pragma: no cover - must not be called
        p.journal.append("called+")
        while (await receive())["type"] != "http.disconnect":
            pass

    return listen


def _static(_: Program) -> Any:
    return StaticFiles(directory="/", check_dir=False)


class OwnStaticFiles(StaticFiles):
    """A subclass, as users write."""


class Service:
    """A class that was mounted where an instance was meant."""


expects_none("function", _called)
expects_none("function_behind_a_middleware", lambda p: GZipMiddleware(_called(p)))
expects_none("function_in_a_function", lambda p: in_a_function(_called(p)))
expects_none("method", lambda p: Attribute(_called(p)).handle)
expects_none("wsgi", lambda _: a2wsgi.WSGIMiddleware(demo_app))  # type: ignore[arg-type]
expects_none("wrapped_wsgi", lambda _: CORSMiddleware(in_a_function(a2wsgi.WSGIMiddleware(demo_app))))  # type: ignore[arg-type]
expects_none("static_files", lambda _: OwnStaticFiles(directory="/", check_dir=False))
expects_none("wrapped_static_files", lambda p: Attribute(_static(p)))
expects_none("endpoint_class", lambda _: HTTPEndpoint)
expects_none("class", lambda _: Service, "mount '/none' is the class Service, expected an instance")


@shape("main", "main own", name="own_lifespan_around_static_files")
def _own_around_static(p: Program) -> Any:
    own, files = p.sub("own"), _static(p)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await (own if scope["type"] == "lifespan" else files)(scope, receive, send)

    app = p.parent(p.life("main"))
    app.mount("/own", outer)
    return app


@shape("main", "main raw")
def a_function_with_a_lifespan(p: Program) -> Any:
    """A plain function that handles the lifespan is started."""

    async def raw(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await RawPlugin(p, p, "raw")(scope, receive, send)

    app = p.parent(p.life("main"))
    app.mount("/raw", raw)
    return app


# --- The package in itself, and other containers ---


@shape("main", "main hook sub deep", name="a_mounted_middleware", sees="/sub/deep/state=hook")
def _mounted_middleware(p: Program) -> Any:
    app = p.parent(p.life("main"))
    sub = p.sub("sub", Mount("/deep", p.sub("deep")))
    app.mount("/sub", LifespanMiddleware(sub, lifespan=p.life("hook")))
    return app


@shape("sub deep", "sub deep", name="a_mounted_middleware_that_the_parent_starts")
def _started_middleware(p: Program) -> Any:
    sub = LifespanMiddleware(p.sub("sub", Mount("/deep", p.sub("deep"))))

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with LifespanManager(sub):
            yield

    app = p.parent(lifespan)
    app.mount("/sub", sub)
    return app


@shape("sub", "hook sub deep", name="a_mounted_middleware_whose_app_the_parent_starts", sees="/sub/deep/state=hook")
def _middleware_around_a_started_app(p: Program) -> Any:
    sub = p.sub("sub", Mount("/deep", p.sub("deep")))
    app = p.parent(enters(sub))
    app.mount("/sub", LifespanMiddleware(sub, lifespan=p.life("hook")))
    return app


@shape("sub", "sub sub", name="a_parent_whose_run_of_a_mount_is_over")
def _over(p: Program) -> Any:
    """It migrates a database with the pool of the mount, which is then to serve."""
    sub = p.sub("sub")

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with enters(sub)(app):
            pass
        yield

    app = p.parent(lifespan)
    app.mount("/sub", sub)
    return app


@shape("main", "main main", ways=(around,), name="a_hook_whose_run_of_the_wrapped_app_is_over")
def _root_over(p: Program) -> Any:
    app = p.parent(p.life("main"))

    @asynccontextmanager
    async def hook(_: object) -> AsyncIterator[None]:
        async with app.router.lifespan_context(app):
            pass
        yield

    p.options["lifespan"] = hook
    return app


@shape("main", "main a", ways=(around,), name="a_hook_that_starts_the_wrapped_app")
def _hook_that_starts_the_wrapped_app(p: Program) -> Any:
    app = p.parent(p.life("main"))
    app.mount("/a", p.sub("a"))
    p.options["lifespan"] = lambda _: app.router.lifespan_context(app)
    return app


def _name_of(usage: Any) -> str:
    name: str = usage.__name__
    return name


def mounted_usage(usage: Create) -> None:
    """Add the program that mounts an application which uses the package itself."""

    def write(p: Program) -> Any:
        inner, mounted = usage(p.life("inner"))
        inner.mount("/sub", p.sub("sub"))
        app = p.parent(p.life("main"))
        app.mount("/inner", mounted)
        return app

    shape("main", "main inner sub", name=f"mounted_{_name_of(usage)}")(write)


for _usage in (around, in_the_stack, as_the_lifespan):
    mounted_usage(_usage)


@shape("main", "main host router deep")
def hosts_and_routers(p: Program) -> Any:
    """Apps behind a host, in a bare router and in a group of routes."""
    app = p.parent(p.life("main"))
    app.router.routes.append(Host("shop.example", p.sub("host")))
    app.mount(
        "/router", Router(lifespan=p.life("router"), routes=[Mount("/group", routes=[Mount("/x", p.sub("deep"))])])
    )
    return app


@shape("main", "main a")
def routes_that_are_made_anew(p: Program) -> Any:
    """A property makes the routes at each access, so identities are reused."""
    sub = p.sub("a")

    class Fresh(Router):
        @property
        def routes(self) -> Any:
            return [Mount("/a", sub)]

        @routes.setter
        def routes(self, _: object) -> None: ...

    app = p.parent(p.life("main"))
    app.mount("/fresh", Fresh())
    return app
