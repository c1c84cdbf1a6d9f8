"""Time spans as `systemctl show` prints them: "3s", "1min 30s", "infinity"."""

from __future__ import annotations

import re

from chaos.shell import ChaosError

# systemd's own words, systemd.time(7); a month is 30.44 days and a year 365.25.
UNIT_MS = {
    "us": 0.001,
    "ms": 1.0,
    "s": 1000.0,
    "min": 60_000.0,
    "h": 3_600_000.0,
    "d": 86_400_000.0,
    "w": 604_800_000.0,
    "month": 2_629_800_000.0,
    "y": 31_557_600_000.0,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|min|h|d|w|month|y)")


def parse_ms(text: str) -> float | None:
    """Milliseconds; None for "infinity". ChaosError for what systemd would not print."""
    if text == "infinity":
        return None
    if text == "0":
        return 0.0
    total = 0.0
    for word in text.split(" "):
        part = _PART.fullmatch(word)
        if part is None:
            raise ChaosError(f"{text!r} is no time span of systemd")
        total += float(part[1]) * UNIT_MS[part[2]]
    return total
