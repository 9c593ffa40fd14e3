"""What is done about a unit that breaks while serving."""

import inspect
import logging
import signal
from collections.abc import Callable
from typing import Literal, TypeAlias, cast, final

import anyio

from .._units.unit import Unit

logger = logging.getLogger("asgi_lifespan_mw")

OnCrash: TypeAlias = Literal["log", "stop"] | Callable[[BaseException], object]


def checked_on_crash(on_crash: object) -> OnCrash:
    """What the user wants done about a crash.

    Raises:
        TypeError: it is neither a text nor a plain function.
        ValueError: it is another text.
    """
    if isinstance(on_crash, str):
        if on_crash not in ("log", "stop"):
            raise ValueError(f"LifespanMiddleware(on_crash=...) got {on_crash!r}, expected 'log', 'stop' or a function")
    elif not callable(on_crash) or inspect.iscoroutinefunction(on_crash):
        raise TypeError(
            f"LifespanMiddleware(on_crash=...) got {on_crash!r}, expected 'log', 'stop' or a plain function that takes "
            "the error"
        )
    return cast("OnCrash", on_crash)


@final
class CrashPolicy:
    """Carries out ``on_crash`` in one run.

    Attributes:
        interrupt: the scope around the wait for the shutdown; cancelled where everything must be stopped at once.
    """

    def __init__(self, on_crash: OnCrash) -> None:
        self.interrupt = anyio.CancelScope()
        self._on_crash = on_crash
        self._is_stopping = False

    def __call__(self, unit: Unit) -> None:
        """React to a unit that broke. The log tells of it already."""
        if self._on_crash == "stop":
            self._stop()
        if isinstance(self._on_crash, str):
            return
        assert unit.error is not None, "it broke"
        try:
            result = self._on_crash(unit.error)
        except Exception:
            logger.exception("on_crash failed, after the crash in %s", unit.name)
        except BaseException:  # let out here, it would tear the event loop down without stopping anything
            logger.exception("on_crash wants to end the process, after the crash in %s", unit.name)
            self._stop()
        else:
            if inspect.iscoroutine(result):
                result.close()
                logger.error("on_crash returned a coroutine, which is not run; expected a plain function")

    def _stop(self) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            # It would kill the process without a word (hypercorn's workers): we stop everything first.
            self.interrupt.cancel()
        else:
            terminate()


def terminate() -> None:
    """Ask this process to end, as its supervisor would."""
    signal.raise_signal(signal.SIGTERM)
