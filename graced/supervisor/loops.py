"""The closed loop: events in, the brain's changes stored, published, submitted and ledgered; results fed back.

Order of every change: on disk first, then the ledger, then the bus, then the task. A change that cannot be stored is
not acted on.
"""

from __future__ import annotations

from graced.base.errors import FormatError, StoreError, TaskError
from graced.base.json import get_float, get_int, get_list, get_str, loads, opt_str
from graced.base.log import NOTICE, WARNING
from graced.base.messages import HEAL_ESCALATED, INCIDENT_CLOSED, INCIDENT_OPENED, SLA_BREACHED
from graced.brain.brain import HELD, Brain, Change, Incident
from graced.brain.lessons import Lesson, tried_of
from graced.model import event as topics
from graced.model.daemons import KERNELS
from graced.model.task import DONE, PRIORITIES, task_name
from graced.supervisor.htm import HEAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict
    from graced.brain.brain import Intent
    from graced.model.event import Event
    from graced.model.task import Task
    from graced.store.brain import BrainStore
    from graced.supervisor.main import SupervisorKernel

LEDGERED_ORIGINS = frozenset({"brain", "human", "drill"})
# What only the brain needs is not part of the record that Memory keeps.
_PRIVATE = ("profile", "fault_monotonic_us", "tries", "retry_boottime_us", "active", "cleared", "boot_id", "relapses")


