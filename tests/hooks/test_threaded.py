"""`threaded`: hooks in worker threads."""

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import anyio
import anyio.from_thread
import pytest

from asgi_lifespan_mw import Lifespan, LifespanMiddleware, LifespanTimeout, threaded
from tests.plans import Journal, hangs_at_stop
from tests.server import RecordingServer

APP = object()
VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


def is_in_worker_thread() -> bool:
    """Whether the running code is off the event loop's thread, which is the main one."""
    return threading.current_thread() is not threading.main_thread()


class Threads(list[tuple[str, bool]]):
    """A log of deeds, each with whether it was done in a worker thread."""

    def note(self, deed: str) -> None:
        self.append((deed, is_in_worker_thread()))


class Manager(AbstractContextManager[dict[str, object]]):
    """A context manager that logs where it is made, entered and left."""

    def __init__(self, log: Threads, *given: object) -> None:
        self.log = log
        self.given = given
        log.note("made")

    def __enter__(self) -> dict[str, object]:
        self.log.note("up")
        return {"given": self.given}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.log.note("down")


async def lived(hooks: Lifespan) -> object:
    """Start and stop the hooks; the state that they gave."""
    async with hooks(APP) as state:
        return state


async def test_a_function_runs_in_a_worker_thread() -> None:
    """At startup and at shutdown, each called once."""
    log = Threads()
    hooks = Lifespan(
        on_startup=[threaded(functools.partial(log.note, "start"))],
        on_shutdown=[threaded(functools.partial(log.note, "end"))],
    )
    await lived(hooks)
    assert log == [("start", True), ("end", True)]


async def test_a_generator_function_runs_in_a_worker_thread() -> None:
    """Both halves, and what it yields becomes state."""
    log = Threads()

    @threaded
    def loads() -> Iterator[dict[str, str]]:
        log.note("up")
        yield {"model": "loaded"}
        log.note("down")

    assert await lived(Lifespan(contexts=[loads])) == {"model": "loaded"}
    assert log == [("up", True), ("down", True)]


@pytest.mark.parametrize(
    "make",
    [
        lambda log: lambda app: Manager(log, app),
        lambda log: functools.partial(Manager, log),
        lambda log: contextmanager(functools.partial(_yielding, log)),
    ],
    ids=["function", "partial of a class", "@contextmanager"],
)
async def test_a_context_manager_is_made_entered_and_left_in_worker_threads(make: Callable[[Threads], Any]) -> None:
    """Whatever makes it; it is given the app as on the event loop."""
    log = Threads()
    assert await lived(Lifespan(contexts=[threaded(make(log))])) == {"given": (APP,)}
    assert log == [("made", True), ("up", True), ("down", True)]


def _yielding(log: Threads, app: object) -> Iterator[dict[str, object]]:
    log.note("made")
    log.note("up")
    yield {"given": (app,)}
    log.note("down")


async def test_the_event_loop_goes_on_meanwhile() -> None:
    """A hook that blocks its thread until the event loop has done something does not hold it up."""
    done = threading.Event()

    @threaded
    def blocks() -> None:
        anyio.from_thread.run_sync(done.set)
        assert done.wait(10)

    await lived(Lifespan(on_startup=[blocks]))


async def test_it_keeps_signature_and_name() -> None:
    """The hook is read, and named in messages, as the function itself."""

    def loads(app: object) -> None:
        raise ValueError(app)

    hooks = Lifespan(on_startup=[threaded(loads)])
    assert repr(hooks) == "<Lifespan of 'loads'>"
    with pytest.raises(ValueError) as caught:
        await lived(hooks)
    assert caught.value.args == (APP,)


async def test_a_partial_keeps_its_name() -> None:
    """The function inside is what a reader of the log knows."""
    hooks = Lifespan(on_startup=[threaded(functools.partial(print, "started"))])
    assert repr(hooks) == "<Lifespan of 'print'>"


async def sets_variable() -> AsyncIterator[None]:
    """Set the context variable."""
    VARIABLE.set("set")
    yield


async def test_it_sees_context_variables() -> None:
    """Those that hooks before it had set."""
    log: list[str] = []

    def reads() -> None:
        log.append(VARIABLE.get())

    await lived(Lifespan(contexts=[sets_variable], on_startup=[threaded(reads)]))
    assert log == ["set"]


async def test_an_error_comes_out_as_itself() -> None:
    """Also one from the second half, which is the shutdown's."""

    @threaded
    def breaks() -> Iterator[None]:
        yield
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await lived(Lifespan(contexts=[breaks]))


def generator() -> Iterator[None]:
    """A generator function, without a turn."""
    yield from ()


