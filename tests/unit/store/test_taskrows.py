"""Statements that are folded do what they do one by one."""

from __future__ import annotations

import gc
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.model.task import COLUMNS, DONE, LEASED, QUEUED, Task
from graced.store.db import open_database
from graced.store.taskrows import HEAD, TALLY, fold, insertions, steps
from graced.store.taskschema import MIGRATIONS

OTHER = "UPDATE task SET progress = ? WHERE id = ?"
KINDS = ("new", "leased", "intent", "reasoning", "child")
STEPS = st.lists(st.tuples(st.sampled_from([*KINDS, "new", "lease", "end", "other", "head", "cut"]), st.integers(0, 5)))


def row_of(number, key, kind):
    leased = kind == "leased"
    return (
        number, LEASED if leased else QUEUED, 2, number, int(leased), 0, 5, 77 if kind == "child" else None, 0, 0,
        "h", "t", "root", "intent_1" if kind == "intent" else None, key, 60, 1, 2, 3, 1, 4, None, 0, 5,
        "w" if leased else None, 6 if leased else None, None, "{}", "why" if kind == "reasoning" else None, None, None,
        0, 0, None,
    )  # fmt: skip


class History:
    """Tasks that come, are leased and end; keys are used again as soon as they are free."""

    def __init__(self):
        self.live = []
        self.number = 0

    def statements(self, step, which):
        if step in KINDS:
            return self.new(f"k{which}", step)
        if step == "head":
            return [(HEAD, [(self.number + 1, which)]), (TALLY, [("h", "root", 2, which % 2, which - 2)])]
        state = QUEUED if step == "lease" else LEASED
        some = [task for task in self.live if task.state == state]
        if step == "other" or not some:
            return [(OTHER, [("{}", which)])]
        return list(self.moved(some[which % len(some)]))

    def new(self, key, kind="new"):
        self.number += 1
        free = None if key in {task.idempotency_key for task in self.live} else key
        self.live.append(Task(row_of(self.number, free, kind), 4))
        return insertions(self.live[-1:])

    def moved(self, task):
        task.state += 1
        if task.state == LEASED - 1:
            task.state = LEASED
        if task.state == LEASED:
            task.attempts, task.worker, task.started_us = 1, "w", 7
        else:
            assert task.state == DONE
            task.finished_us, task.result, task.sla_next_us = 8, "{}", None
            self.live.remove(task)
        return steps([task])


@given(STEPS)
def test_folded_statements_do_the_same(tmp_path_factory, wanted):
    base = tmp_path_factory.mktemp("fold")
    history, held = History(), []
    with open_database(f"{base}/a", MIGRATIONS) as plain, open_database(f"{base}/b", MIGRATIONS) as folded:
        for step, which in [*wanted, ("cut", 0)]:
            if step != "cut":
                held += history.statements(step, which)
                continue
            for sql, rows in held:
                plain.executemany(sql, rows)
            for sql, rows in fold(held):
                folded.executemany(sql, rows)
            held = []
            for table in ("SELECT * FROM task ORDER BY id", "SELECT * FROM head", "SELECT * FROM tally WHERE n"):
                assert plain.rows(table) == folded.rows(table)
        assert folded.rows("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_row_has_what_its_task_had(tmp_path, count):
    """Through whichever of the statements it went, one at a time or many: there are `count` of each kind."""
    numbered = enumerate(KINDS * count, 1)
    rows = [row_of(number, f"k{number}", kind) for number, kind in numbered]
    with open_database(f"{tmp_path}/q", MIGRATIONS) as db:
        for sql, some in fold(insertions([Task(row, 4) for row in rows])):
            db.executemany(sql, some)
        assert db.rows(f"SELECT {', '.join(COLUMNS)} FROM task ORDER BY id") == rows


@pytest.mark.parametrize("lease_first", [True, False])
@pytest.mark.parametrize("count", [1, 65])
def test_tasks_that_came_were_leased_and_done(tmp_path, count, lease_first):
    tasks = [Task(row_of(number, f"k{number}", "new"), 4) for number in range(1, count + 1)]
    history = History()
    history.live = list(tasks)
    held = [] if lease_first else insertions(tasks)
    leases = [statement for task in tasks for statement in history.moved(task)]
    held += insertions(tasks) if lease_first else leases
    held += [statement for task in tasks for statement in history.moved(task)]
    with open_database(f"{tmp_path}/q", MIGRATIONS) as db:
        for sql, some in fold(held):
            db.executemany(sql, some)
        found = db.rows(f"SELECT {', '.join(COLUMNS)} FROM task ORDER BY id")
    assert found == [attrgetter(*COLUMNS)(task) for task in tasks]


def test_folding_leaves_nothing_to_the_collector():
    """Thousands of rows would wait for it."""
    held = [step for _ in range(3) for step in History().new("k")]
    gc.collect()
    fold([*held, (TALLY, [("h", "root", 2, 0, 1)]), (OTHER, [("{}", 1)]), (HEAD, [(1, 1)])])
    assert gc.collect() == 0
