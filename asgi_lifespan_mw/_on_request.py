"""Starts that a request triggers, for servers that send no lifespan.

A start plays the server's side of a lifespan, in a task of its own: so it is a run as any other, with another trigger.
"""

from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, final
from weakref import WeakKeyDictionary

import anyio

from ._exceptions import StartupFailed
from ._types import Receive, Scope, Send
from ._units.backend import current_loop, is_cancellation, is_loop_closed, is_loop_gone, spawn

_own_start: "ContextVar[Start | None]" = ContextVar("asgi_lifespan_mw_own_start", default=None)
"""The start in whose hooks and apps the code runs."""


@final
class Starts:
    """The starts of one app, one in each event loop."""

    def __init__(self, lifespan: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        """Keep what runs a lifespan. Hooks see the context variables of now, not those of the first request."""
        self._lifespan = lifespan
        self._context = copy_context()
        # None if the server sent a lifespan, whose shutdown stops everything.
        self._in_loop: WeakKeyDictionary[Any, Start | None] = WeakKeyDictionary()

    def is_pending(self) -> bool:
        """Return whether a request has to wait for a start, or to begin one."""
        loop = current_loop()
        if loop is None or loop not in self._in_loop:
            return True
        start = self._in_loop[loop]
        # A hook may send a request to its own app, which must not wait for the hook.
        return start is not None and not start.is_serving and _own_start.get() is not start

    async def started(self) -> None:
        """Start everything if that was not begun, and wait until it has started. A stop that is going on comes first.

        Raises:
            BaseException: What failed. The next call tries again.

        *Cancellation:* The start goes on, for others.
        """
        loop = current_loop()
        await self._wait_for_stop(loop)
        if loop not in self._in_loop:
            for other in list(self._in_loop):
                if is_loop_closed(other):  # without a stop: its start would keep it in memory
                    del self._in_loop[other]
            self._in_loop[loop] = Start(self._lifespan, self._context.copy(), lambda start: self._forget(loop, start))
        start = self._in_loop[loop]
        if start is not None:
            await start.started()

    async def stop(self) -> None:
        """Stop what a request started in this event loop, and wait for that.

        Raises:
            BaseException: What failed.
        """
        start = self._in_loop.get(current_loop())
        if start is not None:
            await start.stop()

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a lifespan of the server. If requests came before, it starts nothing twice."""
        loop = current_loop()
        await self._wait_for_stop(loop)
        start = self._in_loop.setdefault(loop, None)
        if start is None:
            await self._lifespan(scope, receive, send)
            return
        await receive()
        await start.wait_for_answer()
        self._in_loop[loop] = None
        await start.answer(scope, receive, send)

    async def _wait_for_stop(self, loop: object) -> None:
        while (start := self._in_loop.get(loop)) is not None and start.is_stopping:
            await start.wait_until_over()

    def _forget(self, loop: object, start: "Start") -> None:
        if self._in_loop.get(loop) is start:  # a lifespan that came later has taken it over
            del self._in_loop[loop]


@final
class Start:
    """One start, from the request that triggers it to its stop."""

    def __init__(
        self,
        lifespan: Callable[[Scope, Receive, Send], Awaitable[None]],
        context: Context,
        when_over: Callable[["Start"], object],
    ) -> None:
        self._lifespan = lifespan
        self._when_over = when_over
        self._scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self._messages = [{"type": "lifespan.startup"}]
        self._answer: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._answered = anyio.Event()
        self._stop = anyio.Event()
        self._over = anyio.Event()
        context.run(_own_start.set, self)
        self._task = spawn(self._live, "start on request", context)

    @property
    def is_serving(self) -> bool:
        """Whether the start has ended, well or badly, and no stop has begun."""
        return self._answered.is_set() and not self.is_stopping

    @property
    def is_stopping(self) -> bool:
        """Whether the stop has begun."""
        return self._stop.is_set()

    async def wait_for_answer(self) -> None:
        """Wait until everything has started, or has failed to."""
        await self._answered.wait()

    async def wait_until_over(self) -> None:
        """Wait until everything has stopped."""
        await self._over.wait()

    async def started(self) -> None:
        """Wait until everything has started.

        Raises:
            BaseException: What failed.
        """
        await self._answered.wait()
        if self._answer["type"] == "lifespan.startup.failed":
            await self._raise_error()

    async def stop(self) -> None:
        """Stop everything, and wait for that.

        Raises:
            BaseException: What failed.
        """
        self._stop.set()
        await self._raise_error()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the startup that a server sends after the start, and stop everything at its shutdown.

        Raises:
            BaseException: What failed, after the server was answered.

        *Cancellation:* Everything is stopped, shielded.
        """
        scope.get("state", {}).update(self._scope["state"])
        await send(self._answer)
        if self._answer["type"] == "lifespan.startup.complete":
            try:
                await receive()
            finally:
                self._stop.set()
                with anyio.CancelScope(shield=True):
                    await self._over.wait()
            await send(self._answer)
        await self._raise_error()

    async def _raise_error(self) -> None:
        """Wait for the end, and raise what failed."""
        await self._over.wait()
        if self._error is not None:
            raise self._error

    async def _live(self) -> None:
        try:
            await self._lifespan(self._scope, self._receive, self._send)
        except BaseException as error:
            if is_loop_gone():  # pragma: no cover - the garbage collector closes the coroutine, if it comes to that
                raise
            self._error = error
        if not self._answer and is_cancellation(self._error):
            self._error = StartupFailed("start on request", "it was cancelled")
            await self._send({"type": "lifespan.startup.failed"})
        elif not self._answer:  # the app does not support the lifespan protocol, and there is nothing else to start
            self._error = None
            await self._send({"type": "lifespan.startup.complete"})
            await self._receive()
        self._when_over(self)
        self._over.set()

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        self._answer = message
        self._answered.set()
