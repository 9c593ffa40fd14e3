"""`Cancellable`: a body that this package cancels once, so that its clean-up may await.

User code is written for asyncio, where ``Task.cancel()`` cancels one await. A cancel scope of anyio or trio cancels each
await of its block until the block is left, so that ``finally: await consumer.stop()`` is cut off at its first await.

Rule 1: A cancellation is requested by cancelling the *outer* of two scopes around the body. The event loop delivers it.

Rule 2: After the delivery, the *inner* scope is shielded, so that the outer one reaches the body no more.

Rule 3: The delivery is seen, not assumed. A body that is ready to run in the moment of the request has not been cancelled,
and neither has a body that waits in a shielded scope of its own: both are cancelled at a later wait. On asyncio, the
delivery is the outer scope's call of ``Task.cancel()``. It is made only while the task waits unshielded, and one call is
enough: ``await asyncio.gather(consume(), produce())`` passes each call on, and a second one would cut off their clean-up.
On trio, the delivery is the exception with which a wait ends.

Rule 4: A scope of the body's own may be cancelled as well, such as ``move_on_after(1)``. It has to see its own
cancellation alone: a scope lets every cancellation pass while it sees one from outside, and the body would be cancelled at
its clean-up again. So the shield is up until that scope was left, and the cancellation of this package comes afterwards.

Rule 5: A task group that was open at the delivery has to see the cancellation from outside when it is left: it cancels its
own scope then, and would swallow the cancellation otherwise. So the shield is down while such a group is left. Asyncio
counts the calls of ``Task.cancel()``, and anyio looks at the count, but for its old versions.
"""

import math
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, final

import anyio

from .._types import is_a
from .backend import current_asyncio_task, cancellation_watchers


