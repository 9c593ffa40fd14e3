"""What a report looks like: a tree for people, JSON for machines, a trace for Perfetto, a timeline as SVG.

Each is a pure function of the report.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Final

from ._report import Report, UnitReport

VERSION: Final = 1
"""Of the JSON: a field may be added to it; one that is taken away or means something else makes a new version."""

_MARKS = {"stopped": "✓", "started": "✓", "failed": "✗", "cancelled": "✗", "left out": "○", "unsupported": "○"}
_INKS = {"✓": "32", "✗": "31", "○": "2", "█": "32", "▒": "36", "dim": "2"}
_ASCII: Final = str.maketrans("✓✗○█▒│├└─…·µ", "+xo#=||`-.~u")
_SHORT, _SHORTEST = 0.01, 0.0001
"""Seconds below which milliseconds have a decimal, and below which there are microseconds."""
_NARROWEST_AXIS, _WIDEST_AXIS = 10, 60


def seconds(value: float | None) -> str:
    """A time for people; empty for none."""
    if value is None:
        return ""
    if value >= 1:
        return f"{value:.3g} s"
    if value >= _SHORT:
        return f"{value * 1000:.0f} ms"
    return f"{value * 1000:.1f} ms" if value >= _SHORTEST else f"{value * 1e6:.0f} µs"


def name(row: UnitReport) -> str:
    """Who a unit is, in short: without its place in the files, with its whole path."""
    return f"mount {row.path!r}" if row.kind == "mount" else row.unit.partition(" (")[0]


def end(report: Report) -> float:
    """When the last thing that is known of happened, in seconds from the beginning of the run."""
    ends = [began + (took or 0) for row in report.units for began, took, _ in _spans(row)]
    return max([report.start_seconds or 0, (report.stop_began or 0) + (report.stop_seconds or 0), *ends])


def _spans(row: UnitReport) -> list[tuple[float, float | None, str]]:
    """When a unit was at work: from when, how long, and the letter that draws it."""
    spans = [(row.began, row.start_seconds, "█"), (row.stop_began, row.stop_seconds, "▒")]
    return [(began, took, ink) for began, took, ink in spans if began is not None]


def tree(report: Report, width: int, *, is_colored: bool = False) -> str:
    """The units as a tree, with what each took, on one time axis.

    Args:
        report: what to show.
        width: columns; a line that needs more is cut.
        is_colored: whether to paint with escape sequences.
    """
    names = [branch + name(row) for branch, row in zip(_branches(report.units), report.units, strict=True)]
    column = min(max(map(len, names), default=0), width // 2)
    total = end(report)
    told = max((len(_keys(row)) for row in report.units), default=0)
    axis = max(_NARROWEST_AXIS, min(_WIDEST_AXIS, width - column - told - 24))

    def painted(text: str, ink: str) -> str:
        return f"\x1b[{_INKS[ink]}m{text}\x1b[0m" if is_colored and text.strip() and ink in _INKS else text

    lines: list[str] = []
    if total:
        scale = f"0 {f' {seconds(total)}':─>{axis - 2}}"
        lines.append(painted(f"{'':{column + 2}}  █ start   ▒ stop  {scale}"[:width], "dim"))
    for text, row in zip(names, report.units, strict=True):
        mark = _MARKS.get(row.outcome, "·")
        head = f"{painted(mark, mark)} {painted(_cut(text, column).ljust(column), mark if mark in '✗○' else '')}"
        if not row.outcome.startswith(("left", "unsupported")) and total:
            times = f"  {seconds(row.start_seconds):>7}  {seconds(row.stop_seconds):>7}  "
            bar = _bar(row, total, axis)
            ink = "✗" if mark == "✗" else ""
            bar = "".join(painted(letter, ink or letter) for letter in bar)
            lines.append(head + times + bar + painted(_cut(_keys(row), max(0, width - column - 20 - axis)), "dim"))
        else:
            lines.append(head + painted(_cut("  " + _why(row), max(0, width - column - 2)), "dim"))
    return "\n".join(line.rstrip() for line in lines)


def _keys(row: UnitReport) -> str:
    return "".join(f" +{key}" for key in row.state)


def _why(row: UnitReport) -> str:
    if row.outcome == "unsupported":
        return "has no lifespan"
    return row.reason if row.outcome == "left out" else ""


def _bar(row: UnitReport, total: float, width: int) -> str:
    cells = [" "] * width
    for began, took, ink in _spans(row):
        first = min(int(began / total * width), width - 1)
        last = max(first + 1, round((total if took is None else began + took) / total * width))
        cells[first:last] = ink * (last - first)
    return "".join(cells[:width])


def _branches(rows: Sequence[UnitReport]) -> list[str]:
    """The lines of the tree before each name, made from below: what has a sibling after it is joined to it."""
    made: list[str] = []
    joined: set[int] = set()
    for row in reversed(rows):
        lines = "".join("│  " if level in joined else "   " for level in range(1, row.depth))
        made.append(lines + ("├─ " if row.depth in joined else "└─ ") if row.depth else "")
        joined = {level for level in joined if level < row.depth} | {row.depth}
    return made[::-1]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"[:width]


def as_ascii(text: str) -> str:
    """The text for a terminal that has no other letters."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()


