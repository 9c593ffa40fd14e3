"""The package's errors: what they tell, and what they survive."""

import copy
import pickle
import traceback
from typing import Any

import pytest

import asgi_lifespan_mw
from asgi_lifespan_mw import (
    LifespanError,
    LifespanNotSupported,
    LifespanTimeout,
    ProtocolViolation,
    ShutdownFailed,
    StartupFailed,
    StateCollision,
)

ERRORS: list[tuple[Any, dict[str, object], str]] = [
    (
        StartupFailed("mount '/admin'", "no database"),
        {"unit": "mount '/admin'", "reason": "no database"},
        "startup failed in mount '/admin': no database",
    ),
    (StartupFailed("app Shop"), {"unit": "app Shop", "reason": ""}, "startup failed in app Shop: it gave no reason"),
    (
        ShutdownFailed("mount '/admin'", "no database"),
        {"unit": "mount '/admin'", "reason": "no database"},
        "shutdown failed in mount '/admin': no database",
    ),
    (ShutdownFailed("app Shop"), {"unit": "app Shop", "reason": ""}, "shutdown failed in app Shop: it gave no reason"),
    (
        LifespanTimeout("hook 'load_model' (shop/models.py:41)", "startup", 30.0),
        {"unit": "hook 'load_model' (shop/models.py:41)", "phase": "startup", "seconds": 30.0},
        "startup timed out after 30 s in hook 'load_model' (shop/models.py:41)",
    ),
    (
        LifespanTimeout("app Shop", "shutdown", 0.25),
        {"unit": "app Shop", "phase": "shutdown", "seconds": 0.25},
        "shutdown timed out after 0.25 s in app Shop",
    ),
    (
        LifespanNotSupported("app Shop"),
        {"unit": "app Shop"},
        (
            "app Shop does not support the lifespan protocol: it raised or returned before it had answered "
            "'lifespan.startup'; send requests to it without a lifespan, or wrap it in LifespanMiddleware"
        ),
    ),
    (
        ProtocolViolation("app Shop", "sent 'lifespan.shutdown.complete'", "starting", "'lifespan.startup.complete'"),
        {
            "source": "app Shop",
            "action": "sent 'lifespan.shutdown.complete'",
            "phase": "starting",
            "expected": "'lifespan.startup.complete'",
        },
        "app Shop sent 'lifespan.shutdown.complete' while starting; expected 'lifespan.startup.complete'",
    ),
    (
        StateCollision("db", "app Shop", "mount '/admin'", "rename one of them"),
        {"key": "db", "first": "app Shop", "second": "mount '/admin'", "advice": "rename one of them"},
        "state key 'db' was set by app Shop and set to another object by mount '/admin'; rename one of them",
    ),
]
IDS = [f"{type(error).__name__} {number}" for number, (error, _, _) in enumerate(ERRORS)]


@pytest.mark.parametrize(("error", "attributes", "text"), ERRORS, ids=IDS)
def test_an_error_keeps_what_it_tells_as_attributes(error: Any, attributes: dict[str, object], text: str) -> None:
    """A person reads the text, a program the attributes."""
    assert str(error) == text
    assert {name: getattr(error, name) for name in attributes} == attributes


@pytest.mark.parametrize(("error", "attributes", "text"), ERRORS, ids=IDS)
@pytest.mark.parametrize(
    "copied",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_an_error_can_be_pickled_and_copied(copied: Any, error: Any, attributes: dict[str, object], text: str) -> None:
    """A worker process hands it to its parent whole."""
    twin = copied(error)
    assert type(twin) is type(error)
    assert str(twin) == text
    assert {name: getattr(twin, name) for name in attributes} == attributes


@pytest.mark.parametrize(("error", "attributes", "text"), ERRORS, ids=IDS)
def test_the_arguments_of_an_error_are_all_there(error: Any, attributes: dict[str, object], text: str) -> None:
    """`args` and `repr` show what it was made of."""
    assert error.args == tuple(attributes.values())
    assert repr(error) == f"{type(error).__name__}({', '.join(map(repr, attributes.values()))})"


@pytest.mark.parametrize(
    "error", dict.fromkeys(type(error) for error, _, _ in ERRORS), ids=lambda error: error.__name__
)
def test_every_error_is_a_lifespan_error(error: type[Exception]) -> None:
    """One `except` catches what is the package's own."""
    assert issubclass(error, LifespanError)
    assert getattr(asgi_lifespan_mw, error.__name__) is error


def test_a_lifespan_error_is_a_plain_exception() -> None:
    """It is caught where any exception is."""
    assert LifespanError.__mro__[1] is Exception


def test_a_lifespan_timeout_is_a_timeout_error() -> None:
    """Code that waits for a `TimeoutError` needs no import; it is no error of the operating system."""
    error = LifespanTimeout("app Shop", "startup", 5)
    assert isinstance(error, TimeoutError)
    assert error.errno is None
    assert error.filename is None


def test_the_old_names_of_a_violation_still_work() -> None:
    """With a warning that tells the new ones."""
    violation = ProtocolViolation("app Shop", "returned", "starting", "an answer")
    with pytest.warns(DeprecationWarning, match=r"^ProtocolViolation\.culprit is called source now$") as warned:
        assert violation.culprit == "app Shop"
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"^ProtocolViolation\.deed is called action now$"):
        assert violation.deed == "returned"


def test_a_traceback_has_the_public_names() -> None:
    """Those that users import."""
    for error, _, _ in ERRORS:
        assert traceback.format_exception_only(error)[-1].startswith(f"asgi_lifespan_mw.{type(error).__name__}: ")
