"""A finding: one kind of fault of one unit. The same fault never opens twice, so equality is (unit, kind) alone.

Everything else (times, evidence) describes the occasion and is left out of the identity. Made by graced.heal.checks,
published by the kernels as the data of ``hunter.anomaly.detected``.
"""

from __future__ import annotations

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

UNIT_FAILED = "unit.failed"
UNIT_HUNG = "unit.hung"
CONFIG_DAMAGED = "config.damaged"
CONFIG_INVALID = "config.invalid"
START_SLOW = "start.slow"
HOST_PRESSURE = "host.pressure"


class Finding(Record):
    """`value` against `threshold` in words or numbers; `healable` is False where graced only observes."""

    unit: str
    kind: str
    severity: str
    value: str | float | None
    threshold: str | float | None
    profile: str = ""
    healable: bool = False
    fault_monotonic_us: int | None = None
    detected_monotonic_us: int = 0
    evidence: JsonDict = {}

    @property
    def key(self) -> tuple[str, str]:
        """What makes it this finding and no other."""
        return self.unit, self.kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Finding) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def anomaly(self, timestamp: str, snapshot: JsonDict) -> JsonDict:
        """The data of ``hunter.anomaly.detected``; `timestamp` is RFC 3339, `snapshot` the host at that moment."""
        return {
            "anomalies": [
                {"type": self.kind, "value": self.value, "threshold": self.threshold, "severity": self.severity}
            ],
            "unit": self.unit,
            "profile": self.profile or None,
            "finding": self.kind,
            "healable": self.healable,
            "fault_monotonic_us": self.fault_monotonic_us,
            "detected_monotonic_us": self.detected_monotonic_us,
            "evidence": self.evidence,
            "snapshot": snapshot,
            "timestamp": timestamp,
        }
