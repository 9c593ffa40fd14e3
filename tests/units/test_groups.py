"""Groups: hooks that start and stop side by side, with an order inside; on a virtual clock."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import hypothesis
import hypothesis.strategies as st
import pytest

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware, StateCollision
from asgi_lifespan_mw._units.supervisor import Supervisor
from asgi_lifespan_mw._units.unit import Unit
from tests.conftest import VIRTUAL
from tests.plans import Boom, Journal, fails_to_stop, hangs_at_start, hangs_at_stop, ignores_its_cancellation_at_stop
from tests.server import RecordingServer


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock: time limits take no time."""
    return request.param()


class Clocked:
    """Contexts that take a second to start and a second to stop, and record when they did."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self._zero = anyio.current_time()

    def context(self, name: str, seconds: float = 1, **state: Any) -> Callable[[], Any]:
        """Return a hook that takes so many seconds for its start, and as many for its stop."""

        @asynccontextmanager
        async def clocked() -> AsyncIterator[dict[str, Any]]:
            await anyio.sleep(seconds)
            self.at[f"+{name}"] = self._now()
            yield state
            await anyio.sleep(seconds)
            self.at[f"-{name}"] = self._now()

        clocked.__wrapped__.__name__ = name  # type: ignore[attr-defined]
        return clocked

    def function(self, name: str, seconds: float = 1) -> Callable[[], Any]:
        """Return a function that takes so many seconds, and records when it ended."""

        async def clocked() -> None:
            await anyio.sleep(seconds)
            self.at[name] = self._now()

        return clocked

    def _now(self) -> float:
        return round(anyio.current_time() - self._zero, 1)


async def test_the_hooks_of_a_concurrent_lifespan_start_and_stop_side_by_side() -> None:
    """Three hooks of 1, 2 and 3 seconds take 3 seconds, not 6."""
    clock = Clocked()
    hooks = Lifespan(contexts=[clock.context(name, int(name)) for name in "123"], concurrent=True)
    async with LifespanManager(hooks):
        pass
    assert clock.at == {"+1": 1, "+2": 2, "+3": 3, "-1": 4, "-2": 5, "-3": 6}


async def test_an_included_lifespan_keeps_its_order_inside_a_group() -> None:
    """A model beside a pool and then a cache: the longest path counts, in both directions."""
    clock = Clocked()
    storage = Lifespan(contexts=[clock.context("pool"), clock.context("cache")])
    hooks = Lifespan(contexts=[clock.context("model", 1.5)], concurrent=True)
    hooks.include(storage)
    async with LifespanManager(hooks):
        pass
    assert clock.at == {"+pool": 1, "+model": 1.5, "+cache": 2, "-cache": 3, "-model": 3.5, "-pool": 4}


async def test_groups_nest() -> None:
    """One after the other, inside of it side by side, inside of it one after the other."""
    clock = Clocked()
    inner = Lifespan(contexts=[clock.context("c"), clock.context("d")])
    middle = Lifespan(contexts=[clock.context("b", 3)], concurrent=True)
    middle.include(inner)
    branch = Lifespan(contexts=[clock.context("a")])
    branch.include(middle)
    branch.context(clock.context("e"))
    outer = Lifespan(contexts=[clock.context("f", 5.5)], concurrent=True)
    outer.include(branch)
    hooks = Lifespan(contexts=[clock.context("first")])
    hooks.include(outer)
    hooks.context(clock.context("last"))
    async with LifespanManager(hooks, None, None):
        pass
    starts = {"+first": 1, "+a": 2, "+c": 3, "+d": 4, "+b": 5, "+e": 6, "+f": 6.5, "+last": 7.5}
    stops = {"-last": 8.5, "-e": 9.5, "-d": 10.5, "-c": 11.5, "-b": 12.5, "-a": 13.5, "-f": 14, "-first": 15}
    assert clock.at == starts | stops


async def test_a_concurrent_middleware_starts_its_own_hooks_side_by_side_after_what_lifespan_names() -> None:
    """What `lifespan=` names comes before the group, in its order."""
    clock = Clocked()
    named: list[Any] = [clock.context("first"), Lifespan(contexts=[clock.context("second")])]
    app = LifespanMiddleware(Journal().app(), named, concurrent=True)
    app.context(clock.context("third"))
    app.include(Lifespan(contexts=[clock.context("fourth")]))
    await RecordingServer().run(app)
    assert list(clock.at.values()) == [1, 2, 3, 3, 4, 4, 5, 6]


async def test_shutdown_functions_of_a_group_run_side_by_side_before_its_contexts_are_left() -> None:
    """They run once everything in the group has started, and the group's contexts wait for all of them."""
    clock = Clocked()
    hooks = Lifespan(
        contexts=[clock.context("a"), clock.context("b")],
        on_shutdown=[clock.function("quick"), clock.function("slow", 2)],
        concurrent=True,
    )
    nested = Lifespan(concurrent=True)
    nested.include(hooks)
    async with LifespanManager(nested):
        pass
    assert clock.at == {"+a": 1, "+b": 1, "quick": 2, "slow": 3, "-a": 4, "-b": 4}


