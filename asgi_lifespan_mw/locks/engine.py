"""Functions that the locks have in common: the import of a library, checks of arguments, growing pauses."""

import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import anyio

from .._units.backend import current_asyncio_task

FIRST_PAUSE = 0.1
"""Seconds between the first two attempts to get a lock that another one holds."""

LONGEST_PAUSE = 1.0
"""Seconds between two attempts after some seconds."""


async def succeed(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Attempt to get a lock until that succeeds; the pauses grow from `FIRST_PAUSE` to `LONGEST_PAUSE`."""
    pause = FIRST_PAUSE
    while not await attempt():
        await anyio.sleep(pause)
        pause = min(pause * 1.2, LONGEST_PAUSE)


def imported(module: str, extra: str, who: str) -> Any:
    """Import the library of an engine.

    Raises:
        ImportError: If the library is not installed. The message names the extra that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        hint = f"pip install 'asgi-lifespan-mw[{extra}]'"
        raise ImportError(f"{who} needs {module.partition('.')[0]}: {hint}", name=error.name) from error


def check_name(name: object, who: str) -> str:
    """Return the name of a lock.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty.
    """
    if not check_string(name, "name", who):
        raise ValueError(f"{who} got an empty name, expected a string such as 'shop/migrate'")
    return str(name)


def check_string(value: object, what: str, who: str) -> str:
    """Return `value`.

    Raises:
        TypeError: If it is not a string. The message does not show it.
    """
    if not isinstance(value, str):
        raise TypeError(f"{who} got a {what} of type {type(value).__name__}, expected a string")
    return value


def need_asyncio(who: str) -> None:
    """Raise NotImplementedError if the event loop is not asyncio's."""
    if current_asyncio_task() is None:
        raise NotImplementedError(f"{who} needs asyncio; on trio, use FileLock or a lock of your own")


def now() -> float:
    """Return seconds of a clock that also counts while the machine is suspended, if there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux has the first
    return time.clock_gettime(clock)
