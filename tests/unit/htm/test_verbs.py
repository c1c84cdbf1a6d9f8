"""Extend, progress, requeue, attempts of one's own, held handlers, revoked leases, why."""

from __future__ import annotations

import json

import pytest

from graced.base.errors import TaskError
from graced.htm.lease import LEASE_US
from graced.htm.limits import Limits
from graced.htm.mode import ALL, DRAINED, PAUSED
from graced.model.task import CANCELLED, DEAD, DONE, FAILED, QUEUED, WAITING


def refused(code, verb, *args, **kwargs):
    with pytest.raises(TaskError) as caught:
        verb(*args, **kwargs)
    assert caught.value.code == code
    return caught.value


# -- leases ------------------------------------------------------------------------------------------------------------


def test_an_extended_lease_outlives_silence_and_only_that_one(queue):
    long, short = queue.submit(), queue.submit()
    worker = queue.worker(credits=2)
    queue.dispatch()
    now_us = queue.engine.timeline.now_us()
    assert queue.engine.extend(queue.lease(long), 100_000_000) == now_us + 100_000_000
    turn = queue.tick(LEASE_US)
    assert queue.states(long, short) == ["leased", "queued"]
    assert [(lease.task.id, lease.attempt, reason) for lease, reason in turn.revoked] == [
        (short, 1, "no sign of life for 30 s")
    ]
    assert worker.ghosts == {short}
    assert queue.engine.next_wake_us() == now_us + 100_000_000
    assert queue.dispatch() == [], "a silent worker gets nothing"
    assert queue.tick(69_999_999).revoked == []
    turn = queue.tick(1)
    assert queue.states(long) == ["queued"]
    assert [lease.task.id for lease, _ in turn.revoked] == [long]


def test_a_sign_of_life_after_the_extension_keeps_the_lease(queue):
    number = queue.submit()
    queue.worker(name="w")
    queue.dispatch()
    queue.engine.extend(queue.lease(number), 50_000_000)
    queue.tick(45_000_000)
    queue.engine.leases.heartbeat("w", 7, queue.engine.timeline.now_us())
    queue.tick(LEASE_US - 1)
    assert queue.states(number) == ["leased"]
    queue.tick(1)
    assert queue.states(number) == ["queued"]


def test_an_extension_ends_with_its_lease_and_survives_a_revert(queue):
    number, other = queue.submit(), queue.submit()
    worker = queue.worker(credits=2)
    queue.dispatch()
    queue.engine.extend(queue.lease(number), 50_000_000)
    queue.engine.complete(queue.lease(number), "{}")
    assert not worker.extended
    queue.engine.book.write()
    queue.store.rollback()
    queue.engine.revert()
    # the completion was a sign of life, some stamps later than the leases
    queue.tick(LEASE_US + 100)
    assert queue.states(number, other) == ["leased", "queued"]
    queue.engine.worker_left(worker)
    queue.commit()
    assert (worker.extended, queue.engine.next_wake_us() is None) == ({}, False)


def test_progress_is_kept_told_and_a_sign_of_life_but_no_history(queue):
    number = queue.submit()
    queue.worker()
    queue.dispatch()
    queue.clock.advance_us(LEASE_US - 1)
    queue.engine.book.turn.heard = True
    turn = queue.after(lambda: queue.engine.progress(queue.lease(number), 12.5, "half of a quarter"))
    queue.tick(LEASE_US - 1)
    assert queue.states(number) == ["leased"]
    kept = json.loads(queue.store.load(number).progress)
    assert (kept["percent"], kept["message"]) == (12.5, "half of a quarter")
    assert [event[2] for _, _, events in turn.log for event in events] == ["progress"]
    assert queue.kinds(number) == ["submitted", "leased"]


def test_cancel_revokes(queue):
    number = queue.submit()
    queue.worker()
    queue.dispatch()
    turn = queue.after(queue.engine.cancel, number, "stop")
    assert [(lease.task.id, lease.attempt, reason) for lease, reason in turn.revoked] == [(number, 1, "stop")]
    assert queue.commit().revoked == []


