"""Render a report: a tree for people, in colours and as SVG, JSON for programs, a trace for Perfetto."""

import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from .._reporting.report import Report, UnitReport

if TYPE_CHECKING:
    from rich.console import Console

VERSION: Final = 1
"""The version of the JSON. It is raised if a field is removed or changes its meaning, not for new fields."""

_MARKS = {
    "stopped": "✓",
    "started": "✓",
    "failed": "✗",
    "crashed": "✗",
    "cancelled": "✗",
    "left out": "○",
    "unsupported": "○",
}
_ASCII = str.maketrans("✓✗○█▒│├└─…·", "+xo#=||`-.~")
_COLORS = r"(?P<green>█+ *)|(?P<cyan>▒+ *)", r"(?m)^(?:(?P<green>✓ )|(?P<red>✗.*)|(?P<dim>○.*| +█ start .*))"
"""Patterns of a tree; each group is painted in the colour of its name. Some viewers of SVG drop a space at the
beginning of a text, so a space is painted with the characters before it."""
_LONG = 100
"""Seconds from which times have no decimals."""
_NARROWEST_AXIS, _WIDEST_AXIS, _SVG_WIDTH = 10, 60, 100
_NARROWEST_CHART = 60
"""Columns from which a tree has a time axis; with fewer, names and times take the room."""


def seconds(value: float | None) -> str:
    """Return a time for people; "" for None."""
    if value is None:
        return ""
    if round(value, 3) >= 1:
        return f"{value:.3g} s" if value < _LONG else f"{value:.0f} s"
    return f"{round(value * 1000, 2):.3g} ms"


def rows_inside(rows: Sequence[UnitReport]) -> Iterator[UnitReport]:
    """Yield the rows of the units that are nested in the first of these rows, at any depth."""
    return itertools.takewhile(lambda row: row.depth > rows[0].depth, rows[1:])


def own_start(rows: Sequence[UnitReport]) -> float:
    """Return how long the first of these rows took to start, without the starts of the units inside it."""
    first = rows[0]
    took, at = first.start_seconds or 0.0, first.began or 0.0
    end = at + took
    starts = [(row.began, row.start_seconds or 0.0) for row in rows_inside(rows) if row.began is not None]
    for began, seconds in sorted(starts):
        # Units inside may start side by side, and what is mounted starts after its parent has started.
        covered = max(0.0, min(end, began + seconds) - max(at, began))
        took -= covered
        at = max(at, began + seconds)
    return took


def tree(report: Report, width: int) -> str:
    """Return the units as a tree, with their times on one time axis; longer lines are cut."""
    names = [branch + printable(row.name) for branch, row in zip(_branches(report.units), report.units, strict=True)]
    keys = ["".join(f" +{printable(key)}" for key in row.state) for row in report.units]
    has_chart = width >= _NARROWEST_CHART
    column = min(max(map(len, names), default=0), width // 2 if has_chart else max(0, width - 20))
    axis = min(max(width - column - max(map(len, keys), default=0) - 24, _NARROWEST_AXIS), _WIDEST_AXIS)
    total = _end(report)
    lines = [f"{'':{column}}    █ start   ▒ stop  0 {f' {seconds(total)}':─>{axis - 2}}"] if total and has_chart else []
    for text, row, added in zip(names, report.units, keys, strict=True):
        line = f"{_MARKS.get(row.outcome, '·')} {_cut(text, column):{column}}  "
        if row.outcome in {"left out", "unsupported"}:
            line += printable(row.reason) or "has no lifespan"
        elif total:
            line += f"{seconds(row.start_seconds):>7}  {seconds(row.stop_seconds):>7}"
            line += f"  {_bar(row, total, axis)}{added}" if has_chart else ""
        lines.append(line)
    return "\n".join(_cut(line.rstrip(), width) for line in lines)


def _end(report: Report) -> float:
    """Return when the run ended, as far as that is known, in seconds from its beginning."""
    return max(report.start_seconds or 0, (report.stop_began or 0) + (report.stop_seconds or 0))


def _spans(row: UnitReport, end: float) -> Iterator[tuple[str, float, float]]:
    """Yield the start and the stop of a unit: name, beginning, duration. What is not over lasts to the end."""
    for what, began, took in (("start", row.began, row.start_seconds), ("stop", row.stop_began, row.stop_seconds)):
        if began is not None:
            yield what, began, end - began if took is None else took


def _bar(row: UnitReport, end: float, width: int) -> str:
    cells = [" "] * width
    for what, began, took in _spans(row, end):
        first = min(int(began / end * width), width - 1)
        last = max(first + 1, round((began + took) / end * width))
        cells[first:last] = ("█" if what == "start" else "▒") * (last - first)
    return "".join(cells[:width])


def _branches(rows: Sequence[UnitReport]) -> list[str]:
    """Return the lines of the tree before each name. They are made from the last row up, to know of siblings below."""
    made: list[str] = []
    joined: set[int] = set()
    for row in reversed(rows):
        lines = "".join("│  " if level in joined else "   " for level in range(1, row.depth))
        made.append(lines + ("├─ " if row.depth in joined else "└─ ") if row.depth else "")
        joined = {level for level in joined if level < row.depth} | {row.depth}
    return made[::-1]


def printable(text: str) -> str:
    """Return a string on one line, with escapes for what a terminal or a picture cannot show."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"[:width]


def as_ascii(text: str) -> str:
    """Return a string for a terminal that shows ASCII only."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()


def as_json(report: Report, **more: object) -> str:
    """Return the report as JSON, for programs. The reference describes each field."""
    units = [_fields(row) for row in report.units]
    return json.dumps({"version": VERSION, **more, **asdict(replace(report, units=())), "units": units}, indent=2)


def _fields(row: UnitReport) -> dict[str, object]:
    return {"unit": row.unit, "name": row.name, "location": row.location, **asdict(row)}


def as_trace(report: Report) -> str:
    """Return the report in the trace format of Chrome, with a track for each unit. https://ui.perfetto.dev opens it."""
    events: list[dict[str, object]] = []
    for tid, row in enumerate(report.units, 1):
        track = {"pid": 1, "tid": tid}
        events.append({**track, "ph": "M", "name": "thread_name", "args": {"name": row.name}})
        events.append({**track, "ph": "M", "name": "thread_sort_index", "args": {"sort_index": tid}})
        for what, began, took in _spans(row, _end(report)):
            when = {"ts": round(began * 1e6, 1), "dur": round(took * 1e6, 1)}
            events.append({**track, **when, "ph": "X", "name": f"{what} {row.name}", "cat": what, "args": _fields(row)})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def in_colors(text: str, **options: Any) -> "Console":
    """Print a tree and what is around it to a console of rich's with these options."""
    from rich.console import Console
    from rich.text import Text

    console, painted = Console(**options), Text(text)
    for pattern in _COLORS:
        painted.highlight_regex(pattern)
    console.print(painted, soft_wrap=not console.record)
    return console


def as_svg(report: Report, title: str, *below: str) -> str:
    """Return a picture of the tree as a terminal shows it, with other text below; rich is needed."""
    from rich._export_format import CONSOLE_SVG_FORMAT

    # XML knows no control characters.
    text = "\n".join(printable(line) for line in "\n\n".join([tree(report, _SVG_WIDTH), *below]).splitlines())
    console = in_colors(text, file=io.StringIO(), width=_SVG_WIDTH, record=True)
    # Rich's template loads its font from a content delivery network; "monospace" is always there.
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title=printable(title), code_format=template.replace("Fira Code, monospace", "monospace"))
