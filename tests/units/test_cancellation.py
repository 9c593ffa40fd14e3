"""`Cancellable`: bodies are cancelled once, and their clean-up awaits; with a table of bodies, and with random ones."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from asgi_lifespan_mw._units.backend import current_asyncio_task, spawn
from asgi_lifespan_mw._units.cancellation import Cancellable
from tests.conftest import VIRTUAL

LONG = 100
"""Seconds that no body is to wait for."""


class Trial:
    """One body in a task of its own, and what it has logged."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.outer = Cancellable()
        self.inner = Cancellable()
        self.is_ready = anyio.Event()
        self.errors: list[BaseException] = []
        self.is_over = anyio.Event()

    async def clean(self, name: str = "clean") -> None:
        """Wait as a clean-up does, and log that the wait was not cut off."""
        await anyio.sleep(0.01)
        self.log.append(name)

    def start(self, body: Callable[["Trial"], Awaitable[None]]) -> object:
        """Begin to run the body in the cancellable."""

        async def coroutine() -> None:
            await body(self)

        async def live() -> None:
            try:
                await self.outer.run(coroutine())
            except BaseException as error:  # which a test looks at
                self.errors.append(error)
            self.is_over.set()

        return spawn(live, "trial", copy_context())

    async def end(self) -> None:
        """Check that the body is over in time."""
        with anyio.fail_after(LONG / 2):
            await self.is_over.wait()
        assert self.errors == []


async def waits(trial: Trial) -> None:
    """Wait."""
    try:
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        await trial.clean()


async def is_woken(trial: Trial) -> None:
    """Wait for an event that is set in the step of the cancellation, and then without end."""
    try:
        await trial.is_ready.wait()
        trial.log.append("received")
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        await trial.clean()


async def makes_checkpoints(trial: Trial) -> None:
    """Make one checkpoint after the other."""
    try:
        while True:
            await anyio.lowlevel.checkpoint()
    finally:
        await trial.clean()


async def receives_from_a_full_channel(trial: Trial) -> None:
    """Receive from a channel that is never empty: on trio, this never waits."""
    send, receive = anyio.create_memory_object_stream[int](2)
    with send, receive:
        try:
            while True:
                send.send_nowait(1)
                await receive.receive()
        finally:
            await trial.clean()


async def shields(trial: Trial) -> None:
    """Shield a section, and wait."""
    try:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
            trial.log.append("committed")
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        await trial.clean()


async def shields_for_a_time(trial: Trial) -> None:
    """Shield a section whose time limit runs out."""
    try:
        with anyio.move_on_after(0.06, shield=True):
            await anyio.sleep(LONG)
        trial.log.append("committed")
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        await trial.clean()


async def has_a_time_limit(trial: Trial) -> None:
    """Have a time limit, which may run out at the moment of the cancellation."""
    try:
        with anyio.move_on_after(0.04):
            await anyio.sleep(LONG)
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        await trial.clean()


async def exceeds_its_time_limit_in_the_clean_up(trial: Trial) -> None:
    """Have a time limit that runs out in the clean-up inside of it."""
    try:
        with anyio.move_on_after(0.1):
            try:
                await anyio.sleep(LONG)
            finally:
                await anyio.sleep(LONG)
        raise AssertionError
    finally:
        await trial.clean()


async def has_limits_in_the_clean_up(trial: Trial) -> None:
    """Have time limits that begin in the clean-up."""
    try:
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        with anyio.move_on_after(0.01):
            await anyio.sleep(LONG)
        with suppress(TimeoutError), anyio.fail_after(0.01):
            await anyio.sleep(LONG)
        await trial.clean()


async def has_a_group_in_the_clean_up(trial: Trial) -> None:
    """Have task groups in the clean-up, one of which fails."""

    async def boom() -> None:
        await anyio.sleep(0.01)
        raise ValueError

    try:
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        with pytest.raises(ExceptionGroup) as raised:
            async with anyio.create_task_group() as group:
                group.start_soon(boom)
                await anyio.sleep(LONG)
        assert raised.group_contains(ValueError)
        async with anyio.create_task_group() as group:
            group.start_soon(trial.clean, "child")
        await trial.clean()


