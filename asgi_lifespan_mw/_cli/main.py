"""The command line: starts and stops an app without a server, and shows what that took.

Standard output has the report and nothing else. What the app prints, and how far it is, goes to standard error: a live
line on a terminal where there is rich, else a line for each event.
"""

import argparse
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast, final

import anyio

from .._apps.discovery import AppNode, describe
from .._apps.introspection import attributes_of
from .._asgi import checked_app
from .._config import checked_seconds
from .._hooks.decorators import hooks_of
from .._lifespan import Lifespan
from .._middleware import LifespanMiddleware, prepare_run
from .._reporting.report import Report, UnitReport, build_report
from .._reporting.tracebacks import is_in_users_code, trim, users_traceback
from .._run import Run
from .._units.failure import text_of
from .render import as_ascii, as_json, as_svg, as_trace, in_colors, name, seconds, tree

OK, FAILED, BAD_USAGE, FINDINGS, INTERRUPTED = 0, 1, 2, 3, 130
NEVER_STARTED = "never started: its parent keeps the lifespan to itself"


_SHOW_CURSOR = "\x1b[?25h"


class BadUsage(Exception):
    """What was asked for can't be done; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    options = _parser().parse_args(arguments)
    screen = _Screen(sys.stderr)
    stream = cast("TextIO", screen)
    try:
        with redirect_stdout(stream), redirect_stderr(stream), screen.shown():
            text, status = _carried_out(options, screen)
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
        screen.live = None  # a handler of the app's log may keep the stream, and write to it until the process ends
    try:
        _print(text)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: who reads has read enough, and the interpreter is not to complain at its end
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
    """A number of seconds; argparse calls what else is given "an invalid positive value"."""
    return checked_seconds(float(text), "it")


def _carried_out(options: argparse.Namespace, screen: "_Screen") -> tuple[str, int]:
    """Do what was asked for; return what to print and the exit status."""
    _check_options(options)
    app = load(options.app, options.app_dir, is_factory=options.factory, backend=options.backend)
    ours = _ours_in(app)  # it also loads the containers that packages bring, which is no part of the startup
    warnings = _gather_warnings()
    if options.command == "tree":
        report, error, status = _survey(ours), "", OK
    else:
        report, error, status = _check(app, options, screen)
    findings = warnings.copy()  # those that follow would be about a middleware that is not there
    if ours is not app:
        report = _with_never_started(app, ours, report)
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
    told = f"started in {start}, stopped in {stop}" if start else f"did not start, cleaned up in {stop}"
    slowest = max(report.units, key=lambda row: row.start_seconds or 0, default=None)
    if slowest is None or slowest.start_seconds is None:
        return told
    return f"{told}, slowest to start: {name(slowest)}, {seconds(slowest.start_seconds)}"


def _print(text: str) -> None:
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = as_ascii(text)
    show = in_colors if sys.stdout.isatty() and importlib.util.find_spec("rich") else print
    show(text)


# --- the app ---


def load(target: str, directory: str, *, is_factory: bool, backend: str = "asyncio") -> Any:
    """Import an app, as uvicorn does.

    Args:
        target: The module and the app, such as ``shop.main:app``.
        directory: Where to import from; "" is the current directory.
        is_factory: Whether `target` names a function that makes the app; it may be a coroutine function.
        backend: The event loop that runs a coroutine function.

    Raises:
        BadUsage: If there is no such app or directory, or if the module cannot be imported.
        KeyboardInterrupt: If Ctrl-C ends the import; its text is the line of the user's that was running.
    """
    module, _, attribute = target.partition(":")
    spelled = module.removeprefix("./").removesuffix(".py").replace("/", ".")
    if not attribute or not module or spelled != module:
        example = f"{spelled or 'shop.main'}:{attribute or 'app'}"
        raise BadUsage(f"expected MODULE:APP, such as {example}, got {target!r}")
    if not Path(directory).is_dir():
        raise BadUsage(f"--app-dir got {directory!r}, which is not a directory")
    sys.path.insert(0, directory)
    try:
        app = attrgetter(attribute)(importlib.import_module(module))
        if is_factory:
            app = app()
            if inspect.iscoroutine(app):
                app = _run_async(_result, app, backend=backend)
    except KeyboardInterrupt as error:
        trim(error)
        places = [f" at {frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        raise KeyboardInterrupt(f" while importing {target!r}{''.join(places[:1])}") from None
    except (Exception, SystemExit) as error:
        told = f"importing {target!r} from {Path(directory).resolve()} failed{_instead(error, directory)}"
        shown = users_traceback(error) or "".join(traceback.format_exception_only(error)).strip()
        raise BadUsage(f"{told}\n\n{shown}") from None
    try:
        inspect.signature(checked_app(app, target)).bind({}, None, None)
    except TypeError as error:
        raise BadUsage(f"{target!r} is no ASGI app: {error}; is it a factory? Then give --factory") from None
    except ValueError:
        pass  # it has no signature that could be seen
    return app


async def _result(coroutine: Coroutine[Any, Any, object]) -> object:
    return await coroutine


def _run_async(function: Callable[..., Coroutine[Any, Any, Any]], *arguments: object, backend: str) -> Any:
    """Run a coroutine function in an event loop of its own."""
    uvloop = {"use_uvloop": True} if backend == "uvloop" else {}
    return anyio.run(function, *arguments, backend=backend.replace("uvloop", "asyncio"), backend_options=uvloop)


def _instead(error: BaseException, directory: str) -> str:
    """What may have been meant by the name that an error tells of."""
    named = getattr(error, "name", None)
    *parents, wrong = (named if isinstance(named, str) else "").split(".")
    known = {path.stem for path in Path(directory, *parents).glob("*")} | {*dir(getattr(error, "obj", None))}
    near = [] if wrong in known else get_close_matches(wrong, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _ours_in(app: Any) -> LifespanMiddleware:
    """What starts the mounts of an app: around it, among its middleware, or as its lifespan; else one that does not."""
    node = describe(AppNode(app))
    for thing in (*node.members.values(), *node.wrapped.values(), *node.forwarded.values()):
        if isinstance(thing, LifespanMiddleware):
            return thing
        for middleware in attributes_of(thing).get("user_middleware", ()):
            if getattr(middleware, "cls", None) is LifespanMiddleware:
                try:
                    return LifespanMiddleware(app, *middleware.args, **middleware.kwargs)
                except (TypeError, ValueError) as error:
                    raise BadUsage(f"LifespanMiddleware among the app's middleware: {error}") from None
    lifespan = next((function for function in node.lifespans if isinstance(function, Lifespan)), None)
    return LifespanMiddleware(app, lifespan, mounts=hooks_of(lifespan).mounts if lifespan else "off")


# --- the run ---


def _new_run(middleware: LifespanMiddleware, **limits: Any) -> Run:
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    return prepare_run(middleware, scope, **limits)


def _survey(middleware: LifespanMiddleware) -> Report:
    """Return what a middleware would start."""
    run = _new_run(middleware)
    run.survey()
    return build_report(run)


def _with_never_started(app: Any, ours: LifespanMiddleware, report: Report) -> Report:
    """Add what is mounted in an app and is started by nobody."""
    told = {row.path for row in report.units}
    never = [
        replace(row, outcome="left out", reason=NEVER_STARTED) if row.outcome == "waiting" else row
        for row in _survey(LifespanMiddleware(app, exclude=[*hooks_of(ours).excluded()])).units
        if row.path not in told
    ]
    return replace(report, units=(*report.units, *never))


def _check(app: Any, options: argparse.Namespace, screen: "_Screen") -> tuple[Report, str, int]:
    """Start all and stop it again; return what came of it, the error, and the exit status."""
    limits = {limit: value for limit, value in vars(options).items() if limit.endswith("_timeout") and value}
    middleware = app if isinstance(app, LifespanMiddleware) else LifespanMiddleware(app, mounts="off")
    run = _new_run(middleware, observe=screen.observe, **limits)

    async def live() -> None:
        with _interrupting_blocking_code():
            failed = await run.start()
            if failed is None and not run.is_refused:
                failed = await run.stop()
        if failed is not None:
            raise failed

    error, status = "", OK
    try:
        _run_async(live, backend=options.backend)
    except BaseException as raised:
        status = INTERRUPTED if isinstance(raised, KeyboardInterrupt) else FAILED
        error = _told(build_report(run), run.format_failures(with_tracebacks=True), raised)
    print(file=sys.stderr)  # between what the app prints and the report
    return build_report(run), error, status


@contextmanager
def _interrupting_blocking_code() -> Generator[None]:
    """Let Ctrl-C interrupt code of the user's that blocks the event loop, for the time of a ``with``.

    Otherwise it would only be seen when that code returns. While the event loop waits, its own handler is called.
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


