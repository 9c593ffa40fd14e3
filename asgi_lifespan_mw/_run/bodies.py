"""The coroutines that the kinds of hooks run in the tasks of their units."""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any, final

from .._hooks.hook import Hook, HookKind
from .._types import State
from .._units.backend import checkpoint
from .._units.locking import Lock, lead, under_lock
from .._units.unit import Unit
from .repeating import repeating, restarting


def body_of(
    hook: Hook, application: Callable[[], object], add_late_state: Callable[[Unit, State], bool]
) -> Callable[[Unit], Coroutine[Any, Any, None]]:
    """Return the body of a hook's unit.

    Args:
        hook: The hook.
        application: Returns the app that the hook is given.
        add_late_state: Gives the state of a background hook to the requests that begin later; returns whether that was
            possible. If not, the unit has failed.
    """

    async def live_context(unit: Unit) -> None:
        opened = hook.open(application())
        async with opened if hook.lock is None else _EnteredUnderLock(unit, hook.lock, opened) as state:
            if unit.is_background and not add_late_state(unit, state):
                return
            unit.started(state)
            await unit.wait_for_stop()

    async def live_function(unit: Unit) -> None:
        async with nullcontext() if hook.lock is None else under_lock(unit, hook.lock):
            await hook.call(application())
        unit.started()
        unit.stopped()

    async def live_worker(unit: Unit) -> None:
        unit.started()
        work = partial(live_worker_once, unit)
        await (work() if hook.lock is None else lead(unit, hook.lock, work))

    async def live_worker_once(unit: Unit, is_lost: Callable[[], object] = bool) -> None:
        async def work() -> None:
            await hook.call(application())

        if hook.every is not None:
            await repeating(unit, hook.every, work, is_lost)
        elif hook.restart:
            await restarting(unit, hook.restart, work, is_lost)
        else:
            await work()

    return {HookKind.CONTEXT: live_context, HookKind.WORKER: live_worker}.get(hook.kind, live_function)


@final
class _EnteredUnderLock(AbstractAsyncContextManager[State]):
    """A context that is entered under a lock, and left without it."""

    def __init__(self, unit: Unit, lock: Lock, context: AbstractAsyncContextManager[State]) -> None:
        self._unit = unit
        self._lock = lock
        self._context = context
        self._is_entered = False

    async def __aenter__(self) -> State:
        try:
            async with under_lock(self._unit, self._lock):
                state = await self._context.__aenter__()
                self._is_entered = True
            # The time was up, or a sibling failed, while the lock was released, which is shielded. The context must not
            # see that cancellation at its yield, nor in the clean-up after it.
            await checkpoint()
        except BaseException:
            # Or the lock was lost, which is seen at its release, or the server cancels all tasks while it is released.
            # What the context has opened is closed, as at the shutdown.
            if self._is_entered:
                await self._context.__aexit__(None, None, None)
            raise
        return state

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, trace)
