"""An app with the settings that the chapter on deploying names. Serve it with ``uvicorn tests.apps.deployed:app``."""

import os
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from uvicorn_worker import UvicornWorker

from asgi_lifespan_mw import LifespanMiddleware
from tests.apps.shop.announcements import announce

STARTUP_TIMEOUT = 60
SHUTDOWN_TIMEOUT = 20

api = FastAPI()
app = LifespanMiddleware(api, startup_timeout=STARTUP_TIMEOUT, shutdown_timeout=SHUTDOWN_TIMEOUT)


@app.context
async def pool() -> AsyncIterator[None]:
    """What has to be open before a request is answered."""
    announce("started pool")
    yield
    announce("stopped pool")


@api.get("/health")
def health() -> None:
    """Answer the probes: no request is answered before everything has started."""


@api.get("/process")
def process() -> int:
    """Return the id of the process that answers."""
    return os.getpid()  # pragma: no cover - the process is killed


class Worker(UvicornWorker):
    """Ends open streams at a stop, as the chapter has it."""

    CONFIG_KWARGS: dict[str, Any] = UvicornWorker.CONFIG_KWARGS | {"timeout_graceful_shutdown": 15}


class Impatient(UvicornWorker):
    """The same with a second."""

    CONFIG_KWARGS: dict[str, Any] = UvicornWorker.CONFIG_KWARGS | {"timeout_graceful_shutdown": 1}
