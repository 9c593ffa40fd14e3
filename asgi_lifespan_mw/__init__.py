"""The ASGI lifespan protocol, whole, for any app: ``app = LifespanMiddleware(app)``.

`LifespanMiddleware` wraps an app, `Lifespan` collects hooks, `LifespanManager` drives an app in tests and scripts, and
`check_lifespan` returns what is wrong with its lifespan. ``python -m asgi_lifespan_mw check MODULE:APP`` shows what an
app starts. The README is the manual.
"""

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
from ._tasks import Tasks

__version__ = "0.2.0"

__all__ = [
    # What wraps, registers and drives.
    "LifespanMiddleware",
    "Lifespan",
    "LifespanManager",
    "Isolated",
    "Tasks",
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
