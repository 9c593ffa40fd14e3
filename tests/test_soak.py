"""Thousands of runs in one process: nothing is left of any of them, whatever course it took."""

import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Isolated, Lifespan, LifespanMiddleware, LifespanTimeout, threaded
from asgi_lifespan_mw._units.backend import current_asyncio_task
from tests.plans import Boom, CrashesOnDemand, fails_to_start, fails_to_stop, hangs_at_start, hangs_at_stop
from tests.server import RecordingServer

pytestmark = pytest.mark.soak

WARM_UP = 1_000
"""Cycles before the first measurement: what is made once is made, in Python and in the libraries."""

MAY_GROW = {"objects": 50, "blocks": 1_000, "tasks": 0, "threads": 0, "open files": 0}
"""What the cycles after that may add: one object for each of them, or ten for each that fails in one way, is more."""

IDLE_THREADS = {"asyncio": 0, "trio": 2}
"""What its pool may keep besides: trio's for ten seconds, one more if a busy machine let two calls overlap."""

MOMENT = 0.001
"""Seconds for what hangs for ever."""


@pytest.fixture(autouse=True)
def _no_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pytest from holding all that is logged, with its tracebacks."""
    monkeypatch.setattr(logging.getLogger("asgi_lifespan_mw"), "disabled", True)


class BusyServer(RecordingServer):
    """Does something between the startup and the shutdown."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    async def receive(self) -> dict[str, Any]:
        if self.started.is_set():
            await self._meanwhile()
        return await super().receive()


class House:
    """An app with five mounts, one of them nested and one isolated, and with hooks of each kind.

    Attributes:
        open: What has started and not stopped yet, in order.
        app: The whole, for any number of runs.
    """

    def __init__(self, file: Path) -> None:
        self.open: list[str] = []
        self._file = file
        self._hooks = Lifespan(contexts=[self._workers, self._reader, threaded(self._model)])
        self._hooks.on_startup(lambda: self.open.append("function"))
        self._hooks.on_shutdown(lambda: self.open.remove("function"))
        garden = Mount("/garden", self._part("garden", Mount("/shed", self._part("shed"))))
        cellar = Mount("/cellar", Isolated(self._part("cellar")))
        rooms = [Mount(f"/{name}", self._part(name)) for name in ("hall", "attic")]
        self._house = self._part("house", *rooms, garden, cellar)
        self.app = self.wrapped()

    def wrapped(self, *hooks: Any, **options: Any) -> LifespanMiddleware:
        """The whole once more, with further hooks or settings."""
        return LifespanMiddleware(self._house, [self._hooks, *hooks], **options)

    def _part(self, name: str, *mounts: Mount) -> Starlette:
        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[dict[str, object]]:
            self.open.append(name)
            try:
                yield {name: object()}
            finally:
                self.open.remove(name)

        return Starlette(routes=mounts, lifespan=lifespan)

    async def _workers(self) -> AsyncIterator[dict[str, object]]:
        async with anyio.create_task_group() as workers:
            workers.start_soon(anyio.sleep_forever)
            yield {"workers": workers}
            workers.cancel_scope.cancel()

    def _reader(self) -> Iterator[dict[str, object]]:
        with self._file.open() as reader:
            yield {"reader": reader}

    def _model(self) -> Iterator[dict[str, object]]:
        assert threading.current_thread() is not threading.main_thread()
        self.open.append("model")
        try:
            yield {"model": object()}
        finally:
            self.open.remove("model")


async def lived(
    app: LifespanMiddleware, meanwhile: Callable[[], Awaitable[object]] = anyio.lowlevel.checkpoint
) -> list[str]:
    """Start and stop an app; the answers that the server got."""
    server = BusyServer(meanwhile)
    with suppress(Boom, LifespanTimeout, ExceptionGroup):
        await server.run(app)
    return server.answers


async def goes_well(house: House) -> None:
    """Everything starts and stops."""

    async def meanwhile() -> None:
        assert house.open == ["model", "function", "house", "hall", "attic", "garden", "shed", "cellar"]

    assert await lived(house.app, meanwhile) == ["startup.complete", "shutdown.complete"]


async def does_not_start(house: House) -> None:
    """A hook raises at startup."""
    assert await lived(house.wrapped(fails_to_start)) == ["startup.failed"]


async def does_not_stop(house: House) -> None:
    """A hook raises at shutdown."""
    assert await lived(house.wrapped(fails_to_stop)) == ["startup.complete", "shutdown.failed"]


async def starts_too_long(house: House) -> None:
    """The time of a hook runs out at startup."""
    hooks = Lifespan()
    hooks.context(timeout=MOMENT)(hangs_at_start)
    assert await lived(house.wrapped(hooks)) == ["startup.failed"]


async def stops_too_long(house: House) -> None:
    """The time of the whole runs out at shutdown."""
    app = house.wrapped(hangs_at_stop, shutdown_timeout=MOMENT)
    assert await lived(app) == ["startup.complete", "shutdown.failed"]


async def crashes(house: House) -> None:
    """A hook breaks while serving."""
    crash, told = CrashesOnDemand(), anyio.Event()

    async def meanwhile() -> None:
        crash.demand.set()
        await told.wait()

    app = house.wrapped(crash.__call__, on_crash=lambda _: told.set())
    assert await lived(app, meanwhile) == ["startup.complete", "shutdown.failed"]


async def is_cancelled(house: House) -> None:
    """The server cancels while serving."""

    async def meanwhile() -> None:
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await lived(house.app, meanwhile)
    assert scope.cancelled_caught


TROUBLES = (does_not_start, does_not_stop, starts_too_long, stops_too_long, crashes, is_cancelled)


def holdings() -> dict[str, int]:
    """What the process holds."""
    gc.collect()
    return {
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),  # what `gc` does not know too, such as strings
        "tasks": len(anyio.get_running_tasks()),
        "threads": threading.active_count(),
        "open files": len(list(Path("/dev/fd").iterdir())),
    }


# Real clocks: a virtual one jumps while a thread is at work. Trio's cycles take longer.
@pytest.mark.parametrize(("anyio_backend", "cycles"), [("asyncio", 10_000), ("trio", 3_000)])
async def test_nothing_is_left_of_thousands_of_runs(cycles: int, tmp_path: Path) -> None:
    """Neither memory nor tasks, threads and open files, though each tenth run fails in one way or another."""
    (tmp_path / "file").touch()
    house = House(tmp_path / "file")
    before: dict[str, int] = {}
    for cycle in range(cycles):
        if cycle == WARM_UP:
            before = holdings()
        course = goes_well if cycle % 10 else TROUBLES[cycle // 10 % len(TROUBLES)]
        await course(house)
        assert house.open == [], course.__name__
    growth = {what: count - before[what] for what, count in holdings().items()}
    growth["threads"] -= IDLE_THREADS["trio" if current_asyncio_task() is None else "asyncio"]
    assert {what: count for what, count in growth.items() if count > MAY_GROW[what]} == {}
