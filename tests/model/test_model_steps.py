"""The whole middleware, one step at a time: at each, somebody starts, breaks, stops, or runs out of time.

The machine of Hypothesis chooses what happens next, while the middleware waits; a model tells what must come of it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import anyio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from starlette.routing import Mount, Router

from asgi_lifespan_mw import LifespanMiddleware
from asgi_lifespan_mw._types import Receive, Scope, Send
from tests.clock import JumpingLoop
from tests.model.behaviours import Boom
from tests.model.world import LIMIT, described
from tests.server import RecordingServer


class Told:
    """A unit that starts, stops and breaks when it is told to."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name = name
        self.breaks = anyio.Event()
        self._journal = journal
        self._word: asyncio.Future[str] | None = None

    def tell(self, word: str) -> None:
        """Say ``"go"`` or ``"fail"`` to a unit that is at work."""
        assert self._word is not None, f"{self.name} is at work"
        self._word.set_result(word)

    async def does_as_told(self) -> None:
        """Wait for the word."""
        self._word = asyncio.get_running_loop().create_future()
        if await self._word == "fail":
            raise Boom(self.name)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Start, wait, stop: as a context, and around the waiting of an app."""
        await self.does_as_told()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._breaks)
            self._journal.append(f"+{self.name}")
            try:
                yield
            finally:
                self._journal.append(f"-{self.name}")
            await self.does_as_told()
            tasks.cancel_scope.cancel()

    async def _breaks(self) -> None:
        await self.breaks.wait()
        raise Boom(self.name)


class Container(Router):
    """An app that does as it is told, with apps mounted in it."""

    def __init__(self, told: Told, mounts: list[Told]) -> None:
        super().__init__(routes=[Mount(f"/{mount.name}", app=Container(mount, [])) for mount in mounts])
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Live through a lifespan."""
        await receive()
        async with self._told():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