async def is_in_a_group(trial: Trial) -> None:
    """Clean up inside a task group, whose children go on meanwhile."""
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, LONG)
            try:
                await anyio.sleep(LONG)
            finally:
                # The children go on while their host cleans up.
                await trial.clean("in the group")
        raise AssertionError
    finally:
        assert trial.log == ["in the group"]
        await trial.clean()


async def leaves_a_group(trial: Trial) -> None:
    """Wait for the children of a task group."""
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, LONG)
        raise AssertionError
    finally:
        await trial.clean()


async def is_in_a_group_of_asyncio(trial: Trial) -> None:
    """Clean up inside a task group of asyncio."""

    async def child() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            await trial.clean("child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            try:
                await asyncio.sleep(LONG)
            finally:
                await trial.clean("in the group")
        raise AssertionError
    finally:
        await trial.clean()


async def leaves_a_group_of_asyncio(trial: Trial) -> None:
    """Wait for the children of a task group of asyncio."""

    async def child() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            await trial.clean("child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
        raise AssertionError
    finally:
        await trial.clean()


async def gathers(trial: Trial) -> None:
    """Wait for `asyncio.gather`."""

    async def child() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            await trial.clean("child")

    try:
        await asyncio.gather(child(), child())
        raise AssertionError
    finally:
        await trial.clean()


async def has_a_timeout_of_asyncio(trial: Trial) -> None:
    """Have a timeout of asyncio at the moment of the cancellation, and one in the clean-up."""
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.04):
                await asyncio.sleep(LONG)
        await asyncio.sleep(LONG)
        raise AssertionError
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(LONG)
        await trial.clean()


async def runs_another(trial: Trial) -> None:
    """Run another `Cancellable`."""

    async def nested() -> None:
        try:
            await anyio.sleep(LONG)
            raise AssertionError
        finally:
            await trial.clean("nested")

    try:
        await trial.inner.run(nested())
        await anyio.sleep(LONG)
        raise AssertionError
    finally:
        await trial.clean()


BODIES = [
    waits,
    is_woken,
    makes_checkpoints,
    receives_from_a_full_channel,
    shields,
    shields_for_a_time,
    has_a_time_limit,
    exceeds_its_time_limit_in_the_clean_up,
    has_limits_in_the_clean_up,
    has_a_group_in_the_clean_up,
    is_in_a_group,
    leaves_a_group,
    runs_another,
]
ASYNCIO_BODIES = [
    is_in_a_group_of_asyncio,
    leaves_a_group_of_asyncio,
    gathers,
    has_a_timeout_of_asyncio,
]


@pytest.mark.parametrize("moment", ["before the first step", "while it waits", "in the same step", "at its time limit"])
@pytest.mark.parametrize("body", [*BODIES, *ASYNCIO_BODIES], ids=lambda body: body.__name__)
async def test_the_clean_up_finishes_and_nothing_else_goes_on(
    body: Callable[[Trial], Awaitable[None]], moment: str
) -> None:
    """Cancel each body at each moment: its clean-up awaits, what it shields finishes, and it is over."""
    if body in ASYNCIO_BODIES and current_asyncio_task() is None:
        pytest.skip("for asyncio")
    trial = Trial()
    task = trial.start(body)
    if body in (makes_checkpoints, receives_from_a_full_channel):
        # While such a body runs, the virtual clock stands still.
        for _ in range(0 if moment == "before the first step" else 5):
            await anyio.lowlevel.checkpoint()
    elif moment != "before the first step":
        await anyio.sleep(0.04 if moment == "at its time limit" else 0.02)
    if moment == "in the same step":
        trial.is_ready.set()
    trial.outer.cancel()
    trial.outer.cancel()  # a second one changes nothing
    await trial.end()
    # The children of `gather` that have not begun before the cancellation never begin: this is asyncio's way.
    assert "clean" in trial.log
    assert ("received" in trial.log) == (body is is_woken and moment == "in the same step")
    assert ("committed" in trial.log) == body.__name__.startswith("shields")
    del task


@pytest.mark.parametrize("order", ["inner", "outer first", "inner first"])
async def test_one_cancellable_runs_in_another(order: str) -> None:
    """The inner one ends alone; with both cancelled, the outer body is over after its clean-up."""
    trial = Trial()
    task = trial.start(runs_another)
    await anyio.sleep(0.02)
    if order == "outer first":
        trial.outer.cancel()
    trial.inner.cancel()
    if order == "inner":
        await anyio.sleep(0.1)
        assert trial.log == ["nested"]
        assert not trial.is_over.is_set()
    trial.outer.cancel()
    await trial.end()
    assert trial.log[-1] == "clean"
    del task


async def test_a_body_that_swallows_its_cancellation_is_ended_for_good() -> None:
    """It goes on after the first cancellation; from `cancel_for_good` on, each of its waits is cancelled."""
    trial = Trial()

    async def swallows(trial: Trial) -> None:
        for _ in range(5):
            with suppress(anyio.get_cancelled_exc_class()):
                await anyio.sleep(LONG)
            trial.log.append("swallowed")

    task = trial.start(swallows)
    await anyio.sleep(0.02)
    trial.outer.cancel()
    await anyio.sleep(0.02)
    assert trial.log == ["swallowed"]
    trial.outer.cancel_for_good()
    await trial.end()
    assert trial.log == ["swallowed"] * 5
    assert trial.outer.is_cancelled_for_good
    del task


@pytest.mark.parametrize("is_in_a_group", [False, True])
async def test_a_body_that_hangs_in_its_clean_up_is_ended_for_good(*, is_in_a_group: bool) -> None:
    """`cancel_for_good` ends a clean-up, also one in a task group."""
    trial = Trial()

    async def hangs(trial: Trial) -> None:
        try:
            await anyio.sleep(LONG)
        finally:
            if is_in_a_group:
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep, LONG)
                    await anyio.sleep(LONG)
            await anyio.sleep(LONG)

    task = trial.start(hangs)
    await anyio.sleep(0.02)
    trial.outer.cancel()
    await anyio.sleep(0.02)
    assert not trial.is_over.is_set()
    trial.outer.cancel_for_good()
    await trial.end()
    del task


