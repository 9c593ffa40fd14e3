"""What a start and a stop cost: as much as there are hooks, mounts and middlewares, counted in calls of functions."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.clock import JumpingLoop
from tests.discovery.test_cost import calls_of
from tests.usages import lifespan_of, lived

pytestmark = pytest.mark.slow


@asynccontextmanager
async def _without_state(_: object) -> AsyncIterator[None]:
    """Start and stop. With state, each mount would have a copy of what all around it set."""
    yield


def _functions(count: int) -> Any:
    """Return an app with so many functions that run at startup."""
    return LifespanMiddleware(Starlette(), on_startup=[lambda at=at: None for at in range(count)])


def _contexts(count: int) -> Any:
    """Return an app with so many contexts, each with a key of the state."""
    return LifespanMiddleware(Starlette(), [lifespan_of([], f"{at}") for at in range(count)])


def _wide(count: int) -> Any:
    """Return an app with so many mounts beside each other."""
    return LifespanMiddleware(Starlette(routes=[Mount(f"/{at}", Starlette()) for at in range(count)]))


def _deep(count: int) -> Any:
    """Return an app with so many mounts, each in the one before."""
    app = Starlette(lifespan=_without_state)
    for _ in range(count):
        app = Starlette(routes=[Mount("/sub", app)], lifespan=_without_state)
    return LifespanMiddleware(app)


def _nested(count: int) -> Any:
    """Return so many middlewares, each mounted in the one before."""
    app: Any = LifespanMiddleware(Starlette())
    for _ in range(count):
        app = LifespanMiddleware(Starlette(routes=[Mount("/sub", app)]))
    return app


QUADRATIC = pytest.mark.xfail(reason="each app is compared with all that it is mounted in", raises=AssertionError)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        pytest.param(_functions, 10_000, id="10,000 functions"),
        pytest.param(_contexts, 2_000, id="2,000 contexts"),
        pytest.param(_wide, 1_000, id="1,000 mounts beside each other"),
        pytest.param(_deep, 200, id="200 mounts in each other", marks=QUADRATIC),
        pytest.param(_nested, 500, id="500 middlewares in each other", marks=QUADRATIC),
    ],
)
def test_a_start_and_a_stop_are_linear(make: Callable[[int], Any], count: int) -> None:
    """Ten times as many take about ten times the calls. On a virtual clock, nothing is slow and named for it."""

    def calls(number: int) -> int:
        app = make(number)
        return calls_of(lambda: anyio.run(lived, app, backend_options={"loop_factory": JumpingLoop}))

    few, many = calls(count // 10), calls(count)
    assert many < 11 * few, f"{few / (count // 10):.0f} and {many / count:.0f} calls each"
