"""The recipes of the MCP SDK and of FastMCP, in the versions that are installed: 1.x or 2.x, and 2 to 4.

Such a server runs only once, and answers 500 as long as it does not run. So a startup that succeeds and a request that
is answered show that it was started exactly once, by whomever.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.discovery.shapes import Program
from tests.discovery.test_shapes import initialize
from tests.usages import USAGES, Create, serving

Recipe = Callable[[Program], tuple[Any, list[str]]]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """FastMCP runs on asyncio alone."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


def _sdk() -> tuple[Any, Any]:
    """Return a server of the SDK, and its app."""
    options = {"streamable_http_path": "/", "json_response": True, "stateless_http": True}
    module = import_module("mcp.server")
    if hasattr(module, "MCPServer"):
        server = module.MCPServer("sdk", log_level="WARNING")
        return server, server.streamable_http_app(**options)
    server = import_module("mcp.server.fastmcp").FastMCP(
        "sdk", log_level="WARNING", **options
    )  # pragma: no cover - 1.x
    return server, server.streamable_http_app()  # pragma: no cover - 1.x


def _fast() -> Any:
    """Return the app of a FastMCP server."""
    return import_module("fastmcp").FastMCP("fast").http_app(path="/", json_response=True, stateless_http=True)


def nobody_starts_them(p: Program) -> tuple[Any, list[str]]:
    """Both are mounted, and that is all."""
    app = p.parent(p.life("main"))
    app.mount("/sdk", _sdk()[1])
    app.mount("/fast", _fast())
    return app, ["/sdk/", "/fast/"]


def one_session_manager(p: Program) -> tuple[Any, list[str]]:
    """``async with server.session_manager.run()`` in the parent's lifespan."""
    server, sdk = _sdk()

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    app = p.parent(lifespan)
    app.mount("/sdk", sdk)
    return app, ["/sdk/"]


def several_session_managers(p: Program) -> tuple[Any, list[str]]:
    """The same in an ``AsyncExitStack``; a third server is mounted, and that is all."""
    servers = [_sdk() for _ in range(3)]

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for server, _app in servers[:2]:
                await stack.enter_async_context(server.session_manager.run())
            yield

    app = p.parent(lifespan)
    for at, (_, sdk) in enumerate(servers):
        app.mount(f"/{at}", sdk)
    return app, ["/0/", "/1/", "/2/"]


def lifespan_of_the_app(p: Program) -> tuple[Any, list[str]]:
    """``FastAPI(lifespan=mcp_app.lifespan)``."""
    fast = _fast()
    app = p.parent(fast.lifespan)
    app.mount("/fast", fast)
    return app, ["/fast/"]


def lifespan_of_the_app_nested(p: Program) -> tuple[Any, list[str]]:
    """The same, with the app in a mount of a mount."""
    fast = _fast()
    app = p.parent(fast.lifespan)
    app.mount("/outer", Starlette(routes=[Mount("/fast", fast)]))
    return app, ["/outer/fast/"]


def lifespan_by_hand(p: Program) -> tuple[Any, list[str]]:
    """``async with mcp_app.lifespan(app)``, beside a server of the SDK in another app."""
    fast, inner = _fast(), FastAPI()
    inner.mount("/sdk", _sdk()[1])

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with fast.lifespan(app):
            yield

    app = p.parent(lifespan)
    app.mount("/fast", fast)
    app.mount("/inner", inner)
    return app, ["/fast/", "/inner/sdk/"]


RECIPES: list[Recipe] = [
    nobody_starts_them,
    one_session_manager,
    several_session_managers,
    lifespan_of_the_app,
    lifespan_of_the_app_nested,
    lifespan_by_hand,
]


@pytest.mark.parametrize("way", USAGES)
@pytest.mark.parametrize("recipe", RECIPES)
async def test_a_recipe_starts_each_server_once(recipe: Recipe, way: Create, caplog: pytest.LogCaptureFixture) -> None:
    """Each server answers, and nothing is warned of."""
    program = Program(way)
    app, paths = recipe(program)
    served = program.served(app)
    async with serving(served):
        assert [await initialize(served, path) for path in paths] == [200] * len(paths)
    assert [
        record for record in caplog.records if record.name == "asgi_lifespan_mw" and record.levelname != "INFO"
    ] == []
