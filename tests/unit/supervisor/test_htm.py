"""io.graced.HTM: who may, what is refused, what is told after the commit, what happens when it fails."""

from __future__ import annotations

import os
import shutil

import pytest

from graced.base.errors import FormatError, StoreError
from graced.htm.lease import LEASE_US
from graced.htm.limits import Limits
from graced.store.tasks import TaskStore
from graced.supervisor.queue import EASE_ROWS
from tests.unit.supervisor.htm_desk import Caller, Desk, plain, refused


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "q.db")
    yield made
    made.queue.close()


def test_the_way_of_a_task(desk):
    stream = desk.work()
    assert stream.replies == [{"lease": None}]
    task_id = desk.submit(
        priority="high", sla_seconds=60, context={"a": [1]}, reasoning="because", intent_id="intent_1"
    )  # fmt: skip
    (lease,) = stream.leases
    assert lease == {
        "task_id": task_id,
        "attempt": 1,
        "task_type": "t",
        "handler": "job",
        "priority": "high",
        "context": {"a": [1]},
        "intent_id": "intent_1",
        "reasoning": "because",
        "sla_boottime_us": lease["sla_boottime_us"],
        "lease_seconds": 30,
    }
    assert 0 <= lease["sla_boottime_us"] - 65_000_000 < 1000
    end = {"task_id": task_id, "attempt": 1}
    assert desk.call("Complete", {**end, "result": {"issue_resolved": True}}) == {"state": "done"}
    assert desk.told == [("dispatch", 1), ("completed", 1, 3, {"issue_resolved": True})]
    reply = desk.call("Get", {"task_id": task_id})
    assert reply["task"]["result"] == {"issue_resolved": True}
    assert [event["kind"] for event in reply["events"]] == ["submitted", "leased", "completed"]
    assert refused("NotLeased", desk.call, "Complete", {**end, "result": {}}) == {**end, "state": "done"}


def test_heal_is_for_the_supervisor_and_healing(desk):
    heal = {"handler": "heal", "task_type": "remediate"}
    for role in ("admin", "healing", "read"):
        assert refused("PermissionDenied", desk.call, "Submit", heal, role=role)["needed"] == ["root", "supervisor"]
    assert desk.call("Submit", heal, role="supervisor")["task_id"] == "task_1"
    assert desk.call("Submit", heal)["task_id"] == "task_2"
    for role in ("admin", "supervisor"):
        refused("PermissionDenied", desk.work, "heal", role=role)
    refused("PermissionDenied", desk.work, "job", role="healing")
    assert len(desk.work("heal", role="healing").leases) == 1
    assert len(desk.work("job", role="admin").leases) == 0
    assert desk.get("task_1")["origin"] == "supervisor"


