"""The exceptions of the package. Each names the unit, the phase, what was expected, and how to fix it.

The arguments of an exception are its attributes. Its message is made from them, so it can be pickled and copied.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar, final


class LifespanError(Exception):
    """The base class of this package's exceptions.

    An exception of a hook or an app is never wrapped in one of these: it propagates as it is.

    >>> issubclass(StartupFailed, LifespanError), issubclass(StateCollision, LifespanError)
    (True, True)
    """

    def __post_init__(self) -> None:
        """Set `args`, which `repr`, `pickle` and `copy` use, from positional and keyword arguments."""
        self.args: tuple[object, ...] = tuple(vars(self).values())


@dataclass(eq=False, repr=False)
class _Failed(LifespanError):
    """The base class of `StartupFailed` and `ShutdownFailed`."""

    unit: str
    reason: str = ""
    _phase: ClassVar[str]

    def __str__(self) -> str:
        return f"{self._phase} failed in {self.unit}: {self.reason or 'it gave no reason'}"


@final
class StartupFailed(_Failed):
    """A unit failed to start and raised no exception of its own.

    Args:
        unit: The unit's name in messages, such as ``mount '/admin'``.
        reason: The message that the app sent, or what happened to the unit; "" if there is none.

    >>> print(StartupFailed("mount '/admin'", "no database"))
    startup failed in mount '/admin': no database
    """

    _phase = "startup"


@final
class ShutdownFailed(_Failed):
    """A unit failed to stop and raised no exception of its own.

    Args:
        unit: The unit's name in messages.
        reason: The message that the app sent, or what happened to the unit; "" if there is none.

    >>> print(ShutdownFailed("app FastAPI"))
    shutdown failed in app FastAPI: it gave no reason
    """

    _phase = "shutdown"


@final
@dataclass(eq=False, repr=False)
class LifespanTimeout(LifespanError, TimeoutError):
    """A unit did not start or stop in time. This is a ``TimeoutError`` too.

    Args:
        unit: The name of the unit that was at work when the time ran out.
        phase: ``"startup"`` or ``"shutdown"``.
        seconds: The time limit.

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
    """An app that `LifespanManager` runs does not support the lifespan protocol.

    Args:
        unit: The app's name in messages.

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
    """An app or a server broke the lifespan protocol.

    Args:
        source: The name of the app in messages, or ``the server``.
        action: What the app or the server did, in the past tense.
        phase: The phase of the lifespan, such as ``"starting"``.
        expected: What the protocol expects in this phase.

    >>> print(ProtocolViolation("app shop()", "sent 'lifespan.shutdown.complete'", "starting", "an answer to it"))
    app shop() sent 'lifespan.shutdown.complete' while starting; expected an answer to it
    """

    source: str
    action: str
    phase: str
    expected: str

    def __str__(self) -> str:
        return f"{self.source} {self.action} while {self.phase}; expected {self.expected}"

    @property
    def culprit(self) -> str:
        """The old name of `source`."""
        return _renamed(self.source, "culprit", "source")

    @property
    def deed(self) -> str:
        """The old name of `action`."""
        return _renamed(self.action, "deed", "action")


@final
@dataclass(eq=False, repr=False)
class StateCollision(LifespanError):
    """Two units set the same key of the lifespan state to different objects.

    Args:
        key: The key of ``scope["state"]``.
        first: The name of the unit that set the key first.
        second: The name of the unit that set the key to another object.
        advice: How to fix it.

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


def _renamed(value: str, old: str, new: str) -> str:
    warnings.warn(f"ProtocolViolation.{old} is called {new} now", DeprecationWarning, stacklevel=3)
    return value


# In tracebacks, an error has the name by which users import it.
for _error in (LifespanError, *LifespanError.__subclasses__(), *_Failed.__subclasses__()):
    _error.__module__ = __name__.rpartition(".")[0]
