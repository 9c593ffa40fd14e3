"""What an app is: all the objects that are one app, and what the table knows of them.

Objects are told apart by identity alone: routes have no hash, and two mounts of one app are equal.
"""

from collections.abc import Collection, Iterable
from typing import Any, final

from ._containers import ROUTER, STARLETTE, Kind, Row, Sent, known_reason, row_of
from ._inside import edges, follow

MOST_WRAPPERS = 100
"""An app that is wrapped more often makes its ``.app`` anew whenever it is looked at."""


@final
class Identity:
    """One app in all its forms.

    Attributes:
        app: the app as it was found.
        own: what one lifespan reaches: the app, its own router, what it wraps.
        aliases: those, and what they start with lifespans of their own.
    """

    __slots__ = ("_known", "_own", "aliases", "app", "own")

    def __init__(self, app: Any) -> None:
        """Look at an app."""
        found: dict[int, Any] = {}
        forwarded = _gather([app], found)
        self.app = app
        self.own = self.aliases = tuple(found.values())
        self._own = self._known = _rows(self.own)
        if forwarded:
            while forwarded:
                forwarded = _gather(forwarded, found)
            self.aliases = tuple(found.values())
            self._known = _rows(self.aliases)

    def is_one_of(self, known: Collection[int]) -> bool:
        """Whether one of its objects is known, by identity."""
        return bool(known) and any(id(thing) in known for thing in self.aliases)

    @property
    def sent(self) -> Sent:
        """Whether a lifespan may be sent to it: classes, static files, responses and WSGI apps get none."""
        if not callable(self.app):
            return Sent.NEVER
        return next((row.sent for _, row in self._own if row.sent is not Sent.ALWAYS), Sent.ALWAYS)

    @property
    def why_none(self) -> str:
        """What is known of an app that is sent no lifespan."""
        return next((row.why for _, row in self._own if row.sent is not Sent.ALWAYS), "it can't be called")

    @property
    def reason_against(self) -> str | None:
        """Why it is sent no lifespan unless the user names it; None for nearly all."""
        return next((reason for thing in self.own if (reason := known_reason(thing))), None)

    @property
    def application(self) -> Any:
        """The Starlette application that it is or wraps; None if there is none."""
        return next((thing for thing, row in self._known if row.name == STARLETTE), None)

    @property
    def is_bare_router(self) -> bool:
        """Whether it is a Starlette router of no application; its lifespan is given ``scope["app"]``."""
        return any(row.name == ROUTER for _, row in self._known) and self.application is None

    @property
    def lifespans(self) -> list[Any]:
        """The functions that are run for its lifespan, as far as they can be read."""
        return [
            function
            for thing, row in self._known
            if row.lifespan is not None
            for function in follow(thing, row.lifespan)
        ]


def _rows(things: Iterable[Any]) -> list[tuple[Any, Row]]:
    return [(thing, row) for thing in things if (row := row_of(thing)) is not None]


def _gather(todo: list[Any], found: dict[int, Any]) -> list[Any]:
    """Find what is one app with the objects `todo`; return what those start by themselves."""
    forwarded: list[Any] = []
    while todo and len(found) < MOST_WRAPPERS:
        thing = todo.pop()
        if id(thing) in found:
            continue
        found[id(thing)] = thing
        for inner, kind, _ in edges(thing):
            if kind is Kind.SELF or kind is Kind.PASSES_ON:
                todo.append(inner)
            elif kind is Kind.FORWARDS:
                forwarded.append(inner)
    return forwarded
