"""Starting hooks side by side: the startup takes as long as its longest path, not as the sum of all."""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 5
SECOND = 1.0


def waits(seconds: float) -> Callable[[], Any]:
    """A hook that takes so long to start."""

    async def hook() -> None:
        await asyncio.sleep(seconds)

    return hook


def three(second: float, *, concurrent: bool) -> Any:
    """Three hooks of one second each."""
    from asgi_lifespan_mw import Lifespan

    return Lifespan(on_startup=[waits(second)] * 3, concurrent=concurrent)


def series_in_group(second: float, *, concurrent: bool) -> Any:
    """One hook of one second, and beside it two of half a second, of which one comes after the other."""
    from asgi_lifespan_mw import Lifespan

    hooks = Lifespan(on_startup=[waits(second)], concurrent=concurrent)
    hooks.include(Lifespan(on_startup=[waits(second / 2)] * 2))
    return hooks


CASES = {"three of one second": three, "one of one second, beside two of half a second in series": series_in_group}


def seconds(hooks: Any) -> float:
    """How long one startup takes."""

    async def main() -> float:
        began = time.perf_counter()
        async with hooks(None):
            return time.perf_counter() - began

    return asyncio.run(main())


def measure(second: float = SECOND, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """One row for each case: seconds in series and side by side."""
    return [
        {
            "hooks": name,
            "series": statistics.median(seconds(make(second, concurrent=False)) for _ in range(rounds)),
            "concurrent": statistics.median(seconds(make(second, concurrent=True)) for _ in range(rounds)),
        }
        for name, make in CASES.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a table in Markdown."""
    lines = ["| hooks | one after the other, s | `concurrent=True`, s |", "|---|--:|--:|"]
    return "\n".join([*lines, *(f"| {row['hooks']} | {row['series']:.2f} | {row['concurrent']:.2f} |" for row in rows)])


if __name__ == "__main__":
    print(table(measure()))
