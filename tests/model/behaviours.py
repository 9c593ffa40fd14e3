"""What a unit can do in its lifespan: one behaviour a function, and beside each what must come of it.

A behaviour notes ``+`` when it has started and ``-`` when it is stopped, whichever way that happens.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from asgi_lifespan_mw._types import Receive, Send

FOREVER: Final = 100.0
"""Seconds for which a behaviour ignores its cancellation: more than anybody waits for it, and yet it ends."""


class Boom(Exception):
    """What a behaviour raises; its text is who did."""


class Actor:
    """Whoever behaves: its name, what it notes, and the moment at which it may break.

    Attributes:
        name: Who it is in the journal and in errors.
        demand: Set when the server serves.
        has_started: Whether it has noted anything.
    """

    def __init__(self, name: str, journal: list[str], demand: anyio.Event) -> None:
        self.name = name
        self.demand = demand
        self.has_started = False
        self._journal = journal

    def note(self, sign: str) -> None:
        """Write into the journal."""
        self.has_started = True
        self._journal.append(f"{sign}{self.name}")

    async def starts(self, receive: Receive, send: Send) -> None:
        """Start as an app should."""
        await receive()
        await self.completes(send)

    async def completes(self, send: Send) -> None:
        """Say that the startup is complete."""
        self.note("+")
        await send({"type": "lifespan.startup.complete"})

    async def is_told_to_stop(self, receive: Receive) -> None:
        """Wait for the shutdown."""
        with self.noting_the_stop():
            await receive()

    @contextmanager
    def noting_the_stop(self) -> Iterator[None]:
        """Note the stop of what has started, whichever way it comes."""
        try:
            yield
        finally:
            if self.has_started:
                self.note("-")

    async def cleans_up(self) -> None:
        """Wait as a clean-up does, and note the stop after that.

        If the time for all is up, the first wait is cancelled, and no other.
        """
        try:
            await anyio.sleep(0.01)
        finally:
            await anyio.sleep(0.01)
            self.note("-")

    async def stops(self, receive: Receive, send: Send) -> None:
        """Stop as an app should."""
        await self.is_told_to_stop(receive)
        await send({"type": "lifespan.shutdown.complete"})


@dataclass(frozen=True)
class Behaviour:
    """What a unit does, and what must come of it.

    Attributes:
        name: The name of the function that does it.
        run: The function: ``(actor, receive, send)`` for an app, ``(actor)`` for a hook.
        start: Empty if it starts, "none" if it takes no part, else the name of the error.
        serving: Empty if it stays, "over" if it is over by itself, "in vain" if it crashes and nothing fails for it,
            else the name of the error with which it crashes.
        stop: Empty if it stops, else the name of the error.
        notes: Which signs it notes.
        lingers: Whether it lives on, left behind, after it ignored its cancellation.
        options: The options with which it is registered as a hook.
        is_worker: Whether it is registered as a worker.
    """

    name: str
    run: Callable[..., Any]
    start: str = ""
    serving: str = ""
    stop: str = ""
    notes: str = "+-"
    lingers: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_worker: bool = False

    @property
    def ends_the_startup(self) -> bool:
        """Whether no unit starts after this one."""
        return self.start not in ("", "none")

    @property
    def runs_at_stop(self) -> bool:
        """Whether it is nothing before the stop."""
        return "+" not in self.notes


APPS: Final[dict[str, Behaviour]] = {}
"""What the wrapped app and a mount can do, by name."""

HOOKS: Final[dict[str, Behaviour]] = {}
"""What a hook can do, by name."""


def _in(table: dict[str, Behaviour], **fate: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        table[run.__name__] = Behaviour(run.__name__, run, **fate)
        return run

    return add


def _app(**fate: Any) -> Callable[[Callable[[Actor, Receive, Send], Awaitable[None]]], Callable[..., Any]]:
    return _in(APPS, **fate)


def _hook(**fate: Any) -> Callable[[Callable[[Actor], Any]], Callable[..., Any]]:
    return _in(HOOKS, **fate)


async def _linger() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(FOREVER)


# --- apps: the startup ---


@_app()
async def app_well(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.stops(receive, send)


@_app()
async def answers_before_it_receives(me: Actor, receive: Receive, send: Send) -> None:
    await me.completes(send)
    await me.stops(receive, send)


@_app()
async def answers_twice(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await send({"type": "lifespan.startup.complete"})
    await me.stops(receive, send)


@_app()
async def receives_twice(me: Actor, receive: Receive, send: Send) -> None:
    async def answers() -> None:
        await anyio.lowlevel.checkpoint()
        await me.completes(send)

    async with anyio.create_task_group() as tasks:
        await receive()
        tasks.start_soon(answers)
        await me.stops(receive, send)


@_app()
async def answers_from_another_task(me: Actor, receive: Receive, send: Send) -> None:
    async def asks() -> None:
        await receive()

    with me.noting_the_stop():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(me.starts, receive, send)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asks)
    await send({"type": "lifespan.shutdown.complete"})


@_app(start="none")
async def turns_away(me: Actor, receive: Receive, send: Send) -> None:
    raise Boom(me.name)


@_app(start="none")
async def returns_at_once(me: Actor, receive: Receive, send: Send) -> None:
    return


@_app(start="none")
async def returns_after_receiving(me: Actor, receive: Receive, send: Send) -> None:
    await receive()


@_app(start="none")
async def answers_http(me: Actor, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await anyio.sleep_forever()


@_app(start="none", lingers=True)
async def answers_http_and_swallows_cancellation(me: Actor, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await _linger()


@_app(start="StartupFailed")
async def fails_before_it_receives(me: Actor, receive: Receive, send: Send) -> None:
    await send({"type": "lifespan.startup.failed", "message": me.name})


@_app(start="StartupFailed")
async def fails_with_a_message(me: Actor, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": me.name})


@_app(start="StartupFailed")
async def fails_without_a_message(me: Actor, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed"})


@_app(start="StartupFailed")
async def fails_and_waits(me: Actor, receive: Receive, send: Send) -> None:
    await fails_with_a_message(me, receive, send)
    await receive()


@_app(start="Boom")
async def fails_with_a_message_and_raises(me: Actor, receive: Receive, send: Send) -> None:
    await fails_with_a_message(me, receive, send)
    raise Boom(me.name)


@_app(start="Boom")
async def raises_after_receiving(me: Actor, receive: Receive, send: Send) -> None:
    await receive()
    raise Boom(me.name)


@_app(start="ProtocolViolation")
async def answers_the_wrong_phase(me: Actor, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


@_app(start="LifespanTimeout")
async def hangs_at_start(me: Actor, receive: Receive, send: Send) -> None:
    await receive()
    await anyio.sleep_forever()


@_app(start="LifespanTimeout", lingers=True)
async def swallows_cancellation_at_start(me: Actor, receive: Receive, send: Send) -> None:
    await receive()
    await _linger()


# --- apps: while serving; what crashes does so when the server serves, and does not listen before ---


@_app(serving="over", notes="+")
async def returns_early(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)


@_app(serving="Boom", stop="LifespanTimeout", notes="+")
async def crashes(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.demand.wait()
    raise Boom(me.name)


@_app(serving="ShutdownFailed", stop="LifespanTimeout", notes="+")
async def crashes_with_a_message_and_stays(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.demand.wait()
    await send({"type": "lifespan.shutdown.failed", "message": me.name})
    await anyio.sleep_forever()


# --- apps: the shutdown ---


@_app()
async def stops_without_an_answer(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.is_told_to_stop(receive)


@_app()
async def awaits_in_its_clean_up(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    try:
        await receive()
    finally:
        await me.cleans_up()
    await send({"type": "lifespan.shutdown.complete"})


@_app()
async def stays_busy_after_its_answer(me: Actor, receive: Receive, send: Send) -> None:
    await app_well(me, receive, send)
    await anyio.sleep_forever()


@_app(lingers=True)
async def swallows_cancellation_after_its_answer(me: Actor, receive: Receive, send: Send) -> None:
    await app_well(me, receive, send)
    await _linger()


@_app()
async def receives_after_its_answer(me: Actor, receive: Receive, send: Send) -> None:
    await app_well(me, receive, send)
    await receive()


@_app(stop="ShutdownFailed")
async def fails_at_stop_with_a_message(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.is_told_to_stop(receive)
    await send({"type": "lifespan.shutdown.failed", "message": me.name})


@_app(stop="Boom")
async def raises_at_stop(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.is_told_to_stop(receive)
    raise Boom(me.name)


@_app(stop="Boom")
async def raises_after_its_answer(me: Actor, receive: Receive, send: Send) -> None:
    await app_well(me, receive, send)
    raise Boom(me.name)


@_app(stop="LifespanTimeout")
async def hangs_at_stop(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.is_told_to_stop(receive)
    await anyio.sleep_forever()


@_app(stop="LifespanTimeout", lingers=True)
async def swallows_cancellation_at_stop(me: Actor, receive: Receive, send: Send) -> None:
    await me.starts(receive, send)
    await me.is_told_to_stop(receive)
    await _linger()


# --- hooks: functions ---


@_hook(serving="over", notes="+")
async def function_well(me: Actor) -> None:
    me.note("+")


@_hook(start="Boom", notes="+")
async def function_fails(me: Actor) -> None:
    raise Boom(me.name)


@_hook(notes="-")
async def stop_function_well(me: Actor) -> None:
    me.note("-")


@_hook(stop="Boom", notes="-")
async def stop_function_fails(me: Actor) -> None:
    me.note("-")
    raise Boom(me.name)


@_hook(stop="LifespanTimeout", notes="-")
async def stop_function_hangs(me: Actor) -> None:
    me.note("-")
    await anyio.sleep_forever()


# --- hooks: contexts ---


@_hook()
async def context_well(me: Actor) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        me.note("+")
        with me.noting_the_stop():
            yield
        tasks.cancel_scope.cancel()


@_hook(start="Boom")
async def context_fails_at_start(me: Actor) -> AsyncIterator[None]:
    raise Boom(me.name)
    yield  # pragma: no cover - it makes a generator of it


@_hook(start="LifespanTimeout")
async def context_hangs_at_start(me: Actor) -> AsyncIterator[None]:
    await anyio.sleep_forever()
    yield  # pragma: no cover - it makes a generator of it


@_hook(start="LifespanTimeout", lingers=True)
async def context_swallows_cancellation_at_start(me: Actor) -> AsyncIterator[None]:
    await _linger()
    yield


@_hook(serving="Boom", stop="LifespanTimeout", notes="+")
async def context_crashes(me: Actor) -> AsyncIterator[None]:
    async def breaks() -> None:
        await me.demand.wait()
        raise Boom(me.name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaks)
        me.note("+")
        yield


@_hook()
async def context_awaits_in_its_clean_up(me: Actor) -> AsyncIterator[None]:
    me.note("+")
    try:
        yield
    finally:
        await me.cleans_up()


@_hook(stop="Boom")
async def context_fails_at_stop(me: Actor) -> AsyncIterator[None]:
    me.note("+")
    with me.noting_the_stop():
        yield
    raise Boom(me.name)


@_hook(stop="LifespanTimeout")
async def context_hangs_at_stop(me: Actor) -> AsyncIterator[None]:
    me.note("+")
    with me.noting_the_stop():
        yield
    await anyio.sleep_forever()


@_hook(stop="LifespanTimeout", lingers=True)
async def context_swallows_cancellation_at_stop(me: Actor) -> AsyncIterator[None]:
    me.note("+")
    with me.noting_the_stop():
        yield
    await _linger()


# --- hooks: optional ones, whose failure is nobody else's ---

_OPTIONAL: Final = {"optional": True}


@_hook(start="none", options=_OPTIONAL)
async def optional_fails_at_start(me: Actor) -> AsyncIterator[None]:
    raise Boom(me.name)
    yield  # pragma: no cover - it makes a generator of it


@_hook(start="none", options={**_OPTIONAL, "timeout": 0.25})
async def optional_hangs_at_start(me: Actor) -> AsyncIterator[None]:
    await anyio.sleep_forever()
    yield  # pragma: no cover - it makes a generator of it


@_hook(serving="in vain", notes="+", options=_OPTIONAL)
async def optional_crashes(me: Actor) -> AsyncIterator[None]:
    async def breaks() -> None:
        await me.demand.wait()
        raise Boom(me.name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaks)
        me.note("+")
        yield
        tasks.cancel_scope.cancel()


@_hook(options=_OPTIONAL)
async def optional_fails_at_stop(me: Actor) -> AsyncIterator[None]:
    me.note("+")
    with me.noting_the_stop():
        yield
    raise Boom(me.name)


# --- hooks: workers ---


@_hook(is_worker=True)
async def worker_that_is_cancelled(me: Actor) -> None:
    me.note("+")
    with me.noting_the_stop():
        await anyio.sleep_forever()


@_hook(notes="+", is_worker=True, options={"restart": True})
async def worker_that_is_restarted(me: Actor) -> None:
    if not me.has_started:
        me.note("+")
        await me.demand.wait()
        raise Boom("before the restart")
    await anyio.sleep_forever()


@_hook(serving="Boom", notes="+", is_worker=True, options={"restart": 1})
async def worker_that_crashes_after_its_restart(me: Actor) -> None:
    is_first = not me.has_started
    if is_first:
        me.note("+")
    await me.demand.wait()
    raise Boom("before the restart" if is_first else me.name)


@_hook(serving="Boom", notes="+", is_worker=True)
async def worker_that_crashes(me: Actor) -> None:
    me.note("+")
    await me.demand.wait()
    raise Boom(me.name)
