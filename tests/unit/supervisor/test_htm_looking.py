"""io.graced.HTM.Tree, Why, Stats, List and the metrics: what people see, and that looking changes nothing."""

from __future__ import annotations

import pytest

from graced.base.errors import StoreError
from graced.htm.measure import BOUNDS_SECONDS
from graced.metrics.families import QUEUE, TASK_EDGES_SECONDS
from graced.supervisor import tasktree
from graced.supervisor.whytext import sentences
from tests.unit.supervisor.htm_desk import Desk, refused

JOB = {"handler": "job", "task_type": "t"}


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "q.db")
    yield made
    made.queue.close()


# -- Tree ------------------------------------------------------------------------------------------------------------


def shape(node):
    return {node["id"]: [shape(child) for child in node["children"]]}


def count(node):
    return 1 + sum(count(child) for child in node["children"])


def test_tree_is_the_same_from_wherever_it_is_asked_for(desk):
    desk.call("Submit", {**JOB, "context": {"a": 1}, "children": [{**JOB, "children": [JOB]}, JOB]})
    desk.submit()
    trees = [desk.call("Tree", {"task_id": f"task_{number}"}, role="read") for number in (1, 2, 3, 4)]
    assert trees[1:] == trees[:-1]
    assert trees[0]["truncated"] is False
    root = trees[0]["root"]
    assert shape(root) == {"task_1": [{"task_2": [{"task_3": []}]}, {"task_4": []}]}
    assert (root["state"], root["open_children"], "context" in root, "result" in root) == ("waiting", 2, False, False)
    assert shape(desk.call("Tree", {"task_id": "task_5"})["root"]) == {"task_5": []}
    refused("NoSuchTask", desk.call, "Tree", {"task_id": "task_9"})


def test_tree_shows_this_turn_and_cuts_long_errors(desk):
    desk.work()
    task_id = desk.submit()
    desk.call("Submit", {**JOB, "parent": task_id})
    desk.call("Fail", {"task_id": task_id, "attempt": 1, "error": "x" * 5000, "retry": False}, flush=False)
    root = desk.call("Tree", {"task_id": task_id})["root"]
    assert (root["state"], len(root["error"])) == ("failed", tasktree.MAX_ERROR_CHARS)
    assert root["children"][0]["state"] == "cancelled"


@pytest.mark.parametrize(("room", "truncated"), [(8, False), (7, True), (4, True), (3, True)])
def test_tree_is_bounded_and_keeps_the_way_to_the_task_asked_for(desk, monkeypatch, room, truncated):
    desk.call("Submit", {**JOB, "children": [JOB, JOB, JOB, {**JOB, "children": [JOB, JOB, JOB]}]})
    monkeypatch.setattr(tasktree, "MAX_TASKS", room)
    reply = desk.call("Tree", {"task_id": "task_8"})
    assert reply["truncated"] is truncated
    assert count(reply["root"]) == room
    (last,) = (child for child in reply["root"]["children"] if child["id"] == "task_5")
    assert [child["id"] for child in last["children"]][-1] == "task_8"


def test_a_very_deep_tree_begins_where_the_climb_ends(desk, monkeypatch):
    monkeypatch.setattr(tasktree, "MAX_CLIMB", 3)
    parent = None
    for _ in range(5):
        parent = desk.submit(parent=parent)
    reply = desk.call("Tree", {"task_id": parent})
    assert reply["truncated"] is True
    assert shape(reply["root"]) == {"task_3": [{"task_4": [{"task_5": []}]}]}


# -- Why -------------------------------------------------------------------------------------------------------------


def why(desk, task_id):
    reply = desk.call("Why", {"task_id": task_id}, role="read")
    return reply["sentences"], reply["facts"]


