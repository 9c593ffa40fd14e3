"""The ASGI lifespan protocol, whole, for any app: ``app = LifespanMiddleware(app)``.

`LifespanMiddleware` wraps an app, `Lifespan` collects hooks, `LifespanManager` drives an app in tests and scripts, and
`check_lifespan` returns what is wrong with its lifespan. ``python -m asgi_lifespan_mw check MODULE:APP`` shows what an
app starts. The README is the manual.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._apps.frameworks import register_container
    from ._conformance import Finding, check_lifespan
    from ._exceptions import (
        LifespanError,
        LifespanNotSupported,
        LifespanTimeout,
        ProtocolViolation,
        ShutdownFailed,
        StartupFailed,
        StateCollision,
    )
    from ._hooks.threaded import threaded
    from ._isolated import Isolated
    from ._lifespan import Lifespan
    from ._manager import LifespanManager
    from ._middleware import LifespanMiddleware
    from ._reporting.report import Report, UnitReport

__version__ = "0.2.0"

__all__ = [
    # What wraps, registers and drives.
    "LifespanMiddleware",
    "Lifespan",
    "LifespanManager",
    "Isolated",
    "threaded",
    "register_container",
    # What a run did.
    "Report",
    "UnitReport",
    # What looks at an app in a test suite.
    "check_lifespan",
    "Finding",
    # Errors.
    "LifespanError",
    "StartupFailed",
    "ShutdownFailed",
    "LifespanTimeout",
    "LifespanNotSupported",
    "ProtocolViolation",
    "StateCollision",
]

_ROOMS = {
    "_apps.frameworks": ["register_container"],
    "_conformance": ["check_lifespan", "Finding"],
    "_hooks.threaded": ["threaded"],
    "_isolated": ["Isolated"],
    "_lifespan": ["Lifespan"],
    "_manager": ["LifespanManager"],
    "_middleware": ["LifespanMiddleware"],
    "_reporting.report": ["Report", "UnitReport"],
}
"""Where the public names are; all others are in `_exceptions`."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: an app needs no `check_lifespan`, and a test suite no server."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "_exceptions")
    return globals().setdefault(name, getattr(import_module(f"{__name__}.{room}"), name))


def __dir__() -> list[str]:
    """List the public names, including those that were not imported yet."""
    return sorted({*globals(), *__all__})
