"""What the queue counts about itself: histograms of seconds, and plain numbers; for metrics and `gracectl`."""

from __future__ import annotations

from _bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

BOUNDS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
_BOUNDS_US = [int(bound * 1e6) for bound in BOUNDS_SECONDS]


class Histogram:
    """Durations in fixed buckets. `buckets[i]` counts those of at most BOUNDS_SECONDS[i], not cumulative; the last,
    beyond all bounds.
    """

    __slots__ = ("buckets", "count", "sum_us")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BOUNDS_US) + 1)
        self.count = 0
        self.sum_us = 0

    def observe_us(self, us: int) -> None:
        """Count one duration."""
        self.observe_all_us([us])

    def observe_all_us(self, several_us: list[int]) -> None:
        """Count durations."""
        buckets = self.buckets
        for us in several_us:
            buckets[bisect_left(_BOUNDS_US, us)] += 1
        self.count += len(several_us)
        self.sum_us += sum(several_us)

    def sample(self, labels: dict[str, str]) -> JsonDict:
        """As in io.graced.Supervisor.Metrics: [upper bound in seconds, cumulative count] without +Inf, sum, count."""
        total = 0
        buckets: list[list[float]] = []
        for bound, count in zip(BOUNDS_SECONDS, self.buckets, strict=False):
            total += count
            buckets.append([bound, total])
        return {"labels": labels, "buckets": buckets, "sum": self.sum_us / 1e6, "count": self.count}


class Counts:
    """Events of one process lifetime, by priority where it matters."""

    __slots__ = ("breaches", "dead", "deduplicated", "lost", "refused", "retries", "run", "slack", "wait")

    def __init__(self) -> None:
        self.breaches = [0, 0, 0, 0]
        self.slack = [0, 0, 0, 0]
        self.wait = [Histogram() for _ in range(4)]
        self.run = Histogram()
        self.dead = 0
        self.lost = 0
        self.retries = 0
        self.refused = 0
        self.deduplicated = 0
