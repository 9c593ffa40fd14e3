"""What an app is: all the objects that are one app, and what the table knows of them.

Objects are told apart by identity alone: routes have no hash, and two mounts of one app are equal.
"""

from collections.abc import Container
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

    __slots__ = ("aliases", "app", "own")

    def __init__(self, app: Any) -> None:
        """Look at an app."""
        found: dict[int, Any] = {}
        forwarded = _gather([app], found)
        self.app = app
        self.own = tuple(found.values())
        while forwarded:
            forwarded = _gather(forwarded, found)
        self.aliases = tuple(found.values())

    def is_one_of(self, known: Container[int]) -> bool:
        """Whether one of its objects is known, by identity."""
        return any(id(thing) in known for thing in self.aliases)

    @property
    def sent(self) -> Sent:
        """Whether a lifespan may be sent to it: classes, static files, responses and WSGI apps get none."""
        if not callable(self.app):
            return Sent.NEVER
        return next((row.sent for row in self._rows() if row.sent is not Sent.ALWAYS), Sent.ALWAYS)

    @property
    def why_none(self) -> str:
        """What is known of an app that is sent no lifespan."""
        return next((row.why for row in self._rows() if row.sent is not Sent.ALWAYS), "it can't be called")

    @property
    def reason_against(self) -> str | None:
        """Why it is sent no lifespan unless the user names it; None for nearly all."""
        return next((reason for thing in self.own if (reason := known_reason(thing))), None)

    @property
    def application(self) -> Any:
        """The Starlette application that it is or wraps; None if there is none."""
        return next((thing for thing in self.aliases if _is(thing, STARLETTE)), None)

    @property
    def is_bare_router(self) -> bool:
        """Whether it is a Starlette router of no application; its lifespan is given ``scope["app"]``."""
        return any(_is(thing, ROUTER) for thing in self.aliases) and self.application is None

    @property
    def lifespans(self) -> list[Any]:
        """The functions that are run for its lifespan, as far as they can be read."""
        return [
            function
            for thing in self.aliases
            if (row := row_of(thing)) is not None and row.lifespan is not None
            for function in follow(thing, row.lifespan)
        ]

    def _rows(self) -> list[Row]:
        return [row for thing in self.own if (row := row_of(thing)) is not None]


def _is(thing: object, name: str) -> bool:
    row = row_of(thing)
    return row is not None and row.name == name


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
