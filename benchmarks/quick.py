"""The benchmarks in a minute, for CI: each runs, and what does not depend on the machine's mood is held to its limit.

Without valgrind there are no instructions to count; then that is said, and the rest is run.
"""

import sys

import bench_concurrent
import bench_import
import bench_memory
import bench_requests
import bench_served
import bench_startup
import callgrind
import subjects
from callgrind import per_piece

MOST_AT_0 = 0.85
"""Of what the plainest wrapper adds to a request that suspends nowhere, while ours serves."""
MOST_AT_10 = 0.6
"""The same for one that suspends ten times."""
MOST_GROWTH = 1.2
"""The cost of a mount among many, in units of that among few."""
FEW, MANY = 50, 250


def ratios() -> list[float]:
    """What ours adds to a request, in units of the plainest wrapper, at 0 and at 10 suspensions."""
    results = bench_requests.measure((subjects.BARE, subjects.OURS, subjects.PLAIN))
    print(bench_requests.table(results))
    return [ours / plain for ours, plain in zip(results[subjects.OURS], results[subjects.PLAIN], strict=True)]


def growth() -> float:
    """How much more one mount costs among many than among few, in instructions."""
    costs = [per_piece("lifespans", "ours", str(mounts), few=1, many=2) / mounts for mounts in (FEW, MANY)]
    print(f"\ninstructions per mount: {costs[0]:.0f} among {FEW}, {costs[1]:.0f} among {MANY}")
    return costs[1] / costs[0]


def main() -> None:
    """Run all; exit with what is over its limit."""
    failures = [f"imports {name}" for name in bench_import.foreign()]
    if callgrind.is_there():
        limits = (("at 0 suspensions", MOST_AT_0), ("at 10 suspensions", MOST_AT_10))
        for (what, limit), ratio in zip(limits, ratios(), strict=True):
            if ratio > limit:
                failures.append(f"{what} it adds {ratio:.2f} of what the plainest wrapper adds, more than {limit}")
        if (grown := growth()) > MOST_GROWTH:
            failures.append(f"a mount among {MANY} costs {grown:.2f} of one among {FEW}, more than {MOST_GROWTH}")
    else:
        print("NOT MEASURED, for there is no valgrind: instructions of requests, and how startup grows")
    print("\n" + bench_startup.table(bench_startup.measure((10, 100), rounds=3)))
    print("\n" + bench_startup.table_of_recipe(bench_startup.measure_recipe((10, 100), rounds=3)))
    rows = bench_concurrent.measure(0.2, rounds=1)
    print("\n" + bench_concurrent.table(rows))
    failures += [f"side by side {row['hooks']} takes as long as in series" for row in rows if row["concurrent"] > 0.4]
    print("\n" + bench_memory.table(bench_memory.measure()))
    print("\n" + bench_served.table(bench_served.measure(rounds=2, seconds=0.5)))
    if failures:
        sys.exit("\n".join(["", "over the limit:", *failures]))


if __name__ == "__main__":
    main()
