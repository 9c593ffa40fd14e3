"""Each kind of hook is accepted, in each way of registering it, and each decorator keeps the function's type."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from types import TracebackType
from typing import TypedDict, assert_type

import anyio
from fastapi import FastAPI
from starlette.applications import Starlette

from asgi_lifespan_mw import Lifespan, LifespanMiddleware, UnitReport, threaded

hooks = Lifespan()
app = LifespanMiddleware(FastAPI())

# --- contexts ---


class State(TypedDict):
    """Lifespan state with known keys."""

    pool: str


@hooks.context
async def async_generator() -> AsyncIterator[None]:
    yield


@hooks.context()
async def with_state() -> AsyncGenerator[dict[str, int]]:
    yield {"answer": 42}


@hooks.context(name="pool", timeout=5)
async def with_typed_state(app: FastAPI) -> AsyncIterator[State]:
    yield {"pool": app.title}


@hooks.context
async def with_some_state(app: Starlette) -> AsyncIterator[Mapping[str, object] | None]:
    yield {"app": app} if app.debug else None


@hooks.context
def generator() -> Iterator[None]:
    yield


@hooks.context(timeout=0.5)
def generator_with_state(app: object) -> Generator[dict[str, object], None, None]:
    yield {"app": app}


@hooks.context
@asynccontextmanager
async def decorated(app: FastAPI) -> AsyncGenerator[None]:
    yield


@hooks.context
@contextmanager
def decorated_plain() -> Generator[State]:
    yield {"pool": "small"}


@hooks.context
def makes_one() -> AbstractAsyncContextManager[None]:
    return async_manager()


@hooks.context
def makes_a_plain_one(app: FastAPI) -> AbstractContextManager[dict[str, str]]:
    return nullcontext({"title": app.title})


@hooks.context
class Manager:
    """A class whose object is a context manager."""

    async def __aenter__(self) -> State:
        return {"pool": "large"}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@hooks.context
class PlainManager:
    """The same without ``async``; it is given the app."""

    def __init__(self, app: FastAPI) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@app.context
async def on_the_middleware(*args: object, name: str = "pool") -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def async_manager(size: int = 1) -> AsyncGenerator[None]:
    yield


class Pool:
    """Hooks that are methods."""

    async def open(self) -> None: ...

    def close(self, app: FastAPI) -> None: ...

    async def live(self) -> AsyncIterator[None]:
        yield


hooks.context(partial(async_manager, 10))
hooks.context(lambda: async_manager(10))
hooks.context(Pool().live)

assert_type(async_generator, Callable[[], AsyncIterator[None]])
assert_type(with_state, Callable[[], AsyncGenerator[dict[str, int]]])
assert_type(with_typed_state(app=FastAPI()), AsyncIterator[State])
assert_type(generator, Callable[[], Iterator[None]])
assert_type(generator_with_state(app=1), Generator[dict[str, object], None, None])
assert_type(makes_one, Callable[[], AbstractAsyncContextManager[None]])
assert_type(Manager(), Manager)
assert_type(PlainManager(app=FastAPI()), PlainManager)
assert_type(on_the_middleware(1, name="mine"), AsyncIterator[None])

# --- functions ---


@hooks.on_startup
async def coroutine_function() -> None: ...


@hooks.on_startup()
def function() -> None: ...


@hooks.on_startup(name="warm up", timeout=30)
async def with_app(app: FastAPI) -> int:
    return len(app.routes)


@hooks.on_startup
def with_result(*, verbose: bool = True) -> list[str]:
    return ["dropped"]


@hooks.on_startup
def returns_awaitable() -> Awaitable[None]:
    return coroutine_function()


@hooks.on_shutdown
async def at_shutdown(app: Starlette) -> None: ...


@hooks.on_shutdown(name="flush")
def plain_at_shutdown() -> str:
    return "dropped"


@hooks.on_event("startup")
async def at_event(app: FastAPI) -> None: ...


@app.on_event("shutdown")
def plain_at_event() -> None: ...


@app.on_startup
@app.on_shutdown
def at_both() -> None: ...


hooks.on_startup(Pool().open)
hooks.on_shutdown(Pool().close, timeout=1)
hooks.on_startup(partial(with_app, FastAPI()))
hooks.on_startup(lambda: None)
hooks.on_shutdown(print)
hooks.add_event_handler("startup", Pool().open)
app.add_event_handler("shutdown", lambda app: app.routes)

assert_type(function, Callable[[], None])
assert_type(with_result(verbose=False), list[str])
assert_type(returns_awaitable, Callable[[], Awaitable[None]])
assert_type(plain_at_shutdown, Callable[[], str])
assert_type(plain_at_event, Callable[[], None])
assert_type(at_both, Callable[[], None])


async def called_by_hand() -> None:
    """Coroutine functions are still what they were."""
    assert_type(await coroutine_function(), None)
    assert_type(await with_app(app=FastAPI()), int)
    assert_type(await at_shutdown(app=Starlette()), None)
    assert_type(await at_event(app=FastAPI()), None)
    async for state in with_state():
        assert_type(state, dict[str, int])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(with_app, FastAPI())


# --- in a thread ---


@hooks.on_startup
@threaded
def load(app: FastAPI) -> None: ...


@hooks.context(name="cache")
@threaded
def cache() -> Iterator[dict[str, str]]:
    yield {}


async def called_in_a_thread() -> None:
    """With the parameters of the function."""
    await load(app=FastAPI())
    async with cache():
        pass


# --- in the background, under a lock, as a worker ---


class Held:
    """What the lock of an engine yields: it says when the lock was lost."""

    async def wait(self) -> bool:
        return True


@asynccontextmanager
async def lock() -> AsyncGenerator[Held]:
    yield Held()


@app.context(background=True, timeout=600)
async def model() -> AsyncIterator[State]:
    yield {"pool": "large"}


@app.on_startup(lock=lock)
def migrate(app: FastAPI) -> None: ...


@app.context(optional=True)
async def recommendations() -> AsyncIterator[None]:
    yield


LifespanMiddleware(FastAPI(), optional="mounts")
LifespanMiddleware(FastAPI(), optional=[FastAPI()])
Lifespan(optional=[FastAPI()])


@app.context(lock=nullcontext)
async def schema() -> AsyncIterator[None]:
    yield


@app.worker
async def consumer() -> None: ...


@app.worker(restart=True)
async def restarted() -> None: ...


@app.worker(restart=5, leader=lock)
async def restarted_at_most_five_times() -> None: ...


@app.worker(every=0.5, timeout=5)
async def ticks() -> None: ...


@app.worker(leader=lock, name="scheduler", timeout=5)
async def scheduler(app: FastAPI) -> int:
    return len(app.routes)


Lifespan(concurrent=True, contexts=[async_generator])


def observe(unit: UnitReport) -> None: ...


LifespanMiddleware(FastAPI(), concurrent=True, start_on_request=True, while_starting=Starlette(), observe=observe)
LifespanMiddleware(FastAPI(), observe=lambda unit: unit.outcome == "started")


async def later() -> None:
    """What is there only in a running app."""
    await app.stop()
    migrate(app=FastAPI())
    assert_type(await scheduler(app=FastAPI()), int)
    assert_type(app.ready, bool)


# --- in lists ---

Lifespan(
    contexts=[async_generator, decorated, Manager, lambda: async_manager(3), lambda _: async_manager(3)],
    on_startup=[coroutine_function, with_app, Pool().open, lambda: None, lambda app: app.routes],
    on_shutdown=(at_shutdown, print),
    mounts="off",
    exclude=[FastAPI()],
)
LifespanMiddleware(
    FastAPI(),
    on_startup=[function, with_app],
    on_shutdown=iter([plain_at_shutdown]),
    on_crash=lambda error: print(error.__traceback__),
)

# --- other lifespans ---

more = Lifespan()
assert_type(hooks.include(more), Lifespan)
app.include(decorated)(FastAPI())
hooks.include(Starlette().router.lifespan_context)