def _told(report: Report, failures: str, raised: BaseException) -> str:
    """Return what failed, the cause first, or what Ctrl-C interrupted.

    Args:
        report: The report of the run.
        failures: What failed in it, with tracebacks.
        raised: The exception that the run raised.
    """
    # The units of a run inside an app are only in the report.
    inner = [row.reason for row in report.units if row.outcome in {"failed", "crashed"} and row.reason not in failures]
    parts = [part for part in (failures, *inner) if part]
    if isinstance(raised, KeyboardInterrupt):
        where = [f" while starting {row.unit} {row.reason}" for row in report.units if row.outcome == "cancelled"]
        told = where[-1].rstrip() if where else "" if parts else ", and stopped"
        return "\n\n".join([f"interrupted{told}", *parts])
    return "\n\n".join(parts) or users_traceback(raised) or text_of(raised)


def _gather_warnings() -> list[str]:
    """Return a list that gets what the package warns of from now on; warnings are also printed when they come."""
    warnings: list[str] = []

    def gather(record: logging.LogRecord) -> bool:
        if record.levelno == logging.WARNING:
            warnings.append(record.getMessage())
            print(record.getMessage(), file=sys.stderr)
        return False  # it goes nowhere else, and what fails is told at the end

    logger = logging.getLogger("asgi_lifespan_mw")
    logger.disabled = False  # the app may have configured the log in its own way
    logger.setLevel(logging.WARNING)
    logger.filters = [gather]
    return warnings


