"""What the user sets: refused with a clear error where it is wrong."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from asgi_lifespan_mw import Lifespan, LifespanManager, LifespanMiddleware


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An app that is never called."""


class AppClass:
    """An app that has to be made first."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def middleware(**settings: Any) -> LifespanMiddleware:
    """Wrap the app."""
    return LifespanMiddleware(app, **settings)


def manager(**settings: Any) -> LifespanManager:
    """Drive the app."""
    return LifespanManager(app, **settings)


HAVE_MOUNTS = [(middleware, "LifespanMiddleware"), (Lifespan, "Lifespan")]
HAVE_TIMEOUTS = [(middleware, "LifespanMiddleware"), (manager, "LifespanManager")]


@pytest.mark.parametrize(("make", "who"), HAVE_MOUNTS)
@pytest.mark.parametrize(
    "mounts",
    ["auto", "off", [app], (AppClass(),), [], {app}, (one for one in [app])],
    ids=lambda given: type(given).__name__ + str(given)[:4],
)
def test_mounts_are_a_word_or_apps(make: Callable[..., Any], who: str, mounts: Any) -> None:
    """One of the two words, or any iterable of apps."""
    assert make(mounts=mounts)


@pytest.mark.parametrize(("make", "who"), HAVE_MOUNTS)
@pytest.mark.parametrize("mounts", ["Auto", "on", ""])
def test_another_word_for_mounts_is_refused(make: Callable[..., Any], who: str, mounts: str) -> None:
    """The refusal shows it, and the words that there are."""
    with pytest.raises(
        ValueError, match=rf"^{who}\(mounts=\.\.\.\) got {mounts!r}, expected 'auto', 'off' or a sequence of apps"
    ):
        make(mounts=mounts)


@pytest.mark.parametrize(("make", "who"), HAVE_MOUNTS)
@pytest.mark.parametrize("mounts", [None, True, 5, b"auto", app], ids=["None", "bool", "number", "bytes", "one app"])
def test_mounts_that_are_no_sequence_are_refused(make: Callable[..., Any], who: str, mounts: Any) -> None:
    """A single app is the likely slip; the refusal shows the right form."""
    expected = (
        rf"^{who}\(mounts=\.\.\.\) got {re.escape(repr(mounts))}, expected 'auto', 'off' or a sequence .*\[admin\]"
    )
    with pytest.raises(TypeError, match=expected):
        make(mounts=mounts)


@pytest.mark.parametrize(("make", "who"), HAVE_MOUNTS)
@pytest.mark.parametrize(
    "exclude", [None, 5, "auto", "/admin", b"off", app], ids=["None", "number", "word", "path", "bytes", "one app"]
)
def test_exclude_that_is_no_sequence_is_refused(make: Callable[..., Any], who: str, exclude: Any) -> None:
    """A single app, or a path, is the likely slip; the refusal shows the right form."""
    expected = (
        rf"^{who}\(exclude=\.\.\.\) got {re.escape(repr(exclude))}, expected a sequence of apps, such as \[admin\]"
    )
    with pytest.raises(TypeError, match=expected):
        make(exclude=exclude)


@pytest.mark.parametrize(("make", "who"), HAVE_MOUNTS)
@pytest.mark.parametrize("argument", ["mounts", "exclude"])
def test_what_is_no_app_among_apps_is_refused(make: Callable[..., Any], who: str, argument: str) -> None:
    """A path or a class in the sequence: the refusal shows it and says what an app is."""
    with pytest.raises(
        TypeError, match=rf"^{who}\({argument}=\.\.\.\) got '/admin', .*async def app\(scope, receive, send\)"
    ):
        make(**{argument: ["/admin"]})
    with pytest.raises(TypeError, match=rf"^{who}\({argument}=\.\.\.\) got the class AppClass, .*give an instance"):
        make(**{argument: [AppClass]})


@pytest.mark.parametrize(("make", "who"), HAVE_TIMEOUTS)
@pytest.mark.parametrize("argument", ["startup_timeout", "shutdown_timeout"])
@pytest.mark.parametrize("seconds", [None, 1, 0.5, float("inf")])
def test_a_timeout_is_a_positive_number_or_none(
    make: Callable[..., Any], who: str, argument: str, seconds: Any
) -> None:
    """Infinity is as good as None."""
    assert make(**{argument: seconds})


@pytest.mark.parametrize(("make", "who"), HAVE_TIMEOUTS)
@pytest.mark.parametrize("argument", ["startup_timeout", "shutdown_timeout"])
@pytest.mark.parametrize("seconds", ["30", True, False, b"1", [1], 1j])
def test_a_timeout_that_is_no_number_is_refused(
    make: Callable[..., Any], who: str, argument: str, seconds: Any
) -> None:
    """The refusal names the argument, shows what was given, and says what None means."""
    expected = rf"^{who}\({argument}=\.\.\.\) got {re.escape(repr(seconds))}, expected seconds as a number, or None"
    with pytest.raises(TypeError, match=expected):
        make(**{argument: seconds})


@pytest.mark.parametrize(("make", "who"), HAVE_TIMEOUTS)
@pytest.mark.parametrize("argument", ["startup_timeout", "shutdown_timeout"])
@pytest.mark.parametrize("seconds", [0, 0.0, -1, float("-inf"), float("nan")])
def test_a_timeout_that_is_not_positive_is_refused(
    make: Callable[..., Any], who: str, argument: str, seconds: Any
) -> None:
    """The refusal names the argument, shows what was given, and says what None means."""
    expected = rf"^{who}\({argument}=\.\.\.\) got {seconds!r}, expected more than 0 seconds, or None for no limit"
    with pytest.raises(ValueError, match=expected):
        make(**{argument: seconds})


@pytest.mark.parametrize("on_crash", ["Log", "restart", ""])
def test_another_word_for_on_crash_is_refused(on_crash: Any) -> None:
    """The refusal shows it, and the words that there are."""
    with pytest.raises(ValueError, match=rf"on_crash=\.\.\.\) got {on_crash!r}, expected 'log', 'stop' or a plain"):
        middleware(on_crash=on_crash)


async def coroutine_function(error: BaseException) -> None:
    """Nobody would await it."""


@pytest.mark.parametrize("on_crash", [None, 5, coroutine_function], ids=["None", "number", "async def"])
def test_an_on_crash_that_is_no_plain_function_is_refused(on_crash: Any) -> None:
    """The refusal shows it, and says what it is called with."""
    with pytest.raises(TypeError, match=r"on_crash=\.\.\.\) got .*, expected 'log', 'stop' or a plain function"):
        middleware(on_crash=on_crash)
