"""io.graced.HTM beyond the plain task: trees, batches, progress, waiting, second chances, held handlers."""

from __future__ import annotations

import pytest

from graced.base.errors import FormatError, StoreError
from graced.htm.lease import LEASE_US
from graced.htm.limits import Limits
from graced.supervisor.htm import HtmInterface
from tests.unit.supervisor.htm_desk import Caller, Desk, refused

JOB = {"handler": "job", "task_type": "t"}
END = {"result": {}}


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "q.db")
    yield made
    made.queue.close()


def states(desk):
    return {task["id"]: task["state"] for task in desk.call("List")["tasks"]}


# -- in --------------------------------------------------------------------------------------------------------------


def test_a_tree_is_one_transaction_and_its_root_waits(desk):
    tree = {
        **JOB,
        "sla_seconds": 60,
        "children": [{**JOB, "children": [JOB]}, {**JOB, "sla_seconds": 600, "on_child_failure": "ignore"}],
    }
    assert desk.call("Submit", tree) == {
        "task_id": "task_1",
        "deduplicated": False,
        "task_ids": ["task_1", "task_2", "task_3", "task_4"],
    }
    assert states(desk) == {"task_1": "waiting", "task_2": "waiting", "task_3": "queued", "task_4": "queued"}
    root, child = desk.get("task_1"), desk.get("task_4")
    assert (root["open_children"], root["on_child_failure"], root["failed_children"]) == (2, "fail", 0)
    assert (child["parent"], child["on_child_failure"], child["deadline_at"]) == (
        "task_1", "ignore", root["deadline_at"]
    )  # fmt: skip

    stream = desk.work(credits=9)
    assert [lease["task_id"] for lease in stream.leases] == ["task_3", "task_4"]
    assert all("children" not in lease for lease in stream.leases)
    for task_id in ("task_3", "task_2", "task_4", "task_1"):
        assert desk.call("Complete", {"task_id": task_id, "attempt": 1, **END}) == {"state": "done"}
    assert [lease["task_id"] for lease in stream.leases] == ["task_3", "task_4", "task_2", "task_1"]
    assert stream.leases[-1]["children"] == {"done": 2, "failed": 0, "open": 0}


def test_a_known_tree_is_not_made_again(desk):
    tree = {**JOB, "idempotency_key": "k", "children": [JOB]}
    desk.call("Submit", tree)
    assert desk.call("Submit", tree) == {"task_id": "task_1", "deduplicated": True, "task_ids": ["task_1"]}
    assert desk.queue.depth == 2


def test_attempts_can_be_bounded(desk):
    desk.work()
    task_id = desk.submit(max_attempts=1)
    assert desk.get(task_id)["max_attempts"] == 1
    assert desk.call("Fail", {"task_id": task_id, "attempt": 1, "error": "no", "retry": True}) == {"state": "dead"}


def test_a_batch_is_taken_in_whole(desk):
    batch = [{**JOB, "idempotency_key": "k"}, {**JOB, "children": [JOB, JOB]}, {**JOB, "idempotency_key": "k"}]
    assert desk.call("SubmitBatch", {"tasks": batch}) == {
        "task_ids": ["task_1", "task_2", "task_1"],
        "deduplicated": [False, False, True],
    }
    assert desk.queue.depth == 4


def test_or_not_at_all(tmp_path):
    desk = Desk(tmp_path / "q.db", Limits(max_live=10, max_per_origin=10))
    desk.submit()
    with pytest.raises(FormatError) as caught:
        desk.call("SubmitBatch", {"tasks": [JOB, {**JOB, "priority": "urgent"}]})
    assert caught.value.fields["path"] == "$.tasks[1].priority"
    assert refused("NoSuchTask", desk.call, "SubmitBatch", {"tasks": [JOB, {**JOB, "parent": "task_99"}]})
    assert refused("Busy", desk.call, "SubmitBatch", {"tasks": [JOB] * 11})["retry_after_ms"] > 0
    assert refused("Busy", desk.call, "Submit", {**JOB, "children": [JOB] * 11})
    assert states(desk) == {"task_1": "queued"}
    desk.queue.close()


