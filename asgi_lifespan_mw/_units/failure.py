"""`Failure`: the record of one unit's failure, which log, answer and report render."""

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import cast, final

from .._exceptions import ShutdownFailed, StartupFailed
from .._types import is_a


class FailedPhase(Enum):
    """The phase in which a unit failed; the values begin its headline."""

    STARTUP = "startup failed"
    SERVING = "crash"
    RUN = "run failed"
    """One run of a worker that goes on: it is logged, and its unit does not fail."""
    SHUTDOWN = "shutdown failed"


@final
@dataclass(slots=True, eq=False)
class Failure:
    """The failure of one unit.

    Attributes:
        unit: The unit's name in messages, such as ``hook 'open_pool' (shop/db.py:12)``.
        phase: The phase in which the unit failed.
        error: The exception. An app that sends a bare message may raise a better one afterwards, which replaces it.
        app_message: The message that an app sent with its failure; "" if there is none.
        location: What the unit waited for when its time ran out, such as "at shop/db.py:12"; "" if that is unknown, and
            for other failures.
        advice: What the user can do about the failure; "" if that is unknown. It ends the headline.
        is_optional: Whether everything else goes on, so that the run does not fail.
    """

    unit: str
    phase: FailedPhase
    error: BaseException
    app_message: str = ""
    location: str = ""
    advice: str = ""
    is_optional: bool = False

    def add(self, later: BaseException) -> None:
        """Record what the unit raised after it had failed.

        An app that reports a failure often raises its cause afterwards. Then the cause is the better error.
        """
        first = self.error
        with suppress(BaseException):  # `derive` of the user's group may raise anything
            if is_a(later, BaseExceptionGroup):  # send() raised a ProtocolViolation in a task group of the app
                known, rest = later.split(lambda one: one is first)
                if rest is None:
                    return
                later = later if known is None else rest
        if is_a(first, StartupFailed, ShutdownFailed) or any(one is first for one in _origins(later)):
            self.error = later
        else:
            with suppress(BaseException):  # a property of the user's exception class may raise anything
                first.__context__ = later


def _origins(error: BaseException) -> list[BaseException]:
    """Return `error`, the members of a group, and all exceptions that they were raised from or after."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or any(one is other for other in found):
            continue
        found.append(one)
        if is_a(one, BaseExceptionGroup):  # its own context differs between event loops
            todo += members(one)
            continue
        with suppress(BaseException):  # as above
            todo += [one.__cause__, one.__context__]
    return found


def text_of(error: BaseException) -> str:
    """Return the type and the message of `error`; for a group with a single member, those of that member."""
    error = leaf_of(error)
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"
    try:
        text = str(error)
    except BaseException:  # `__str__` of the user's may raise anything, and this is not the time to end the process
        return f"<unprintable {name}>"
    return f"{name}: {text}" if text else name


def leaf_of(error: BaseException) -> BaseException:
    """Return the member of a group with a single member, at any depth; any other exception as it is."""
    while is_a(error, BaseExceptionGroup) and len(found := members(error)) == 1:
        error = found[0]
    return error


def members(group: BaseException) -> tuple[BaseException, ...]:
    """Return the members of an exception group, whatever a user's class makes of the attribute."""
    return cast("tuple[BaseException, ...]", vars(BaseExceptionGroup)["exceptions"].__get__(group))
