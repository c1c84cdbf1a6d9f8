"""The engine on its real store, under a clock that only tests move."""

from __future__ import annotations

import pytest

from graced.base.errors import TaskError
from graced.htm.lease import LEASE_US
from graced.htm.limits import Limits
from graced.model.task import CANCELLED, DEAD, DONE, FAILED, LEASED, QUEUED, WAITING


def test_order_is_critical_then_rank(queue):
    low = queue.submit(priority=3)
    normal = queue.submit(priority=2)
    urgent = queue.submit(priority=2, sla_seconds=5)
    high = queue.submit(priority=1)
    critical = queue.submit(priority=0)
    queue.worker(credits=10)
    assert [number for number, _ in queue.dispatch()] == [critical, urgent, high, normal, low]


def test_credits_and_handlers_are_respected(queue):
    mine = [queue.submit() for _ in range(5)]
    queue.submit(handler="other")
    queue.worker(credits=2)
    assert queue.dispatch() == [(mine[0], 1), (mine[1], 1)]
    assert queue.dispatch() == []
    queue.engine.complete(queue.lease(mine[0]), "{}")
    assert queue.dispatch() == [(mine[2], 1)]


def test_two_workers_share(queue):
    for _ in range(4):
        queue.submit()
    one, two = queue.worker(credits=4, name="a"), queue.worker(credits=4, name="b")
    queue.dispatch()
    assert (len(one.leases), len(two.leases)) == (2, 2)


def test_complete_ends_it_and_the_token_fences(queue):
    number = queue.submit()
    queue.worker()
    queue.dispatch()
    for wrong in ({"attempt": 2}, {"uid": 8}):
        with pytest.raises(TaskError) as caught:
            queue.lease(number, **wrong)
        assert caught.value.fields["state"] == "leased"
    assert queue.lease(number, uid=0).task.id == number
    queue.engine.complete(queue.lease(number), '{"ok":true}')
    queue.commit()
    task = queue.store.load(number)
    assert (task.state, task.result, task.sla_next_us) == (DONE, '{"ok":true}', None)
    with pytest.raises(TaskError, match="it is done"):
        queue.lease(number)
    with pytest.raises(TaskError) as caught:
        queue.lease(99)
    assert caught.value.code == "no-such-task"


def test_retry_waits_then_dead_with_the_last_error(queue):
    number = queue.submit()
    queue.worker()
    for attempt in range(1, 6):
        assert queue.dispatch() == [(number, attempt)]
        queue.engine.fail(queue.lease(number, attempt), f"error {attempt}", retry=True)
        queue.commit()
        if attempt < 5:
            assert queue.state(number) == WAITING
            assert queue.dispatch() == []
            assert queue.engine.next_wake_us() == queue.store.load(number).not_before_us
            queue.tick((500_000 << (attempt - 1)) + 1000)  # stamps run a little ahead of a clock that stands
            assert queue.state(number) == QUEUED
    task = queue.store.load(number)
    assert (task.state, task.error, task.failures) == (DEAD, "error 5", 5)
    assert [kind for _, kind, _, _ in queue.store.events(number)].count("retry") == 4


def test_fail_without_retry(queue):
    number = queue.submit()
    queue.worker()
    queue.dispatch()
    queue.engine.fail(queue.lease(number), "bad", retry=False, result='{"a":1}')
    queue.commit()
    assert (queue.state(number), queue.store.load(number).result) == (FAILED, '{"a":1}')


def test_defer_uses_up_no_attempt_however_often(queue):
    number = queue.submit()
    queue.worker()
    for attempt in range(1, 21):
        assert queue.dispatch() == [(number, attempt)]
        queue.engine.defer(queue.lease(number, attempt), 2_000_000, "held")
        queue.commit()
        assert queue.dispatch() == []
        queue.tick(2_001_000)
    assert (queue.store.load(number).failures, queue.state(number)) == (0, QUEUED)


def test_hurry_ends_the_wait_of_a_deferred_task_only(queue):
    number = queue.submit()
    queue.worker()
    queue.dispatch()
    queue.engine.hurry(number, "resumed")
    assert queue.engine.book.get(number).state == LEASED
    queue.engine.defer(queue.lease(number), 60_000_000, "paused")
    queue.commit()
    queue.engine.hurry(number, "resumed")
    queue.commit()
    assert queue.state(number) == QUEUED
    assert queue.dispatch() == [(number, 2)]
    assert [kind for _, kind, _, _ in queue.store.events(number)][-2:] == ["woken", "leased"]
    with pytest.raises(TaskError):
        queue.engine.hurry(99, "resumed")


def test_lost_worker_means_queued_at_once_with_its_rank_and_poison_is_dead(queue):
    number = queue.submit()
    other = queue.submit()
    rank = queue.engine.book.get(number).rank
    for attempt in range(1, 6):
        worker = queue.worker()
        assert queue.dispatch() == [(number, attempt)]
        queue.engine.worker_left(worker)
        queue.commit()
        assert queue.state(number) == (QUEUED if attempt < 5 else DEAD)
        assert queue.store.load(number).rank == rank
    assert "lost" in queue.store.load(number).error
    queue.worker()
    assert queue.dispatch() == [(other, 1)]


