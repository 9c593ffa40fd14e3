"""The README's reference and picture of the modules, which are the code's; docstrings, with examples that run."""

import builtins
import doctest
import functools
import importlib
import inspect
import pkgutil
import pydoc
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import anyio
import pytest
from starlette.applications import Starlette

import asgi_lifespan_mw
from asgi_lifespan_mw import (
    Finding,
    Isolated,
    Lifespan,
    LifespanManager,
    LifespanMiddleware,
    Report,
    Tasks,
    UnitReport,
    check_lifespan,
    register_container,
    threaded,
)
from asgi_lifespan_mw._hooks.decorators import HookDecorators
from asgi_lifespan_mw._types import ASGIApp, Receive, Scope, Send
from tests.plans import Boom, fails_to_start, fails_to_stop, hangs_at_start, hangs_at_stop
from tests.server import RecordingServer
from tests.test_readme import README, blocks
from tests.usages import Records

CLASSES: list[type] = [LifespanMiddleware, Lifespan, LifespanManager, Isolated, Tasks]
FUNCTIONS: list[Any] = [threaded, register_container, check_lifespan]
RECORDS: list[type] = [Report, UnitReport, Finding]
PUBLIC: list[Any] = [getattr(asgi_lifespan_mw, name) for name in asgi_lifespan_mw.__all__]
ERRORS: list[type] = [thing for thing in PUBLIC if isinstance(thing, type) and issubclass(thing, Exception)]

DRIVES = ("__call__", "__aenter__", "__aexit__", "__enter__", "__exit__")
"""Special methods that are told of: an app's and a lifespan's call, and what `with` calls."""

INNER: dict[type, set[str]] = {Isolated: {"app", "states"}, LifespanManager: {"ready"}, Tasks: {"made_at"}}
"""What other modules of the package need of its classes, and old names; nothing is promised of them."""


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public members of a class, by their names; those of its bases too."""
    inner = {name for base in cls.__mro__ for name in INNER.get(base, ())}
    every = {name: member for base in reversed(cls.__mro__[:-1]) for name, member in vars(base).items()}
    for name, member in every.items():
        of_asgi = name == "__call__" and cls is Isolated
        if (not name.startswith("_") or (name in DRIVES and not of_asgi)) and name not in inner:
            yield name, member


def sections(thing: Any) -> dict[str, str]:
    """The sections of a docstring: what stands under ``Args:``, ``Raises:`` and the like."""
    return dict(re.findall(r"^(\w+):\n((?: +.*\n?|\n)*)", inspect.getdoc(thing) or "", re.MULTILINE))


def parameters(thing: Any) -> list[inspect.Parameter]:
    """Without `self`, and without types."""
    every = inspect.signature(thing).parameters.values()
    return [one.replace(annotation=one.empty) for one in every if one.name != "self"]


def signature(thing: Any) -> str:
    """How something is called, as the README writes it; nothing for an attribute."""
    if isinstance(thing, property):
        return ""
    return str(inspect.Signature(parameters(thing))).replace("'", '"')


def entry(name: str, thing: Any, documented: Any) -> tuple[str, str]:
    """The first and the last cell of something's row: how it is called, what its docstring says that it raises."""
    raises = re.findall(r"^    (\w+):", sections(documented).get("Raises", ""), re.MULTILINE)
    words = ["what failed" if one == "BaseException" else f"`{one}`" for one in raises]
    return f"`{name}{signature(thing)}`", ", ".join(words)


def calls() -> Iterator[tuple[str, str]]:
    """What the table of the calls has to have. The decorators are told of once, as those of `Lifespan`."""
    for cls in CLASSES:
        yield entry(cls.__name__, cls, vars(cls)["__init__"])
        for name, member in members(cls):
            if member is not vars(HookDecorators).get(name) or cls is Lifespan:
                yield entry(f"{cls.__name__}.{name}", member, member)
    for function in FUNCTIONS:
        yield entry(function.__name__, function, function)


def table(name: str) -> list[list[str]]:
    """The cells of one table, without its head."""
    text = README.partition(f"<!-- table: {name} -->")[2].partition("<!-- end -->")[0]
    return [line[2:-1].split(" | ") for line in text.splitlines()[3:] if line]


def test_the_reference_has_every_call_and_all_that_it_raises() -> None:
    """The signatures are the code's, and the errors those of the docstrings."""
    shown = {cells[0]: cells[-1].strip().rstrip("|").strip() for cells in table("calls")}
    assert shown.pop("`LifespanManager.state`") == ""
    assert shown == dict(calls())


