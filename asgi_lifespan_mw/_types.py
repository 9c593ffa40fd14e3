"""The types of ASGI, and a check of an object's type.

``asgiref.typing`` gives the messages of the lifespan protocol. For an *app* its types are too narrow: Starlette,
FastAPI, Litestar and the servers each spell scope and messages in their own way, and a user should need neither a
cast nor an ``Any`` to pass from one to the other. So an app is anything that is called with three arguments and
gives an awaitable.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias, TypeGuard, TypeVar

from asgiref.typing import LifespanShutdownEvent, LifespanStartupEvent

T = TypeVar("T")

ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[Any]]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

State: TypeAlias = dict[str, Any]
"""The lifespan state, ``scope["state"]``: requests get a copy of it."""

STARTUP: LifespanStartupEvent = {"type": "lifespan.startup"}
SHUTDOWN: LifespanShutdownEvent = {"type": "lifespan.shutdown"}


def is_a(thing: object, *classes: type[T]) -> TypeGuard[T]:
    """Return what ``isinstance`` does, without reading ``__class__``, which loads a lazy object: Django's settings."""
    return issubclass(type(thing), classes)
