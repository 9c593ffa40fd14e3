"""Starting and stopping many mounts, beside hypercorn's dispatcher, which does it without order, limits or unwinding.

Each mount is the plainest app with a lifespan. The table gives milliseconds for a whole lifespan, per mount and in
units of the dispatcher's, as the median over the rounds.
"""

import asyncio
import statistics
import sys
import time
from typing import Any

from hypercorn.middleware import DispatcherMiddleware
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware

ROUNDS = 5
SIZES = (10, 100, 1_000, 3_000)


def mounted() -> Any:
    """The plainest app with a lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


async def lifespan(app: Any) -> float:
    """Seconds for one lifespan."""
    messages: list[Any] = []
    to_come = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
    started = asyncio.Event()

    async def receive() -> Any:
        if len(to_come) == 1:
            await started.wait()
        return to_come.pop()

    async def send(message: Any) -> None:
        messages.append(message["type"])
        started.set()

    began = time.perf_counter()
    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    seconds = time.perf_counter() - began
    assert messages == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    return seconds


def main() -> None:
    """Print the table."""
    print("Python", sys.version.split()[0])
    print(f"{'mounts':>7} {'ours, ms':>9} {'per mount, us':>14} {'dispatcher, ms':>15} {'ratio':>6}")
    for size in SIZES:
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            app = Starlette(routes=[Mount(f"/{number}", mounted()) for number in range(size)])
            ours.append(asyncio.run(lifespan(LifespanMiddleware(app))))
            theirs.append(asyncio.run(lifespan(DispatcherMiddleware({f"/{n}": mounted() for n in range(size)}))))
        our, their = statistics.median(ours), statistics.median(theirs)
        print(f"{size:7} {our * 1e3:9.2f} {our / size * 1e6:14.1f} {their * 1e3:15.2f} {our / their:6.1f}")


if __name__ == "__main__":
    main()
