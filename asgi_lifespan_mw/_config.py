"""The settings of a run, and the checks of the arguments that set them."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, final

from ._asgi import checked_app
from ._types import ASGIApp

Mounts: TypeAlias = Literal["auto", "off"] | tuple[ASGIApp, ...]
OptionalApps: TypeAlias = tuple[ASGIApp | Literal["mounts"], ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run. The arguments of `LifespanMiddleware` explain them."""

    mounts: Mounts = "auto"
    exclude: tuple[ASGIApp, ...] = ()
    optional: OptionalApps = ()
    concurrent: bool = False
    strict: bool = False
    startup_timeout: float | None = None
    shutdown_timeout: float | None = None
    mount_timeout: float | None = None


def check(where: str, given: object, expected: str, *, fits: object, refusal: type[Exception] = TypeError) -> None:
    """Refuse an argument unless it fits.

    Args:
        where: The call and the argument, for the message.
        given: The user's argument.
        expected: What belongs there, in words.
        fits: Whether the argument is right.
        refusal: `TypeError` for the wrong kind of thing, `ValueError` for a wrong value.
    """
    if not fits:
        raise refusal(f"{where} got {given!r}, expected {expected}")


def checked_mounts(mounts: object, who: str) -> Mounts:
    """Return ``"auto"``, ``"off"`` or a tuple of apps.

    Raises:
        TypeError: If `mounts` is not a sequence of apps.
        ValueError: If `mounts` is another string.
    """
    return cast("Mounts", _word_or_apps(mounts, f"{who}(mounts=...)", "auto", "off"))


def checked_optional(optional: object, who: str) -> OptionalApps:
    """Return a tuple of apps; ``("mounts",)`` for all mounts.

    Raises:
        TypeError: If `optional` is not a sequence of apps.
        ValueError: If `optional` is another string.
    """
    apps = _word_or_apps(optional, f"{who}(optional=...)", "mounts")
    return ("mounts",) if isinstance(apps, str) else apps


def _word_or_apps(given: object, where: str, *words: str) -> str | tuple[ASGIApp, ...]:
    """Return one of the words, or a sequence of apps as a tuple.

    Raises:
        TypeError: If `given` is not a sequence of apps.
        ValueError: If `given` is another string.
    """
    expected = f"{', '.join(map(repr, words))} or a sequence of apps"
    if isinstance(given, str):
        check(where, given, expected, fits=given in words, refusal=ValueError)
        return given
    return checked_apps(given, where, f"{expected}, such as [admin]")


def checked_apps(
    apps: object, where: str, expected: str = "a sequence of apps, such as [admin]"
) -> tuple[ASGIApp, ...]:
    """Return a sequence of apps as a tuple.

    Raises:
        TypeError: If `apps` is not a sequence, or one of them is not an app.
    """
    check(where, apps, expected, fits=is_sequence(apps))
    return tuple(checked_app(app, where) for app in cast("Iterable[object]", apps))


def is_sequence(given: object) -> bool:
    """Return whether an argument holds several things: not one app or function, which may happen to be iterable."""
    return not callable(given) and not isinstance(given, (str, bytes)) and isinstance(given, Iterable)


def is_plain_function(given: object) -> bool:
    """Return whether an object can be called, and the call does not make a coroutine."""
    call = getattr(given, "__call__", None)  # noqa: B004 - of an object whose `__call__` is a coroutine function
    return callable(given) and not (inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(call))


def checked_flag(flag: object, where: str) -> bool:
    """Return `flag`.

    Raises:
        TypeError: If `flag` is not True or False. ``concurrent=os.environ["CONCURRENT"]`` is "0" and counts as true.
    """
    check(where, flag, "True or False", fits=isinstance(flag, bool))
    return cast("bool", flag)


def checked_seconds(seconds: object, where: str, without: str = "for no limit") -> float | None:
    """Return a positive number of seconds, or None.

    Args:
        seconds: The user's argument.
        where: The call and the argument, for the message.
        without: What None is for, for the message.

    Raises:
        TypeError: If `seconds` is not a number.
        ValueError: If `seconds` is not positive.
    """
    if seconds is None:
        return None
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    check(where, seconds, f"seconds as a number, or None {without}", fits=is_number)
    number = cast("float", seconds)
    check(where, seconds, f"more than 0 seconds, or None {without}", fits=number > 0, refusal=ValueError)  # NaN is not
    return number
