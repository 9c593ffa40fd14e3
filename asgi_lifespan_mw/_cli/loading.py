"""Imports the app, and finds the middleware or lifespan that starts its mounts."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Coroutine
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio

from .._apps.node import AppNode
from .._apps.objects import attributes_of
from .._apps.walk import describe
from .._asgi import checked_app
from .._hooks.decorators import hooks_of
from .._lifespan import Lifespan
from .._middleware import LifespanMiddleware
from .._reporting.tracebacks import trim, users_traceback


class BadUsage(Exception):
    """Raised if the command cannot be run; the message says why."""


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
                app = run_async(_result, app, backend=backend)
    except KeyboardInterrupt as error:
        trim(error)
        places = [f" at {frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        raise KeyboardInterrupt(f" while importing {target!r}{''.join(places[:1])}") from None
    except (Exception, SystemExit) as error:
        headline = f"importing {target!r} from {Path(directory).resolve()} failed{_did_you_mean(error, directory)}"
        shown = users_traceback(error) or "".join(traceback.format_exception_only(error)).strip()
        raise BadUsage(f"{headline}\n\n{shown}") from None
    try:
        return checked_app(app, target)
    except TypeError as error:
        raise BadUsage(f"{target!r} is not an ASGI app: {error}; if it is a factory, pass --factory") from None


async def _result(coroutine: Coroutine[Any, Any, object]) -> object:
    return await coroutine


def run_async(function: Callable[..., Coroutine[Any, Any, Any]], *arguments: object, backend: str) -> Any:
    """Run a coroutine function in an event loop of its own."""
    uvloop = {"use_uvloop": True} if backend == "uvloop" else {}
    return anyio.run(function, *arguments, backend=backend.replace("uvloop", "asyncio"), backend_options=uvloop)


def _did_you_mean(error: BaseException, directory: str) -> str:
    """Return a hint at names that are close to the one that an error misses; "" if there is none."""
    named = getattr(error, "name", None)
    *parents, wrong = (named if isinstance(named, str) else "").split(".")
    known = {path.stem for path in Path(directory, *parents).glob("*")} | {*dir(getattr(error, "obj", None))}
    near = [] if wrong in known else get_close_matches(wrong, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def ours_in(app: Any) -> LifespanMiddleware:
    """Return the middleware that starts the mounts of an app: around it, in its stack, or one for its own lifespan.

    If there is none, return a middleware that starts no mounts.
    """
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
