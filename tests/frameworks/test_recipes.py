"""Recipes by which a parent starts its sub-app itself, where several frameworks meet: each app exactly once.

The recipes of one framework alone are in its own file; those of Starlette, FastAPI, FastMCP and the MCP SDK, run
in every use of the package, are in `tests/discovery/shapes.py`.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastmcp import FastMCP
from fastmcp.utilities.lifespan import combine_lifespans
from mcp.server import MCPServer

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs

pytestmark = ASYNCIO


def gradio(app: FastAPI) -> None:
    """Put Gradio's lifespan around the app's."""
    gr = needs("gradio", "gradio")
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.Markdown("hello")
    gr.mount_gradio_app(app, blocks, "/gradio")


def nicegui(app: FastAPI) -> None:
    """Put NiceGUI's lifespan around the app's."""
    needs("nicegui", "nicegui").ui.run_with(app, mount_path="/gui", show_welcome_message=False)


def panel(app: FastAPI) -> None:
    """Put Panel's lifespan around the app's."""
    needs("panel", "panel.io.fastapi").add_applications({"/panel": str}, app=app)


def include_router(app: FastAPI) -> None:
    """Merge a router's lifespan with the app's."""
    app.include_router(APIRouter())


AROUND = pytest.mark.parametrize("put_around", [gradio, nicegui, panel, include_router])


@pytest.fixture(autouse=True)
def _reset(request: pytest.FixtureRequest) -> Iterator[None]:
    """NiceGUI has one app in a process."""
    if request.node.callspec.params.get("put_around") is not nicegui:
        yield
        return
    with needs("nicegui", "nicegui.testing.general").nicegui_reset_globals():
        yield


@AROUND
async def test_who_puts_a_lifespan_around_does_not_hide_whom_the_parent_runs(
    witness: Witness, put_around: Callable[[FastAPI], None], caplog: pytest.LogCaptureFixture
) -> None:
    """By hand and by FastMCP's own recipe."""
    sub = witness.starlette("sub")
    fast = FastMCP("fast", lifespan=witness.lifespan("fast")).http_app(path="/")

    @asynccontextmanager
    async def by_hand(app: object) -> AsyncIterator[Any]:
        async with sub.router.lifespan_context(sub) as state:
            yield state

    app = FastAPI(lifespan=combine_lifespans(by_hand, fast.lifespan))
    put_around(app)
    app.mount("/sub", sub)
    app.mount("/fast", fast)
    app.mount("/beside", witness.raw("beside"))
    await witness.sees(app, "sub", "fast", "beside", state={"/beside/": "beside"})
    ours = [record for record in caplog.records if record.name == "asgi_lifespan_mw"]
    warnings = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert warnings == []


@AROUND
async def test_a_session_manager_that_the_parent_runs_is_not_run_again(
    witness: Witness, put_around: Callable[[FastAPI], None]
) -> None:
    """``session_manager.run()`` is seen to begin, whoever puts a lifespan around it."""
    server = MCPServer("sdk", lifespan=witness.lifespan("sdk"), log_level="WARNING")
    sdk = server.streamable_http_app(streamable_http_path="/")

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    app = FastAPI(lifespan=lifespan)
    put_around(app)
    app.mount("/tools", sdk)
    await witness.sees(app, "sdk")