async def test_a_body_may_be_cancelled_for_good_at_once() -> None:
    """Without a cancellation before it, each wait is cancelled, and the end is as quiet."""
    trial = Trial()
    task = trial.start(waits)
    await anyio.sleep(0.02)
    trial.outer.cancel_for_good()
    await trial.end()
    assert trial.log == []
    del task


async def test_an_error_of_the_body_is_raised() -> None:
    """What the clean-up raises comes out, and the body's coroutine is known while it runs."""
    trial = Trial()
    assert trial.outer.get_coro() is None

    async def breaks(_: Trial) -> None:
        try:
            await anyio.sleep(LONG)
        finally:
            raise ValueError

    task = trial.start(breaks)
    await anyio.sleep(0.02)
    assert trial.outer.get_coro() is not None
    trial.outer.cancel()
    await trial.is_over.wait()
    assert [type(error) for error in trial.errors] == [ValueError]
    del task


async def test_a_cancellation_by_others_is_raised() -> None:
    """A plain `Task.cancel()` is not the package's, with or without one of the package's at the same moment."""
    if current_asyncio_task() is None:
        pytest.skip("for asyncio")
    for is_cancelled_too in (False, True):
        trial = Trial()
        task: Any = trial.start(waits)
        await anyio.sleep(0.02)
        if is_cancelled_too:
            trial.outer.cancel()
        task.cancel()
        await trial.is_over.wait()
        assert [type(error) for error in trial.errors] == [asyncio.CancelledError]
        assert trial.log == ["clean"]


async def test_a_spawned_task_that_is_cancelled_before_its_first_step_makes_it() -> None:
    """It is cancelled at its first wait then, so that it can tell its end."""
    if current_asyncio_task() is None:
        pytest.skip("trio cancels no system task before its first step")
    log: list[str] = []

    async def live() -> None:
        log.append("first step")
        try:
            await anyio.sleep(LONG)
        finally:
            log.append("cancelled")

    task: Any = spawn(live, "live", copy_context())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["first step", "cancelled"]


# Random bodies, compared with a model.


class Boom(Exception):
    """What a child raises."""


@dataclass(eq=False)
class Wait:
    """A wait, logged if it ends by itself; of no seconds: a checkpoint."""

    name: str
    seconds: float


@dataclass(eq=False)
class Scope:
    """A block with a time limit, a shield or both."""

    body: list[Any]
    limit: float = math.inf
    shield: bool = False


