"""host.pressure: the host itself is short of memory, disk or time. Observed and reported, not healed.

Opens at a limit and closes at a lower one, so that a value on the edge does not flap. Values that could not be
read are unknown and change nothing.
"""

from __future__ import annotations

from graced.heal.checks.facts import CLEAR, FOUND, UNKNOWN, Judgement
from graced.model.finding import HOST_PRESSURE, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from graced.base.json import JsonDict

UNIT = "host"
# What is measured, in percent: (opens above, closes below).
LIMITS = {"cpu": (90.0, 70.0), "memory": (25.0, 10.0), "io": (60.0, 40.0), "disk": (95.0, 93.0)}


def judge(sample: JsonDict, now_us: int, *, is_open: bool) -> Judgement:
    """`sample` is graced.host.pressure's; `is_open` whether the finding is open already (hysteresis)."""
    values = dict(_values(sample))
    if not values:
        return Judgement(HOST_PRESSURE, UNKNOWN, "neither pressure nor disk can be read")
    over = {name: value for name, value in values.items() if value > LIMITS[name.split(":", 1)[0]][1 if is_open else 0]}
    if not over:
        return Judgement(HOST_PRESSURE, CLEAR, "within limits")
    worst = max(over, key=lambda name: over[name] / LIMITS[name.split(":", 1)[0]][0])
    return Judgement(
        HOST_PRESSURE,
        FOUND,
        finding=Finding(
            unit=UNIT,
            kind=HOST_PRESSURE,
            severity="medium",
            value=round(over[worst], 1),
            threshold=LIMITS[worst.split(":", 1)[0]][0],
            detected_monotonic_us=now_us,
            evidence={"over": over, "worst": worst},
        ),
    )


def _values(sample: JsonDict) -> Iterator[tuple[str, float]]:
    for name in ("cpu", "memory", "io"):
        psi = (sample.get("pressure") or {}).get(name)
        # Work that waits for a minute is pressure; ten seconds are a burst.
        key = "some_avg60" if name == "cpu" else "full_avg60"
        if psi is not None and key in psi:
            yield name, float(psi[key])
    for disk in sample.get("disks") or []:
        if disk.get("size_bytes"):
            yield f"disk:{disk['path']}", 100.0 * (1 - disk["free_bytes"] / disk["size_bytes"])
