"""Hooks: what can be one, what is refused, and what each is called with."""

import functools
import importlib
import inspect
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast
from unittest.mock import AsyncMock

import anyio.lowlevel
import pytest

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from asgi_lifespan_mw._hooks.decorators import hooks_of
from asgi_lifespan_mw._units import location
from tests.server import RecordingServer

APP = object()
"""What stands for the app where hooks are only given it."""

NEVER = bool(())

Log = list[object]
Make = Callable[[Log], Any]


async def lived(hooks: Lifespan) -> object:
    """Start and stop the hooks; the state that they gave."""
    async with hooks(APP) as state:
        return state


class SyncManager:
    """A plain context manager that logs; it is given what its maker was given."""

    def __init__(self, log: Log, *given: object) -> None:
        self.log = log
        self.given = given

    def __enter__(self) -> dict[str, object]:
        self.log += ["up", *self.given]
        return {"key": "value"}

    def __exit__(self, *error: object) -> None:
        self.log.append("down")


class AsyncManager:
    """An asynchronous context manager that logs."""

    def __init__(self, log: Log, *given: object) -> None:
        self.log = log
        self.given = given

    async def __aenter__(self) -> dict[str, object]:
        await anyio.lowlevel.checkpoint()
        self.log += ["up", *self.given]
        return {"key": "value"}

    async def __aexit__(self, *error: object) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append("down")


class BothManagers(SyncManager, AsyncManager):
    """A context manager of both kinds, whose synchronous side must not be used."""

    def __enter__(self) -> Any: ...


class HasContexts:
    """An object with contexts as its methods."""

    def __init__(self, log: Log) -> None:
        self.log = log

    async def lives(self) -> AsyncIterator[dict[str, object]]:
        self.log.append("up")
        yield {"key": "value"}
        self.log.append("down")

    async def lives_with(self, app: object) -> AsyncIterator[dict[str, object]]:
        self.log += ["up", app]
        yield {"key": "value"}
        self.log.append("down")