def test_the_reference_tells_what_each_argument_is() -> None:
    """Each is there by its name, and none that is not taken."""
    told = {name for cells in table("arguments") for name in re.findall(r"`(\w+)`", cells[0])}
    things = [*CLASSES, *FUNCTIONS, *(member for cls in CLASSES for _, member in members(cls))]
    assert told == {one.name for thing in things if not isinstance(thing, property) for one in parameters(thing)}


def test_the_table_of_the_errors_has_each_with_its_attributes() -> None:
    """An error is made of its attributes."""
    rows = {cells[0]: re.findall(r"`(\w+)`", cells[-1]) for cells in table("errors")[1:]}
    assert rows.pop("`LifespanError`") == []
    assert rows == {
        f"`{error.__name__}`": [one.name for one in parameters(error)]
        for error in ERRORS
        if error is not asgi_lifespan_mw.LifespanError
    }


def test_everything_public_is_of_one_of_these_kinds() -> None:
    """Whoever adds a name has it in the reference."""
    public = [*CLASSES, *FUNCTIONS, *RECORDS, *ERRORS]
    assert {one.__name__ for one in public} == set(asgi_lifespan_mw.__all__)


# --- what is raised ---


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A sound app."""
    await Records([], "app")(scope, receive, send)


async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that turns the lifespan away."""
    raise AssertionError("http only")


