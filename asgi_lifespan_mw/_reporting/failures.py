"""The words for a failure: a headline and a traceback, for the log, for the server and for the exception to raise.

The headline of a failure is the same everywhere. The traceback is printed in one place: in the log if a handler takes
its ERROR records, else by the server, as part of the message of ``lifespan.*.failed``.
"""

import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from .._exceptions import LifespanError, LifespanTimeout, ProtocolViolation, ShutdownFailed, StartupFailed
from .._log import logger, takes_errors
from .._types import is_a
from .._units.failure import FailedPhase, Failure, text_of
from .tracebacks import shown_of, trim, users_traceback

_TRACEBACK: Final = "Traceback (most recent call last):"

_ADVICE: Final = {
    "RuntimeError: StreamableHTTPSessionManager .run() can only be called once per instance. Create a new instance if "
    "you need to run again.": "{unit} seems to run already: remove session_manager.run() from the lifespan of its "
    "parent, or list the app in exclude=[...]; if it ran before, make a new app",
}
"""Advice for an error that is known by its full message."""

_ADVICE_BY_TYPE: Final = {
    "django.core.exceptions.SynchronousOnlyOperation": "run the hook in a worker thread: threaded(hook)",
}
"""Advice for an error that is known by its type."""


def summarize(failure: Failure) -> str:
    """Return the headline of a failure: its phase and unit, the error's own message, and advice if there is any."""
    error, who = failure.error, f"{failure.phase.value} in {failure.unit}"
    if is_a(error, StartupFailed, ShutdownFailed) and error.unit == failure.unit:
        headline = f"{who}: {_last_line(error.reason) or 'it gave no reason'}"
    elif is_a(error, LifespanTimeout, ProtocolViolation) and error.args[0] == failure.unit:
        headline = f"{error}; it was {failure.location}" if failure.location else str(error)
    else:
        headline = f"{who}: {text_of(error)}"
    advice = failure.advice or _advice(failure)
    return f"{headline} ({advice})" if advice else headline


def summarize_other(error: BaseException) -> str:
    """Return the headline of an error in a startup that was not a unit's, such as a collision of state."""
    return f"startup failed: {error if is_a(error, LifespanError) else text_of(error)}"


def log_failure(failure: Failure, *, with_traceback: bool = True) -> None:
    """Log the headline of a failure, and its traceback if it has one. An optional unit's is a WARNING."""
    more = "; it is optional, all else goes on" if failure.is_optional else ""
    level = logging.WARNING if failure.is_optional else logging.ERROR
    log_error(summarize(failure) + more, failure.error, with_traceback=with_traceback, level=level)


def log_error(headline: str, error: BaseException, *, with_traceback: bool = True, level: int = logging.ERROR) -> None:
    """Log a headline, and the traceback of `error` if it has one."""
    shown = shown_of(error)
    has_traceback = with_traceback and users_traceback(shown)
    # A tuple, because `logging` takes a falsy exception for none.
    logger.log(level, "%s", headline, exc_info=(type(shown), shown, shown.__traceback__) if has_traceback else None)


def is_read(*, by_last_resort: bool = False) -> bool:
    """Return whether a handler takes the ERROR records of this package.

    `logging.lastResort` counts only if `by_last_resort` is true: a server that receives a failure prints it in a better
    place.
    """
    return takes_errors(logger.logger, by_last_resort=by_last_resort)


def format_failures(
    failures: Sequence[Failure], other: BaseException | None = None, *, with_tracebacks: bool | None = None
) -> str:
    """Return the failures as a string: each headline, the cause first, the message of its app, and tracebacks.

    Args:
        failures: The failures of units.
        other: An error that was not a unit's, such as a collision of state, or None.
        with_tracebacks: Whether tracebacks are in it; None for those that are not in the log.
    """
    parts: list[str] = []
    if other is not None:
        parts.append(summarize_other(other))
        if not is_read() if with_tracebacks is None else with_tracebacks:
            parts.append(users_traceback(other))
    for failure in failures:
        headline = summarize(failure)
        parts += [headline, _app_text(failure, headline)]
        is_logged = is_read(by_last_resort=failure.phase is FailedPhase.SERVING)
        if not is_logged if with_tracebacks is None else with_tracebacks:
            parts.append(users_traceback(failure.error))
    return "\n\n".join(part for part in parts if part)


def merge(phase: str, errors: Sequence[BaseException]) -> BaseException:
    """Return the exception to raise: a single error as itself, several as a group, the cause first.

    Their tracebacks begin at the user's first frame.
    """
    distinct = list({id(error): error for error in errors}.values())
    for error in distinct:
        trim(error)
    if len(distinct) > 1:
        with suppress(BaseException):  # a group asks the `__class__` of its members, which may raise
            return BaseExceptionGroup(f"{phase} failed, the cause first", distinct)
    return distinct[0]


def _app_text(failure: Failure, headline: str) -> str:
    """Return the message of a failed app, without the headline and the traceback that Starlette sends."""
    message = failure.app_message.strip()
    if not is_a(failure.error, StartupFailed, ShutdownFailed):  # Starlette sends a traceback, and raises
        message = "\n".join(itertools.takewhile(lambda line: _TRACEBACK not in line, message.splitlines())).strip()
    return "" if message in headline else message


def _last_line(reason: str) -> str:
    """Return a reason as it is, or the last line of one that is a traceback."""
    return reason.strip().splitlines()[-1] if _TRACEBACK in reason else reason


def _advice(failure: Failure) -> str:
    """Return the advice for an error that is known; "" for others."""
    error = failure.error
    known = (_ADVICE_BY_TYPE.get(f"{cls.__module__}.{cls.__qualname__}", "") for cls in type(error).__mro__)
    return _ADVICE.get(text_of(error), "").format(unit=failure.unit) or next(filter(None, known), "")
