"""What failed, in words: for the server's log, for ours, and as the exception that is raised."""

import logging
import os
import re
import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType

from .._exceptions import LifespanError, LifespanTimeout, ProtocolViolation, ShutdownFailed, StartupFailed
from .._units.unit import Unit, UnitState

logger = logging.getLogger("asgi_lifespan_mw")

CAUSE_FIRST = "the cause first"
"""What the message of a group of ours ends with."""

_NOT_THE_USERS = (os.path.dirname(os.path.dirname(__file__)) + os.sep, os.sep + "contextlib.py")  # noqa: PTH120 - parts of file names
_IMPORTING = (*_NOT_THE_USERS, "<frozen importlib", os.sep + "importlib" + os.sep)
_INSTALLED = (*_IMPORTING, "site-packages", "dist-packages", os.path.dirname(os.__file__) + os.sep)  # noqa: PTH120
_DEEDS = {UnitState.STARTING: "startup failed", UnitState.STARTED: "crash"}
_RUNS_ALREADY = re.compile(r"\b(already|only be called once|once per)\b")


def summarize(unit: Unit) -> str:
    """One line on a failed unit: in which phase, who, the error's own text, and advice where there is some."""
    error = unit.error
    told = f"{failed_phase(unit)} in {unit.name}: "
    if isinstance(error, (StartupFailed, ShutdownFailed)) and error.unit == unit.name:
        told += error.reason or "it gave no reason"
    elif isinstance(error, (LifespanTimeout, ProtocolViolation)) and error.args[0] == unit.name:
        told = "; ".join([str(error), *getattr(error, "__notes__", ())])
    else:
        told += _text(error)
    # What helps an app that was started twice: the MCP SDK's session manager, run by hand in its parent's lifespan.
    may_run = unit.failed_in is UnitState.STARTING and not unit.is_hook and not isinstance(error, OSError)
    if may_run and _RUNS_ALREADY.search(f"{_text(error)} {unit.app_message}"):
        told += (
            f" ({unit.name} seems to run already: if something else starts it, such as the lifespan of its parent, "
            "leave it out with exclude=[the app])"
        )
    return told


def failed_phase(unit: Unit) -> str:
    """What became of a failed unit."""
    return _DEEDS.get(unit.failed_in or UnitState.OVER, "shutdown failed")


def log_failures(units: Iterable[Unit]) -> None:
    """Log each failure at ERROR, with its traceback, but for the crashes, which were logged when they came."""
    for unit in units:
        if unit.failed_in is not UnitState.STARTED:
            log_failure(unit)


def log_failure(unit: Unit) -> None:
    """Log one failure at ERROR, with its traceback."""
    error = unit.error
    logger.error("%s", summarize(unit), exc_info=error and (type(error), error, _users_part(error)))


def format_failures(units: Sequence[Unit], other: BaseException | None = None) -> str:
    """The message of a ``lifespan.*.failed``: all that went wrong, with tracebacks, the cause first.

    Args:
        units: the units that failed.
        other: an error that was no unit's: a collision of state, or an object that could not be looked at.
    """
    told: list[str] = []
    if other is not None:
        told.append(_traced(str(other) if isinstance(other, LifespanError) else _text(other), other))
    for unit in units:
        line = summarize(unit)
        said = "" if unit.app_message in line else f"\n\n{unit.app_message.strip()}"
        told.append(_traced(line + said, unit.error))
    return "\n\n".join(told)


def merge(phase: str, errors: Sequence[BaseException]) -> BaseException:
    """What to raise: one error as itself, several as a group, the cause first."""
    distinct = list({id(error): error for error in errors}.values())
    if len(distinct) == 1:
        return distinct[0]
    return BaseExceptionGroup(f"{phase} failed, {CAUSE_FIRST}", distinct)


def users_traceback(error: BaseException) -> str:
    """An error with its traceback from where code begins that is neither ours, nor Python's, nor installed."""
    return _formatted(error, _users_part(error, _INSTALLED) or _users_part(error, _IMPORTING))


def _traced(text: str, error: BaseException | None) -> str:
    """What is told of an error, with the traceback, unless it has that already: Starlette sends it as its message."""
    assert error is not None, "a unit that failed has one"
    part = _users_part(error)
    # One that we made of a message or a time limit has no line of the user's behind it.
    is_ours = isinstance(error, LifespanError) and error.__cause__ is None and part is None
    if is_ours or "Traceback (most recent call last)" in text:
        return text
    return f"{text}\n\n{_formatted(error, part or error.__traceback__)}"


def _formatted(error: BaseException, part: TracebackType | None) -> str:
    return "".join(traceback.format_exception(type(error), error, part)).strip()


def _text(error: BaseException | None) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _users_part(error: BaseException, others: tuple[str, ...] = _NOT_THE_USERS) -> TracebackType | None:
    """The traceback from where the user's code begins; None where there is none of it."""
    part = error.__traceback__
    while part is not None and any(place in part.tb_frame.f_code.co_filename for place in others):
        part = part.tb_next
    return part
