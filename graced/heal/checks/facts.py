"""What a check is given and what it answers. Pure values.

A check both finds a fault and re-approves: its `judge` answers FOUND, CLEAR (which closes an open finding) or
UNKNOWN (which changes nothing: unknown is neither a fault nor health).
"""

from __future__ import annotations

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.model.finding import Finding
    from graced.model.unit import UnitState

    Check = Callable[["UnitFacts"], "Judgement"]

FOUND = "found"
CLEAR = "clear"
UNKNOWN = "unknown"

# A repair takes a unit through states of its own (killed, reset, starting): for this long after a change they are
# read as steps of it where they could be, not as news.
REPAIR_US = 15_000_000
# systemd announces that a unit failed about a millisecond before it announces that it restarts it.
RESTART_ANNOUNCED_US = 50_000

# How a unit came to be down.
BY_FAULT = "fault"
BY_ADMIN = "admin"
UNDECIDED = "undecided"


class UnitFacts(Record):
    """Everything known of one unit at one moment.

    `down_by` says how a failed unit came down (BY_FAULT, BY_ADMIN, UNDECIDED). `probe` is the last result as JSON
    (ok, latency_ms, error) or None without one; `probe_failures` in a row of `probe_limit`; `hung_since_us` when
    the first of them began; `hung_open`: unit.hung is an open finding.
    `start_limit_ms` is the learned limit, None until learned. `failures` counts how often it failed since it was up.
    `state_is_old`: systemd cannot be heard, the state is the last that it told.
    """

    state: UnitState
    now_us: int
    adopted: bool = False
    profile: str = ""
    down_by: str = UNDECIDED
    host_leaving: bool = False
    probe: JsonDict | None = None
    probe_failures: int = 0
    probe_limit: int = 3
    hung_since_us: int | None = None
    hung_open: bool = False
    start_limit_ms: float | None = None
    start_median_ms: float | None = None
    failures: int = 0
    state_is_old: bool = False

    @property
    def restart_is_due(self) -> bool:
        """Whether the failed unit is systemd's to restart (Restart=), and that has not been seen to fail.

        systemd 257 says so in the sub-state; before, only the announcement that follows at once tells.
        """
        if self.failures > 1 or self.state.restart in {"", "no"}:
            return False
        young = self.now_us - self.state.state_change_us < RESTART_ANNOUNCED_US
        return young or self.state.sub_state == "failed-before-auto-restart"

    @property
    def changed_lately(self) -> bool:
        """Whether the last change of state is so young that a repair may be under way."""
        return self.now_us - self.state.state_change_us < REPAIR_US


class Judgement(Record):
    """A check's answer; `finding` is set when state is FOUND, `reason` says why otherwise."""

    kind: str
    state: str
    reason: str = ""
    finding: Finding | None = None
