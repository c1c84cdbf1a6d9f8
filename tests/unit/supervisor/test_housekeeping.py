"""Housekeeping on a real queue: what goes, what stays, counts that stay true, errors that are said and end."""

from __future__ import annotations

import json
import os
import random
import stat
import time

import pytest

from graced.base.clock import ManualClock
from graced.base.errors import StoreError, TaskError
from graced.htm.lease import Worker
from graced.model.task import DONE, LEASED, STATES
from graced.runtime.loop import Loop
from graced.store.archive import files, lines
from graced.supervisor.background import Background
from graced.supervisor.housekeeping import Housekeeping
from graced.supervisor.keep import Keep
from graced.supervisor.queue import Queue

HOUR_US = 3_600_000_000
LONG = Keep(seconds=86400.0, count=100_000)


class Stream:
    """The Work stream of a worker; nobody reads it."""

    def reply(self, parameters, *, continues=False):
        pass

    def push(self, every):
        pass


class House:
    def __init__(self, directory, keep=LONG):
        self.directory = str(directory)
        self.clock = ManualClock(start_us=10 * HOUR_US)
        self.open(keep)

    def open(self, keep=LONG):
        self.loop = Loop()
        self.queue = Queue(self.loop, self.clock, f"{self.directory}/q.db", boot_id="b", synchronous="NORMAL")
        self.loop.after_turn.append(self.queue.flush)
        self.background = Background(self.loop)
        self.house = Housekeeping(self.loop, self.background, self.queue, f"{self.directory}/archive", keep)
        self.queue.on_commit = self.house.committed
        self.queue.house = self.house
        self.house.start()
        self.worker = Worker("w", 0, "job", 1000, Stream())
        self.queue.engine.worker_came(self.worker)

    def close(self):
        self.house.close()
        self.background.close(self.house.close_thread)
        self.queue.close()

    def tidy(self, keep, until=None):
        """Run housekeeping with these limits until `until()`, or until it has nothing more to do."""
        self.queue.flush()
        self.house.reload(keep)
        limit = time.monotonic() + 60
        calm = 0
        while not until() if until else calm < 3:
            assert time.monotonic() < limit
            self.loop.run_once(0.02)
            busy = self.house._running or (self.house._timer and self.house._timer.when_s < time.monotonic() + 0.5)
            calm = 0 if busy else calm + 1

    def finish(self, count, how="complete", **more):
        numbers = []
        for _ in range(count):
            number, _known = self.queue.engine.submit("job", "t", origin="x", **more)
            numbers.append(number)
        self.queue.flush()
        for number in numbers:
            self.end(number, how)
        self.queue.flush()
        return numbers

    def end(self, number, how):
        engine = self.queue.engine
        task = engine.book.get(number)
        if not task.live:
            return  # its parent failed with a sibling
        if task.state != LEASED or how == "cancel":
            engine.cancel(number, "no")
            return
        lease = engine.lease(number, task.attempts, 0)
        if how == "complete":
            engine.complete(lease, '{"ok":true}')
        else:
            engine.fail(lease, "broken", retry=False, result=None)

    def rows(self):
        return {number for (number,) in self.queue.store.db.rows("SELECT id FROM task")}

    def archived(self):
        found = {}
        for path in files(f"{self.directory}/archive"):
            for line in lines(path):
                task = json.loads(line)
                found.setdefault(int(task["id"][5:]), []).append(task)
        return found

    def counts_are_true(self):
        counted = {
            tuple(key): n
            for *key, n in self.queue.store.db.rows(
                "SELECT handler, origin, priority, state, count(*) FROM task GROUP BY 1, 2, 3, 4"
            )
        }
        assert {key: n for key, n in self.queue.engine.book.tally.total.items() if n} == counted
        assert {tuple(key): n for *key, n in self.queue.store.tally()} == counted
        assert self.queue.depth == sum(n for key, n in counted.items() if key[3] < DONE)
        stray = "SELECT count(*) FROM task_event WHERE task NOT IN (SELECT id FROM task)"
        assert self.queue.store.db.rows(stray) == [(0,)]


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.close()