async def test_shutdown_functions_of_a_group_do_not_run_if_the_group_did_not_start(journal: Journal) -> None:
    """As those of any `Lifespan`."""
    hooks = Lifespan(
        contexts=[journal.context("a"), _fails_after_a_second],
        on_shutdown=[lambda: journal.events.append("never")],
        concurrent=True,
    )
    with pytest.raises(Boom):
        async with LifespanManager(hooks):
            raise AssertionError("it did not start")  # pragma: no cover
    assert journal.events == ["+a", "-a"]


@asynccontextmanager
async def _fails_after_a_second() -> AsyncIterator[None]:
    await anyio.sleep(1)
    raise Boom("no start")
    yield  # pragma: no cover - it makes a generator of it


async def test_the_first_failure_cancels_the_members_that_start(journal: Journal) -> None:
    """Those that had started are left; what comes after the group does not start."""
    series = Lifespan(contexts=[journal.context("a"), hangs_at_start, journal.context("never")])
    group = Lifespan(contexts=[_fails_after_a_second, journal.context("b")], concurrent=True)
    group.include(series)
    app = LifespanMiddleware(journal.app("never"), [group, journal.context("never")])
    server = RecordingServer()
    with pytest.raises(Boom):
        await server.run(app)
    assert sorted(journal.events) == ["+a", "+b", "-a", "-b"]
    assert server.answers == ["startup.failed"]
    assert app.report is not None
    assert [row.outcome for row in app.report.units] == [
        "failed",
        "stopped",
        "stopped",
        *["cancelled"],
        *["waiting"] * 3,
    ]


async def test_a_timeout_in_a_group_names_the_member_that_took_the_time(journal: Journal) -> None:
    """The others are left in their order."""
    group = Lifespan(contexts=[journal.context("a")], concurrent=True)
    group.context(hangs_at_start, timeout=3)
    server = RecordingServer()
    with pytest.raises(TimeoutError, match=r"3 s in hook 'hangs_at_start'"):
        await server.run(LifespanMiddleware(journal.app(), group))
    assert journal.events == ["+a", "-a"]


async def test_a_member_whose_stop_hangs_does_not_hold_up_its_neighbours() -> None:
    """Its own time limit ends it; what stops after it waits, what stands beside it does not."""
    clock = Clocked()
    series = Lifespan(contexts=[clock.context("below")])
    series.context(hangs_at_stop, timeout=3)
    group = Lifespan(contexts=[clock.context("beside"), clock.context("also")], concurrent=True)
    group.include(series)
    with pytest.raises(TimeoutError, match="hangs_at_stop"):
        async with LifespanManager(group, None, None):
            pass
    assert clock.at["-beside"] == clock.at["-also"] == 2
    assert clock.at["-below"] == 5


async def test_a_member_that_ignores_its_cancellation_is_abandoned_and_what_waits_for_it_stops() -> None:
    """As in a series."""
    clock = Clocked()
    series = Lifespan(contexts=[clock.context("below")])
    series.context(ignores_its_cancellation_at_stop, timeout=3)
    group = Lifespan(contexts=[clock.context("beside")], concurrent=True)
    group.include(series)
    with pytest.raises(TimeoutError, match="ignores_its_cancellation_at_stop"):
        async with LifespanManager(group, None, None):
            pass
    assert clock.at["-beside"] == 2
    assert clock.at["-below"] > 5


