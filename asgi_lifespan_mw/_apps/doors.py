"""Recorders at the doors of apps: who comes first starts the app, who comes second joins. See `watch`."""

import threading
from collections.abc import Awaitable, Callable
from enum import Enum
from types import MemberDescriptorType, MethodType
from typing import Any, Final, cast, final

import anyio

from .._log import logger
from .._types import is_a
from .frameworks import Door, spec_of
from .node import AppNode
from .objects import attribute_of_class, attributes_of, dictionary_of, is_function
from .watch import Begun, Starter, Watch, begun_of, starter, watching

_PAUSE = 0.01
"""Seconds between two looks at what starts in another thread, or at a generator."""

_lock: Final = threading.Lock()
"""Held while recorders are set or taken out, and while it is decided who comes first."""


class Progress(Enum):
    """How far a start at a door has come."""

    STARTING = "is starting"
    STARTED = "has started"
    STOPPING = "is being stopped"
    FAILED = "failed to start"
    LEFT = "was stopped"


@final
class Start:
    """One start of an app at a door.

    Attributes:
        by: The app or the hook in whose code the door was entered; None if it is not known.
        progress: How far it has come.
        state: What the lifespan yielded; None before.
        error: Why it failed; None if it did not.
    """

    __slots__ = ("_moved", "_thread", "by", "error", "progress", "state")

    def __init__(self, by: Starter) -> None:
        self.by = by
        self.progress = Progress.STARTING
        self.state: Any = None
        self.error: BaseException | None = None
        self._thread = threading.get_ident()
        self._moved: list[anyio.Event] = []

    def move(self, progress: Progress) -> None:
        """Go on, and wake who waits for it."""
        self.progress = progress
        for event in self._moved:
            event.set()
        self._moved.clear()

    async def moved(self) -> None:
        """Wait until the start goes on; if it does so in another thread, for a moment."""
        if threading.get_ident() != self._thread:  # pragma: no cover - it depends on which thread comes first
            await anyio.sleep(_PAUSE)
            return
        event = anyio.Event()
        self._moved.append(event)
        await event.wait()


@final
class Doorway:
    """A door of one app, as the runs see it that share a watch.

    Attributes:
        node: The app.
        watch: The watch.
        first: The start of the app that is under way or runs; None if the app does not run.
        last: The last start that has ended or failed; None if none did.
        borrowed: A generator that runs past the door and is the lifespan of the app; None if there is none.
        joined: Who is inside and did not start the app.
        outside: How many entries from outside of the runs are inside.
    """

    __slots__ = ("borrowed", "first", "joined", "last", "node", "outside", "watch")

    def __init__(self, node: AppNode, watch: Watch) -> None:
        self.node = node
        self.watch = watch
        self.first: Start | None = None
        self.last: Start | None = None
        self.borrowed: Begun | None = None
        self.joined: list[Starter] = []
        self.outside = 0

    def runs(self) -> bool:
        """Return whether the app starts or runs behind this door."""
        borrowed = self.borrowed is not None and not self.borrowed.is_over()
        return borrowed or self.first is not None or self.outside > 0

    async def enter(self, begin: Callable[[], Awaitable[Any]], begun: Begun | None) -> "tuple[Start | None, Any]":
        """Start the app, or join who started it.

        Args:
            begin: Starts it.
            begun: The generator that would begin; None if it is not a generator.

        Returns:
            The start, None if it was joined; and the state.
        """
        while True:
            start = self._claim(begun)
            if start is not None:
                return start, await self._begin(start, begin, begun)
            running = self.borrowed or self.first
            if running is not None and await _has_started(running):
                return None, self._join(running)

    def _claim(self, begun: Begun | None) -> Start | None:
        """Return a new start for who comes first; None if the app starts or runs."""
        with _lock:
            if self.borrowed is None and self.first is None and begun is not None:
                # Another door of the app, or a function that was called by its name, may have begun the same generator.
                self.borrowed = self.watch.running(begun)
            if self.borrowed is not None and self.borrowed.is_over():  # pragma: no cover - it ended meanwhile
                self.borrowed = None
            if self.borrowed is not None or self.first is not None:
                return None
            self.first = start = Start(starter.get())
            return start

    async def _begin(self, start: Start, begin: Callable[[], Awaitable[Any]], begun: Begun | None) -> Any:
        if begun is not None:
            self.watch.entered[begun.key] = begun
        try:
            start.state = await begin()
        except BaseException as error:
            start.error = error
            self.ended(start, Progress.FAILED, begun)
            raise
        start.move(Progress.STARTED)
        return start.state

    def ended(self, start: Start, progress: Progress, begun: Begun | None) -> None:
        """Note that a start failed, or that who started the app has left it."""
        with _lock:
            self.first, self.last = None, start
            if begun is not None:
                self.watch.entered.pop(begun.key, None)
        start.move(progress)

    def _join(self, running: Start | Begun) -> Any:
        by = starter.get()
        self.joined.append(by)
        first = running.by if isinstance(running, Start) else None
        # We asked a wrapper around an app that runs; everything else was code of the user's.
        if not self._is_the_app(by):
            is_ours = self._is_the_app(first)
            logger.warning(
                "%s had been started by %s when the code of %s entered its lifespan; it runs once, and that code "
                "joined it. To have it started only there, list the app in exclude=[...]; else remove that code",
                self.node.label,
                "this package" if is_ours else f"the code of {_name_of(first)}",
                _name_of(by),
            )
        return running.state if isinstance(running, Start) else None

    def _is_the_app(self, by: Starter) -> bool:
        return isinstance(by, AppNode) and by.reaches(self.node.members)

    def leave(self, by: Starter) -> None:
        """Let one that had joined go."""
        self.joined.remove(by)

    def stopping(self, start: Start) -> None:
        """Note that who started the app leaves it. Log a WARNING if another one still needs it."""
        start.move(Progress.STOPPING)
        if self.joined and self.watch.is_serving:
            logger.warning(
                "%s is stopped by the code of %s, which started it, while the code of %s still uses it",
                self.node.label,
                _name_of(start.by),
                _name_of(self.joined[-1]),
            )


