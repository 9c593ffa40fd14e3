"""A FastAPI app, bare and wrapped, for `bench_served`."""

from fastapi import FastAPI

from asgi_lifespan_mw import LifespanMiddleware

bare = FastAPI()


@bare.get("/")
async def root() -> dict[str, str]:
    return {"hello": "world"}


wrapped = LifespanMiddleware(bare)