class CallableContext:
    """A callable object that makes contexts."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __call__(self, app: object) -> AsyncManager:
        return AsyncManager(self.log, app)


def async_generator(log: Log) -> Any:
    """Make an async generator function."""

    async def context() -> AsyncIterator[dict[str, object]]:
        log.append("up")
        yield {"key": "value"}
        log.append("down")

    return context


def async_generator_with_app(log: Log) -> Any:
    """Make an async generator function that takes the app."""

    async def context(app: object) -> AsyncIterator[dict[str, object]]:
        log.extend(["up", app])
        yield {"key": "value"}
        log.append("down")

    return context


def generator(log: Log) -> Any:
    """Make a generator function."""

    def context() -> Iterator[dict[str, object]]:
        log.append("up")
        yield {"key": "value"}
        log.append("down")

    return context


def generator_with_app(log: Log) -> Any:
    """Make a generator function that takes the app."""

    def context(app: object) -> Iterator[dict[str, object]]:
        log.extend(["up", app])
        yield {"key": "value"}
        log.append("down")

    return context


def indirectly(make: Make) -> Make:
    """Have a function made that returns what another one gives."""

    def make_returning(log: Log) -> Any:
        inner = make(log)

        def returning() -> Any:
            return inner()

        return returning

    return make_returning


def class_without_app(manager: type) -> Make:
    """Have a class made whose instances are managers, and which takes nothing."""

    def make(log: Log) -> Any:
        class Manager(manager):  # type: ignore[misc]  # its base depends on the case
            def __init__(self) -> None:
                super().__init__(log)

        return Manager

    return make


def class_with_app(manager: type) -> Make:
    """Have a class made whose instances are managers, and which takes the app."""

    def make(log: Log) -> Any:
        class Manager(manager):  # type: ignore[misc]  # its base depends on the case
            def __init__(self, app: object) -> None:
                super().__init__(log, app)

        return Manager

    return make


def function_with_varargs(log: Log) -> Any:
    """Make a context function of any number of arguments."""

    def context(*args: object) -> AsyncManager:
        return AsyncManager(log, *args)

    return context


def function_with_default(log: Log) -> Any:
    """Make a context function of an optional argument, such as the size of a pool."""

    def context(size: int = 5) -> AsyncManager:
        assert size == 5
        return AsyncManager(log)

    return context


def class_with_default(log: Log) -> Any:
    """Make a class of managers with an optional argument: ``app.context(Pool)`` of ``Pool(size=5)``."""

    class Pool(AsyncManager):
        def __init__(self, size: int = 5) -> None:
            assert size == 5
            super().__init__(log)

    return Pool


def function_with_default_and_varargs(log: Log) -> Any:
    """Make a context function whose first argument has a default, before any number of arguments."""

    def context(size: int = 5, *args: object) -> AsyncManager:
        assert (size, args) == (5, ())
        return AsyncManager(log)

    return context


def function_with_optional_keyword(log: Log) -> Any:
    """Make a context function that takes no argument but a keyword."""

    def context(*, app: object = None) -> AsyncManager:
        assert app is None
        return AsyncManager(log)

    return context


WITHOUT_APP: dict[str, Make] = {
    "async generator function": async_generator,
    "generator function": generator,
    "@asynccontextmanager": lambda log: asynccontextmanager(async_generator(log)),
    "@contextmanager": lambda log: contextmanager(generator(log)),
    "lambda that returns a manager": lambda log: lambda: SyncManager(log),
    "lambda that returns an async manager": lambda log: lambda: AsyncManager(log),
    "lambda that returns a manager of both kinds": lambda log: lambda: BothManagers(log),
    "function that returns a generator": indirectly(generator),
    "function that returns an async generator": indirectly(async_generator),
    "class of managers": class_without_app(SyncManager),
    "class of async managers": class_without_app(AsyncManager),
    "partial": lambda log: functools.partial(lambda manager: manager, AsyncManager(log)),
    "bound method": lambda log: HasContexts(log).lives,
    "optional keyword": function_with_optional_keyword,
    "an argument with a default": function_with_default,
    "a class whose argument has a default": class_with_default,
    "a default before any number of arguments": function_with_default_and_varargs,
    "a loop's variable as the default": lambda log: lambda log=log: AsyncManager(log),
}

WITH_APP: dict[str, Make] = {
    "async generator function": async_generator_with_app,
    "generator function": generator_with_app,
    "@asynccontextmanager": lambda log: asynccontextmanager(async_generator_with_app(log)),
    "@contextmanager": lambda log: contextmanager(generator_with_app(log)),
    "lambda that returns a manager": lambda log: lambda app: SyncManager(log, app),
    "lambda that returns an async manager": lambda log: lambda app: AsyncManager(log, app),
    "class of managers": class_with_app(SyncManager),
    "class of async managers": class_with_app(AsyncManager),
    "partial": lambda log: functools.partial(AsyncManager, log),
    "bound method": lambda log: HasContexts(log).lives_with,
    "callable object": CallableContext,
    "any number of arguments": function_with_varargs,
}


@pytest.mark.parametrize("make", WITHOUT_APP.values(), ids=WITHOUT_APP)
async def test_each_kind_of_context_is_entered_and_left(make: Make) -> None:
    """Whatever makes a context is entered at startup, gives state, and is left at shutdown."""
    log: Log = []
    async with Lifespan(contexts=[make(log)])(APP) as state:
        assert state == {"key": "value"}
        assert log == ["up"]
    assert log == ["up", "down"]


@pytest.mark.parametrize("make", WITH_APP.values(), ids=WITH_APP)
async def test_a_context_is_passed_the_app_if_its_first_parameter_has_no_default(make: Make) -> None:
    """The convention is `lifespan(app)`; ``*args`` takes what a lifespan takes."""
    log: Log = []
    async with Lifespan(contexts=[make(log)])(APP) as state:
        assert state == {"key": "value"}
        assert log == ["up", APP]
    assert log == ["up", APP, "down"]


class HasFunctions:
    """An object with functions as its methods, callable itself."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def called(self) -> None:
        self.log.append("called")

    def called_with(self, app: object) -> None:
        self.log += ["called", app]

    async def __call__(self, app: object) -> None:
        await anyio.lowlevel.checkpoint()
        self.log += ["called", app]