async def _has_started(running: Start | Begun) -> bool:
    """Wait while an app starts, and return whether it runs; False if it is to be started anew.

    Raises:
        Exception: What the start failed with.
    """
    if isinstance(running, Begun):
        while running.is_starting():  # noqa: ASYNC110  # pragma: no cover - nothing tells of the end of a step
            await anyio.sleep(_PAUSE)
        return not running.is_over()
    while running.progress in (Progress.STARTING, Progress.STOPPING):
        await running.moved()
    if running.progress is Progress.FAILED and is_a(running.error, Exception):
        raise running.error
    return running.progress is Progress.STARTED


def _name_of(by: Starter) -> str:
    return by.label if isinstance(by, AppNode) else by or "a hook"


@final
class Recorder:
    """Stands in the place of what starts an app, such as ``router.lifespan_context``, or of its twin, which stops it.

    Attributes:
        original: What stood there.
    """

    __slots__ = ("_door", "_doorways", "_name", "_observers", "_owner", "_was_own", "original")

    def __init__(self, owner: Any, door: Door, name: str, original: Any, *, was_own: bool) -> None:
        self.original = original
        self._owner = owner
        self._door = door
        self._name = name
        self._was_own = was_own
        self._doorways: dict[Watch, Doorway] = {}
        self._observers: dict[Watch, int] = {}  # runs inside each other share a watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the original, or join who called it."""
        watch = watching.get()
        doorways = self._doorways
        if watch is None:
            # A thread without our context, a test that runs the app alone: nobody's business after the startup.
            outside = [doorway for doorway in doorways.values() if doorway.watch.startups]
            if self._door.leave == self._name:
                outside = list(doorways.values())
            if not outside:
                return self.original(*args, **kwargs)
        elif watch not in doorways:  # pragma: no cover - a run that does not look at this app
            return self.original(*args, **kwargs)
        else:
            outside = []
        if self._door.leave is None:
            made: Any = self.original(*args, **kwargs)
            cls = cast("type[object]", type(made))
            if attribute_of_class(cls, "__aenter__") is None:
                return made
            return _Entry(made, None if watch is None else doorways[watch], outside)
        if self._name == self._door.enter:
            return self._call_enter(None if watch is None else doorways[watch], outside, args, kwargs)
        return self._call_leave(None if watch is None else doorways[watch], outside, args, kwargs)

    async def _call_enter(self, doorway: Doorway | None, outside: list[Doorway], args: Any, kwargs: Any) -> Any:
        if doorway is not None:
            _, state = await doorway.enter(lambda: self.original(*args, **kwargs), None)
            return state
        for one in outside:
            one.outside += 1
        return await self.original(*args, **kwargs)

    async def _call_leave(self, doorway: Doorway | None, outside: list[Doorway], args: Any, kwargs: Any) -> Any:
        by = starter.get()
        if doorway is not None and by in doorway.joined:
            doorway.leave(by)
            return None
        for one in outside:
            one.outside = max(0, one.outside - 1)
        try:
            if doorway is not None and doorway.first is not None:
                doorway.stopping(doorway.first)
            return await self.original(*args, **kwargs)
        finally:
            if doorway is not None and doorway.first is not None:
                doorway.ended(doorway.first, Progress.LEFT, None)

    def observe(self, doorway: Doorway) -> None:
        """Let one more run observe the door."""
        self._doorways.setdefault(doorway.watch, doorway)
        self._observers[doorway.watch] = self._observers.get(doorway.watch, 0) + 1

    def doorway_of(self, watch: Watch) -> Doorway | None:
        """Return the door as the runs see it that share a watch; None if none of them observes it."""
        return self._doorways.get(watch)

    def forget(self, watch: Watch) -> None:
        """Let one run less observe the door; the last one puts back what stood there, if nobody replaced it."""
        with _lock:
            self._observers[watch] -= 1
            if self._observers[watch] == 0:
                del self._observers[watch], self._doorways[watch]
            if not self._doorways and _attribute(self._owner, self._name)[0] is self:
                _set(self._owner, self._name, self.original if self._was_own else _ABSENT)


