"""Starting and stopping many mounts, beside hypercorn's dispatcher, which does it without order, limits or unwinding.

Each mount is the plainest app with a lifespan. A whole lifespan is timed, with the dispatcher's in the same round; and
the look for mounts alone, through as many routes. A second table has mounted Starlette apps, beside the recipe that
users write instead: an `AsyncExitStack` in the parent's lifespan, which has no time limits, state or failures.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import subjects

SIZES = (1, 10, 50, 100, 500, 1_000, 5_000)
ROUNDS = 7


def seconds(make: Callable[[int], Any], mounts: int) -> float:
    """How long one lifespan takes."""
    app = make(mounts)
    began = time.perf_counter()
    asyncio.run(subjects.lifespan(app))
    return time.perf_counter() - began


def discovery(routes: int) -> float:
    """How long it takes to find the mounts among so many routes, with nothing started."""
    from asgi_lifespan_mw._apps.node import AppNode
    from asgi_lifespan_mw._apps.walk import describe, look_inside

    app = subjects.with_mounts(routes).app
    began = time.perf_counter()
    found = look_inside(describe(AppNode(app))).nested
    took = time.perf_counter() - began
    assert len(found) == routes
    return took


def measure(sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS) -> list[dict[str, float]]:
    """One row for each size: times in seconds, and the ratio with its quartiles."""
    seconds(subjects.with_mounts, 10)
    rows: list[dict[str, float]] = []
    for size in sizes:
        times = [
            (seconds(subjects.with_mounts, size), seconds(subjects.dispatched, size), discovery(size))
            for _ in range(rounds)
        ]
        low, ratio, high = statistics.quantiles([ours / theirs for ours, theirs, _ in times], n=4)
        ours, theirs, found = map(statistics.median, zip(*times, strict=True))
        rows.append(
            {
                "mounts": size,
                "ours": ours,
                "dispatcher": theirs,
                "discovery": found,
                "ratio": ratio,
                "low": low,
                "high": high,
            }
        )
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| mounts | ours, ms | µs per mount | dispatcher, ms | ratio | quartiles | discovery alone, ms |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *map(_line, rows)])


def _line(row: dict[str, float]) -> str:
    return (
        f"| {row['mounts']} | {row['ours'] * 1e3:.2f} | {row['ours'] / row['mounts'] * 1e6:.0f} | "
        f"{row['dispatcher'] * 1e3:.2f} | {row['ratio']:.1f} | {row['low']:.1f} to {row['high']:.1f} | "
        f"{row['discovery'] * 1e3:.2f} |"
    )


def measure_recipe(sizes: tuple[int, ...] = SIZES[:-1], rounds: int = ROUNDS) -> list[dict[str, float]]:
    """One row for each size: times in seconds, and the ratio with its quartiles."""
    rows: list[dict[str, float]] = []
    for size in sizes:
        times = [(seconds(subjects.with_starlettes, size), seconds(subjects.recipe, size)) for _ in range(rounds)]
        low, ratio, high = statistics.quantiles([ours / theirs for ours, theirs in times], n=4)
        ours, theirs = map(statistics.median, zip(*times, strict=True))
        rows.append({"mounts": size, "ours": ours, "recipe": theirs, "ratio": ratio, "low": low, "high": high})
    return rows


def table_of_recipe(rows: list[dict[str, float]]) -> str:
    """The results as a table in Markdown."""
    lines = ["| mounted Starlettes | ours, ms | recipe, ms | ratio | quartiles |", "|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {row['mounts']} | {row['ours'] * 1e3:.2f} | {row['recipe'] * 1e3:.2f} | {row['ratio']:.1f} | "
        f"{row['low']:.1f} to {row['high']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
    print("\n" + table_of_recipe(measure_recipe()))
