"""The whole queue under a clock of its own: random verbs, lost workers, failed commits, crashes, reboots, clock steps.

What must hold whatever happens, looked at after every commit: no task is leased to two workers and no fencing token is
given twice; nothing acknowledged is lost, what has ended stays ended unless it was queued again; deadlines, ranks and
priorities only tighten; counts are what a count says; nobody waits for children that have all ended; nothing goes
before a task that was submitted after its age bound. At the end of every history healthy workers come and every task
must end.

`make test` runs SEEDS histories, 20 times as many with ``GRACED_NIGHTLY=1``; ``GRACED_SEED=7`` only that one. What
fails names the command that replays it.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile

import pytest

from graced.base.clock import ManualClock
from graced.base.errors import TaskError
from graced.htm.engine import Engine
from graced.htm.lease import Worker
from graced.htm.mode import ALL, DRAINED, PAUSED
from graced.htm.order import AGE_US
from graced.htm.timeline import Timeline
from graced.model.task import CRITICAL, DONE, FAIL, LEASED, QUEUED, WAITING
from graced.store.tasks import TaskStore

SEEDS = 20_000 if os.environ.get("GRACED_NIGHTLY") == "1" else 1000
CHUNKS = 10
STEPS = 120
HANDLERS = ("a", "b")
REFUSALS = {"parent-ended", "ended", "busy", "not-ended", "key-in-use"}
SECOND_US = 1_000_000


class History:
    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.clock = ManualClock(start_us=10_000_000)
        self.names = itertools.count()
        self.boots = itertools.count()
        self.boot = f"boot{next(self.boots)}"
        self.tokens = set()
        self.acknowledged = set()
        self.in_turn = []
        self.requeued_in_turn = {}
        self.ended = set()
        self.adrift = set()
        self.best = {}
        self.given = {}
        self.start_us = {}
        self.modes = []
        self.open()

    def open(self):
        self.store = TaskStore(f"{self.directory}/q.db", synchronous="NORMAL")
        last_us = self.store.last_us()
        number, offset_us, first = self.store.boot(self.boot, lambda: Timeline.first_offset_us(self.clock, last_us))
        timeline = Timeline(self.clock, boot=number, offset_us=offset_us, last_us=last_us)
        self.store.bind(timeline.deadline_us)
        self.engine = Engine(self.store, timeline, jitter=lambda: 0.3)
        self.workers = []
        assert self.engine.modes() == self.modes, "held handlers are durable"
        self.engine.take_back(host_went_down=first)
        self.commit()

    def close(self):
        self.store.close()
        shutil.rmtree(self.directory)

    # -- verbs ------------------------------------------------------------------------------------------------------

    def verb(self, function, *args, **kwargs):
        """What it returned, or None when it was refused for a reason that is a rule."""
        try:
            return function(*args, **kwargs)
        except TaskError as error:
            assert error.code in REFUSALS, error
            return None

    def known(self):
        numbers = sorted(self.acknowledged)
        return self.draw.choice(numbers) if numbers else None

    def spec(self, depth=0):
        draw = self.draw
        children = [self.spec(depth + 1) for _ in range(draw.choice((0, 0, 1, 3)))] if 0 < depth < 3 else []
        return {
            "handler": draw.choice(HANDLERS), "task_type": "t", "priority": draw.randrange(4), "children": children,
            "sla_seconds": draw.choice((1, 60, 4000)), "delay_us": draw.choice((0, 0, 0, 2 * SECOND_US)),
            "idempotency_key": draw.choice((None, None, None, "k1", "k2")), "on_child_failure": draw.randrange(3),
            "max_attempts": draw.choice((1, 2, 5)),
        }  # fmt: skip

    def took(self, answers, specs):
        now_us = self.engine.timeline.last_us
        for (number, known), delay_us in zip(answers, specs, strict=True):
            everything = self.acknowledged | set(self.in_turn)
            assert (number in everything) == known
            if not known:
                self.in_turn.append(number)
                self.start_us[number] = now_us + delay_us

    def submit(self):
        spec = self.spec()
        del spec["children"]
        live = sorted(self.acknowledged - self.ended)
        parent = self.draw.choice(live) if live and self.draw.random() < 0.3 else None
        answer = self.verb(self.engine.submit, **spec, parent=parent, origin="x")
        if answer is not None:
            self.took([answer], [spec["delay_us"]])

    def submit_many(self):
        specs = [self.spec(1) for _ in range(self.draw.choice((1, 1, 3)))]
        before = self.engine.book.tally.live
        answers = self.verb(self.engine.submit_batch, specs, "x")
        if answers is None:
            assert self.engine.book.tally.live == before, "a refusal leaves nothing behind"
            return
        for spec, tree in zip(specs, answers, strict=True):
            self.took(tree, delays(spec)[: len(tree)])

    def submit_run(self):
        specs = [
            (spec["handler"], "t", spec["priority"], spec["sla_seconds"], "{}", spec["idempotency_key"])
            for spec in [self.spec() for _ in range(self.draw.choice((2, 5)))]
        ]
        for number, known in self.engine.submit_run(specs, "x"):
            assert (number in self.acknowledged | set(self.in_turn)) == known
            if not known:
                self.in_turn.append(number)
                self.start_us[number] = self.engine.book.get(number).created_us

    def complete_run(self):
        leases = [lease for lease in self.engine.leases.all() if lease.task.alone]
        self.engine.complete_run([(lease, "{}") for lease in leases[: self.draw.choice((1, 2, 9))]])

    def a_lease(self):
        leases = sorted(self.engine.leases.all(), key=lambda one: one.task.id)
        return self.draw.choice(leases) if leases else None

    def result(self):
        lease = self.a_lease()
        if lease is None:
            return
        engine = self.engine
        lease = engine.lease(lease.task.id, lease.attempt, 5)
        act = self.draw.choice(("complete", "complete", "fail", "retry", "defer", "wait", "wait"))
        if act == "complete":
            engine.complete(lease, "{}")
        elif act == "defer":
            engine.defer(lease, SECOND_US, "held")
        elif act == "wait":
            engine.wait(lease)
        else:
            engine.fail(lease, "x", retry=act == "retry")

    def sign_of_life(self):
        lease = self.a_lease()
        if lease is None:
            return
        if self.draw.random() < 0.5:
            self.engine.progress(lease, 50.0, "half")
        else:
            self.engine.extend(lease, self.draw.choice((1, 40, 3600)) * SECOND_US)

    def has_children(self):
        """A worker submits below what it works on."""
        lease = self.a_lease()
        if lease is not None:
            spec = {**self.spec(), "parent": lease.task.id}
            del spec["children"]
            answer = self.verb(self.engine.submit, **spec, origin="x")
            if answer is not None:
                self.took([answer], [spec["delay_us"]])

    def cancel(self):
        number = self.known()
        if number is not None:
            self.verb(self.engine.cancel, number, "test")

    def requeue(self):
        numbers = sorted(self.ended)
        if numbers:
            number = self.draw.choice(numbers)
            task = self.verb(self.engine.requeue, number, "test")
            if task is not None:
                self.requeued_in_turn.setdefault(number, self.start_us[number])
                self.start_us[number] = self.engine.timeline.last_us

    def hold(self):
        handler, word = self.draw.choice((*HANDLERS, ALL)), self.draw.choice((PAUSED, DRAINED))
        if self.draw.random() < 0.3:
            self.engine.set_mode(handler, word, "test", "root")
        else:
            self.engine.clear_mode(handler)

    # -- workers and time -------------------------------------------------------------------------------------------

    def worker_comes(self):
        worker = Worker(f"w{next(self.names)}", 5, self.draw.choice(HANDLERS), self.draw.randint(1, 4), None)
        self.engine.worker_came(worker)
        self.workers.append(worker)

    def worker_goes(self):
        if self.workers:
            worker = self.draw.choice(self.workers)
            self.workers.remove(worker)
            self.engine.worker_left(worker)

    def heartbeat(self):
        if self.workers:
            self.engine.leases.heartbeat(self.draw.choice(self.workers).name, 5, self.engine.timeline.now_us())

    def dispatch(self):
        before = len(self.engine.book.turn.granted)
        self.engine.dispatch()
        granted = self.engine.book.turn.granted[before:]
        for handler in HANDLERS:
            mine = [lease.task for lease in granted if lease.task.handler == handler]
            ranks = [(task.rank, task.id) for task in mine]
            assert ranks == sorted(ranks)
            assert not (mine and self.engine._modes.of(handler, PAUSED))
            self.nobody_was_overtaken(handler, [task for task in mine if task.priority != CRITICAL])

    def nobody_was_overtaken(self, handler, granted):
        if not granted:
            return
        self.engine.book.write()
        latest_us = max(self.start_us[task.id] for task in granted)
        for task in self.store.queued(handler, (-(1 << 62), 0), 1000)[0]:
            assert (task.rank, task.id) > max((one.rank, one.id) for one in granted)
            if task.priority != CRITICAL:
                # a few µs: stamps of one turn run ahead of each other
                assert latest_us <= self.start_us[task.id] + AGE_US[task.priority] + 1000

    def time_passes(self):
        self.clock.advance_us(self.draw.choice((1000, SECOND_US, 31 * SECOND_US, 5000 * SECOND_US)))
        self.engine.tick()

    def clock_steps(self):
        self.clock._wall_us += self.draw.choice((-86_400, -5, 5, 86_400)) * SECOND_US

    # -- turns and faults -------------------------------------------------------------------------------------------

    def commit(self):
        self.engine.book.write()
        self.store.commit()
        turn = self.engine.book.settle()
        for lease in turn.granted:
            token = (lease.task.id, lease.attempt)
            assert token not in self.tokens, "a fencing token was given twice"
            self.tokens.add(token)
        self.acknowledged.update(self.in_turn)
        self.in_turn.clear()
        for number in self.requeued_in_turn:
            self.best.pop(number, None)
            self.given.pop(number, None)
            self.adrift.add(number)
        self.requeued_in_turn.clear()
        self.modes = self.engine.modes()
        self.check()

    def forget_turn(self):
        self.in_turn.clear()
        self.start_us.update(self.requeued_in_turn)
        self.requeued_in_turn.clear()

    def commit_fails(self):
        if self.draw.random() < 0.5:
            self.engine.book.write()
        self.store.rollback()
        self.engine.revert()
        self.forget_turn()
        assert self.engine.modes() == self.modes

    def crash(self):
        self.store.close()
        self.forget_turn()
        # an earlier boot's deadline goes through the wall clock of each start; `given` still bounds it
        self.best.clear()
        if self.draw.random() < 0.3:
            wall_us = self.draw.choice((0, -1000, 7000)) * SECOND_US
            self.boot = f"boot{next(self.boots)}"
            self.clock = ManualClock(start_us=3_000_000, wall_us=self.clock.wall_us() + wall_us)
        self.open()

    # -- what must hold ---------------------------------------------------------------------------------------------

    def check(self):
        self.nobody_shares_a_task()
        rows = {
            row[0]: row[1:]
            for row in self.store.db.rows(
                "SELECT id, state, priority, rank, parent, open_children, done_children, failed_children,"
                " on_child_failure, not_before_us, handler, attempts FROM task"
            )
        }
        self.nothing_is_lost(rows)
        self.counts_are_true(rows)
        self.families_are_whole(rows)
        self.everything_only_tightens()

    def nobody_shares_a_task(self):
        leases = self.engine.leases
        held = [number for worker in leases.workers() for number in worker.leases]
        assert len(held) == len(set(held)) == len(leases)
        for lease in leases.all():
            assert lease.task.state == LEASED
            assert lease.task.attempts == lease.attempt
            assert not lease.worker.gone
        for worker in leases.workers():
            assert set(worker.extended) <= worker.leases
            assert not worker.ghosts & worker.leases or worker.free < worker.credits

    def nothing_is_lost(self, rows):
        assert set(rows) == self.acknowledged
        ended = {number for number, row in rows.items() if row[0] >= DONE}
        assert self.ended - ended <= self.adrift, "what has ended stays ended unless it was queued again"
        self.ended = ended

    def counts_are_true(self, rows):
        tally = self.engine.book.tally
        counted = {}
        for state, priority, *_, handler, _attempts in rows.values():
            key = (handler, "x", priority, state)
            counted[key] = counted.get(key, 0) + 1
        assert {key: n for key, n in tally.total.items() if n} == counted
        assert tally.live == len(rows) - len(self.ended)
        assert sum(1 for row in rows.values() if row[0] == LEASED) == len(self.engine.leases)
        assert self.engine.book.resident <= sum(1 for row in rows.values() if row[0] in (QUEUED, LEASED))

    def families_are_whole(self, rows):
        is_open, done = dict.fromkeys(rows, 0), dict.fromkeys(rows, 0)
        for number, (state, _, _, parent, *_) in sorted(rows.items()):
            if parent is not None:
                is_open[parent] += state < DONE
                done[parent] += state == DONE
                if state < DONE and rows[parent][0] > DONE:
                    assert number in self.adrift, "below a task that ended badly only what was queued again lives"
        for number, (state, _, _, _, children, ended, failed, policy, not_before_us, _, _) in rows.items():
            assert (children, ended) == (is_open[number], done[number])
            assert failed >= 0
            if state == WAITING and not_before_us is None:
                assert children, "nobody waits for children that have all ended"
                assert policy != FAIL or not failed

    def everything_only_tightens(self):
        for number in self.acknowledged:
            task = self.engine.book.get(number)
            now = (task.deadline_us, task.rank, task.priority)
            known = self.best.get(number, now)
            assert all(mine <= before for mine, before in zip(now, known, strict=True)), (number, now, known)
            self.best[number] = now
            given = self.given.setdefault(number, (task.deadline_us, task.rank))
            assert task.deadline_us <= given[0]
            assert task.rank <= given[1]
            parent = self.given.get(task.parent)
            if parent is not None and not {number, task.parent} & self.adrift:
                assert self.given[number][0] <= parent[0]

    def run(self, steps):
        acts = (
            *[self.submit] * 4, *[self.submit_many] * 2, *[self.has_children] * 2, *[self.worker_comes] * 2,
            self.worker_goes, self.heartbeat, self.sign_of_life, *[self.dispatch] * 5, *[self.result] * 7, self.cancel,
            *[self.requeue] * 2, self.hold, *[self.time_passes] * 2, self.clock_steps, *[self.commit] * 6,
            self.commit_fails, *[self.submit_run] * 2, *[self.complete_run] * 2,
        )  # fmt: skip
        for _ in range(steps):
            act = self.crash if self.draw.random() < 0.02 else self.draw.choice(acts)
            act()
        self.commit()
        self.everything_ends()

    def everything_ends(self):
        """Healthy workers and time are all that is needed, for parents that wait too."""
        for mode in self.engine.modes():
            self.engine.clear_mode(mode.handler)
        for worker in self.workers:
            self.engine.worker_left(worker)
        self.workers = []
        for handler in HANDLERS:
            self.engine.worker_came(Worker(f"healthy-{handler}", 5, handler, 100, None))
        for _ in range(len(self.acknowledged) + 10):
            if not self.engine.book.tally.live:
                break
            self.clock.advance_us(600 * SECOND_US)
            self.engine.tick()
            self.dispatch()
            for lease in self.engine.leases.all():
                self.engine.complete(lease, "{}")
            self.commit()
        assert self.engine.book.tally.live == 0


def delays(spec):
    """Of a tree's tasks, in the order in which they go in."""
    return [spec["delay_us"], *[delay_us for child in spec["children"] for delay_us in delays(child)]]


def replay(seed):
    history = History(seed)
    try:
        history.run(STEPS)
    except Exception as error:
        command = f"GRACED_SEED={seed} python3 -m pytest tests/unit/htm/test_simulation.py"
        raise AssertionError(f"replay it with: {command}") from error
    finally:
        history.close()


ONE = os.environ.get("GRACED_SEED")


@pytest.mark.parametrize("chunk", range(CHUNKS) if ONE is None else [int(ONE) % CHUNKS])
def test_every_history_keeps_the_promises(chunk):
    for seed in range(chunk, SEEDS, CHUNKS) if ONE is None else [int(ONE)]:
        replay(seed)


@pytest.mark.parametrize("seed", [15838])
def test_a_history_that_once_broke_one(seed):
    """A task in its window twice, requeued under the rank it had: the two were compared."""
    replay(seed)
