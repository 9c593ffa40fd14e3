"""What the README says of asgi-lifespan: each row of its table, by both packages."""

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import asgi_lifespan
import pytest
from starlette.applications import Starlette

import asgi_lifespan_mw
from asgi_lifespan_mw import LifespanManager, LifespanTimeout, StartupFailed
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.plans import Boom, Journal, fails_to_start, hangs_at_start
from tests.server import request
from tests.test_readme import README

F = TypeVar("F", bound=Callable[..., object])
Manager = Callable[..., Any]

MANAGERS: list[Any] = [LifespanManager, asgi_lifespan.LifespanManager]
_TABLE = README.partition("<!-- table: asgi-lifespan -->")[2].partition("<!-- end -->")[0]
ROWS = re.findall(r"^\| (`.*?) \| .* \|$", _TABLE, re.MULTILINE)
shown: list[str] = []


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio: asgi-lifespan wraps errors in groups on trio, which one test shows."""
    return "asyncio"


def row(first_cell: str) -> Callable[[F], F]:
    """The test that it decorates shows this row."""
    shown.append(first_cell)
    return lambda test: test


both = pytest.mark.parametrize("manager", MANAGERS, ids=["here", "there"])


async def fails_with_a_message(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that says why it failed, and raises nothing."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    await receive()


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    """An app for HTTP alone that is silent about it."""


async def asserts(scope: Scope, receive: Receive, send: Send) -> None:
    """An app for HTTP alone."""
    raise AssertionError("http only")


async def answers_unasked(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that sends before it receives."""
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def entered(manager: Any) -> None:
    """Enter a manager, which is to fail."""
    async with manager:
        raise RuntimeError("it started")


async def test_the_table_has_every_public_name() -> None:
    """Of the package and of its manager, which can't be made outside an event loop; and each row is shown here."""
    app = Starlette()
    names = {name for name in vars(asgi_lifespan.LifespanManager(app)) if not name.startswith("_")}
    names |= {name for name, _ in inspect.getmembers(asgi_lifespan.LifespanManager) if not name.startswith("_")}
    cells = " ".join(ROWS)
    assert all(f"manager.{name}" in cells for name in names)
    assert all(name in cells for name in asgi_lifespan.__all__)
    assert sorted(ROWS) == sorted(shown)


@both
@row("`LifespanManager(app, startup_timeout=5, shutdown_timeout=5)`")
async def test_the_arguments_are_the_same(manager: Manager, journal: Journal) -> None:
    """By name and by position, with the same defaults, and None for no limit."""
    names = ["app", "startup_timeout", "shutdown_timeout"]
    parameters = list(inspect.signature(manager).parameters.values())
    assert [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD] == names
    assert [one.default for one in parameters[1:3]] == [5, 5]
    async with manager(journal.app(), None, shutdown_timeout=None):
        pass
    assert journal.events == ["+app", "-app"]


@row("`async with LifespanManager(app) as manager`")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_is_entered_and_left_in_the_same_way(backend: str, journal: Journal) -> None:
    """The app's own exception comes out of both on asyncio; a message and trio are where they differ."""

    async def main(manager: Manager) -> None:
        async with manager(journal.app()) as itself:
            assert type(itself) is manager

    async def fails(manager: Manager) -> None:
        await entered(manager(Starlette(lifespan=lambda _: fails_to_start())))

    async def says(manager: Manager) -> None:
        await entered(manager(fails_with_a_message, startup_timeout=0.5))

    for manager in MANAGERS:
        anyio.run(main, manager, backend=backend)
    assert journal.events == ["+app", "-app"] * 2
    here, there = MANAGERS
    with pytest.raises(Boom):
        anyio.run(fails, here, backend=backend)
    with pytest.raises(Boom if backend == "asyncio" else ExceptionGroup):
        anyio.run(fails, there, backend=backend)
    with pytest.raises(StartupFailed, match="no database"):
        anyio.run(says, here, backend=backend)
    if backend == "asyncio":
        with pytest.raises(TimeoutError, match=r"^$"):
            anyio.run(says, there, backend=backend)


@both
@row("`manager.app`")
async def test_requests_get_the_state(manager: Manager) -> None:
    """A copy of it here, the same dict there."""
    seen: list[dict[str, object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = "open"
            await Journal().app()(scope, receive, send)
        else:
            seen.append(dict(scope["state"]))
            scope["state"]["mine"] = True

    async with manager(app) as running:
        await request(running.app)
        await request(running.app)
    again = {"pool": "open"} if manager is LifespanManager else {"pool": "open", "mine": True}
    assert seen == [{"pool": "open"}, again]


@row("`manager.startup_timeout`, `manager.shutdown_timeout`")
@row("`manager.startup()`, `manager.shutdown()`, `manager.run_app()`, `manager.receive()`, `manager.send()`")
def test_parts_of_the_manager_are_private() -> None:
    """Public are `app`, `state`, `call` and `ready`, and the two ways to enter."""
    manager = LifespanManager(Starlette())
    assert [name for name in dir(manager) if not name.startswith("_")] == [
        "app",
        "call",
        "ready",
        "state",
        "wait_until_ready",
    ]


@both
@row("`LifespanNotSupported`")
async def test_an_app_without_lifespan_is_told_apart(manager: Manager) -> None:
    """One that raises in both; one that returns, or answers unasked, is where they differ."""
    is_here = manager is LifespanManager
    error = asgi_lifespan_mw.LifespanNotSupported if is_here else asgi_lifespan.LifespanNotSupported
    with pytest.raises(error):
        await entered(manager(asserts))
    with pytest.raises(error if is_here else TimeoutError):
        await entered(manager(returns, startup_timeout=0.1))
    with pytest.raises(RuntimeError if is_here else error, match="it started" if is_here else "before"):
        await entered(manager(answers_unasked))


@both
@row("`TimeoutError`")
async def test_time_limits_raise_timeout_errors(manager: Manager) -> None:
    """A bare one there; here it says what took too long."""
    said = "startup timed out after 0.1 s in app Starlette" if manager is LifespanManager else r"^$"
    with pytest.raises(TimeoutError, match=said) as raised:
        await entered(manager(Starlette(lifespan=lambda _: hangs_at_start()), startup_timeout=0.1))
    assert isinstance(raised.value, LifespanTimeout) == (manager is LifespanManager)


@row("`__version__`")
def test_both_have_a_version() -> None:
    """As text."""
    assert all(isinstance(package.__version__, str) for package in (asgi_lifespan, asgi_lifespan_mw))