def test_the_log_of_a_turn_has_every_batch_with_its_tasks(queue):
    queue.engine.book.turn.heard = True
    number = queue.submit()
    queue.worker()
    queue.engine.dispatch()
    queue.engine.complete(queue.lease(number), "{}")
    turn = queue.commit()
    kinds = [event[2] for new, changed, events in turn.log for event in events if event[0] in {**new, **changed}]
    assert kinds == ["submitted", "leased", "completed"]


# -- attempts and requeue ----------------------------------------------------------------------------------------------


def test_max_attempts_of_one_task(queue):
    for attempts in (1, 3):
        number = queue.submit(max_attempts=attempts)
        for attempt in range(1, attempts + 1):
            lease = queue.all()[number]
            assert lease.attempt == attempt
            queue.engine.fail(lease, "x", retry=True)
            queue.tick(10_000_000)
        assert queue.state(number) == DEAD
    assert queue.engine.counts.dead == 2


@pytest.mark.parametrize("fate", [FAILED, DEAD, CANCELLED])
def test_requeue_gives_a_new_start_under_the_same_id(queue, fate):
    number = queue.submit(sla_seconds=100, max_attempts=2)
    lease = queue.all()[number]
    if fate == CANCELLED:
        queue.engine.cancel(number, "no")
        refused("not-leased", queue.lease, number)
    else:
        queue.engine.fail(lease, "x", retry=fate == DEAD)
    if fate == DEAD:
        queue.tick(3_000_000)
        queue.engine.leases.heartbeat("w0", 7, queue.engine.timeline.now_us())
        queue.dispatch()
        queue.engine.fail(queue.lease(number, 2), "x", retry=True)
    queue.commit()
    assert queue.state(number) == fate
    before = queue.store.load(number)
    queue.tick(1000_000_000)
    queue.engine.requeue(number, "fixed")
    queue.commit()
    task = queue.store.load(number)
    assert (task.state, task.failures, task.sla_state, task.finished_us) == (QUEUED, 0, 0, None)
    assert task.attempts == before.attempts, "a fencing token is never used again"
    assert task.deadline_us - queue.engine.timeline.now_us() == pytest.approx(100_000_000, abs=1000)
    assert queue.kinds(number)[-1] == "requeued"
    queue.restart()
    assert queue.store.load(number).deadline_us == task.deadline_us
    queue.worker(name="again")
    assert queue.dispatch() == [(number, before.attempts + 1)]
    assert [what for what, _ in queue.tick(81_000_000).notices] == ["slack"]


def test_requeue_refuses_what_is_live_or_done(queue):
    number = queue.submit()
    refused("not-ended", queue.engine.requeue, number, "x")
    queue.engine.complete(queue.all()[number], "{}")
    refused("not-ended", queue.engine.requeue, number, "x")
    refused("no-such-task", queue.engine.requeue, 99, "x")
    assert queue.engine.book.get(number).state == DONE


def test_requeue_and_idempotency(queue):
    number = queue.submit(idempotency_key="k")
    queue.commit()
    queue.engine.cancel(number, "no")
    twin = queue.submit(idempotency_key="k")
    queue.commit()
    assert f"task_{twin}" in refused("key-in-use", queue.engine.requeue, number, "x").message
    # all in one turn: the key is freed, taken back, and known
    queue.engine.cancel(twin, "no")
    queue.engine.requeue(number, "x")
    assert queue.engine.submit("h", "t", origin="root", idempotency_key="k") == (number, True)
    queue.commit()
    assert queue.states(number, twin) == ["queued", "cancelled"]


def test_requeue_in_the_turn_in_which_it_ended(queue):
    number = queue.submit()
    lease = queue.all()[number]
    queue.engine.fail(lease, "x", retry=False)
    queue.engine.requeue(number, "at once")
    turn = queue.commit()
    assert turn.finished == [], "nobody hears of an end that was none"
    assert queue.states(number) == ["queued"]


