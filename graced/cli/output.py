"""What gracectl prints: tables, JSON, times and durations. Data goes to stdout, never an escape byte in a pipe.

Pure but for `use_colour` (asks the terminal and the environment) and `show` (writes).
"""

from __future__ import annotations

import os
import sys

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

UNKNOWN = "-"
JSON_FORMS = ("short", "pretty", "off")

_COLOURS = {"good": "32", "warn": "33", "bad": "31", "faint": "2", "strong": "1"}


def use_colour() -> bool:
    """Colour only on a terminal that wants it (NO_COLOR, TERM=dumb and SYSTEMD_COLORS=0 are honoured)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return os.environ.get("SYSTEMD_COLORS", "1") not in {"0", "no", "false"} and sys.stdout.isatty()


def paint(text: str, kind: str) -> str:
    """`text` in the colour of `kind` (good, warn, bad, faint, strong) where colour is wanted."""
    return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if use_colour() else text


def printable(text: str) -> str:
    """Text from elsewhere without control characters, so that a log line cannot move the cursor."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def cell(value: object) -> str:
    """One value in a table; what is not known is a dash."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3g}"
    return printable(str(value))


def terminal_columns() -> int | None:
    """How wide the terminal on stdout is, 80 when it does not say; None in a pipe, where nothing is cut."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return None


def speaks_unicode() -> bool:
    """Whether stdout can show lines and ellipses."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def cut(text: str, columns: int) -> str:
    """`text` in at most `columns` characters, marked where it was cut."""
    if len(text) <= columns:
        return text
    mark = "\N{HORIZONTAL ELLIPSIS}" if speaks_unicode() else "..."
    return text[: columns - len(mark)] + mark if columns > len(mark) else text[:columns]


def _widths(lines: Sequence[Sequence[str]], columns: int | None) -> list[int]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    least = [max(len(heading), 8) for heading in lines[0]]
    excess = 0 if columns is None else sum(widths) + 2 * (len(widths) - 1) - columns
    while excess > 0:
        # the widest gives first, down to its heading
        widest = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        if widths[widest] <= least[widest]:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    columns: int | None = None,
) -> str:
    """An aligned table, headings in capitals, no trailing blanks; empty text when there are no rows.

    The columns headed by a word in `right` are numbers. With `columns`, the widest cells are cut until it fits.
    """
    lines = table_lines(headings, rows, right=right, columns=columns)
    return "\n".join([paint(lines[0], "strong"), *lines[1:]]) if len(lines) > 1 else ""


def table_lines(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    columns: int | None = None,
) -> list[str]:
    """As `table`: its lines without colour, headings first."""
    lines = [[heading.upper() for heading in headings], *([cell(value) for value in row] for row in rows)]
    sized = list(zip(headings, _widths(lines, columns), strict=True))
    out = []
    for line in lines:
        cells = [
            cut(value, width).rjust(width) if heading in right else cut(value, width).ljust(width)
            for value, (heading, width) in zip(line, sized, strict=True)
        ]
        out.append("  ".join(cells).rstrip())
    return out


def to_json(value: Any, form: str) -> str:
    """`value` as one line (``short``) or indented (``pretty``)."""
    import json

    if form == "pretty":
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def show(value: Any, form: str, human: str) -> None:
    """Print `value` as JSON, or `human` when JSON is off."""
    text = to_json(value, form) if form != "off" else human
    if text:
        click.echo(text)


def say(message: str) -> None:
    """A message for the person (stderr): what happened, what comes next."""
    click.echo(message, err=True)


def short_time(stamp: object) -> str:
    """An RFC 3339 UTC time as ``2026-11-22 15:04:05Z``; a dash when there is none."""
    text = cell(stamp)
    if len(text) >= 19 and text[10:11] == "T":
        return f"{text[:10]} {text[11:19]}Z"
    return text


def milliseconds(value: object) -> str:
    """``340 ms``, ``1.25 s``; a dash when it is not known."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return UNKNOWN
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def span(seconds: float) -> str:
    """A length of time for people: ``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def brief(seconds: float) -> str:
    """A length of time for a narrow column: ``0.4s``, ``12s``, ``3m``, ``5h``, ``2d``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    for unit, size, below in (("s", 1, 100), ("m", 60, 6000), ("h", 3600, 172_800)):
        if seconds < below:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86400)}d"
