"""Starts an app and stops it, or finds what would be started."""

import argparse
import logging
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from .._hooks.decorators import hooks_of
from .._lifespan import Lifespan
from .._log import logger
from .._middleware import LifespanMiddleware, prepare_run
from .._reporting.report import Report, UnitReport, build_report
from .._reporting.tracebacks import is_in_users_code, users_traceback
from .._run.run import Run
from .._units.failure import text_of
from .loading import run_async
from .render import rows_inside
from .screen import Screen

OK, FAILED, BAD_USAGE, FINDINGS, UNWRITTEN, INTERRUPTED = 0, 1, 2, 3, 4, 130
NEVER_STARTED = "never started: its parent keeps the lifespan to itself"


def _new_run(middleware: LifespanMiddleware, **limits: Any) -> Run:
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    return prepare_run(middleware, scope, **limits)


def survey(middleware: LifespanMiddleware) -> Report:
    """Return what a middleware would start, in its order."""
    run = _new_run(middleware)
    run.survey()
    report = build_report(run)
    assert run.root is not None, "the survey began there"
    if not any(isinstance(lifespan, Lifespan) for lifespan in run.root.lifespans):
        return report
    # FastAPI(lifespan=Lifespan(mounts="auto")): the app starts first, and runs the hooks inside its own startup.
    hooks = [replace(row, depth=row.depth + 1) for row in report.units if row.kind == "hook"]
    app, *mounts = (row for row in report.units if row.kind != "hook")
    return replace(report, units=(app, *hooks, *mounts))


def with_never_started(app: Any, ours: LifespanMiddleware, report: Report) -> Report:
    """Add the mounts of an app that nothing starts."""
    shown = {row.path for row in report.units}
    never = [
        replace(row, outcome="left out", reason=NEVER_STARTED) if row.outcome == "waiting" else row
        for row in survey(LifespanMiddleware(app, exclude=[*hooks_of(ours).excluded()])).units
        if row.path not in shown
    ]
    return replace(report, units=(*report.units, *never))


def check(app: Any, options: argparse.Namespace, screen: Screen) -> tuple[Report, str, int]:
    """Start an app and stop it again; return the report, the error, and the exit status."""
    limits = {limit: value for limit, value in vars(options).items() if limit.endswith("_timeout") and value}
    middleware = app if isinstance(app, LifespanMiddleware) else LifespanMiddleware(app, mounts="off")
    run = _new_run(middleware, observe=screen.observe, **limits)

    async def live() -> None:
        with _interrupting_blocking_code():
            async with run:
                if not run.is_refused:
                    await run.readiness.wait()

    error, status = "", OK
    try:
        run_async(live, backend=options.backend)
    except BaseException as raised:
        status = INTERRUPTED if isinstance(raised, KeyboardInterrupt) else FAILED
        error = _error_text(build_report(run), run.failures.format(with_tracebacks=True), raised)
    print(file=sys.stderr)  # between what the app prints and the report
    return build_report(run), error, status


@contextmanager
def _interrupting_blocking_code() -> Generator[None]:
    """Let Ctrl-C interrupt a hook that blocks the event loop, while the block runs.

    Otherwise Ctrl-C would have no effect until the hook returns. While the event loop waits, its own handler is called.
    """
    own = signal.getsignal(signal.SIGINT)
    if not callable(own):  # Ctrl-C is ignored, as in a background job of a shell
        yield
        return

    def on_ctrl_c(number: int, frame: FrameType | None) -> None:
        if is_in_users_code(frame):
            raise KeyboardInterrupt
        own(number, frame)

    signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, own)


def _error_text(report: Report, failures: str, raised: BaseException) -> str:
    """Return what failed, the cause first, or what Ctrl-C interrupted.

    Args:
        report: The report of the run.
        failures: What failed in it, with tracebacks.
        raised: The exception that the run raised.
    """
    broken = [(at, row) for at, row in enumerate(report.units) if row.outcome in {"failed", "crashed"}]
    inner: list[str] = []
    for at, row in broken:
        inside = rows_inside(report.units[at:])
        # FastAPI(lifespan=Lifespan()): the failure of a hook is the app's too, and the hook's headline says more.
        if same := next((one.reason for one in inside if _is_same_failure(row, one)), ""):
            failures = failures.replace(row.reason, same, 1)
        elif row.reason not in failures:  # the units of a run inside an app are only in the report
            inner.append(row.reason)
    parts = [part for part in (failures, *inner) if part]
    if isinstance(raised, KeyboardInterrupt):
        where = [f" while starting {row.unit} {row.reason}" for row in report.units if row.outcome == "cancelled"]
        place = where[-1].rstrip() if where else "" if parts else ", and stopped"
        return "\n\n".join([f"interrupted{place}", *parts])
    return "\n\n".join(parts) or users_traceback(raised) or text_of(raised)


def _is_same_failure(outer: UnitReport, inner: UnitReport) -> bool:
    """Return whether a unit failed by the failure of a unit inside it, as far as the headlines tell."""
    text = inner.reason.partition(f" in {inner.unit}: ")[2] or inner.reason.partition("; it was ")[0]
    return inner.outcome == outer.outcome and bool(text) and outer.reason.endswith(text)


@contextmanager
def gathered_warnings() -> Generator[list[str]]:
    """Gather each WARNING of the package while the block runs, and print it at once. What fails is shown at the end.

    The logger is bypassed: a hook that configures the log, such as a migration, may disable it.
    """
    warnings: list[str] = []

    def log(level: int, message: str, *args: object, **_: object) -> None:
        if level == logging.WARNING:
            warnings.append(message % args)
            print(warnings[-1], file=sys.stderr)

    vars(logger)["log"] = log
    try:
        yield warnings
    finally:
        del vars(logger)["log"]