def test_a_batch_whose_commit_fails_is_not_there(desk, monkeypatch):
    def fail():
        raise StoreError("q.db: the disk is full", code="disk-full")

    monkeypatch.setattr(desk.queue.store, "commit", fail)
    caller = Caller({"tasks": [JOB, {**JOB, "children": [JOB]}]})
    desk.htm.SubmitBatch(caller)
    desk.queue.flush()
    assert caller.withdrawn.error == "io.graced.HTM.Unavailable"
    monkeypatch.undo()
    assert desk.queue.depth == 0
    assert states(desk) == {}


def test_heal_is_not_smuggled_in(desk):
    heal = {"handler": "heal", "task_type": "remediate"}
    for method, parameters in (
        ("SubmitBatch", {"tasks": [JOB, heal]}),
        ("SubmitBatch", {"tasks": [{**JOB, "children": [heal]}]}),
        ("Submit", {**JOB, "children": [heal]}),
    ):
        refused("PermissionDenied", desk.call, method, parameters, role="admin")
        desk.call(method, parameters, role="supervisor")
    assert desk.queue.depth == 6
    (stream,) = [desk.work("heal", credits=9, role="healing")]
    for lease in stream.leases:
        end = {"task_id": lease["task_id"], "attempt": 1, "error": "no", "retry": False}
        desk.call("Fail", end, role="root")
    again = {"task_id": stream.leases[0]["task_id"], "reason": "once more"}
    refused("PermissionDenied", desk.call, "Requeue", again, role="admin")
    assert desk.call("Requeue", again, role="supervisor") == {"state": "queued"}


# -- while it is worked on -------------------------------------------------------------------------------------------


def test_progress_is_kept_and_is_a_sign_of_life(desk):
    stream = desk.work()
    task_id = desk.submit()
    mine = {"task_id": task_id, "attempt": 1}
    assert desk.get(task_id)["progress"] is None
    desk.pass_seconds(29)
    assert desk.call("Progress", {**mine, "percent": 40, "message": "copying"}) == {}
    desk.pass_seconds(29)
    assert stream.revoked == []
    said = desk.get(task_id)["progress"]
    assert (said["percent"], said["message"]) == (40.0, "copying")
    assert said["at"] == "2023-11-14T22:13:49.000Z"
    desk.call("Progress", mine)
    desk.queue.close()
    desk.open()
    assert desk.get(task_id)["progress"]["percent"] is None
    assert refused("NotLeased", desk.call, "Progress", mine)["state"] == "queued"


def test_the_end_of_one_task_is_a_sign_of_life_for_the_others(desk):
    stream = desk.work(credits=2)
    one, other = desk.submit(), desk.submit()
    desk.pass_seconds(29)
    desk.call("Complete", {"task_id": one, "attempt": 1, **END})
    desk.pass_seconds(29)
    assert (desk.get(other)["state"], stream.revoked) == ("leased", [])
    desk.pass_seconds(2)
    assert desk.get(other)["state"] == "queued"


def test_an_extended_lease_outlives_silence(desk):
    stream = desk.work()
    task_id = desk.submit()
    until_us = desk.call("Extend", {"task_id": task_id, "attempt": 1, "seconds": 120})["lease_boottime_us"]
    assert until_us == 125_000_000
    desk.pass_seconds(119)
    assert desk.get(task_id)["state"] == "leased"
    desk.pass_seconds(2)
    assert desk.get(task_id)["state"] == "queued"
    assert [(one["task_id"], one["attempt"]) for one in stream.revoked] == [(task_id, 1)]
    refused("NotLeased", desk.call, "Extend", {"task_id": task_id, "attempt": 1, "seconds": 1})


def test_a_cancelled_worker_is_told_to_stop_and_gets_its_credit_back_when_it_has(desk):
    stream = desk.work()
    task_id = desk.submit()
    desk.call("Cancel", {"task_id": task_id, "reason": "not needed"})
    assert stream.revoked == [{"task_id": task_id, "attempt": 1, "reason": "not needed"}]
    assert stream.replies[-1]["lease"] is None
    assert not stream.ended
    other = desk.submit()
    assert len(stream.leases) == 1
    refused("NotLeased", desk.call, "Complete", {"task_id": task_id, "attempt": 1, **END})
    desk.queue.flush()
    assert [lease["task_id"] for lease in stream.leases] == [task_id, other]


