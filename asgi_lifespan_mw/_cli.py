"""The command line: starts and stops an app without a server, and shows what that took.

Standard output has the report and nothing else. What the app prints, and how far it is, goes to standard error: a live
line on a terminal, else a line for each event.
"""

import argparse
import importlib
import importlib.util
import inspect
import logging
import os
import platform
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any, TextIO, cast, final

import anyio

from ._account import CAUSE_FIRST, users_traceback
from ._app import checked_app
from ._errors import LifespanError
from ._lifespan import Lifespan
from ._middleware import LifespanMiddleware
from ._mounts import Identity
from ._pictures import as_ascii, as_json, as_svg, as_trace, name, seconds, tree
from ._report import Record, Report, UnitReport
from ._run import Run
from ._settings import Settings, checked_seconds

logger = logging.getLogger("asgi_lifespan_mw")

OK, FAILED, BAD_USAGE, FINDINGS, INTERRUPTED = 0, 1, 2, 3, 130
NEVER_STARTED = "never started: its parent keeps the lifespan to itself"
_TICK = 0.1
"""Seconds after which the live line is drawn anew."""


class BadUsage(Exception):
    """What was asked for can't be done; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        screen = _Screen(sys.stderr)
        with redirect_stdout(cast("TextIO", screen)), redirect_stderr(cast("TextIO", screen)):
            shown, status = _carried_out(options, screen)
    except BadUsage as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("interrupted while importing the app", file=sys.stderr)
        return INTERRUPTED
    try:
        print(shown)
    except UnicodeEncodeError:
        print(as_ascii(shown))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asgi-lifespan-mw",
        description="Shows what starts and stops with an ASGI app, in which order, and how long each takes.",
        epilog="Exit status: 0; 1 for a failed startup or shutdown; 2 for bad usage or an app that cannot be imported; "
        "3 for findings with --strict; 130 for Ctrl-C.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, told in (
        ("check", "start the app's whole lifespan without a server, stop it again, and show what each part took"),
        ("tree", "show what would be started, and what not, without starting anything"),
    ):
        sub = commands.add_parser(command, help=told, description=f"{told[0].upper()}{told[1:]}.")
        sub.add_argument("app", metavar="MODULE:APP", help="the app, such as shop.main:app")
        sub.add_argument("--app-dir", default="", metavar="DIR", help="where to import from (default: here)")
        sub.add_argument(
            "--factory", action="store_true", help="APP is a function without arguments that makes the app"
        )
        sub.add_argument("--json", action="store_true", help="print the report as JSON")
        sub.add_argument("--strict", action="store_true", help="exit with status 3 if there are warnings")
        if command == "check":
            sub.add_argument("--startup-timeout", type=_positive, metavar="SECONDS", help="time for the whole startup")
            sub.add_argument(
                "--shutdown-timeout", type=_positive, metavar="SECONDS", help="time for the whole shutdown"
            )
            sub.add_argument(
                "--backend", choices=["asyncio", "trio", "uvloop"], default="asyncio", help="the event loop"
            )
            sub.add_argument("--trace", type=Path, metavar="FILE", help="write a trace that ui.perfetto.dev opens")
            sub.add_argument("--svg", type=Path, metavar="FILE", help="write a picture of the timeline")
    return parser


def _positive(text: str) -> float | None:
    try:
        return checked_seconds(float(text), "it")
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected more than 0 seconds, got {text!r}") from None


def _carried_out(options: argparse.Namespace, screen: "_Screen") -> tuple[str, int]:
    """Do what was asked for; return what to print and the exit status."""
    backend = getattr(options, "backend", "asyncio")
    if backend != "asyncio" and importlib.util.find_spec(backend) is None:
        raise BadUsage(f"--backend {backend} needs {backend}: pip install {backend}")
    app = load(options.app, options.app_dir, is_factory=options.factory)
    Identity(app)  # the first look loads the containers that packages bring, which is no part of the startup
    with _log(screen) as findings:
        if options.command == "tree":
            report, error, status = _survey(app), "", OK
        else:
            report, error, status = _check(app, options, screen)
    never = [row for row in report.units if row.reason == NEVER_STARTED]
    if never:
        are = "mount is" if len(never) == 1 else "mounts are"
        findings.append(f"{len(never)} {are} never started; LifespanMiddleware(app) would start and stop them")
    if options.command == "check":
        for path, content in ((options.trace, as_trace(report)), (options.svg, as_svg(report, options.app))):
            if path is not None:
                _write(path, content)
    if status == OK and findings and options.strict:
        status = FINDINGS
    if options.json:
        return as_json(report, app=options.app, status=status, error=error, findings=findings), status
    return _text(report, options, error, findings), status


def _text(report: Report, options: argparse.Namespace, error: str, findings: Sequence[str]) -> str:
    # Where standard output is no terminal there is no width to go by, unless COLUMNS tells one.
    stdout = sys.__stdout__
    on_terminal = stdout is not None and stdout.isatty()
    width = _columns(stdout) if on_terminal and stdout is not None else int(os.environ.get("COLUMNS") or 100)
    is_colored = on_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    backend = f" on {options.backend}, Python {platform.python_version()}" if options.command == "check" else ""
    parts = [f"{options.app}{backend}", tree(report, width, is_colored=is_colored)]
    parts.append(_summary(report) if options.command == "check" else _outlook(report))
    parts += [f"warning: {finding}" for finding in findings]
    parts += [error] if error else []
    # On a terminal, what the app printed stands right above.
    return "\n" * on_terminal + "\n\n".join(part for part in parts if part)


def _columns(terminal: TextIO) -> int:
    return os.get_terminal_size(terminal.fileno()).columns or 80  # some terminals do not know their size


def _summary(report: Report) -> str:
    if not report.units or (report.start_seconds is None and report.stop_seconds is None):
        return "nothing was started"
    is_started = report.start_seconds is not None
    slowest = max(report.units, key=lambda row: row.start_seconds or 0)
    return (
        f"{f'started in {seconds(report.start_seconds)}' if is_started else 'did not start'}, "
        f"{'stopped' if is_started else 'cleaned up'} in {seconds(report.stop_seconds)}, "
        f"slowest to start: {name(slowest)}, {seconds(slowest.start_seconds)}"
    )


def _outlook(report: Report) -> str:
    waiting = sum(row.outcome == "waiting" for row in report.units)
    return f"{waiting} would be started, in this order; {len(report.units) - waiting} would not"


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise BadUsage(f"cannot write {path}: {error.strerror}") from None


# --- the app ---


def load(target: str, directory: str, *, is_factory: bool) -> Any:
    """Import an app, as uvicorn does.

    Raises:
        BadUsage: there is none, or its module cannot be imported.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise BadUsage(f"expected MODULE:APP, such as {module_name or 'shop.main'}:app, got {target!r}")
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    found: Any = _imported(module_name, directory)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BadUsage(f"{module_name!r} has no {attribute!r}{_instead(part, dir(found))}")
        found = getattr(found, part)
    if is_factory:
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise BadUsage(f"the factory {target!r} failed\n\n{users_traceback(error)}") from None
    try:
        app = checked_app(found, target)
    except TypeError as error:
        raise BadUsage(str(error)) from None
    if not _takes_three(app):
        raise BadUsage(
            f"{target!r} can't be called with (scope, receive, send), so it is no ASGI app; is it a factory? Then give "
            "--factory"
        )
    return app


