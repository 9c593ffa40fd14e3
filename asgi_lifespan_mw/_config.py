"""The settings of a run, and the checks of the arguments that set them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, final

from ._asgi import checked_app
from ._types import ASGIApp

Mounts: TypeAlias = Literal["auto", "off"] | tuple[ASGIApp, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run. The arguments of `LifespanMiddleware` explain them."""

    mounts: Mounts = "auto"
    exclude: tuple[ASGIApp, ...] = ()
    concurrent: bool = False
    strict: bool = False
    startup_timeout: float | None = None
    shutdown_timeout: float | None = None
    mount_timeout: float | None = None


def checked_mounts(mounts: object, who: str) -> Mounts:
    """Return ``"auto"``, ``"off"`` or a tuple of apps.

    Raises:
        TypeError: If `mounts` is not a sequence of apps.
        ValueError: If `mounts` is another string.
    """
    if isinstance(mounts, str):
        if mounts == "auto":
            return "auto"
        if mounts == "off":
            return "off"
        raise ValueError(f"{who}(mounts=...) got {mounts!r}, expected 'auto', 'off' or a sequence of apps")
    return checked_apps(mounts, f"{who}(mounts=...)", "'auto', 'off' or a sequence of apps, such as [admin]")


def checked_apps(
    apps: object, where: str, expected: str = "a sequence of apps, such as [admin]"
) -> tuple[ASGIApp, ...]:
    """Return the apps that the user gave, as a tuple.

    Raises:
        TypeError: If `apps` is not a sequence, or one of them is not an app.
    """
    # exclude=admin, where [admin] is meant: an app may happen to be iterable.
    if callable(apps) or isinstance(apps, (str, bytes)) or not isinstance(apps, Iterable):
        raise TypeError(f"{where} got {apps!r}, expected {expected}")
    return tuple(checked_app(app, where) for app in cast("Iterable[object]", apps))


def checked_flag(flag: object, where: str) -> bool:
    """Return `flag`.

    Raises:
        TypeError: If it is not True or False.
    """
    if not isinstance(flag, bool):
        raise TypeError(f"{where} got {flag!r}, expected True or False")
    return flag


def checked_seconds(seconds: object, where: str) -> float | None:
    """Return a positive number of seconds, or None for no limit.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive, or too large for a float.
    """
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{where} got {seconds!r}, expected seconds as a number, or None for no limit")
    try:
        limit = float(seconds)
    except OverflowError:  # such a number may be too long to print, too
        raise ValueError(f"{where} got a number that is too large for a float; pass None for no limit") from None
    if not limit > 0:  # NaN is not
        raise ValueError(f"{where} got {seconds!r}, expected more than 0 seconds, or None for no limit")
    return limit
