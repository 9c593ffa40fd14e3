"""Tracebacks: an exception is shown from the first frame of the user's code on.

The user's code is everything but this package, the standard library and what is installed. An exception that only
installed code raised, such as that of a database driver's method used as a hook, is shown from the first frame of that
code on. An exception without such a frame, such as a timeout, is shown without a traceback.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Final

from .._types import is_a
from .._units.failure import leaf_of, members

_PACKAGE: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120 - a prefix of file names
_STANDARD_LIBRARY: Final = (os.path.dirname(os.__file__) + os.sep, "<frozen ")  # noqa: PTH120 - as above
_INSTALLED: Final = ("site-packages", "dist-packages", ".pyx")
"""Parts of the names of files that are installed; compiled code, such as uvloop's, has relative ones."""
_CALLERS: Final = frozenset(
    {"contextlib", "importlib", "asyncio", "concurrent", "anyio", "trio", "outcome", "starlette", "fastapi", "litestar"}
)
"""Modules whose frames lie between this package and the code that they call."""


def users_traceback(error: BaseException) -> str:
    """Return `error` as Python prints it, after its traceback was trimmed; a group of one as its member.

    Returns:
        "" if no frame is left, or if a property of the user's exception class raises.
    """
    error = shown_of(error)
    trim(error)
    try:
        text = "".join(traceback.format_exception(error)).strip()
        has_frames = any(one.__traceback__ is not None for one in _printed(error))
    except BaseException:  # a property of the user's may raise anything
        return ""
    return text if has_frames else ""


def shown_of(error: BaseException) -> BaseException:
    """Return the exception whose traceback is shown: the member of a group of one, unless it was never raised."""
    leaf = leaf_of(error)
    with suppress(BaseException):  # as above
        return error if leaf.__traceback__ is None else leaf
    return error


def trim(error: BaseException) -> None:
    """Remove the frames before the user's first one from the traceback of `error`.

    The same is done to its causes and to the members of a group.
    """
    with suppress(BaseException):  # as above
        for one in _printed(error):
            one.__traceback__ = _from_users_frame(one.__traceback__)


def _printed(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that Python prints with it, each once."""
    todo: list[BaseException] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        cause = one.__context__ if one.__cause__ is None and not one.__suppress_context__ else one.__cause__
        todo += [] if cause is None else [cause]
        todo += members(one) if is_a(one, BaseExceptionGroup) else ()


def _from_users_frame(part: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins at the user's first frame, or at that of installed code."""
    parts: list[TracebackType] = []
    while part is not None:
        parts.append(part)
        part = part.tb_next
    first = next((one for one in parts if _is_users(_file(one))), None)
    if first is None and parts and not _file(parts[-1]).startswith(_PACKAGE):  # this package did not raise it
        first = next((one for one in parts if _is_installed(one)), None)
    return first


def is_in_users_code(frame: FrameType | None) -> bool:
    """Return whether the code that runs in a frame was called by the user's code, and that by this package."""
    is_users = False
    while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
        is_users = is_users or _is_users(frame.f_code.co_filename)
        frame = frame.f_back
    return is_users


def _is_users(file: str) -> bool:
    return not file.startswith((_PACKAGE, *_STANDARD_LIBRARY)) and not any(place in file for place in _INSTALLED)


def _is_installed(part: TracebackType) -> bool:
    module = str(part.tb_frame.f_globals.get("__name__"))
    return not _file(part).startswith(_PACKAGE) and module.partition(".")[0] not in _CALLERS


def _file(part: TracebackType) -> str:
    return part.tb_frame.f_code.co_filename