@final
class _Entry:
    """The context manager of a lifespan, whose entering is recorded."""

    __slots__ = ("_begun", "_by", "_doorway", "_made", "_outside", "_start")

    def __init__(self, made: Any, doorway: Doorway | None, outside: list[Doorway]) -> None:
        self._made = made
        self._doorway = doorway
        self._outside = outside
        self._start: Start | None = None
        self._begun: Begun | None = None
        self._by: Starter = None

    async def __aenter__(self) -> Any:
        if self._doorway is None:
            for doorway in self._outside:
                doorway.outside += 1
            try:
                return await self._made.__aenter__()
            except BaseException:
                self._leave_outside()
                raise
        # contextlib's context manager keeps the generator that it is about to begin.
        generator = getattr(self._made, "gen", None) if type(self._made).__module__ == "contextlib" else None
        self._begun = None if generator is None else begun_of(generator)
        self._by = starter.get()
        self._start, state = await self._doorway.enter(self._made.__aenter__, self._begun)
        return state

    async def __aexit__(self, *error: object) -> Any:
        if self._doorway is None:
            try:
                return await self._made.__aexit__(*error)
            finally:
                self._leave_outside()
        if self._start is None:
            self._doorway.leave(self._by)
            return None
        self._doorway.stopping(self._start)
        try:
            return await self._made.__aexit__(*error)
        finally:
            self._doorway.ended(self._start, Progress.LEFT, self._begun)

    def _leave_outside(self) -> None:
        for doorway in self._outside:
            doorway.outside -= 1


# --- setting recorders, and taking them out ---

_ABSENT: Final = object()


def _attribute(owner: Any, name: str) -> tuple[Any, bool]:
    """Return an attribute that can be replaced, and whether it is the object's own; `_ABSENT` for any other."""
    cls = cast("type[object]", type(owner))
    of_class: Any = attribute_of_class(cls, name)
    if is_a(of_class, MemberDescriptorType):  # pragma: no cover - a router with slots
        return attributes_of(owner).get(name, _ABSENT), True
    own = dictionary_of(owner)
    if own is None or is_a(of_class, property):  # pragma: no cover - it cannot be replaced
        return _ABSENT, False
    if name in own:
        return own[name], True
    return (MethodType(of_class, owner), False) if is_function(of_class) else (_ABSENT, False)


def _set(owner: Any, name: str, value: Any) -> None:
    cls = cast("type[object]", type(owner))
    of_class: Any = attribute_of_class(cls, name)
    if is_a(of_class, MemberDescriptorType):  # pragma: no cover - a router with slots
        of_class.__set__(owner, value)
        return
    own = dictionary_of(owner)
    assert own is not None, "the attribute was found in it"
    if value is _ABSENT:
        del own[name]
    else:
        own[name] = value


def observe_doors(node: AppNode, watch: Watch) -> list[Recorder]:
    """Put recorders at the doors of an app, and return them. The caller lets each `forget` the watch in the end."""
    recorders: list[Recorder] = []
    for owner, door in node.doors:
        doorway = Doorway(node, watch)
        for name in (door.enter, door.leave):
            if name is None:
                continue
            with _lock:
                original, was_own = _attribute(owner, name)
                if original is _ABSENT or (type(original) is MethodType and not door.may_be_method):
                    break
                recorder = original if isinstance(original, Recorder) else None
                if recorder is None:
                    recorder = Recorder(owner, door, name, original, was_own=was_own)
                    _set(owner, name, recorder)
                recorder.observe(doorway)
            recorders.append(recorder)
    return recorders


def without_recorder(thing: Any) -> Any:
    """Return what a recorder stands for, or the object itself."""
    return thing.original if is_a(thing, Recorder) else thing


def doorways_of(node: AppNode, watch: Watch) -> list[Doorway]:
    """Return the doors of an app at which recorders stand."""
    # What its lifespan runs has a door too, and is not the app.
    owners = {id(owner): owner for owner, _ in node.doors if id(owner) in node.members}
    return [doorway for owner in owners.values() for doorway in doorways_at(owner, watch)]


def doorways_at(owner: Any, watch: Watch) -> list[Doorway]:
    """Return the doors of an object at which recorders stand."""
    recorders = [_attribute(owner, door.enter)[0] for door in spec_of(owner).doors]
    doorways = [recorder.doorway_of(watch) for recorder in recorders if is_a(recorder, Recorder)]
    return [doorway for doorway in doorways if doorway is not None]
