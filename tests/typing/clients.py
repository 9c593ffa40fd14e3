"""Giving a wrapped app to test clients."""

import asgiref.testing
import fastapi.testclient
import httpx
import httpx2
import starlette.testclient
from asgiref.typing import HTTPScope
from channels.testing import HttpCommunicator
from fastapi import FastAPI

from asgi_lifespan_mw import Isolated, LifespanManager, LifespanMiddleware

app = LifespanMiddleware(FastAPI())


def test_clients() -> None:
    """Starlette's, and FastAPI's, which is the same."""
    with starlette.testclient.TestClient(app) as client:
        client.get("/")
    with fastapi.testclient.TestClient(Isolated(app)) as client:
        client.get("/")


async def httpx_clients() -> None:
    """Both generations, with and without a manager."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        await client.get("/")
    async with (
        LifespanManager(app) as manager,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=manager.app), base_url="http://shop") as client,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(manager.app), base_url="http://shop") as newer,
    ):
        await client.get("/")
        await newer.get("/")


async def communicators(scope: HTTPScope) -> None:
    """asgiref's, and that of Channels on top of it."""
    # asgiref is typed, but for this class.
    communicator = asgiref.testing.ApplicationCommunicator(app, scope)  # type: ignore[no-untyped-call]
    await communicator.wait()  # type: ignore[no-untyped-call]
    HttpCommunicator(app, "GET", "/")
