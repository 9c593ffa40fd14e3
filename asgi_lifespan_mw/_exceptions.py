"""The errors of the package: each says who, in which phase, what would have been right and what to do.

Their arguments are kept as attributes, and the text is made of them, so that an error can be pickled, copied and
read by a program as well as by a person.
"""

from dataclasses import dataclass
from typing import ClassVar, final


class LifespanError(Exception):
    """The root of this package's own errors.

    An exception that a hook or an app raises is never wrapped in one of these: it comes out as it is.

    >>> issubclass(StartupFailed, LifespanError), issubclass(StateCollision, LifespanError)
    (True, True)
    """

    def __post_init__(self) -> None:
        """Have `repr`, `pickle` and `copy` know the arguments, however they were given."""
        self.args: tuple[object, ...] = tuple(vars(self).values())


@dataclass(eq=False, repr=False)
class _Failed(LifespanError):
    """What the errors of both phases have in common."""

    unit: str
    reason: str = ""
    _phase: ClassVar[str]

    def __str__(self) -> str:
        return f"{self._phase} failed in {self.unit}: {self.reason or 'it gave no reason'}"


@final
class StartupFailed(_Failed):
    """A unit said that its startup failed, without an exception of its own to raise.

    Args:
        unit: who failed, as the log names it, such as ``mount '/admin'``.
        reason: what it said, or what happened to it; may be empty.

    >>> print(StartupFailed("mount '/admin'", "no database"))
    startup failed in mount '/admin': no database
    """

    _phase = "startup"


@final
class ShutdownFailed(_Failed):
    """A unit said that its shutdown failed, without an exception of its own to raise.

    Args:
        unit: who failed, as the log names it.
        reason: what it said, or what happened to it; may be empty.

    >>> print(ShutdownFailed("app FastAPI"))
    shutdown failed in app FastAPI: it gave no reason
    """

    _phase = "shutdown"


@final
@dataclass(eq=False, repr=False)
class LifespanTimeout(LifespanError, TimeoutError):
    """A unit did not start or stop in time. It is a ``TimeoutError`` too.

    Args:
        unit: who was at work when the time ran out.
        phase: ``"startup"`` or ``"shutdown"``.
        seconds: the limit that ran out.

    >>> print(LifespanTimeout("hook 'load_model' (shop/models.py:41)", "startup", 30))
    startup timed out after 30 s in hook 'load_model' (shop/models.py:41)
    """

    unit: str
    phase: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.phase} timed out after {self.seconds:g} s in {self.unit}"


@final
@dataclass(eq=False, repr=False)
class LifespanNotSupported(LifespanError):
    """An app that was to be driven through its lifespan turned the lifespan away.

    Args:
        unit: the app, as the log names it.

    >>> print(LifespanNotSupported("app ASGIHandler"))  # doctest: +ELLIPSIS
    app ASGIHandler does not support the lifespan protocol: it raised or returned before it had answered ...
    """

    unit: str

    def __str__(self) -> str:
        return (
            f"{self.unit} does not support the lifespan protocol: it raised or returned before it had answered "
            "'lifespan.startup'; send requests to it without a lifespan, or wrap it in LifespanMiddleware"
        )


@final
@dataclass(eq=False, repr=False)
class ProtocolViolation(LifespanError):
    """An app or a server did what the lifespan protocol does not allow.

    Args:
        culprit: who did it, as the log names it.
        deed: what it did, in the past tense.
        phase: where the lifespan stood.
        expected: what would have been right.

    >>> print(ProtocolViolation("app shop()", "sent 'lifespan.shutdown.complete'", "starting", "an answer to it"))
    app shop() sent 'lifespan.shutdown.complete' while starting; expected an answer to it
    """

    culprit: str
    deed: str
    phase: str
    expected: str

    def __str__(self) -> str:
        return f"{self.culprit} {self.deed} while {self.phase}; expected {self.expected}"


@final
@dataclass(eq=False, repr=False)
class StateCollision(LifespanError):
    """Two units set the same key of the lifespan state to different objects.

    Args:
        key: the key of ``scope["state"]``.
        first: the unit that had set it.
        second: the unit that set it anew.
        advice: what to do about it.

    >>> print(StateCollision("db", "app FastAPI", "mount '/admin'", "rename one of them"))
    state key 'db' was set by app FastAPI and set to another object by mount '/admin'; rename one of them
    """

    key: str
    first: str
    second: str
    advice: str

    def __str__(self) -> str:
        return (
            f"state key {self.key!r} was set by {self.first} and set to another object by {self.second}; {self.advice}"
        )