def test_only_the_holder_ends_a_lease(desk):
    stream = desk.work(role="admin", uid=1000)
    task_id = desk.submit()
    assert stream.leases
    end = {"task_id": task_id, "attempt": 1, "result": {}}
    refused("NotLeased", desk.call, "Complete", end, role="admin", uid=1001)
    with pytest.raises(FormatError):
        desk.call("Heartbeat", {"worker": "w"}, role="admin", uid=1001)
    assert desk.call("Heartbeat", {"worker": "w"}, role="admin", uid=1000) == {}
    assert desk.call("Complete", end, role="admin", uid=1000) == {"state": "done"}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("Submit", {}),
        ("Submit", {"handler": "job"}),
        ("Submit", {"handler": "Job/../x", "task_type": "t"}),
        ("Submit", {"handler": "", "task_type": "t"}),
        ("Submit", {"handler": "j" * 65, "task_type": "t"}),
        ("Submit", {"handler": "job", "task_type": "t", "priority": "urgent"}),
        ("Submit", {"handler": "job", "task_type": "t", "sla_seconds": 0}),
        ("Submit", {"handler": "job", "task_type": "t", "sla_seconds": 10**12}),
        ("Submit", {"handler": "job", "task_type": "t", "sla_seconds": "5"}),
        ("Submit", {"handler": "job", "task_type": "t", "delay_seconds": -1}),
        ("Submit", {"handler": "job", "task_type": "t", "delay_seconds": 1e300}),
        ("Submit", {"handler": "job", "task_type": "t", "context": [1]}),
        ("Submit", {"handler": "job", "task_type": "t", "context": {"x": "y" * 70_000}}),
        ("Submit", {"handler": "job", "task_type": "t", "reasoning": "y" * 9000}),
        ("Submit", {"handler": "job", "task_type": "t", "idempotency_key": "y" * 257}),
        ("Submit", {"handler": "job", "task_type": "t", "parent": "task_x"}),
        ("Submit", {"handler": "job", "task_type": "t", "context": {"x": "\ud800"}}),
        ("Submit", {"handler": "job", "task_type": "t", "reasoning": "\ud800"}),
        ("Submit", {"handler": "job", "task_type": "t", "intent_id": "\udfff"}),
        ("Submit", {"handler": "job", "task_type": "t", "idempotency_key": "\ud800"}),
        ("Cancel", {"task_id": "task_1", "reason": "\ud800"}),
        ("Fail", {"task_id": "task_1", "attempt": 1, "error": "\ud800", "retry": True}),
        ("Get", {"task_id": "incident_1"}),
        ("Get", {}),
        ("List", {"state": "lost"}),
        ("List", {"limit": 0}),
        ("List", {"limit": 10**6}),
        ("Heartbeat", {"worker": "nobody"}),
        ("Heartbeat", {"worker": "nobody", "credits": -1}),
        ("Complete", {"task_id": "task_1", "attempt": 1}),
        ("Defer", {"task_id": "task_1", "attempt": 1, "delay_seconds": float("nan"), "reason": ""}),
    ],
)
def test_wrong_parameters_name_the_place(desk, method, parameters):
    with pytest.raises(FormatError) as caught:
        desk.call(method, parameters)
    assert caught.value.message.startswith(("$.", "not a JSON value"))
    assert desk.queue.depth == 0


def test_unknown_tasks(desk):
    assert refused("NoSuchTask", desk.call, "Get", {"task_id": "task_9"}) == {"task_id": "task_9"}
    refused("NoSuchTask", desk.call, "Cancel", {"task_id": "task_9", "reason": ""})
    refused("NoSuchTask", desk.call, "Complete", {"task_id": "task_9", "attempt": 1, "result": {}})
    refused("NoSuchTask", desk.submit, parent="task_9")


def test_a_worker_about_to_stop_gets_no_more(desk):
    worker = desk.work(credits=2)
    first = desk.submit()
    desk.queue.flush()
    assert desk.call("Heartbeat", {"worker": "w", "credits": 0}) == {}
    second = desk.submit()
    desk.queue.flush()
    desk.call("Complete", {"task_id": first, "attempt": 1, "result": {}})
    desk.queue.flush()
    assert [lease["task_id"] for lease in worker.leases] == [first]
    desk.call("Heartbeat", {"worker": "w", "credits": 1})
    desk.queue.flush()
    assert [lease["task_id"] for lease in worker.leases] == [first, second]


def test_work_needs_more_and_sane_credits(desk):
    refused("ExpectedMore", desk.call, "Work", {"handler": "job", "worker": "w", "credits": 1})
    for credits in (0, -1, 10**9):
        with pytest.raises(FormatError):
            desk.work(credits=credits)


def test_deduplicated_and_busy(tmp_path):
    desk = Desk(tmp_path / "q.db", Limits(max_live=10, max_per_origin=10))
    first = desk.call("Submit", {"handler": "job", "task_type": "t", "idempotency_key": "k"})
    again = desk.call("Submit", {"handler": "job", "task_type": "t", "idempotency_key": "k"})
    assert (first, again) == (
        {"task_id": "task_1", "deduplicated": False}, {"task_id": "task_1", "deduplicated": True}
    )  # fmt: skip
    for _ in range(8):
        desk.submit()
    assert refused("Busy", desk.submit)["retry_after_ms"] > 0
    desk.queue.close()


def test_the_end_of_the_connection_is_the_end_of_the_lease(desk):
    stream = desk.work(worker="a")
    task_id = desk.submit()
    heir = desk.work(worker="b")
    assert (len(stream.leases), len(heir.leases)) == (1, 0)
    stream.hang_up()
    desk.queue.flush()
    assert [(lease["task_id"], lease["attempt"]) for lease in heir.leases] == [(task_id, 2)]
    assert desk.get(task_id)["failures"] == 1


