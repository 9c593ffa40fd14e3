"""Where a task stands in its code: what an operator wants to know of a unit that hangs."""

import gc
import os
from collections.abc import Callable
from operator import attrgetter
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

_PARTS: dict[type, Callable[[Any], tuple[Any, Any]]] = {
    CoroutineType: attrgetter("cr_frame", "cr_await"),
    AsyncGeneratorType: attrgetter("ag_frame", "ag_await"),
    GeneratorType: attrgetter("gi_frame", "gi_yieldfrom"),
}
"""The frame of what is awaited, and what it awaits itself."""

_LIBRARIES = ("asyncio", "anyio", "trio", "contextlib", "asgi_lifespan_mw", "uvloop")
"""Modules whose frames say nothing to a user: what they look for is the line of their own that waits."""


def where(task: Any) -> str:
    """The innermost line, as ``file:line in function``, that a task of asyncio or trio waits at.

    It is empty where the place can't be seen: of a running task, of one that is over.
    """
    awaited: object = task.get_coro() if hasattr(task, "get_coro") else getattr(task, "coro", None)
    place, seen = "", set[int]()
    while awaited is not None and id(awaited) not in seen:
        seen.add(id(awaited))
        frame, awaited = _PARTS.get(type(awaited), _held)(awaited)
        if frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            place = f"{short(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"
    return place


def short(file: str) -> str:
    """A file's name as it is told: from the working directory on, where it lies below that."""
    try:
        return file.removeprefix(os.getcwd() + os.sep)  # noqa: PTH109 - a prefix of texts
    except OSError:  # the directory was removed, as old releases are
        return file


def _held(awaitable: object) -> tuple[None, object]:
    """What `anext()` of an async generator returns shows nothing of it; it only holds a reference."""
    held = gc.get_referents(awaitable)
    return None, next((one for one in held if issubclass(type(one), AsyncGeneratorType)), None)