def function(log: Log) -> Any:
    """Make a `def` function."""

    def called() -> None:
        log.append("called")

    return called


def function_with_app(log: Log) -> Any:
    """Make a `def` function that takes the app."""

    def called(app: object) -> None:
        log.extend(["called", app])

    return called


def async_function(log: Log) -> Any:
    """Make an ``async def`` function."""

    async def called() -> None:
        await anyio.lowlevel.checkpoint()
        log.append("called")

    return called


def async_function_with_app(log: Log) -> Any:
    """Make an ``async def`` function that takes the app."""

    async def called(app: object) -> None:
        await anyio.lowlevel.checkpoint()
        log.extend(["called", app])

    return called


def function_with_optional_app(log: Log) -> Any:
    """Make a function of an optional argument, which is not used."""

    def called(app: object = None) -> None:
        assert app is None
        log.append("called")

    return called


def function_with_result(log: Log) -> Any:
    """Make a function that returns something."""

    def called() -> Log:
        log.append("called")
        return log

    return called


def function_of_any_arguments(log: Log) -> Any:
    """Make a function of any arguments, of which none is used."""

    def called(*args: object, **options: object) -> None:
        assert (args, options) == ((), {})
        log.append("called")

    return called


class AwaitableThing:
    """Something that can be awaited and is no coroutine."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __await__(self) -> Any:
        return async_function(self.log)().__await__()


FUNCTIONS: dict[str, tuple[Make, bool]] = {
    "def": (function, False),
    "def with the app": (function_with_app, True),
    "async def": (async_function, False),
    "async def with the app": (async_function_with_app, True),
    "function that returns a coroutine": (indirectly(async_function), False),
    "lambda that returns an awaitable": (lambda log: lambda: AwaitableThing(log), False),
    "function that returns something": (function_with_result, False),
    "partial": (lambda log: functools.partial(async_function_with_app(log), "given"), False),
    "partial with the app": (lambda log: functools.partial(lambda log, app: log.extend(["called", app]), log), True),
    "bound method": (lambda log: HasFunctions(log).called, False),
    "bound method with the app": (lambda log: HasFunctions(log).called_with, True),
    "callable object": (HasFunctions, True),
    "optional argument": (function_with_optional_app, False),
    "any arguments": (function_of_any_arguments, False),
}


@pytest.mark.parametrize(("make", "takes_app"), FUNCTIONS.values(), ids=FUNCTIONS)
async def test_each_kind_of_startup_function_is_called(make: Make, takes_app: bool) -> None:
    """A function is called at startup, awaited if it can be, and given the app only if it requires it."""
    log: Log = []
    async with Lifespan(on_startup=[make(log)])(APP) as state:
        assert state is None
        assert log[0] == "called"
        assert (APP in log) == takes_app
    assert log.count("called") == 1


@pytest.mark.parametrize(("make", "takes_app"), FUNCTIONS.values(), ids=FUNCTIONS)
async def test_each_kind_of_shutdown_function_is_called(make: Make, takes_app: bool) -> None:
    """A function is called at shutdown in the same manner as at startup."""
    log: Log = []
    async with Lifespan(on_shutdown=[make(log)])(APP):
        assert log == []
    assert log[0] == "called"
    assert (APP in log) == takes_app
    assert log.count("called") == 1


async def test_a_builtin_without_a_signature_is_called_without_the_app() -> None:
    """What Python itself can't read is taken for a function without parameters."""
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(dir)
    async with Lifespan(on_startup=[dir])(APP):
        pass


async def rejects_lifespan(scope: Any, receive: Any, send: Any) -> None:
    """An app that turns the lifespan away."""
    raise ValueError(scope["type"])


