"""The line of code at which a task waits, for messages about a unit that hangs."""

import gc
import os
from collections.abc import Callable
from operator import attrgetter
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from .cancellation import Cancellable

_DRIVE = Cancellable._drive.__code__  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - to look through it
"""A coroutine that a `Cancellable` runs is awaited by nothing: this drives it."""


def _of_generator(generator: Any) -> tuple[Any, Any]:
    frame, awaited = generator.gi_frame, generator.gi_yieldfrom
    if frame is not None and frame.f_code is _DRIVE:
        awaited = frame.f_locals["body"]
    return frame, awaited


_PARTS: dict[type, Callable[[Any], tuple[Any, Any]]] = {
    CoroutineType: attrgetter("cr_frame", "cr_await"),
    AsyncGeneratorType: attrgetter("ag_frame", "ag_await"),
    GeneratorType: _of_generator,
}
"""The frame of an awaited object, and the object that it awaits in turn."""

_LIBRARIES = ("asyncio", "anyio", "trio", "contextlib", "asgi_lifespan_mw", "uvloop")
"""Packages whose frames are skipped: a user looks for a line of their own code."""


def where(task: Cancellable) -> str:
    """Return the innermost line at which a body is suspended, as ``file:line in function``.

    Returns:
        "" if the body is running or has finished.
    """
    awaited: object = task.get_coro()
    place, seen = "", set[int]()
    while awaited is not None and id(awaited) not in seen:
        seen.add(id(awaited))
        frame, awaited = _PARTS.get(type(awaited), _held)(awaited)
        if frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            place = f"{short(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"
    return place


def short(file: str) -> str:
    """Return a file's name for messages, relative to the first working directory if the file is below it."""
    return file.removeprefix(_DIRECTORY)


def _working_directory() -> str:
    try:
        return os.getcwd() + os.sep  # noqa: PTH109 - a prefix of strings
    except OSError:  # a deployment removed the directory of an old release
        return os.sep * 2


_DIRECTORY = _working_directory()
"""The working directory at the import. Later it is not read: that would block the event loop."""


def _held(awaitable: object) -> tuple[None, object]:
    """Return the asynchronous generator that an ``anext()`` awaits, which has no attribute for it."""
    held = gc.get_referents(awaitable)
    return None, next((one for one in held if issubclass(type(one), AsyncGeneratorType)), None)
