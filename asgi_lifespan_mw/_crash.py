"""`on_crash`: what follows when a unit raises after it has started and before it is to stop."""

import inspect
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeAlias, cast, final

import anyio

from ._config import check, is_plain_function
from ._log import logger
from ._reporting.failures import log_error
from ._units.failure import Failure, text_of

OnCrash: TypeAlias = Literal["log", "stop"] | Callable[[BaseException], object]


def checked_on_crash(on_crash: object) -> OnCrash:
    """Return `on_crash` if it is valid.

    Raises:
        TypeError: If it is neither a string nor a plain function.
        ValueError: If it is a string other than "log" and "stop".
    """
    where, expected = "LifespanMiddleware(on_crash=...)", "'log', 'stop' or a plain function that takes the error"
    if isinstance(on_crash, str):
        check(where, on_crash, expected, fits=on_crash in ("log", "stop"), refusal=ValueError)
    else:
        check(where, on_crash, expected, fits=is_plain_function(on_crash))
    return cast("OnCrash", on_crash)


@final
class CrashPolicy:
    """Acts on the crashes of one run.

    Attributes:
        interrupt: The scope around the wait for the shutdown. It is cancelled to stop all units at once.
    """

    def __init__(self, on_crash: OnCrash) -> None:
        self.interrupt = anyio.CancelScope()
        self._on_crash = on_crash
        self._is_stopping = False

    def __call__(self, failure: Failure) -> None:
        """Call the user's function, or stop the process. The crash is in the log already."""
        if self._on_crash == "stop":
            self._stop()
        if isinstance(self._on_crash, str):
            return
        with suppress(BaseException):  # the user's exception class may refuse a note
            failure.error.add_note(f"crash in {failure.unit}")  # an error tracker is passed the error alone
        try:
            result = self._on_crash(failure.error)
        except Exception as error:
            log_error(f"on_crash failed, after the crash in {failure.unit}: {text_of(error)}", error)
        except BaseException as error:  # raised here, it would end the event loop before anything is stopped
            log_error(f"on_crash ends the process after the crash in {failure.unit}: {text_of(error)}", error)
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
            # The signal would kill the process at once, as in hypercorn's workers, so the units are stopped first.
            self.interrupt.cancel()
        else:
            terminate()


def terminate() -> None:
    """Send SIGTERM to this process, as its supervisor would."""
    signal.raise_signal(signal.SIGTERM)
