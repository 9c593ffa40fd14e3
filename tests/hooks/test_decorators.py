"""The decorators: what they return, in which order hooks run, what is included, and what stands in for a hook."""

import functools
import gc
import logging
import re
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from asgi_lifespan_mw import Lifespan, LifespanMiddleware, LifespanTimeout
from tests.conftest import ONE_LOOP_IN_THE_QUICK_LOOP, VIRTUAL
from tests.server import RecordingServer

Log = list[str]
Registers = Lifespan | LifespanMiddleware


class TakesLifespan:
    """An app that starts and stops without ado, and logs it."""

    def __init__(self, log: Log) -> None:
        self.log = log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.log.append("up app")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.log.append("down app")
        await send({"type": "lifespan.shutdown.complete"})


def context(log: Log, name: str) -> Callable[[], AbstractAsyncContextManager[None]]:
    """Make a context that logs its start and its stop."""

    @asynccontextmanager
    async def lives() -> AsyncIterator[None]:
        log.append(f"up {name}")
        yield
        log.append(f"down {name}")

    return lives


def function(log: Log, name: str) -> Callable[[], None]:
    """Make a function that logs its call."""

    def called() -> None:
        log.append(f"call {name}")

    return called


async def lived(hooks: Lifespan) -> object:
    """Start and stop the hooks; the state that they gave."""
    async with hooks(None) as state:
        return state


def lifespan_and_middleware() -> list[Registers]:
    """One of each class that has the decorators."""
    return [Lifespan(), LifespanMiddleware(TakesLifespan([]))]


# Decorators.


@pytest.mark.parametrize("register", ["context", "on_startup", "on_shutdown"])
@pytest.mark.parametrize(
    "options", [None, {}, {"name": "chosen"}, {"timeout": 5}, {"name": "chosen", "timeout": 0.5}], ids=repr
)
@pytest.mark.parametrize("hooks", lifespan_and_middleware(), ids=["Lifespan", "LifespanMiddleware"])
def test_decorators_return_the_function_they_were_given(register: str, options: Any, hooks: Registers) -> None:
    """With arguments and without, on a Lifespan and on the middleware: the very object."""
    fn = context([], "it") if register == "context" else function([], "it")
    decorator = getattr(hooks, register)
    assert (decorator(fn) if options is None else decorator(**options)(fn)) is fn


@pytest.mark.parametrize("event_type", ["startup", "shutdown"])
@pytest.mark.parametrize("hooks", lifespan_and_middleware(), ids=["Lifespan", "LifespanMiddleware"])
def test_on_event_returns_the_function_it_was_given(event_type: Any, hooks: Registers) -> None:
    """The spelling that frameworks dropped is a decorator like the others."""
    fn = function([], "it")
    assert hooks.on_event(event_type)(fn) is fn


async def test_event_handlers_are_startup_and_shutdown_functions() -> None:
    """`on_event` and `add_event_handler` register what `on_startup` and `on_shutdown` do."""
    log: Log = []
    hooks = Lifespan()
    hooks.on_event("shutdown")(function(log, "on_event at shutdown"))
    hooks.on_event("startup")(function(log, "on_event at startup"))
    hooks.add_event_handler("shutdown", function(log, "handler at shutdown"))
    hooks.add_event_handler("startup", function(log, "handler at startup"))
    await lived(hooks)
    assert log == [
        "call on_event at startup",
        "call handler at startup",
        "call on_event at shutdown",
        "call handler at shutdown",
    ]


@pytest.mark.parametrize("event_type", ["started", "", None])
@pytest.mark.parametrize("hooks", lifespan_and_middleware(), ids=["Lifespan", "LifespanMiddleware"])
def test_an_unknown_event_type_is_refused(event_type: Any, hooks: Registers) -> None:
    """The refusal shows what was given, and the two that there are."""
    expected = rf"unknown event type {event_type!r}; expected 'startup' or 'shutdown'"
    with pytest.raises(ValueError, match=expected):
        hooks.on_event(event_type)
    with pytest.raises(ValueError, match=expected):
        hooks.add_event_handler(event_type, function([], "it"))


@pytest.mark.parametrize("register", ["context", "on_startup", "on_shutdown"])
def test_an_unknown_keyword_is_refused(register: str) -> None:
    """A slip such as `timout=` is Python's to refuse, by name."""
    with pytest.raises(TypeError, match="timout"):
        getattr(Lifespan(), register)(timout=5)


def test_an_unknown_keyword_of_a_constructor_is_refused() -> None:
    """Nothing is taken and dropped."""
    wrong: Any = {"start": []}
    with pytest.raises(TypeError, match="start"):
        Lifespan(**wrong)
    with pytest.raises(TypeError, match="start"):
        LifespanMiddleware(TakesLifespan([]), **wrong)


