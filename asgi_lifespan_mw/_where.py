"""Where a task stands in its code: what an operator wants to know of a unit that hangs."""

import gc
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from ._app import is_a

_KINDS: tuple[tuple[type, str, str], ...] = (
    (CoroutineType, "cr_frame", "cr_await"),
    (AsyncGeneratorType, "ag_frame", "ag_await"),
    (GeneratorType, "gi_frame", "gi_yieldfrom"),
)
"""What is awaited in the end, with the attributes that tell its frame and what it awaits itself."""

_LIBRARIES = ("asyncio", "anyio", "trio", "contextlib", "asgi_lifespan_mw", "uvloop")
"""Modules whose frames say nothing to a user: he wants the line of his own that waits."""


def where(task: Any) -> str:
    """The innermost line, as ``file:line in function``, that a task waits at.

    Args:
        task: an asyncio or trio task.

    Returns:
        The place, or an empty text where it can't be seen: a running task, a task that is over.
    """
    coroutine = task.get_coro() if hasattr(task, "get_coro") else getattr(task, "coro", None)
    place = ""
    seen: set[int] = set()
    while coroutine is not None and id(coroutine) not in seen:
        seen.add(id(coroutine))
        frame = _frame(coroutine)
        if frame is not None and not _is_library(frame):
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        coroutine = _awaited(coroutine)
    return place


def _frame(awaitable: Any) -> FrameType | None:
    return next((getattr(awaitable, frame) for kind, frame, _ in _KINDS if is_a(awaitable, kind)), None)


def _is_library(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES


def _awaited(awaitable: Any) -> Any:
    """What a coroutine or generator waits for, one step down."""
    for kind, _, awaited in _KINDS:
        if is_a(awaitable, kind):
            return getattr(awaitable, awaited)
    # What `anext()` of an async generator returns shows nothing of it; it only holds a reference.
    return next((held for held in gc.get_referents(awaitable) if is_a(held, AsyncGeneratorType)), None)
