"""Looking for apps runs no code of the user's, keeps nothing of theirs alive, and bears what other threads do."""

import gc
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Router

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware
from asgi_lifespan_mw._apps.wrappers import mentions_lifespan
from tests.conftest import ONE_LOOP_IN_THE_QUICK_LOOP
from tests.usages import lived, recorded, started_and_stopped


class Watched:
    """An object that records each call of its code, and fails in it."""

    calls: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:  # pragma: no cover - as long as nobody asks
        self.calls.append(name)
        raise AssertionError(name)


def _called(name: str) -> Callable[..., Any]:
    def method(self: Watched, *_: object) -> Any:  # only the check of an argument calls one
        self.calls.append(name)
        raise AssertionError(name)

    return method


SPECIAL = ["__len__", "__iter__", "__eq__", "__hash__", "__bool__", "__repr__", "__contains__", "__getitem__"]
for _name in [*SPECIAL, "__call__", "values", "items"]:
    setattr(Watched, _name, _called(_name))
for _name in ("app", "routes", "router", "lifespan", "__wrapped__"):
    setattr(Watched, _name, property(_called(_name)))


async def test_no_code_of_the_user_is_run_while_looking() -> None:
    """Watched objects are in the closures, defaults and attributes of lifespans and wrappers; one is mounted."""
    log: list[str] = []
    watched: Any = Watched()
    many = [Watched()]

    class Unobservable:
        def __init__(self, _: object, kept: Any = watched) -> None:
            self.kept = {"watched": kept}

        async def __aenter__(self) -> None:
            log.append("start sub")

        async def __aexit__(self, *_: object) -> None:
            log.append("stop sub")

    @asynccontextmanager
    async def lifespan(_: object, kept: Any = watched) -> AsyncIterator[None]:
        assert (type(watched), type(many[0]), type(kept)) == (Watched,) * 3
        yield

    class Wrapper:
        def __init__(self, inner: Any) -> None:
            self.inner, self.kept = inner, [watched]

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert type(self.kept[0]) is Watched
            await self.inner(scope, receive, send)

    mounts = [Mount("/sub", Wrapper(Starlette(lifespan=Unobservable))), Mount("/watched", watched)]
    app = Starlette(lifespan=lifespan, routes=mounts)
    middleware = LifespanMiddleware(app, exclude=[watched])
    Watched.calls.clear()  # the check of the argument asked for its signature
    await lived(middleware)
    assert log == started_and_stopped("sub")
    assert not Watched.calls


@ONE_LOOP_IN_THE_QUICK_LOOP
async def test_nothing_is_kept_alive_after_the_startup() -> None:
    """A model that is replaced while the app serves is freed."""

    class Model: ...

    models = {"model": Model()}
    model = weakref.ref(models["model"])

    @asynccontextmanager
    async def connect(_: Any) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with connect(models["model"]):
            pass
        yield

    app = Starlette(lifespan=lifespan, routes=[Mount("/sub", recorded([], "sub"))])
    async with LifespanManager(LifespanMiddleware(app)):
        models["model"] = Model()
        gc.collect()
        assert model() is None


@pytest.mark.parametrize(("mounts", "is_read"), [("off", False), ("auto", True)])
def test_nothing_is_looked_at_with_mounts_off(mounts: Literal["auto", "off"], is_read: bool) -> None:
    """No routes are read, and no generator is watched; otherwise both are."""
    reads: list[str] = []

    class Unread(Router):
        @property
        def routes(self) -> Any:
            reads.append("routes")
            return []

        @routes.setter
        def routes(self, _: object) -> None: ...

    hooks: list[Any] = []

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        hooks.append(sys.get_asyncgen_hooks().firstiter)
        yield

    async def main() -> None:
        before = sys.get_asyncgen_hooks().firstiter
        await lived(LifespanMiddleware(Unread(lifespan=lifespan), mounts=mounts))
        assert (hooks != [before], bool(reads)) == (is_read, is_read)

    anyio.run(main)


def test_another_thread_may_change_what_is_looked_at() -> None:
    """Dictionaries are copied in one step, so nothing changes size during iteration."""
    shared: dict[int, object] = {}
    stop = threading.Event()

    def change() -> None:
        at = 0
        while not stop.is_set():
            shared[at := (at + 1) % 500] = object()
            shared.pop((at * 7) % 500, None)

    async def app(scope: Any, receive: Any, send: Any) -> None:  # pragma: no cover - is only read
        await send(shared)

    thread = threading.Thread(target=change)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(300):
            assert not mentions_lifespan(app)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