def test_a_requeued_child_is_open_again(queue):
    (root, _), (child, _) = queue.engine.submit_tree(
        {"handler": "h", "task_type": "t", "sla_seconds": 50, "on_child_failure": 2,
         "children": [{"handler": "h", "task_type": "t"}]}, "root",
    )  # fmt: skip
    other = queue.submit(parent=root, handler="other")
    queue.engine.fail(queue.all()[child], "x", retry=False)
    queue.commit()
    queue.tick(10_000_000)
    queue.engine.requeue(child, "again")
    queue.commit()
    parent = queue.store.load(root)
    assert (parent.state, parent.open_children, parent.failed_children) == (WAITING, 2, 0)
    assert queue.store.load(child).deadline_us == parent.deadline_us, "never after its parent's"
    queue.engine.cancel(other, "x")
    queue.engine.complete(queue.all()[child], "{}")
    queue.commit()
    assert queue.states(root) == ["queued"]


def test_a_requeued_parent_waits_for_what_is_open_again(queue):
    (root, _), (child, _) = queue.engine.submit_tree(
        {"handler": "h", "task_type": "t", "children": [{"handler": "h", "task_type": "t"}]}, "root"
    )
    queue.engine.fail(queue.all()[child], "x", retry=False)
    queue.commit()
    assert queue.states(root) == ["failed"]
    queue.engine.requeue(child, "again")
    queue.engine.requeue(root, "again")
    queue.commit()
    assert queue.states(root, child) == ["waiting", "queued"]
    queue.engine.complete(queue.all()[child], "{}")
    queue.commit()
    assert queue.states(root) == ["queued"]
    task = queue.store.load(root)
    assert (task.open_children, task.done_children, task.failed_children) == (0, 1, 0)


def test_a_requeued_task_does_not_overtake_by_its_age(queue):
    old = queue.submit(priority=2, sla_seconds=1000)
    queue.engine.cancel(old, "x")
    queue.tick(3600_000_000)
    normal = queue.submit(priority=2, sla_seconds=500)
    queue.engine.requeue(old, "again")
    queue.tick(450_000_000)
    queue.tick(450_000_000)
    assert queue.store.load(old).priority == 1, "escalated"
    assert queue.store.load(old).rank > queue.store.load(normal).created_us


# -- held handlers -----------------------------------------------------------------------------------------------------


def test_paused_gives_nothing_out_durably(queue):
    number, other = queue.submit(), queue.submit(handler="other")
    queue.engine.set_mode("h", PAUSED, "maintenance", "root")
    queue.commit()
    queue.restart()
    (mode,) = queue.engine.modes()
    assert (mode.handler, mode.word, mode.reason, mode.by) == ("h", "paused", "maintenance", "root")
    assert mode.since_us <= queue.engine.timeline.last_us
    queue.worker(credits=2)
    queue.worker(credits=2, handler="other", name="o")
    assert queue.dispatch() == [(other, 1)]
    assert queue.engine.clear_mode("h") == mode
    assert queue.dispatch() == [(number, 1)]
    queue.restart()
    assert queue.engine.modes() == []
    assert queue.engine.clear_mode("h") is None
    assert queue.engine.book.turn.empty


def test_drained_takes_nothing_in_and_works_off_what_is_there(queue):
    parent = queue.submit()
    dead = queue.submit()
    queue.engine.cancel(dead, "x")
    queue.engine.set_mode("h", DRAINED, "moving house", "root")
    queue.commit()
    error = refused("busy", queue.engine.submit, "h", "t", origin="root")
    assert error.fields["retry_after_ms"] == 60_000
    assert error.message == "drained: moving house"
    refused("busy", queue.engine.requeue, dead, "x")
    specs = [{"handler": "other", "task_type": "t"}, {"handler": "h", "task_type": "t"}]
    refused("busy", queue.engine.submit_batch, specs, "root")
    assert queue.engine.book.turn.empty
    assert queue.engine.counts.refused == 3
    queue.submit(handler="other")
    lease = queue.all()[parent]
    child = queue.submit(parent=parent)
    queue.engine.wait(lease)
    queue.engine.complete(queue.all()[child], "{}")
    queue.commit()
    queue.engine.complete(queue.all()[parent], "{}")
    queue.commit()
    assert queue.states(parent, child) == ["done", "done"]


