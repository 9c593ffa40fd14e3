"""Runs a plan: the middleware around real units that behave as planned, under a server that does."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import sniffio
import trio
from starlette.routing import Mount, Router

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.model.behaviours import FOREVER, Actor
from tests.model.plan import Part, Plan

LIMIT: Final = 60.0
"""Seconds for a startup, and for a shutdown: more than all units together may linger."""


class ServerBroke(Exception):
    """What a server's `send` raises."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        journal: The starts and stops, in order.
        answers: What the server was told.
        errors: What was raised, the cause first: the name of each error with whose it is.
        awaits: How often the middleware waited.
        last_began_at: In which of its waits the last app began; what comes before does not depend on its behaviour.
        answers_when_cancelled: How many answers had been given when the server cancelled; None if it did not.
        tasks_left: How many tasks are left over.
        is_shuffled: Whether the event loop runs tasks in a random order, as trio's does.
    """

    journal: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    awaits: int = 0
    last_began_at: int = 0
    answers_when_cancelled: int | None = None
    tasks_left: int = 0
    is_shuffled: bool = False


class Server:
    """A server that does what a plan says."""

    def __init__(self, does: str, demand: anyio.Event, outcome: Outcome) -> None:
        self.scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0"}}
        if does != "has_no_state":
            self.scope["state"] = {}
        self._does = does
        self._demand = demand
        self._outcome = outcome
        self._received = 0

    async def receive(self) -> dict[str, Any]:
        """Give the startup, then serve for two seconds, then give the shutdown."""
        self._received += 1
        if self._received == 1:
            return {"type": "lifespan.startup"}
        assert self._received == 2, "nothing comes after the shutdown"
        self._demand.set()
        await anyio.sleep(2)
        if self._does == "clears_state":
            self.scope["state"].clear()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: dict[str, Any]) -> None:
        """Note an answer."""
        answer = message["type"].removeprefix("lifespan.")
        self._outcome.answers.append(answer)
        if self._does == f"raises_from_send_at_{answer.split('.')[0]}":
            raise ServerBroke


class Watched:
    """An awaitable that counts its waits, and calls `cancel` at one of them."""

    def __init__(self, work: Awaitable[None], outcome: Outcome, cancel: Callable[[], object], at: int | None) -> None:
        self._work = work
        self._outcome = outcome
        self._cancel = cancel
        self._at = at

    def __await__(self) -> Generator[Any, Any, None]:
        steps: Any = self._work.__await__()
        go_on, value = steps.send, None
        while True:
            try:
                wait = go_on(value)
            except StopIteration:
                return
            if self._outcome.awaits == self._at:
                self._outcome.answers_when_cancelled = len(self._outcome.answers)
                self._cancel()
            self._outcome.awaits += 1
            try:
                go_on, value = steps.send, (yield wait)
            except BaseException as error:
                go_on, value = steps.throw, error


class Container(Router):
    """An app that behaves as planned, with at most one app mounted in it."""

    name: str

    def __init__(self, part: Part, actor: Actor, outcome: Outcome, inner: "Container | None") -> None:
        super().__init__(routes=[] if inner is None else [Mount(f"/{inner.name}", app=inner)])
        self.name = part.name
        self._run = part.behaviour.run
        self._actor = actor
        self._outcome = outcome

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Behave."""
        self._outcome.last_began_at = self._outcome.awaits - 1
        await self._run(self._actor, receive, send)


def build(plan: Plan, outcome: Outcome, demand: anyio.Event) -> LifespanMiddleware:
    """The middleware around the units of a plan."""
    actors = {part: Actor(part.name, outcome.journal, demand) for part in plan.parts}
    app: Container | None = None
    for part in reversed([part for part in plan.parts if part.kind in {"app", "mount"}]):
        app = Container(part, actors[part], outcome, app)
    hooks = [_hook(Lifespan(), part, actors[part]) for part in plan.parts if part.kind == "hook"]
    group = Lifespan(concurrent=True)
    for part in plan.parts:
        if part.kind == "member":
            _hook(group, part, actors[part])
    return LifespanMiddleware(app or _no_app, [*hooks, group], startup_timeout=LIMIT, shutdown_timeout=LIMIT)


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Do not support the lifespan."""


def _hook(hooks: Lifespan, part: Part, actor: Actor) -> Lifespan:
    """Register a hook, and return what it was registered on."""
    run = part.behaviour.run
    if inspect.iscoroutinefunction(run):
        register: Any = hooks.on_shutdown if part.behaviour.runs_at_stop else hooks.on_startup
        register = hooks.worker if part.behaviour.is_worker else register

        async def function() -> None:
            await run(actor)

        register(function, name=part.name, **part.behaviour.options)
    else:
        hooks.context(lambda: asynccontextmanager(run)(actor), name=part.name, **part.behaviour.options)
    return hooks


async def perform(plan: Plan) -> Outcome:
    """Run a plan, and wait until what was left behind has ended."""
    outcome, demand = Outcome(), anyio.Event()
    server = Server(plan.server, demand, outcome)
    work = build(plan, outcome, demand)(server.scope, server.receive, server.send)
    outcome.is_shuffled = sniffio.current_async_library() == "trio"
    serve = _serve_on_trio if outcome.is_shuffled else _serve_on_asyncio
    before = _living_tasks()
    with anyio.fail_after(10 * FOREVER):
        try:
            await serve(work, outcome, plan.cancels_at)
        except BaseException as error:
            outcome.errors = described(error)
        if any(part.behaviour.lingers for part in plan.parts):
            await anyio.sleep(FOREVER)
    for _ in range(3):  # whoever waited for the end of a unit that crashed has steps left
        await anyio.lowlevel.checkpoint()
    outcome.tasks_left = _living_tasks() - before
    return outcome


async def _serve_on_asyncio(work: Awaitable[None], outcome: Outcome, at: int | None) -> None:
    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        await Watched(work, outcome, task.cancel, at)

    task = asyncio.create_task(serve())
    await asyncio.wait([task])
    task.result()


async def _serve_on_trio(work: Awaitable[None], outcome: Outcome, at: int | None) -> None:
    with anyio.CancelScope() as scope:
        await Watched(work, outcome, scope.cancel, at)
    if scope.cancelled_caught:
        raise asyncio.CancelledError


def _living_tasks() -> int:
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def described(error: BaseException) -> list[str]:
    """The errors that came out, the cause first: the name of each, with whose it is."""
    if isinstance(error, BaseExceptionGroup) and error.message.endswith("the cause first"):
        return [text for one in error.exceptions for text in described(one)]
    while isinstance(error, BaseExceptionGroup):  # of a task group in the unit
        (error,) = error.exceptions
    whose = getattr(error, "unit", None) or getattr(error, "source", None) or str(error)
    return [f"{type(error).__name__} {_short(whose)}".strip()]


def _short(name: str) -> str:
    """What a plan calls a unit: ``hook 'hook1' (file:12)``, ``mount '/mount1/mount2'``, ``app Container``."""
    mount_or_hook = re.search(r"'.*?(\w+)'", name)
    return mount_or_hook[1] if mount_or_hook else name.replace("app Container", "app1")
