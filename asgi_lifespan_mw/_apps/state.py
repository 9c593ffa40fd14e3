"""Lifespan state: who set which key, and whose requests see it."""

from collections.abc import Mapping
from typing import Any, final

from .._exceptions import StateCollision
from .._types import State

_ISOLATE = "rename it, or wrap the mounted app in Isolated(app), so that only its own requests see its {!r}"


@final
class SharedState:
    """The state that the same requests see, filled by one unit after the other.

    Attributes:
        state: What the requests are given a copy of. It is filled in place: it may be the server's own dict.
    """

    __slots__ = ("_found", "_setters", "state")

    def __init__(self, state: State) -> None:
        """Begin with `state`. What it holds was set by no unit of this realm, and may be set anew."""
        self.state = state
        self._found = dict(state)
        self._setters: dict[str, tuple[str, bool]] = {}

    def add(
        self, unit: str, before: Mapping[str, Any], after: Mapping[str, Any], *, is_mount: bool = False
    ) -> list[str]:
        """Take over what a unit set, which was given the state `before` and left it as `after`; return its keys.

        Raises:
            StateCollision: If another unit set one of the keys to another object.
        """
        added = [key for key, value in after.items() if key not in before or before[key] is not value]
        for key in added:
            value = after[key]
            if key in self._setters and (key in before or not _is_same(self.state.get(key, value), value)):
                first, was_mount = self._setters[key]
                advice = _ISOLATE.format(key) if is_mount or was_mount else "rename one of them"
                raise StateCollision(key, first, unit, advice)
            self._setters.setdefault(key, (unit, is_mount))
            self.state[key] = value
        return added

    def undo(self) -> None:
        """Take back what units set, after a failed startup: a server that tries again finds what it had."""
        self.state.clear()
        self.state.update(self._found)


_PLAIN = (str, bytes, int, float, bool, type(None))
"""Types whose equal values are the same to anybody; Python keeps some of them once and some not."""


def _is_same(first: object, second: object) -> bool:
    return first is second or (type(first) in _PLAIN and type(first) is type(second) and first == second)
