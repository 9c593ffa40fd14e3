"""Locks of existing engines, for ``lock=`` of hooks and ``leader=`` of workers.

Each lock here is made once, from what the engine needs, and may be used by several hooks. An engine's library is
imported when a lock of that engine is made.
"""

from .file import FileLock
from .postgres import PostgresLock
from .redis import RedisLock

__all__ = ["FileLock", "PostgresLock", "RedisLock"]
