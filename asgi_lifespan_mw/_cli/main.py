"""The command line: starts and stops an app without a server, and shows what that took.

Standard output has the report and nothing else. What the app prints, and how far it is, goes to standard error: a live
line on a terminal where there is rich, else a line for each event.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO, cast

from .._config import checked_seconds
from .._reporting.report import Report
from .loading import BadUsage, load, ours_in
from .render import as_ascii, as_json, as_svg, as_trace, in_colors, name, seconds, tree
from .running import (
    BAD_USAGE,
    FINDINGS,
    INTERRUPTED,
    NEVER_STARTED,
    OK,
    check,
    gather_warnings,
    survey,
    with_never_started,
)
from .screen import Screen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = _parser().parse_args(arguments)
    screen = Screen(sys.stderr)
    stream = cast("TextIO", screen)
    try:
        with redirect_stdout(stream), redirect_stderr(stream), screen.shown():
            text, status = _run_command(options, screen)
    except (BadUsage, OSError) as error:
        print(f"asgi-lifespan-mw: {error}", file=sys.stderr)
        if not options.json:
            return BAD_USAGE
        text = as_json(Report(), app=options.app, status=BAD_USAGE, error=str(error), findings=[])
        status = BAD_USAGE
    except KeyboardInterrupt as error:
        print(f"interrupted{error}", file=sys.stderr)
        return INTERRUPTED
    finally:
        screen.live = None  # a log handler of the app may keep the stream and write to it until the process ends
    try:
        _print(text)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; the interpreter must not complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asgi-lifespan-mw",
        description="Shows what starts and stops with an ASGI app, in which order, and how long each takes.",
        epilog="Exit status: 0; 1 for a failed startup or shutdown; 2 for bad usage or an app that cannot be imported; "
        "3 for findings with --strict; 130 for Ctrl-C.",
    )
    option = parser.add_argument
    version = importlib.metadata.version("asgi-lifespan-mw")
    option("--version", action="version", version=f"%(prog)s {version}, Python {sys.version.split()[0]}")
    option("command", choices=["check", "tree"], help="check starts all, and stops it; tree starts nothing")
    option("app", metavar="MODULE:APP", help="the app, such as shop.main:app")
    option("--app-dir", default="", metavar="DIR", help="where to import from (default: here)")
    option("--factory", action="store_true", help="APP is a function without arguments that makes the app")
    option("--json", action="store_true", help="print the report as JSON")
    option("--strict", action="store_true", help="exit with status 3 if there are warnings")
    option("--trace", type=Path, metavar="FILE", help="for check: write a trace that ui.perfetto.dev opens")
    option("--svg", type=Path, metavar="FILE", help="write a picture of the tree and its timeline")
    option("--startup-timeout", type=positive, metavar="SECONDS", help="for check: time for the whole startup")
    option("--shutdown-timeout", type=positive, metavar="SECONDS", help="for check: time for the whole shutdown")
    option("--backend", choices=["asyncio", "trio", "uvloop"], help="for check: the event loop (default: asyncio)")
    return parser


def positive(text: str) -> float | None:
    """Return a number of seconds; argparse calls anything else "an invalid positive value"."""
    return checked_seconds(float(text), "it")


def _run_command(options: argparse.Namespace, screen: Screen) -> tuple[str, int]:
    """Run the command; return what to print and the exit status."""
    _check_options(options)
    app = load(options.app, options.app_dir, is_factory=options.factory, backend=options.backend)
    ours = ours_in(app)  # it also loads the containers that packages bring, which is not part of the startup
    warnings = gather_warnings()
    if options.command == "tree":
        report, error, status = survey(ours), "", OK
    else:
        report, error, status = check(app, options, screen)
    findings = warnings.copy()  # a survey of the bare app would add more, about a middleware that is not there
    if ours is not app:
        report = with_never_started(app, ours, report)
    if never := sum(row.reason == NEVER_STARTED for row in report.units):
        mounts = f"{never} mount{' is' if never == 1 else 's are'}"
        findings.append(f"{mounts} never started; LifespanMiddleware(app) would start and stop them")
    if options.trace:
        options.trace.write_text(as_trace(report), encoding="utf-8")
    if options.svg:
        below = [part for part in (_summary(report, options), error) if part]
        options.svg.write_text(as_svg(report, options.app, *below), encoding="utf-8")
    status = status or (FINDINGS if findings and options.strict else OK)
    if options.json:
        return as_json(report, app=options.app, status=status, error=error, findings=findings), status
    on = f" on {options.backend}, Python {sys.version.split()[0]}" if options.command == "check" else ""
    parts = [f"{options.app}{on}", tree(report, shutil.get_terminal_size((100, 0)).columns), _summary(report, options)]
    parts += [*(f"warning: {finding}" for finding in findings), error]
    return "\n\n".join(part for part in parts if part), status


def _check_options(options: argparse.Namespace) -> None:
    """Raise `BadUsage` for options that have no effect, or need what is not installed; fill in the event loop."""
    if options.command == "tree":
        for option in ("trace", "startup_timeout", "shutdown_timeout", "backend"):
            if getattr(options, option) is not None:
                raise BadUsage(f"--{option.replace('_', '-')} has no effect with tree, which starts nothing. Use check")
    options.backend = options.backend or "asyncio"
    if options.svg and options.svg.suffix.lower() != ".svg":
        raise BadUsage(f"--svg got {str(options.svg)!r}; expected a file name that ends with .svg")
    if options.backend != "asyncio" and importlib.util.find_spec(options.backend) is None:
        raise BadUsage(f"--backend {options.backend} needs {options.backend}: pip install {options.backend}")
    if options.svg and importlib.util.find_spec("rich") is None:
        raise BadUsage("--svg needs rich: pip install 'asgi-lifespan-mw[cli]'")


def _summary(report: Report, options: argparse.Namespace) -> str:
    if options.command == "tree":
        waiting = sum(row.outcome == "waiting" for row in report.units)
        return f"{waiting} would be started, in this order; {len(report.units) - waiting} would not"
    start, stop = seconds(report.start_seconds), seconds(report.stop_seconds)
    if not start and not stop:
        return "nothing was started"
    summary = f"started in {start}, stopped in {stop}" if start else f"did not start, cleaned up in {stop}"
    slowest = max(report.units, key=lambda row: row.start_seconds or 0, default=None)
    if slowest is None or slowest.start_seconds is None:
        return summary
    return f"{summary}, slowest to start: {name(slowest)}, {seconds(slowest.start_seconds)}"


def _print(text: str) -> None:
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = as_ascii(text)
    show = in_colors if sys.stdout.isatty() and importlib.util.find_spec("rich") else print
    show(text)
