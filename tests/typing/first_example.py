"""The first example of the README, as it stands."""

from fastapi import FastAPI
from mcp.server import MCPServer

from asgi_lifespan_mw import Lifespan

assistant = MCPServer("assistant").streamable_http_app(streamable_http_path="/", json_response=True)

app = FastAPI(lifespan=Lifespan(mounts="auto"))
app.mount("/mcp", assistant)
