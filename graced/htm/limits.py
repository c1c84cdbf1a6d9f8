"""How much the queue takes in, and who may fill it: bounded, per origin, LOW refused first.

A refusal says when to try again, estimated from how fast tasks have been finishing.
"""

from __future__ import annotations

from graced.base.errors import TaskError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ADMIT_PERCENT = (100, 95, 90, 80)
"""By priority: how full the queue may be for it."""
_RETRY_MIN_MS, _RETRY_MAX_MS = 100, 60_000


class Limits(Record):
    """`max_live` tasks in all, `max_per_origin` of one origin, `max_context_bytes` each."""

    max_live: int = 1_500_000
    max_per_origin: int = 1_250_000
    max_context_bytes: int = 65_536


class DrainRate:
    """Finished tasks per second over the last seconds: an exponential average over one-second bins."""

    __slots__ = ("_bin_us", "_count", "_per_second")

    def __init__(self) -> None:
        self._bin_us = 0
        self._count = 0
        self._per_second = 0.0

    def finished(self, now_us: int, count: int = 1) -> None:
        """Count so many."""
        self._roll(now_us)
        self._count += count

    def per_second(self, now_us: int) -> float:
        """The rate now; 0.0 when nothing has finished lately."""
        self._roll(now_us)
        return self._per_second

    def _roll(self, now_us: int) -> None:
        bins = (now_us - self._bin_us) // 1_000_000
        if bins <= 0:
            return
        self._per_second = (self._per_second * 0.7 + self._count * 0.3) * 0.7 ** min(bins - 1, 100)
        self._count = 0
        self._bin_us += bins * 1_000_000


def admit(
    limits: Limits, priority: int, live: int, live_of_origin: int, origin: str, per_second: Callable[[], float]
) -> None:
    """Raise TaskError(code "busy", field retry_after_ms) when there is no room for one more of this priority.

    `per_second` says how fast tasks have been ending.
    """
    share = _ADMIT_PERCENT[priority]
    if live < limits.max_live * share // 100 and live_of_origin < limits.max_per_origin * share // 100:
        return
    for count, limit, what in (
        (live, limits.max_live, "the queue"),
        (live_of_origin, limits.max_per_origin, f"the share of {origin}"),
    ):
        room = limit * share // 100
        if count >= room:
            excess = count - room + max(1, limit // 100)
            rate = per_second()
            wait_ms = int(excess * 1000 / rate) if rate > 0.01 else _RETRY_MAX_MS
            raise TaskError(
                f"{what} is full for this priority: {count} of {room}",
                hint="try again later",
                code="busy",
                retry_after_ms=max(_RETRY_MIN_MS, min(_RETRY_MAX_MS, wait_ms)),
            )
