"""The text of an exception, and the part of its traceback that is shown."""

import asyncio
import functools
import json
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import anyio
import pytest
from httpx import URL
from starlette.routing import compile_path

from asgi_lifespan_mw import LifespanTimeout
from asgi_lifespan_mw._asgi import checked_app
from asgi_lifespan_mw._reporting.tracebacks import users_traceback
from asgi_lifespan_mw._units.failure import text_of


def raised(function: Callable[[], object]) -> BaseException:
    """Return what a function raises, without the frame of this one."""
    try:
        function()
    except BaseException as error:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    raise AssertionError("nothing was raised")  # pragma: no cover - a mistake in a test


def fails() -> NoReturn:
    """Fail."""
    raise OSError("no such host")


def files(text: str) -> list[str]:
    """Return the names of the files in a printed traceback, without their folders."""
    return [file.rpartition("/")[2] for file in re.findall(r'File "(.*?)"', text)]


def through_a_library(function: Callable[[], object]) -> Callable[[], object]:
    """Have a function called by installed code, which is called by the standard library."""
    backend = sys.modules["anyio._core._eventloop"]
    assert "site-packages" in str(backend.__file__)

    async def call() -> None:
        function()

    return functools.partial(anyio.run, call)


def test_a_traceback_begins_at_the_first_frame_of_the_user() -> None:
    """The frames of installed code and of the standard library before it are removed."""
    error = raised(through_a_library(fails))
    assert "_eventloop.py" in files("".join(traceback.format_exception(error)))
    text = users_traceback(error)
    assert files(text) == ["test_tracebacks.py"] * 2  # of `call` and `fails`
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("\nOSError: no such host")


def test_the_exception_itself_is_trimmed() -> None:
    """What a server prints when the exception is raised to it has the same frames."""
    error = raised(through_a_library(fails))
    text = users_traceback(error)
    assert "".join(traceback.format_exception(error)).strip() == text
    assert users_traceback(error) == text


def test_what_comes_after_the_first_frame_of_the_user_is_kept() -> None:
    """The frames of the library that the user's code called tell why it failed."""
    error = raised(lambda: json.loads("{"))
    assert files(users_traceback(error))[:2] == ["test_tracebacks.py", "__init__.py"]


def test_an_exception_of_installed_code_is_shown_from_there_on() -> None:
    """A method of a library may be a hook, with no frame of the user's."""
    text = users_traceback(raised(functools.partial(URL, "http://a:b")))
    assert set(files(text)) == {"_urls.py", "_urlparse.py"}


def test_a_framework_is_not_shown_alone() -> None:
    """Its frames lead to code of others, and say nothing by themselves."""
    assert users_traceback(raised(functools.partial(compile_path, "{a:b}"))) == ""


def test_an_exception_of_this_package_has_no_traceback_without_the_users_frames() -> None:
    """Its own frames say nothing to a user."""
    error = raised(functools.partial(checked_app, 1, "f()"))
    assert error.__traceback__ is not None
    assert users_traceback(error) == ""
    assert error.__traceback__ is None


def test_an_exception_that_was_not_raised_has_no_traceback() -> None:
    """As a timeout is not."""
    assert users_traceback(LifespanTimeout("hook 'a'", "startup", 1)) == ""


def test_a_cause_with_frames_of_the_users_is_shown() -> None:
    """The failure is ours, its cause has the line."""
    error = LifespanTimeout("hook 'a'", "startup", 1)
    error.__cause__ = raised(through_a_library(fails))
    text = users_traceback(error)
    assert "direct cause of the following exception" in text
    assert set(files(text)) == {"test_tracebacks.py"}


def test_a_context_that_is_suppressed_is_not_shown() -> None:
    """Neither are its frames counted."""
    error = LifespanTimeout("hook 'a'", "startup", 1)
    error.__context__ = raised(fails)
    assert "During handling" in users_traceback(error)
    error.__suppress_context__ = True
    assert users_traceback(error) == ""


