"""The end of the process between two files: whatever it cut off in the life of a heal, the next start goes on from
there, and the unit is healed again."""

from __future__ import annotations

import pytest

from graced.base.clock import ManualClock
from graced.model.event import ANOMALY, Event
from graced.runtime.loop import Loop
from graced.store.brain import BrainStore
from graced.store.memory import MemoryStore
from graced.supervisor.loops import Loops
from graced.supervisor.main import _Htm
from graced.supervisor.queue import Queue
from tests.unit.supervisor.htm_desk import Caller

FINDING = {
    "anomalies": [{"type": "unit.failed", "value": "signal", "threshold": "active", "severity": "high"}],
    "unit": "nginx.service",
    "profile": "nginx",
    "finding": "unit.failed",
    "fault_monotonic_us": 1_000_000,
    "detected_monotonic_us": 1_004_000,
}
RESULT = {
    "status": "success",
    "issue_resolved": True,
    "unit": "nginx.service",
    "playbook": "restart-unit",
    "tried": [{"playbook": "restart-unit", "helped": True}],
    "verdict": {"decided_monotonic_us": 2_000_000},
    "verified_by": "verification/k1",
}


class Ended(BaseException):
    """The process was killed here."""


class Host:
    """The files of a supervisor, and one supervisor after the other on them. Stands in for its kernel."""

    def __init__(self, path):
        self.path = path
        self.clock = ManualClock(start_us=50_000_000)
        self.boot_id = "first"
        self.queue = self.store = None
        self.entries, self.told = [], []
        self.start()

    def start(self):
        self.close()
        self.store = BrainStore(str(self.path / "brain.db"))
        self.queue = Queue(Loop(), self.clock, str(self.path / "tasks.db"), boot_id=self.boot_id, jitter=lambda: 0.5)
        self.htm = _Htm(self.queue)
        self.bus = self.ledger = self.outbox = self.metrics = self
        self.loops = self.htm.loops = Loops(self, self.store)
        self.queue.on_completed = self.loops.on_completed
        self.loops.recover()

    def close(self):
        if self.queue is not None:
            self.queue.store.close()
            self.store.close()

    # What the loops use of the kernel.

    def append(self, kind, data, intent_id, **_more):
        self.entries.append((kind, data, intent_id))

    def tells(self, kind, intent_id):
        return any((one[0], one[2]) == (kind, intent_id) for one in self.entries)

    def log(self, _priority, message, *_more, **_fields):
        self.told.append(message)

    def wanted(self, _topic):
        return False

    def emit(self, *_arguments, **_more):
        """Nobody listens."""

    wake = inc = observe = emit

    # What happens to it.

    def report(self):
        self.loops.on_event(Event("1", "/graced/infrastructure", ANOMALY, "2026-11-22T15:04:05Z", FINDING))

    def heal(self):
        """Self-Healing takes the task that waits, and reports success."""
        worker = Caller({"handler": "heal", "worker": "w", "credits": 1}, more=True)
        self.htm.Work(worker)
        self.queue.flush()
        (lease,) = worker.leases
        ended = {"task_id": lease["task_id"], "attempt": lease["attempt"], "result": RESULT}
        self.htm.Complete(Caller(ended))
        self.queue.flush()
        return lease

    @property
    def open(self):
        return self.loops.brain.open_incidents


@pytest.fixture
def host(tmp_path):
    one = Host(tmp_path)
    yield one
    one.close()


def killed_before(host, where, name):
    """From now on this step of the supervisor is never reached."""

    def step(*_arguments, **_more):
        raise Ended

    setattr(where, name, step)


def test_before_the_finding_was_in_the_ledger(host):
    host.report()
    assert [kind for kind, *_ in host.entries] == ["finding"]
    (said,) = host.entries
    host.entries.clear()
    for _ in range(2):
        host.start()
        assert host.entries == [said]


def test_before_the_task_was_in_the_queue(host):
    killed_before(host, host.htm, "submit")
    with pytest.raises(Ended):
        host.report()
    host.start()
    assert "before its task" in host.open[0].reason
    host.report()
    host.heal()
    assert host.open == []