def test_a_silent_worker_is_told_what_it_lost(desk):
    stream = desk.work()
    task_id = desk.submit()
    desk.pass_seconds(LEASE_US / 1e6 + 0.001)
    (revoked,) = stream.revoked
    assert (revoked["task_id"], revoked["attempt"]) == (task_id, 1)
    assert "30 s" in revoked["reason"]


def test_a_parent_waits_for_what_it_submitted(desk):
    stream = desk.work(credits=1)
    parent = desk.submit()
    child = desk.submit(parent=parent)
    assert desk.call("Wait", {"task_id": parent, "attempt": 1}) == {"state": "waiting"}
    assert [lease["task_id"] for lease in stream.leases] == [parent, child]
    desk.call("Complete", {"task_id": child, "attempt": 1, **END})
    assert stream.leases[-1]["task_id"] == parent
    assert stream.leases[-1]["attempt"] == 2
    assert stream.leases[-1]["children"] == {"done": 1, "failed": 0, "open": 0}
    # nothing is open: it comes back at once
    assert desk.call("Wait", {"task_id": parent, "attempt": 2}) == {"state": "queued"}
    assert stream.leases[-1]["attempt"] == 3
    assert desk.get(parent)["failures"] == 0
    refused("NotLeased", desk.call, "Wait", {"task_id": parent, "attempt": 2})


def test_a_failed_child_fails_its_waiting_parent(desk):
    desk.work()
    desk.call("Submit", {**JOB, "children": [JOB, JOB]})
    desk.call("Fail", {"task_id": "task_2", "attempt": 1, "error": "broken", "retry": False})
    assert states(desk) == {"task_1": "failed", "task_2": "failed", "task_3": "cancelled"}
    assert desk.get("task_1")["error"] == "child task_2 failed: broken"
    assert ("completed", 1, 4, None) in desk.told


# -- afterwards ------------------------------------------------------------------------------------------------------


def test_requeue_gives_all_attempts_back(desk):
    desk.work()
    task_id = desk.submit(max_attempts=1)
    desk.call("Fail", {"task_id": task_id, "attempt": 1, "error": "no", "retry": True})
    desk.pass_seconds(60)
    assert desk.call("Requeue", {"task_id": task_id, "reason": "the disk has room"}) == {"state": "queued"}
    events = desk.call("Get", {"task_id": task_id})["events"]
    assert [event["kind"] for event in events] == ["submitted", "leased", "dead", "requeued", "leased"]
    assert events[3]["detail"] == "the disk has room"
    task = desk.get(task_id)
    assert (task["state"], task["failures"], task["attempts"]) == ("leased", 0, 2)
    refused("InvalidRequest", desk.call, "Requeue", {"task_id": task_id, "reason": ""})
    desk.call("Complete", {"task_id": task_id, "attempt": 2, **END})
    refused("InvalidRequest", desk.call, "Requeue", {"task_id": task_id, "reason": ""})
    refused("NoSuchTask", desk.call, "Requeue", {"task_id": "task_9", "reason": ""})


def test_requeue_does_not_take_a_key_that_another_has_by_now(desk):
    first = desk.submit(idempotency_key="k")
    desk.call("Cancel", {"task_id": first, "reason": ""})
    second = desk.submit(idempotency_key="k")
    assert second in refused("InvalidRequest", desk.call, "Requeue", {"task_id": first, "reason": ""})["reason"]
    assert states(desk) == {first: "cancelled", second: "queued"}


# -- held handlers ---------------------------------------------------------------------------------------------------


def test_pause_is_durable_and_resume_ends_it(desk):
    assert desk.call("Pause", {"handler": "job", "reason": "disk swap"}, role="admin") == {}
    task_id = desk.submit()
    assert desk.work().leases == []
    assert len(desk.work("other", worker="o").leases) == 0
    desk.submit(handler="other")
    assert desk.queue.leased == 1
    desk.queue.close()
    desk.open()
    stream = desk.work()
    assert stream.leases == []
    (mode,) = desk.call("Stats")["stats"]["modes"].items()
    assert desk.modes == []
    assert mode[0] == "job"
    assert (mode[1]["mode"], mode[1]["reason"], mode[1]["by"]) == ("paused", "disk swap", "admin")
    desk.call("Resume", {"handler": "job"})
    assert [lease["task_id"] for lease in stream.leases] == [task_id]
    assert desk.modes == [[]]
    assert desk.call("Stats")["stats"]["modes"] == {}
    assert desk.call("Resume", {"handler": "job"}) == {}
    desk.call("Pause", {"handler": "job", "reason": "disk swap"}, role="admin")
    assert [[(mode.handler, mode.word) for mode in modes] for modes in desk.modes] == [[], [("job", "paused")]]