class Steps(RuleBasedStateMachine):
    """The middleware under a server, and beside it the model.

    Attributes:
        phase: The model's; ``"unwinding"`` after a failed startup, ``"abandoning"`` after a cancellation.
        waiting: The units that have yet to start.
        up: The units that have started, and are to be stopped; the last one first.
        at_work: The unit that starts or stops.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        self.phase = "over"
        self.at_work: Told | None = None
        self.up: list[Told] = []
        self.task: asyncio.Task[None] | None = None

    @precondition(lambda self: self.phase == "over")
    @rule(hooks=st.integers(0, 4), mounts=st.integers(0, 4))
    def serve(self, hooks: int, mounts: int) -> None:
        """A server starts an app with so many hooks and mounts."""
        self.phase = "starting"
        self.journal: list[str] = []
        self.answers: list[str] = []
        self.errors: list[str] = []
        self.is_cancelled = False
        self.up = []
        self.seen: list[str] = []
        of_hooks, (app,), of_mounts = self._made("hook", hooks), self._made("app", 1), self._made("mount", mounts)
        self.waiting = [*of_hooks, app, *of_mounts]
        self.server = RecordingServer(holds_on=True)
        wrapped = LifespanMiddleware(Container(app, of_mounts), startup_timeout=LIMIT, shutdown_timeout=LIMIT)
        for hook in of_hooks:
            wrapped.context(hook.__call__, name=hook.name)
        self.task = self.loop.create_task(self.server.run(wrapped))
        self._wait()
        self._start_next()

    def _made(self, kind: str, number: int) -> list[Told]:
        return [Told(f"{kind}{count}", self.seen) for count in range(1, number + 1)]

    def _wait(self, seconds: float = 0) -> None:
        """Let the middleware go on until it waits for a word, and so long."""
        self.loop.run_until_complete(asyncio.sleep(0.001 + seconds))

    # What happens.

    @precondition(lambda self: self.at_work is not None)
    @rule(word=st.sampled_from(["go", "go", "go", "fail"]))
    def tell(self, word: str) -> None:
        """The unit at work does its work, or fails at it."""
        assert self.at_work is not None
        unit, self.at_work = self.at_work, None
        unit.tell(word)
        self._wait()
        if word == "fail":
            self.errors.append(f"Boom {unit.name}")
        if self.phase != "starting":
            self._stop_next()
        elif word == "fail":
            self._stop("unwinding")
        else:
            self.journal.append(f"+{unit.name}")
            self.up.append(unit)
            self._start_next()

    @precondition(lambda self: self.up)
    @rule(data=st.data())
    def breaks(self, data: st.DataObject) -> None:
        """A unit breaks that has started and is not yet to stop."""
        unit = data.draw(st.sampled_from(self.up))
        unit.breaks.set()
        self._wait()
        if self.is_cancelled:
            return  # the cancellation in its task group looks like the server's, after which a unit waits for its turn
        self.up.remove(unit)
        self.journal.append(f"-{unit.name}")
        self.errors.append(f"Boom {unit.name}")
        if self.phase == "starting":
            self._stop("unwinding")

    @precondition(lambda self: self.phase == "serving")
    @rule()
    def server_stops(self) -> None:
        """The server asks for the shutdown."""
        self.server.may_stop.set()
        self._wait()
        self._stop("stopping")

    @precondition(lambda self: self.phase != "over")
    @rule()
    def server_cancels(self) -> None:
        """The server cancels the lifespan's task; it may do so again."""
        assert self.task is not None
        self.task.cancel()
        self._wait()
        self.is_cancelled = True
        if self.phase in ("starting", "serving"):
            self._stop("abandoning")

    @precondition(lambda self: self.phase != "over")
    @rule()
    def time_runs_out(self) -> None:
        """So much time passes that the startup or the shutdown may take no more."""
        self._wait(LIMIT)
        if self.phase == "starting":
            assert self.at_work is not None
            self.errors.append(f"LifespanTimeout {self.at_work.name}")
            self._stop("unwinding")
        elif self.phase != "serving":
            while self.at_work is not None:
                self.errors.append(f"LifespanTimeout {self.at_work.name}")
                self._stop_next()

    # What the model makes of it.

    def _start_next(self) -> None:
        if self.waiting:
            self.at_work = self.waiting.pop(0)
        else:
            self.phase = "serving"
            self.answers.append("startup.complete")

    def _stop(self, phase: str) -> None:
        """What started is stopped in reverse."""
        self.phase = phase
        self._stop_next()

    def _stop_next(self) -> None:
        self.at_work = None
        while self.up:
            unit = self.up.pop()
            self.journal.append(f"-{unit.name}")
            if not unit.breaks.is_set():
                self.at_work = unit
                return
        if not self.is_cancelled and self.phase == "unwinding":
            self.answers.append("startup.failed")
        elif not self.is_cancelled and self.phase == "stopping":
            self.answers.append("shutdown.failed" if self.errors else "shutdown.complete")
        self.phase = "over"

    # What must be so after every step.

    @precondition(lambda self: self.task is not None)
    @invariant()
    def all_is_as_in_the_model(self) -> None:
        """What started and stopped, in which order, what the server was told, what was raised, what is left."""
        assert self.task is not None
        assert self.seen == self.journal
        assert self.server.answers == self.answers
        assert self.task.done() == (self.phase == "over")
        if self.phase == "over":
            assert _errors_of(self.task) == (["CancelledError"] if self.is_cancelled else self.errors)
            assert asyncio.all_tasks(self.loop) == set()

    def teardown(self) -> None:
        """Come to the end."""
        with closing(self.loop):
            while self.phase != "over":
                if self.phase == "serving":
                    self.server_stops()
                else:
                    self.tell("go")
            if self.task is not None:
                self.all_is_as_in_the_model()


def _errors_of(task: "asyncio.Task[None]") -> list[str]:
    if task.cancelled():
        return ["CancelledError"]
    error = task.exception()
    return [] if error is None else described(error)


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
