"""Finished tasks as lines: read by index only, and with the history that the queue itself tells."""

from __future__ import annotations

import json

import pytest

from graced.store import retention
from graced.store.retention import START, Reader
from graced.store.tasks import TaskStore

_COLUMNS = (
    "id, state, priority, rank, attempts, failures, max_attempts, open_children, on_child_failure, handler, task_type,"
    " origin, sla_seconds, created_us, created_wall_us, deadline_wall_us, deadline_boot, deadline_boottime_us,"
    " sla_state, context, started_us, finished_us, worker"
)


@pytest.fixture
def store(tmp_path):
    made = TaskStore(str(tmp_path / "q.db"), synchronous="NORMAL")
    with made.db.transaction():
        for number in range(1, 41):
            state = (3, 4, 5, 6)[number % 4]
            values = (number, state, 2, number, 1, 0, 5, 0, 0, "job", "t", "x", 60, number * 100, 0, 0, 0, 0, 0, "{}")
            made.db.execute(
                f"INSERT INTO task ({_COLUMNS}) VALUES ({', '.join('?' * 23)})",
                (*values, number * 100 + 1, number * 100 + 3, "w"),
            )
            made.db.execute("INSERT INTO task_event VALUES (?, ?, 'retry', 1, 'x')", (number, number * 100 + 2))
    yield made
    made.close()


def test_each_line_tells_the_history_that_the_queue_tells(store):
    reader = Reader(store.db.path)
    for shelf in (0, 1):
        found = reader.slice(shelf, START, 10_000, 0, 100)
        tasks = [json.loads(line) for line in found.text.splitlines()]
        assert len(tasks) == 20 == len(found.rows)
        for task in tasks:
            assert [tuple(event) for event in task["events"]] == store.events(int(task["id"][5:]))
    reader.close()


def test_slices_go_on_where_the_last_ended(store):
    reader = Reader(store.db.path)
    cursor, numbers = START, []
    while cursor is not None:
        found = reader.slice(0, cursor, 3_000, 0, 3)
        assert len(found.rows) <= 3
        numbers += [number for number, _finished_us in found.rows]
        cursor = found.cursor
    assert numbers == [number for number in range(1, 30) if number % 4 in {0, 3}]
    assert found.next_us == 3103
    assert reader.slice(1, START, 0, 2, 100).rows == ((1, 103), (2, 203))
    reader.close()


@pytest.mark.parametrize(
    ("sql", "values"), [(retention._LOOK, (3, -1, -1, 400)), (retention._RENDER, ("[1]",))], ids=("look", "render")
)
def test_no_query_reads_all_tasks(store, sql, values):
    plan = [row[3] for row in store.db.rows(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert any("SEARCH t " in step for step in plan)
    assert not [step for step in plan if step.startswith("SCAN task") or "AUTOMATIC" in step], plan
