"""Statements that are folded do what they do one by one."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from graced.model.task import DONE, LEASED, QUEUED, Task
from graced.store.db import open_database
from graced.store.taskrows import HEAD, TALLY, fold, insertions, steps
from graced.store.taskschema import MIGRATIONS

OTHER = "UPDATE task SET progress = ? WHERE id = ?"
STEPS = st.lists(st.tuples(st.sampled_from(["new", "lease", "end", "other", "head", "cut"]), st.integers(0, 5)))


class History:
    """Tasks that come, are leased and end; keys are used again as soon as they are free."""

    def __init__(self):
        self.live = []
        self.number = 0

    def statements(self, step, which):
        if step == "new":
            return self.new(f"k{which}")
        if step == "head":
            return [(HEAD, [(self.number + 1, which)]), (TALLY, [("h", "root", 2, which % 2, which - 2)])]
        state = QUEUED if step == "lease" else LEASED
        some = [task for task in self.live if task.state == state]
        if step == "other" or not some:
            return [(OTHER, [("{}", which)])]
        return list(self.moved(some[which % len(some)]))

    def new(self, key):
        self.number += 1
        free = None if key in {task.idempotency_key for task in self.live} else key
        row = (
            self.number, QUEUED, 2, self.number, 0, 0, 5, None, 0, 0, "h", "t", "root", None, free, 60,
            1, 2, 3, 1, 4, None, 0, 5, None, None, None, "{}", None, None, None, 0, 0, None,
        )  # fmt: skip
        self.live.append(Task(row, 4))
        return insertions(self.live[-1:])

    def moved(self, task):
        task.state += 1
        if task.state == LEASED - 1:
            task.state = LEASED
        if task.state == LEASED:
            task.attempts, task.worker, task.started_us = 1, "w", 7
        else:
            assert task.state == DONE
            task.finished_us, task.result = 8, "{}"
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


def test_folding_leaves_nothing_to_the_collector():
    """Thousands of rows would wait for it."""
    held = [step for _ in range(3) for step in History().new("k")]
    gc.collect()
    fold([*held, (TALLY, [("h", "root", 2, 0, 1)]), (OTHER, [("{}", 1)]), (HEAD, [(1, 1)])])
    assert gc.collect() == 0
