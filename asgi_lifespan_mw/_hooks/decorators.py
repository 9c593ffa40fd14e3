"""The collection of hooks in its order, and the decorators that fill it."""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Container,
    Generator,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast, final, overload
from weakref import WeakSet

from .._callables import identity_of
from .._config import Mounts, OptionalApps, check, is_sequence
from .._log import logger
from .._types import ASGIApp
from .._units.locking import Lock
from .hook import Hook, HookFunction, HookKind, described, make_hook

Yielded: TypeAlias = Mapping[str, Any] | None
"""The value that a context yields: lifespan state, or nothing."""

Context: TypeAlias = (
    AbstractAsyncContextManager[Yielded] | AbstractContextManager[Yielded] | AsyncIterator[Yielded] | Iterator[Yielded]
)
ContextFunction: TypeAlias = Callable[[], Context] | Callable[[Any], Context]
EventType: TypeAlias = Literal["startup", "shutdown"]

_LIFESPAN = "a Lifespan, or a function that takes the app and returns an async context manager"


class _NotGiven:
    def __repr__(self) -> str:
        return "..."


_NOT_GIVEN: Any = _NotGiven()
"""Stands for the function where a decorator is called with arguments alone, or with none: ``@app.on_startup()``."""

C = TypeVar("C", bound=ContextFunction)
F = TypeVar("F", bound=HookFunction)
WorkerFunction: TypeAlias = Callable[[], Awaitable[Any]] | Callable[[Any], Awaitable[Any]]
W = TypeVar("W", bound=WorkerFunction)


class HookOptions(TypedDict, total=False):
    """The options of every decorator, for type checkers."""

    name: str | None
    timeout: float | None


class StartOptions(HookOptions, total=False):
    """The options of a hook that has a start."""

    background: bool
    lock: Lock | None
    optional: bool


class WorkerOptions(HookOptions, total=False):
    """The options of a worker."""

    leader: Lock | None
    restart: bool | int
    every: float | None


