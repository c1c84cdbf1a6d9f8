"""Parents and children: who waits for whom, who fails with whom, and what cannot hang."""

from __future__ import annotations

import pytest

from graced.base.errors import TaskError
from graced.model.task import CONTINUE, FAIL, FAILED, IGNORE, LEASED, QUEUED, WAITING

FATES = ("failed", "dead", "cancelled")


def spec(*children, **fields):
    return {"handler": "h", "task_type": "t", "children": list(children), **fields}


def tree(queue, *args, **fields):
    numbers = [number for number, known in queue.engine.submit_tree(spec(*args, **fields), "root") if not known]
    queue.commit()
    return numbers


def end(queue, number, fate, error="broken"):
    """A leased task ends like this, for good."""
    lease = queue.engine.leases.get(number)
    if fate == "done":
        queue.engine.complete(lease, "{}")
    elif fate == "cancelled":
        queue.engine.cancel(number, error)
    else:
        queue.engine.fail(lease, error, retry=fate == "dead")
    queue.commit()


def test_a_tree_goes_in_as_one_and_the_root_waits(queue):
    root, middle, leaf, other = tree(queue, spec(spec()), spec(), sla_seconds=100)
    assert queue.states(root, middle, leaf, other) == ["waiting", "waiting", "queued", "queued"]
    assert [queue.store.load(number).parent for number in (root, middle, leaf, other)] == [None, root, middle, root]
    assert queue.store.load(root).open_children == 2
    assert {queue.store.load(number).deadline_us for number in (middle, leaf)} == {queue.store.load(root).deadline_us}
    assert sorted(queue.all()) == [leaf, other]
    end(queue, leaf, "done")
    assert queue.states(middle, root) == ["queued", "waiting"]
    assert sorted(queue.all()) == [middle]
    end(queue, other, "done")
    end(queue, middle, "done")
    assert queue.states(root) == ["queued"]
    task = queue.store.load(root)
    assert (task.open_children, task.done_children, task.failed_children) == (0, 2, 0)
    assert queue.kinds(root) == ["submitted", "woken"]


def test_all_or_nothing(queue):
    taken = queue.submit(idempotency_key="k")
    queue.commit()
    before = queue.store.db.rows("SELECT count(*) FROM task")
    for bad, code in (
        (spec(spec(), spec(idempotency_key="k")), "key-in-use"),
        (spec(spec(idempotency_key="n"), spec(idempotency_key="n")), "key-in-use"),
        (spec(spec(idempotency_key="n"), idempotency_key="n"), "key-in-use"),
        (spec(spec(parent=taken)), "two-parents"),
        (spec(spec(), parent=4711), "no-such-task"),
    ):
        with pytest.raises(TaskError) as caught:
            queue.engine.submit_batch([spec(), bad], "root")
        assert caught.value.code == code
        assert queue.engine.book.turn.empty
    assert queue.engine.submit_tree(spec(spec(), idempotency_key="k"), "root") == [(taken, True)]
    queue.commit()
    assert queue.store.db.rows("SELECT count(*) FROM task") == before


def test_a_batch_has_its_own_twins_and_known_ones(queue):
    taken = queue.submit(idempotency_key="k")
    answer = queue.engine.submit_batch(
        [spec(idempotency_key="new"), spec(idempotency_key="k"), spec(spec()), spec(idempotency_key="new")], "root"
    )
    assert answer == [
        [(taken + 1, False)], [(taken, True)], [(taken + 2, False), (taken + 3, False)], [(taken + 1, True)]
    ]  # fmt: skip
    queue.commit()
    assert queue.states(*range(taken, taken + 4)) == ["queued", "queued", "waiting", "queued"]


def test_a_batch_that_does_not_fit_leaves_nothing(tmp_path, make_queue):
    from graced.htm.limits import Limits

    queue = make_queue(tmp_path / "q.db", Limits(max_live=10, max_per_origin=10))
    assert len(queue.engine.submit_tree(spec(*[spec(priority=0)] * 4, priority=0), "root")) == 5
    with pytest.raises(TaskError) as caught:
        queue.engine.submit_batch([spec(priority=0)] * 6, "root")
    assert caught.value.code == "busy"
    queue.commit()
    assert queue.engine.book.tally.live == 5
    queue.engine.submit_batch([spec(priority=0)] * 5, "root")
    queue.commit()
    assert queue.engine.book.tally.live == 10
    queue.store.close()


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("policy", [FAIL, CONTINUE, IGNORE])
def test_what_a_failed_child_means_for_a_waiting_parent(queue, fate, policy):
    root, bad, other, below = tree(queue, spec(max_attempts=1), spec(spec()), on_child_failure=policy)
    queue.all()
    end(queue, bad, fate, "no disk")
    if policy == FAIL:
        assert queue.states(root, other, below) == ["failed", "cancelled", "cancelled"]
        detail = "cancelled" if fate == "cancelled" else f"{fate}: no disk"
        assert queue.store.load(root).error == f"child task_{bad} {detail}"
        assert queue.store.events(below)[-1][3] == f"task_{root} above it: failed"
    elif policy == CONTINUE:
        assert queue.states(root, other, below) == ["queued", "waiting", "leased"]
    else:
        assert queue.states(root, other, below) == ["waiting", "waiting", "leased"]
        end(queue, below, "done")
        queue.all()
        end(queue, other, "done")
        assert queue.states(root) == ["queued"]
    assert queue.store.load(root).failed_children == (2 if policy == FAIL else 1)