def _imported(module_name: str, directory: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise BadUsage(f"importing {module_name!r} failed\n\n{users_traceback(error)}") from None
        *parents, last = error.name.split(".")
        folder = Path(directory or ".", *parents)
        near = [path.stem for path in folder.glob("*") if path.suffix == ".py" or path.is_dir()]
        where = "" if parents else f" in {folder.resolve()}"
        raise BadUsage(f"there is no module {error.name!r}{where}{_instead(last, near)}") from None
    except (Exception, SystemExit) as error:
        raise BadUsage(f"importing {module_name!r} failed\n\n{users_traceback(error)}") from None


def _instead(wrong: str, known: Sequence[str]) -> str:
    near = get_close_matches(wrong, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _takes_three(app: Any) -> bool:
    try:
        inspect.signature(app).bind({}, None, None)
    except TypeError:
        return False
    except ValueError:  # it has no signature that could be seen
        return True
    return True


# --- the run ---


def _scope() -> dict[str, Any]:
    return {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}


def _survey(app: Any) -> Report:
    identity = Identity(app)
    for thing in identity.aliases:
        if isinstance(thing, LifespanMiddleware):
            return thing.new_run(_scope()).survey()
        for middleware in getattr(thing, "user_middleware", ()):
            if getattr(middleware, "cls", None) is LifespanMiddleware:
                return LifespanMiddleware(app, *middleware.args, **middleware.kwargs).new_run(_scope()).survey()
    for lifespan in identity.lifespans:
        if isinstance(lifespan, Lifespan):
            settings = Settings(mounts=lifespan.mounts, exclude=tuple(lifespan.excluded()))
            return Run(app, lifespan.plan(), settings, _scope()).survey()
    return _with_never_started(app, Report())


def _with_never_started(app: Any, report: Report) -> Report:
    """Add what is mounted in an app and is started by nobody."""
    logger.disabled, was = True, logger.disabled  # its warnings would be about a middleware that is not there
    rows = Run(app, (), Settings(), _scope()).survey().units
    logger.disabled = was
    told = {row.path for row in report.units}
    never = [
        replace(row, outcome="left out", reason=NEVER_STARTED)
        if row.outcome == "waiting" and row.kind != "app"
        else row
        for row in rows
        if row.path not in told
    ]
    return replace(report, units=(*report.units, *never))


def _check(app: Any, options: argparse.Namespace, screen: "_Screen") -> tuple[Report, str, int]:
    limits = {"startup_timeout": options.startup_timeout, "shutdown_timeout": options.shutdown_timeout}
    limits = {limit: value for limit, value in limits.items() if value is not None}
    is_wrapped = isinstance(app, LifespanMiddleware)
    bare = Settings(mounts="off", **limits)
    run = app.new_run(_scope(), **limits) if is_wrapped else Run(app, (), bare, _scope())
    error, status = "", OK
    try:
        with screen.showing(run.record):
            _run(run, options.backend)
    except KeyboardInterrupt:
        screen.write("\n")  # a terminal has written ^C
        error, status = _interrupted(run.record.report()), INTERRUPTED
    except BaseException as raised:
        error, status = _failure(run.record.report(), raised), FAILED
    report = run.record.report()
    return report if is_wrapped else _with_never_started(app, report), error, status


def _run(run: Run, backend: str) -> None:
    async def live() -> None:
        await run.start()
        if not run.is_refused:
            await run.stop()

    if backend == "trio":
        anyio.run(live, backend="trio")
    else:
        anyio.run(live, backend="asyncio", backend_options={"use_uvloop": backend == "uvloop"})


def _failure(report: Report, raised: BaseException) -> str:
    """What failed: the innermost units by name, then each error from where the user's code begins."""
    failed = [
        row.reason
        for row, after in zip(report.units, [*report.units[1:], None], strict=True)
        if row.outcome == "failed" and not (after and after.depth > row.depth and after.outcome == "failed")
    ]
    errors: Sequence[BaseException] = [raised]
    if isinstance(raised, BaseExceptionGroup) and raised.message.endswith(CAUSE_FIRST):
        errors = cast("BaseExceptionGroup[BaseException]", raised).exceptions
    traces = [users_traceback(error) for error in errors if not isinstance(error, LifespanError) or not failed]
    return "\n\n".join([*failed, *traces])


def _interrupted(report: Report) -> str:
    cancelled = [row for row in report.units if row.outcome == "cancelled"]
    if not cancelled:
        return "interrupted, and stopped"
    return f"interrupted while starting {cancelled[-1].unit} {cancelled[-1].reason}".rstrip()


@contextmanager
def _log(screen: "_Screen") -> Generator[list[str]]:
    """Gather what the package warns of; show how far it is where there is no live line, and who takes long."""
    gathered: list[str] = []

    class Shows(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                gathered.append(record.getMessage())
            if record.module in (["_units"] if screen.is_live else ["_unit", "_units"]):
                print(record.getMessage(), file=sys.stderr)

    handler = Shows(logging.DEBUG)
    logger.addHandler(handler)
    was = logger.disabled, logger.propagate, logger.level
    # The app may have configured the log in its own way, and what fails is told at the end.
    logger.disabled, logger.propagate = False, False
    logger.setLevel(logging.DEBUG)
    try:
        yield gathered
    finally:
        logger.removeHandler(handler)
        logger.disabled, logger.propagate = was[:2]
        logger.setLevel(was[2])


# --- how far it is ---


@final
class _Screen:
    """Standard error, with one live line below what is written to it.

    Attributes:
        is_live: whether there is such a line: on a terminal, but not in CI, which keeps what it is shown.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        is_plain = os.environ.get("TERM") == "dumb" or bool(os.environ.get("CI"))
        self.is_live = stream.isatty() and not is_plain
        self._lock = RLock()
        self._is_at_start = True

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    def write(self, text: str) -> int:
        """Write above the live line."""
        with self._lock:
            if text:
                self._stream.write(("\x1b[J" if self.is_live and self._is_at_start else "") + text)
                self._stream.flush()
                self._is_at_start = text.endswith("\n")
        return len(text)

    @contextmanager
    def showing(self, record: Record) -> Generator[None]:
        """Show how far a run is, from a thread: a hook may block the event loop."""
        if not self.is_live:
            yield
            return
        done = Event()
        thread = Thread(target=self._watch, args=(record, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, record: Record, done: Event) -> None:
        while not done.wait(_TICK):
            self._show(record.report(), time.perf_counter() - record.times.get("start", time.perf_counter()))
        self.write("\x1b[?25h")

    def _show(self, report: Report, now: float) -> None:
        at_work = _at_work(report)
        if not at_work:
            return
        row, deed, began = at_work[-1]
        done = sum(one.outcome in ("started", "stopped") for one in report.units)
        line = f"{seconds(now - began):>8}  {deed} {name(row)}  ({done} done)"
        with self._lock:
            # The cursor stays at the start of the line: a terminal that is made narrower wraps the line below it, and
            # what comes next clears all of it.
            if self._is_at_start:
                self._stream.write(f"\x1b[?25l\x1b[J{line[: _columns(self._stream) - 1]}\r")
                self._stream.flush()


def _at_work(report: Report) -> list[tuple[UnitReport, str, float]]:
    """The units that are starting or stopping, what is inside another one after it, and since when."""
    return [
        (row, row.outcome, (row.began if row.outcome == "starting" else row.stop_began) or 0.0)
        for row in report.units
        if row.outcome in ("starting", "stopping")
    ]
