"""How it used to be: a learned baseline over the newest values of a series (start times, latencies).

Median and median absolute deviation over a bounded window: one outlier moves neither (Hampel's identifier; MAD
times 1.4826 estimates the standard deviation of normal data). Fewer than MIN_VALUES values: not learned, no
judgement. Every value enters the window, also bad ones: a change that stays becomes the new normal. Pure.
"""

from __future__ import annotations

from graced.base.errors import FormatError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict

MIN_VALUES = 5
WINDOW = 50
SIGMAS = 4.0
_SIGMA_OF_MAD = 1.4826


class Verdict(Record):
    """A regression: `value` is above `limit`; median, mad and limit are of the n values learned before it."""

    value: float
    median: float
    mad: float
    limit: float
    n: int


class Baseline:
    """One series. `slack_ratio` and `slack` keep tiny, steady series from crying wolf over noise."""

    def __init__(self, values: Iterable[float] = (), *, slack_ratio: float = 0.5, slack: float = 0.0) -> None:
        self._values: list[float] = [float(value) for value in values][-WINDOW:]
        self._slack_ratio = slack_ratio
        self._slack = slack

    @property
    def learned(self) -> bool:
        """Whether there are enough values to judge by."""
        return len(self._values) >= MIN_VALUES

    @property
    def values(self) -> tuple[float, ...]:
        """The window, oldest first."""
        return tuple(self._values)

    def learn(self, value: float) -> None:
        """Take a value into the window. Raises ValueError for what is not a finite, non-negative number."""
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{value} is not a measurement")
        self._values.append(float(value))
        del self._values[:-WINDOW]

    def limit(self) -> float | None:
        """The largest value that is still normal; None until learned."""
        if not self.learned:
            return None
        middle = median(self._values)
        spread = SIGMAS * _SIGMA_OF_MAD * mad(self._values, middle)
        return middle + max(spread, self._slack_ratio * middle, self._slack)

    def regression(self, value: float) -> Verdict | None:
        """A verdict when `value` is worse than the baseline; None when it is normal or nothing is learned yet."""
        limit = self.limit()
        if limit is None or value <= limit:
            return None
        middle = median(self._values)
        return Verdict(
            value=float(value), median=middle, mad=mad(self._values, middle), limit=limit, n=len(self._values)
        )

    def to_json(self) -> JsonDict:
        """For people and for the kernel's file."""
        middle = median(self._values) if self._values else None
        return {
            "n": len(self._values),
            "learned": self.learned,
            "median": middle,
            "mad": mad(self._values, middle) if middle is not None else None,
            "limit": self.limit(),
            "values": list(self._values),
        }

    @classmethod
    def from_json(cls, obj: JsonDict, *, slack_ratio: float = 0.5, slack: float = 0.0) -> Baseline:
        """Read back `to_json`; only "values" counts. Raises FormatError."""
        values = obj.get("values")
        if not isinstance(values, list):
            raise FormatError("$.values is not a list", path="$.values")
        baseline = cls(slack_ratio=slack_ratio, slack=slack)
        for index, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < float("inf"):
                raise FormatError(f"$.values[{index}] is not a measurement", path=f"$.values[{index}]")
            baseline.learn(value)
        return baseline


def median(values: list[float]) -> float:
    """The middle of a non-empty list; the mean of the two middles of an even one."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else ordered[half - 1] + (ordered[half] - ordered[half - 1]) / 2


def mad(values: list[float], middle: float) -> float:
    """The median distance from `middle`."""
    return median([abs(value - middle) for value in values])
