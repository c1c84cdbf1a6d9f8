"""Workers that come and go, and what time brings: the end of a pause, of a lease, of an SLA."""

from __future__ import annotations

from graced.htm import sla
from graced.htm.core import Core
from graced.htm.lease import LEASE_US, Worker
from graced.model.task import CONTINUE, LEASED, QUEUED, Task

BATCH_ROWS = 500
"""Rows that one turn may move for timers, so that a thousand deadlines at once do not stall dispatch."""
SILENT = f"no sign of life for {LEASE_US // 1_000_000} s"


class Clockwork(Core):
    """See the module."""

    # -- workers ----------------------------------------------------------------------------------------------------

    def worker_came(self, worker: Worker) -> None:
        """A Work stream began."""
        worker.expires_us = self.timeline.now_us()
        self.leases.add(worker)

    def worker_left(self, worker: Worker, *, counted: bool = True) -> None:
        """A Work stream ended: its tasks are queued again at once. `counted`: an attempt was used up."""
        worker.gone = True
        for lease in self.leases.remove(worker):
            self._lost(lease, "lost" if counted else "returned", counted=counted)

    def take_back(self, *, host_went_down: bool) -> None:
        """At the start: whatever a former process had leased is queued again.

        An attempt is used up only when the host went down meanwhile, since the task may have done that.
        """
        kind = "lost" if host_went_down else "returned"
        leased = self._rows.leased()
        for task in leased:
            self.book.hold(task)
        for task in leased:
            # it may have ended with one above it
            if task.state == LEASED:
                self._again(task, kind, counted=host_went_down)

    # -- time -------------------------------------------------------------------------------------------------------

    def next_wake_us(self) -> int | None:
        """Queue time of the next thing `tick` would do."""
        times = (self._next_due_us, self._next_sla_us, self.leases.next_expiry_us())
        return min((time for time in times if time is not None), default=None)

    def tick(self) -> None:
        """Do what is due: waiting tasks, silent workers, SLA events; at most BATCH_ROWS of each."""
        now_us = self.timeline.now_us()
        for worker in self.leases.expired(now_us):
            for lease in self.leases.strip(worker, now_us):
                worker.ghosts.add(lease.task.id)
                self.book.turn.revoked.append((lease, SILENT))
                self._lost(lease, "expired", counted=True)
        if self._next_due_us is not None and self._next_due_us <= now_us:
            self.book.write()
            for task in map(self.book.one, self._rows.due(now_us, BATCH_ROWS)):
                self._due(task)
            self.book.write()
            self._next_due_us = self._rows.next_due_us()
        if self._next_sla_us is not None and self._next_sla_us <= now_us:
            self.book.write()
            for task in map(self.book.one, self._rows.sla_due(now_us, BATCH_ROWS)):
                self._sla(task, now_us)
            self.book.write()
            self._next_sla_us = self._rows.next_sla_us()

    def _due(self, task: Task) -> None:
        """Its pause is over. One that never ran and has children goes on waiting, for them."""
        task.not_before_us = None
        failed = task.on_child_failure == CONTINUE and task.failed_children
        if task.open_children and not task.attempts and not failed:
            self.book.touch(task)
            return
        self.book.move(task, QUEUED)
        self.book.enqueue(task)

    def _sla(self, task: Task, now_us: int) -> None:
        what = sla.due(task, now_us)
        self.book.touch(task)
        if not what:
            return
        self.book.turn.event(task.id, self.timeline.stamp_us(), what, task.attempts, None)
        self.book.turn.notices.append((what, task))
        if what == "breached":
            self.counts.breaches[task.priority] += 1
            return
        self.counts.slack[task.priority] += 1
        priority, rank = sla.escalated(task, self._expected.us(task.handler, task.task_type))
        if priority != task.priority:
            self.book.prioritise(task, priority)
        if rank != task.rank:
            task.rank = rank
            if task.state == QUEUED:
                self.book.enqueue(task)