def test_failure_climbs_and_takes_everything_along(queue):
    depth = 1500
    numbers = [queue.submit()]
    for _ in range(depth):
        numbers.append(queue.submit(parent=numbers[-1], handler="deep"))
    queue.commit()
    queue.submit(handler="h", parent=numbers[3])
    queue.commit()
    turn = queue.after(queue.engine.cancel, numbers[-1], "enough")
    assert len(turn.finished) == depth + 2, "no recursion, and the sibling on the way too"
    assert set(queue.states(*numbers[:-1])) == {"failed"}
    assert len(queue.store.load(numbers[0]).error) <= 1000
    assert queue.engine.book.tally.live == 0


def test_wait_gives_the_task_back_and_keeps_its_rank(queue):
    parent = queue.submit()
    queue.all()
    rank = queue.store.load(parent).rank
    child = queue.submit(parent=parent)
    queue.engine.wait(queue.lease(parent))
    queue.commit()
    assert queue.states(parent) == ["waiting"]
    assert queue.store.load(parent).worker is None
    queue.clock.advance_us(50_000_000)
    later = queue.submit()
    queue.all()
    end(queue, child, "done")
    assert queue.store.load(parent).rank == rank
    assert queue.engine.leases.get(later) is not None
    queue.worker(name="again")
    assert queue.dispatch() == [(parent, 2)]
    task = queue.store.load(parent)
    assert (task.failures, task.done_children, task.open_children) == (0, 1, 0)
    assert queue.kinds(parent) == ["submitted", "leased", "waiting", "woken", "leased"]


def test_a_child_that_ended_before_its_parent_waits_cannot_hang_it(queue):
    parent = queue.submit(on_child_failure=IGNORE)
    queue.all()
    for fate in ("done", *FATES):
        child = queue.submit(parent=parent, max_attempts=1)
        queue.all()
        end(queue, child, fate)
    queue.engine.wait(queue.engine.leases.get(parent))
    queue.commit()
    assert queue.states(parent) == ["queued"]
    task = queue.store.load(parent)
    assert (task.done_children, task.failed_children) == (1, 3)


def test_wait_without_any_child_queues_it_at_once(queue):
    parent = queue.submit()
    queue.all()
    queue.engine.wait(queue.lease(parent))
    queue.commit()
    assert queue.states(parent) == ["queued"]


@pytest.mark.parametrize("fate", FATES)
def test_a_leased_parent_fails_when_it_waits(queue, fate):
    parent = queue.submit()
    queue.all()
    child, other = queue.submit(parent=parent, max_attempts=1), queue.submit(parent=parent)
    queue.all()
    end(queue, child, fate)
    assert queue.states(parent, other) == ["leased", "leased"]
    turn = queue.after(lambda: queue.engine.wait(queue.lease(parent)))
    assert queue.states(parent, other) == ["failed", "cancelled"]
    assert queue.store.load(parent).error.startswith(f"child task_{child} {fate}")
    assert [(lease.task.id, reason) for lease, reason in turn.revoked] == [(other, f"task_{parent} above it: failed")]


def test_a_leased_parent_that_does_not_wait_may_end_done(queue):
    parent = queue.submit()
    queue.all()
    child, other = queue.submit(parent=parent), queue.submit(parent=parent)
    queue.all()
    end(queue, child, "failed")
    end(queue, parent, "done")
    assert queue.states(parent, other) == ["done", "leased"], "it has let go of the other one"
    end(queue, other, "done")
    assert queue.store.load(parent).open_children == 0


def test_continue_wakes_for_each_failure_that_its_worker_has_not_seen(queue):
    parent = queue.submit(on_child_failure=CONTINUE)
    queue.all()
    one, two, three = (queue.submit(parent=parent) for _ in range(3))
    queue.all()
    end(queue, one, "failed")
    queue.engine.wait(queue.lease(parent))
    queue.commit()
    assert queue.states(parent) == ["queued"], "it was not told of that one"
    queue.all()
    queue.engine.wait(queue.lease(parent, 2))
    queue.commit()
    assert queue.states(parent) == ["waiting"], "it was told, and waits for the others"
    end(queue, two, "failed")
    assert queue.states(parent, three) == ["queued", "leased"]
    queue.all()
    queue.engine.wait(queue.lease(parent, 3))
    end(queue, three, "done")
    assert queue.states(parent) == ["queued"]


