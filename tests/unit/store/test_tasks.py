"""The queue's rows: order from the index, durable numbers, deadlines across boots."""

from __future__ import annotations

import pytest

from graced.base.clock import ManualClock
from graced.base.errors import StoreError
from graced.htm.engine import Engine
from graced.htm.lease import Worker
from graced.htm.timeline import Timeline
from graced.model.task import CANCELLED, COLUMNS, DONE, FAILED, LEASED
from graced.store.db import open_database
from graced.store.tasks import TaskStore
from graced.store.taskschema import MIGRATIONS

DAY_US = 86_400_000_000


def open_engine(path, clock, boot="one"):
    store = TaskStore(path, synchronous="NORMAL")
    last_us = store.last_us()
    number, offset_us, first = store.boot(boot, lambda: Timeline.first_offset_us(clock, last_us))
    timeline = Timeline(clock, boot=number, offset_us=offset_us, last_us=last_us)
    store.bind(timeline.deadline_us)
    engine = Engine(store, timeline, jitter=lambda: 0.5)
    engine.take_back(host_went_down=first)
    return store, engine


def commit(store, engine):
    engine.book.write()
    store.commit()
    return engine.book.settle()


def test_numbers_are_never_used_again(tmp_path):
    path = str(tmp_path / "q.db")
    clock = ManualClock()
    store, engine = open_engine(path, clock)
    numbers = [engine.submit("h", "t", origin="root")[0] for _ in range(5)]
    commit(store, engine)
    store.db.execute("DELETE FROM task")
    store.close()
    store, engine = open_engine(path, clock)
    assert engine.submit("h", "t", origin="root")[0] == numbers[-1] + 1
    store.close()


def test_uncommitted_is_gone_and_committed_is_there(tmp_path):
    path = str(tmp_path / "q.db")
    store, engine = open_engine(path, ManualClock())
    kept = engine.submit("h", "t", origin="root", context='{"a":1}')[0]
    commit(store, engine)
    lost = engine.submit("h", "t", origin="root")[0]
    engine.book.write()
    store.close()
    store, _ = open_engine(path, ManualClock())
    assert store.load(kept).context == '{"a":1}'
    assert store.load(lost) is None
    assert store.tally() == [("h", "root", 2, 0, 1)]
    store.close()


