"""The brain: anomalies become incidents and intents, results become lessons.

Pure: data in, decisions out as `Change` records that the supervisor stores, publishes and submits. One finding on
one unit is one incident however often it is reported; a unit has at most one heal under way; what could not be healed
is tried again at a bounded rate for as long as it is reported. So is, after a few times, what fails again by itself
soon after every repair.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.json import get_list, get_str, opt_dict, opt_int, opt_list, opt_str
from graced.base.record import Record
from graced.brain.lessons import UNTRIED_SCORE, Lesson, Lessons, tried_of
from graced.brain.relapse import Repairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.clock import Clock
    from graced.base.json import JsonDict

HEALABLE = {
    "unit.failed": "service_failed",
    "unit.hung": "service_hung",
    "config.damaged": "configuration_damaged",
}
OBSERVED = {
    "config.invalid": "configuration_invalid",
    "start.slow": "boot_performance_degradation",
    "host.pressure": "resource_pressure",
}
PRIORITY_OF_SEVERITY = {"critical": "critical", "high": "high", "medium": "normal", "low": "low"}
REMEDIATION_SLA_SECONDS = 3600
FIRST_RETRY_SECONDS = 60
LAST_RETRY_SECONDS = 3600
FLAPPING = 3
"""So many repairs in a row that did not last, and a person is asked."""

OPEN = "open"
HEALED = "healed"
FAILED = "failed"
HELD = "held"
REFUSED = "refused"
OBSERVED_OUTCOME = "observed"


class Incident(Record):
    """One finding on one unit from its first report to its end. `*_at` are RFC 3339 UTC."""

    id: str
    intent_id: str
    unit: str
    finding: str
    profile: str | None
    severity: str
    opened_at: str
    outcome: str = OPEN
    task_id: str | None = None
    closed_at: str | None = None
    playbook: str | None = None
    detect_ms: float | None = None
    heal_ms: float | None = None
    verified_by: str | None = None
    reason: str | None = None
    evidence: JsonDict | None = None
    fault_monotonic_us: int | None = None
    tries: int = 0
    # CLOCK_BOOTTIME before which the next try may not begin.
    retry_boottime_us: int = 0
    active: bool = False
    # Said to be gone while a heal was under way: what the heal comes to decides, and if that is nothing, this does.
    cleared: bool = False
    # The boot whose clocks the two times above are of.
    boot_id: str = ""
    # Repairs just before this, in a row, that did not last.
    relapses: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Identity by value: the same fault never opens twice."""
        return self.unit, self.finding


class Intent(Record):
    """What the brain wants done about an incident (topic layer3.intent.task)."""

    incident: Incident
    intent: str
    issue_type: str
    priority: str
    sla_seconds: int
    reasoning: str
    ranking: tuple[Lesson, ...]
    anomaly: JsonDict

    def to_data(self) -> JsonDict:
        """The event's data: the specification's fields first."""
        return {
            "intent": self.intent,
            "issue_type": self.issue_type,
            "priority": self.priority,
            "sla_seconds": self.sla_seconds,
            "reasoning": self.reasoning,
            "intent_id": self.incident.intent_id,
            "unit": self.incident.unit,
            "profile": self.incident.profile,
            "finding": self.incident.finding,
            "playbooks": self.proven(),
            "anomaly": self.anomaly,
        }

    def proven(self) -> list[str]:
        """Playbooks that worked before, best first; they are tried before the profile's own order."""
        return [lesson.playbook for lesson in self.ranking if lesson.last_ok or lesson.score > UNTRIED_SCORE]

    def context(self) -> JsonDict:
        """The task's context."""
        return {
            "unit": self.incident.unit,
            "profile": self.incident.profile,
            "finding": self.incident.finding,
            "incident_id": self.incident.id,
            "playbooks": self.proven(),
            "why": {"reasoning": self.reasoning, "lessons": [lesson.sentence() for lesson in self.ranking]},
            "anomaly": self.anomaly,
            "boot_id": self.incident.boot_id,
        }