class _Slot:
    """A place in the order of registration, whose hook can be replaced for a test.

    Attributes:
        registered: The hook or collection that was registered.
        entry: The one that runs; None while a hook is skipped.
    """

    __slots__ = ("entry", "registered")

    def __init__(self, registered: "Hook | HookCollection") -> None:
        self.registered = registered
        self.entry: Hook | HookCollection | None = registered


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Hooks that start side by side, and stop side by side.

    Attributes:
        members: The members. Each is a plan: hooks and groups that start one after the other.
    """

    members: "list[Plan]"


Plan: TypeAlias = list[Hook | Group]
"""Hooks and groups in the order of their start; they stop in reverse."""


@final
class HookCollection:
    """Hooks in the order of their registration, and other collections among them.

    A run takes the hooks as they stand when it begins; one that is registered later counts from the next run on.

    Attributes:
        mounts: The mounts to start.
        exclude: The apps that are not started.
        optional: The mounted apps that may fail.
        concurrent: Whether the entries start side by side.
        included_in: The collections that include this one, weakly: a collection that a whole program shares must not
            keep every middleware alive that ever included it.
        runs: The number of runs of these hooks that have begun and not ended.
        functions: The kinds and functions that were registered here.
        lifespans: What would run twice if it were included twice: this collection, and the lifespan functions that were
            included here.
    """

    def __init__(
        self, mounts: Mounts, exclude: tuple[ASGIApp, ...], optional: OptionalApps = (), *, concurrent: bool = False
    ) -> None:
        self.mounts: Mounts = mounts
        self.exclude: tuple[ASGIApp, ...] = exclude
        self.optional: OptionalApps = optional
        self.concurrent = concurrent
        self.included_in: WeakSet[HookCollection] = WeakSet()
        self.runs = 0
        self.last_run: Any = None
        self._in_series = 0
        self._slots: list[_Slot] = []
        self._included: list[HookCollection] = []
        self.functions = set[tuple[HookKind, Hashable]]()
        self.lifespans = {identity_of(self)}

    def add(self, hook: Hook) -> None:
        """Register a hook at the end. Log a WARNING if its function is registered already, or a run is on.

        Raises:
            ValueError: If a worker and another hook would use one lock.
        """
        self._check_locks([hook])
        function = hook.kind, identity_of(hook.function)
        if any(function in one.functions for one in self._related()):
            logger.warning("%s is registered twice and runs twice; remove one of the two", hook.label)
        self.functions.add(function)
        self._append(hook, hook.label)

    def include(self, entry: "Hook | HookCollection") -> bool:
        """Add a lifespan function or another collection at the end, unless it would run twice; return whether it is."""
        if isinstance(entry, Hook):
            theirs = {identity_of(entry.function)}
        else:
            theirs = {key for one in entry.inside() for key in one.lifespans}
        if any(not theirs.isdisjoint(one.lifespans) for one in self._related()):
            return False
        if isinstance(entry, Hook):
            self.lifespans |= theirs
            self.add(entry)
        else:
            self._check_locks([hook for _, hook in entry.placed()])
            self._append(entry, "the included Lifespan")
            self._included.append(entry)
            entry.included_in.add(self)
        return True

    def _append(self, entry: "Hook | HookCollection", who: str) -> None:
        if any(one.runs for one in self.around()):
            logger.warning("%s was registered while a run is on; it takes effect at the next start", who)
        self._slots.append(_Slot(entry))

    def _check_locks(self, hooks: Iterable[Hook]) -> None:
        """Raise ValueError if a worker's lock is used by another hook, which would wait for as long as the worker runs.

        ``leader = FileLock("shop.lock")`` under two workers, or under a migration and a worker.
        """
        added = [hook for hook in hooks if hook.lock is not None]
        for outer in self.around() if added else ():
            for _, known in outer.placed():
                for hook in added:
                    if hook.lock == known.lock and HookKind.WORKER in (hook.kind, known.kind):
                        raise ValueError(
                            f"{hook.label} got the lock of {known.label}, and one of them would wait until the other "
                            "one ends. Give each a lock of its own, with a name of its own"
                        )

    def begins(self, run: object) -> None:
        """Note a run: hooks that are registered until it has `ended` come too late for it."""
        self.runs += 1
        for one in self.inside():
            one.last_run = run

    def ended(self) -> None:
        """Note the end of a run."""
        self.runs -= 1

    def end_series(self) -> None:
        """Let the entries until now start one after the other, before those that start side by side."""
        self._in_series = len(self._slots)

    def plan(self) -> Plan:
        """Return the hooks in the order of their start.

        The ``on_shutdown`` functions of a collection have no start. They come last, and the last of them first. So they
        are reached only if everything else has started, and run in their own order before everything else stops.
        """
        plan: Plan = []
        members: list[Plan] = []
        at_stop: Plan = []
        member: Plan
        for index, slot in enumerate(self._slots):
            if isinstance(slot.entry, HookCollection):
                member = slot.entry.plan()
            elif slot.entry is not None and slot.entry.kind is not HookKind.SHUTDOWN:
                member = [slot.entry]
            else:
                at_stop = [*([] if slot.entry is None else [slot.entry]), *at_stop]
                continue
            if self.concurrent and index >= self._in_series:
                members.append(member)
            else:
                plan += member
        if members:
            plan.append(Group(members))
        if self.concurrent and at_stop:
            return [*plan, Group([[function] for function in at_stop])]
        return plan + at_stop

    def in_start_order(self) -> Iterator[Hook]:
        """Yield the hooks in the order of their start; those that start side by side in the order of registration."""
        yield from flattened(self.plan())

    def excluded(self) -> Iterator[ASGIApp]:
        """Yield the apps that this collection, or one in it, excludes."""
        for one in self.inside():
            yield from one.exclude

    def settings(self) -> dict[str, Any]:
        """Return the settings of a run to which this collection, and those in it, add their apps."""
        optional = tuple(app for one in self.inside() for app in one.optional)
        return {"exclude": tuple(self.excluded()), "optional": optional}

    def inside(self) -> "Iterator[HookCollection]":
        """Yield this collection, and those in it, at any depth."""
        yield self
        for inner in self._included:
            yield from inner.inside()

    def _related(self) -> "Iterator[HookCollection]":
        """Yield all collections that run together with this one; some of them more than once."""
        for outer in self.around():
            yield from outer.inside()

    def around(self) -> "Iterator[HookCollection]":
        """Yield this collection, and those that include it, at any depth."""
        yield self
        for outer in self.included_in:
            yield from outer.around()

    @contextmanager
    def override(self, hook: object, replacement: HookFunction | None) -> Generator[None]:
        """Replace or skip a hook while the block runs; see `HookDecorators.override`."""
        matching = [(slot, known) for slot, known in self.placed() if hook in (known.name, known.function)]
        if not matching:
            names = ", ".join(repr(known.name) for known in self.in_start_order()) or "none"
            raise LookupError(f"override() got {hook!r}, which is not registered; registered are: {names}")
        with ExitStack() as stack:
            for slot, known in matching:
                stack.callback(setattr, slot, "entry", slot.entry)
                slot.entry = _replaced(known, replacement)
            yield

    def placed(self) -> Iterator[tuple[_Slot, Hook]]:
        """Yield all hooks that were registered, at any depth, with their places."""
        for slot in self._slots:
            if isinstance(slot.registered, HookCollection):
                yield from slot.registered.placed()
            else:
                yield slot, slot.registered


class HookDecorators:
    """The decorators that register hooks."""

    def __init__(
        self, mounts: Mounts, exclude: tuple[ASGIApp, ...], optional: OptionalApps, *, concurrent: bool
    ) -> None:
        self._hooks = HookCollection(mounts, exclude, optional, concurrent=concurrent)

    # Where no overload fits, pyright explains the last one: that is for a function.
    @overload
    def context(self, /, **options: Unpack[StartOptions]) -> Callable[[C], C]: ...
    @overload
    def context(self, fn: C, /, **options: Unpack[StartOptions]) -> C: ...
    def context(
        self,
        fn: Any = _NOT_GIVEN,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        background: bool = False,
        lock: Lock | None = None,
        optional: bool = False,
    ) -> Any:
        """Register a context: what is before its yield runs at startup, what is after it at shutdown.

        A decorator, with or without arguments. Contexts are left in reverse order. A context yields nothing, or a
        mapping that becomes lifespan state. It lives in a task of its own, so task groups may be open at the yield.

        Args:
            fn: An async generator function, a generator function, a function that returns a context manager (sync or
                async), or such a manager's class. It is passed the app if its first positional parameter has no
                default, or if it takes ``*args``.
            name: The name in messages; None for the function's own.
            timeout: Seconds for its start, and as many for its stop; None for no limit of its own.
            background: Whether the startup is answered without waiting for it. It starts at its place in the order.
                If it fails after the startup was answered, that is a crash (`on_crash`). `startup_timeout` does not
                apply to it. Its state reaches the requests that begin later. Mounts do not wait for it: if it starts a
                mounted app itself, list that app in `exclude`.
            lock: A lock that is held while the hook starts, so that the processes of a deployment start it one at a
                time; see `asgi_lifespan_mw.locks`. `timeout` covers the wait for it too. If the lock cannot be had, or
                is lost meanwhile, the start fails.
            optional: Whether everything else goes on if the hook raises or runs out of its `timeout`, at its start,
                later or at its stop. One WARNING names it. A failed start adds nothing to the state.

        Returns:
            `fn`, unchanged.

        Raises:
            TypeError: If `fn` cannot be a context, or another argument has the wrong type.
            ValueError: If `timeout` is not positive, or a worker uses the lock too.

        *Cancellation:* If the startup is cancelled or its time is up, the cancellation is raised where the context
        waits. What has started is left in reverse order, as at shutdown.
        """
        return self._decorate(
            HookKind.CONTEXT, fn, name=name, timeout=timeout, background=background, lock=lock, optional=optional
        )

    @overload
    def on_startup(self, /, **options: Unpack[StartOptions]) -> Callable[[F], F]: ...
    @overload
    def on_startup(self, fn: F, /, **options: Unpack[StartOptions]) -> F: ...
    def on_startup(
        self,
        fn: Any = _NOT_GIVEN,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        background: bool = False,
        lock: Lock | None = None,
        optional: bool = False,
    ) -> Any:
        """Register a function that runs at startup, among the contexts, in the order of registration.

        A decorator, with or without arguments.

        Args:
            fn: A function, `def` or ``async def``. A `def` runs on the event loop; `threaded` moves it to a thread.
                It is passed the app if its first positional parameter has no default. Its result is awaited if it is
                awaitable, and dropped.
            name: The name in messages; None for the function's own.
            timeout: Seconds that it may take; None for no limit of its own.
            background: Whether the startup is answered without waiting for it. It starts at its place in the order.
                If it fails after the startup was answered, that is a crash (`on_crash`). `startup_timeout` does not
                apply to it. Its state reaches the requests that begin later. Mounts do not wait for it: if it starts a
                mounted app itself, list that app in `exclude`.
            lock: A lock that is held while the hook starts, so that the processes of a deployment start it one at a
                time; see `asgi_lifespan_mw.locks`. `timeout` covers the wait for it too. If the lock cannot be had, or
                is lost meanwhile, the start fails.
            optional: Whether everything else goes on if the hook raises or runs out of its `timeout`, at its start,
                later or at its stop. One WARNING names it. A failed start adds nothing to the state.

        Returns:
            `fn`, unchanged.

        Raises:
            TypeError: If `fn` cannot be called so, or yields, or another argument has the wrong type.
            ValueError: If `timeout` is not positive, or a worker uses the lock too.

        *Cancellation:* Raised where the function waits.
        """
        return self._decorate(
            HookKind.STARTUP, fn, name=name, timeout=timeout, background=background, lock=lock, optional=optional
        )

    @overload
    def on_shutdown(self, /, **options: Unpack[HookOptions]) -> Callable[[F], F]: ...
    @overload
    def on_shutdown(self, fn: F, /, **options: Unpack[HookOptions]) -> F: ...
    def on_shutdown(self, fn: Any = _NOT_GIVEN, /, *, name: str | None = None, timeout: float | None = None) -> Any:
        """Register a function that runs at shutdown, before the contexts beside it are left.

        A decorator, with or without arguments. These functions run in the order of registration, and only if all
        hooks that are registered here have started.

        Args:
            fn: A function, `def` or ``async def``, as for `on_startup`.
            name: The name in messages; None for the function's own.
            timeout: Seconds that it may take; None for no limit of its own.

        Returns:
            `fn`, unchanged.

        Raises:
            TypeError: If `fn` cannot be called so, or yields, or another argument has the wrong type.
            ValueError: If `timeout` is not positive.

        *Cancellation:* If its time is up, the cancellation is raised where the function waits.
        """
        return self._decorate(HookKind.SHUTDOWN, fn, name=name, timeout=timeout)

    @overload
    def worker(self, /, **options: Unpack[WorkerOptions]) -> Callable[[W], W]: ...
    @overload
    def worker(self, fn: W, /, **options: Unpack[WorkerOptions]) -> W: ...
    def worker(
        self,
        fn: Any = _NOT_GIVEN,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        leader: Any = None,
        restart: bool | int = False,
        every: float | None = None,
    ) -> Any:
        """Register a function that runs for the life of the app, such as a scheduler or a consumer.

        A decorator, with or without arguments. It begins at its place in the order, and the startup does not wait for
        it. At its place in the shutdown it is cancelled. If it raises, that is a crash (`on_crash`); it may return.

        Args:
            fn: An ``async def``. It is passed the app if it requires an argument.
            name: The name in messages; None for the function's own.
            timeout: Seconds for its ``finally`` after the cancellation, and, with `every`, for each run; None for no
                limit of its own.
            leader: A lock: the worker runs only while this process holds it; see `asgi_lifespan_mw.locks`. A worker
                that waited for its lock begins a second after it got the lock. If the lock is lost, the worker is
                cancelled, and a second later it waits for the lock again. An engine that cannot be reached is tried
                again after 1, 2, 4 s, and so on, up to 30 s. If the worker returns, the lock is held until the
                shutdown. If it raises, the lock is released, and this process leads no more. Between two runs, the lock
                is held.
            restart: Whether a worker that raises is called again, after 1, 2, 4 s, and so on, up to 30 s; or how often
                in a row, after which it crashes. If a run has lasted a minute, the pauses and the count begin anew.
                Each failure is an ERROR in the log.
            every: Seconds to wait after the function has ended, before it is called again; None calls it once. The
                first call comes at once. A run that raises, or takes longer than `timeout`, is an ERROR in the log, and
                the next one comes at its time. Two runs never overlap.

        Returns:
            `fn`, unchanged.

        Raises:
            TypeError: If `fn` is not an ``async def``, or another argument has the wrong type.
            ValueError: If a number is not positive, `restart` and `every` are both given, or another hook or worker
                uses the lock too.

        *Cancellation:* Raised where the worker waits. Its lock is released after it has ended.
        """
        return self._decorate(
            HookKind.WORKER, fn, name=name, timeout=timeout, lock=leader, restart=restart, every=every
        )

    def on_event(self, event_type: EventType) -> Callable[[F], F]:
        """Register a function with the decorator that Starlette 1.0 removed: ``@hooks.on_event("startup")``.

        Args:
            event_type: ``"startup"``, as `on_startup`, or ``"shutdown"``, as `on_shutdown`.

        Returns:
            The decorator, which returns its function unchanged.

        Raises:
            TypeError: If the function cannot be called so, or yields.
            ValueError: If `event_type` is neither of them.
        """
        kind = _kind_of(event_type)

        def decorator(fn: F) -> F:
            self._register(kind, fn, f"on_event({event_type!r})")
            return fn

        return decorator

    def add_event_handler(self, event_type: EventType, fn: HookFunction) -> None:
        """Register a function as `on_event` does, without a decorator.

        Args:
            event_type: ``"startup"`` or ``"shutdown"``.
            fn: The function.

        Raises:
            TypeError: If `fn` cannot be called so, or yields.
            ValueError: If `event_type` is neither of them.
        """
        self._register(_kind_of(event_type), fn, "add_event_handler()")

    def include(self, other: C) -> C:
        """Add another `Lifespan`, or any lifespan function, at this place of the order.

        Args:
            other: A `Lifespan`, or a callable that takes the app and returns an async context manager: what FastAPI,
                Starlette and Litestar call a lifespan.

        Returns:
            `other`, unchanged.

        Raises:
            TypeError: If `other` is neither.
            ValueError: If `other` is included already and would run twice, or if a worker of one and a hook of the
                other use one lock.
        """
        self._include(other, "include()")
        return other

    def _include(self, other: object, where: str) -> None:
        if not isinstance(other, HookDecorators):
            entry: Hook | HookCollection = make_hook(HookKind.CONTEXT, other, where=where, expected=_LIFESPAN)
        elif hasattr(other, "app"):  # a LifespanMiddleware has the decorators too
            raise TypeError(f"{where} got {other!r}, an app, expected {_LIFESPAN}")
        else:
            entry = hooks_of(other)
        if not self._hooks.include(entry):
            given = repr(other) if isinstance(other, HookDecorators) else described(other)
            raise ValueError(f"{where} got {given}, which is included already and would run twice")

    @contextmanager
    def override(self, hook: HookFunction | str, replacement: HookFunction | None) -> Generator[None]:
        """Replace a hook while the block runs, for tests; also a hook of an included `Lifespan`.

        Args:
            hook: The function that was registered, or the hook's name.
            replacement: A hook of the same kind that runs in its place; None to skip it.

        Raises:
            LookupError: If no such hook is registered.
            TypeError: If `replacement` can't be a hook of that kind.
        """
        with self._hooks.override(hook, replacement):
            yield

    def _decorate(self, kind: HookKind, fn: Any, **options: Any) -> Any:
        def decorator(function: Any) -> Any:
            self._register(kind, function, f"{kind.value}()", **options)
            return function

        return decorator if fn is _NOT_GIVEN else decorator(fn)

    def _register(self, kind: HookKind, function: object, where: str, **options: Any) -> None:
        if isinstance(function, HookDecorators):
            raise TypeError(f"{where} got {function!r}, expected a function; a Lifespan goes to include()")
        self._hooks.add(make_hook(kind, function, where=where, **options))

    def _register_all(self, kind: HookKind, argument: str, functions: object) -> None:
        check(f"{argument}=", functions, "a sequence of functions, such as [open_pool]", fits=is_sequence(functions))
        for function in cast("Iterable[object]", functions):
            self._register(kind, function, f"{kind.value}()")


def flattened(plan: Plan) -> Iterator[Hook]:
    """Yield the hooks of a plan."""
    for step in plan:
        if isinstance(step, Group):
            for member in step.members:
                yield from flattened(member)
        else:
            yield step


def without(plan: Plan, hooks: Container[Hook]) -> Plan:
    """Return a plan without some hooks."""
    kept: Plan = []
    for step in plan:
        if isinstance(step, Group):
            kept.append(Group([member for one in step.members if (member := without(one, hooks))]))
        elif step not in hooks:
            kept.append(step)
    return kept


def hooks_of(registry: HookDecorators) -> HookCollection:
    """Return the collection of a `Lifespan` or a `LifespanMiddleware`."""
    return registry._hooks  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - not part of the public class


def _replaced(entry: Hook, replacement: HookFunction | None) -> Hook | None:
    if replacement is None:
        return None
    # Without the lock: a test has no engine to get it from.
    hook = make_hook(entry.kind, replacement, where="override()")
    return replace(entry, function=hook.function, place=hook.place, takes_app=hook.takes_app, lock=None)


def _kind_of(event_type: object) -> HookKind:
    kinds: dict[object, HookKind] = {"startup": HookKind.STARTUP, "shutdown": HookKind.SHUTDOWN}
    if not isinstance(event_type, str) or event_type not in kinds:
        raise ValueError(f"unknown event type {event_type!r}; expected 'startup' or 'shutdown'")
    return kinds[event_type]
