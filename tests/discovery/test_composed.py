"""Programs that are put together at random: each app in them starts exactly once."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware
from tests.discovery import shop
from tests.discovery.shapes import PASSING, Answers, Program, Refuses, enters
from tests.discovery.test_shapes import balanced
from tests.usages import USAGES, Create, LifespanFunction, lived


def _enters_with_managers(*apps: Any) -> LifespanFunction:
    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(LifespanManager(app))
            yield

    return lifespan


def _enters_with_a_helper(*apps: Any) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    return lambda _: shop.start_all(*apps)


WAYS_TO_START: dict[str, Callable[..., Any]] = {
    "by_hand": enters,
    "with_a_helper": _enters_with_a_helper,
    "with_managers": _enters_with_managers,
}
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "none": lambda app: app,
    **PASSING,
    "answers": Answers,
    "refuses": Refuses,
    "inner_middleware": LifespanMiddleware,
}
FRAMEWORKS: list[Callable[..., Any]] = [Starlette, FastAPI]


@dataclass(frozen=True)
class Plan:
    """One app of a program.

    Attributes:
        framework: What makes it.
        wrapper: The name of what is put around it where it is mounted.
        again: The name of what is put around it where it is mounted a second time; None if it is mounted once.
        children: The apps that are mounted in it.
        way: How its lifespan starts children.
        starts: For each child, whether its lifespan starts it.
    """

    framework: Callable[..., Any]
    wrapper: str
    again: str | None
    children: Sequence["Plan"]
    way: str
    starts: Sequence[bool]


def _plans(children: st.SearchStrategy[list[Plan]]) -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        st.sampled_from(FRAMEWORKS),
        st.sampled_from(list(WRAPPERS)),
        st.sampled_from([None, None, *WRAPPERS]),
        children,
        st.sampled_from(list(WAYS_TO_START)),
        st.lists(st.booleans(), min_size=3, max_size=3),
    )


def _leaf(*children: Plan, again: str | None = None) -> Plan:
    """Return the plan of a Starlette that starts none of its children."""
    return Plan(Starlette, "none", again, children, "by_hand", [False] * 3)


PLANS = st.recursive(_plans(st.just([])), lambda plans: _plans(st.lists(plans, max_size=3)), max_leaves=8)


class Builder:
    """Makes the apps of a plan.

    Attributes:
        names: The names of all apps.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names: list[str] = []

    def app(self, plan: Plan) -> Any:
        """Return the app of a plan."""
        lifespan, mounts = self.parts(plan)
        return plan.framework(lifespan=lifespan, routes=mounts)

    def parts(self, plan: Plan) -> tuple[LifespanFunction, list[Mount]]:
        """Return the lifespan of an app, and its mounts."""
        name = f"app {len(self.names)}"
        self.names.append(name)
        children = [self.app(child) for child in plan.children]
        mounts = [
            Mount(f"/{at}", WRAPPERS[child.wrapper](app))
            for at, (child, app) in enumerate(zip(plan.children, children, strict=True))
        ]
        mounts += [
            Mount(f"/again/{at}", WRAPPERS[child.again](app))
            for at, (child, app) in enumerate(zip(plan.children, children, strict=True))
            if child.again is not None
        ]
        own = self.program.life(name)
        started = [app for app, starts in zip(children, plan.starts, strict=False) if starts]
        others = WAYS_TO_START[plan.way](*started)

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[Any]:
            async with own(app) as state, others(app):
                yield state

        return lifespan, mounts


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", USAGES, ids=["around", "in_the_stack", "as_the_lifespan"])
@settings(max_examples=80)
@example(plan=_leaf(_leaf(again="attribute"), _leaf(_leaf())), concurrent=True)
@given(plan=PLANS, concurrent=st.booleans())
def test_each_app_of_a_composed_program_starts_exactly_once(
    way: Create, backend: str, plan: Plan, concurrent: bool
) -> None:
    """Its parent starts it, or a middleware inside does, or ours."""
    program = Program(way)
    builder = Builder(program)
    lifespan, mounts = builder.parts(plan)
    app = program.parent(lifespan, concurrent=concurrent)
    app.router.routes.extend(mounts)
    anyio.run(lived, program.served(app), backend=backend)
    assert balanced(program.journal) == sorted(builder.names)