def test_the_end_of_a_parent_reaches_running_children(queue):
    parent = queue.submit()
    queue.all()
    child = queue.submit(parent=parent)
    worker = next(iter(queue.engine.leases.workers()))
    queue.all()
    turn = queue.after(lambda: queue.engine.fail(queue.lease(parent), "no", retry=False))
    assert queue.states(child) == ["cancelled"]
    (lease, reason), = turn.revoked  # fmt: skip
    assert (lease.task.id, lease.attempt, reason) == (child, 1, f"task_{parent} above it: failed")
    assert child in lease.worker.ghosts
    with pytest.raises(TaskError):
        queue.lease(child)
    assert not lease.worker.ghosts
    assert worker.free == 1000


def test_parent_and_child_lost_with_one_worker(queue):
    parent = queue.submit(max_attempts=1)
    child = queue.submit(parent=parent)
    worker = queue.worker(credits=2)
    queue.dispatch()
    assert queue.states(parent, child) == ["leased", "leased"]
    queue.engine.worker_left(worker)
    queue.commit()
    assert queue.states(parent, child) == ["dead", "cancelled"]
    assert queue.store.load(parent).open_children == 0


def test_parent_and_child_taken_back_after_the_host_went_down(queue):
    parent = queue.submit(max_attempts=1)
    child = queue.submit(parent=parent)
    queue.worker(credits=2)
    queue.dispatch()
    queue.restart(boot="two")
    assert queue.states(parent, child) == ["dead", "cancelled"]
    assert queue.engine.book.tally.live == 0


def test_a_revert_of_a_fallen_family_is_as_if_it_had_not_been(queue):
    root, bad, other = tree(queue, spec(), spec())
    leases = queue.all()
    before = queue.store.db.rows("SELECT * FROM task ORDER BY id")
    queue.engine.fail(leases[bad], "x", retry=False)
    queue.engine.book.write()
    assert queue.engine.book.get(root).state == FAILED
    queue.store.rollback()
    queue.engine.revert()
    assert queue.store.db.rows("SELECT * FROM task ORDER BY id") == before
    assert not leases[other].worker.ghosts
    end(queue, other, "done")
    end(queue, bad, "done")
    assert queue.states(root) == ["queued"]


def test_children_that_were_not_written_yet_are_cancelled_too(queue):
    root = queue.submit()
    child = queue.submit(parent=root)
    grandchild = queue.submit(parent=child)
    queue.engine.cancel(root, "at once")
    queue.commit()
    assert queue.states(root, child, grandchild) == ["cancelled"] * 3
    assert [queue.store.load(number).open_children for number in (root, child)] == [0, 0]


def test_a_delayed_root_waits_for_both(queue):
    root, child = tree(queue, spec(), delay_us=10_000_000)
    queue.tick(11_000_000)
    assert queue.states(root) == ["waiting"], "its time has come, its child has not ended"
    queue.all()
    end(queue, child, "done")
    assert queue.states(root) == ["queued"]
    root, child = tree(queue, spec(), delay_us=10_000_000)
    queue.all()
    end(queue, child, "done")
    assert queue.states(root) == ["waiting"]
    queue.tick(11_000_000)
    assert queue.states(root) == ["queued"]


def test_waiting_parents_have_deadlines_too(queue):
    root, child = tree(queue, spec(handler="nobody"), sla_seconds=100, priority=2)
    told = queue.tick(81_000_000).notices
    assert sorted((what, task.id) for what, task in told) == [("slack", root), ("slack", child)]
    task = queue.store.load(root)
    assert (task.state, task.priority) == (WAITING, 1)
    rank = task.rank
    assert {what for what, _ in queue.tick(20_000_000).notices} == {"breached"}
    assert queue.engine.counts.breaches == [0, 2, 0, 0]
    queue.worker(handler="nobody", name="late")
    queue.dispatch()
    end(queue, child, "done")
    assert (queue.store.load(root).state, queue.store.load(root).rank) == (QUEUED, rank)


def test_the_slack_of_a_child_is_a_share_of_the_time_it_has(queue):
    root, child = tree(queue, spec(sla_seconds=14_400), sla_seconds=300)
    assert queue.tick(1_000_000).notices == []
    assert queue.store.load(child).sla_next_us == pytest.approx(queue.store.load(root).sla_next_us, abs=10)
    assert len(queue.tick(240_000_000).notices) == 2


def test_survives_a_restart(queue):
    root, one, two = tree(queue, spec(), spec())
    queue.all()
    end(queue, one, "done")
    queue.restart()
    assert queue.states(root, one, two) == ["waiting", "done", "queued"]
    queue.worker(credits=5)
    assert queue.dispatch() == [(two, 2)]
    end(queue, two, "done")
    assert queue.dispatch() == [(root, 1)]


def test_get_and_leave_states_alone(queue):
    parent = queue.submit()
    queue.all()
    assert queue.state(parent) == LEASED
    child = queue.submit(parent=parent)
    with pytest.raises(TaskError, match="not leased to you"):
        queue.engine.wait(queue.lease(child))
