"""Chainlit, whose shutdown ends the process: its only app is left alone unless the user names it."""

import os
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs

pytestmark = ASYNCIO


@pytest.fixture
def chainlit(witness: Witness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The module with its app, which records its lifespan."""
    monkeypatch.setenv("CHAINLIT_APP_ROOT", str(tmp_path))  # when it is imported, it writes its settings there
    server = needs("chainlit", "chainlit.server")

    async def start() -> None:
        witness.log.append("start chainlit")

    monkeypatch.setattr(server.config.code, "on_app_startup", start)
    monkeypatch.setattr(os, "_exit", lambda _: witness.log.append("stop chainlit"))
    monkeypatch.setattr(webbrowser, "open", lambda _: None)
    yield server
    server.app.middleware_stack = None  # it is the only one, and the next test adds its middleware again


@pytest.fixture
def app(witness: Witness, chainlit: Any, tmp_path: Path) -> FastAPI:
    """A parent with Chainlit and another app mounted in it."""
    target = tmp_path / "chat.py"
    target.touch()
    app = FastAPI(lifespan=witness.lifespan("app"))
    needs("chainlit", "chainlit.utils").mount_chainlit(app, str(target), "/chat")
    app.mount("/beside", witness.raw("beside"))
    assert any(getattr(route, "app", None) is chainlit.app for route in app.routes)
    return app


async def test_it_is_left_alone_with_a_warning(
    witness: Witness, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are started."""
    await witness.sees(app, "app", "beside", state={"/beside/": "beside"})
    assert "mount '/chat' is not started: its shutdown ends the process" in caplog.text
    assert "mounts=[...]" in caplog.text


async def test_it_is_started_where_it_is_named(witness: Witness, app: FastAPI, chainlit: Any) -> None:
    """The warning says so; once, and its end is the last that the process sees."""
    await witness.sees(app, "app", "chainlit", mounts=[chainlit.app])
