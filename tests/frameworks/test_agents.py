"""Frameworks for agents, and a container for dependency injection that walks the mounts of its app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs

pytestmark = ASYNCIO


async def test_agentos_of_agno_in_fastapi(witness: Witness) -> None:
    """Its own lifespan runs once, and what is mounted in it starts."""
    agent = needs("agno", "agno.agent").Agent(name="helper", id="helper", model=None)
    agents = needs("agno", "agno.os").AgentOS(agents=[agent], lifespan=witness.lifespan("agents")).get_app()
    agents.mount("/deep", witness.raw("deep"))
    app = FastAPI(lifespan=witness.lifespan("app"))
    app.mount("/agents", agents)
    await witness.sees(app, "app", "agents", "deep")


@pytest.mark.filterwarnings("ignore:.EXPERIMENTAL:UserWarning")
async def test_an_app_of_googles_adk_in_fastapi(witness: Witness, tmp_path: Path) -> None:
    """Its own lifespan runs once."""
    make = needs("google-adk", "google.adk.cli.fast_api").get_fast_api_app
    app = FastAPI(lifespan=witness.lifespan("app"))
    app.mount("/agents", make(agents_dir=str(tmp_path), web=False, lifespan=witness.lifespan("agents")))
    await witness.sees(app, "app", "agents")


def opened(witness: Witness, name: str) -> Any:
    """Return a container of modern-di that records when it is opened and closed."""
    modern_di = needs("modern-di-fastapi", "modern_di")

    class Container(modern_di.Container):  # type: ignore[misc, name-defined]
        async def __aenter__(self) -> Any:
            witness.log.append(f"start {name}")
            return await super().__aenter__()

        async def __aexit__(self, *error: object) -> None:
            witness.log.append(f"stop {name}")
            await super().__aexit__(*error)

    return Container(scope=modern_di.Scope.APP)


async def test_a_container_of_modern_di_that_its_own_app_opens(witness: Witness) -> None:
    """As the manual shows it. Without `manage_lifespan=False`, the parent's walk over its mounts opens it too."""
    setup_di = needs("modern-di-fastapi", "modern_di_fastapi").setup_di
    inner = opened(witness, "inner")

    @asynccontextmanager
    async def open_inner(app: FastAPI) -> AsyncIterator[None]:
        async with inner:
            yield

    def parent_of(admin: FastAPI) -> FastAPI:
        app = FastAPI(lifespan=witness.lifespan("app"))
        app.mount("/admin", admin)
        setup_di(app, opened(witness, "outer"))
        return app

    admin = FastAPI(lifespan=open_inner)
    setup_di(admin, inner, manage_lifespan=False)
    await witness.sees(parent_of(admin), "outer", "app", "inner")
    witness.log.clear()

    twice = FastAPI()
    setup_di(twice, inner)
    await witness.sees(parent_of(twice), "outer", "inner", "app", "inner")