@dataclass(eq=False)
class Finally:
    """A block with a clean-up."""

    body: list[Any]
    clean: list[Any]


@dataclass(eq=False)
class Group:
    """A task group of anyio with children that wait, wait behind a shield, or wait and raise."""

    body: list[Any]
    children: list[tuple[str, float]]


class Runner:
    """Runs steps."""

    def __init__(self) -> None:
        self.log: list[tuple[str, float]] = []
        self.began = anyio.current_time()

    def note(self, name: str) -> None:
        """Log what happens, with its time."""
        self.log.append((name, anyio.current_time() - self.began))

    async def run(self, steps: list[Any]) -> None:
        """Run one step after the other."""
        for step in steps:
            match step:
                case Wait(name, seconds):
                    await (anyio.sleep(seconds) if seconds else anyio.lowlevel.checkpoint())
                    self.note(name)
                case Scope(body, limit, shield):
                    with anyio.CancelScope(deadline=anyio.current_time() + limit, shield=shield):
                        await self.run(body)
                case Finally(body, clean):
                    try:
                        await self.run(body)
                    finally:
                        await self.run(clean)
                case _:
                    try:
                        async with anyio.create_task_group() as group:
                            for kind, seconds in step.children:
                                group.start_soon(self._child, kind, seconds)
                            await self.run(step.body)
                    except* Boom:
                        pass

    async def _child(self, kind: str, seconds: float) -> None:
        with anyio.CancelScope(shield=kind == "shields"):
            await anyio.sleep(seconds)
        if kind == "raises":
            raise Boom


class Cancelled(BaseException):
    """A cancellation in the model."""


@dataclass(eq=False)
class OpenScope:
    """A scope in the model."""

    deadline: float
    shield: bool


class Model:
    """Computes what a body logs: its cancellation ends exactly one wait, and that one is not shielded."""

    def __init__(self, cancelled_at: float) -> None:
        self.log: list[tuple[str, float]] = []
        self.now = 0.0
        self.cancelled_at = cancelled_at
        self.is_delivered = False
        self.is_undecided = False  # whether the loops, or the versions of anyio, end such a body in different ways
        self.scopes: list[OpenScope] = []
        self.open_at_delivery: list[OpenScope] = []

    def own_deadline(self) -> float:
        """The time at which a scope of the body cancels its waits."""
        deadline = math.inf
        for scope in reversed(self.scopes):
            deadline = min(deadline, scope.deadline)
            if scope.shield:
                break
        return deadline

    def wait(self, end: float) -> None:
        """Wait until a time, or until a cancellation."""
        own = max(self.own_deadline(), self.now)
        is_reachable = not self.is_delivered and not any(scope.shield for scope in self.scopes)
        ours = max(self.cancelled_at, self.now) if is_reachable else math.inf
        self.now = min(own, ours, end)
        if ours <= end and ours < own:
            self.is_delivered = True
            self.open_at_delivery = self.scopes.copy()
        if min(own, ours) <= end:
            raise Cancelled

    def run(self, steps: list[Any]) -> None:
        """Run one step after the other."""
        for step in steps:
            match step:
                case Wait(name, seconds):
                    self.wait(self.now + seconds)
                    self.log.append((name, self.now))
                case Scope(body, limit, shield):
                    self.scopes.append(OpenScope(self.now + limit, shield))
                    try:
                        self.run(body)
                    except Cancelled:
                        if not self.swallows():
                            raise
                    finally:
                        self.scopes.pop()
                case Finally(body, clean):
                    try:
                        self.run(body)
                    finally:
                        self.run(clean)
                case _:
                    self.run_group(step)

    def swallows(self) -> bool:
        """Return whether the innermost scope ends a cancellation: its own, and no other."""
        scope = self.scopes[-1]
        is_own = scope.deadline <= self.now and scope not in self.open_at_delivery
        self.scopes.pop()
        is_cancelled_outside = not scope.shield and self.own_deadline() <= self.now
        self.scopes.append(scope)
        return is_own and not is_cancelled_outside

    def run_group(self, step: Group) -> None:
        """Run a task group: it is cancelled by the first child that raises, or when its host is cancelled."""
        begin, was_delivered = self.now, self.is_delivered
        raises = min((begin + seconds for kind, seconds in step.children if kind == "raises"), default=math.inf)
        cancelled_at = min(raises, self.own_deadline())
        scope = OpenScope(raises if raises == cancelled_at else math.inf, shield=False)
        self.scopes.append(scope)

        def end() -> float:
            ends = [
                begin + seconds if kind == "shields" else max(begin, min(begin + seconds, cancelled_at))
                for kind, seconds in step.children
            ]
            return max(ends, default=begin)

        error: Cancelled | None = None
        try:
            self.run(step.body)
            if end() > self.now:
                self.wait(end())
        except Cancelled as cancelled:
            error = cancelled
            cancelled_at = min(cancelled_at, self.now)
            if scope.deadline > cancelled_at:
                scope.deadline = math.inf  # the child that was to raise is cancelled
            if self.is_delivered and not was_delivered:
                # An exception of a child replaces the cancellation, and the nursery of trio does not wait cancelled.
                self.is_undecided |= scope.deadline <= self.now
                self.is_undecided |= any(kind == "shields" for kind, _ in step.children)
        self.now = max(self.now, end())
        is_swallowed = self.swallows()
        self.scopes.pop()
        if error is not None and not is_swallowed:
            raise error


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[Any], float]:
    """Draw a body and the time of its cancellation, at which nothing else happens: all sums of its times differ."""
    numbers = iter(range(1, 10_000))

    def seconds() -> float:
        number = next(numbers)
        assume(number <= 20)
        return draw(st.integers(0, 6)) + 2.0**-number

    def step(depth: int) -> Any:
        kinds = ["wait", "checkpoint", "scope", "limit", "both", "finally", "group"]
        kind = draw(st.sampled_from(kinds if depth else kinds[:2]))
        if kind in ("wait", "checkpoint"):
            return Wait(f"wait {next(numbers)}", seconds() if kind == "wait" else 0)
        if kind == "finally":
            return Finally(steps(depth - 1), steps(depth - 1))
        if kind == "group":
            kinds = draw(st.lists(st.sampled_from(["waits", "shields", "raises"]), max_size=2))
            return Group(steps(depth - 1), [(kind, seconds()) for kind in kinds])
        return Scope(steps(depth - 1), math.inf if kind == "scope" else seconds(), shield=kind != "limit")

    def steps(depth: int) -> list[Any]:
        return [step(depth) for _ in range(draw(st.integers(1, 3)))]

    return steps(3), draw(st.integers(0, 8)) + 2.0**-22


