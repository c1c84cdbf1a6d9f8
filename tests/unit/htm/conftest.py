"""A store, an engine and a clock that only tests move."""

from __future__ import annotations

import pytest

from graced.base.clock import ManualClock
from graced.htm.engine import Engine
from graced.htm.lease import Worker
from graced.htm.timeline import Timeline
from graced.model.task import STATES
from graced.store.tasks import TaskStore


class Queue:
    """A store, an engine and a clock, and what their owner does with them."""

    def __init__(self, path, limits=None):
        self.path = str(path)
        self.limits = limits
        self.clock = ManualClock(start_us=1_000_000)
        self.open("one")

    def open(self, boot):
        self.store = TaskStore(self.path, synchronous="NORMAL")
        last_us = self.store.last_us()
        number, offset_us, first = self.store.boot(boot, lambda: Timeline.first_offset_us(self.clock, last_us))
        timeline = Timeline(self.clock, boot=number, offset_us=offset_us, last_us=last_us)
        self.store.bind(timeline.deadline_us)
        self.engine = Engine(self.store, timeline, jitter=lambda: 0.5, limits=self.limits)
        self.engine.take_back(host_went_down=first)
        self.commit()

    def restart(self, boot="one"):
        self.store.close()
        self.open(boot)

    def commit(self):
        self.engine.book.write()
        self.store.commit()
        return self.engine.book.settle()

    def submit(self, **fields):
        return self.engine.submit(fields.pop("handler", "h"), "t", origin="root", **fields)[0]

    def worker(self, credits=1, name="w", handler="h", uid=7):
        worker = Worker(name, uid, handler, credits, None)
        self.engine.worker_came(worker)
        return worker

    def dispatch(self):
        self.engine.dispatch()
        return [(lease.task.id, lease.attempt) for lease in self.commit().granted]

    def lease(self, number, attempt=1, uid=7):
        return self.engine.lease(number, attempt, uid)

    def tick(self, us=0):
        self.clock.advance_us(us)
        self.engine.tick()
        return self.commit()

    def state(self, number):
        return self.store.load(number).state

    def all(self):
        """Lease everything that is queued: {number: lease}."""
        name = f"w{len(list(self.engine.leases.workers()))}"
        self.worker(credits=1000, name=name)
        self.engine.dispatch()
        return {lease.task.id: lease for lease in self.commit().granted}

    def states(self, *numbers):
        return [STATES[self.state(number)] for number in numbers]

    def kinds(self, number):
        return [kind for _, kind, _, _ in self.store.events(number)]

    def after(self, verb, *args, **kwargs):
        """The turn in which this was done."""
        verb(*args, **kwargs)
        return self.commit()


@pytest.fixture(scope="session")
def make_queue():
    return Queue


@pytest.fixture
def queue(tmp_path):
    made = Queue(tmp_path / "q.db")
    yield made
    made.store.close()
