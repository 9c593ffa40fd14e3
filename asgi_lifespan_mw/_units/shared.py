"""`Shared`: what the units of one run share, and the task that drives them."""

import math
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, final

import anyio

from .backend import current_asyncio_task, running_clock, wait_until, was_uncancelled
from .failure import Failure

if TYPE_CHECKING:
    import asyncio

CLEAN_UP_LIMIT = 10.0
"""Seconds for the clean-up after a cancellation, or for the stop after one by the server, if no limit is set."""


@final
class Shared:
    """The context variables, time limits and failures that the units of one run share.

    Attributes:
        context: The context variables that the next unit begins with.
        failures: The failures of the units, in the order in which they happened.
        is_answered: Whether the startup was answered, so that the failure of a unit that starts later is a crash.
        is_stopping: Whether the stop has begun.
        deadline: The time by `now` at which the current phase times out as a whole; infinity for no limit.
        seconds: The limit that led to `deadline`; infinity for no limit.
        enclosing: The unit of another run in whose body these units live; None if there is none.
        on_change: Called with a unit that changed its state or failed; None if nobody wants to know.
        on_crash: Called with a unit that failed between its start and its stop, and with an optional one that failed.
        now: Returns the time of the event loop's clock, also where no task runs.
        new_event: Makes an event.
        new_scope: Makes a cancel scope.
    """

    def __init__(self, on_crash: Callable[[Any], None], on_change: Callable[[Any], None] | None = None) -> None:
        """Begin without units; needs a running event loop."""
        self.context = copy_context()
        self.failures: list[Failure] = []
        self.is_answered = False
        self.is_stopping = False
        self.deadline = self.seconds = math.inf
        self.enclosing: Any = None
        self.on_change = on_change
        self.on_crash = on_crash
        self.now = running_clock()
        self.new_event: Callable[[], anyio.Event] = type(anyio.Event())  # `anyio.Event` looks for the loop at each call
        self.new_scope: Callable[[], anyio.CancelScope] = type(anyio.CancelScope())
        self._waiting: list[anyio.Event] = []
        self._owner_task: asyncio.Task[object] | None = None
        self._before = 0

    def set_deadline(self, seconds: float | None) -> None:
        """Limit the time for all that follows, counted from now; None for no limit."""
        self.seconds = math.inf if seconds is None else seconds
        self.deadline = self.now() + self.seconds

    def is_time_up(self) -> bool:
        """Return whether the limit for the whole phase has run out."""
        return self.deadline < math.inf and self.deadline <= self.now()

    def clean_up_deadline(self, timeout: float | None) -> float:
        """Return when the clean-up of a unit that is cancelled now has to be done; `timeout` is its own limit."""
        now = self.now()
        whole = self.deadline if self.is_stopping else math.inf
        deadline = whole if timeout is None else min(whole, now + timeout)
        return now + CLEAN_UP_LIMIT if deadline == math.inf else deadline

    def wake(self) -> None:
        """Wake every task that waits for a change."""
        for event in self._waiting:
            event.set()

    async def next_change(self, until: float = math.inf) -> None:
        """Wait until a unit changes, or until the time `until`."""
        event = self.new_event()
        self._waiting.append(event)
        try:
            await wait_until(event, until)
        finally:
            self._waiting.remove(event)

    def adopt_owner(self) -> None:
        """Make the running task the owner, which drives the units. Cancellations that it caught do not count."""
        task = current_asyncio_task()
        if task is not self._owner_task:
            self._owner_task = task
            self._before = 0 if task is None else task.cancelling()

    def is_owner_cancelled(self) -> bool:
        """Return whether the owner is being cancelled, so that it is about to stop the units. Never true on trio."""
        owner = self._owner_task
        # A LifespanMiddleware inside a mounted app: its owner is a unit of the outer run, which undid its cancellation.
        return owner is not None and not owner.done() and (owner.cancelling() > self._before or was_uncancelled(owner))

    def when_owner_is_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the owner has finished, after which nobody stops the units."""
        assert self._owner_task is not None, "a unit calls this only if its owner was cancelled, on asyncio"
        self._owner_task.add_done_callback(lambda _: callback())
