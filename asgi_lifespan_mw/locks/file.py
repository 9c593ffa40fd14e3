"""`FileLock`: one host, any event loop."""

import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import final

import anyio

from .engine import imported

POLL_EVERY = 0.1
"""Seconds between two attempts. A blocking one would need a thread that cannot be cancelled."""


@final
class FileLock:
    """A lock on a file, for the processes of one host. It needs the extra ``file``, which is filelock.

    *Guarantee:* At most one process holds it. The kernel frees it when its holder ends, also by SIGKILL; then another
    one has it within 0.1 s. It cannot be lost. There is no order among those that wait.

    *No guarantee:* On a network share a lock on a file is not reliable, and containers have files of their own.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Prepare a lock; nothing is opened yet.

        Args:
            path: The file, which is created and stays. Its folder must exist.

        Raises:
            ImportError: If filelock is not installed.
        """
        self._path = os.fspath(path)
        self._filelock = imported("filelock", "file", "FileLock")

    def __call__(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager that holds the lock.

        *Cancellation:* The wait is given up, and nothing is held.
        """
        return self._held()

    def __repr__(self) -> str:
        return f"FileLock({self._path!r})"

    @asynccontextmanager
    async def _held(self) -> AsyncGenerator[None]:
        # Not per thread, and one for each attempt: two apps of one process exclude each other too.
        lock = self._filelock.FileLock(self._path, thread_local=False, is_singleton=False)
        while True:
            try:
                lock.acquire(blocking=False)
            except self._filelock.Timeout:
                await anyio.sleep(POLL_EVERY)
            else:
                break
        try:
            yield
        finally:
            lock.release()