def nests_groups(steps: list[Any], *, is_inside: bool) -> bool:
    """Whether a task group is opened inside another one."""
    for step in steps:
        if isinstance(step, Group) and (is_inside or nests_groups(step.body, is_inside=True)):
            return True
        parts = [getattr(step, name, []) for name in ("body", "clean")]
        if any(nests_groups(part, is_inside=is_inside) for part in parts):
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", VIRTUAL, indirect=True)
@settings(max_examples=200, derandomize=True, suppress_health_check=[*HealthCheck])
@given(drawn=bodies())
async def test_random_bodies_are_cancelled_as_the_model_says(drawn: tuple[list[Any], float]) -> None:
    """Each wait ends at the model's time, by itself or by a cancellation: exactly one is cancelled by the package."""
    steps, cancelled_at = drawn
    model = Model(cancelled_at)
    with suppress(Cancelled):
        model.run(steps)
    assume(not model.is_undecided)
    # On trio and old anyio, a group that is left shows the cancellation to the children of a group around it.
    is_counted = current_asyncio_task() is not None and hasattr(anyio.CancelScope(), "_cancelling_at_enter")
    assume(is_counted or not nests_groups(steps, is_inside=False))
    # A nursery that is being left does not abort its own wait, while a child behind a shield is left.
    assume(is_counted or "'shields'" not in repr(steps))
    event(f"cancelled: {model.is_delivered}")
    trial = Trial()
    runner = Runner()

    async def body(_: Trial) -> None:
        try:
            await runner.run(steps)
        finally:
            runner.note("over")

    task = trial.start(body)
    await anyio.sleep(cancelled_at)
    trial.outer.cancel()
    with anyio.fail_after(10 * LONG):
        await trial.is_over.wait()
    assert trial.errors == []
    assert runner.log == [*model.log, ("over", model.now)]
    del task