def test_the_members_of_a_group_are_trimmed() -> None:
    """Each begins in a task, below frames of the event loop."""

    async def breaks() -> None:
        fails()

    async def opens_a_group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaks)
            tasks.start_soon(breaks)

    text = users_traceback(raised(functools.partial(anyio.run, opens_a_group)))
    assert text.count("Traceback (most recent call last)") == 3
    assert re.search(r"\| Traceback \(most recent call last\):\n    \|   File .*test_tracebacks\.py.*in breaks\n", text)


def test_a_group_of_one_is_shown_as_its_member() -> None:
    """A task group makes a group of each error in it; what is around the member says nothing."""

    async def breaks() -> None:
        fails()

    async def opens_two_groups() -> None:
        async with anyio.create_task_group(), anyio.create_task_group() as tasks:
            tasks.start_soon(breaks)

    lines = users_traceback(raised(functools.partial(anyio.run, opens_two_groups))).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith("in breaks")
    assert lines[-1] == "OSError: no such host"


def test_a_group_of_one_that_was_never_raised_is_shown_as_the_group() -> None:
    """The member has no traceback, and the group has one."""

    def raises() -> None:
        raise ExceptionGroup("several", [OSError("no such host")])

    assert "in raises" in users_traceback(raised(raises))


def test_exceptions_that_lead_to_each_other_are_shown() -> None:
    """A context may be raised again as the cause of what it led to."""
    first, second = raised(fails), raised(fails)
    first.__cause__, second.__cause__ = second, first
    assert users_traceback(first).endswith("OSError: no such host")


class Falsy(Exception):
    """An exception that is false, as one that counts its errors may be."""

    def __len__(self) -> int:
        return 0


class Unprintable(Exception):
    """An exception whose text cannot be made."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


def hostile(name: str) -> type[Exception]:
    """Make a class of exceptions whose property of that name raises."""

    def raises(error: Exception) -> NoReturn:
        raise ValueError(name)

    return type("Hostile", (Exception,), {name: property(raises)})


def test_a_falsy_exception_has_its_traceback() -> None:
    """It is compared with None, and not asked for its truth."""

    def raises() -> NoReturn:
        raise Falsy("empty")

    assert users_traceback(raised(raises)).endswith("Falsy: empty")


def test_an_exception_without_a_text_has_its_traceback() -> None:
    """Python has words for it."""

    def raises() -> NoReturn:
        raise Unprintable

    assert files(users_traceback(raised(raises)))[-1] == "test_tracebacks.py"


@pytest.mark.parametrize("name", ["__traceback__", "__context__", "__cause__", "__class__", "__notes__", "__bool__"])
def test_an_exception_that_cannot_be_read_has_a_text(name: str) -> None:
    """It may have no traceback, and harms nothing."""
    error = hostile(name)("no such host")
    users_traceback(error)
    assert text_of(error).endswith("Hostile: no such host")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("no such host"), "OSError: no such host"),
        (OSError(), "OSError"),
        (KeyError("a"), "KeyError: 'a'"),
        (SyntaxError("invalid syntax", ("x.py", 1, 1, "x =")), "SyntaxError: invalid syntax (x.py, line 1)"),
        (asyncio.QueueFull(), "asyncio.queues.QueueFull"),
        (Falsy("empty"), f"{__name__}.Falsy: empty"),
        (Unprintable(), f"<unprintable {__name__}.Unprintable>"),
        (ExceptionGroup("errors in a task group", [OSError("no such host")]), "OSError: no such host"),
        (ExceptionGroup("a", [ExceptionGroup("b", [OSError()])]), "OSError"),
        (ExceptionGroup("a", [OSError(), OSError()]), "ExceptionGroup: a (2 sub-exceptions)"),
    ],
    ids=["text", "none", "key", "syntax", "module", "falsy", "unprintable", "group", "nested groups", "two members"],
)
def test_the_text_of_an_exception_is_its_type_and_words(error: Any, expected: str) -> None:
    """A group with one member is told by that member."""
    assert text_of(error) == expected
