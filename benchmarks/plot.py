"""Makes the tables of ``README.md`` and the plots of what ``record.py`` found."""

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import bench_concurrent
import bench_import
import bench_memory
import bench_requests
import bench_served
import bench_startup
import subjects
from record import RESULTS

HERE = Path(__file__).parent
TABLES: dict[str, Callable[[Any], str]] = {
    "requests": bench_requests.table,
    "served": bench_served.table,
    "startup": bench_startup.table,
    "recipe": bench_startup.table_of_recipe,
    "concurrent": bench_concurrent.table,
    "import": bench_import.table,
    "memory": bench_memory.table,
}
OURS, THEIRS = "#2a6fbb", "#b0b7bf"


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """A picture with a white ground, so that it can be read on any page."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="16" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(content)}</text>'


def requests_plot(results: dict[str, list[float]]) -> str:
    """Bars: what each wrapper adds at 10 suspensions, in units of the plainest one's; those off the scale say so."""
    plain = results[subjects.PLAIN][1]
    rows = [(name, counts[1] / plain) for name, counts in results.items() if name != subjects.BARE]
    parts: list[str] = []
    for number, (name, ratio) in enumerate(rows):
        y = 48 + number * 28
        long = min(ratio, 2.0) * 180
        color = OURS if name.startswith(subjects.OURS) else THEIRS
        parts += [
            text(250, y + 14, name, "end"),
            f'<rect x="260" y="{y}" width="{long:.0f}" height="18" fill="{color}"/>',
            text(266 + long, y + 14, f"{ratio:.2f}" + (" (bar cut)" if ratio > 2 else "")),
        ]
    title = "Added to a request that suspends 10 times; plain async wrapper = 1"
    return svg(760, 64 + len(rows) * 28, title, parts)


def startup_plot(rows: list[dict[str, float]]) -> str:
    """Lines: microseconds per mount over the number of mounts, both logarithmic."""
    left, top, width, height = 70, 50, 600, 260
    low, high = 10.0, 1000.0

    def x(mounts: float) -> float:
        return left + width * math.log10(mounts) / math.log10(5000)

    def y(micros: float) -> float:
        return top + height * (1 - math.log(micros / low) / math.log(high / low))

    parts = [
        f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="black"/>',
        text(left + width / 2, top + height + 40, "mounts", "middle"),
    ]
    parts += [text(left - 8, y(value) + 4, f"{value} µs", "end") for value in (10, 100, 1000)]
    parts += [text(x(row["mounts"]), top + height + 20, f"{row['mounts']:.0f}", "middle") for row in rows]
    for key, name, color in (("ours", "asgi_lifespan_mw", OURS), ("dispatcher", "hypercorn dispatcher", "#6b7480")):
        points = [(x(row["mounts"]), y(row[key] / row["mounts"] * 1e6)) for row in rows]
        line = " ".join(f"{px:.0f},{py:.0f}" for px, py in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.0f}" cy="{py:.0f}" r="3" fill="{color}"/>' for px, py in points]
        parts.append(text(points[-1][0], points[-1][1] - 10, name, "end"))
    return svg(720, top + height + 60, "Start and stop, per mount", parts)


def quoted(results: dict[str, Any]) -> str:
    """The three ratios that the project's README quotes, each with its command."""
    at_0, at_10 = (
        ours / plain
        for ours, plain in zip(*(results["requests"][name] for name in (subjects.OURS, subjects.PLAIN)), strict=True)
    )
    served, noise = (
        statistics.median(
            one / bare for one, bare in zip(results["served"][name], results["served"]["bare"], strict=True)
        )
        for name in ("wrapped", "bare again")
    )
    [startup] = [row["ratio"] for row in results["startup"] if row["mounts"] == 1000]
    rows = [
        (
            "instructions added to a request that suspends ten times, plainest `async def` middleware = 1",
            f"{at_10:.2f} ({at_0:.2f} where it never suspends)",
            "bench_requests.py",
        ),
        (
            "requests per second of a FastAPI app under uvicorn, bare = 1",
            f"{served:.2f} (a second bare one: {noise:.2f})",
            "bench_served.py",
        ),
        (
            "starting and stopping 1,000 mounts, hypercorn's dispatcher, which knows no order and no unwinding = 1",
            f"{startup:.1f}",
            "bench_startup.py",
        ),
    ]
    lines = [f"| {what} | {ratio} | `.venv/bin/python benchmarks/{script}` |" for what, ratio, script in rows]
    return "\n".join(["| what | ratio | command |", "|---|---|---|", *lines])


def filled(readme: str, results: dict[str, Any]) -> str:
    """The README with its tables made anew."""
    about = (
        f"Measured on {results['date']} at commit {results['commit']}, on {results['machine']}, with Python "
        f"{results['python']}, " + ", ".join(f"{name} {version}" for name, version in results["packages"].items()) + "."
    )
    for name, content in {
        "about": about,
        "performance": quoted(results),
        **{name: table(results[name]) for name, table in TABLES.items()},
    }.items():
        readme = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, content=content: f"{found[1]}{content}\n{found[2]}",
            readme,
            flags=re.DOTALL,
        )
    return readme


def main() -> None:
    """Write the plots and the tables."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    (HERE / "requests.svg").write_text(requests_plot(results["requests"]), encoding="utf-8")
    (HERE / "startup.svg").write_text(startup_plot(results["startup"]), encoding="utf-8")
    for readme in (HERE / "README.md", HERE.parent / "README.md"):
        readme.write_text(filled(readme.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
