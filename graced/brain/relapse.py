"""Repairs that did not last: verified as healthy, and soon after the unit failed again by itself.

A process that somebody else killed says nothing against the repair before. Pure; used by the brain.
"""

from __future__ import annotations

from graced.base.json import opt_dict, opt_float, opt_str
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

_CRASHES = frozenset({3, 4, 5, 6, 7, 8, 11, 31})
"""QUIT, ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS (signal(7)): what a process gets for what it did itself."""


class Repair(Record):
    """A verified repair of a unit's finding; it lasts when nothing comes back before `until_boottime_us`.

    `relapses` counts the repairs before it, without a gap, that did not last.
    """

    playbook: str
    lasting_seconds: float
    until_boottime_us: int
    relapses: int


class Repairs:
    """The newest repair of each (unit, finding)."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], Repair] = {}

    def note(self, key: tuple[str, str], result: JsonDict, relapses: int, now_us: int) -> None:
        """A heal has ended well; `result` says how long it has to last, and without that is not judged."""
        playbook, seconds = opt_str(result, "playbook"), opt_float(result, "lasting_seconds")
        if playbook and seconds:
            self._newest[key] = Repair(playbook, seconds, now_us + int(seconds * 1e6), relapses)

    def relapse(self, key: tuple[str, str], anomaly: JsonDict, now_us: int) -> Repair | None:
        """The repair that did not last, now that there is an anomaly of the same finding; None when it did."""
        repair = self._newest.pop(key, None)
        if repair is None or now_us >= repair.until_boottime_us or _from_outside(anomaly):
            return None
        return repair

    def forget(self, unit: str) -> None:
        """What its repairs came to no longer counts."""
        self._newest = {key: repair for key, repair in self._newest.items() if key[0] != unit}


def _from_outside(anomaly: JsonDict) -> bool:
    evidence = opt_dict(anomaly, "evidence") or {}
    return evidence.get("result") == "signal" and evidence.get("main_status") not in _CRASHES