async def test_the_app_is_the_wrapped_one() -> None:
    """Around an app, a hook is given that app."""
    log: Log = []
    await RecordingServer().run(LifespanMiddleware(rejects_lifespan, on_startup=[function_with_app(log)], mounts="off"))
    assert log == ["called", rejects_lifespan]


async def test_the_app_is_the_frameworks_where_it_says_so() -> None:
    """Inside a framework, whose scope names the application, a hook is given that one."""
    log: Log = []
    app = LifespanMiddleware(
        rejects_lifespan, async_generator_with_app(log), on_startup=[function_with_app(log)], mounts="off"
    )
    await RecordingServer(app=APP).run(app)
    assert log == ["up", APP, "called", APP, "down"]


async def test_a_type_error_in_a_hook_comes_out_as_itself() -> None:
    """The signature is read, not tried out: a hook that raises TypeError is called once."""
    log: Log = []

    def breaks(app: object) -> AsyncManager:
        log.append(app)
        raise TypeError("breaks() takes 0 positional arguments but 1 was given")

    with pytest.raises(TypeError, match=r"^breaks\(\) takes 0") as caught:
        await lived(Lifespan(contexts=[breaks]))
    assert log == [APP]
    assert caught.value.__cause__ is None


async def test_a_type_error_in_a_function_comes_out_as_itself() -> None:
    """The same holds for a function that needs no argument."""
    log: Log = []

    def breaks() -> None:
        log.append("called")
        raise TypeError("breaks() missing 1 required positional argument: 'app'")

    with pytest.raises(TypeError, match=r"^breaks\(\) missing 1"):
        await lived(Lifespan(on_startup=[breaks]))
    assert log == ["called"]


# Refusals, at registration.


def needs_two(app: object, other: object) -> None:
    """Needs more than the app."""


def needs_keyword(app: object, *, other: object) -> None:
    """Needs a keyword."""


async def coroutine_function() -> None:
    """Never yields."""


REGISTER = ["context", "on_startup", "on_shutdown"]


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("given", [5, "name", b"name", object(), ()], ids=lambda given: type(given).__name__)
def test_what_cannot_be_called_is_refused(register: str, given: Any) -> None:
    """The refusal shows what was given, by which call, and what belongs there."""
    with pytest.raises(TypeError, match=rf"{register}\(\) got {re.escape(repr(given))}, expected a function"):
        getattr(Lifespan(), register)(given)


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("given", [needs_two, needs_keyword])
def test_a_hook_that_needs_more_than_the_app_is_refused(register: str, given: Callable[..., Any]) -> None:
    """The refusal names the function with its place, shows its signature, and says what is called."""
    place = rf"'{given.__name__}' \(.*test_hook\.py:\d+\)"
    asks = re.escape(str(inspect.signature(given)))
    with pytest.raises(
        TypeError, match=rf"{register}\(\) got {place}.* {asks} .*expected no parameter or one, the app"
    ):
        getattr(Lifespan(), register)(given)


@pytest.mark.parametrize("register", REGISTER)
def test_a_partial_with_too_many_arguments_is_refused(register: str) -> None:
    """No call of it can work, with the app or without, and that is seen at registration."""
    with pytest.raises(TypeError, match=rf"{register}\(\) got 'named' .*can't be called"):
        getattr(Lifespan(), register)(functools.partial(cast("Any", named), 1, 2))


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize("make", [SyncManager, AsyncManager, lambda log: asynccontextmanager(async_generator(log))()])
def test_a_context_manager_itself_is_refused(register: str, make: Make) -> None:
    """It could be entered only once; the refusal says what to give in its place."""
    with pytest.raises(TypeError, match=rf"{register}\(\) got .*only once.*expected a function.*lambda: "):
        getattr(Lifespan(), register)(make([]))


async def test_a_partial_of_a_builtin_without_a_signature_is_called_without_the_app() -> None:
    """Behind a partial too: that its signature cannot be read is no sign of too many arguments."""
    async with Lifespan(on_startup=[functools.partial(int, "3")])(APP):
        pass