@pytest.mark.parametrize(
    "given_hooks",
    [function([], "it"), "open_pool", 5, None, Lifespan()],
    ids=["function", "text", "number", "None", "Lifespan"],
)
@pytest.mark.parametrize("argument", ["contexts", "on_startup", "on_shutdown"])
def test_hooks_of_a_constructor_come_in_a_sequence(argument: str, given_hooks: Any) -> None:
    """A single function is the likely slip; the refusal shows the right form."""
    with pytest.raises(TypeError, match=rf"{argument}= got .*expected a sequence of functions, such as \["):
        Lifespan(**{argument: given_hooks})


@pytest.mark.parametrize("argument", ["on_startup", "on_shutdown"])
def test_hooks_of_the_middleware_come_in_a_sequence(argument: str) -> None:
    """The middleware refuses the same as a Lifespan."""
    wrong: Any = {argument: function([], "it")}
    with pytest.raises(TypeError, match=rf"{argument}= got .*expected a sequence of functions"):
        LifespanMiddleware(TakesLifespan([]), **wrong)


async def test_hooks_come_in_any_iterable() -> None:
    """A generator of hooks is used up once, at construction."""
    log: Log = []
    hooks = Lifespan(on_startup=(function(log, name) for name in "ab"))
    await lived(hooks)
    await lived(hooks)
    assert log == ["call a", "call b"] * 2


@pytest.mark.parametrize("register", ["context", "on_startup"])
async def test_a_chosen_name_is_used_in_messages(register: str) -> None:
    """`name=` replaces the function's name, beside its place."""

    def fails() -> None:
        raise ValueError("no such table")

    server = RecordingServer()
    app = LifespanMiddleware(TakesLifespan([]))
    getattr(app, register)(name="the database")(fails)
    with pytest.raises(ValueError, match="no such table"):
        await server.run(app)
    assert "hook 'the database' (tests" in server.sent[0]["message"]
    assert repr(Lifespan(on_startup=[])) == "<Lifespan of no hooks>"


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
@pytest.mark.parametrize("register", ["context", "on_startup"])
async def test_a_hook_that_takes_longer_than_its_timeout_fails_the_startup(register: str) -> None:
    """`timeout=` bounds this hook alone, and the error names it with the limit."""
    hangs: Any = anyio.sleep_forever

    async def hangs_before_yield() -> AsyncIterator[object]:
        yield await hangs()

    log: Log = []
    hooks = Lifespan(contexts=[context(log, "first")])
    getattr(hooks, register)(timeout=2.5, name="pool")(hangs if register == "on_startup" else hangs_before_yield)
    hooks.context(context(log, "last"))
    began = anyio.current_time()
    with pytest.raises(
        LifespanTimeout,
        match=r"^startup timed out after 2\.5 s in hook 'pool' \(.*:\d+\)(\nit was at .*:\d+ in hangs\w*)?$",
    ):
        await lived(hooks)
    assert anyio.current_time() - began == pytest.approx(2.5)
    assert log == ["up first", "down first"]


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
@pytest.mark.parametrize("register", ["context", "on_shutdown"])
async def test_a_hook_that_takes_longer_than_its_timeout_fails_the_shutdown(register: str) -> None:
    """The same number of seconds counts for the stop."""

    async def hangs() -> None:
        await anyio.sleep_forever()

    @asynccontextmanager
    async def hangs_after_yield() -> AsyncIterator[None]:
        yield
        await hangs()

    log: Log = []
    hooks = Lifespan(contexts=[context(log, "first")])
    getattr(hooks, register)(timeout=2.5, name="pool")(hangs if register == "on_shutdown" else hangs_after_yield)
    with pytest.raises(
        LifespanTimeout,
        match=r"^shutdown timed out after 2\.5 s in hook 'pool' \(.*:\d+\)(\nit was at .*:\d+ in hangs\w*)?$",
    ):
        await lived(hooks)
    assert log == ["up first", "down first"]


# Order.


@dataclass
class Plan:
    """What a Lifespan is made of, in the order of registration: kinds of hooks with a number, and other plans."""

    items: list["tuple[str, int] | Plan"]


@dataclass
class Expected:
    """What should be seen of a plan: at startup, at shutdown, and whether it starts completely."""

    up: Log = field(default_factory=list)
    down: Log = field(default_factory=list)
    complete: bool = True


def expected_of(plan: Plan, failing: str) -> Expected:
    """Tell the order as the documentation does: up in order, down in reverse, shutdown functions first if complete."""
    seen = Expected()
    shutdown: Log = []
    for item in plan.items:
        if isinstance(item, Plan):
            inner = expected_of(item, failing)
            seen.up += inner.up
            seen.down = inner.down + seen.down
            seen.complete = inner.complete
        elif item[0] == "on_shutdown":
            shutdown.append(f"call {item[1]}")
        else:
            deed = f"{'up' if item[0] == 'context' else 'call'} {item[1]}"
            seen.up.append(deed)
            seen.complete = deed != failing
            if item[0] == "context" and seen.complete:
                seen.down.insert(0, f"down {item[1]}")
        if not seen.complete:
            return seen
    seen.down = shutdown + seen.down
    return seen