def says(*answers: str) -> ASGIApp:
    """An app that gives these answers, and raises nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for answer in answers:
            await receive()
            await send({"type": f"lifespan.{answer}"})

    return app


def by_anyio(enters: Callable[[], Any]) -> Callable[[], None]:
    """Enter what is made, and leave it, in an event loop."""

    async def main() -> None:
        async with enters():
            pass

    return lambda: anyio.run(main)


async def stops_badly() -> None:
    """Stop what a request started, with a context that fails."""
    app = LifespanMiddleware(no_lifespan, fails_to_stop, start_on_request=True)
    with pytest.raises(AssertionError):  # of `no_lifespan`, at a request
        await app({"type": "http"}, wrong, wrong)
    await app.stop()


async def stops_itself() -> None:
    """Stop what a request started, in a hook that it starts."""
    app = LifespanMiddleware(no_lifespan, start_on_request=True)
    app.on_startup(app.stop)
    await app({"type": "http"}, wrong, wrong)


async def enters_twice(tasks: Tasks) -> None:
    """Enter it where it is entered."""
    async with tasks:
        await tasks.__aenter__()


async def waits_for_a_crash() -> None:
    """Wait for a background hook that fails."""
    failing, may_fail = Lifespan(), anyio.Event()

    async def fails() -> None:
        await may_fail.wait()
        raise Boom

    failing.on_startup(fails, background=True)
    async with LifespanManager(failing) as manager:
        may_fail.set()
        await manager.wait_until_ready()


async def breaks_inside() -> None:
    """Leave a manager by an error, which stopping adds its own to."""
    async with LifespanManager(Starlette(lifespan=lambda _: fails_to_stop())):
        raise Boom


def around(manager: Any, does: Callable[[Any], object] = lambda manager: None) -> Callable[[], None]:
    """Do something within a plain ``with``."""

    def main() -> None:
        with manager:
            does(manager)

    return main


async def in_a_loop() -> None:
    """Enter a plain ``with`` where an event loop runs."""
    around(LifespanManager(app))()


def starlette(lifespan: Callable[[], Any]) -> Starlette:
    """An app of this lifespan."""
    return Starlette(lifespan=lambda _: lifespan())


def breaks() -> None:
    """A hook that breaks."""
    raise Boom


wrong: Any = object()
bad: Any = "bad"
hooks = Lifespan(contexts=[hangs_at_start])
raising: Any = LifespanMiddleware(Starlette(), on_startup=[breaks])

CASES: dict[tuple[str, str], Callable[[], object]] = {
    ("LifespanMiddleware", "TypeError"): lambda: LifespanMiddleware(wrong),
    ("LifespanMiddleware", "ValueError"): lambda: LifespanMiddleware(app, mounts=bad),
    ("LifespanMiddleware.__call__", "BaseException"): lambda: anyio.run(RecordingServer().run, raising),
    ("LifespanMiddleware.stop", "BaseException"): lambda: anyio.run(stops_badly),
    ("LifespanMiddleware.stop", "RuntimeError"): lambda: anyio.run(stops_itself),
    ("LifespanMiddleware.override", "LookupError"): lambda: raising.override("nobody", None).__enter__(),
    ("LifespanMiddleware.override", "TypeError"): lambda: raising.override("breaks", wrong).__enter__(),
    ("Lifespan", "TypeError"): lambda: Lifespan(contexts=[wrong]),
    ("Lifespan", "ValueError"): lambda: Lifespan(mounts=bad),
    ("Lifespan.__call__", "BaseException"): by_anyio(lambda: Lifespan(contexts=[fails_to_start])(None)),
    ("Lifespan.context", "TypeError"): lambda: hooks.context(wrong),
    ("Lifespan.context", "ValueError"): lambda: hooks.context(hangs_at_start, timeout=0),
    ("Lifespan.on_startup", "TypeError"): lambda: hooks.on_startup(hangs_at_start),
    ("Lifespan.on_startup", "ValueError"): lambda: hooks.on_startup(print, timeout=-1),
    ("Lifespan.on_shutdown", "TypeError"): lambda: hooks.on_shutdown(print, name=wrong),
    ("Lifespan.on_shutdown", "ValueError"): lambda: hooks.on_shutdown(print, timeout=-1),
    ("Lifespan.worker", "TypeError"): lambda: hooks.worker(anyio.sleep_forever, name=wrong),
    ("Lifespan.worker", "ValueError"): lambda: hooks.worker(anyio.sleep_forever, timeout=-1),
    ("Lifespan.on_event", "TypeError"): lambda: hooks.on_event("startup")(wrong),
    ("Lifespan.on_event", "ValueError"): lambda: hooks.on_event(bad),
    ("Lifespan.add_event_handler", "TypeError"): lambda: hooks.add_event_handler("startup", wrong),
    ("Lifespan.add_event_handler", "ValueError"): lambda: hooks.add_event_handler(bad, print),
    ("Lifespan.include", "TypeError"): lambda: hooks.include(raising),
    ("Lifespan.include", "ValueError"): lambda: hooks.include(hooks),
    ("Lifespan.override", "LookupError"): lambda: hooks.override("nobody", None).__enter__(),
    ("Lifespan.override", "TypeError"): lambda: hooks.override(hangs_at_start, wrong).__enter__(),
    ("Tasks", "TypeError"): lambda: Tasks(bad),
    ("Tasks", "ValueError"): lambda: Tasks(-1),
    ("Tasks.spawn", "TypeError"): lambda: Tasks().spawn(wrong),
    ("Tasks.spawn", "RuntimeError"): lambda: Tasks().spawn(anyio.sleep, 1),
    ("Tasks.__aenter__", "RuntimeError"): lambda: anyio.run(enters_twice, Tasks()),
    ("LifespanManager", "TypeError"): lambda: LifespanManager(LifespanManager),  # type: ignore[arg-type]
    ("LifespanManager", "ValueError"): lambda: LifespanManager(app, 0),
    ("LifespanManager.__aenter__", "LifespanNotSupported"): by_anyio(lambda: LifespanManager(no_lifespan)),
    ("LifespanManager.__aenter__", "LifespanTimeout"): by_anyio(
        lambda: LifespanManager(starlette(hangs_at_start), startup_timeout=0.01)
    ),
    ("LifespanManager.__aenter__", "StartupFailed"): by_anyio(lambda: LifespanManager(says("startup.failed"))),
    ("LifespanManager.__aenter__", "RuntimeError"): around(
        LifespanManager(app), lambda manager: manager.call(manager.__aenter__)
    ),
    ("LifespanManager.__aenter__", "BaseException"): by_anyio(lambda: LifespanManager(raising)),
    ("LifespanManager.__aexit__", "ShutdownFailed"): by_anyio(
        lambda: LifespanManager(says("startup.complete", "shutdown.failed"))
    ),
    ("LifespanManager.__aexit__", "LifespanTimeout"): by_anyio(
        lambda: LifespanManager(starlette(hangs_at_stop), shutdown_timeout=0.01)
    ),
    ("LifespanManager.__aexit__", "RuntimeError"): lambda: anyio.run(LifespanManager(app).__aexit__, None, None, None),
    ("LifespanManager.__aexit__", "BaseExceptionGroup"): lambda: anyio.run(breaks_inside),
    ("LifespanManager.__aexit__", "BaseException"): by_anyio(lambda: LifespanManager(starlette(fails_to_stop))),
    ("LifespanManager.__enter__", "RuntimeError"): lambda: anyio.run(in_a_loop),
    ("LifespanManager.__enter__", "LookupError"): mock.patch.dict(sys.modules, trio=None)(
        around(LifespanManager(app, backend="trio"))
    ),
    ("LifespanManager.__enter__", "BaseException"): around(LifespanManager(raising)),
    ("LifespanManager.__exit__", "BaseException"): around(LifespanManager(starlette(fails_to_stop))),
    ("LifespanManager.wait_until_ready", "RuntimeError"): lambda: anyio.run(LifespanManager(app).wait_until_ready),
    ("LifespanManager.wait_until_ready", "BaseException"): lambda: anyio.run(waits_for_a_crash),
    ("LifespanManager.call", "RuntimeError"): lambda: LifespanManager(app).call(wrong),
    ("LifespanManager.call", "BaseException"): around(
        LifespanManager(app), lambda manager: manager.call(no_lifespan, {}, None, None)
    ),
    ("LifespanManager.app", "AttributeError"): lambda: LifespanManager(hooks).app,
    ("Isolated", "TypeError"): lambda: Isolated(wrong),
    ("threaded", "TypeError"): lambda: threaded(no_lifespan),
    ("register_container", "TypeError"): lambda: register_container(wrong, "app", "skips"),
    ("register_container", "ValueError"): lambda: register_container("shop.ByTenant", "app", bad),
    ("check_lifespan", "TypeError"): lambda: anyio.run(check_lifespan, wrong),
    ("check_lifespan", "ValueError"): lambda: anyio.run(functools.partial(check_lifespan, app, timeout=0)),
}


def test_each_error_of_the_reference_has_a_case() -> None:
    """And each case is told of."""
    told = {
        (name.strip("`").partition("(")[0], "BaseException" if error == "what failed" else error.strip("`"))
        for name, errors in calls()
        for error in errors.split(", ")
        if error
    }
    assert told == set(CASES)


@pytest.mark.parametrize(("call", "error"), [*CASES], ids=lambda word: word)
def test_what_the_reference_says_is_raised_is_raised(call: str, error: str) -> None:
    """The error itself; what failed is the hook's or the app's own."""
    named = getattr(asgi_lifespan_mw, error, None) or getattr(builtins, error)
    with pytest.raises(named) as raised:
        CASES[call, error]()
    if error == "BaseException":
        assert isinstance(raised.value, (Boom, AssertionError))


# --- the docstrings, and what is shown by an example ---


def documented() -> Iterator[Any]:
    """Each public name, and each public member of a class."""
    for name in asgi_lifespan_mw.__all__:
        yield pytest.param(name, getattr(asgi_lifespan_mw, name), id=name)
    for cls in CLASSES:
        for name, member in members(cls):
            yield pytest.param(name, member, id=f"{cls.__name__}.{name}")


@pytest.mark.parametrize(("name", "thing"), [*documented()])
def test_every_docstring_names_all_arguments(name: str, thing: Any) -> None:
    """In the order of the signature, under ``Args`` or a record's ``Attributes``; ASGI's and those of `with` apart."""
    text = inspect.getdoc(thing) or ""
    assert re.match(r"[A-Z`].*\.(\n|$)", text), "it begins with a sentence on one line"
    if isinstance(thing, property) or name in DRIVES[1:] or thing in (LifespanMiddleware.__call__, *ERRORS[:1]):
        return
    told = sections(vars(thing)["__init__"] if thing in CLASSES else thing)
    args = told.get("Attributes" if thing in RECORDS else "Args", "")
    assert re.findall(r"^    (\w+):", args, re.MULTILINE) == [one.name for one in parameters(thing)]


@pytest.mark.parametrize(("name", "thing"), [*documented()])
def test_every_name_is_in_an_example_that_is_run(name: str, thing: Any) -> None:
    """In a Python block of the README, or in a doctest."""
    examples = "\n".join(blocks("python"))
    used = {
        "__call__": r"resources\(None\)",
        "__aenter__": "async with LifespanManager",
        "__enter__": " with LifespanManager",
    }
    used |= {"__aexit__": used["__aenter__"], "__exit__": used["__enter__"]}
    doctests = "\n".join(re.findall(r"^ *>>> .*", inspect.getdoc(thing) or "", re.MULTILINE))
    dot = "" if name in asgi_lifespan_mw.__all__ else r"\."
    assert re.search(used.get(name, rf"{dot}\b{name}\b"), examples + doctests)


@pytest.mark.parametrize("module", [*pkgutil.iter_modules(asgi_lifespan_mw.__path__)], ids=lambda module: module.name)
def test_doctests_hold(module: pkgutil.ModuleInfo) -> None:
    """In every module."""
    if module.name != "__main__":
        assert doctest.testmod(importlib.import_module(f"asgi_lifespan_mw.{module.name}")).failed == 0


def test_help_begins_with_what_the_package_is() -> None:
    """`help()` shows each public name with its docstring."""
    page = pydoc.plain(pydoc.render_doc(asgi_lifespan_mw))
    assert "The ASGI lifespan protocol, whole, for any app" in page
    assert all(re.search(rf"\b(class )?{name}\(", page) for name in asgi_lifespan_mw.__all__)


# --- how it works inside ---