def test_beyond_the_count_the_oldest_go_and_nothing_is_lost(house):
    numbers = house.finish(250, context='{"unit": "a.service"}', reasoning='it\nis "so" é')
    queued, _ = house.queue.engine.submit("other", "t", origin="x")
    house.tidy(Keep(seconds=86400.0, count=100))
    assert house.rows() == {*numbers[150:], queued}
    archived = house.archived()
    assert sorted(archived) == numbers[:150]
    task = archived[numbers[0]][0]
    assert (task["state"], task["context"], task["result"]) == ("done", {"unit": "a.service"}, {"ok": True})
    assert (task["reasoning"], task["handler"], task["priority"]) == ('it\nis "so" é', "job", "normal")
    assert [kind for _at, kind, _attempt, _detail in task["events"]][::2] == ["submitted", "completed"]
    house.counts_are_true()
    (path,) = files(f"{house.directory}/archive")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert house.house.facts() == {"tasks": 150, "bytes": os.path.getsize(path), "error": ""}
    for number, archived in ((numbers[0], True), (queued + 1, False)):
        with pytest.raises(TaskError) as caught:
            house.queue.engine.book.get(number)
        assert caught.value.code == "no-such-task"
        assert ("archive" in str(caught.value.fields.get("reason"))) == archived


def test_after_the_time_all_go(house):
    old = house.finish(30)
    house.clock.advance_us(2 * HOUR_US)
    young = house.finish(5)
    house.tidy(Keep(seconds=3600.0, count=100_000))
    assert house.rows() == set(young)
    assert sorted(house.archived()) == old
    house.counts_are_true()


def test_successes_do_not_push_out_failures(house):
    failed = house.finish(20, "fail")
    done = house.finish(200)
    house.tidy(Keep(seconds=86400.0, count=100))
    assert house.rows() == {*failed, *done[100:]}
    more = house.finish(120, "fail")
    house.tidy(Keep(seconds=86400.0, count=100))
    assert house.rows() == {*more[20:], *done[100:]}
    house.counts_are_true()


def test_what_a_live_task_refers_to_stays(house):
    engine = house.queue.engine
    parent, _ = engine.submit("other", "t", origin="x")
    child = house.finish(1, parent=parent)[0]
    ended, _ = engine.submit("job", "t", origin="x")
    live_child, _ = engine.submit("other", "t", origin="x", parent=ended)
    house.queue.flush()
    house.end(ended, "complete")
    rest = house.finish(300)
    house.clock.advance_us(2 * HOUR_US)
    house.tidy(Keep(seconds=3600.0, count=100_000))
    assert house.rows() == {parent, child, ended, live_child}
    assert sorted(house.archived()) == rest
    engine.cancel(parent, "no")
    engine.cancel(live_child, "no")
    house.clock.advance_us(2 * HOUR_US)
    house.tidy(Keep(seconds=3600.0, count=100_000))
    assert house.rows() == set()
    house.counts_are_true()


def test_requeued_between_the_archive_and_the_deletion_it_stays(house):
    numbers = house.finish(120, "fail")
    moved = house.house._moved

    def late(outcome, error):
        house.queue.engine.requeue(numbers[3], "once more")
        house.house._moved = moved
        moved(outcome, error)

    house.house._moved = late
    house.tidy(Keep(seconds=86400.0, count=100))
    assert numbers[3] in house.rows()
    assert STATES[house.queue.engine.book.get(numbers[3]).state] in {"queued", "leased"}
    house.counts_are_true()


def test_a_refused_commit_leaves_the_rows_and_a_second_line(house):
    numbers = house.finish(150)
    store = house.queue.store
    commit, refused = store.commit, []

    def refuse():
        if house.house.archived and not refused:
            refused.append(house.rows())
            raise StoreError("no room", code="disk-full")
        commit()

    store.commit = refuse
    house.house.reload(Keep(seconds=86400.0, count=100))
    limit = time.monotonic() + 60
    while not refused and time.monotonic() < limit:
        house.loop.run_once(0.02)
    assert refused
    assert house.rows() == set(numbers), "a refused deletion did not happen"
    house.counts_are_true()
    store.commit = commit
    house.queue._again()
    house.tidy(Keep(seconds=86400.0, count=100), until=lambda: len(house.rows()) == 100)
    assert sorted(house.archived()) == numbers[:50]
    assert max(map(len, house.archived().values())) == 2
    house.counts_are_true()