class Deliberate(Exception):
    """The failure of a hook in a test."""


def register(hooks: Registers, plan: Plan, log: Log, failing: str) -> None:
    """Register the plan's hooks; the one that is about to log `failing` raises as well."""

    def note(deed: str) -> None:
        log.append(deed)
        if deed == failing:
            raise Deliberate(deed)

    for item in plan.items:
        if isinstance(item, Plan):
            register(hooks.include(Lifespan()), item, log, failing)
        elif item[0] == "context":
            hooks.context(_noting_context(note, item[1]))
        else:
            getattr(hooks, item[0])(_noting_function(note, item[1]))


def _noting_context(note: Callable[[str], None], number: int) -> Callable[[], Any]:
    async def async_generator() -> AsyncIterator[None]:
        note(f"up {number}")
        yield
        note(f"down {number}")

    def generator() -> Iterator[None]:
        note(f"up {number}")
        yield
        note(f"down {number}")

    return generator if number % 2 else async_generator


def _noting_function(note: Callable[[str], None], number: int) -> Callable[[], Awaitable[None] | None]:
    async def async_function() -> None:
        note(f"call {number}")

    def plain_function() -> None:
        note(f"call {number}")

    return plain_function if number % 2 else async_function


KINDS = st.sampled_from(["context", "on_startup", "on_shutdown"])
TREES = st.recursive(st.lists(KINDS, max_size=4), lambda inner: st.lists(KINDS | inner, max_size=5), max_leaves=8)


def numbered(tree: Any, numbers: Iterator[int]) -> Plan:
    """Give each hook of a drawn tree a number of its own."""
    return Plan([(item, next(numbers)) if isinstance(item, str) else numbered(item, numbers) for item in tree])


@ONE_LOOP_IN_THE_QUICK_LOOP
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees=st.lists(TREES, max_size=2), own=TREES, data=st.data())
async def test_any_tree_of_hooks_starts_in_order_and_stops_in_reverse(
    trees: Any, own: Any, data: st.DataObject
) -> None:
    """What `lifespan=` names, then the middleware's own hooks, then the app; one failure stops all that had started."""
    numbers = count()
    lifespans = [numbered(tree, numbers) for tree in trees]
    plan = numbered(own, numbers)
    whole = Plan([*lifespans, *plan.items])
    unharmed = expected_of(whole, "nothing")
    failing = data.draw(st.sampled_from(["nothing", *unharmed.up, *unharmed.down]), "failing")

    log: Log = []
    app = LifespanMiddleware(TakesLifespan(log), [_built(part, log, failing) for part in lifespans])
    register(app, plan, log, failing)
    server = RecordingServer()
    try:
        await server.run(app)
    except Deliberate as error:
        assert str(error) == failing
    else:
        assert failing == "nothing"

    expected = expected_of(whole, failing)
    around_app = ["up app", "down app"] if expected.complete else []
    assert log == expected.up + around_app + expected.down
    failed_at_startup = not expected.complete
    assert server.answers == (
        ["startup.failed"]
        if failed_at_startup
        else ["startup.complete", "shutdown.complete" if failing == "nothing" else "shutdown.failed"]
    )


def _built(plan: Plan, log: Log, failing: str) -> Lifespan:
    hooks = Lifespan()
    register(hooks, plan, log, failing)
    return hooks


async def test_the_middlewares_hooks_follow_those_of_lifespan_in_order_of_registration() -> None:
    """`lifespan=` first, in its order; then `on_startup=` and the decorators as they came; then the app."""
    log: Log = []
    first = Lifespan(contexts=[context(log, "first")], on_shutdown=[function(log, "end of first")])
    app = LifespanMiddleware(
        TakesLifespan(log),
        [first, context(log, "second")],
        on_startup=[function(log, "startup")],
        on_shutdown=[function(log, "shutdown")],
    )
    app.context(context(log, "third"))
    app.on_startup(function(log, "late startup"))
    app.on_shutdown(function(log, "late shutdown"))
    app.include(Lifespan(contexts=[context(log, "fourth")]))
    await RecordingServer().run(app)
    assert log == [
        "up first",
        "up second",
        "call startup",
        "up third",
        "call late startup",
        "up fourth",
        "up app",
        "down app",
        "call shutdown",
        "call late shutdown",
        "down fourth",
        "down third",
        "down second",
        "call end of first",
        "down first",
    ]


async def test_a_lifespans_constructor_registers_contexts_first() -> None:
    """`Lifespan(contexts=..., on_startup=...)` opens what the functions may need."""
    log: Log = []
    await lived(Lifespan(on_startup=[function(log, "it")], contexts=[context(log, "it")]))
    assert log == ["up it", "call it", "down it"]


