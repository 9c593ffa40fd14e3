"""Exceptions of users whose own methods and properties raise: they change no answer."""

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import anyio
import pytest
from starlette.applications import Starlette

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware
from asgi_lifespan_mw._types import is_a
from tests.conftest import VIRTUAL
from tests.server import RecordingServer


@pytest.fixture(params=[VIRTUAL[0], VIRTUAL[2]])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock."""
    return request.param()


METHODS = ["__str__", "__repr__", "__eq__", "__hash__", "__bool__", "add_note", "derive", "split"]
PROPERTIES = ["__class__", "__cause__", "__context__", "__notes__", "exceptions"]
BASES = {"Exception": Exception, "BaseException": BaseException, "ExceptionGroup": ExceptionGroup}


def hostile(name: str, base: Any, *given: Any, refusal: type[BaseException] = SystemExit) -> BaseException:
    """Make an exception one of whose methods or properties raises."""

    def raises(*_: object) -> NoReturn:
        raise refusal(name)

    cls = type("Hostile", (base,), {name: raises if name in METHODS else property(raises)})
    return cls(*(given or (("a group", [OSError("one"), OSError("two")]) if base is ExceptionGroup else ("no host",))))  # type: ignore[no-any-return]


async def raised_by(call: Callable[..., Awaitable[object]], *args: object) -> list[int]:
    """Return the identity of what a call raises, and those of its members. Pytest cannot show a hostile exception."""
    try:
        await call(*args)
    except BaseException as error:
        members: Any = (
            BaseExceptionGroup.__dict__["exceptions"].__get__(error) if is_a(error, BaseExceptionGroup) else ()
        )
        return [id(error), *map(id, members)]
    raise AssertionError


every_hostile = pytest.mark.parametrize(
    ("name", "base"),
    [
        (name, base)
        for name in METHODS + PROPERTIES
        for base in BASES
        if base == "ExceptionGroup" or name not in ("derive", "split", "exceptions")
    ],
)


@every_hostile
@pytest.mark.parametrize("reads_log", [True, False])
async def test_the_startup_and_the_clean_up_are_answered(
    name: str, base: str, reads_log: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start fails, what had started is stopped, and the error is the one that is raised."""
    monkeypatch.setattr(logging.getLogger("asgi_lifespan_mw"), "propagate", reads_log)
    error = hostile(name, BASES[base])
    stopped: list[str] = []

    async def opens() -> AsyncIterator[None]:
        yield
        stopped.append("opens")

    def fails() -> NoReturn:
        raise error

    server = RecordingServer()
    raised = await raised_by(server.run, LifespanMiddleware(Starlette(), opens, on_startup=[fails]))
    assert raised[0] == id(error)
    assert server.answers == ["startup.failed"]
    assert "startup failed in hook 'fails'" in server.sent[0]["message"]
    assert stopped == ["opens"]


@every_hostile
async def test_two_failures_at_the_stop_are_answered(name: str, base: str) -> None:
    """Both are in the answer and in the group. If Python refuses such a group, the first is raised."""
    errors = [hostile(name, BASES[base]) for _ in range(2)]

    async def first() -> AsyncIterator[None]:
        yield
        raise errors[0]

    async def second() -> AsyncIterator[None]:
        yield
        raise errors[1]

    server = RecordingServer()
    raised = await raised_by(server.run, LifespanMiddleware(Starlette(), [first, second]))
    is_refused = (name, base) == ("__class__", "BaseException")
    assert raised[0 if is_refused else 1 :] == [*map(id, reversed(errors))][: 1 if is_refused else 2]
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert all(f"shutdown failed in hook '{name}'" in server.sent[1]["message"] for name in ("first", "second"))


@every_hostile
async def test_a_crash_is_reported_once(name: str, base: str) -> None:
    """`on_crash` gets the very error, and the shutdown is answered."""
    error = hostile(name, BASES[base])
    crash, errors = anyio.Event(), list[BaseException]()
    app = LifespanMiddleware(Starlette(), on_crash=errors.append)

    @app.worker
    async def consume() -> None:
        await crash.wait()
        raise error

    server = RecordingServer(holds_on=True)
    raised: list[int] = []

    async def serve() -> None:
        raised.extend(await raised_by(server.run, app))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await server.started.wait()
        crash.set()
        await anyio.sleep(1)
        server.may_stop.set()
    assert [id(one) for one in errors] == [id(error)]
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert raised[0] == id(error)


@every_hostile
async def test_an_app_that_raises_after_its_answer_is_answered(name: str, base: str) -> None:
    """Its exception is the better error, or is added to the message; no second answer is sent."""
    error = hostile(name, BASES[base])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise error

    server = RecordingServer()
    raised = await raised_by(server.run, LifespanMiddleware(app, on_startup=[lambda: None]))
    assert raised[0] == id(error)
    assert server.answers == ["startup.failed"]
    assert server.sent[0]["message"].startswith("startup failed in app ")


@every_hostile
async def test_a_group_with_a_violation_of_ours_is_answered(name: str, base: str) -> None:
    """`strict=True`: a violation is raised in the app's `send`, and the app puts it into a group of its own."""
    server = RecordingServer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await send({"type": "lifespan.shutdown.complete"})
        except Exception as violation:
            given = ("a group", [violation, OSError("one")]) if base == "ExceptionGroup" else ("no host",)
            raise hostile(name, BASES[base], *given) from violation

    await raised_by(server.run, LifespanMiddleware(app, on_startup=[lambda: None], strict=True))
    assert server.answers == ["startup.failed"]


@every_hostile
async def test_a_manager_raises_the_error(name: str, base: str) -> None:
    """As it is."""
    error = hostile(name, BASES[base])

    def fails() -> NoReturn:
        raise error

    manager = LifespanManager(LifespanMiddleware(Starlette(), on_startup=[fails]))
    assert (await raised_by(manager.__aenter__))[0] == id(error)


async def test_an_interrupted_text_is_no_second_interrupt() -> None:
    """The headline is made although `__str__` of the error raises KeyboardInterrupt, and SIGINT keeps its handler."""
    error = hostile("__str__", Exception, refusal=KeyboardInterrupt)

    def fails() -> NoReturn:
        raise error

    before, server = signal.getsignal(signal.SIGINT), RecordingServer()
    raised = await raised_by(server.run, LifespanMiddleware(Starlette(), on_startup=[fails]))
    assert raised[0] == id(error)
    assert "<unprintable " in server.sent[0]["message"]
    assert signal.getsignal(signal.SIGINT) is before
