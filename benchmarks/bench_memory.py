"""Memory of started mounts, beside hypercorn's dispatcher, and what is kept of a run that is over.

Bytes that Python's allocator gave out, by tracemalloc, less those before the lifespan.
"""

import asyncio
import gc
import tracemalloc
from typing import Any

import subjects

MOUNTS = 1_000


def bytes_of(make: Any) -> tuple[float, float]:
    """Bytes per mount while all are started, and after the second run of two: the first fills caches."""
    app = make(MOUNTS)
    asyncio.run(subjects.lifespan(app))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    started = 0

    def look() -> None:
        nonlocal started
        gc.collect()
        started = tracemalloc.get_traced_memory()[0] - before

    asyncio.run(subjects.lifespan(app, look))
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return started / MOUNTS, kept / MOUNTS


def measure() -> dict[str, tuple[float, float]]:
    """Bytes per mount, started and kept."""
    return {"asgi_lifespan_mw": bytes_of(subjects.with_mounts), "hypercorn dispatcher": bytes_of(subjects.dispatched)}


def table(results: dict[str, tuple[float, float]]) -> str:
    """The results as a table in Markdown."""
    lines = ["| | bytes per started mount | kept per mount of a run that is over |", "|---|--:|--:|"]
    lines += [f"| {name} | {started:.0f} | {kept:.0f} |" for name, (started, kept) in results.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