def test_why_is_it_queued(desk):
    first, second = desk.submit(), desk.submit()
    text, facts = why(desk, second)
    assert text == [
        "No worker is connected for job: nobody could run it. Start one.",
        "1 task is before it.",
        "Its deadline is in 4 h (2023-11-15T02:13:20.000Z).",
    ]
    assert (facts["ahead"], facts["workers"], facts["mode"], facts["worker"]) == (1, 0, None, None)
    desk.call("Pause", {"handler": "*", "reason": "disk swap."}, role="admin")
    desk.work()
    text, facts = why(desk, first)
    assert text[0] == (
        "All handlers are paused by admin since 2023-11-14T22:13:20.000Z: disk swap."
        " gracectl resume --handler '*' ends that."
    )
    assert text[1] == "It is the next one that job gets."
    assert facts["mode"] == {
        "handler": "*", "mode": "paused", "reason": "disk swap.", "by": "admin", "since": "2023-11-14T22:13:20.000Z"
    }  # fmt: skip
    desk.call("Resume", {"handler": "*"})
    assert why(desk, second)[0][:2] == [
        "It waits for a free worker of job: its only worker is busy.",
        "It is the next one that job gets.",
    ]
    refused("NoSuchTask", desk.call, "Why", {"task_id": "task_9"})


def test_why_is_it_leased(desk):
    desk.work(worker="w1")
    task_id = desk.submit()
    desk.pass_seconds(5)
    text, facts = why(desk, task_id)
    assert text[:2] == ["Worker w1 works on it (attempt 1).", "The last sign of life came 5.0 s ago."]
    assert facts["last_sign_of_life_seconds"] == pytest.approx(5.0, abs=0.01)
    desk.call("Progress", {"task_id": task_id, "attempt": 1, "percent": 40, "message": "copying"})
    assert why(desk, task_id)[0][2] == "Progress: 40 %: copying (at 2023-11-14T22:13:25.000Z)."


def test_why_does_it_wait(desk):
    desk.work(credits=9)
    task_id = desk.submit()
    desk.call("Fail", {"task_id": task_id, "attempt": 1, "error": "no route to host", "retry": True})
    text, facts = why(desk, task_id)
    assert text[0].startswith("Attempt 1 failed: no route to host; it is tried again in 0.5 s (")
    assert text[1] == "It has failed 1 of 5 times: no route to host."
    assert 0 <= facts["not_before_seconds"] < 1

    other = desk.submit()
    desk.call("Defer", {"task_id": other, "attempt": 1, "delay_seconds": 5, "reason": "dpkg runs"})
    assert why(desk, other)[0][0] == (
        "Its worker handed it back: dpkg runs; it is queued again in 5.0 s (2023-11-14T22:13:25.000Z)."
    )
    later = desk.submit(delay_seconds=600)
    assert why(desk, later)[0][0].startswith("It was submitted with a delay and is queued in 10 min (")

    tree = desk.call("Submit", {**JOB, "children": [JOB] * 7})["task_ids"]
    text, facts = why(desk, tree[0])
    shown = ", ".join(tree[1:6])
    assert text[0] == f"It waits for tasks below it to end: {shown} and 2 more. See gracectl tree {tree[0]}."
    assert facts["open_children"] == tree[1:]


def test_why_did_it_end(desk):
    desk.work(credits=9)
    done, failed, dead, cancelled = desk.submit(), desk.submit(), desk.submit(max_attempts=1), desk.submit()
    desk.call("Complete", {"task_id": done, "attempt": 1, "result": {}})
    desk.call("Fail", {"task_id": failed, "attempt": 1, "error": "no such host.", "retry": False})
    desk.call("Fail", {"task_id": dead, "attempt": 1, "error": "no", "retry": True})
    desk.call("Cancel", {"task_id": cancelled, "reason": "not needed"})
    assert why(desk, done)[0] == ["It is done: gracectl task task_1 shows its result."]
    again = "Once the cause is gone: gracectl requeue {}."
    assert why(desk, failed)[0] == ["It has failed: no such host.", again.format(failed)]
    assert why(desk, dead)[0] == ["It has used up its only attempt; the last error: no.", again.format(dead)]
    assert why(desk, cancelled)[0] == ["It was cancelled: not needed.", again.format(cancelled)]
    assert why(desk, dead)[1]["slack_seconds"] is None


def test_why_says_when_the_store_refuses_and_when_it_is_late(desk):
    task_id = desk.submit(sla_seconds=10)
    desk.pass_seconds(700)
    text, facts = why(desk, task_id)
    assert text[-1].startswith("Its deadline passed 11 min ago (")
    assert sentences(task_id, facts, None, "q.db: the disk is full")[0] == (
        "The queue cannot be written (q.db: the disk is full): nothing is given out until it can."
    )