@pytest.mark.parametrize("given", [coroutine_function, functools.partial(coroutine_function)])
def test_a_coroutine_function_as_context_is_refused(given: Any) -> None:
    """An `async def` without a yield; the refusal says so, and names on_startup()."""
    with pytest.raises(TypeError, match=r"context\(\) got 'coroutine_function' \(.*yield.*on_startup\(\)"):
        Lifespan().context(given)


CONTEXTS_NOT_FUNCTIONS = {
    "async generator function": async_generator([]),
    "generator function": generator([]),
    "@asynccontextmanager": asynccontextmanager(async_generator([])),
    "@contextmanager": contextmanager(generator([])),
    "partial of a generator function": functools.partial(generator([])),
    "partial of @asynccontextmanager": functools.partial(asynccontextmanager(async_generator([]))),
    "method": HasContexts([]).lives,
    "class": AsyncManager,
}


@pytest.mark.parametrize("register", ["on_startup", "on_shutdown"])
@pytest.mark.parametrize("given", CONTEXTS_NOT_FUNCTIONS.values(), ids=CONTEXTS_NOT_FUNCTIONS)
def test_a_context_among_the_functions_is_refused(register: str, given: Any) -> None:
    """It would be made and never entered; the refusal says so, and names context()."""
    with pytest.raises(TypeError, match=rf"{register}\(\) got .*never be entered.*context\(\)"):
        getattr(Lifespan(), register)(given)


@pytest.mark.parametrize("register", ["on_startup", "on_shutdown"])
@pytest.mark.parametrize("kind", ["async generator function", "generator function", "@asynccontextmanager"])
async def test_a_function_that_returns_a_generator_fails(register: str, kind: str) -> None:
    """What only a call shows is not dropped in silence: no line of the generator would ever run."""
    hooks = Lifespan()
    getattr(hooks, register)(indirectly(WITHOUT_APP[kind])([]))
    with pytest.raises(TypeError, match=r"hook 'returning' .*context\(\)"):
        await lived(hooks)


@pytest.mark.parametrize("register", ["on_startup", "on_shutdown"])
async def test_a_function_may_return_what_can_be_entered(register: str) -> None:
    """A file or a connection is open already, and is dropped like any other result."""
    hooks = Lifespan()
    getattr(hooks, register)(lambda: StringIO())  # noqa: PLW0108 - a function, not a class
    assert await lived(hooks) is None


@pytest.mark.parametrize("register", REGISTER)
def test_a_lifespan_among_the_hooks_is_refused(register: str) -> None:
    """A Lifespan is callable, but it belongs to include(), as the refusal says."""
    with pytest.raises(TypeError, match=rf"{register}\(\) got <Lifespan .*expected a function.*include\(\)"):
        getattr(Lifespan(), register)(Lifespan())


@pytest.mark.parametrize("register", REGISTER)
def test_a_name_that_is_not_a_string_is_refused(register: str) -> None:
    """The refusal shows the name."""
    with pytest.raises(TypeError, match=rf"{register}\(name=\.\.\.\) got 5, expected a string"):
        getattr(Lifespan(), register)(lambda: None, name=5)


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize(
    ("timeout", "error"),
    [("1", TypeError), (True, TypeError), (0, ValueError), (-1, ValueError), (float("nan"), ValueError)],
)
def test_a_timeout_that_is_no_positive_number_is_refused(register: str, timeout: Any, error: type[Exception]) -> None:
    """The refusal names the argument and shows what was given."""
    with pytest.raises(
        error, match=rf"{register}\(timeout=\.\.\.\) got {timeout!r}, expected .*seconds.*None for no limit"
    ):
        getattr(Lifespan(), register)(lambda: None, timeout=timeout)


def test_a_mock_stands_in_for_a_hook() -> None:
    """Mocks can do everything, being entered too; in a test's override() one stands for a function."""
    hooks = Lifespan(on_startup=[coroutine_function])
    with hooks.override(coroutine_function, AsyncMock()):
        assert repr(hooks) == "<Lifespan of 'coroutine_function'>"


