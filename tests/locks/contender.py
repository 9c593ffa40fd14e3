"""A process that leads when it can: each line of its journal is one that it may write only while it leads.

Usage: python -m tests.locks.contender MODE KIND ADDRESS NAME JOURNAL

MODE is ``lead``, for a worker with ``leader=``, ``tick``, for one with ``every=`` too, or ``start``, for a function
with ``lock=``. The journal gets lines "<pid> <enter|still|leave> <seconds of the machine's monotonic clock>".
"""

import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware
from asgi_lifespan_mw.locks import FileLock, PostgresLock, RedisLock

TTL = 3.0
"""Seconds of a lease."""


def lock_of(kind: str, address: str, name: str) -> Any:
    """Return a lock of an engine."""
    if kind == "file":
        return FileLock(f"{address}/{name.replace('/', '-')}")
    return PostgresLock(address, name) if kind == "postgres" else RedisLock(address, name, ttl=TTL)


class Journal:
    """A file that all processes append to; a line is written in one piece."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str) -> None:
        """Append a line."""
        os.write(self._file, f"{os.getpid()} {what} {time.monotonic():.6f}\n".encode())


def stream(_: Request) -> StreamingResponse:  # pragma: no cover - in a process that is killed
    """Stream for as long as the client listens; the first line is the number of the process."""

    async def lines() -> AsyncIterator[str]:
        yield f"{os.getpid()}\n"
        while True:
            await anyio.sleep(0.1)
            yield "still here\n"

    return StreamingResponse(lines())


def app_of(mode: str, kind: str, address: str, name: str, journal: str) -> LifespanMiddleware:
    """Return an app that leads, or starts, under a lock."""
    app, pages, lock = (
        LifespanMiddleware(Starlette(routes=[Route("/stream", stream)])),
        Journal(journal),
        lock_of(kind, address, name),
    )

    async def leads() -> None:
        pages.write("enter")
        try:
            while True:
                await anyio.sleep(0.02)
                pages.write("still")
        finally:
            pages.write("leave")

    async def starts() -> None:
        pages.write("enter")
        await anyio.sleep(0.2)
        pages.write("leave")

    async def ticks() -> None:
        pages.write("enter")
        await anyio.sleep(0.05)
        pages.write("leave")

    if mode == "lead":
        app.worker(leads, leader=lock)
    elif mode == "tick":
        app.worker(ticks, leader=lock, every=0.1)
    else:
        app.on_startup(starts, lock=lock)
    return app


async def main() -> None:
    """Run until standard input ends."""
    async with LifespanManager(app_of(*sys.argv[1:6]), None, None):
        print("started", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def read(journal: Path) -> list[tuple[int, str, float]]:
    """Return the lines of a journal: process, what, and when."""
    lines = [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []
    return [(int(pid), what, float(at)) for pid, what, at in lines]


def overlaps(journal: Path) -> list[float]:
    """Return for how many seconds each holder wrote on after another one had entered."""
    found: list[float] = []
    entered: dict[int, float] = {}  # who is inside, and since when
    inside = 0
    for pid, what, at in read(journal):
        if what == "enter":
            inside, entered[pid] = pid, at
        elif pid != inside and pid in entered:
            found.append(at - entered[inside])
    return found


def holders(journal: Path) -> list[int]:
    """Return the processes in the order in which they entered."""
    return [pid for pid, what, _ in read(journal) if what == "enter"]


if __name__ == "__main__":
    anyio.run(main)
else:
    # For servers, which import the app: `TESTS_LOCK="lead postgres ADDRESS NAME JOURNAL"`.
    app = app_of(*os.environ["TESTS_LOCK"].split()) if "TESTS_LOCK" in os.environ else None