# -- Stats, List, metrics --------------------------------------------------------------------------------------------


def test_stats_say_how_old_the_oldest_is(desk):
    desk.submit(priority="low")
    desk.submit(handler="other", priority="low")
    desk.pass_seconds(5)
    desk.submit(priority="high")
    desk.pass_seconds(5)
    oldest = desk.call("Stats")["stats"]["oldest_queued_seconds"]
    assert {word: None if age is None else round(age) for word, age in oldest.items()} == {
        "critical": None, "high": 5, "normal": None, "low": 10
    }  # fmt: skip


def test_stats_count_what_ended(desk):
    desk.work()
    task_id = desk.submit(max_attempts=1)
    desk.call("Fail", {"task_id": task_id, "attempt": 1, "error": "no", "retry": True})
    desk.pass_seconds(1.5)
    stats = desk.call("Stats")["stats"]
    assert (stats["dead"], stats["retries"], stats["lost"], stats["watchers"]) == (1, 0, 0, 0)
    assert stats["finished_per_second"] > 0


def test_looking_at_the_oldest_costs_once_in_a_while(desk, monkeypatch):
    desk.submit()
    asked = []
    look = desk.queue.store.oldest_queued
    monkeypatch.setattr(desk.queue.store, "oldest_queued", lambda *limits: asked.append(limits) or look(*limits))
    for _ in range(9):
        desk.call("Stats")
    desk.htm.metrics()
    assert len(asked) == 1

    def broken(*_limits):
        raise StoreError("cannot be read")

    monkeypatch.setattr(desk.queue.store, "oldest_queued", broken)
    desk.pass_seconds(6)
    assert set(desk.call("Stats")["stats"]["oldest_queued_seconds"].values()) == {None}
    samples = {family["name"]: family["samples"] for family in desk.htm.metrics()}["graced_task_oldest_queued_seconds"]
    assert {sample["labels"]["priority"] for sample in samples} == {"critical", "high", "low"}


def test_list_shows_every_waiting_task(desk):
    desk.call("Submit", {**JOB, "children": [{**JOB, "delay_seconds": 60}]})
    desk.submit(handler="other", delay_seconds=5)
    listed = desk.call("List", {"state": "waiting"})["tasks"]
    assert {task["id"] for task in listed} == {"task_1", "task_2", "task_3"}
    listed = desk.call("List", {"state": "waiting", "handler": "job", "limit": 2})["tasks"]
    assert {task["id"] for task in listed} == {"task_1", "task_2"}
    assert len(desk.call("List", {"state": "waiting", "limit": 1})["tasks"]) == 1


def test_metrics_are_the_declared_families(desk):
    desk.work()
    desk.submit()
    desk.submit(priority="low")
    desk.call("Pause", {"handler": "job", "reason": ""})
    desk.call("Drain", {"handler": "other", "reason": ""})
    families = desk.htm.metrics()
    assert [(one["name"], one["kind"], one["help"]) for one in families] == [
        (one.name, one.kind, one.help) for one in QUEUE
    ]
    for family, declared in zip(families, QUEUE, strict=True):
        shown = [tuple(sample["labels"][label] for label in declared.labels) for sample in family["samples"]]
        assert shown == list(declared.values or [()]), family["name"]
    samples = {family["name"]: family["samples"] for family in families}
    assert [sample["value"] for sample in samples["graced_task_handlers_held"]] == [1, 1]
    assert [sample["value"] for sample in samples["graced_task_oldest_queued_seconds"]] == [0, 0, 0, 0]
    assert TASK_EDGES_SECONDS == BOUNDS_SECONDS


def test_metrics_count(desk):
    desk.work()
    task_id = desk.submit(max_attempts=2)
    desk.call("Fail", {"task_id": task_id, "attempt": 1, "error": "no", "retry": True})
    desk.pass_seconds(2)
    desk.pass_seconds(31)
    values = {
        family["name"]: family["samples"][0]["value"]
        for family in desk.htm.metrics()
        if family["kind"] == "counter"
    }  # fmt: skip
    assert values["graced_task_retries_total"] == 1
    assert values["graced_task_leases_lost_total"] == 1
    assert values["graced_task_dead_letters_total"] == 1
    assert values["graced_task_refused_total"] == 0
