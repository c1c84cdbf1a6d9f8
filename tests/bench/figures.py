"""One measured figure against its goal, as build/bench.json keeps it."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

LATER = "later issue"


@dataclass(frozen=True)
class Figure:
    """`value` is the figure the goal is about; p50 and p99 over `n` measurements. `ok` is null for what has no goal
    yet. `load` is the machine's load average when its measuring began."""

    name: str
    value: float
    unit: str
    goal: str
    n: int
    p50: float
    p99: float
    ok: bool | None
    suite: str = ""
    load: str = ""
    note: str = ""
    values: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As it stands in build/bench.json."""
        return asdict(self)

    def at(self, suite: str, load: str, prefix: str = "") -> Figure:
        """The same with where it was measured and under what load; `prefix` comes before its note."""
        return replace(self, suite=suite, load=load, note=prefix + self.note)


def load_average() -> str:
    """The three load averages of this machine."""
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def figure(
    name: str,
    unit: str,
    values: list[float],
    *,
    goal: str,
    ok: bool | None,
    value: float | None = None,
    note: str = "",
    keep: bool = True,
) -> Figure:
    """A figure from its single measurements; `value` is the maximum unless given. `keep` keeps them all."""
    if not values:
        raise AssertionError(f"{name}: nothing was measured")
    return Figure(
        name=name,
        value=round(max(values) if value is None else value, 3),
        unit=unit,
        goal=goal,
        n=len(values),
        p50=round(percentile(values, 0.50), 3),
        p99=round(percentile(values, 0.99), 3),
        ok=ok,
        note=note,
        values=[round(one, 3) for one in values] if keep and len(values) > 1 else [],
    )


def table(figures: list[Figure]) -> str:
    """For people: a row per figure, its note below it."""
    marks = {True: "ok", False: "MISSED", None: "-"}
    head = ("figure", "value", "unit", "p50", "p99", "n", "", "goal", "load")
    rows = [
        (
            *(f"{one.name} ({one.suite})", f"{one.value:g}", one.unit, f"{one.p50:g}", f"{one.p99:g}", str(one.n)),
            *(marks[one.ok], one.goal, one.load.split(" ")[0]),
        )
        for one in figures
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    right = {"value", "p50", "p99", "n"}
    lines = []
    for row, note in zip((head, *rows), ("", *(one.note for one in figures)), strict=True):
        cells = zip(head, row, widths, strict=True)
        lines.append("  ".join(text.rjust(w) if name in right else text.ljust(w) for name, text, w in cells).rstrip())
        lines += textwrap.wrap(note, 150, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