class Loops:
    """Joins the bus, the HTM and the ledger to the brain. One per supervisor."""

    def __init__(self, kernel: SupervisorKernel, store: BrainStore) -> None:
        self._kernel = kernel
        self._store = store
        self.reports: dict[str, JsonDict] = {}
        self.brain = Brain(
            kernel.clock,
            [Lesson.from_json(one) for one in store.lessons()],
            [Incident.from_json(one) for one in store.incidents()],
            store.next_number(),
            kernel.boot_id,
        )

    def recover(self) -> None:
        """At the start: a heal that the end of the former process caught between two files is brought to its end.

        The incident is stored before its finding is in the ledger and before its task, the task's end before the
        incident's.
        """
        for incident in self.brain.open_incidents:
            if not self._kernel.ledger.tells("finding", incident.intent_id):
                self._tell_finding(incident)
            if not incident.active:
                continue
            task = self._kernel.htm.find(incident.task_id, _heal_key(incident))
            if task is None:
                self._keep(self.brain.not_submitted(incident.id, "graced was ended before its task was in the queue"))
                if incident.cleared:
                    gone = {"unit": incident.unit, "finding": incident.finding}
                    self._apply(self.brain.on_telemetry({"cleared": [gone]}))
            elif not task.live:
                self.on_completed(task)
            elif incident.task_id is None:
                self._keep(self.brain.submitted(incident.id, task_name(task.id)))

    def on_event(self, event: Event) -> None:
        """Every event of the bus. Malformed data is logged and counted, never acted on."""
        try:
            if event.type == topics.ANOMALY:
                self._apply(self.brain.on_anomaly(event.data))
            elif event.type == topics.TELEMETRY_BRAIN:
                self._apply(self.brain.on_telemetry(event.data))
            elif event.type == topics.KERNEL_STATUS:
                self._heard(event)
            elif event.type == topics.DECISION:
                self._decided(event.data)
        except FormatError as error:
            self._kernel.count("graced_malformed_events_total")
            self._kernel.log(WARNING, f"{event.source} sent a malformed {event.type}: {error.message}")

    def _heard(self, event: Event) -> None:
        """A daemon's own report; the peer's account is its name, whatever the data says."""
        get_int(event.data, "internal_errors")
        for counter in get_list(event.data, "counters"):
            get_float(counter, "value", "counter")
            get_str(counter, "name", "counter")
        name = event.source.rpartition("/")[2]
        if name in KERNELS:
            self.reports[name] = event.data

    def on_dispatch(self, task: Task) -> None:
        """A lease went out."""
        topic = f"{topics.TASK_EXECUTE}.{task.handler}"
        if not self._kernel.bus.wanted(topic):
            return
        data: JsonDict = {
            "task_id": task_name(task.id),
            "task_type": task.task_type,
            "priority": PRIORITIES[task.priority],
            "context": _context(task),
        }
        self._kernel.bus.emit(topic, data, intent_id=task.intent_id)

    def on_completed(self, task: Task) -> None:
        """A task has ended: tell the bus, keep the record, teach the brain."""
        wanted = self._kernel.bus.wanted(topics.TASK_COMPLETED)
        ledgered, heal = task.origin in LEDGERED_ORIGINS, task.handler == HEAL
        if not (wanted or ledgered or heal):
            return
        result: JsonDict = (
            {"status": "success" if task.state == DONE else "failed", "reason": task.error, "tried": []}
            if task.result is None
            else loads(task.result)
        )
        task_id, intent_id = task_name(task.id), task.intent_id
        if wanted:
            self._kernel.bus.emit(topics.TASK_COMPLETED, {"task_id": task_id, "result": result}, intent_id=intent_id)
        if ledgered:
            unit = result.get("unit") if isinstance(result.get("unit"), str) else None
            self._kernel.ledger.append("task", {"result": result}, unit=unit, task_id=task_id, intent_id=intent_id)
        if heal:
            try:
                self._healed(task_id, result)
            except FormatError as error:
                text = f"the result of {task_id} is malformed: {error.message}"
                self._kernel.log(WARNING, text, GRACED_TASK_ID=task_id)
                # Nothing says that it helped; and its incident must not wait for it for ever.
                self._apply(self.brain.on_completed(task_id, {"status": "failed", "reason": text}))

    def _healed(self, task_id: str, result: JsonDict) -> None:
        for playbook, helped in tried_of(result):
            self._kernel.metrics.inc("graced_remediations_total", playbook=playbook)
            if not helped:
                self._kernel.metrics.inc("graced_remediation_failures_total", playbook=playbook)
        self._apply(self.brain.on_completed(task_id, result))

    def on_held(self, task_id: str, reason: str) -> None:
        """Healing handed a heal back: it waits for something."""
        self._apply(self.brain.on_held(task_id, reason))

    def on_sla(self, task: Task, what: str) -> None:
        """A deadline is near ("slack") or past ("breached")."""
        task_id = task_name(task.id)
        if what == "breached":
            self._kernel.log(
                WARNING,
                f"{task_id} ({task.handler}/{task.task_type}) passed its deadline of {task.sla_seconds} s",
                SLA_BREACHED,
                GRACED_TASK_ID=task_id,
            )

    def _decided(self, data: JsonDict) -> None:
        """What held a heal may be over (a pause, a person's word, a rule, a window): it need not sit out its wait."""
        if data.get("paused") is False:
            self._hurry_all("resumed")
        elif (unit := opt_str(data, "reset")) is not None:
            self._apply(self.brain.on_reset(unit))
            self._hurry_all(f"{unit} was reset", unit)
        elif data.get("ask_again") is True:
            task_id = opt_str(data, "task_id")
            if task_id is None:
                self._hurry_all("Governance has started")
            else:
                self._hurry(task_id, "what held it has changed")
        elif "approval" in data and get_str(data, "state", "decision") in {"granted", "denied"}:
            self._hurry(get_str(data, "task_id"), f"{get_str(data, 'approval')} is {get_str(data, 'state')}")

    def _hurry_all(self, reason: str, unit: str | None = None) -> None:
        for incident in self.brain.open_incidents:
            if incident.outcome == HELD and incident.task_id and unit in {None, incident.unit}:
                self._hurry(incident.task_id, reason)

    def _hurry(self, task_id: str, reason: str) -> None:
        try:
            self._kernel.htm.hurry(task_id, reason)
        except (TaskError, StoreError) as error:
            self._kernel.log(WARNING, f"{task_id} waits on: {error}", GRACED_TASK_ID=task_id)

    def _apply(self, change: Change) -> None:
        touched = {incident.id: incident for incident in (*change.opened, *change.incidents)}
        if not touched and not change.lessons:
            return
        self._save(touched.values(), change.lessons)
        for incident in change.opened:
            self._opened(incident)
        for intent in change.intents:
            self._submit(intent)
        for incident in change.escalated:
            self._escalated(incident)
        for incident in change.closed:
            self._closed(incident)

    def _save(self, incidents: Iterable[Incident], lessons: tuple[Lesson, ...]) -> None:
        bodies = [incident.to_json() for incident in incidents]
        last = max((int(body["id"].rpartition("_")[2]) for body in bodies), default=0)
        self._store.save(bodies, [lesson.to_json() for lesson in lessons], [_record(body) for body in bodies], last)
        self._kernel.outbox.wake()

    def _opened(self, incident: Incident) -> None:
        kernel = self._kernel
        self._tell_finding(incident)
        kernel.bus.emit(
            topics.INCIDENT_OPENED, _record(incident.to_json()), subject=incident.unit, intent_id=incident.intent_id
        )
        kernel.log(
            NOTICE,
            f"{incident.id}: {incident.finding} on {incident.unit}",
            INCIDENT_OPENED,
            UNIT=incident.unit,
            GRACED_INCIDENT_ID=incident.id,
        )
        if incident.detect_ms is not None:
            kernel.metrics.observe("graced_time_to_detect_seconds", incident.detect_ms / 1000)

    def _tell_finding(self, incident: Incident) -> None:
        self._kernel.ledger.append(
            "finding",
            {"finding": incident.finding, "severity": incident.severity, "evidence": incident.evidence},
            unit=incident.unit,
            intent_id=incident.intent_id,
        )

    def _submit(self, intent: Intent) -> None:
        incident = intent.incident
        self._kernel.bus.emit(topics.INTENT, intent.to_data(), subject=incident.unit, intent_id=incident.intent_id)
        try:
            task_id, _known = self._kernel.htm.submit(
                HEAL,
                "remediate",
                origin="brain",
                priority=intent.priority,
                sla_seconds=intent.sla_seconds,
                context=intent.context(),
                reasoning=intent.reasoning,
                intent_id=incident.intent_id,
                idempotency_key=_heal_key(incident),
            )
        except (TaskError, StoreError, FormatError) as error:
            # The finding is reported again while it lasts; the incident is there, and says why nothing happens.
            self._kernel.log(WARNING, f"{incident.id}: no task: {error}", GRACED_INCIDENT_ID=incident.id)
            self._keep(self.brain.not_submitted(incident.id, str(error)))
            return
        self._keep(self.brain.submitted(incident.id, task_id))

    def _keep(self, incident: Incident | None) -> None:
        if incident is not None:
            self._save([incident], ())

    def _escalated(self, incident: Incident) -> None:
        kernel = self._kernel
        kernel.log(
            WARNING,
            f"{incident.id}: {incident.unit} is not healed ({incident.outcome}): {incident.reason}."
            f" See gracectl explain {incident.id}",
            HEAL_ESCALATED,
            UNIT=incident.unit,
            GRACED_INCIDENT_ID=incident.id,
            GRACED_TASK_ID=incident.task_id,
        )
        if incident.outcome in {"held", "refused"}:
            kernel.metrics.inc("graced_remediation_blocked_total", reason=incident.outcome)

    def _closed(self, incident: Incident) -> None:
        kernel = self._kernel
        kernel.bus.emit(
            topics.INCIDENT_CLOSED, _record(incident.to_json()), subject=incident.unit, intent_id=incident.intent_id
        )
        took = f" in {incident.heal_ms:.0f} ms" if incident.heal_ms is not None else ""
        by = f" by {incident.playbook}" if incident.playbook else ""
        kernel.log(
            NOTICE,
            f"{incident.id}: {incident.finding} on {incident.unit} is closed: {incident.outcome}{by}{took}",
            INCIDENT_CLOSED,
            UNIT=incident.unit,
            GRACED_INCIDENT_ID=incident.id,
            GRACED_OUTCOME=incident.outcome,
        )
        kernel.metrics.inc("graced_incidents_total", outcome=incident.outcome)
        if incident.heal_ms is not None:
            kernel.metrics.observe("graced_time_to_recover_seconds", incident.heal_ms / 1000)


def _record(body: JsonDict) -> JsonDict:
    return {name: value for name, value in body.items() if name not in _PRIVATE}


def _heal_key(incident: Incident) -> str:
    return f"heal:{incident.unit}:{incident.finding}"


def _context(task: Task) -> JsonDict:
    context: JsonDict = loads(task.context) if task.context else {}
    return context
