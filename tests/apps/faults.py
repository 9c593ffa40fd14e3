"""Applications in which one part fails, each named after the part that does."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanMiddleware
from tests.apps.shop.announcements import announce


def steady(name: str) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A lifespan that starts and stops without trouble, and says so."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        announce(f"started {name}")
        yield
        announce(f"stopped {name}")

    return lifespan


async def load_prices() -> AsyncIterator[dict[str, str]]:
    """A context that fails before it yields, for there is no such file."""
    yield {"prices": Path("no such folder", "prices.csv").read_text(encoding="utf-8")}


async def check_prices() -> None:
    """A startup function that fails."""
    raise ValueError("the teapot costs nothing")


@asynccontextmanager
async def measure_without_a_meter(app: Starlette) -> AsyncIterator[dict[str, str]]:
    """A mounted application's lifespan that fails before it yields, for there is no such file."""
    yield {"meter": Path("no such folder", "meter").read_text(encoding="utf-8")}


async def count_the_till() -> AsyncIterator[None]:
    """A context that fails when it is left."""
    announce("started counting")
    yield
    raise ValueError("the till is short")


failing_context = LifespanMiddleware(Starlette(lifespan=steady("shop")), lifespan=steady("till"))
failing_context.context(load_prices)

failing_function = LifespanMiddleware(Starlette(lifespan=steady("shop")), lifespan=steady("till"))
failing_function.on_startup(check_prices)

failing_mount = LifespanMiddleware(
    Starlette(
        routes=[
            Mount(
                "/admin",
                Starlette(
                    routes=[Mount("/metrics", Starlette(lifespan=measure_without_a_meter))],
                    lifespan=steady("admin"),
                ),
            ),
            Mount("/reports", Starlette(lifespan=steady("reports"))),
        ],
        lifespan=steady("shop"),
    ),
    lifespan=steady("till"),
)

failing_at_the_end = LifespanMiddleware(
    Starlette(routes=[Mount("/admin", Starlette(lifespan=steady("admin")))], lifespan=steady("shop")),
    lifespan=[steady("till"), count_the_till],
)