def test_an_archive_that_cannot_be_written_is_said_and_deletes_nothing(house):
    numbers = house.finish(150)
    with open(f"{house.directory}/archive", "w"):
        pass
    house.tidy(Keep(seconds=86400.0, count=100), until=lambda: house.house.errors)
    assert house.rows() == set(numbers)
    assert f"{house.directory}/archive" in house.house.error
    os.unlink(f"{house.directory}/archive")
    house.tidy(Keep(seconds=86400.0, count=100), until=lambda: len(house.rows()) == 100)
    assert house.house.error == ""
    house.counts_are_true()


def test_free_pages_are_given_back(house):
    for _ in range(20):
        house.finish(300, context=json.dumps({"x": "y" * 4000}))
    db = house.queue.store.db
    pages = db.rows("PRAGMA page_count")[0][0]
    house.tidy(Keep(seconds=86400.0, count=100), until=lambda: len(house.rows()) == 100)
    house.tidy(Keep(seconds=86400.0, count=100))
    assert db.rows("PRAGMA page_count")[0][0] < pages - 1000
    assert db.check() == []
    house.counts_are_true()


@pytest.mark.parametrize("seed", range(6))
def test_counts_stay_true_and_nothing_is_lost_in_any_history(tmp_path, seed):
    draw = random.Random(seed)
    house = House(tmp_path)
    everything, ended = set(), set()
    try:
        for _ in range(25):
            match draw.randrange(5):
                case 0 | 1:
                    how = draw.choice(("complete", "fail", "cancel"))
                    parent = draw.choice([None, *sorted(everything - ended)[:5]])
                    if parent is not None and not house.queue.engine.book.get(parent).live:
                        parent = None
                    new = house.finish(draw.randrange(1, 60), how, parent=parent)
                    everything |= set(new)
                case 2:
                    number, _ = house.queue.engine.submit("other", "t", origin=draw.choice("xy"))
                    everything.add(number)
                case 3:
                    house.clock.advance_us(draw.randrange(HOUR_US))
                    house.tidy(Keep(seconds=draw.choice((60.0, 3600.0)), count=draw.choice((100, 1000))))
                case 4:
                    house.close()
                    house.open()
            house.queue.flush()
            house.counts_are_true()
            rows, archived = house.rows(), house.archived()
            assert rows | set(archived) == everything
            assert all(task["state"] in STATES[DONE:] for lines_ in archived.values() for task in lines_)
            live = {n for (n,) in house.queue.store.db.rows("SELECT id FROM task WHERE state < 3")}
            ended = everything - live
            parents = house.queue.store.db.rows("SELECT parent FROM task WHERE state < 3 AND parent IS NOT NULL")
            assert {n for (n,) in parents} <= rows
    finally:
        house.close()


def test_between_two_slices_a_busy_queue_is_left_alone_and_an_idle_one_not(house):
    # SQLite commits many turns at once, so its commits say nothing about how busy the queue is
    house.finish(3)
    assert house.house.turns > 1
    assert house.house._rest_s(0.01) == pytest.approx(0.09)
    assert house.house._rest_s(0.0001) == pytest.approx(0.018)
    # busy a moment ago: a task every 20 ms is load, too
    assert house.house._rest_s(0.01) == pytest.approx(0.09)
    house.house._busy_until_s = 0.0
    assert house.house._rest_s(0.01) == 0.0


def test_while_more_tasks_end_than_go_it_rests_less(house):
    def rests(count):
        for _ in range(count):
            house.house.turns = 2
            yield house.house._rest_s(0.01)

    house.house.reload(Keep(seconds=86400.0, count=100))
    house.finish(290)
    assert list(rests(3)) == pytest.approx([0.09] * 3), "not piled up yet"
    house.finish(20)
    # nothing was archived between these: it grows, or stays
    assert list(rests(5)) == pytest.approx([0.045, 0.0225, 0.01125, 0.01, 0.01])
    house.house._there += 1
    assert list(rests(1)) == pytest.approx([0.011]), "fewer than before"


def test_what_was_emptied_may_collect_for_a_while(house):
    house.finish(300)
    house.tidy(Keep(seconds=86400.0, count=100))
    house.finish(10)
    house.house._look()
    assert not house.house._running, "it was empty a moment ago"
    house.house._not_before_s = [0.0, 0.0]
    house.house._look()
    assert house.house._running