def test_a_worker_that_comes_back_replaces_its_old_stream(desk):
    old = desk.work()
    task_id = desk.submit()
    new = desk.work()
    assert old.ended
    assert [lease["task_id"] for lease in new.leases] == [task_id]
    old.hang_up()
    desk.queue.flush()
    assert desk.get(task_id)["worker"] == "w"
    assert desk.get(task_id)["attempts"] == 2


def test_fail_defer_cancel_and_lists(desk):
    desk.work(credits=3)
    one, two, three = desk.submit(), desk.submit(), desk.submit()
    fail = {"task_id": one, "attempt": 1, "error": "no", "retry": False}
    assert desk.call("Fail", fail) == {"state": "failed"}
    defer = {"task_id": two, "attempt": 1, "delay_seconds": 5, "reason": "dpkg"}
    assert desk.call("Defer", defer) == {"state": "waiting"}
    assert desk.call("Cancel", {"task_id": three, "reason": "no"}) == {"state": "cancelled"}
    for state, task_id in (("failed", one), ("waiting", two), ("cancelled", three)):
        assert [task["id"] for task in desk.call("List", {"state": state, "handler": "job"})["tasks"]] == [task_id]
    assert len(desk.call("List", {"limit": 2})["tasks"]) == 2
    stats = desk.call("Stats")["stats"]
    assert stats["tasks"]["normal"] == {
        "queued": 0, "waiting": 1, "leased": 0, "done": 0, "failed": 1, "dead": 0, "cancelled": 1
    }  # fmt: skip
    assert (stats["live"], stats["handlers"]) == (1, {"job": {"failed": 1, "waiting": 1, "cancelled": 1}})


def test_sla_and_lease_expiry_come_from_the_timer(desk):
    desk.work()
    task_id = desk.submit(sla_seconds=10)
    desk.clock.advance_us(8_100_000)
    desk.queue._wake()
    desk.queue.flush()
    desk.clock.advance_us(2_000_000)
    desk.queue._wake()
    desk.queue.flush()
    assert desk.told[1:] == [("slack", 1), ("breached", 1)]
    assert (desk.get(task_id)["sla"], desk.get(task_id)["priority"]) == ("breached", "high")
    desk.clock.advance_us(LEASE_US)
    desk.queue._wake()
    desk.queue.flush()
    assert desk.get(task_id)["state"] == "queued"
    families = {family["name"]: family["samples"] for family in desk.htm.metrics()}
    assert {"labels": {"priority": "high"}, "value": 1} in families["graced_sla_breaches_total"]
    assert {"labels": {"priority": "high", "state": "queued"}, "value": 1} in families["graced_tasks"]


def test_in_process_submit_is_on_disk_when_it_returns(desk, tmp_path):
    assert desk.htm.submit("heal", "remediate", origin="brain", context={"unit": "nginx.service"}) == ("task_1", False)
    copy = tmp_path / "copy"
    shutil.copytree(os.path.dirname(desk.path), copy, ignore=shutil.ignore_patterns("copy", "*-shm"))
    store = TaskStore(str(copy / os.path.basename(desk.path)))
    assert store.db.rows("SELECT origin, state FROM task") == [("brain", 0)]
    store.close()
    with pytest.raises(FormatError):
        desk.htm.submit("heal", "remediate", origin="brain", priority="urgent")


def test_a_hook_may_submit(desk):
    desk.queue.on_completed = lambda task: desk.htm.submit("job", "next", origin="brain", parent=None)
    stream = desk.work()
    task_id = desk.submit()
    desk.call("Complete", {"task_id": task_id, "attempt": 1, "result": {}})
    assert [lease["task_type"] for lease in stream.leases] == ["t", "next"]


def test_drain_hands_back_without_using_up_an_attempt(desk):
    busy = desk.work(worker="busy")
    task_id = desk.submit()
    idle = desk.work(worker="idle")
    desk.queue.drain()
    desk.queue.flush()
    assert idle.ended
    assert not busy.ended
    assert not desk.queue.drained()
    refused("Busy", desk.submit)
    desk.queue.close()
    assert busy.ended
    desk.open()
    assert (desk.get(task_id)["state"], desk.get(task_id)["failures"]) == ("queued", 0)