async def test_all_errors_of_a_group_that_stops_are_told(journal: Journal) -> None:
    """A failure ends no stop."""
    group = Lifespan(contexts=[fails_to_stop, journal.context("a"), fails_to_stop], concurrent=True)
    server = RecordingServer()
    with pytest.raises(ExceptionGroup) as raised:
        await server.run(LifespanMiddleware(journal.app(), group))
    assert [type(error) for error in raised.value.exceptions] == [Boom, Boom]
    assert server.answers == ["startup.complete", "shutdown.failed"]
    assert "-a" in journal.events


async def test_a_cancelled_startup_stops_a_group_in_its_order(journal: Journal) -> None:
    """Also members that have not begun."""
    series = Lifespan(contexts=[journal.context("a"), journal.context("b"), hangs_at_start, journal.context("never")])
    group = Lifespan(contexts=[hangs_at_start], concurrent=True)
    group.include(series)
    with anyio.move_on_after(5) as limit:
        await RecordingServer().run(LifespanMiddleware(journal.app(), group))
    assert limit.cancelled_caught
    assert journal.events == ["+a", "+b", "-b", "-a"]


SEEN: ContextVar[str] = ContextVar("SEEN", default="nothing")


async def test_context_variables_of_a_group_are_seen_inside_a_series_and_nowhere_else() -> None:
    """Members see those from before the group, and so do the units after it."""
    seen: dict[str, str] = {}

    def sets(name: str) -> Callable[[], Any]:
        @asynccontextmanager
        async def setting() -> AsyncIterator[None]:
            seen[name] = SEEN.get()
            SEEN.set(name)
            yield

        return setting

    series = Lifespan(contexts=[sets("c"), sets("d")])
    group = Lifespan(contexts=[sets("b")], concurrent=True)
    group.include(series)
    async with LifespanManager(LifespanMiddleware(Journal().app(), [sets("a"), group, sets("e")])):
        pass
    assert seen == {"a": "nothing", "b": "a", "c": "a", "d": "c", "e": "a"}


async def test_the_state_of_a_group_is_merged_and_a_collision_names_both() -> None:
    """In the order of registration."""
    clock = Clocked()
    hooks = Lifespan(contexts=[clock.context("slow", 2, a=1), clock.context("quick", 1, b=2)], concurrent=True)
    async with LifespanManager(hooks) as manager:
        assert manager.state == {"a": 1, "b": 2}
    clash = Lifespan(contexts=[clock.context("slow", 2, a=object()), clock.context("quick", 1, a=object())])
    with pytest.raises(StateCollision, match=r"slow.*quick"):
        async with LifespanManager(clash):
            raise AssertionError("it did not start")  # pragma: no cover


async def test_a_hook_of_a_group_can_be_replaced_and_left_out(journal: Journal) -> None:
    """By `override`, as any hook; a member without hooks is none."""
    a, b, c = journal.context("a"), journal.context("b"), journal.context("c")
    hooks = Lifespan(contexts=[a], concurrent=True)
    hooks.include(Lifespan(contexts=[b]))
    with hooks.override(a, c), hooks.override(b, None):
        async with LifespanManager(hooks):
            pass
    assert journal.events == ["+c", "-c"]


async def test_a_hook_that_an_app_runs_itself_is_left_out_of_a_group(caplog: pytest.LogCaptureFixture) -> None:
    """It would run twice; the others of the group run."""
    starlette = pytest.importorskip("starlette.applications")
    clock = Clocked()
    own = clock.context("own")
    app = LifespanMiddleware(starlette.Starlette(lifespan=lambda _: own()), concurrent=True)
    app.context(clock.context("a"))
    app.include(Lifespan(contexts=[clock.context("b")]))
    twice = LifespanMiddleware(starlette.Starlette(lifespan=_of_an_app), concurrent=True)
    twice.include(_of_an_app)
    twice.context(clock.context("c"))
    await RecordingServer().run(app)
    await RecordingServer().run(twice)
    assert "is also the lifespan of app Starlette" in caplog.text
    assert {"+own", "+a", "+b", "+c"} <= clock.at.keys()


