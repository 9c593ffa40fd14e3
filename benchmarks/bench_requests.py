"""What a wrapper adds to a request whose app suspends 0 or 10 times.

The wrappers take turns in each round. The cost of a wrapper in a round is its time less that of the bare app; the
table gives it in units of the plainest ``async def`` wrapper's, as the median over the rounds, with the quartiles.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from hypercorn.middleware import DispatcherMiddleware
from starlette.middleware.base import BaseHTTPMiddleware

from asgi_lifespan_mw import LifespanMiddleware

ROUNDS = 30
CALLS = 5_000


class Suspend:
    """Gives control back once."""

    def __await__(self) -> Any:
        yield


def app_that_suspends(times: int) -> Any:
    """An app that does nothing but suspend."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(times):
            await Suspend()

    return app


class PlainWrapper:
    """The plainest pure-ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await self.app(scope, receive, send)


def closure(app: Any) -> Any:
    """The floor: a function that looks at the type of the scope and returns the app's awaitable."""

    def wrapper(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        return app(scope, receive, send)

    return wrapper


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "bare app": lambda app: app,
    "closure (floor)": closure,
    "asgi_lifespan_mw": LifespanMiddleware,
    "plain async wrapper": PlainWrapper,
    "hypercorn DispatcherMiddleware": lambda app: DispatcherMiddleware({"": app}),
    "starlette BaseHTTPMiddleware": lambda app: BaseHTTPMiddleware(app, None),
}


def timed(app: Any) -> float:
    """Seconds for `CALLS` websocket requests (BaseHTTPMiddleware passes those on), without an event loop."""
    scope = {"type": "websocket", "state": {}, "path": "/", "root_path": ""}
    began = time.perf_counter()
    for _ in range(CALLS):
        coroutine = app(scope, None, None)
        try:
            while True:
                coroutine.send(None)
        except StopIteration:
            pass
    return time.perf_counter() - began


def measure(suspensions: int) -> None:
    """Print one table."""
    apps = {name: wrap(app_that_suspends(suspensions)) for name, wrap in WRAPPERS.items()}
    added: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ROUNDS):
        times = {name: timed(app) for name, app in apps.items()}
        for name, seconds in times.items():
            added[name].append((seconds - times["bare app"]) / (times["plain async wrapper"] - times["bare app"]))
    print(f"\n{suspensions} suspensions: cost added to the bare app, plain async wrapper = 1")
    for name, ratios in added.items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"  {name:32} {middle:6.2f}   ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    print("Python", sys.version.split()[0])
    for suspensions in (0, 10):
        measure(suspensions)
