"""What a wrapper adds to a request whose app suspends 0 or 10 times, in instructions of the processor.

The cost of a wrapper is its count less that of the bare app. Starlette's BaseHTTPMiddleware needs an event loop and an
answer; it is compared with a bare app that has both.
"""

import subjects
from callgrind import per_piece

IN_A_LOOP = "starlette BaseHTTPMiddleware"
SUSPENSIONS = (0, 10)


def added(wrapper: str, suspensions: int) -> float:
    """The instructions that a wrapper adds to one request."""
    work = "answers" if wrapper == IN_A_LOOP else "requests"
    counts = [
        per_piece(work, name, str(suspensions), few=100, many=1100 if work == "answers" else 2100)
        for name in (wrapper, subjects.BARE)
    ]
    return counts[0] - counts[1]


def measure(wrappers: tuple[str, ...] = tuple(subjects.WRAPPERS)) -> dict[str, list[float]]:
    """The instructions that each wrapper adds, at 0 and at 10 suspensions."""
    return {
        name: [0.0, 0.0] if name == subjects.BARE else [added(name, suspensions) for suspensions in SUSPENSIONS]
        for name in wrappers
    }


def table(results: dict[str, list[float]]) -> str:
    """The results as a table in Markdown."""
    rows = [
        "| wrapper | added at 0 suspensions | ratio | added at 10 suspensions | ratio |",
        "|---|--:|--:|--:|--:|",
    ]
    plain = results[subjects.PLAIN]
    for name, counts in results.items():
        cells = [f"{count:.0f} | {count / of_plain:.2f}" for count, of_plain in zip(counts, plain, strict=True)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(measure()))