# Refusals that only a run can make.


async def test_a_context_function_that_gives_none_fails() -> None:
    """The error names the hook, shows what came, and says what to do."""

    def returns_five() -> Any:
        return 5

    with pytest.raises(
        TypeError,
        match=r"hook 'returns_five' \(.*test_hook.py:\d+\) returned a value of type int, expected .*on_startup",
    ):
        await lived(Lifespan(contexts=[returns_five]))


async def test_a_context_function_that_gives_a_coroutine_fails() -> None:
    """The coroutine is closed, so that Python does not warn of it beside the error."""
    with pytest.raises(
        TypeError,
        match=r"hook 'returning' .*returned a value of type coroutine, expected a context manager.*on_startup",
    ):
        await lived(Lifespan(contexts=[indirectly(lambda _: coroutine_function)([])]))


def never_yields() -> Iterator[None]:
    """A generator without a turn."""
    yield from ()


async def never_yields_async() -> AsyncIterator[None]:
    """An async generator without a turn."""
    _ = NEVER and (yield)


def yields_twice() -> Iterator[None]:
    """A generator with a turn too many."""
    yield
    yield


async def yields_twice_async() -> AsyncIterator[None]:
    """An async generator with a turn too many."""
    yield
    yield


@pytest.mark.parametrize("given", [never_yields, never_yields_async])
async def test_a_context_that_never_yields_fails(given: Any) -> None:
    """The startup fails, and the error names the hook and says what a context is."""
    with pytest.raises(TypeError, match=rf"hook '{given.__name__}' .* never yielded; .*exactly once"):
        await lived(Lifespan(contexts=[given]))


@pytest.mark.parametrize("given", [yields_twice, yields_twice_async])
async def test_a_context_that_yields_twice_fails(given: Any) -> None:
    """The shutdown fails, and the error names the hook and says what a context is."""
    log: Log = []
    with pytest.raises(TypeError, match=rf"hook '{given.__name__}' .* more than once; .*exactly once"):
        await lived(Lifespan(contexts=[async_generator(log), given]))
    assert log == ["up", "down"]


@pytest.mark.parametrize("complaint", ["generator didn't yield", "generator didn't stop", "out of teapots"])
async def test_a_runtime_error_of_the_hooks_own_comes_out_as_itself(complaint: str) -> None:
    """Also one in the words of contextlib: a broken generator inside a hook is not taken for the hook."""

    async def breaks() -> AsyncIterator[dict[str, object]]:
        yield fails()

    def fails() -> dict[str, object]:
        raise RuntimeError(complaint)

    with pytest.raises(RuntimeError, match=complaint):
        await lived(Lifespan(contexts=[breaks]))


@pytest.mark.parametrize(
    ("broken", "complaint"), [(never_yields, "generator didn't yield"), (yields_twice, "generator didn't stop")]
)
async def test_an_error_of_a_context_inside_a_hook_comes_out_as_itself(broken: Any, complaint: str) -> None:
    """`contextlib` raises it for a generator that the hook enters, and the hook itself yields once."""

    async def opens_another() -> AsyncIterator[None]:
        with contextmanager(broken)():
            yield

    with pytest.raises(RuntimeError, match=complaint):
        await lived(Lifespan(contexts=[opens_another]))


async def test_a_generator_that_a_hook_uses_is_not_taken_for_the_hook() -> None:
    """A hook enters a context of a library, whose generator never yields: the library's error comes out."""

    @asynccontextmanager
    async def connects() -> AsyncIterator[None]:
        if APP is None:  # pragma: no cover - it is a generator that never yields
            yield

    async def uses_it() -> AsyncIterator[None]:
        async with connects():
            yield  # pragma: no cover - the context in it fails

    with pytest.raises(RuntimeError, match="generator didn't yield"):
        await lived(Lifespan(contexts=[uses_it]))