# --- how far it is ---


@final
class _Screen:
    """Standard error, with a live line below what is written to it.

    Rich has a stand-in of its own for it, which breaks up the line of a progress bar or a prompt; here the live line
    waits for its end.

    Attributes:
        live: The line, drawn by a thread of rich's, for a hook may block the event loop; None without rich, on no
            terminal, and in CI, which keeps what it is shown.
    """

    def __init__(self, stream: TextIO) -> None:
        self.live = None
        self._at_work: dict[str, tuple[UnitReport, float]] = {}  # what starts or stops, and since when
        self._done: set[str] = set()
        self._stream = stream
        if not stream.isatty() or os.environ.get("CI") or importlib.util.find_spec("rich") is None:
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(file=stream, markup=False, highlight=False, emoji=False)
        if console.is_interactive:
            self.live = Live(
                console=console, get_renderable=self._line, transient=True, redirect_stdout=False, redirect_stderr=False
            )

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._stream, attribute)

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show the live line until the end of the block."""
        if self.live is None:
            yield
            return
        try:
            self.live.start()
            yield
        except KeyboardInterrupt:
            # Ctrl-C may have come in the middle of drawing, and rich cannot stop what it did not start.
            with suppress(Exception):
                self.live.stop()
            self._stream.write(_SHOW_CURSOR)
            raise
        except BaseException:
            self.live.stop()
            raise
        self.live.stop()

    def write(self, text: str) -> int:
        """Write above the live line."""
        if self.live:
            self.live.stop()
        self._stream.write(text)
        self._stream.flush()
        if self.live and text.endswith("\n"):
            self.live.start()
        return len(text)

    def observe(self, row: UnitReport) -> None:
        """Take note of a change of a unit; print a line for what is done if there is no live line."""
        key = f"{row.kind} {row.depth} {row.path} {row.unit}"
        self._at_work.pop(key, None)
        if row.outcome in {"starting", "stopping"}:
            self._at_work[key] = row, time.perf_counter()
            return
        if row.outcome not in {"started", "stopped"}:
            return
        self._done.add(key)
        took = row.start_seconds if row.outcome == "started" else row.stop_seconds
        if self.live is None and took is not None:
            print(f"{row.unit} {row.outcome} in {took:.3f} s", file=sys.stderr)

    def _line(self) -> str:
        at_work = list(self._at_work.values())  # the event loop goes on in another thread
        if not at_work:
            return ""
        row, began = at_work[-1]  # what is inside another one comes after it
        return f"{seconds(time.perf_counter() - began):>8}  {row.outcome} {name(row)}  ({len(self._done)} done)"
