"""Starts that a request triggers, for servers that send no lifespan.

A start is a run as any other, in a task of its own. An event stands for the server's shutdown.
"""

import functools
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeAlias, final
from weakref import WeakKeyDictionary

import anyio

from ._exceptions import ShutdownFailed, StartupFailed
from ._run.run import Run
from ._types import Scope
from ._units.backend import current_loop, is_cancellation, is_loop_closed, is_loop_gone, spawn
from ._units.failure import text_of

_own_start: "ContextVar[StartOnRequest | None]" = ContextVar("asgi_lifespan_mw_own_start", default=None)
"""The start in whose hooks and apps the code runs."""

Step: TypeAlias = Callable[[], Awaitable[Any]]
Serve: TypeAlias = Callable[[Run, Scope, Step, Step], Awaitable[None]]
"""Starts a run, calls the first step to answer, waits for the second one, and stops the run."""

_WHO = "start on request"


@final
class StartsOnRequest:
    """The starts of one app, one in each event loop."""

    def __init__(self, prepare: Callable[[Scope], Run], serve: Serve) -> None:
        """Keep what makes a run, and what serves it.

        Hooks see the context variables of now, not those of the first request.
        """
        self._prepare = prepare
        self._serve = serve
        self._context = copy_context()
        # None if the server sent a lifespan, whose shutdown stops everything.
        self._in_loop: WeakKeyDictionary[Any, StartOnRequest | None] = WeakKeyDictionary()
        # The start that was asked for last, with its event loop: most programs have one.
        self._last: tuple[object, StartOnRequest | None] = None, None

    def is_pending(self) -> bool:
        """Return whether a request has to wait for a start, or to begin one."""
        loop = current_loop()
        last, start = self._last
        if last is not loop or loop is None:
            if loop is None or loop not in self._in_loop:
                return True
            start = self._in_loop[loop]
            self._last = loop, start
        # A hook may send a request to its own app, which must not wait for the hook.
        return start is not None and not start.is_serving and _own_start.get() is not start

    async def started(self) -> None:
        """Start everything if that was not begun, and wait until it has started. A stop that is going on comes first.

        Raises:
            BaseException: What failed, in the request that began the start. The next request tries again.
            StartupFailed: What failed, in the requests that waited: an exception each, since one that is shared grows a
                traceback with each request.

        *Cancellation:* The start goes on, for others.
        """
        loop = current_loop()
        await self._wait_for_stop(loop)
        is_first = loop not in self._in_loop
        if is_first:
            for other in list(self._in_loop):
                if is_loop_closed(other):  # without a stop: its start would keep it in memory
                    del self._in_loop[other]
            when_over = functools.partial(self._forget, loop)
            self._set(loop, StartOnRequest(self._prepare, self._serve, self._context.copy(), when_over))
        start = self._in_loop[loop]
        if start is None:
            return
        error = await start.failed_start()
        if error is not None:
            if is_first:
                raise error
            raise StartupFailed(_WHO, text_of(error)) from error

    async def stop(self) -> None:
        """Stop what a request started in this event loop, and wait for that.

        Raises:
            RuntimeError: If code of the start itself calls it.
            BaseException: What failed.
        """
        start = self._in_loop.get(current_loop())
        if start is None:
            return
        if _own_start.get() is start:
            raise RuntimeError(
                "stop() was called by a hook or an app that it would stop, and would wait for itself; call it from "
                "outside of the lifespan"
            )
        await start.stop()

    async def take_over(self) -> "StartOnRequest | None":
        """Return the start that requests began before the server sent a lifespan; None if there is none.

        From now on, the lifespan of the server stops everything.
        """
        loop = current_loop()
        await self._wait_for_stop(loop)
        start = self._in_loop.get(loop)
        self._set(loop, None)
        return start

    def release(self) -> None:
        """Let the next request start anew, because the lifespan of the server failed."""
        del self._in_loop[current_loop()]
        self._last = None, None

    async def _wait_for_stop(self, loop: object) -> None:
        while (start := self._in_loop.get(loop)) is not None and start.stopping.is_set():
            await start.over.wait()

    def _set(self, loop: object, start: "StartOnRequest | None") -> None:
        self._in_loop[loop] = start
        self._last = None, None

    def _forget(self, loop: object, start: "StartOnRequest") -> None:
        if self._in_loop.get(loop) is start:  # a lifespan that came later has taken it over
            del self._in_loop[loop]
            self._last = None, None


@final
class StartOnRequest:
    """One start, from the request that triggers it to its stop.

    Attributes:
        run: What is started.
        is_serving: Whether the start has ended, well or badly, and no stop has begun.
        stopping: Set when the stop begins.
        over: Set when everything has stopped.
        error: What failed; None for nothing.
    """

    def __init__(
        self,
        prepare: Callable[[Scope], Run],
        serve: Serve,
        context: Context,
        when_over: Callable[["StartOnRequest"], object],
    ) -> None:
        self._scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        self.run = prepare(self._scope)
        self.is_serving = False
        self.error: BaseException | None = None
        self._serve = serve
        self._when_over = when_over
        self._answered = anyio.Event()
        self.stopping = anyio.Event()
        self.over = anyio.Event()
        self._has_started = False
        context.run(_own_start.set, self)
        self._task = spawn(self._live, _WHO, context)

    async def failed_start(self) -> BaseException | None:
        """Wait until everything has started, and return what failed instead."""
        await self._answered.wait()
        if self._has_started:
            return None
        await self.over.wait()
        return self.error

    async def stop(self) -> None:
        """Stop everything, and wait for that.

        Raises:
            BaseException: What failed.
        """
        self.is_serving = False
        self.stopping.set()
        await self.over.wait()
        if self.error is not None:
            raise self.error

    async def serve(self, _: Run, scope: Scope, answer: Step, shutdown: Step) -> None:
        """Answer a lifespan that the server sends after the start, and stop everything at its shutdown.

        Raises:
            BaseException: What failed.

        *Cancellation:* Everything is stopped, shielded.
        """
        if (error := await self.failed_start()) is not None:
            raise error
        scope.get("state", {}).update(self.run.state)
        try:
            await answer()
            await shutdown()
        finally:
            self.stopping.set()
            with anyio.CancelScope(shield=True):
                await self.over.wait()
        if self.error is not None:
            raise self.error

    async def _live(self) -> None:
        try:
            await self._serve(self.run, self._scope, self._answer, self._until_stop)
        except BaseException as error:
            if is_loop_gone():  # pragma: no cover - the garbage collector closes the coroutine, if it comes to that
                raise
            self.error = self._cancelled() if is_cancellation(error) else error
        self.is_serving = False
        self._answered.set()
        self._when_over(self)
        self.over.set()

    async def _until_stop(self) -> None:
        try:
            await self.stopping.wait()
        finally:  # a plain Task.cancel(): a lifespan that arrives during the stop waits for its end, and starts anew
            self.is_serving = False
            self.stopping.set()

    async def _answer(self) -> None:
        self._has_started = self.is_serving = True
        self._answered.set()

    def _cancelled(self) -> BaseException:
        """Return an error in place of the cancellation of this start, which is not one of those who wait for it."""
        failed, phase = (ShutdownFailed, "shutdown") if self._has_started else (StartupFailed, "startup")
        self.run.failed_phase, self.run.error = phase, failed(_WHO, "it was cancelled")
        return self.run.error
