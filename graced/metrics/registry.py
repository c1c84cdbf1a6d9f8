"""Counters, gauges and histograms as plain dicts; nothing else is kept and nothing is rendered here.

Names follow the Prometheus conventions (base units, ``_total`` on counters). Every family is declared
before it is used, so a misspelt name or label is an error at the place that made it, and declared label
values exist with 0 from the start: a missing series never looks like "nothing happened". Used by the
supervisor; the exporter renders. Pure: no I/O, no clock. Not thread safe (one loop, one thread).
"""

from __future__ import annotations

from _bisect import bisect_left

from graced.base.errors import FormatError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict

    Key = tuple[str, ...]

COUNTER = "counter"
GAUGE = "gauge"
HISTOGRAM = "histogram"
MAX_SERIES = 200


class Family(Record):
    """A declared family.

    `labels` are the label names in order; `values` the label tuples that exist from the start; `buckets`
    the upper edges of a histogram in ascending order, without +Inf.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    buckets: tuple[float, ...] = ()


class _Histogram:
    def __init__(self, edges: int) -> None:
        self.counts = [0] * (edges + 1)
        self.sum = 0.0


class Registry:
    """All numbers of one process. `dropped` counts series refused because a family reached MAX_SERIES."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families: dict[str, Family] = {}
        self._numbers: dict[str, dict[Key, float]] = {}
        self._histograms: dict[str, dict[Key, _Histogram]] = {}
        self.dropped = 0
        for family in families:
            self._declare(family)

    def _declare(self, family: Family) -> None:
        if family.name in self._families:
            raise FormatError(f"metric {family.name} is declared twice")
        self._families[family.name] = family
        start = family.values or (((),) if not family.labels else ())
        if family.kind == HISTOGRAM:
            self._histograms[family.name] = {key: _Histogram(len(family.buckets)) for key in start}
        else:
            known = family.kind == COUNTER or family.values
            self._numbers[family.name] = dict.fromkeys(start, 0.0) if known else {}

    def _key(self, name: str, kinds: tuple[str, ...], labels: dict[str, str]) -> Key:
        family = self._families.get(name)
        if family is None:
            raise FormatError(f"metric {name} is not declared")
        if family.kind not in kinds:
            raise FormatError(f"metric {name} is a {family.kind}")
        if labels.keys() != set(family.labels):
            raise FormatError(f"metric {name} has the labels {list(family.labels)}, not {sorted(labels)}")
        return tuple(labels[label] for label in family.labels)

    def _room(self, series: dict[Key, float] | dict[Key, _Histogram], key: Key) -> bool:
        if key in series or len(series) < MAX_SERIES:
            return True
        self.dropped += 1
        return False

    def inc(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add `value` >= 0 to a counter. FormatError for a wrong name, label or a negative value."""
        key = self._key(name, (COUNTER,), labels)
        if not value >= 0:
            raise FormatError(f"counter {name} cannot go back by {value}")
        series = self._numbers[name]
        if self._room(series, key):
            series[key] = series.get(key, 0.0) + value

    def put(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge, or a counter whose total is kept by someone else (a store, the bus)."""
        key = self._key(name, (COUNTER, GAUGE), labels)
        series = self._numbers[name]
        if self._room(series, key):
            series[key] = float(value)

    def clear(self, name: str) -> None:
        """Forget a gauge's values that are not known any more, so that no stale number is shown."""
        if name not in self._families or self._families[name].kind != GAUGE:
            raise FormatError(f"{name} is not a gauge")
        self._numbers[name].clear()

    def forget(self, name: str, **labels: str) -> None:
        """Drop one series whose value is not known any more."""
        self._numbers[name].pop(self._key(name, (COUNTER, GAUGE), labels), None)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Count one value (in the family's base unit) into a histogram."""
        key = self._key(name, (HISTOGRAM,), labels)
        series = self._histograms[name]
        if not self._room(series, key):
            return
        edges = self._families[name].buckets
        histogram = series.get(key)
        if histogram is None:
            histogram = series[key] = _Histogram(len(edges))
        histogram.counts[bisect_left(edges, value)] += 1
        histogram.sum += value

    def families(self) -> list[JsonDict]:
        """All families as io.graced.Supervisor.Metrics returns them, in declared order.

        A histogram sample has ``buckets`` = [[upper edge, cumulative count], ...] without +Inf, ``sum``,
        ``count``.
        """
        return [
            {"name": family.name, "kind": family.kind, "help": family.help, "samples": self._samples(family)}
            for family in self._families.values()
        ]

    def _samples(self, family: Family) -> list[JsonDict]:
        if family.kind != HISTOGRAM:
            return [
                {"labels": dict(zip(family.labels, key, strict=True)), "value": value}
                for key, value in self._numbers[family.name].items()
            ]
        return [
            {"labels": dict(zip(family.labels, key, strict=True)), **_cumulative(family.buckets, histogram)}
            for key, histogram in self._histograms[family.name].items()
        ]


def _cumulative(edges: tuple[float, ...], histogram: _Histogram) -> JsonDict:
    buckets: list[list[float]] = []
    total = 0
    for edge, count in zip(edges, histogram.counts, strict=False):
        total += count
        buckets.append([edge, total])
    return {"buckets": buckets, "sum": histogram.sum, "count": total + histogram.counts[-1]}
