"""`Cancellable`: a body that this package cancels once, so that its clean-up may await.

User code is written for asyncio, where ``Task.cancel()`` cancels one await. A cancel scope of anyio or trio cancels
each await of its block until the block is left, so that ``finally: await consumer.stop()`` is cut off at its first
await. It cancels the children of a task group as well, and the group then cancels the clean-up of its host.

Rule 1: A cancellation ends one wait of the body's own task. On asyncio, it is a ``Task.cancel()``. On trio, each wait
has a scope of its own, which is cancelled.

Rule 2: A wait that the body shields is not cancelled. Neither is one while a scope of the body's own is cancelled, such
as ``move_on_after(1)``, which has to see its own cancellation alone. The next wait after it is cancelled instead.

Rule 3: A wait that is over is not cancelled. A body that is ready to run in the moment of the request goes on to its
next wait: the message that it has received is not lost.

Rule 4: A scope that was open at the delivery and is cancelled later has to let the cancellation pass, such as the scope
of a task group, or of a time limit that runs out in the clean-up. Asyncio counts the calls of ``Task.cancel()``, and
anyio looks at the count. Old versions of anyio do not, and neither does trio. There, an *outer* scope around the body
is cancelled, behind the shield of an *inner* one, which is down while the body leaves such a scope.

Rule 5: Much of trio looks for a cancellation and does not wait if it sees none, such as a channel that is never empty.
The shield is down for it after a wait that could not be cancelled.
"""

from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, final

import anyio

from .._types import is_a
from .backend import asyncios_cancellation, current_asyncio_task, current_trio_task, open_scopes


