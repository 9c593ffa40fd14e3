"""What two callables have in common, and what is behind one."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette

from asgi_lifespan_mw._callables import identity_of, unwrapped


async def lifespan(app: object) -> AsyncIterator[None]:
    """A lifespan function, which is never run."""
    yield  # pragma: no cover - as above


def plain_lifespan(app: object) -> Iterator[None]:
    """The same, without async."""
    yield  # pragma: no cover - as above


class Shop:
    """An object with a lifespan."""

    async def lifespan(self, app: object) -> AsyncIterator[None]:
        yield  # pragma: no cover - it is never run


def decorated(inner: Callable[..., Any]) -> Any:
    """Decorate a lifespan, and hide what is between."""

    @functools.wraps(inner)
    @asynccontextmanager
    async def outer(app: object) -> AsyncIterator[None]:
        async with inner(app):  # pragma: no cover - it is never run
            yield

    return outer


FUNCTIONS: dict[str, Any] = {
    "async": lifespan,
    "plain": plain_lifespan,
    "method": Shop().lifespan,
    "partial": functools.partial(lifespan),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    "form",
    [asynccontextmanager, contextmanager, lambda function: Starlette(lifespan=function).router.lifespan_context],
    ids=["asynccontextmanager", "contextmanager", "Starlette"],
)
@pytest.mark.filterwarnings("ignore:.*generator function lifespans")
def test_a_generator_function_and_its_context_manager_are_one(function: Any, form: Callable[[Any], Any]) -> None:
    """A framework makes the one of the other."""
    assert identity_of(form(function)) == identity_of(function)


def test_what_may_open_two_databases_is_two() -> None:
    """Two partials, two decorators, the methods of two objects."""
    shop, inner = Shop(), asynccontextmanager(lifespan)
    several = [
        lifespan, functools.partial(lifespan), functools.partial(lifespan), decorated(inner), decorated(inner), shop,
        shop.lifespan, Shop().lifespan, min, asynccontextmanager, asynccontextmanager(functools.partial(lifespan)),
    ]  # fmt: skip
    assert len({identity_of(one) for one in several}) == len(several)
    assert identity_of(shop.lifespan) == identity_of(shop.lifespan)


def test_the_function_is_found_behind_all_that_is_around_it() -> None:
    """Partials, decorators and methods, in any order."""
    assert unwrapped(functools.partial(decorated(asynccontextmanager(lifespan)), None)) is lifespan
    assert unwrapped(Shop().lifespan) is Shop.lifespan
    assert unwrapped(min) is min


def test_a_partial_of_itself_has_an_end() -> None:
    """It cannot be called, and it is looked at all the same."""
    endless = functools.partial(print)
    endless.__setstate__((endless, (), {}, {}))  # type: ignore[attr-defined]
    assert unwrapped(endless) is endless