@final
class Cancellable:
    """Runs one coroutine in the current task, and cancels it once.

    Attributes:
        is_cancelled: Whether the cancellation was requested.
        is_cancelled_for_good: Whether each wait is cancelled, because the time for the clean-up is up.
    """

    __slots__ = (
        "_body",
        "_cancelled",
        "_groups",
        "_has_arrived",
        "_inner",
        "_is_delivered",
        "_outer",
        "is_cancelled",
        "is_cancelled_for_good",
    )

    def __init__(self, new_scope: Callable[[], anyio.CancelScope] = anyio.CancelScope) -> None:
        """Prepare to run a coroutine; needs a running event loop.

        Args:
            new_scope: Makes a cancel scope. `anyio.CancelScope` looks for the event loop at each call.
        """
        self.is_cancelled = False
        self._outer = new_scope()
        self._inner = new_scope()
        self._is_delivered = False
        self._has_arrived = False
        self.is_cancelled_for_good = False
        self._groups: list[Any] = []
        self._body: Coroutine[Any, Any, None] | None = None

    async def run(self, body: Coroutine[Any, Any, None]) -> None:
        """Run `body` in the current task, which `spawn` made. A cancellation that was requested here ends it quietly.

        Raises:
            BaseException: What the body raised.
        """
        self._body = body
        self._cancelled = anyio.get_cancelled_exc_class()
        watchers = cancellation_watchers()
        watchers.append(self._requested)
        try:
            with self._outer, self._inner:
                await self._drive(body, is_on_trio=current_asyncio_task() is None)
        finally:
            watchers.remove(self._requested)

    def cancel(self) -> None:
        """Cancel the body at its next wait that it does not shield; its waits after that one are not cancelled."""
        self.is_cancelled = True
        self._outer.cancel()

    def cancel_for_good(self) -> None:
        """Cancel each wait of the body from now on, because the time for its clean-up is up."""
        self.is_cancelled_for_good = self.is_cancelled = True
        self._inner.shield = False
        self._outer.cancel()

    def take_as_delivered(self) -> None:
        """Note that a plain ``Task.cancel()`` by the server has cancelled the body, so that its clean-up is spared."""
        self.is_cancelled = self._is_delivered = True

    def get_coro(self) -> Coroutine[Any, Any, None] | None:
        """Return the coroutine; None before it runs."""
        return self._body

    def _requested(self, message: object) -> None:
        """See a call of `Task.cancel()`. Anyio puts the identity of the cancelled scope into the message."""
        if not self.is_cancelled_for_good and f"cancel scope {id(self._outer):x}" in str(message):
            self._is_delivered = self._inner.shield = True

    @coroutine
    def _drive(self, body: Coroutine[Any, Any, None], *, is_on_trio: bool) -> Generator[Any, Any, None]:
        """Pass what the event loop sends and throws on to the body, and what the body waits for to the event loop."""
        resume: Any = body.send
        value: Any = None
        is_reachable = False
        while True:
            try:
                waited_for = resume(value)
            except StopIteration:
                return
            is_passing = False
            if self.is_cancelled and not self.is_cancelled_for_good:
                # A checkpoint of trio raises by opening a cancelled scope, if it sees a cancellation before it waits.
                is_passing = is_on_trio and is_reachable and self._is_own_scope_cancelled()
                self._inner.shield = self._is_delivered or not (is_passing or self._is_cancelled_from_outside())
            try:
                value, resume = (yield waited_for), body.send
                # Trio throws nothing: it sends an outcome, and the body raises what is in there.
                error = getattr(value, "error", None)
            except BaseException as raised:
                value = error = raised
                resume = body.throw
            if self.is_cancelled and not self.is_cancelled_for_good:
                if is_on_trio and not self._is_delivered:
                    self._is_delivered = self._has_reached(error, is_passing=is_passing)
                is_reachable = self._is_visible(error)
                self._inner.shield = not is_reachable

    def _has_reached(self, error: BaseException | None, *, is_passing: bool) -> bool:
        """Return whether the cancellation has reached the body, on trio.

        Args:
            error: What ended the wait; None for nothing.
            is_passing: Whether the wait was that of a checkpoint which saw the cancellation.
        """
        if not self._inner.shield and any(group.cancel_called for group in self._open_groups()):
            # A group that is being left, or a child in it, was reached, so that the group raises the cancellation. The
            # wait of the body may end without an exception.
            self._has_arrived = True
            self._groups = self._open_groups()
            return True
        return is_a(error, self._cancelled) and (is_passing or not self._is_own_scope_cancelled())

    def _is_visible(self, error: BaseException | None) -> bool:
        """Return whether the scopes of the body are to see the cancellation until the body waits again."""
        if not self._is_delivered:
            return self._is_cancelled_from_outside()
        if not self._has_arrived and is_a(error, self._cancelled):
            self._has_arrived = True
            self._groups = self._open_groups()
            return True
        return any(group.cancel_called for group in self._open_groups() if group in self._groups)

    def _open_groups(self) -> list[Any]:
        """Return the scopes of the task groups that the running task has open; none where anyio needs no help."""
        if current_asyncio_task() is None:
            import trio

            return [nursery.cancel_scope for nursery in trio.lowlevel.current_task().child_nurseries]
        open_scopes: list[Any] = []
        if not hasattr(self._inner, "_cancelling_at_enter"):  # pragma: no cover - an old version of anyio
            todo: list[Any] = [*getattr(self._inner, "_child_scopes", ())]
            while todo:
                open_scopes.append(scope := todo.pop())
                todo += scope._child_scopes  # noqa: SLF001 - of versions that change no more
        return open_scopes

    def _is_cancelled_from_outside(self) -> bool:
        """Return whether the outer scope would cancel a wait, and no scope that the body has opened."""
        self._inner.shield = False
        return anyio.current_effective_deadline() == -math.inf and not self._is_own_scope_cancelled()

    def _is_own_scope_cancelled(self) -> bool:
        """Return whether a scope that the body has opened would cancel a wait."""
        self._inner.shield = True
        return anyio.current_effective_deadline() == -math.inf