def test_drain_takes_nothing_in_and_works_off_the_rest(desk):
    waiting = desk.submit()
    desk.call("Drain", {"handler": "*", "reason": "shutdown at ten"})
    reason = refused("Busy", desk.submit)
    assert reason["retry_after_ms"] == 60_000
    assert "drained: shutdown at ten" in reason["reason"]
    refused("Busy", desk.call, "SubmitBatch", {"tasks": [JOB]})
    assert [lease["task_id"] for lease in desk.work().leases] == [waiting]
    desk.call("Resume", {"handler": "*"})
    desk.submit()


def test_a_mode_whose_commit_fails_does_not_hold(desk, monkeypatch):
    def fail():
        raise StoreError("q.db: the disk is full", code="disk-full")

    monkeypatch.setattr(desk.queue.store, "commit", fail)
    caller = Caller({"handler": "job", "reason": "r"})
    desk.htm.Pause(caller)
    desk.queue.flush()
    assert caller.withdrawn.error == "io.graced.HTM.Unavailable"
    monkeypatch.undo()
    desk.queue._again()
    assert desk.call("Stats")["stats"]["modes"] == {}
    desk.submit()
    assert len(desk.work().leases) == 1


# -- who may, and what is refused ------------------------------------------------------------------------------------


def test_roles():
    acl = HtmInterface.acl
    reading = {"Get", "List", "Tree", "Why", "Stats", "Watch"}
    working = {"Work", "Heartbeat", "Progress", "Extend", "Complete", "Fail", "Defer", "Wait"}
    submitting = {"Submit", "SubmitBatch", "Cancel", "Requeue"}
    holding = {"Pause", "Drain", "Resume"}
    assert set(acl) == reading | working | submitting | holding
    assert {method for method in acl if "read" in acl[method]} == reading
    assert {method for method in acl if "healing" in acl[method]} == reading | working
    assert {method for method in acl if "supervisor" in acl[method]} == reading | submitting
    assert all("admin" in roles and "root" in roles for roles in acl.values())


def test_only_the_holder_speaks_for_a_lease(desk):
    desk.work(role="admin", uid=1000)
    mine = {"task_id": desk.submit(), "attempt": 1}
    for method, more in (("Progress", {}), ("Extend", {"seconds": 1}), ("Wait", {})):
        refused("NotLeased", desk.call, method, {**mine, **more}, role="admin", uid=1001)
    assert desk.call("Progress", mine, role="admin", uid=1000) == {}


@pytest.mark.parametrize(
    ("method", "parameters", "path"),
    [
        ("Submit", {**JOB, "children": [{"handler": "job"}]}, "$.children[0].task_type"),
        ("Submit", {**JOB, "childrn": []}, "$"),
        ("SubmitBatch", {}, "$.tasks"),
        ("SubmitBatch", {"tasks": []}, "$.tasks"),
        ("SubmitBatch", {"tasks": [1]}, "$.tasks[0]"),
        ("Progress", {"task_id": "task_1", "attempt": 1, "percent": 101}, "$.percent"),
        ("Progress", {"task_id": "task_1"}, "$.attempt"),
        ("Extend", {"task_id": "task_1", "attempt": 1}, "$.seconds"),
        ("Extend", {"task_id": "task_1", "attempt": 1, "seconds": 3601}, "$.seconds"),
        ("Wait", {"task_id": "x", "attempt": 1}, "$.task_id"),
        ("Requeue", {"task_id": "task_1"}, "$.reason"),
        ("Tree", {}, "$.task_id"),
        ("Why", {"task_id": 7}, "$.task_id"),
        ("Pause", {"handler": "job"}, "$.reason"),
        ("Pause", {"handler": "", "reason": ""}, "$.handler"),
        ("Drain", {"handler": "j*", "reason": ""}, "$.handler"),
        ("Resume", {}, "$.handler"),
    ],
)
def test_wrong_parameters_name_the_place(desk, method, parameters, path):
    with pytest.raises(FormatError) as caught:
        desk.call(method, parameters)
    assert caught.value.fields["path"] == path
    assert desk.queue.depth == 0