def test_all_handlers_are_held_by_a_star_of_its_own(queue):
    number = queue.submit()
    queue.worker()
    queue.engine.set_mode(ALL, PAUSED, "backup", "root")
    queue.engine.set_mode("h", DRAINED, "retired", "root")
    assert queue.dispatch() == []
    refused("busy", queue.engine.submit, "h", "t", origin="root")
    queue.submit(handler="other")
    queue.engine.clear_mode(ALL)
    assert queue.dispatch() == [(number, 1)]
    refused("busy", queue.engine.submit, "h", "t", origin="root")


def test_a_mode_that_was_not_committed_is_none(queue):
    queue.engine.set_mode("kept", PAUSED, "x", "root")
    queue.commit()
    queue.engine.set_mode("h", PAUSED, "x", "root")
    queue.engine.clear_mode("kept")
    assert not queue.engine.book.turn.empty
    queue.store.rollback()
    queue.engine.revert()
    assert [mode.handler for mode in queue.engine.modes()] == ["kept"]


# -- why ---------------------------------------------------------------------------------------------------------------


def test_why_it_is_queued(queue):
    first, number = queue.submit(), queue.submit()
    why = queue.engine.why(number)
    assert (why.state, why.workers, why.free_credits, why.ahead, why.mode) == ("queued", 0, 0, 1, None)
    queue.engine.set_mode("h", PAUSED, "backup", "root")
    queue.worker()
    why = queue.engine.why(first)
    assert (why.mode, why.workers, why.free_credits, why.ahead) == ("paused", 1, 1, 0)
    queue.engine.clear_mode("h")
    queue.dispatch()
    assert queue.engine.why(number).free_credits == 0


def test_why_counts_up_to_a_bound(queue):
    for _ in range(10_003):
        queue.submit()
    last = queue.submit()
    why = queue.engine.why(last)
    assert (why.ahead, why.ahead_truncated) == (10_000, True)
    assert not queue.engine.why(last - 10_000).ahead_truncated


def test_why_it_waits_runs_or_has_ended(queue):
    root = queue.submit(max_attempts=2)
    lease = queue.all()[root]
    queue.clock.advance_us(5_000_000)
    why = queue.engine.why(root)
    assert (why.worker, why.silent_us) == ("w0", pytest.approx(5_000_000, abs=1000))
    children = [queue.submit(parent=root) for _ in range(25)]
    queue.engine.wait(lease)
    why = queue.engine.why(root)
    assert (why.open_children, why.open_count, why.worker) == (tuple(children[:20]), 25, None)
    delayed = queue.submit(delay_us=90_000_000)
    assert queue.engine.why(delayed).not_before_us == queue.engine.book.get(delayed).not_before_us
    queue.engine.cancel(root, "x")
    why = queue.engine.why(root)
    assert (why.state, why.slack_us, why.open_children) == ("cancelled", None, ())
    refused("no-such-task", queue.engine.why, 999)


def test_why_tells_of_failures_and_a_missed_deadline(queue):
    number = queue.submit(sla_seconds=10)
    queue.engine.fail(queue.all()[number], "no route", retry=True)
    queue.tick(200_000_000)
    why = queue.engine.why(number)
    assert (why.failures, why.max_attempts, why.error) == (1, 5, "no route")
    assert why.slack_us == pytest.approx(-190_000_000, abs=1000)


def test_a_queue_that_shuts_down_takes_nothing_again(queue):
    number = queue.submit()
    queue.engine.cancel(number, "x")
    queue.engine.draining = True
    refused("busy", queue.engine.requeue, number, "x")
    refused("busy", queue.engine.submit_tree, {"handler": "h", "task_type": "t"}, "root")


def test_requeue_needs_room(tmp_path, make_queue):
    queue = make_queue(tmp_path / "q.db", Limits(max_live=10, max_per_origin=10))
    number = queue.submit(priority=0)
    queue.engine.cancel(number, "x")
    for _ in range(10):
        queue.submit(priority=0)
    refused("busy", queue.engine.requeue, number, "x")
    assert queue.engine.book.get(number).state == CANCELLED
    queue.store.close()