def as_json(report: Report, **more: object) -> str:
    """The report for machines; the README tells what each field is."""
    return json.dumps({"version": VERSION, **more, **asdict(report)}, indent=2)


def as_trace(report: Report) -> str:
    """The trace format of Chrome, which https://ui.perfetto.dev opens: a track for each unit."""
    events: list[dict[str, object]] = []
    for track, row in enumerate(report.units, 1):
        events.append({"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": name(row)}})
        events.append({"ph": "M", "pid": 1, "tid": track, "name": "thread_sort_index", "args": {"sort_index": track}})
        for began, took, ink in _spans(row):
            what = "start" if ink == "█" else "stop"
            args = {"unit": row.unit, "outcome": row.outcome, "reason": row.reason, "state": list(row.state)}
            lasts = end(report) - began if took is None else took
            when = {"ts": round(began * 1e6, 1), "dur": round(lasts * 1e6, 1)}
            named = {"name": f"{what} {name(row)}", "cat": what, "args": args}
            events.append({"ph": "X", "pid": 1, "tid": track, **named, **when})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def as_svg(report: Report, title: str) -> str:
    """A picture of the timeline."""
    left, width, high = _AXIS, _COLUMNS["█"] - _AXIS - 80, 26
    total = end(report) or 1.0
    bottom = 70 + high * len(report.units)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_COLUMNS["▒"] + 20}" height="{bottom + 40}" {_FONT}>',
        '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>',
        f'<text x="20" y="30" font-size="16" font-weight="600">{escape(title)}</text>',
        *(_right(_COLUMNS[letter], 30, word) for letter, word in (("█", "start"), ("▒", "stop"))),
        *(f'<rect x="{x - 52}" y="20" width="12" height="12" rx="2" fill="{_FILLS[a]}"/>' for a, x in _COLUMNS.items()),
    ]
    for tick in _ticks(total):
        x = left + tick / total * width
        parts.append(f'<path d="M{x:.1f} 56V{bottom}" stroke="#e4e7eb"/>')
        told = seconds(tick) if tick else "0"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle" fill="#7b8794">{told}</text>')
    for index, row in enumerate(report.units):
        y = 60 + high * index
        is_told = row.outcome in {"left out", "unsupported"}
        ink = "#c62828" if _MARKS.get(row.outcome) == "✗" else "#9aa5b1" if is_told else "#1f2933"
        label = escape(_cut(name(row), 38 - 2 * row.depth))
        parts.append(f'<text x="{20 + 16 * row.depth}" y="{y + 17}" fill="{ink}">{label}</text>')
        x = float(left)
        for began, took, letter in _spans(row):
            x = left + began / total * width
            wide = max(2.0, (total - began if took is None else took) / total * width)
            fill = "#c62828" if ink == "#c62828" else _FILLS[letter]
            tip = f"{'start' if letter == '█' else 'stop'} {name(row)}: {seconds(took)}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y + 4}" width="{wide:.1f}" height="{high - 8}" rx="2" fill="{fill}">'
                f"<title>{escape(tip)}</title></rect>"
            )
            parts.append(_right(_COLUMNS[letter], y + 17, seconds(took)))
        if is_told:
            parts.append(f'<text x="{left}" y="{y + 17}" fill="{ink}">{escape(_cut(_why(row), 90))}</text>')
    return "\n".join([*parts, "</svg>", ""])


_FONT = 'font-family="ui-sans-serif, system-ui, sans-serif" font-size="13" fill="#1f2933"'
_AXIS, _COLUMNS = 290, {"█": 970, "▒": 1050}
"""Where the axis begins, and where the columns with the times end."""
_FILLS = {"█": "#2e9e6b", "▒": "#4c8bd6"}


def _right(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="end" fill="#52606d">{escape(text)}</text>'


def _ticks(total: float) -> list[float]:
    """Round times along the axis, five or so."""
    rough = total / 5
    power = 10.0 ** next(n for n in range(-9, 99) if 10.0 ** (n + 1) > rough)
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
    return [step * n for n in range(int(total / step) + 1)]
