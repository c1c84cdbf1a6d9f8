"""io.graced.HTM.Watch: what is heard and when, and that a slow watcher costs a bounded amount."""

from __future__ import annotations

import pytest

from graced.base.errors import StoreError
from graced.supervisor import watch
from tests.unit.supervisor.htm_desk import Caller, Desk, refused

JOB = {"handler": "job", "task_type": "t"}


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "q.db")
    yield made
    made.queue.close()


def heard(watcher):
    return [(change["task_id"], change["kind"], change["state"]) for change in watcher.changes]


def test_the_life_of_a_task(desk):
    desk.work()
    watcher = desk.watch()
    assert watcher.replies == [{"change": None, "dropped": 0}]
    task_id = desk.submit(priority="high")
    assert watcher.changes[0] == {
        "task_id": task_id,
        "handler": "job",
        "task_type": "t",
        "priority": "high",
        "state": "queued",
        "kind": "submitted",
        "attempt": 0,
        "at": "2023-11-14T22:13:20.000Z",
    }
    desk.call("Progress", {"task_id": task_id, "attempt": 1, "percent": 5})
    desk.call("Defer", {"task_id": task_id, "attempt": 1, "delay_seconds": 1, "reason": "later"})
    desk.pass_seconds(2)
    desk.call("Fail", {"task_id": task_id, "attempt": 2, "error": "no", "retry": False})
    desk.call("Requeue", {"task_id": task_id, "reason": "again"})
    desk.call("Complete", {"task_id": task_id, "attempt": 3, "result": {}})
    assert [change[1:] for change in heard(watcher)] == [
        ("submitted", "queued"),
        ("leased", "leased"),
        ("progress", "leased"),
        ("deferred", "waiting"),
        ("leased", "leased"),
        ("failed", "failed"),
        ("requeued", "queued"),
        ("leased", "leased"),
        ("completed", "done"),
    ]
    assert [change["attempt"] for change in watcher.changes] == [0, 1, 1, 1, 2, 2, 2, 3, 3]


def test_trees_deadlines_and_lost_workers_are_heard(desk):
    stream = desk.work()
    watcher = desk.watch()
    parent, child = desk.call("Submit", {**JOB, "sla_seconds": 10, "children": [JOB]})["task_ids"]
    desk.pass_seconds(9)
    stream.hang_up()
    desk.queue.flush()
    desk.call("Cancel", {"task_id": child, "reason": ""})
    assert [change for change in heard(watcher) if change[0] == parent] == [
        (parent, "submitted", "waiting"),
        (parent, "slack", "waiting"),
        (parent, "failed", "failed"),
    ]
    assert (child, "lost", "queued") in heard(watcher)
    assert (child, "cancelled", "cancelled") in heard(watcher)


def test_it_can_be_of_one_handler_or_one_task(desk):
    first = desk.submit()
    of_handler, of_task = desk.watch(handler="other"), desk.watch(task_id=first)
    neither = desk.watch(handler="other", task_id=first)
    second, third = desk.submit(), desk.submit(handler="other")
    desk.call("Cancel", {"task_id": first, "reason": ""})
    assert heard(of_handler) == [(third, "submitted", "queued")]
    assert heard(of_task) == [(first, "cancelled", "cancelled")]
    assert heard(neither) == []
    assert second not in str(of_handler.replies + of_task.replies)


def test_only_what_is_on_disk_is_heard(desk, monkeypatch):
    watcher = desk.watch()
    caller = Caller({**JOB})
    desk.htm.Submit(caller)
    assert watcher.changes == []

    def fail():
        raise StoreError("q.db: the disk is full", code="disk-full")

    monkeypatch.setattr(desk.queue.store, "commit", fail)
    desk.queue.flush()
    monkeypatch.undo()
    assert caller.withdrawn
    assert watcher.changes == []
    desk.submit()
    assert heard(watcher) == [("task_1", "submitted", "queued")]


def test_a_watch_of_a_turn_that_fails_stays_one_stream(desk, monkeypatch):
    task_id = desk.submit()

    def fail():
        raise StoreError("q.db: the disk is full", code="disk-full")

    monkeypatch.setattr(desk.queue.store, "commit", fail)
    desk.call("Cancel", {"task_id": task_id, "reason": ""}, flush=False)
    watcher = desk.watch(task_id=task_id)
    monkeypatch.undo()
    assert (watcher.withdrawn, watcher.ended) == (None, False)
    desk.call("Cancel", {"task_id": task_id, "reason": ""})
    assert heard(watcher) == [(task_id, "cancelled", "cancelled")]


def test_a_slow_reader_loses_changes_and_is_told_how_many(desk):
    slow, quick = desk.watch(), desk.watch()
    slow.backlog_bytes = watch.MAX_BACKLOG_BYTES + 1
    for _ in range(3):
        desk.submit()
    assert (heard(slow), len(heard(quick))) == ([], 3)
    slow.backlog_bytes = watch.MAX_BACKLOG_BYTES
    desk.queue.flush()
    assert len(slow.replies) == 1
    slow.backlog_bytes = 0
    desk.queue.flush()
    assert slow.replies[-1] == {"change": None, "dropped": 3}
    desk.queue.flush()
    assert len(slow.replies) == 2
    desk.submit()
    assert (slow.replies[-1]["dropped"], slow.replies[-1]["change"]["task_id"]) == (3, "task_4")
    assert desk.queue.watchers.dropped == 3
    assert quick.replies[-1]["dropped"] == 0


def test_one_turn_sends_a_bounded_number(desk, monkeypatch):
    monkeypatch.setattr(watch, "MAX_CHANGES_PER_TURN", 10)
    watcher = desk.watch()
    desk.call("SubmitBatch", {"tasks": [JOB] * 25})
    assert len(watcher.changes) == 10
    assert watcher.replies[-1] == {"change": None, "dropped": 15}
    desk.submit()
    assert len(watcher.changes) == 11


def test_who_hangs_up_is_forgotten_and_there_is_a_bound(desk):
    watchers = [desk.watch() for _ in range(watch.MAX_WATCHERS)]
    assert refused("Busy", desk.watch)["retry_after_ms"] > 0
    watchers[0].hang_up()
    assert len(desk.queue.watchers) == watch.MAX_WATCHERS - 1
    desk.submit()
    assert len(watchers[0].replies) == 1
    desk.watch()


def test_what_a_watch_needs(desk):
    refused("ExpectedMore", desk.call, "Watch", {})
    refused("NoSuchTask", desk.watch, task_id="task_1")
    assert len(desk.queue.watchers) == 0
