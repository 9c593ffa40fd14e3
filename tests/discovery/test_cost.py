"""What apps cost at the start and at the stop: as much as there are of them."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Mount

from asgi_lifespan_mw import LifespanMiddleware
from asgi_lifespan_mw._apps.node import AppNode
from asgi_lifespan_mw._apps.walk import describe
from tests.usages import lifespan_of, lived, recorded


def calls_of(function: Callable[[], object]) -> int:
    """Return how many Python functions are called."""
    count = 0

    def profile(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"  # pragma: no cover - nothing is traced in here

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_500_middlewares_around_an_app_are_no_recursion() -> None:
    """They are looked through, up to a bound."""
    app: Any = recorded([], "app")
    for _ in range(500):
        app = GZipMiddleware(app)
    assert describe(AppNode(app)).members


def _middlewares(count: int) -> Any:
    routes: list[BaseRoute] = [Mount(f"/{at}", LifespanMiddleware(recorded([], "sub"))) for at in range(count)]
    return LifespanMiddleware(Starlette(routes=routes))


def _names(count: int) -> Any:
    apps = [recorded([], "sub") for _ in range(count)]
    return LifespanMiddleware(Starlette(routes=[Mount(f"/{at}", app) for at, app in enumerate(apps)]), mounts=apps)


def _one_lifespan(count: int) -> Any:
    lifespan = lifespan_of([], "one")
    return LifespanMiddleware(Starlette(routes=[Mount(f"/{at}", Starlette(lifespan=lifespan)) for at in range(count)]))


@pytest.mark.slow
@pytest.mark.parametrize("make", [_middlewares, _names, _one_lifespan])
def test_the_cost_grows_with_the_number_of_apps(make: Callable[[int], Any]) -> None:
    """Eight times the apps take about eight times the calls, for the start and the stop."""
    few, many = (calls_of(functools.partial(anyio.run, lived, make(count))) for count in (50, 400))
    assert many < 10 * few


def _nested(count: int) -> Any:
    app = recorded([], "sub")
    for _ in range(count):
        app = Starlette(routes=[Mount("/sub", app)], lifespan=lifespan_of([], "one"))
    return LifespanMiddleware(app)


def test_the_cost_grows_with_the_depth_of_apps() -> None:
    """No app costs more because of how many it is nested in."""
    anyio.run(lived, _nested(1))  # what is read once of each class and function is known from here on
    few, many = (calls_of(functools.partial(anyio.run, lived, _nested(count))) for count in (20, 160))
    assert many < 10 * few