async def test_hooks_that_fail_at_shutdown_keep_none_from_stopping() -> None:
    """All the errors come out, in a group, in the order in which they came."""
    log: Log = []

    def fails() -> None:
        raise ValueError("first")

    async def fails_late() -> AsyncIterator[None]:
        yield
        raise OSError("second")

    hooks = Lifespan(contexts=[context(log, "a"), fails_late, context(log, "b")])
    hooks.on_shutdown(fails)
    hooks.on_shutdown(function(log, "end"))
    with pytest.raises(ExceptionGroup) as caught:
        await lived(hooks)
    assert [type(error) for error in caught.value.exceptions] == [ValueError, OSError]
    assert log == ["up a", "up b", "call end", "down b", "down a"]


async def test_a_hook_that_is_registered_during_a_run_counts_from_the_next_one() -> None:
    """A run takes the hooks as they stand when it begins."""
    log: Log = []
    hooks = Lifespan()

    @hooks.on_startup
    def registers() -> None:
        log.append("registers")
        hooks.on_startup(function(log, "late"))

    await lived(hooks)
    assert log == ["registers"]
    await lived(hooks)
    assert log == ["registers", "registers", "call late"]


VARIABLE: ContextVar[str] = ContextVar("VARIABLE", default="unset")


async def test_context_variables_are_seen_by_all_that_starts_later() -> None:
    """Contexts, functions, included Lifespans and the app see what was set before them, and their own stop does too."""
    log: Log = []

    def note(name: str) -> None:
        log.append(f"{name}: {VARIABLE.get()}")

    async def sets() -> AsyncIterator[None]:
        note("context")
        VARIABLE.set("context")
        yield
        note("context")

    async def sets_too() -> None:
        note("function")
        VARIABLE.set("function")

    def sets_last() -> Iterator[None]:
        note("included")
        VARIABLE.set("included")
        yield
        note("included")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        note("app")
        await TakesLifespan([])(scope, receive, send)
        note("app")

    hooks = Lifespan(contexts=[sets], on_startup=[sets_too], on_shutdown=[lambda: note("shutdown")])
    hooks.include(Lifespan(contexts=[sets_last]))
    await RecordingServer().run(LifespanMiddleware(app, hooks))
    assert log == [
        "context: unset",
        "function: context",
        "included: function",
        "app: included",
        "app: included",
        "shutdown: included",
        "included: included",
        "context: context",
    ]
    assert VARIABLE.get() == "unset"


async def test_hooks_see_the_context_variables_of_whoever_starts_them() -> None:
    """What is set around the lifespan is seen inside."""
    log: Log = []
    token = VARIABLE.set("outer")
    await lived(Lifespan(on_startup=[lambda: log.append(VARIABLE.get())]))
    VARIABLE.reset(token)
    assert log == ["outer"]


# Included Lifespans.


async def test_include_puts_hooks_in_their_place_and_returns_what_it_was_given() -> None:
    """A Lifespan, or any lifespan callable, stands where it was included."""
    log: Log = []
    apps: list[object] = []

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, str]]:
        apps.append(app)
        log.append("up lifespan")
        yield {"from": "lifespan"}
        log.append("down lifespan")

    hooks, inner = Lifespan(contexts=[context(log, "a")]), Lifespan(contexts=[context(log, "b")])
    assert hooks.include(inner) is inner
    assert hooks.include(lifespan) is lifespan
    hooks.context(context(log, "c"))
    inner.context(context(log, "b, later"))
    async with hooks("the app") as state:
        assert state == {"from": "lifespan"}
    ups = ["up a", "up b", "up b, later", "up lifespan", "up c"]
    assert log == ups + [deed.replace("up", "down") for deed in reversed(ups)]
    assert apps == ["the app"]


@pytest.mark.parametrize("other", [5, "shop", object()], ids=["number", "text", "object"])
def test_what_is_no_lifespan_cannot_be_included(other: Any) -> None:
    """The refusal names include(), shows what was given, and says what belongs there."""
    with pytest.raises(TypeError, match=r"include\(\) got .*, expected a Lifespan"):
        Lifespan().include(other)


@pytest.mark.parametrize(
    "lifespan", [5, "shop", b"shop", [5], object()], ids=["number", "text", "bytes", "list", "object"]
)
def test_what_is_no_lifespan_is_refused_by_the_middleware(lifespan: Any) -> None:
    """The refusal names the argument, shows what was given, and says what belongs there."""
    with pytest.raises(TypeError, match=r"LifespanMiddleware\(lifespan=\.\.\.\) got .*, expected a Lifespan"):
        LifespanMiddleware(TakesLifespan([]), lifespan)