def test_a_working_directory_that_was_removed_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployments delete old releases under running processes. Files then have their full names."""
    gone = tmp_path / "release"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        importlib.reload(location)
        with pytest.raises(TypeError, match=rf"'<lambda>' \({re.escape(__file__)}:\d+\), which cannot be called as"):
            Lifespan().on_startup(lambda one, two: None)  # type: ignore[type-var]
    finally:
        monkeypatch.undo()
        importlib.reload(location)


@pytest.mark.parametrize(
    "value", [5_000_000, "postgres://u:secret@db", ["a", "b"], object()], ids=lambda value: type(value).__name__
)
async def test_a_context_that_yields_what_is_not_a_mapping_fails(value: Any) -> None:
    """The error names the hook and the type of the value, and shows the right form; the value may be a secret."""

    async def yields_value() -> AsyncIterator[Any]:
        yield value

    kind = type(value).__name__
    expected = (
        rf"hook 'yields_value' .* yielded a value of type {kind}, expected nothing or a mapping.*'yields_value': "
    )
    with pytest.raises(TypeError, match=expected) as caught:
        await lived(Lifespan(contexts=[yields_value]))
    assert repr(value) not in str(caught.value)


class LazyMapping(Mapping[str, Any]):
    """Settings that fail when they are read."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __iter__(self) -> Iterator[str]:
        return iter(["database"])

    def __len__(self) -> int:
        raise AssertionError

    def __getitem__(self, key: str) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error", [TypeError("no"), ConnectionError("no"), KeyError("no"), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
async def test_a_context_is_left_if_its_mapping_cannot_be_read(error: BaseException, is_async: bool) -> None:
    """What it opened is closed."""
    log: list[str] = []

    async def asynchronous() -> AsyncIterator[Any]:
        try:
            yield LazyMapping(error)
        finally:
            log.append("closed")

    def plain() -> Iterator[Any]:
        try:
            yield LazyMapping(error)
        finally:
            log.append("closed")

    with pytest.raises(type(error)):
        await lived(Lifespan(contexts=[asynchronous if is_async else plain]))
    assert log == ["closed"]


@pytest.mark.parametrize("error", [StopIteration("mine"), StopAsyncIteration("mine"), RuntimeError("mine")], ids=repr)
async def test_what_ends_iterations_may_be_raised_around_a_context(error: Exception) -> None:
    """It goes through generators as any other exception does."""
    log: list[str] = []

    async def asynchronous() -> AsyncIterator[None]:
        try:
            yield
        finally:
            log.append("async")

    def plain() -> Iterator[None]:
        try:
            yield
        finally:
            log.append("plain")

    for context in (asynchronous, plain):
        [hook] = hooks_of(Lifespan(contexts=[context])).in_start_order()
        with pytest.raises(type(error), match="mine") as caught:
            async with hook.open(None):
                raise error
        assert caught.value is error
    assert log == ["async", "plain"]


async def test_a_context_may_handle_what_is_raised_at_its_yield() -> None:
    """It swallows it, or raises another exception in its place."""

    async def swallows() -> AsyncIterator[None]:
        with suppress(OSError):
            yield

    def replaces() -> Iterator[None]:
        try:
            yield
        except OSError:
            raise LookupError("another") from None

    [swallowing, replacing] = hooks_of(Lifespan(contexts=[swallows, replaces])).in_start_order()
    async with swallowing.open(None):
        raise OSError
    with pytest.raises(LookupError, match="another"):
        async with replacing.open(None):
            raise OSError


async def test_a_context_that_catches_everything_fails_all_the_same() -> None:
    """A hook that yields no mapping can't hide it by catching what is raised at its yield."""

    async def yields_value() -> AsyncIterator[Any]:
        try:
            yield 5
        except Exception:
            return

    with pytest.raises(TypeError, match="yielded a value of type int"):
        await lived(Lifespan(contexts=[yields_value]))