def test_silence_ends_a_lease_and_a_heartbeat_keeps_it(queue):
    number = queue.submit()
    worker = queue.worker(name="slow")
    queue.dispatch()
    queue.clock.advance_us(LEASE_US - 1)
    assert queue.engine.leases.heartbeat("slow", 8, queue.engine.timeline.now_us()) == 0
    assert queue.engine.leases.heartbeat("slow", 7, queue.engine.timeline.now_us()) == 1
    queue.tick(LEASE_US - 1)
    assert queue.state(number) == LEASED
    queue.tick(1)
    assert queue.state(number) == QUEUED
    assert queue.dispatch() == [], "a silent worker gets nothing, its credit is still in use"
    queue.worker(name="quick")
    assert queue.dispatch() == [(number, 2)]
    with pytest.raises(TaskError):
        queue.lease(number, 1)
    assert worker.free == 1, "now it has said that it is done"


def test_a_silent_worker_with_credits_left_gets_nothing_more(queue):
    queue.submit()
    worker = queue.worker(name="slow", credits=3)
    queue.dispatch()
    queue.clock.advance_us(LEASE_US + 1000)
    more = [queue.submit() for _ in range(3)]
    assert worker.free == 2
    assert queue.dispatch() == []
    queue.worker(name="quick", credits=2)
    assert queue.dispatch() == [(more[0], 1), (more[1], 1)]
    queue.engine.leases.heartbeat("slow", 7, queue.engine.timeline.now_us())
    assert queue.dispatch() == [(more[2], 1)]


def test_sla_slack_escalates_once_and_breach_is_counted_once_even_while_running(queue):
    running = queue.submit(priority=2, sla_seconds=100)
    queue.worker()
    queue.dispatch()
    queued = queue.submit(priority=3, sla_seconds=100)
    waiting = queue.submit(priority=1, sla_seconds=100, delay_us=1)
    queue.commit()
    assert queue.tick(79_000_000).notices == []
    queue.engine.leases.heartbeat("w", 7, queue.engine.timeline.now_us())
    told = queue.tick(2_000_000).notices
    assert sorted((what, task.id) for what, task in told) == [
        ("slack", running), ("slack", queued), ("slack", waiting)
    ]  # fmt: skip
    assert [queue.store.load(number).priority for number in (running, queued, waiting)] == [1, 2, 0]
    told = queue.tick(30_000_000).notices
    assert sorted((what, task.id) for what, task in told) == [
        ("breached", running), ("breached", queued), ("breached", waiting)
    ]  # fmt: skip
    assert queue.engine.counts.breaches == [1, 1, 1, 0]
    assert queue.tick(1_000_000_000).notices == []


def test_escalated_task_overtakes(queue):
    first = queue.submit(priority=1, sla_seconds=10_000)
    low = queue.submit(priority=3, sla_seconds=10)
    del first
    high = [queue.submit(priority=1, sla_seconds=10_000) for _ in range(3)]
    queue.commit()
    queue.tick(8_500_000)
    queue.worker(credits=1)
    assert queue.dispatch() == [(low, 1)]
    assert high


def test_many_deadlines_at_once_are_handled_in_bounded_batches(queue):
    for _ in range(1200):
        queue.submit(sla_seconds=10)
    queue.commit()
    sizes = []
    while queue.engine.next_wake_us() is not None:
        sizes.append(len(queue.tick(20_000_000 if not sizes else 0).notices))
    assert sum(sizes) == 1200
    assert max(sizes) <= 500


def test_idempotency_over_queued_waiting_and_leased_only(queue):
    number = queue.submit(idempotency_key="k")
    assert queue.engine.submit("h", "t", origin="x", idempotency_key="k") == (number, True)
    queue.commit()
    queue.worker()
    queue.dispatch()
    assert queue.engine.submit("h", "t", origin="x", idempotency_key="k") == (number, True)
    queue.restart()
    assert queue.engine.submit("h", "t", origin="x", idempotency_key="k") == (number, True)
    queue.worker()
    queue.dispatch()
    queue.engine.complete(queue.lease(number, 2), "{}")
    again, known = queue.engine.submit("h", "t", origin="x", idempotency_key="k")
    assert not known
    queue.commit()
    assert [queue.state(number), queue.state(again)] == [DONE, QUEUED]
    assert queue.engine.counts.deduplicated == 1, "counted since the restart"