@pytest.mark.parametrize("register", ["on_startup", "on_shutdown"])
def test_a_threaded_generator_is_a_context_and_nothing_else(register: str) -> None:
    """It is refused as the generator function itself would be."""
    with pytest.raises(TypeError, match=rf"{register}\(\) got 'generator' .*context\(\)"):
        getattr(Lifespan(), register)(threaded(generator))


async def coroutine_function() -> None:
    """An async function."""


class CallableCoroutineFunction:
    """An object whose call is an ``async def``."""

    async def __call__(self) -> None: ...


ASYNC = {
    "async def": coroutine_function,
    "async generator function": sets_variable,
    "@asynccontextmanager": asynccontextmanager(sets_variable),
    "partial": functools.partial(coroutine_function),
    "callable object": CallableCoroutineFunction(),
    "not callable": 5,
}


@pytest.mark.parametrize("given", ASYNC.values(), ids=ASYNC)
def test_what_does_not_block_is_refused(given: Any) -> None:
    """An `async def` belongs on the event loop; the refusal says so."""
    with pytest.raises(TypeError, match=r"threaded\(\) got .*, expected a `def` function"):
        threaded(given)


async def test_a_coroutine_that_comes_of_a_thread_is_an_error() -> None:
    """It is not dropped unawaited: the error names the hook and says where it belongs."""

    def returns_coroutine() -> Any:
        return coroutine_function()

    with pytest.raises(TypeError, match=r"hook 'returns_coroutine' .*threaded"):
        await lived(Lifespan(on_startup=[threaded(returns_coroutine)]))


@pytest.mark.parametrize("returned", [None, 5], ids=repr)
async def test_a_context_function_that_gives_no_context_manager_fails(returned: Any) -> None:
    """The error names the hook, shows what came, and says what to do, as on the event loop."""

    def returns() -> Any:
        return returned

    with pytest.raises(
        TypeError, match=r"hook 'returns' \(.*\) returned a value of type \w+, expected a context manager"
    ):
        await lived(Lifespan(contexts=[threaded(returns)]))


def yields_twice() -> Iterator[None]:
    """A generator with a turn too many."""
    yield
    yield


@pytest.mark.parametrize(("given", "deed"), [(generator, "never yielded"), (yields_twice, "yielded more than once")])
async def test_a_generator_that_does_not_yield_once_fails(given: Any, deed: str) -> None:
    """The error names the hook and says what a context is, as on the event loop."""
    with pytest.raises(TypeError, match=rf"hook '{given.__name__}' .* {deed}; .*exactly once"):
        await lived(Lifespan(contexts=[threaded(given)]))


async def test_a_thread_cannot_be_cancelled_and_is_left_to_end_by_itself() -> None:
    """A startup that is cancelled ends at once, though the thread still runs."""
    begun, may_end, ended = anyio.Event(), threading.Event(), threading.Event()

    def hangs() -> None:
        anyio.from_thread.run_sync(begun.set)
        assert may_end.wait(10)
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lived, Lifespan(on_startup=[threaded(hangs)]))
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert not ended.is_set()
    may_end.set()
    assert ended.wait(10)


@pytest.mark.parametrize("fails", [False, True], ids=["opens", "fails to open"])
async def test_a_context_that_is_abandoned_while_it_is_entered_is_left_when_its_thread_returns(fails: bool) -> None:
    """What it opens is closed, if it opens anything."""
    begun, may_enter, ended = anyio.Event(), threading.Event(), threading.Event()
    log: list[str] = []

    class Resource(AbstractContextManager[None]):
        def __enter__(self) -> None:
            anyio.from_thread.run_sync(begun.set)
            assert may_enter.wait(10)
            if fails:
                ended.set()
                raise OSError
            log.append("opened")

        def __exit__(self, *error: object) -> None:
            log.append("closed")
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lived, Lifespan(contexts=[threaded(Resource)]))
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert log == []
    may_enter.set()
    assert ended.wait(10)
    assert log == ([] if fails else ["opened", "closed"])


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # real clocks, since a virtual one jumps meanwhile
async def test_what_is_left_when_the_time_is_up_is_stopped_all_the_same(journal: Journal) -> None:
    """As on the event loop, where a manager is left and a function is called even then."""
    log = Threads()
    hooks = Lifespan(contexts=[threaded(functools.partial(Manager, log))])
    hooks.on_shutdown(threaded(functools.partial(log.note, "end")))
    last = Lifespan(contexts=[hangs_at_stop])
    with pytest.raises(ExceptionGroup) as caught:
        await RecordingServer().run(LifespanMiddleware(journal.app(), [hooks, last], shutdown_timeout=0.01))
    assert {type(error) for error in caught.value.exceptions} == {LifespanTimeout}
    assert log == [("made", True), ("up", True), ("end", True), ("down", True)]