async def test_an_app_is_no_lifespan() -> None:
    """An app in the place of its lifespan is refused as what it is."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(TypeError, match=r"got 'app' \(.*coroutine function without a yield"):
        LifespanMiddleware(TakesLifespan([]), app)  # type: ignore[arg-type]


def test_a_middleware_cannot_be_included() -> None:
    """It has the same decorators, but it is an app: its own app and mounts would be dropped in silence."""
    with pytest.raises(TypeError, match=r"include\(\) got LifespanMiddleware\("):
        Lifespan(mounts="auto").include(LifespanMiddleware(TakesLifespan([])))  # type: ignore[type-var]


def twice_side_by_side() -> None:
    """Include one Lifespan twice."""
    hooks, inner = Lifespan(), Lifespan()
    hooks.include(inner)
    hooks.include(inner)


def twice_at_different_depths() -> None:
    """Include a Lifespan that is in an included one already."""
    hooks, middle, inner = Lifespan(), Lifespan(), Lifespan()
    middle.include(inner)
    hooks.include(middle)
    hooks.include(inner)


def twice_inside_another() -> None:
    """Include a Lifespan in which an included one is included."""
    hooks, middle, inner = Lifespan(), Lifespan(), Lifespan()
    hooks.include(inner)
    middle.include(inner)
    hooks.include(middle)


def in_itself() -> None:
    """Include a Lifespan in itself."""
    hooks = Lifespan()
    hooks.include(hooks)


def in_a_circle() -> None:
    """Include a Lifespan in one that it includes."""
    hooks, middle, inner = Lifespan(), Lifespan(), Lifespan()
    hooks.include(middle)
    middle.include(inner)
    inner.include(hooks)


def twice_after_the_parents_were_joined() -> None:
    """Include a Lifespan, beside which it is included already, in another one."""
    hooks, middle, inner = Lifespan(), Lifespan(), Lifespan()
    hooks.include(middle)
    hooks.include(inner)
    middle.include(inner)


def twice_in_a_middleware() -> None:
    """Name a Lifespan twice."""
    hooks = Lifespan()
    LifespanMiddleware(TakesLifespan([]), [hooks, hooks])


TWICE = [
    twice_side_by_side,
    twice_at_different_depths,
    twice_inside_another,
    in_itself,
    in_a_circle,
    twice_after_the_parents_were_joined,
    twice_in_a_middleware,
]


@pytest.mark.slow
def test_shared_hooks_do_not_keep_what_took_them() -> None:
    """One Lifespan of a program may be given to a new middleware in each test."""
    hooks = Lifespan()
    app = LifespanMiddleware(TakesLifespan([]), hooks)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("include", TWICE)
def test_the_same_lifespan_cannot_be_included_twice(include: Callable[[], None]) -> None:
    """It would run twice, however deep it stands; the refusal shows which one it is."""
    with pytest.raises(ValueError, match=r" got <Lifespan of no hooks>.*twice"):
        include()


@pytest.mark.parametrize("mounts", ["auto", "off"])
async def test_the_mounts_of_an_included_lifespan_are_ignored(mounts: Any) -> None:
    """Those of the one that includes it, or of the middleware, count."""
    log: Log = []
    app = Starlette(routes=[Mount("/sub", Starlette(lifespan=Lifespan(contexts=[context(log, "sub")])))])
    hooks = Lifespan()
    hooks.include(Lifespan(mounts=mounts))
    await RecordingServer().run(LifespanMiddleware(app, hooks, mounts="off"))
    assert log == []
    await RecordingServer().run(LifespanMiddleware(app, Lifespan(mounts=mounts)))
    assert log == ["up sub", "down sub"]


# Overrides.


async def test_a_hook_is_replaced_by_function_and_restored() -> None:
    """The replacement runs in the hook's place, for the time of the `with`."""
    log: Log = []
    opens = context(log, "real")
    hooks = Lifespan(contexts=[context(log, "a"), opens, context(log, "b")])
    with hooks.override(opens, context(log, "fake")):
        await lived(hooks)
    assert log == ["up a", "up fake", "up b", "down b", "down fake", "down a"]
    log.clear()
    await lived(hooks)
    assert log == ["up a", "up real", "up b", "down b", "down real", "down a"]


async def test_a_hook_is_replaced_by_name() -> None:
    """The name in messages is the one to use; the replacement goes by it as well."""
    log: Log = []
    hooks = Lifespan()
    hooks.on_startup(name="load")(function(log, "real"))
    with hooks.override("load", function(log, "fake")):
        assert repr(hooks) == "<Lifespan of 'load'>"
        await lived(hooks)
    await lived(hooks)
    assert log == ["call fake", "call real"]


async def test_a_hook_is_left_out_by_none() -> None:
    """Nothing runs in its place."""
    log: Log = []
    hooks = Lifespan(contexts=[context(log, "a")], on_shutdown=[function(log, "end")])
    with hooks.override("called", None):
        await lived(hooks)
    assert log == ["up a", "down a"]


async def test_every_kind_of_hook_can_be_replaced() -> None:
    """A replacement is of the same kind."""
    log: Log = []
    start, end = function(log, "start"), function(log, "end")
    hooks = Lifespan(on_startup=[start], on_shutdown=[end])
    with hooks.override(start, function(log, "fake start")), hooks.override(end, function(log, "fake end")):
        await lived(hooks)
    assert log == ["call fake start", "call fake end"]


