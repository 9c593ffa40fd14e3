"""The frameworks that are tested, as the README's table has them."""

import importlib
import os
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

REQUIRED = bool(os.environ.get("REQUIRE_FRAMEWORKS"))
"""Whether a framework that is not installed is an error, as it is in CI."""

MISSING: set[str] = set()
"""The distributions that were asked for and are not installed."""


@dataclass(frozen=True)
class Framework:
    """One row of the README's table.

    Attributes:
        distribution: The name that pip knows.
        tested: The version it was tested with, without the patch level.
        found: What is found inside, and started.
        notes: What to know.
        resolves: Whether it can be installed together with the others; if not, CI goes without it.
    """

    distribution: str
    tested: str
    found: str
    notes: str = ""
    resolves: bool = True


# fmt: off
FRAMEWORKS = (
    Framework("agno", "3.1", "the app of `AgentOS`, and what is mounted there", resolves=False),
    Framework("anycorn", "0.20", "the apps of its dispatcher", "the dispatcher itself is sent nothing"),
    Framework("asgi-correlation-id", "5.0", "the wrapped app"),
    Framework("asgi-csrf", "0.11", "the decorated app"),
    Framework("asgi-lifespan-middleware", "0.1", "the wrapped app"),
    Framework("asgi-user-agents", "0.4", "the wrapped app"),
    Framework("baize", "0.23", "the apps of `Subpaths`, `Hosts` and `Router`",
              "all of those do not support the lifespan; functions in them are endpoints"),
    Framework("blacknoise", "1.2", "the wrapped app", "the middleware does not support the lifespan"),
    Framework("blacksheep", "2.6", "apps of other frameworks", "starts mounted BlackSheeps by itself"),
    Framework("bokeh-fastapi", "0.1", "the apps beside it", "its parent runs its task; it is not a mount"),
    Framework("chainlit", "2.12", "-", "its shutdown ends the process: left alone with a warning", resolves=False),
    Framework("channels", "4.3", "the apps behind protocols, routes, stacks and origin validators",
              "all of those do not support the lifespan; consumers are sent no lifespan"),
    Framework("connexion", "3.3", "the wrapped app", "given a `lifespan=`, it leaves out the app inside"),
    Framework("dash", "4.4", "its FastAPI or Quart, and what is mounted there"),
    Framework("datasette", "0.65", "-", "answers for itself"),
    Framework("django", "6.1", "-", "has no lifespan: hooks and the apps beside it are run"),
    Framework("django-asgi-lifespan", "0.5", "the site", "its handler takes the lifespan"),
    Framework("elastic-apm", "6.26", "the wrapped app"),
    Framework("falcon", "4.4", "-", "cannot mount, and can be mounted"),
    Framework("fastapi", "0.165", "mounted apps, those of included routers too", "included routers are merged by it"),
    Framework("fastmcp", "4.2", "the server", "not where a lifespan around it runs it"),
    Framework("google-adk", "2.13", "the app of `get_fast_api_app`", resolves=False),
    Framework("gradio", "6.31", "what is mounted in its app", "`mount_gradio_app()` has the parent start the app"),
    Framework("hypercorn", "0.18", "the apps of its dispatcher", "the dispatcher itself is sent nothing"),
    Framework("lilya", "0.29", "apps of `Include` and `Host`, children"),
    Framework("litestar", "2.25", "apps of `asgi()`", "a `Router` copies them, and the copies are started"),
    Framework("marimo", "0.25", "the apps beside it",
              "the lifespan of a notebook fails in any server but marimo's own: it is sent nothing"),
    Framework("mcp", "2.3", "the server", "`session_manager.run()` by hand is observed"),
    Framework("modern-di-fastapi", "4.2", "the app that its container belongs to",
              "its `setup_di` in the parent opens the container too: [let one do it](agents.md#modern-di)",
              resolves=False),
    Framework("msgpack-asgi", "3.0", "the wrapped app"),
    Framework("nicegui", "3.18", "what is mounted in its app", "`ui.run_with()` has the parent start the app"),
    Framework("panel", "1.10", "the apps beside it",
              "its parent starts it; what the parent's own `lifespan=` yields is dropped, so use the middleware"),
    Framework("piccolo-admin", "1.14", "the admin, and what is mounted in it"),
    Framework("python-engineio", "4.15", "the other app", "given callbacks, it leaves out the app inside"),
    Framework("python-fasthtml", "0.14", "mounted apps"),
    Framework("python-socketio", "5.18", "the other app", "given callbacks, it leaves out the app inside"),
    Framework("quart", "0.23", "-", "middleware around its `asgi_app` is known for the same app"),
    Framework("ravyn", "0.4", "apps of `Include` and `Host`, children"),
    Framework("sanic", "25.12", "-", "cannot mount; mounted, it refuses requests without its lifespan"),
    Framework("servestatic", "4.4", "the wrapped app"),
    Framework("shiny", "1.8", "the app"),
    Framework("sqladmin", "0.32", "the admin", "keeps the app that it is mounted in, which is started once"),
    Framework("starlette", "1.10", "mounted apps"),
    Framework("starlette-admin", "1.0", "-", "does not support the lifespan"),
)
# fmt: on


def installed(distribution: str) -> str | None:
    """The version that is installed, without the patch level; None if there is none."""
    try:
        return ".".join(version(distribution).split(".")[:2])
    except PackageNotFoundError:
        return None


def needs(distribution: str, module: str) -> Any:
    """Import a module of a framework, or skip the test module that asks for it.

    Untyped, so that the linters see the same whatever is installed.
    """
    [framework] = [framework for framework in FRAMEWORKS if framework.distribution == distribution]
    if installed(distribution) is None:
        MISSING.add(distribution)
        if REQUIRED and framework.resolves:
            pytest.fail(f"{distribution} is not installed", pytrace=False)
        pytest.skip(f"{distribution} is not installed", allow_module_level=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what frameworks do when they are imported is theirs
        return importlib.import_module(module)
