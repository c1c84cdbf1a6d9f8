"""Queue time: one axis for ranks, deadlines and events that never goes back, across boots.

Within a boot it is CLOCK_BOOTTIME plus a constant, so a step of the wall clock moves nothing. The constant is fixed at
the first start in a boot such that queue time then equals the wall clock, or, when the wall clock went back since
the last boot, continues where it was. So an order kept in an index stays an order.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.clock import Clock


class Timeline:
    """Converts between queue time, CLOCK_BOOTTIME and the wall clock. All values are integer microseconds."""

    __slots__ = ("_last_us", "boot", "clock", "offset_us", "wall_shift_us")

    def __init__(self, clock: Clock, *, boot: int, offset_us: int, last_us: int = 0) -> None:
        """`boot` is the store's number of this boot, `last_us` the newest stamp ever given."""
        self.clock = clock
        self.boot = boot
        self.offset_us = offset_us
        self._last_us = last_us
        self.wall_shift_us = self.now_us() - clock.wall_us()

    @staticmethod
    def first_offset_us(clock: Clock, last_us: int) -> int:
        """The offset to keep for this boot when it is the first start in it."""
        return max(clock.wall_us(), last_us + 1) - clock.boottime_us()

    def now_us(self) -> int:
        """Queue time now."""
        return self.clock.boottime_us() + self.offset_us

    def stamp_us(self) -> int:
        """Queue time now, but later than every stamp before: it can number events."""
        now_us = self.clock.boottime_us() + self.offset_us
        if now_us <= self._last_us:
            now_us = self._last_us + 1
        self._last_us = now_us
        return now_us

    def stamps_us(self, count: int) -> int:
        """The first of `count` stamps, each 1 µs after the one before it."""
        first_us = self.stamp_us()
        self._last_us = first_us + count - 1
        return first_us

    @property
    def last_us(self) -> int:
        """The newest stamp given."""
        return self._last_us

    def boottime_us(self, queue_us: int) -> int:
        """A queue time as CLOCK_BOOTTIME of this boot (negative: before it)."""
        return queue_us - self.offset_us

    def wall_us(self, queue_us: int) -> int:
        """A queue time of this boot by the wall clock as it is now; of an earlier boot, as it was then."""
        if queue_us < self.offset_us:
            return queue_us
        return queue_us - self.now_us() + self.clock.wall_us()

    def deadline_us(self, boot: int, boottime_us: int, wall_us: int, then_offset_us: int) -> int:
        """A stored deadline in queue time.

        One of this boot is exact. One of an earlier boot goes through the wall clock, and never moves further away
        than it was on the queue's own axis (a wall clock that went back must not extend a deadline).
        """
        if boot == self.boot:
            return boottime_us + self.offset_us
        return min(wall_us + self.wall_shift_us, boottime_us + then_offset_us)