async def test_overrides_nest_by_the_function_that_was_registered() -> None:
    """The inner one counts, and the outer one counts again after it."""
    log: Log = []
    real = function(log, "real")
    hooks = Lifespan(on_startup=[real])
    with hooks.override(real, function(log, "outer")):
        with hooks.override(real, function(log, "inner")):
            await lived(hooks)
        await lived(hooks)
    await lived(hooks)
    assert log == ["call inner", "call outer", "call real"]


async def test_overrides_nest_by_name() -> None:
    """The replaced hook keeps its name."""
    log: Log = []
    hooks = Lifespan(on_startup=[function(log, "real")])
    with hooks.override("called", function(log, "outer")):
        with hooks.override("called", None):
            await lived(hooks)
        await lived(hooks)
    assert log == ["call outer"]


@pytest.mark.parametrize("by_name", [True, False])
async def test_a_hook_that_is_left_out_can_be_overridden_again(by_name: bool) -> None:
    """A suite leaves a hook out, and one of its tests puts a fake in its place."""
    log: Log = []
    real = function(log, "real")
    hooks = Lifespan(on_startup=[real])
    wanted = "called" if by_name else real
    with hooks.override(wanted, None):
        with hooks.override(wanted, function(log, "fake")):
            await lived(hooks)
        await lived(hooks)
    assert log == ["call fake"]


async def test_an_override_ends_with_an_error() -> None:
    """A test that fails leaves the hooks as they were."""
    log: Log = []
    real = function(log, "real")
    hooks = Lifespan(on_startup=[real])
    with pytest.raises(Deliberate):
        with hooks.override(real, None):
            raise Deliberate
    await lived(hooks)
    assert log == ["call real"]


async def test_an_override_reaches_into_included_lifespans() -> None:
    """However deep, and on a middleware too."""
    log: Log = []
    real = function(log, "real")
    hooks = Lifespan()
    hooks.include(Lifespan()).include(Lifespan(on_startup=[real]))
    app = LifespanMiddleware(TakesLifespan(log), hooks)
    with app.override(real, function(log, "fake")):
        await RecordingServer().run(app)
    assert log == ["call fake", "up app", "down app"]


async def test_an_override_replaces_a_hook_wherever_it_is_registered() -> None:
    """One function registered twice is replaced twice."""
    log: Log = []
    real = function(log, "real")
    hooks = Lifespan(on_startup=[real, real])
    with hooks.override(real, function(log, "fake")):
        await lived(hooks)
    assert log == ["call fake", "call fake"]


async def test_a_bound_method_can_be_overridden() -> None:
    """Python makes a new object of it at each access; they are equal."""
    log: Log = []
    hooks = Lifespan(on_startup=[log.sort])
    with hooks.override(log.sort, function(log, "fake")):
        await lived(hooks)
    assert log == ["call fake"]


@pytest.mark.parametrize("wanted", ["open_pool", function([], "other")], ids=["name", "function"])
def test_override_of_what_is_not_registered_is_a_lookup_error(wanted: Any) -> None:
    """It shows what was asked for, and lists the names that there are, the included ones too."""
    hooks = Lifespan(contexts=[context([], "it")], on_shutdown=[function([], "end")])
    hooks.include(Lifespan(on_startup=[print]))
    with pytest.raises(LookupError, match=r"override\(\) got .*not registered; registered are: '") as caught:
        with hooks.override(wanted, None):
            ...
    assert all(repr(name) in str(caught.value) for name in ("lives", "called", "print"))


def test_override_of_no_hooks_is_a_lookup_error() -> None:
    """The list of names says that there are none."""
    with pytest.raises(LookupError, match="registered are: none"):
        with Lifespan().override("open_pool", None):
            ...


async def test_a_replacement_of_the_wrong_kind_is_refused() -> None:
    """It is read like any hook, and the hooks stay as they were."""
    log: Log = []
    real = function(log, "real")
    hooks = Lifespan(on_startup=[real])
    with pytest.raises(TypeError, match=r"'lives' .*context\(\)"):
        with hooks.override(real, context(log, "fake")):
            ...
    await lived(hooks)
    assert log == ["call real"]


@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
async def test_a_replacement_keeps_the_timeout() -> None:
    """The limit belongs to the place, not to the function."""

    async def hangs() -> None:
        await anyio.sleep_forever()

    hooks = Lifespan()
    hooks.on_startup(name="load", timeout=3)(function([], "real"))
    with hooks.override("load", hangs):
        with pytest.raises(LifespanTimeout, match=r"after 3 s in hook 'load'"):
            await lived(hooks)