def test_before_the_incident_knew_its_task(host):
    killed_before(host, host.loops.brain, "submitted")
    with pytest.raises(Ended):
        host.report()
    host.start()
    (incident,) = host.open
    assert incident.task_id == host.heal()["task_id"]
    assert host.open == []


@pytest.mark.parametrize("known", [True, False])
def test_before_the_end_of_the_task_was_told(host, known):
    if not known:
        # Two kills in a row: neither the task's name nor its end was kept.
        killed_before(host, host.loops.brain, "submitted")
        with pytest.raises(Ended):
            host.report()
        host.start()
    else:
        host.report()
    killed_before(host, host.loops, "on_completed")
    host.queue.on_completed = host.loops.on_completed
    with pytest.raises(Ended):
        host.heal()
    host.start()
    assert host.open == []
    assert [data["result"] for kind, data, _intent in host.entries if kind == "task"] == [RESULT]
    host.start()
    assert [kind for kind, *_ in host.entries].count("task") == 1


def test_a_task_that_went_to_the_archive_meanwhile(host):
    host.report()
    with host.store._db.transaction() as db:
        db.execute("UPDATE incident SET body = replace(body, 'task_1', 'task_99')")
    host.start()
    assert [one.active for one in host.open] == [False]


def test_a_reboot_ends_waiting_and_makes_times_unknown(host):
    host.report()
    (incident,) = host.open
    later = incident.replace(active=False, retry_boottime_us=host.clock.boottime_us() + 3_600_000_000)
    host.loops._save([later], ())
    host.start()
    assert host.open == [later]
    host.boot_id = "second"
    host.start()
    (incident,) = host.open
    assert (incident.boot_id, incident.retry_boottime_us, incident.fault_monotonic_us) == ("second", 0, None)
    assert incident.detect_ms == 4.0
    host.heal()
    assert host.open == []
    _seq, record = host.store.outbox()[-1]
    assert (record["outcome"], record["detect_ms"], record["heal_ms"]) == ("healed", 4.0, None)


def test_memory_takes_what_is_kept_for_it(host, tmp_path):
    host.report()
    host.heal()
    host.report()
    memory = MemoryStore(str(tmp_path / "memory.db"), host.clock)
    for _seq, record in host.store.outbox():
        memory.put_incident(record)
    assert [one["outcome"] for one in memory.incidents()] == ["open", "healed"]
    memory.close()


@pytest.mark.parametrize("result", [{"tried": 3}, {"tried": [3]}, {"tried": [{"helped": True}]}, {"unit": 5}, {}])
@pytest.mark.parametrize("handler", ["heal", "backup"])
def test_whatever_a_worker_says_the_supervisor_goes_on(host, handler, result):
    host.wanted = lambda _topic: True
    host.htm.submit(handler, "t", origin="human")
    worker = Caller({"handler": handler, "worker": "w", "credits": 1}, more=True)
    host.htm.Work(worker)
    host.queue.flush()
    (lease,) = worker.leases
    host.htm.Complete(Caller({"task_id": lease["task_id"], "attempt": lease["attempt"], "result": result}))
    host.queue.flush()
    assert [kind for kind, *_ in host.entries] == ["task"]
    assert any("malformed" in said for said in host.told) is (handler == "heal" and "tried" in result)


@pytest.mark.parametrize(
    "result",
    [
        {"tried": 3},
        {},
        {"status": "success", "verdict": 5},
        RESULT | {"lasting_seconds": "x"},
        RESULT | {"playbook": 7},
    ],
)
def test_a_heal_whose_result_is_malformed_has_failed_and_is_tried_again(host, result):
    host.report()
    worker = Caller({"handler": "heal", "worker": "w", "credits": 2}, more=True)
    host.htm.Work(worker)
    host.queue.flush()
    (lease,) = worker.leases
    host.htm.Complete(Caller({"task_id": lease["task_id"], "attempt": lease["attempt"], "result": result}))
    host.queue.flush()
    (incident,) = host.loops.brain.open_incidents
    assert (incident.outcome, incident.active, incident.verified_by) == ("failed", False, None)
    assert "malformed" in incident.reason
    host.clock.advance_us(61_000_000)
    host.report()
    host.queue.flush()
    assert len(worker.leases) == 2