async def test_a_mapping_with_other_keys_than_texts_fails() -> None:
    """The error names the hook and shows the key."""

    async def yields_number() -> AsyncIterator[dict[Any, Any]]:
        yield {"db": 1, 2: 3}

    with pytest.raises(TypeError, match=r"hook 'yields_number' .* key of type int, expected string keys"):
        await lived(Lifespan(contexts=[yields_number]))


@pytest.mark.parametrize("value", [None, {}, MappingProxyType({})], ids=["nothing", "dict", "mapping"])
async def test_a_context_may_yield_nothing(value: Any) -> None:
    """Nothing, or an empty mapping, gives no state."""

    async def yields_nothing() -> AsyncIterator[Any]:
        yield value

    async with Lifespan(contexts=[yields_nothing])(APP) as state:
        assert state is None


async def test_any_mapping_becomes_state() -> None:
    """It need not be a dict."""

    async def yields_mapping() -> AsyncIterator[Any]:
        yield MappingProxyType({"db": "open"})

    async with Lifespan(contexts=[yields_mapping])(APP) as state:
        assert state == {"db": "open"}


# Names.


def decorated(fn: Callable[[], None]) -> Callable[[], None]:
    """A decorator that leaves its trace."""

    @functools.wraps(fn)
    def wrapper() -> None: ...

    return wrapper


def named() -> None:
    """A function with a name."""


NAMES = {
    "function": (named, "named", "test_hook.py:"),
    "partial": (functools.partial(needs_two, 1, 2), "needs_two", "test_hook.py:"),
    "decorated": (decorated(named), "named", "test_hook.py:"),
    "bound method": (HasFunctions([]).called, "called", "test_hook.py:"),
    "callable object": (HasFunctions([]), "HasFunctions", "test_hook.py:"),
    "builtin": (print, "print", "builtins"),
    "lambda": (lambda: None, "<lambda>", "test_hook.py:"),
}


@pytest.mark.parametrize(("given", "name", "place"), NAMES.values(), ids=NAMES)
async def test_a_hook_is_named_by_its_function_and_place(given: Any, name: str, place: str) -> None:
    """Messages show the function behind partials, decorators and methods, with its file and line."""
    hooks = Lifespan(on_startup=[given])
    assert repr(hooks) == f"<Lifespan of {name!r}>"
    (hook,) = hooks_of(hooks).in_start_order()
    assert hook.label.startswith(f"hook {name!r} (")
    assert place in hook.label


async def test_the_place_of_a_hook_is_told_from_the_working_directory() -> None:
    """A file below the working directory is named as the user would name it."""
    (hook,) = hooks_of(Lifespan(on_startup=[named])).in_start_order()
    assert re.fullmatch(r"hook 'named' \(tests[/\\]hooks[/\\]test_hook\.py:\d+\)", hook.label)


async def test_a_failure_names_the_hook_with_file_and_line() -> None:
    """The server is told which hook failed, and where it is."""

    def opens() -> Awaitable[None]:
        raise ValueError("no such table")

    server = RecordingServer()
    with pytest.raises(ValueError, match="no such table"):
        await server.run(LifespanMiddleware(rejects_lifespan, on_startup=[opens], mounts="off"))
    (answer,) = server.sent
    line = opens.__code__.co_firstlineno
    assert answer["type"] == "lifespan.startup.failed"
    assert re.search(
        rf"hook 'opens' \(tests[/\\]hooks[/\\]test_hook\.py:{line}\): ValueError: no such table", answer["message"]
    )


async def test_the_working_directory_is_not_read_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may hang: neither a start nor a failure with its labels and places reads from it."""

    def fails() -> None:
        raise OSError("no such host")

    def reads() -> str:
        raise AssertionError

    app = LifespanMiddleware(rejects_lifespan, mounts="off")
    app.on_shutdown(fails)
    monkeypatch.setattr(os, "getcwd", reads)
    app.on_startup(named)
    server = RecordingServer()
    with pytest.raises(OSError, match="no such host"):
        await server.run(app)
    assert "shutdown failed in hook 'fails' (tests/hooks/test_hook.py:" in server.sent[1]["message"]