def test_what_registers_for_an_event_speaks_of_itself() -> None:
    """Not of the decorator that it stands for."""
    hooks: Any = Lifespan()
    with pytest.raises(TypeError, match=r"^add_event_handler\(\) got 3, expected a function$"):
        hooks.add_event_handler("startup", 3)
    with pytest.raises(TypeError, match=r"^on_event\('shutdown'\) got 3, expected a function$"):
        hooks.on_event("shutdown")(3)
    with pytest.raises(TypeError, match=r"^add_event_handler\(\) got <Lifespan of no hooks>, expected a function; "):
        hooks.add_event_handler("startup", Lifespan())


@pytest.mark.parametrize("decorator", ["context", "on_startup", "on_shutdown", "worker"])
@pytest.mark.parametrize("given", [None, 5, "pool"], ids=repr)
def test_what_cannot_be_a_hook_is_refused(decorator: str, given: object) -> None:
    """``app.on_startup(connect())`` registers nothing, so it is not taken for a decorator without a function."""
    hooks = Lifespan()
    with pytest.raises(TypeError, match=rf"{decorator}\(\) got {given!r}, expected a function"):
        getattr(hooks, decorator)(given)
    assert "no hooks" in repr(hooks)


async def test_a_hook_that_is_registered_while_a_run_is_on_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """It takes effect at the next start; so does one of an included collection, and an included collection."""
    inner, outer = Lifespan(), Lifespan()
    outer.include(inner)

    late = function([], "late")

    async with outer(None):
        inner.on_startup(name="late")(late)
        outer.include(Lifespan())
        outer.on_startup(function([], "another"))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning.partition(" was registered while a run is on; ")[2] for warning in warnings] == [
        "it takes effect at the next start"
    ] * 3
    assert warnings[0].startswith("hook 'late' (")
    assert warnings[1].startswith("the included Lifespan ")
    caplog.clear()
    outer.on_startup(function([], "in time"))
    assert not caplog.records


# What is registered twice.


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of this package, without the places of hooks."""
    return [re.sub(r" \(.*?:\d+\)", "", record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("register", ["context", "on_startup", "on_shutdown", "worker"])
@pytest.mark.parametrize("is_included", [False, True])
async def test_a_function_that_is_registered_twice_is_warned_of(
    register: str, is_included: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs twice, which is seldom meant; also if one of the two is in an included Lifespan."""
    log: Log = []

    @asynccontextmanager
    async def lives() -> AsyncIterator[None]:
        log.append("run")
        yield

    async def runs() -> None:
        log.append("run")

    hooks = Lifespan()
    other = hooks.include(Lifespan()) if is_included else hooks
    for registry in (hooks, other):
        getattr(registry, register)(lives if register == "context" else runs)
    name = "lives" if register == "context" else "runs"
    assert warnings_of(caplog) == [f"hook '{name}' is registered twice and runs twice; remove one of the two"]
    async with hooks(None):
        await anyio.lowlevel.checkpoint()
    assert log == ["run", "run"]


