"""What types refuse: each line is a mistake, of which they tell before it is run, and each comment is needed.

A few things are refused only while running, for their types are those of honest code as well:

- a context given as a function, ``hooks.on_startup(generator_function)``: a function may return anything, for what it
  returns is dropped if it can't be awaited. The same goes for a coroutine function as ``on_crash`` or in `threaded`;
- a `Lifespan` given as a context, ``hooks.context(more)``, which belongs to `include`: it takes an app and returns a
  context manager;
- what ``@asynccontextmanager`` makes, ``hooks.context(manager())``: it can be called, as a decorator;
- a `Lifespan` that is included twice, and seconds that are not positive.
"""

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from typing import Self

import anyio
import httpx
from fastapi import FastAPI
from litestar import Litestar
from starlette.applications import Starlette
from starlette.middleware import Middleware

from asgi_lifespan_mw import (
    Isolated,
    Lifespan,
    LifespanManager,
    LifespanMiddleware,
    check_lifespan,
    register_container,
    threaded,
)

hooks = Lifespan()
app = LifespanMiddleware(FastAPI())


async def hook() -> None: ...


async def context(app: FastAPI) -> AsyncIterator[None]:
    yield


async def takes_two(app: FastAPI, state: dict[str, str]) -> AsyncIterator[None]:
    yield


async def needs_a_name(*, name: str) -> None: ...


async def yields_a_number() -> AsyncIterator[int]:
    yield 1


@contextmanager
def yields_a_list() -> Generator[list[str]]:
    yield []


def takes_a_scope(scope: dict[str, str]) -> None: ...


class Connection:
    """A context manager whose object is no state."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None: ...


# --- no app ---

LifespanMiddleware()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
LifespanMiddleware(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware("shop:app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(hooks)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(takes_a_scope)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Isolated(hooks)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Isolated(Starlette)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanManager(LifespanManager)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanManager(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# --- no argument, or a wrong value of it ---

LifespanMiddleware(FastAPI(), lifespan=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), lifespan=FastAPI())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), lifespan=app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), lifespan=[hook])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), on_startup=hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), on_startup=[hook()])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), on_shutdown=["flush"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), on_shutdown=[needs_a_name])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
app.get("/")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
LifespanMiddleware(FastAPI(), on_start=[hook])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
LifespanMiddleware(FastAPI(), hooks, [hook])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
LifespanMiddleware(FastAPI(), mounts="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), mounts=FastAPI())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), mounts=[hooks])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), exclude="/admin")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), exclude=app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), startup_timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), shutdown_timeout=[5])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), on_crash="explode")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), on_crash=lambda: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
Lifespan(contexts=context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Lifespan(contexts=[hook])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Lifespan(contexts=[takes_two])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Lifespan(on_startup=[5])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
Lifespan(mounts="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Lifespan(startup_timeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
LifespanManager(app, startup_timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanManager(app, 5, 5, True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
LifespanManager(app, mounts="auto")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

LifespanMiddleware(FastAPI(), observe="print")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), while_starting=hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
LifespanMiddleware(FastAPI(), start_on_request="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Lifespan(concurrent="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# --- no hook ---

hooks.context(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.context(hook)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.context(takes_two)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.context(yields_a_number)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.context(yields_a_list)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.context(httpx.AsyncClient)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.context(anyio.create_task_group)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.context(Connection)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.context(context, timeout="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.context(context, "pool")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
hooks.context(context, name=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.on_startup("warm up")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.on_startup(hook())  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.on_startup(needs_a_name)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.on_startup(takes_two)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.on_startup(hook, timeout="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.on_startup(name=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.on_shutdown(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.on_shutdown(needs_a_name)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.on_shutdown(when="last")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
hooks.worker(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.worker(print)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.worker(leader="postgresql://")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.worker(restart="always")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.worker(every="60")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
hooks.context(context, lock=open)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
hooks.on_shutdown(hook, background=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
app.on_event("boot")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.on_event()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
app.add_event_handler("boot", hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.add_event_handler("startup", "hook")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
app.add_event_handler("startup", needs_a_name)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
hooks.include(5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.include(hook)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.include(app)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.include([hooks])  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
hooks.override(hook, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
hooks.override(5, hook)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
hooks.override(hook)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
app.override(hook, needs_a_name)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
threaded(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@hooks.context  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
async def without_yield(app: FastAPI) -> None: ...


@hooks.on_event("shutdown")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
def takes_scope(scope: object, receive: object, send: object) -> None: ...


# --- a decorator's function called wrongly: its type is kept ---


@hooks.on_startup
def warm(app: FastAPI) -> int:
    return len([app])


@hooks.context(name="pool")
@threaded
def pool(size: int = 1) -> Iterator[None]:
    yield


warm()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
warm(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
warmed: str = warm(FastAPI())  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

# --- among the app's own middleware, and as its lifespan ---

FastAPI().add_middleware(LifespanMiddleware, hooks=hooks)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
FastAPI().add_middleware(LifespanMiddleware, lifespan=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Starlette().add_middleware(LifespanMiddleware, mounts="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Middleware(LifespanMiddleware, on_crash="explode")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
FastAPI().add_middleware(Lifespan)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
FastAPI(lifespan=app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Starlette(lifespan=[hooks])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Litestar(lifespan=[app])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]

# --- the rest ---

register_container("shop.dispatch.ByTenant", "apps[]", "taken")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
register_container(5, "apps[]", "skips")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
register_container(FastAPI(), "apps[]", "skips")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def used_wrongly() -> None:
    """What a run, a manager and a check take and give."""
    await check_lifespan(hooks)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await check_lifespan(app, timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await check_lifespan(app, 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    print(app.report.units)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    async with LifespanManager(app) as running:
        running.call(hook, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        running.call(takes_a_scope, {"type": "http"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with hooks:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with pool("1"):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pass
