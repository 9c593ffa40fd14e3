"""The first example of the README, as it stands."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from asgi_lifespan_mw import Lifespan


@asynccontextmanager
async def open_cache(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
    yield {"cache": "warm"}


admin = FastAPI(lifespan=open_cache)


@admin.get("/")
def status(request: Request) -> dict[str, str]:
    return {"database": request.state.database, "cache": request.state.cache}


hooks = Lifespan()  # starts what is mounted in the app, too


@hooks.context
async def database() -> AsyncGenerator[dict[str, str]]:
    print("open the database")
    yield {"database": "connected"}  # what is yielded is request.state.database
    print("close the database")


app = FastAPI(lifespan=hooks)
app.mount("/admin", admin)