def test_a_bound_method_that_is_registered_twice_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Python makes a new object of it at each access. The method of another object is another hook."""

    class Pool:
        def open(self) -> None: ...
        def close(self) -> None: ...

    one, other = Pool(), Pool()
    Lifespan(on_startup=[one.open, other.open, one.close])
    assert warnings_of(caplog) == []
    Lifespan(on_startup=[one.open, other.close, one.open])
    assert warnings_of(caplog) == ["hook 'open' is registered twice and runs twice; remove one of the two"]


def test_a_function_may_be_of_two_kinds(caplog: pytest.LogCaptureFixture) -> None:
    """It runs at startup and at shutdown."""
    note = function([], "note")
    Lifespan(on_startup=[note], on_shutdown=[note])
    assert caplog.records == []


async def lifespan(app: object) -> AsyncIterator[None]:
    """A lifespan function, which is never run."""
    yield  # pragma: no cover - as above


def lifespan_twice_in_a_list() -> None:
    """Name a lifespan function twice."""
    LifespanMiddleware(TakesLifespan([]), [lifespan, lifespan])


def lifespan_twice_in_two_forms() -> None:
    """Name a lifespan function as it is, and as a framework wraps it."""
    LifespanMiddleware(TakesLifespan([]), [lifespan, asynccontextmanager(lifespan)])


def lifespan_twice_by_include() -> None:
    """Include a lifespan function twice."""
    hooks = Lifespan()
    hooks.include(lifespan)
    hooks.include(lifespan)


def lifespan_twice_in_two_collections() -> None:
    """Include a lifespan function in two collections of one app."""
    first, second = Lifespan(), Lifespan()
    first.include(lifespan)
    second.include(lifespan)
    LifespanMiddleware(TakesLifespan([]), [first, second])


@pytest.mark.parametrize(
    "include",
    [
        lifespan_twice_in_a_list,
        lifespan_twice_in_two_forms,
        lifespan_twice_by_include,
        lifespan_twice_in_two_collections,
    ],
)
def test_the_same_lifespan_function_cannot_be_included_twice(include: Callable[[], None]) -> None:
    """It would run twice; the refusal shows which one it is."""
    with pytest.raises(ValueError, match=r" got ('lifespan' \(|<Lifespan of 'lifespan'>).*would run twice"):
        include()


def decorated(name: str, log: Log) -> Callable[[Any], Any]:
    """Make a decorator of a lifespan that logs a name."""

    def decorate(inner: Any) -> Any:
        @functools.wraps(inner)
        @asynccontextmanager
        async def outer(app: object) -> AsyncIterator[None]:
            log.append(name)
            async with inner(app):
                yield

        return outer

    return decorate


async def test_two_partials_or_decorators_of_one_function_are_two_hooks(caplog: pytest.LogCaptureFixture) -> None:
    """They may open two databases."""
    log: Log = []

    @asynccontextmanager
    async def pool(app: object, primary: bool = False, replica: bool = False) -> AsyncIterator[None]:
        log.append("primary" if primary else "replica")
        yield

    async def connected(app: object) -> AsyncIterator[None]:
        yield

    inner = asynccontextmanager(connected)
    pairs: list[list[Any]] = [
        [functools.partial(pool, primary=True), functools.partial(pool, replica=True)],
        [decorated("primary", log)(inner), decorated("replica", log)(inner)],
    ]
    for pair in pairs:
        await RecordingServer().run(LifespanMiddleware(Starlette(), pair))
    assert log == ["primary", "replica"] * 2
    assert caplog.records == []


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_one_lifespan_of_an_app_and_of_its_mount_runs_once(
    is_wrapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its hooks run for the app, with a WARNING that names both places."""
    log: Log = []
    hooks = Lifespan(mounts="off" if is_wrapped else "auto")
    hooks.context(context(log, "pool"))
    hooks.on_startup(function(log, "migrate"))
    own = Lifespan(on_startup=[function(log, "own")])
    inner = Starlette(lifespan=hooks)
    app = Starlette(lifespan=hooks, routes=[Mount("/sub", inner), Mount("/other", Starlette(lifespan=own))])
    await RecordingServer().run(LifespanMiddleware(app) if is_wrapped else app)
    assert log == ["up pool", "call migrate", "call own", "down pool"]
    assert warnings_of(caplog) == [
        "hook 'lives' is a hook of app Starlette too; it runs once, there",
        "hook 'called' is a hook of app Starlette too; it runs once, there",
    ]
    log.clear()
    await RecordingServer().run(inner)
    assert log == ["up pool", "call migrate", "down pool"]


class ClassLock:
    """A lock whose class is given: an instance is entered once."""

    entered = 0

    async def __aenter__(self) -> None:
        type(self).entered += 1

    async def __aexit__(self, *error: object) -> None: ...


async def test_a_class_whose_instances_are_async_context_managers_is_a_lock() -> None:
    """It is a function without arguments that returns one."""
    hooks, log = Lifespan(), Log()
    hooks.on_startup(lock=ClassLock)(function(log, "migrate"))
    before = ClassLock.entered
    await lived(hooks)
    assert log == ["call migrate"]
    assert ClassLock.entered == before + 1


# --- locks ---


async def is_a_worker() -> None:
    """Work for the life of the app."""


class Locks:
    """A client whose method is a lock: each access gives another object."""

    def lock(self) -> Any: ...  # pragma: no cover - it is only registered


@pytest.mark.parametrize("kind", ["worker", "on_startup", "context"])
@pytest.mark.parametrize("is_included", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_lock_of_a_worker_is_refused_for_another_hook(kind: str, is_included: bool, is_first: bool) -> None:
    """One of them would wait for as long as the other one runs."""
    locks, hooks = Locks(), Lifespan()
    other = Lifespan() if is_included else hooks

    def register() -> None:
        if kind == "worker":
            other.worker(is_a_worker, name="other", leader=locks.lock)
        elif kind == "on_startup":
            other.on_startup(is_a_worker, name="other", lock=locks.lock)
        else:
            other.context(nullcontext, name="other", lock=locks.lock)

    if is_first:
        hooks.worker(is_a_worker, name="job", leader=locks.lock)
        if is_included:
            register()
    else:
        register()
    with pytest.raises(ValueError, match=r"got the lock of hook '(job|other)' .*a lock of its own"):
        if not is_first:
            hooks.worker(is_a_worker, name="job", leader=locks.lock)
            hooks.include(other)
        elif is_included:
            hooks.include(other)
        else:
            register()


def test_hooks_that_start_under_one_lock_are_not_refused() -> None:
    """They start one after the other, and workers have locks of their own."""
    locks, hooks = Locks(), Lifespan()
    hooks.on_startup(is_a_worker, name="one", lock=locks.lock)
    hooks.on_startup(is_a_worker, name="two", lock=locks.lock)
    hooks.worker(is_a_worker, name="job", leader=Locks().lock)
    hooks.worker(is_a_worker, name="another")
