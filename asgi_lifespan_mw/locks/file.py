"""`FileLock`: one host, any event loop."""

import logging
import os
import threading
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any, final

import anyio

from .._units.locking import LockLost
from .._units.threads import call_in_thread
from .engine import imported, succeed

CHECK_EVERY = 1.0
"""Seconds between two looks at the file of a lock that is held."""


@final
class FileLock:
    """A lock on a file, for the processes of one host. It needs the extra ``file``, which is filelock.

    *Guarantee:* At most one process holds it. The kernel frees it when its holder ends, also by SIGKILL, even if
    children that the holder forked go on; then another one has it within 1 s. There is no order among those that wait.

    *No guarantee:* If the file is removed or replaced while it is held, another process can lock the new file; the
    holder notices this within 1 s. On a network share a lock on a file is not reliable, and containers have files of
    their own.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Prepare a lock; nothing is opened yet.

        Args:
            path: The file, which is created and stays. Its folder must exist. A place that is cleaned up, such as
                ``/tmp``, is not suitable.

        Raises:
            ImportError: If filelock is not installed.
        """
        self._path = os.fspath(path)
        self._filelock = imported("filelock", "file", "FileLock")

    def __call__(self) -> "AbstractAsyncContextManager[HeldFile]":
        """Return a context manager that holds the lock, and yields an object that reports its loss.

        *Cancellation:* The wait is given up, and nothing is held.
        """
        return HeldFile(self._path, self._filelock)

    def __repr__(self) -> str:
        return f"FileLock({self._path!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FileLock) and self._path == other._path

    def __hash__(self) -> int:
        return hash(self._path)


_kept: list["HeldFile"] = []
"""Locks that are held until the process ends: the kernel frees them. Without a reference, filelock would."""


@final
class HeldFile(AbstractAsyncContextManager["HeldFile"]):
    """A lock on a file that is waited for, and then held. All that opens or looks at files is done in a thread.

    It is a class, and not a generator: an event loop that ends closes generators, and would free the lock that is to be
    kept.
    """

    def __init__(self, path: str, filelock: Any) -> None:
        self._path = path
        self._filelock = filelock
        self._lock: Any = None
        self._limiter = anyio.CapacityLimiter(1)  # the threads of the event loop may all be busy

    async def __aenter__(self) -> "HeldFile":
        await succeed(lambda: self._call(self._try, if_abandoned=self._free))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self not in _kept and not await self._call(self._leave):
            raise LockLost(f"the file {self._path} was removed or replaced")

    async def wait(self) -> None:
        """Return when the file was removed or replaced."""
        while await self._call(self._is_there):  # noqa: ASYNC110 - no event tells
            await anyio.sleep(CHECK_EVERY)

    def keep_until_exit(self) -> None:
        """Hold the lock until the process ends, since a thread that works under it goes on."""
        _kept.append(self)

    async def _call(self, function: Any, **options: Any) -> bool:
        return bool(await call_in_thread(function, limiter=self._limiter, **options))

    def _try(self) -> bool:
        """Try to lock the file, and return whether it is locked."""
        if self._lock is None:
            # A process may change its folder. Not per thread, and one for each attempt to hold the lock: two apps of
            # one process exclude each other too.
            self._path = os.path.abspath(self._path)  # noqa: PTH100 - a prefix of strings
            self._lock = self._filelock.FileLock(self._path, thread_local=False, is_singleton=False)
        with _quiet():
            try:
                self._lock.acquire(blocking=False)
            except self._filelock.Timeout:
                return False
        if self._is_there():
            return True
        self._free()  # the file was replaced after it was opened
        return False

    def _leave(self) -> bool:
        """Unlock the file, and return whether it was the one at the path until then."""
        is_there = self._is_there()
        self._free()
        return is_there

    def _free(self, _: object = None) -> None:
        with _quiet():
            self._lock.release()

    def _is_there(self) -> bool:
        """Return whether the locked file is the one at the path."""
        locked = os.fstat(self._lock._context.lock_file_fd)  # noqa: SLF001 - there is no public name for it
        try:
            found = os.stat(self._path)  # noqa: PTH116 - as `os.fstat`
        except FileNotFoundError:
            return False
        return os.path.samestat(locked, found)


_ours = threading.local()


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the DEBUG records of filelock in this thread out of the log: two for each attempt."""
    logging.getLogger("filelock").addFilter(_is_wanted)  # which keeps one of each
    _ours.is_quiet = True
    try:
        yield
    finally:
        _ours.is_quiet = False


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or not getattr(_ours, "is_quiet", False)
