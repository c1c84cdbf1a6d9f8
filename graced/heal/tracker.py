"""One unit followed through systemd's announcements: its state, its jobs, and how it came to be down.

systemd announces a unit's new state before the end of the job that caused it, and a new job before the state it
causes. So a unit that failed without any job failed by itself; with a job that ended "failed" a start did not work; a
job that ended "done" while the unit went down was a stop. Only what was not seen (graced was not there) or is
ambiguous needs the journal. Pure. Used by the Infrastructure kernel.
"""

from __future__ import annotations

from graced.heal.checks.facts import BY_ADMIN, BY_FAULT, UNDECIDED, UnitFacts
from graced.model.unit import UnitState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.base.json import JsonDict

# Units whose start means that the host goes down or is being repaired by hand.
LEAVING = frozenset(
    f"{name}.target" for name in ("shutdown", "rescue", "emergency", "reboot", "halt", "poweroff", "kexec")
)
# No stop job can cause these: systemd itself refused to start the unit again.
_NEVER_A_STOP = frozenset({"start-limit-hit"})


class UnitTracker:
    """Feed it what systemd says; ask `facts`. `profile` and `adopted` are set by the owner."""

    def __init__(self, unit: str, *, profile: str = "", adopted: bool = False) -> None:
        self.unit = unit
        self.profile = profile
        self.adopted = adopted
        self.state = UnitState(unit=unit)
        self.down_by = UNDECIDED
        self.probe: JsonDict | None = None
        self.probe_failures = 0
        self.probe_limit = 3
        self.hung_since_us: int | None = None
        self.start_limit_ms: float | None = None
        self.start_median_ms: float | None = None
        self.last_error = ""
        self.watchdog_resets: list[int] = []
        self._seen = False
        self._early: dict[str, str | int] = {}
        self._jobs: set[int] = set()
        self._ended_job = ""
        self.failures = 0

    def shown(self, properties: Mapping[str, str | int]) -> bool:
        """Take over a full look at the unit, unless an announcement is newer. True when anything changed."""
        state = UnitState.from_properties(self.unit, properties)
        early = state.updated(self._early)
        self._early = {}
        if early.state_change_us > state.state_change_us:
            # announced while the look was under way
            state = early
        if self._seen and 0 < state.state_change_us < self.state.state_change_us:
            return False
        first, self._seen = not self._seen, True
        if first and state.job:
            self._jobs.add(state.job)
        # What happened before the first look was not seen: only the journal knows how the unit came down.
        missed = first or state.state_change_us != self.state.state_change_us
        return self._take(state, live=not missed)

    def announced(self, properties: Mapping[str, str | int]) -> bool:
        """Take over what systemd announced. True when anything changed. Before the first full look it is only kept:
        that look may have been taken before it.
        """
        if not self._seen:
            self._early.update(properties)
            return False
        return self._take(self.state.updated(properties), live=True)

    def job_new(self, job: int) -> None:
        """systemd queued a job for the unit."""
        self._jobs.add(job)

    def job_removed(self, job: int, result: str) -> None:
        """A job of the unit ended; `result` is systemd's word."""
        self._jobs.discard(job)
        if self.state.job == job:
            self.state = self.state.replace(job=0)
        if self.state.active is not True:
            self._ended_job = result
            self._decide(live=True)

    def journal_says(self, stopped_by_job: bool | None) -> None:  # noqa: FBT001  # an answer: yes, no, unknown
        """The journal's answer to `needs_journal`; None (it cannot tell) is the admin's benefit."""
        if self.needs_journal:
            self.down_by = BY_FAULT if stopped_by_job is False else BY_ADMIN

    @property
    def needs_journal(self) -> bool:
        """Whether only the journal can tell how the failed unit came down."""
        return self.state.active_state == "failed" and self.down_by == UNDECIDED and not self._jobs

    def missed(self) -> None:
        """Announcements were lost (the bus was away): jobs seen before mean nothing any more."""
        self._jobs.clear()
        self._ended_job = ""
        self._seen = False
        self._early.clear()

    def facts(self, now_us: int, *, host_leaving: bool, hung_open: bool = False) -> UnitFacts:
        """For the checks."""
        return UnitFacts(
            state=self.state,
            now_us=now_us,
            adopted=self.adopted,
            profile=self.profile,
            down_by=self.down_by,
            host_leaving=host_leaving,
            probe=self.probe,
            probe_failures=self.probe_failures,
            probe_limit=self.probe_limit,
            hung_since_us=self.hung_since_us,
            start_limit_ms=self.start_limit_ms,
            start_median_ms=self.start_median_ms,
            hung_open=hung_open,
            failures=self.failures,
            state_is_old=not self._seen,
        )

    def probed(self, result: JsonDict, began_us: int, *, grace: bool) -> None:
        """A probe's result ({"ok", "latency_ms", "error"}). With `grace` a failure does not count yet."""
        self.probe = result
        if result["ok"]:
            self.probe_failures, self.hung_since_us = 0, None
        elif result["ok"] is False and not grace:
            if not self.probe_failures:
                self.hung_since_us = began_us
            self.probe_failures += 1

    def watchdog_resets_after(self, since_us: int) -> int:
        """Watchdog resets seen after a moment (CLOCK_MONOTONIC, µs)."""
        return sum(1 for stamp_us in self.watchdog_resets if stamp_us > since_us)

    def unit_json(self, *, known: bool, tier: int | None, findings: list[str]) -> JsonDict:
        """As io.graced.Infrastructure shows a unit; null for what is not `known` now."""
        state = self.state
        return {
            "unit": self.unit,
            "adopted": self.adopted,
            "profile": self.profile or None,
            "tier": tier,
            "load_state": state.load_state or None if known else None,
            "active_state": state.active_state or None if known else None,
            "sub_state": state.sub_state or None if known else None,
            "result": state.result or None if known else None,
            "main_pid": state.main_pid if known else None,
            "n_restarts": state.n_restarts if known else None,
            "start_ms": state.start_ms,
            "probe": self.probe,
            "findings": findings,
        }

    def kernel_json(self, name: str, *, known: bool, watchdog_resets: int | None) -> JsonDict:
        """As io.graced.Infrastructure shows one of graced's own daemons."""
        state = self.state
        return {
            "name": name,
            "state": (state.active_state or "unknown") if known else "unknown",
            "pid": (state.main_pid or None) if known else None,
            "ready_ms": state.start_ms if known else None,
            "restarts": state.n_restarts if known and state.active_state else None,
            "watchdog_resets": watchdog_resets,
            "last_error": self.last_error or None,
        }

    def _take(self, state: UnitState, *, live: bool) -> bool:
        before = self.state
        if not state.state_change_us and before.state_change_us:
            # A reset unit that nobody refers to is unloaded, and loaded anew without its past.
            state = state.replace(state_change_us=before.state_change_us)
        self.state = state
        if state == before:
            return False
        if state.result not in {"", "success", before.result}:
            self.last_error = state.result
            if state.result == "watchdog":
                self.watchdog_resets.append(state.state_change_us)
        if state.active is True:
            self.down_by, self._ended_job, self.failures = UNDECIDED, "", 0
        if state.active is not True or state.main_pid != before.main_pid:
            self.probe, self.probe_failures, self.hung_since_us = None, 0, None
        if state.active_state == "failed":
            if before.active_state != "failed" or before.state_change_us != state.state_change_us:
                self.down_by = UNDECIDED
                self.failures += 1
            self._decide(live=live)
        return True

    def _decide(self, *, live: bool) -> None:
        if self.state.active_state != "failed" or self.down_by != UNDECIDED:
            return
        if self.state.result in _NEVER_A_STOP:
            self.down_by = BY_FAULT
        elif not live or self._jobs:
            return
        elif self._ended_job in {"", "failed"}:
            self.down_by = BY_FAULT
        elif self._ended_job == "done":
            self.down_by = BY_ADMIN