def test_tally_equals_a_count(tmp_path):
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    for index in range(40):
        engine.submit("h", "t", origin="root", priority=index % 4, delay_us=(index % 3) * 1000)
    for index in range(1, 40, 7):
        engine.cancel(index, "test")
    commit(store, engine)
    counted = store.db.rows(
        "SELECT handler, origin, priority, state, count(*) FROM task GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    )
    assert sorted(store.tally()) == counted
    store.close()


@pytest.mark.parametrize("off_us", [0, 3_600_000_000, 10 * DAY_US])
def test_deadline_of_an_earlier_boot_goes_through_the_wall_clock(tmp_path, off_us):
    path = str(tmp_path / "q.db")
    clock = ManualClock(start_us=77_000_000)
    store, engine = open_engine(path, clock)
    number = engine.submit("h", "t", origin="root", sla_seconds=86_400)[0]
    commit(store, engine)
    wall_us = clock.wall_us() + 86_400_000_000
    store.close()
    later = ManualClock(start_us=5_000_000, wall_us=clock.wall_us() + off_us)
    store, engine = open_engine(path, later, boot="two")
    left_us = store.load(number).deadline_us - engine.timeline.now_us()
    assert abs(left_us - (wall_us - later.wall_us())) < 10
    store.close()


def test_wall_clock_that_went_back_extends_no_deadline_and_no_order(tmp_path):
    path = str(tmp_path / "q.db")
    clock = ManualClock(start_us=77_000_000)
    store, engine = open_engine(path, clock)
    old = engine.submit("h", "t", origin="root", sla_seconds=3600)[0]
    commit(store, engine)
    store.close()
    back = ManualClock(start_us=5_000_000, wall_us=clock.wall_us() - 300 * DAY_US)
    store, engine = open_engine(path, back, boot="two")
    new = engine.submit("h", "t", origin="root", sla_seconds=3600)[0]
    commit(store, engine)
    assert store.load(old).deadline_us - engine.timeline.now_us() <= 3_600_000_000
    assert [task.id for task in store.queued("h", (-(1 << 62), 0), 10)[0]] == [old, new]
    store.close()


def test_wall_step_within_a_boot_moves_nothing(tmp_path):
    path = str(tmp_path / "q.db")
    clock = ManualClock(start_us=77_000_000)
    store, engine = open_engine(path, clock)
    number = engine.submit("h", "t", origin="root", sla_seconds=600)[0]
    commit(store, engine)
    store.close()
    stepped = ManualClock(start_us=clock.boottime_us() + 60_000_000, wall_us=clock.wall_us() + 9 * DAY_US)
    store, engine = open_engine(path, stepped)
    left_us = store.load(number).deadline_us - engine.timeline.now_us()
    assert 539_000_000 < left_us <= 540_000_000
    store.close()


def test_history_and_lists(tmp_path):
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    low = engine.submit("h", "t", origin="root", priority=3)[0]
    critical = engine.submit("h", "t", origin="root", priority=0)[0]
    later = engine.submit("h", "t", origin="root", delay_us=5)[0]
    ended = engine.submit("other", "t", origin="root")[0]
    engine.cancel(ended, "not needed")
    commit(store, engine)

    def ids(state, handler=None):
        return [task.id for task in store.listed(state=state, handler=handler, limit=10)[0]]

    assert ids(0) == [critical, low]
    assert ids(1) == [later]
    assert ids(6) == [ended]
    assert ids(6, "h") == []
    assert ids(None) == [ended, later, critical, low]
    assert ids(None, "other") == [ended]
    assert [event[1:] for event in store.events(ended)] == [("submitted", 0, None), ("cancelled", 0, "not needed")]
    store.close()


def test_queue_query_uses_the_index_alone(tmp_path):
    store, _ = open_engine(str(tmp_path / "q.db"), ManualClock())
    for sql in (
        "SELECT id FROM task WHERE handler = 'h' AND state = 0 AND (rank, id) >= (1, 2) ORDER BY rank, id LIMIT 5",
        "SELECT id FROM task WHERE state = 1 AND not_before_us IS NOT NULL ORDER BY not_before_us LIMIT 5",
        "SELECT id FROM task WHERE sla_next_us IS NOT NULL AND sla_next_us <= 5 ORDER BY sla_next_us LIMIT 5",
        "SELECT id FROM task WHERE idempotency_key = 'k' AND finished_us IS NULL",
        "SELECT 1 FROM task WHERE handler = 'h' AND state = 0 AND (rank, id) < (1, 2) LIMIT 5",
        "SELECT priority, created_us FROM task WHERE handler = 'h' AND state = 0 ORDER BY rank, id LIMIT 5",
        "SELECT id FROM task WHERE parent = 1 AND state < 3 ORDER BY id LIMIT 5",
        "SELECT id FROM task WHERE parent = 1 ORDER BY id LIMIT 5",
    ):
        plan = " ".join(row[3] for row in store.db.rows(f"EXPLAIN QUERY PLAN {sql}"))
        assert "USING" in plan and "INDEX" in plan, plan
        assert "TEMP B-TREE" not in plan, plan
    store.close()


def test_a_write_that_fails_says_which_file(tmp_path):
    path = str(tmp_path / "q.db")
    store, engine = open_engine(path, ManualClock())
    engine.submit("h", "t", origin="root")
    store.db.execute("DROP TABLE tally")
    engine.book.write()
    with pytest.raises(StoreError) as caught:
        store.load(1)
    assert path in caught.value.message
    store.close()


def test_a_key_is_known_though_its_task_is_only_noted(tmp_path):
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    engine.worker_came(Worker("w", 0, "h", 9, None))

    def submit():
        return engine.submit("h", "t", origin="root", idempotency_key="k")

    assert submit() == (1, False)
    commit(store, engine)
    assert submit() == (1, True)
    engine.dispatch()
    commit(store, engine)
    assert submit() == (1, True)
    engine.complete(engine.lease(1, 1, 0), "{}")
    commit(store, engine)
    assert store.live_with_key("k") == 0
    assert not store.db.connection.in_transaction or store.durable.unsettled
    assert submit() == (2, False)
    commit(store, engine)
    store.settle()
    assert submit() == (2, True)
    engine.dispatch()
    engine.complete(engine.lease(2, 1, 0), "{}")
    commit(store, engine)
    assert submit() == (3, False), "SQLite says that it is live, and it has ended meanwhile"
    engine.book.write()
    store.rollback()
    engine.revert()
    assert store.live_with_key("k") == 0
    assert submit() == (3, False)
    store.close()


def test_the_queue_is_read_past_what_is_noted_and_never_says_what_was_leased(tmp_path):
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    for _ in range(5):
        engine.submit("h", "t", origin="root")
    commit(store, engine)
    start = (-(1 << 62), 0)
    tasks = store.queued("h", start, 9)[0]
    assert [task.id for task in tasks] == [1, 2, 3, 4, 5], "new tasks are written first"
    assert not store.durable._noted

    engine.worker_came(Worker("w", 0, "h", 2, None))
    engine.dispatch()
    engine.complete(engine.lease(1, 1, 0), "{}")
    commit(store, engine)
    assert store.durable._noted, "a lease and an end are noted"
    assert [task.id for task in store.queued("h", (tasks[2].rank, 3), 9)[0]] == [3, 4, 5]
    assert store.durable._noted, "and stay noted when a part of the queue is read that they are not in"
    assert [task.id for task in store.queued("h", start, 9)[0]] == [3, 4, 5]
    assert not store.durable._noted
    assert store.load(1).state == DONE
    assert store.load(2).state == LEASED
    store.close()


def test_a_key_of_a_refused_turn_is_free(tmp_path):
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    for _ in range(2):
        assert engine.submit("h", "t", origin="root", idempotency_key="k") == (1, False)
        engine.book.write()
        store.rollback()
        engine.revert()
        assert store.live_with_keys(["k"]) == {}
    store.close()


def test_a_task_that_came_and_ended_between_two_commits_of_sqlite_is_one_row(tmp_path):
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    engine.worker_came(Worker("w", 0, "h", 9, None))

    def work(rounds):
        for _ in range(rounds):
            engine.submit("h", "t", origin="root")
            engine.dispatch()
            for lease in commit(store, engine).granted:
                engine.complete(lease, '{"a":1}')
                commit(store, engine)
        store.settle()

    work(1)
    before = store.db.connection.total_changes
    work(3)
    changes = store.db.connection.total_changes - before
    assert changes == 3 + 3, "three tasks, the tally of done ones, the head, and where the log ends"
    found = [store.load(number) for number in (2, 3, 4)]
    assert [(task.state, task.result, task.worker, task.attempts) for task in found] == [(DONE, '{"a":1}', "w", 1)] * 3
    store.close()


def test_a_queue_of_the_first_schema_is_taken_over(tmp_path):
    path = str(tmp_path / "q.db")
    added = {"failed_children", "done_children", "progress"}
    columns = [name for name in COLUMNS if name not in added]
    row = dict.fromkeys(columns, 0)
    texts = {"handler": "h", "task_type": "t", "origin": "root", "context": '{"a":1}'}
    empty = dict.fromkeys(("parent", "intent_id", "idempotency_key", "not_before_us", "sla_next_us", "worker"))
    row |= texts | empty | dict.fromkeys(("started_us", "finished_us", "reasoning", "error", "result"))
    row |= {"id": 7, "priority": 2, "max_attempts": 5, "deadline_boot": 1, "sla_seconds": 60}
    with open_database(path, MIGRATIONS[:1]) as db, db.transaction():
        db.execute("INSERT INTO boot VALUES (1, 'one', 5)")
        db.execute("UPDATE head SET next_task = 8")
        db.execute("INSERT INTO tally VALUES ('h', 'root', 2, 0, 1)")
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        db.execute(f"INSERT INTO task ({names}) VALUES ({marks})", [row[name] for name in columns])
    store, engine = open_engine(path, ManualClock())
    task = store.load(7)
    assert (task.context, task.failed_children, task.done_children, task.progress) == ('{"a":1}', 0, 0, None)
    assert engine.modes() == []
    engine.worker_came(Worker("w", 0, "h", 1, None))
    engine.dispatch()
    child = engine.submit("h", "t", origin="root", parent=7)[0]
    engine.fail(engine.lease(7, 1, 0), "x", retry=False)
    commit(store, engine)
    assert [store.load(number).state for number in (7, child)] == [FAILED, CANCELLED]
    assert store.load(7).failed_children == 1
    store.close()


def test_what_is_asked_about_families_and_queues(tmp_path):
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    parent = engine.submit("h", "t", origin="root", priority=1)[0]
    children = [engine.submit("h", "t", origin="root", parent=parent, priority=3)[0] for _ in range(4)]
    engine.cancel(parent, "x")
    others = [engine.submit("other", "t", origin="root", priority=priority)[0] for priority in (3, 2, 2)]
    commit(store, engine)
    assert [task.id for task in store.children(parent, 3)] == children[:3]
    assert store.live_children(parent) == []
    assert store.failed_child(parent).id == children[-1]
    assert store.failed_child(children[0]) is None
    last = store.load(others[0])
    assert store.ahead("other", (last.rank, last.id), 10) == 2
    assert store.ahead("other", (last.rank, last.id), 1) == 1
    created = {number: store.load(number).created_us for number in others}
    assert store.oldest_queued("other", 10) == [(2, created[others[1]]), (3, created[others[0]])]
    assert store.oldest_queued("h", 10) == []
    store.close()


def test_large_texts_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("graced.store.tasks.MAX_READ_BYTES", 1000)
    store, engine = open_engine(str(tmp_path / "q.db"), ManualClock())
    numbers = [engine.submit("h", "t", origin="root", context=f'{{"text":"{"x" * 300}"}}')[0] for _ in range(9)]
    engine.book.write()
    found, cut = store.listed(state=None, handler=None, limit=100)
    assert cut
    assert 3 <= len(found) < len(numbers)
    assert [engine.book.take("h", 1)[0].id for _ in numbers] == numbers, (
        "a window is filled in as many looks as it takes"
    )
