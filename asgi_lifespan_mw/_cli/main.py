"""The command line: starts and stops an app without a server, and shows what that took.

Standard output has the report and nothing else. All other output goes to standard error: that of the app, of its child
processes and threads, and the progress, which is a live line on a terminal with rich, else a line for each event.
"""

import argparse
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO, cast

from .. import __version__
from .._config import checked_seconds
from .._reporting.report import Report
from .loading import BadUsage, load, ours_in
from .render import as_ascii, as_json, as_svg, as_trace, in_colors, own_start, seconds, tree
from .running import (
    BAD_USAGE,
    FINDINGS,
    INTERRUPTED,
    NEVER_STARTED,
    OK,
    UNWRITTEN,
    check,
    gathered_warnings,
    survey,
    with_never_started,
)
from .screen import Screen


def take_output() -> TextIO:
    """Return standard output, and redirect descriptor 1 to standard error until the process ends.

    Child processes write to the descriptor, as do threads and `atexit` functions that run after the report was printed.

    Raises:
        OSError: If standard output is closed.
    """
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - `2>&-`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - `>&-`
        raise OSError("standard output is closed")
    output = open(os.dup(1), "w", encoding=sys.stdout.encoding)  # noqa: PTH123, SIM115 - as above
    os.dup2(2, 1)
    return output


def main(arguments: Sequence[str] | None = None, take_output: Callable[[], TextIO] = take_output) -> int:
    """Run the command line, and return its exit status."""
    options = _parser().parse_args(arguments)
    columns = shutil.get_terminal_size((100, 0)).columns  # of standard output, before that is redirected
    try:
        output = take_output()
    except OSError as error:
        _say(f"the report cannot be written: {error}; nothing was started")
        return UNWRITTEN
    screen = Screen(sys.stderr)
    stream = cast("TextIO", screen)
    files: dict[Path, str] = {}
    try:
        with redirect_stdout(stream), redirect_stderr(stream), screen.shown():
            text, status = _run_command(options, screen, files, columns)
    except BadUsage as error:
        _say(str(error))
        status = BAD_USAGE
        if not options.json:
            return status
        text = as_json(Report(), app=options.app, status=status, error=str(error), findings=[])
    except KeyboardInterrupt as error:
        _say(f"interrupted{error}")
        return INTERRUPTED
    finally:
        screen.live = None  # a log handler of the app may keep the stream and write to it until the process ends
    return status if _write(text, output, files) else UNWRITTEN


def _write(text: str, output: TextIO, files: dict[Path, str]) -> bool:
    """Print the report and write the files; say what cannot be written, and return whether all could."""
    is_written = True
    for file, content in [(None, text), *files.items()]:
        try:
            _print(text, output) if file is None else file.write_text(content, encoding="utf-8")
        except BrokenPipeError:  # `| head` has read enough
            continue
        except OSError as error:
            _say(f"the report cannot be written: {error}")
            is_written = False
    for stream in (output, sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter would flush it once more at its end, and set a status of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return is_written


def _say(text: str) -> None:
    with suppress(OSError):
        print(f"asgi-lifespan-mw: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asgi-lifespan-mw",
        description="Shows what starts and stops with an ASGI app, in which order, and how long each takes.",
        epilog="Exit status: 0; 1 for a failed startup or shutdown; 2 for bad usage or an app that cannot be imported; "
        "3 for findings with --strict; 4 for a report that cannot be written; 130 for Ctrl-C.",
    )
    version = f"%(prog)s {__version__}, Python {sys.version.split()[0]}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True)
    starts = "start an app, stop it, and show what that took"
    check, tree = commands.add_parser("check", help=starts), commands.add_parser("tree", help="start nothing")
    check.description = f"{starts.capitalize()}."
    tree.description = "Show what would be started, in its order. Nothing is started."
    tree.set_defaults(trace=None, backend="asyncio")
    for option in (check.add_argument, tree.add_argument):
        option("app", metavar="MODULE:APP", help="the app, such as shop.main:app")
        option("--app-dir", default="", metavar="DIR", help="where to import from (default: here)")
        option("--factory", action="store_true", help="APP is a function without arguments that makes the app")
        option("--json", action="store_true", help="print the report as JSON")
        option("--strict", action="store_true", help="exit with status 3 if there are warnings")
        option("--svg", type=Path, metavar="FILE", help="write a picture of the tree and its timeline")
    option = check.add_argument
    option("--trace", type=Path, metavar="FILE", help="write a trace that ui.perfetto.dev opens")
    option("--startup-timeout", type=positive, metavar="SECONDS", help="time for the whole startup")
    option("--shutdown-timeout", type=positive, metavar="SECONDS", help="time for the whole shutdown")
    backends = ["asyncio", "trio", "uvloop"]
    option("--backend", choices=backends, default="asyncio", help="the event loop (default: asyncio)")
    return parser


def positive(text: str) -> float | None:
    """Return a number of seconds; argparse calls anything else "an invalid positive value"."""
    return checked_seconds(float(text), "it")


def _run_command(options: argparse.Namespace, screen: Screen, files: dict[Path, str], columns: int) -> tuple[str, int]:
    """Run the command; return what to print and the exit status, and add the files to write."""
    _check_options(options)
    app = load(options.app, options.app_dir, is_factory=options.factory, backend=options.backend)
    ours = ours_in(app)  # it also loads the containers that packages bring, which is not part of the startup
    with gathered_warnings() as warnings:
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
        files[options.trace] = as_trace(report)
    if options.svg:
        below = [part for part in (_summary(report, options), error) if part]
        files[options.svg] = as_svg(report, options.app, *below)
    status = status or (FINDINGS if findings and options.strict else OK)
    if options.json:
        return as_json(report, app=options.app, status=status, error=error, findings=findings), status
    on = f" on {options.backend}, Python {sys.version.split()[0]}" if options.command == "check" else ""
    parts = [f"{options.app}{on}", tree(report, columns), _summary(report, options)]
    parts += [*(f"warning: {finding}" for finding in findings), error]
    return "\n\n".join(part for part in parts if part), status


def _check_options(options: argparse.Namespace) -> None:
    """Raise `BadUsage` for options that need what is not installed, or another kind of file."""
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
    took = [(own_start(report.units[at:]), row.name) for at, row in enumerate(report.units) if row.start_seconds]
    if not took:
        return summary
    most, slowest = max(took, key=lambda one: one[0])
    return f"{summary}, slowest to start: {slowest}, {seconds(most)}"


def _print(text: str, output: TextIO) -> None:
    try:
        text.encode(output.encoding)
    except UnicodeEncodeError:
        text = as_ascii(text)
    show = in_colors if output.isatty() and importlib.util.find_spec("rich") else print
    show(text, file=output)
    output.flush()
