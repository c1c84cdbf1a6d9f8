"""The open findings of one watcher: a finding opens once, repeats while it lasts, closes when a check approves.

Pure. Kept by the Infrastructure and Verification kernels, each for its own findings.
"""

from __future__ import annotations

from graced.heal.checks.facts import CLEAR, FOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.heal.checks.facts import Judgement
    from graced.model.finding import Finding

OPENED = "opened"
CLOSED = "closed"
APPROVED = "approved"


class FindingBook:
    """What is open now. `repeat_us` is how long an open finding stays unsaid before it is said again."""

    def __init__(self, repeat_us: int = 60_000_000) -> None:
        self._repeat_us = repeat_us
        self._open: dict[tuple[str, str], Finding] = {}
        self._said_us: dict[tuple[str, str], int] = {}
        self._judged: set[tuple[str, str]] = set()

    def record(self, unit: str, judgement: Judgement, now_us: int) -> str:
        """Take a judgement in. OPENED: announce the finding. CLOSED: announce that it is gone. "": nothing new.

        APPROVED is the first judgement of this watcher and a good one: whoever remembers a finding from before the
        watcher's own restart may close it.
        """
        key = (unit, judgement.kind)
        if judgement.state == FOUND and judgement.finding is not None:
            new = key not in self._open
            # The first occasion stays: its times say when the fault began.
            self._open.setdefault(key, judgement.finding)
            self._judged.add(key)
            if new:
                self._said_us[key] = now_us
            return OPENED if new else ""
        if judgement.state != CLEAR:
            return ""
        if self._open.pop(key, None) is not None:
            del self._said_us[key]
            return CLOSED
        new = key not in self._judged
        self._judged.add(key)
        return APPROVED if new else ""

    def set_repeat(self, repeat_us: int) -> None:
        """From now on open findings are said again after this long."""
        self._repeat_us = repeat_us

    def get(self, unit: str, kind: str) -> Finding | None:
        """The open finding, if any."""
        return self._open.get((unit, kind))

    def of(self, unit: str) -> list[Finding]:
        """The open findings of a unit."""
        return [finding for finding in self._open.values() if finding.unit == unit]

    def all(self) -> list[Finding]:
        """All open findings, oldest first."""
        return list(self._open.values())

    def forget(self, unit: str) -> list[Finding]:
        """Drop the findings of a unit that is no longer watched; they are returned."""
        gone = self.of(unit)
        self._judged = {key for key in self._judged if key[0] != unit}
        for finding in gone:
            del self._open[finding.key]
            del self._said_us[finding.key]
        return gone

    def due(self, now_us: int) -> list[Finding]:
        """Open findings to say again now: a lost bus message heals itself that way."""
        found = []
        for key, said_us in self._said_us.items():
            if now_us - said_us >= self._repeat_us:
                self._said_us[key] = now_us
                found.append(self._open[key])
        return found
