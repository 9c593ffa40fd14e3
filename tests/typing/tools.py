"""What else the package has: its manager, overrides, reports, checks, and containers of one's own."""

from collections.abc import AsyncIterator
from typing import Any, Literal, assert_type

import anyio
import httpx
from fastapi import FastAPI
from starlette.applications import Starlette

from asgi_lifespan_mw import (
    Finding,
    Isolated,
    Lifespan,
    LifespanError,
    LifespanManager,
    LifespanMiddleware,
    LifespanNotSupported,
    LifespanTimeout,
    ProtocolViolation,
    Report,
    ShutdownFailed,
    StartupFailed,
    StateCollision,
    UnitReport,
    check_lifespan,
    register_container,
    threaded,
)

hooks = Lifespan()
mounted = Isolated(Starlette())
app = LifespanMiddleware(FastAPI(), lifespan=hooks)


@hooks.context
async def pool() -> AsyncIterator[dict[str, str]]:
    yield {"pool": "the real one"}


async def fake() -> AsyncIterator[None]:
    yield


# --- LifespanManager ---


async def managed() -> None:
    """In an asynchronous test or program."""
    async with LifespanManager(app, startup_timeout=5, shutdown_timeout=None, strict=True) as manager:
        assert_type(manager, LifespanManager)
        assert_type(manager.state, dict[str, Any])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(manager.app)) as client:
            await client.get("http://shop/")
    async with LifespanManager(hooks, 5, 5) as manager:
        print(manager.state["pool"])


async def priced(item: str, amount: int = 1) -> float:
    return len(item) * amount


def managed_in_a_thread() -> None:
    """In any other program; `call` knows what the function takes and gives."""
    with LifespanManager(hooks, backend="trio", backend_options={"strict_exception_groups": True}) as m:
        assert_type(m, LifespanManager)
        assert_type(m.call(priced, "tea"), float)
        assert_type(m.call(priced, "tea", 2), float)
        m.call(anyio.sleep, 1)


# --- override ---


def overridden() -> None:
    """In a test."""
    with hooks.override(pool, fake), hooks.override("pool", None):
        pass
    with app.override(pool, fake), app.override(mounted, None), app.override("pool", lambda _: fake()):
        pass


# --- report ---


def reported() -> None:
    """What the last run did."""
    assert_type(app.report, Report | None)
    if app.report is None:
        return
    assert_type(app.report.units, tuple[UnitReport, ...])
    assert_type(app.report.start_seconds, float | None)
    for unit in app.report.units:
        assert_type(unit.kind, Literal["hook", "app", "mount"])
        assert_type(unit.path, str)
        assert_type(unit.state, tuple[str, ...])
        if unit.outcome == "failed":
            print(unit.reason)


# --- check_lifespan ---


async def checked() -> None:
    """In a test suite."""
    assert_type(await check_lifespan(app), list[Finding])
    for finding in await check_lifespan(FastAPI(), timeout=0.5):
        assert_type(finding.severity, Literal["note", "warning", "violation"])
        assert_type(finding.text, str)


assert_type(anyio.run(check_lifespan, app), list[Finding])

# --- Isolated, threaded ---


@threaded
def load(path: str, *, size: int = 1) -> bytes:
    return bytes(size)


async def loaded() -> None:
    """With the parameters of the function."""
    await load("model", size=3)


# --- register_container ---


class ByTenant:
    """A dispatcher of one's own."""

    def __init__(self, apps: dict[str, Starlette]) -> None:
        self.apps = apps


register_container(ByTenant, "apps[]", "taken_over", segment="apps[]")
register_container("shop.dispatch.ByTenant", "apps[]", "skips", why="keeps the lifespan to itself")

# --- errors ---


def told(error: Exception) -> str:
    """What an error knows is typed as well."""
    match error:
        case StartupFailed() | ShutdownFailed():
            return assert_type(error.unit, str) + assert_type(error.reason, str)
        case LifespanTimeout():
            timeout: TimeoutError = error
            return f"{assert_type(error.phase, str)} {assert_type(error.seconds, float)} {timeout}"
        case LifespanNotSupported():
            return assert_type(error.unit, str)
        case ProtocolViolation():
            return error.source + error.action + error.phase + error.expected
        case StateCollision():
            return error.key + error.first + error.second + error.advice
        case LifespanError():
            return str(error)
        case _:
            return ""
