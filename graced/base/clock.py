"""Clocks, injected everywhere so that engines are pure and tests own the time.

CLOCK_BOOTTIME orders leases, deadlines and warrants: it does not step and it counts suspended time. The wall
clock is for people only. systemd's own stamps are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import os
import time

_BOOTTIME = time.CLOCK_BOOTTIME
_BOOT_ID_DIGITS = 32


class Clock:
    """What the rest of graced asks about time. All values are integer microseconds."""

    def boottime_us(self) -> int:
        """CLOCK_BOOTTIME in µs."""
        raise NotImplementedError

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC in µs, comparable with systemd's *TimestampMonotonic."""
        raise NotImplementedError

    def wall_us(self) -> int:
        """UTC in µs since 1970; may step."""
        raise NotImplementedError


class SystemClock(Clock):
    """The machine's own clocks."""

    def boottime_us(self) -> int:
        """CLOCK_BOOTTIME in µs."""
        return time.clock_gettime_ns(_BOOTTIME) // 1000

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC in µs."""
        return time.monotonic_ns() // 1000

    def wall_us(self) -> int:
        """UTC in µs since 1970."""
        return time.time_ns() // 1000


class ManualClock(Clock):
    """A clock that only moves when told to."""

    def __init__(self, start_us: int = 0, wall_us: int = 1_700_000_000_000_000) -> None:
        self._now_us = start_us
        self._wall_us = wall_us

    def advance_us(self, us: int) -> None:
        """Move all three clocks by `us` microseconds."""
        self._now_us += us
        self._wall_us += us

    def boottime_us(self) -> int:
        """CLOCK_BOOTTIME in µs."""
        return self._now_us

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC in µs."""
        return self._now_us

    def wall_us(self) -> int:
        """UTC in µs since 1970."""
        return self._wall_us


def boot_id() -> str:
    """The random id of this boot as PID 1 knows it: 32 hex digits.

    The units pass it on (``GRACED_BOOT_ID=%b``): ProcSubset=pid hides the kernel's file, and in a container
    ProtectKernelTunables= shows the host's instead.
    """
    given = os.environ.get("GRACED_BOOT_ID", "")
    if len(given) == _BOOT_ID_DIGITS and set(given) <= set("0123456789abcdef"):
        return given
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")


def iso(wall_us: int) -> str:
    """A UTC time as people and RFC 3339 write it, with milliseconds: ``2026-11-22T15:04:05.123Z``."""
    seconds, us = divmod(wall_us, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{us // 1000:03d}Z"