@final
class Cancellable:
    """Runs one coroutine in the current task, and cancels it once.

    Attributes:
        is_cancelled: Whether the cancellation was requested.
        is_cancelled_for_good: Whether each wait is cancelled, because the time for the clean-up is up.
    """

    def __init__(self, new_scope: Callable[[], anyio.CancelScope] = anyio.CancelScope) -> None:
        """Prepare to run a coroutine; needs a running event loop.

        Args:
            new_scope: Makes a cancel scope. `anyio.CancelScope` looks for the event loop at each call.
        """
        self.is_cancelled = False
        self.is_cancelled_for_good = False
        self._outer = new_scope()
        self._inner = new_scope()
        self._is_delivered = False
        self._is_replaced = False  # whether a scope of the body's own has cancelled its clean-up
        self._is_tried = False  # whether the current wait is to be cancelled, from its beginning
        self._is_shown = False  # whether the body sees the cancellation while it does not wait, by rule 5
        self._open: list[Any] = []  # the scopes of the body that were open at the delivery
        self._wait: Any = None  # what the body waits for: on asyncio a future, on trio a scope; None while it runs
        self._on_asyncio = False
        self._is_old = not hasattr(self._inner, "_cancelling_at_enter")
        self._task: Any = None
        self._body: Coroutine[Any, Any, None] | None = None

    async def run(self, body: Coroutine[Any, Any, None]) -> None:
        """Run `body` in the current task, which `spawn` made. A cancellation that was requested here ends it quietly.

        Raises:
            BaseException: What the body raised.
        """
        self._body = body
        asyncio_task = current_asyncio_task()
        self._on_asyncio = asyncio_task is not None
        self._task = asyncio_task or current_trio_task()
        before = asyncio_task.cancelling() if asyncio_task else 0
        try:
            with self._outer, self._inner:
                self._around = len(open_scopes(self._task))
                await self._drive(body)  # type: ignore[misc]  # mypy does not know `types.coroutine`
        except asyncios_cancellation():
            if not (self._on_asyncio and self._is_delivered) or self._task.cancelling() > before + 1:
                raise
        finally:
            if self._on_asyncio and self._is_delivered:
                self._task.uncancel()

    def cancel(self) -> None:
        """Cancel the body at its next wait that it does not shield; its waits after that one are not cancelled."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self._wait is not None and self._is_reachable():
                self._cancel_wait()

    def cancel_for_good(self) -> None:
        """Cancel each wait of the body from now on, because the time for its clean-up is up.

        A `Cancellable` in the body shields its own clean-up, and has to be cancelled for good as well.
        """
        self.is_cancelled_for_good = self.is_cancelled = True
        self._inner.shield = False
        self._outer.cancel()

    def take_as_delivered(self) -> None:
        """Note that a plain ``Task.cancel()`` by the server has cancelled the body, so that its clean-up is spared."""
        self.is_cancelled = self._is_delivered = True

    def get_coro(self) -> Coroutine[Any, Any, None] | None:
        """Return the coroutine; None before it runs."""
        return self._body

    @coroutine
    def _drive(self, body: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        """Pass what the event loop sends and throws on to the body, and what the body waits for to the event loop."""
        resume: Any = body.send
        value: Any = None
        try:
            while True:
                try:
                    waited_for = resume(value)
                except StopIteration:
                    return
                self._begin_wait(waited_for)
                try:
                    value, resume = (yield waited_for), body.send
                    # Trio throws nothing: it sends an outcome, and the body raises what is in there.
                    error = getattr(value, "error", None)
                except BaseException as raised:
                    value = error = raised
                    resume = body.throw
                self._end_wait(error)
        finally:
            self._inner.shield = False

    def _begin_wait(self, waited_for: object) -> None:
        """Prepare a wait of the body, and cancel it if the cancellation is still to be delivered."""
        if self._on_asyncio:
            self._wait = self if waited_for is None else waited_for
        else:
            # A checkpoint of trio that sees the cancellation raises it by waiting in a cancelled scope of its own.
            self._is_shown = self._is_shown and any(scope.cancel_called for scope in self._own_scopes())
            self._wait = self if self._is_leaving_a_group() else type(self._inner)()
            if self._wait is not self:
                self._wait.__enter__()
        if not self.is_cancelled:
            return
        if self._outer.cancel_called and not self.is_cancelled_for_good:
            self._inner.shield = not self._is_shown
        self._is_tried = self._is_pending() and self._is_reachable()
        if self._is_tried:
            self._cancel_wait()

    def _cancel_wait(self) -> None:
        if not self._on_asyncio and self._wait is not self:
            self._wait.cancel()
        elif not self._on_asyncio:
            # A nursery that is being left waits for its children, and raises their cancellation.
            self._is_shown = True
            self._show(is_visible=True)
        elif self._wait is self or not self._wait.done():
            self._mark_delivered()
            self._task.cancel()

    def _end_wait(self, error: BaseException | None) -> None:
        """Show the body, until it waits again, what its scopes have to see."""
        wait, self._wait = self._wait, None
        if not self._on_asyncio:
            if wait is not self:
                wait.__exit__(None, None, None)
            if self._is_pending():
                is_passed_on = self._is_shown and any(scope.cancel_called for scope in self._own_scopes())
                is_raised = is_a(error, anyio.get_cancelled_exc_class())
                # Without a cancelled scope, the exception is of this body's cancellation, or of one around it.
                if is_passed_on or (is_raised and (wait is self or wait.cancel_called or self._is_reachable())):
                    self._mark_delivered()
                self._is_shown = self._is_tried and not self._is_delivered
                if self._is_shown or self._is_delivered:
                    self._show(is_visible=self._is_shown)
        if self._is_delivered and not self.is_cancelled_for_good:
            self._is_replaced |= not self._on_asyncio or (self._is_old and "cancel scope" in str(error))
            if self._is_replaced:
                self._show(is_visible=any(s.cancel_called for s in self._own_scopes() if s in self._open))

    def _is_leaving_a_group(self) -> bool:
        """Return whether a task group of trio is being left, for which no scope of ours may be open.

        ``await nursery.start(serve)`` moves what is open in an inner nursery to the outer one.
        """
        return any(not getattr(one, "_nested_child_running", True) for one in self._task.child_nurseries[-1:])

    def _mark_delivered(self) -> None:
        self._is_delivered = True
        self._open = self._own_scopes()

    def _show(self, *, is_visible: bool) -> None:
        """Let the scopes of the body see a cancellation from outside, or hide it."""
        self._inner.shield = not is_visible
        self._outer.cancel()

    def _is_pending(self) -> bool:
        """Return whether the cancellation was requested, and is still to be delivered."""
        return self.is_cancelled and not self._is_delivered and not self.is_cancelled_for_good

    def _is_reachable(self) -> bool:
        """Return whether the body neither shields its wait nor has a cancelled scope of its own."""
        return not any(scope.shield or scope.cancel_called for scope in self._own_scopes())

    def _own_scopes(self) -> list[Any]:
        """Return the cancel scopes that the body has opened and not left, the innermost first."""
        scopes = open_scopes(self._task)
        return scopes[: len(scopes) - self._around]