class Change(Record):
    """What follows from one input: store these incidents and lessons, submit these intents, publish open/close."""

    incidents: tuple[Incident, ...] = ()
    opened: tuple[Incident, ...] = ()
    closed: tuple[Incident, ...] = ()
    intents: tuple[Intent, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    escalated: tuple[Incident, ...] = ()


class Brain:
    """Holds the open incidents and all lessons."""

    def __init__(
        self,
        clock: Clock,
        lessons: Iterable[Lesson] = (),
        incidents: Iterable[Incident] = (),
        next_number: int = 1,
        boot_id: str = "",
    ) -> None:
        self._clock = clock
        self._lessons = Lessons(lessons)
        self._repairs = Repairs()
        self._reports: dict[tuple[str, str], JsonDict] = {}
        self._boot_id = boot_id
        self._open = {incident.key: self._of_this_boot(incident) for incident in incidents}
        self._next_number = next_number

    def _of_this_boot(self, incident: Incident) -> Incident:
        """Times of a former boot's clocks mean nothing here: how long it took stays unknown, nothing is waited for."""
        if incident.boot_id == self._boot_id:
            return incident
        return incident.replace(boot_id=self._boot_id, retry_boottime_us=0, fault_monotonic_us=None)

    @property
    def open_incidents(self) -> list[Incident]:
        """Open ones, oldest first."""
        return sorted(self._open.values(), key=lambda incident: incident.opened_at)

    def on_anomaly(self, data: JsonDict) -> Change:
        """An event hunter.anomaly.detected. Raises FormatError when it is not one."""
        unit = opt_str(data, "unit") or "host"
        finding = get_str(data, "finding")
        incident = self._open.get((unit, finding))
        if incident is None:
            return self._first(data, self._opened(data, unit, finding))
        self._reports[incident.key] = data
        if incident.cleared:
            incident = incident.replace(cleared=False)
            self._open[incident.key] = incident
            return Change(incidents=(incident,))
        return self._reported(data, incident)

    def _first(self, data: JsonDict, incident: Incident) -> Change:
        """What a new incident brings, and what it says about the repair before."""
        repair = self._repairs.relapse(incident.key, data, self._clock.boottime_us())
        if repair is None or incident.profile is None:
            return self._reported(data, incident, (incident,))
        about = incident.finding, incident.profile, repair.playbook
        lessons = (self._lessons.relapsed(*about, wall_us=self._clock.wall_us()),)
        incident = incident.replace(relapses=repair.relapses + 1)
        self._open[incident.key] = incident
        if incident.relapses < FLAPPING:
            return self._reported(data, incident, (incident,)).replace(lessons=lessons)
        incident = self._later(
            incident.replace(
                outcome=FAILED,
                reason=f"flapping: the last {incident.relapses} repairs, by {repair.playbook}, lasted less than "
                f"{repair.lasting_seconds:g} s each: a human is needed",
            ),
            incident.relapses - FLAPPING,
        )
        return Change(incidents=(incident,), opened=(incident,), lessons=lessons, escalated=(incident,))

    def _reported(self, data: JsonDict, incident: Incident, opened: tuple[Incident, ...] = ()) -> Change:
        if incident.finding not in HEALABLE or incident.profile is None:
            observed = incident.replace(outcome=OBSERVED_OUTCOME)
            self._open[incident.key] = observed
            return Change(incidents=(observed,), opened=opened) if opened else Change()
        if self._busy(incident.unit) or self._clock.boottime_us() < incident.retry_boottime_us:
            return Change(incidents=opened, opened=opened)
        incident = incident.replace(active=True, tries=incident.tries + 1)
        self._open[incident.key] = incident
        return Change(incidents=(incident,), opened=opened, intents=(self._intent(incident, data),))

    def _later(self, incident: Incident, before: int) -> Incident:
        """The incident is not tried again before a pause that grows with what went `before`."""
        pause_s = min(FIRST_RETRY_SECONDS * 2 ** min(before, 10), LAST_RETRY_SECONDS)
        incident = incident.replace(retry_boottime_us=self._clock.boottime_us() + pause_s * 1_000_000)
        self._open[incident.key] = incident
        return incident

    def _opened(self, data: JsonDict, unit: str, finding: str) -> Incident:
        number = self._next_number
        self._next_number += 1
        fault_us = opt_int(data, "fault_monotonic_us")
        detected_us = opt_int(data, "detected_monotonic_us")
        known = fault_us is not None and detected_us is not None
        incident = Incident(
            id=f"incident_{number}",
            intent_id=f"intent_{number}",
            unit=unit,
            finding=finding,
            profile=opt_str(data, "profile"),
            severity=_severity(data),
            opened_at=iso(self._clock.wall_us()),
            detect_ms=round((detected_us - fault_us) / 1000, 3) if known else None,  # type: ignore[operator]  # known
            fault_monotonic_us=fault_us,
            evidence=opt_dict(data, "evidence"),
            boot_id=self._boot_id,
        )
        self._open[incident.key] = incident
        self._reports[incident.key] = data
        return incident

    def _busy(self, unit: str) -> bool:
        return any(incident.active for incident in self._open.values() if incident.unit == unit)

    def _intent(self, incident: Incident, anomaly: JsonDict) -> Intent:
        ranking = tuple(self._lessons.ranked(incident.finding, incident.profile or ""))
        first = ranking[0] if ranking else None
        if first is not None and first.last_ok:
            how = f"Try {first.playbook} first: {first.sentence()}."
        elif first is not None:
            how = f"Nothing has helped yet ({first.sentence()}); the profile's order applies."
        else:
            how = "Nothing is known yet: the profile's order applies."
        again = f" This is try {incident.tries}." if incident.tries > 1 else ""
        return Intent(
            incident=incident,
            intent="remediate_drift",
            issue_type=HEALABLE[incident.finding],
            priority=PRIORITY_OF_SEVERITY.get(incident.severity, "normal"),
            sla_seconds=REMEDIATION_SLA_SECONDS,
            reasoning=f"{incident.unit}: {incident.finding} ({_summary(anomaly)}). {how}{again}",
            ranking=ranking,
            anomaly=anomaly,
        )

    def submitted(self, incident_id: str, task_id: str) -> Incident | None:
        """The task that carries an intent; the incident to store."""
        for key, incident in self._open.items():
            if incident.id == incident_id:
                self._open[key] = incident.replace(task_id=task_id)
                return self._open[key]
        return None

    def not_submitted(self, incident_id: str, reason: str) -> Incident | None:
        """The queue did not take the task: free for the next report of the finding; the incident to store."""
        for key, incident in self._open.items():
            if incident.id == incident_id:
                self._open[key] = incident.replace(active=False, reason=reason)
                return self._open[key]
        return None

    def on_completed(self, task_id: str, result: JsonDict) -> Change:
        """The end of a heal task. `result` as in topic task.completed."""
        incident = next((one for one in self._open.values() if one.task_id == task_id), None)
        if incident is None:
            return Change()
        lessons = self._learned(incident, result)
        status = get_str(result, "status")
        verdict = opt_dict(result, "verdict") or {}
        decided_us = opt_int(verdict, "decided_monotonic_us")
        resolved = result.get("issue_resolved") is True
        incident = incident.replace(
            active=False,
            playbook=opt_str(result, "playbook") or incident.playbook,
            reason=opt_str(result, "reason") or incident.reason,
            verified_by=opt_str(result, "verified_by") if resolved else incident.verified_by,
            outcome=HEALED if resolved else status if status in {HELD, REFUSED} else FAILED,
        )
        if resolved:
            if decided_us is not None and incident.fault_monotonic_us is not None:
                incident = incident.replace(heal_ms=round((decided_us - incident.fault_monotonic_us) / 1000, 3))
            incident = incident.replace(closed_at=iso(self._clock.wall_us()))
            self._repairs.note(incident.key, result, incident.relapses, self._clock.boottime_us())
            self._forget(incident)
            return Change(incidents=(incident,), closed=(incident,), lessons=lessons)
        if incident.cleared:
            # Nobody will say so a second time. What was tried in vain is still worth a look.
            gone = self._gone(incident)
            return gone.replace(lessons=lessons, escalated=gone.closed if lessons else ())
        incident = self._later(incident, incident.tries - 1)
        return Change(incidents=(incident,), lessons=lessons, escalated=(incident,))

    def _learned(self, incident: Incident, result: JsonDict) -> tuple[Lesson, ...]:
        about, wall_us = (incident.finding, incident.profile or ""), self._clock.wall_us()
        return tuple(
            self._lessons.learn(*about, playbook, ok=helped, wall_us=wall_us) for playbook, helped in tried_of(result)
        )

    def on_held(self, task_id: str, reason: str) -> Change:
        """A heal is waiting (dpkg at work, paused): say so in the incident; the task stays."""
        incident = next((one for one in self._open.values() if one.task_id == task_id), None)
        if incident is None or (incident.outcome == HELD and incident.reason == reason):
            return Change()
        incident = incident.replace(outcome=HELD, reason=reason)
        self._open[incident.key] = incident
        return Change(incidents=(incident,))

    def on_reset(self, unit: str) -> Change:
        """A person mended the unit's cause: what was given up on is tried again, as it was last reported."""
        self._repairs.forget(unit)
        incidents: list[Incident] = []
        intents: list[Intent] = []
        for one in [one for one in self._open.values() if one.unit == unit and not one.active]:
            self._open[one.key] = fresh = one.replace(tries=0, relapses=0, retry_boottime_us=0)
            report = self._reports.get(one.key)
            again = Change() if report is None else self._reported(report, fresh)
            incidents += again.incidents or (fresh,)
            intents += again.intents
        return Change(incidents=tuple(incidents), intents=tuple(intents))

    def on_telemetry(self, data: JsonDict) -> Change:
        """An event layer3.telemetry.stream: findings that cleared by themselves or by a human close their incidents.

        What is still there is tried again when its pause is over, as it was last reported.
        """
        changes = []
        for cleared in opt_list(data, "cleared") or []:
            key = (get_str(cleared, "unit"), get_str(cleared, "finding"))
            incident = self._open.get(key)
            if incident is None:
                continue
            if incident.active:
                self._open[key] = incident.replace(cleared=True)
                changes.append(Change(incidents=(self._open[key],)))
            else:
                changes.append(self._gone(incident))
        now_us = self._clock.boottime_us()
        for one in [one for one in self._open.values() if not one.active and 0 < one.retry_boottime_us <= now_us]:
            report = self._reports.get(one.key)
            if report is not None:
                changes.append(self._reported(report, one.replace(retry_boottime_us=0)))
        return Change(
            incidents=tuple(one for change in changes for one in change.incidents),
            closed=tuple(one for change in changes for one in change.closed),
            intents=tuple(one for change in changes for one in change.intents),
        )

    def _gone(self, incident: Incident) -> Change:
        outcome = OBSERVED_OUTCOME if incident.outcome in {OPEN, HELD} else incident.outcome
        done = incident.replace(outcome=outcome, closed_at=iso(self._clock.wall_us()))
        self._forget(incident)
        return Change(incidents=(done,), closed=(done,))

    def _forget(self, incident: Incident) -> None:
        del self._open[incident.key]
        self._reports.pop(incident.key, None)


def _severity(data: JsonDict) -> str:
    severities = [get_str(one, "severity") for one in get_list(data, "anomalies") if isinstance(one, dict)]
    order = ("critical", "high", "medium", "low")
    return min(severities, key=lambda one: order.index(one) if one in order else len(order), default="medium")


def _summary(anomaly: JsonDict) -> str:
    parts = [
        f"{one.get('type')} is {one.get('value')}, should be {one.get('threshold')}"
        for one in opt_list(anomaly, "anomalies") or []
        if isinstance(one, dict)
    ]
    return "; ".join(parts) or "no detail"
