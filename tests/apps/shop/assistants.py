"""Two MCP servers that let an assistant ask what is in stock: one of the MCP SDK, one of FastMCP.

Both are applications with a lifespan of their own that starts their session manager. Without it they answer
every request with status 500 and log ``Task group is not initialized``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastmcp import FastMCP
from fastmcp.server.dependencies import get_http_request
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from starlette.applications import Starlette

from .announcements import announce
from .database import Database


async def count_stock(database: Database, product: str) -> int:
    """How many pieces of a product there are; none of what the shop does not sell."""
    rows = await database.run("select stock from products where name = ?", product)
    return int(rows[0]["stock"]) if rows else 0


@asynccontextmanager
async def open_sdk_assistant(server: MCPServer[None]) -> AsyncIterator[None]:
    """The lifespan of the MCP SDK's server."""
    announce("started assistant of the MCP SDK")
    yield
    announce("stopped assistant of the MCP SDK")


def create_sdk_assistant() -> Starlette:
    """A server of the MCP SDK. It can be run once, and never again."""
    server = MCPServer("teashop", lifespan=open_sdk_assistant, log_level="WARNING")

    @server.tool()
    async def in_stock(product: str, context: Context) -> int:
        """How many pieces of a product are in stock."""
        request = context.request_context.request
        assert request is not None, "this server is reached through HTTP only"
        return await count_stock(request.state.database, product)

    return server.streamable_http_app(streamable_http_path="/", json_response=True, stateless_http=True)


@asynccontextmanager
async def open_fast_assistant(server: FastMCP[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The lifespan of the FastMCP server."""
    announce("started assistant of FastMCP")
    yield {}
    announce("stopped assistant of FastMCP")


def create_fast_assistant() -> Starlette:
    """A server of FastMCP."""
    server = FastMCP("teashop", lifespan=open_fast_assistant)

    @server.tool
    async def in_stock(product: str) -> int:
        """How many pieces of a product are in stock."""
        return await count_stock(get_http_request().state.database, product)

    return server.http_app(path="/", json_response=True, stateless_http=True)