def test_children_inherit_the_deadline_and_cancel_walks_down(queue):
    parent = queue.submit(sla_seconds=100)
    child = queue.submit(parent=parent, sla_seconds=1000)
    grandchild = queue.submit(parent=child, sla_seconds=10)
    sibling = queue.submit(parent=parent)
    queue.commit()
    assert queue.store.load(child).deadline_us == queue.store.load(parent).deadline_us
    assert queue.store.load(grandchild).deadline_us < queue.store.load(child).deadline_us
    assert queue.store.load(parent).open_children == 2
    queue.worker(credits=3)
    queue.dispatch()
    queue.engine.complete(queue.lease(sibling) if sibling in {1, 2, 3} else queue.lease(grandchild), "{}")
    queue.commit()
    ended = {task.id for task in _after(queue, lambda: queue.engine.cancel(parent, "no longer")).finished}
    assert parent in ended and child in ended
    assert queue.state(parent) == queue.state(child) == CANCELLED
    assert queue.store.load(child).open_children == 0
    assert queue.store.load(parent).open_children in {0}
    with pytest.raises(TaskError) as caught:
        queue.submit(parent=parent)
    assert caught.value.code == "parent-ended"
    with pytest.raises(TaskError) as caught:
        queue.submit(parent=12345)
    assert caught.value.code == "no-such-task"
    with pytest.raises(TaskError) as caught:
        queue.engine.cancel(parent, "again")
    assert caught.value.code == "ended"


def _after(queue, act):
    act()
    return queue.commit()


def test_cancelled_while_running_keeps_the_credit_until_the_worker_says_so(queue):
    number, after = queue.submit(), queue.submit()
    worker = queue.worker()
    queue.dispatch()
    queue.engine.cancel(number, "stop")
    queue.commit()
    assert queue.dispatch() == []
    with pytest.raises(TaskError, match="cancelled"):
        queue.lease(number)
    assert worker.free == 1
    assert queue.dispatch() == [(after, 1)]


def test_restart_takes_back_leases_and_counts_only_a_crashed_host(queue):
    number = queue.submit()
    queue.worker()
    queue.dispatch()
    queue.restart()
    assert (queue.state(number), queue.store.load(number).failures) == (QUEUED, 0)
    queue.worker()
    assert queue.dispatch() == [(number, 2)]
    queue.clock.advance_us(5_000_000)
    queue.restart(boot="two")
    assert (queue.state(number), queue.store.load(number).failures) == (QUEUED, 1)


def test_revert_is_as_if_the_turn_had_not_been(queue):
    running, other = queue.submit(priority=0), queue.submit(priority=1)
    queue.submit(priority=3)
    worker = queue.worker(credits=2)
    queue.dispatch()
    before = queue.store.db.rows("SELECT * FROM task"), dict(queue.engine.book.tally.by())
    gone = queue.worker(name="gone")
    queue.dispatch()
    lost_number = next(iter(gone.leases))
    # one turn of everything, that cannot be committed
    queue.engine.complete(queue.lease(running), "{}")
    queue.engine.fail(queue.lease(other), "x", retry=True)
    fresh = queue.submit(idempotency_key="k")
    queue.engine.dispatch()
    queue.engine.worker_left(gone)
    queue.engine.book.write()
    queue.store.rollback()
    queue.engine.revert()
    assert queue.store.load(fresh) is None
    assert worker.leases == {running, other}
    assert queue.lease(running).task.state == LEASED
    assert queue.state(running) == LEASED
    queue.commit()
    assert queue.state(lost_number) == QUEUED, "the worker stays gone, the next turn says so"
    rows, tally = before
    assert {key: count for key, count in queue.engine.book.tally.by().items() if count} == {
        key: count for key, count in tally.items() if count
    }
    assert queue.submit(idempotency_key="k") == fresh
    queue.engine.complete(queue.lease(running), "{}")
    queue.commit()
    assert queue.state(running) == DONE
    assert len(queue.store.db.rows("SELECT * FROM task")) == len(rows) + 1


def test_draining_takes_nothing_and_gives_nothing(queue):
    queue.submit()
    queue.worker()
    queue.engine.draining = True
    assert queue.dispatch() == []
    with pytest.raises(TaskError) as caught:
        queue.submit()
    assert caught.value.code == "busy"


def test_full_queue_is_busy_and_recovers(tmp_path, make_queue):
    queue = make_queue(tmp_path / "q.db", Limits(max_live=10, max_per_origin=10))
    for _ in range(9):
        queue.submit()
    with pytest.raises(TaskError) as caught:
        queue.submit()
    assert caught.value.fields["retry_after_ms"] == 60_000
    assert queue.engine.counts.refused == 1
    queue.submit(priority=0)
    queue.engine.cancel(1, "room")
    queue.engine.cancel(2, "room")
    queue.submit()
    queue.store.close()


def test_long_queue_keeps_only_its_head_in_memory_and_loses_none(queue):
    count = 20_000
    for _ in range(20):
        for _ in range(count // 20):
            queue.submit()
        queue.commit()
    assert queue.engine.book.resident == 0, "nobody works on it: all of it is in the store"
    queue.worker(credits=700)
    seen = []
    while leased := queue.dispatch():
        assert queue.engine.book.resident < 9000
        for number, attempt in leased:
            queue.engine.complete(queue.lease(number, attempt), "{}")
            seen.append(number)
        if len(seen) % 1400 == 0:
            count += 1
            queue.submit()
    assert sorted(seen) == list(range(1, count + 1))
    assert queue.engine.book.resident == 0


def test_memory_stays_bounded_with_a_worker_that_is_busy(queue):
    queue.worker()
    for _ in range(40):
        for _ in range(500):
            queue.submit()
        queue.dispatch()
    assert queue.engine.book.resident <= 8700
