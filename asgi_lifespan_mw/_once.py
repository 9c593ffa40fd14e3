"""Exactly once: which apps run already, in this run and in those that are nested in it.

A `LifespanMiddleware` may be mounted in another one, and a ``Lifespan(mounts="auto")`` may be the lifespan of an app
inside: each finds mounts. They know of each other by a context variable, which runs hand on as they nest.
"""

from collections.abc import Iterable
from contextvars import Context, ContextVar
from typing import final

_shared: ContextVar[dict[int, object] | None] = ContextVar("asgi_lifespan_mw_running", default=None)


@final
class Running:
    """The apps that run, or are to be left alone, told apart by identity."""

    def __init__(self) -> None:
        """Share what the run around this one has, if there is one."""
        shared = _shared.get()
        self._apps: dict[int, object] = {} if shared is None else shared
        self._ours: set[int] = set()

    def share(self, context: Context) -> None:
        """Let runs that begin in `context` know."""
        context.run(_shared.set, self._apps)

    def note(self, apps: Iterable[object]) -> list[object]:
        """Take up apps.

        Returns:
            Those that were not known.
        """
        new = [app for app in apps if id(app) not in self._apps]
        for app in new:
            self._apps[id(app)] = app  # held, so that no other object gets its identity
            self._ours.add(id(app))
        return new

    def forget(self, apps: Iterable[object]) -> None:
        """Let apps go that this run took up and that do not run after all."""
        for key in {id(app) for app in apps} & self._ours:
            self._ours.remove(key)
            self._apps.pop(key, None)

    def leave(self) -> None:
        """Let all go that this run took up."""
        for key in self._ours:
            self._apps.pop(key, None)
        self._ours.clear()

    def knows_any(self, apps: Iterable[object]) -> bool:
        """Whether one of the apps runs, or is to be left alone."""
        return any(id(app) in self._apps for app in apps)