def test_a_commit_that_fails_withdraws_every_answer_of_the_turn(desk, monkeypatch):
    stream = desk.work()
    kept = desk.submit()
    full = StoreError("q.db: the disk is full", hint="free space", code="disk-full")

    def fail():
        raise full

    monkeypatch.setattr(desk.queue.store, "commit", fail)
    callers = [
        Caller({"handler": "job", "task_type": "t", "idempotency_key": "k"}),
        Caller({"task_id": kept, "attempt": 1, "result": {}}),
    ]
    assert plain(desk.htm.Submit(callers[0]))["task_id"] == "task_2"
    assert plain(desk.htm.Complete(callers[1])) == {"state": "done"}
    desk.queue.flush()
    for caller in callers:
        assert caller.withdrawn.error == "io.graced.HTM.Unavailable"
        assert "disk is full" in caller.withdrawn.parameters["reason"]
    with pytest.raises(StoreError):
        desk.htm.submit("job", "t", origin="brain")
    assert "disk is full" in desk.queue.error
    assert ("completed", 1, 3, {}) not in desk.told
    assert len(stream.leases) == 1
    monkeypatch.undo()
    assert desk.get(kept)["state"] == "leased"
    assert desk.call("Complete", {"task_id": kept, "attempt": 1, "result": {}}) == {"state": "done"}
    again = desk.call("Submit", {"handler": "job", "task_type": "t", "idempotency_key": "k"})
    assert again == {"task_id": "task_2", "deduplicated": False}
    assert desk.queue.error == ""


def test_the_error_goes_away_by_itself_once_the_disk_takes_a_commit(desk, monkeypatch):
    task_id = desk.submit()

    def fail():
        raise StoreError("q.db: the disk is full", code="disk-full")

    monkeypatch.setattr(desk.queue.store, "commit", fail)
    stream = desk.work()
    assert "full" in desk.queue.error
    assert stream.leases == []
    desk.queue._again()
    assert "full" in desk.queue.error
    monkeypatch.undo()
    desk.queue._again()
    assert desk.queue.error == ""
    desk.queue.flush()
    assert [lease["task_id"] for lease in stream.leases] == [task_id]


def fill_up(desk):
    """As many rows are noted as SQLite may be told of while nobody waits."""
    for _ in range(EASE_ROWS.stop):
        if desk.queue.store.durable.noted_rows in EASE_ROWS:
            break
        desk.submit()
    assert desk.queue.store.durable.noted_rows in EASE_ROWS


def test_sqlite_is_told_of_many_rows_while_nobody_waits(desk):
    durable, loop = desk.queue.store.durable, desk.loop
    fill_up(desk)
    # somebody came at the same time
    loop.call_soon(lambda: None)
    loop.run_once(0)
    assert durable.noted_rows in EASE_ROWS
    task_id = desk.submit()
    loop.run_once(0)
    assert durable.noted_rows == 0
    assert durable.unsettled > EASE_ROWS.start, "it is not committed"
    assert desk.get(task_id)["state"] == "queued"


def test_a_burst_stays_noted(desk):
    for _ in range(EASE_ROWS.stop):
        desk.call("Submit", {"handler": "job", "task_type": "t"}, flush=False)
    desk.queue.flush()
    desk.loop.run_once(0)
    assert desk.queue.store.durable.noted_rows >= EASE_ROWS.stop


def test_a_disk_that_fails_while_nobody_waits_is_said(desk, monkeypatch):
    durable = desk.queue.store.durable
    fill_up(desk)
    execute = durable._execute

    def fail(statements):
        monkeypatch.setattr(durable, "_execute", execute)
        raise StoreError("no room", code="disk-full")

    monkeypatch.setattr(durable, "_execute", fail)
    desk.loop.run_once(0)
    assert "no room" in desk.queue.error
    desk.queue._again()
    assert desk.queue.error == ""
    assert desk.queue.depth >= 3


def test_before_its_commit_sqlite_writes_nothing_however_much_it_is(desk):
    # what is on disk already when the commit finds it full would be in the way of doing it again
    def written():
        return os.stat(f"{desk.path}-wal").st_size

    before = written()
    for _ in range(300):
        desk.submit(context={"text": "x" * 20_000})
    desk.queue.store.durable.catch_up()
    assert written() == before
    desk.queue.settle()
    assert written() > before + 5_000_000