@asynccontextmanager
async def _of_an_app(_: object) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("concurrent", [1, "yes", None])
def test_concurrent_is_true_or_false(concurrent: Any) -> None:
    """Anything else is a mistake."""
    with pytest.raises(TypeError, match=r"concurrent=\.\.\.\) got .*, expected True or False"):
        Lifespan(concurrent=concurrent)
    with pytest.raises(TypeError, match=r"concurrent=\.\.\.\) got .*, expected True or False"):
        LifespanMiddleware(Journal().app(), concurrent=concurrent)


# --- any order, against a plain reckoning ---


def orders(hooks: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Return nested orders: a number is a hook that takes so many seconds, a pair is a `Lifespan` of such."""
    return st.recursive(hooks, lambda inner: st.tuples(st.booleans(), st.lists(inner, max_size=3)), max_leaves=8)


def longest(order: Any) -> float:
    """Return the seconds that an order takes at the least."""
    if isinstance(order, tuple):
        concurrent, members = order
        times = [longest(member) for member in members]
        return max(times, default=0) if concurrent else sum(times)
    return float(order)


def built(order: tuple[bool, list[Any]], clock: Clocked, spans: list[tuple[str, ...]]) -> Lifespan:
    """Return a `Lifespan` of an order; `spans` gets the names of what must come one after the other."""
    concurrent, members = order
    lifespan, before = Lifespan(concurrent=concurrent), list[str]()
    for member in members:
        first = len(spans)
        if isinstance(member, tuple):
            lifespan.include(built(member, clock, spans))
        else:
            spans.append((str(len(spans)), *before))
            lifespan.context(clock.context(spans[-1][0], member))
        if not concurrent:
            spans[first:] = [(name, *before, *inner) for name, *inner in spans[first:]]
            before += [name for name, *_ in spans[first:]]
    return lifespan


@pytest.mark.slow
@hypothesis.given(order=st.tuples(st.booleans(), st.lists(orders(st.integers(1, 5)), max_size=4)))
@hypothesis.settings(max_examples=200)
def test_any_order_takes_as_long_as_its_longest_path(order: tuple[bool, list[Any]]) -> None:
    """In both directions, and nothing starts before what it comes after has started, nor stops after it."""

    async def run() -> tuple[dict[str, float], list[tuple[str, ...]]]:
        clock, spans = Clocked(), list[tuple[str, ...]]()
        async with LifespanManager(built(order, clock, spans), None, None):
            pass
        return clock.at, spans

    for backend, options in (param.values[0]() for param in VIRTUAL[::2]):  # type: ignore[operator]
        at, spans = anyio.run(run, backend=backend, backend_options=options)
        seconds = longest(order)
        assert max([time for name, time in at.items() if name.startswith("+")], default=0) == seconds
        assert max(at.values(), default=0) == 2 * seconds
        for name, *before in spans:
            for other in before:
                assert at[f"+{other}"] < at[f"+{name}"]
                assert at[f"-{name}"] < at[f"-{other}"]


# --- the order inside a member, whatever becomes of the units in it ---


class Members:
    """Hooks that end in different ways, and the times at which each began, had started, stopped and was over.

    Attributes:
        spans: The times by name and event.
        broke_at: The time of the first failed start; None if there was none.
        demand: Set while the server serves: what is to break or to load then does.
    """

    def __init__(self) -> None:
        self.spans: dict[str, dict[str, float]] = {}
        self.broke_at: float | None = None
        self.demand = anyio.Event()

    def note(self, name: str, event: str) -> None:
        """Keep the time of an event, and mark what is over."""
        self.spans.setdefault(name, {}).setdefault(event, anyio.current_time())

    async def until_cancelled(self, name: str) -> None:
        """Wait until the cancellation, and clean up for half a second."""
        try:
            await anyio.sleep_forever()
        finally:
            self.note(name, "stops")
            await anyio.sleep(0.5)
            self.note(name, "over")

    def register(self, fate: str, name: str, on: Lifespan | LifespanMiddleware) -> None:
        """Register a hook with a fate."""

        async def begin(seconds: float = 1) -> None:
            self.note(name, "begins")
            try:
                await anyio.sleep(seconds)
            except BaseException:  # pragma: no cover - by a random plan alone
                self.note(name, "over")
                raise

        async def function() -> None:
            await begin()
            self.note(name, "over")

        async def ends() -> None:
            self.note(name, "begins")
            self.note(name, "over")

        async def crashes() -> None:
            self.note(name, "begins")
            try:
                await self.demand.wait()
            finally:
                self.note(name, "over")
            raise Boom(name)

        async def works() -> None:
            self.note(name, "begins")
            await self.until_cancelled(name)

        @asynccontextmanager
        async def context() -> AsyncIterator[None]:
            await begin()
            self.note(name, "started")
            yield
            self.note(name, "stops")
            await anyio.sleep(1)
            self.note(name, "over")

        @asynccontextmanager
        async def loads() -> AsyncIterator[None]:
            await begin(0)
            await self.until_cancelled(name)
            yield  # pragma: no cover - it makes a generator of it

        async def fails() -> None:
            await begin(1.75)
            self.broke_at = anyio.current_time() if self.broke_at is None else self.broke_at
            self.note(name, "over")
            raise Boom(name)

        hooks: dict[str, Any] = {
            "context": on.context(name=name),
            "function": on.on_startup(name=name),
            "ended worker": on.worker(name=name),
            "crashed worker": on.worker(name=name),
            "worker": on.worker(name=name),
            "background function": on.on_startup(name=name, background=True),
            "background context": on.context(name=name, background=True),
            "background context that loads": on.context(name=name, background=True),
            "failed start": on.on_startup(name=name),
            "cancelled start": on.context(name=name),
        }
        functions = [function, ends, crashes, works, function, context, loads, fails, loads]
        hooks[fate](dict(zip(hooks, [context, *functions], strict=True))[fate])

    async def run(self, app: Lifespan | LifespanMiddleware) -> float:
        """Serve for ten seconds, and return the time at which the stop began: without a failure, the start has 50."""
        stopped_at = anyio.current_time() + 50
        limit = 50 if isinstance(app, Lifespan) else None  # else the middleware has it
        try:
            async with LifespanManager(app, startup_timeout=limit, shutdown_timeout=None):
                self.demand.set()
                await anyio.sleep(10)
                stopped_at = anyio.current_time()
        except* (Boom, TimeoutError):  # also that of a crash, after which the stop has failed
            pass
        return stopped_at if self.broke_at is None else self.broke_at


FATES = [
    "context",
    "function",
    "ended worker",
    "crashed worker",
    "worker",
    "background function",
    "background context",
    "background context that loads",
]
WAYS = pytest.mark.parametrize("way", ["Lifespan", "LifespanMiddleware"])


def grouped(way: str, *members: Lifespan) -> Lifespan | LifespanMiddleware:
    """Return a group of members, in either spelling."""
    group = (
        Lifespan(concurrent=True)
        if way == "Lifespan"
        else LifespanMiddleware(Journal().app(), concurrent=True, startup_timeout=50)
    )
    for member in members:
        group.include(member)
    return group


@WAYS
@pytest.mark.parametrize("is_failing", [False, True], ids=["", "failed start after it"])
@pytest.mark.parametrize("fate", [*FATES, "empty group"])
async def test_a_member_closes_its_pool_after_its_consumer_whatever_is_between(
    fate: str, is_failing: bool, way: str
) -> None:
    """The unit in the middle may be over long before the stop, or never start."""
    members, member = Members(), Lifespan()
    members.register("context", "pool", member)
    if fate == "empty group":
        member.include(Lifespan(concurrent=True))
    else:
        members.register(fate, "middle", member)
    members.register("context", "consumer", member)
    if is_failing:
        members.register("failed start", "refuses", member)
    await members.run(grouped(way, member))
    assert members.spans["consumer"]["over"] <= members.spans["pool"]["stops"]
    assert members.spans["consumer"]["over"] <= members.spans.get("middle", {}).get("stops", 1e9)
    assert members.spans.get("middle", {}).get("over", 0) <= members.spans["pool"]["stops"]


@WAYS
@pytest.mark.parametrize("fate", ["failed start", "cancelled start"])
async def test_a_member_whose_start_does_not_succeed_stops_what_it_had_started_in_reverse(fate: str, way: str) -> None:
    """It fails, or another member fails while it starts: what comes after it does not begin."""
    members, member, other = Members(), Lifespan(), Lifespan()
    for name, one in [("pool", "context"), ("cache", "context"), ("ended", "ended worker"), ("middle", fate)]:
        members.register(one, name, member)
    members.register("context", "consumer", member)
    members.register("function", "first", other)
    members.register("function", "second", other)
    members.register("failed start", "third", other)
    await members.run(grouped(way, member, other))
    assert "consumer" not in members.spans
    assert members.spans["middle"]["over"] <= members.spans["cache"]["stops"]
    assert members.spans["cache"]["over"] <= members.spans["pool"]["stops"]


Order = tuple[bool, list[Any]]
ORDERS = st.recursive(
    st.sampled_from([*FATES, *FATES, "failed start", "cancelled start"]),
    lambda inner: st.tuples(st.booleans(), st.lists(inner, max_size=4)),
    max_leaves=10,
)


def registered(order: Order, on: Any, members: Members, path: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Register an order, and return the place of each hook: its number at each level."""
    places: dict[str, tuple[int, ...]] = {}
    for number, member in enumerate(order[1]):
        place = (*path, number)
        if isinstance(member, str):
            name = f"{member} {place}"
            members.register(member, name, on)
            places[name] = place
        else:
            included = Lifespan(concurrent=member[0])
            places |= registered(member, included, members, place)
            on.include(included)
    return places


def comes_before(order: Order, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether one place comes before another one in their innermost common `Lifespan`."""
    is_concurrent, members = order
    if one[0] == other[0]:
        return len(one) > 1 and comes_before(members[one[0]], one[1:], other[1:])
    return not is_concurrent and one[0] < other[0]


@pytest.mark.slow
@hypothesis.given(order=st.tuples(st.booleans(), st.lists(ORDERS, max_size=4)), as_middleware=st.booleans())
@hypothesis.settings(max_examples=150)
def test_any_order_of_hooks_with_any_fate_stops_each_when_all_that_follow_are_over(
    order: Order, as_middleware: bool
) -> None:
    """At that very moment, or when the stop begins: no later, no sooner."""

    async def run() -> None:
        members = Members()
        way = "LifespanMiddleware" if as_middleware and order[0] else "Lifespan"
        root = grouped(way) if order[0] else Lifespan()
        places = registered(order, root, members)
        stopped_at = await members.run(root)
        for name, span in members.spans.items():
            after = [span for other, span in members.spans.items() if comes_before(order, places[name], places[other])]
            assert all(span["begins"] <= other["begins"] for other in after), name
            if "started" in span and not name.startswith("background"):
                assert all(span["started"] <= other["begins"] for other in after), name
            assert "over" in span, name
            if "stops" in span:
                due = max([stopped_at, *(other["over"] for other in after)])
                assert span["stops"] == pytest.approx(due, abs=0.01), name

    for param in VIRTUAL[::2]:
        backend, options = param.values[0]()  # type: ignore[operator]
        anyio.run(run, backend=backend, backend_options=options)


async def test_a_unit_does_not_start_before_what_it_starts_after() -> None:
    """Whatever their order in the batch."""
    started: list[str] = []

    def unit(name: str) -> Unit:
        async def body(one: Unit) -> None:
            await anyio.sleep(1)
            started.append(name)
            one.started()
            await one.wait_for_stop()

        return Unit(name, body)

    first, second = unit("first"), unit("second")
    second.start_after([first])
    supervisor = Supervisor(lambda _: None)
    supervisor.shared.set_deadline(None)
    await supervisor.start(second, first)
    await supervisor.stop()
    assert started == ["first", "second"]
