"""The one logger of the package, and whether its errors reach anybody."""

import logging
import sys
from contextlib import suppress
from typing import Any, final

_SERVERS = ("uvicorn.error", "hypercorn.error", "_granian", "gunicorn.error")
"""The loggers by which servers print the message of a failed lifespan."""


@final
class _Logger(logging.LoggerAdapter[logging.Logger]):
    """Passes records on. An exception of a user's handler does not reach the code that logs."""

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        with suppress(Exception):
            super().log(level, msg, *args, stacklevel=2, **options)  # the line that logs, not this one
        # A migration in a hook, `fileConfig("alembic.ini")`, disables this logger and the server's: the process would
        # end without a word.
        if level >= logging.ERROR and not takes_errors(self.logger, by_last_resort=True) and _are_servers_silent():
            with suppress(Exception):
                print(str(msg) % args, file=sys.stderr)  # noqa: T201 - nobody else prints it


def takes_errors(logger: logging.Logger, *, by_last_resort: bool = False) -> bool:
    """Return whether a handler takes the ERROR records of a logger.

    A `logging.NullHandler` takes nothing, and a disabled logger has nothing to give.

    Args:
        logger: The logger.
        by_last_resort: Whether `logging.lastResort` counts, which Python uses if there is no handler.
    """
    if not logger.isEnabledFor(logging.ERROR):
        return False
    if not logger.hasHandlers():
        return by_last_resort
    reached: logging.Logger | None = logger
    while reached is not None:
        if any(one.level <= logging.ERROR and not isinstance(one, logging.NullHandler) for one in reached.handlers):
            return True
        reached = reached.parent if reached.propagate else None
    return False


def _are_servers_silent() -> bool:
    """Return whether there is a server in this process, and its logger takes no errors."""
    known = (logging.root.manager.loggerDict.get(name) for name in _SERVERS)
    loggers = [one for one in known if isinstance(one, logging.Logger)]
    return bool(loggers) and not any(takes_errors(one, by_last_resort=True) for one in loggers)


logger = _Logger(logging.getLogger("asgi_lifespan_mw"))
