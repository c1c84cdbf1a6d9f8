"""What every room of the engine stands on: its state, how a task ends, and what that means for its family.

`Core` is the base of the engine's rooms (intake, results, clockwork); only graced.htm.engine.Engine is whole. A task
that ends in any other way than done takes the live tasks below it along; it may also fail its parent, or wake it. All
of that happens in the turn in which the task ended, by walking, never by recursion: trees may be deep.
"""

from __future__ import annotations

from graced.htm import hierarchy
from graced.htm.book import Book
from graced.htm.lease import LEASE_US, Lease, Leases
from graced.htm.limits import DrainRate, Limits
from graced.htm.measure import Counts
from graced.htm.mode import Modes
from graced.htm.order import Expected
from graced.htm.retry import poisoned
from graced.model.task import (
    CANCELLED,
    CONTINUE,
    DEAD,
    DONE,
    FAIL,
    FAILED,
    LEASED,
    QUEUED,
    STATES,
    WAITING,
    Task,
    task_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.htm.timeline import Timeline
    from graced.htm.turn import Rows


class Core:
    """See the module. Not thread safe; owned by one loop."""

    def __init__(
        self, rows: Rows, timeline: Timeline, *, jitter: Callable[[], float], limits: Limits | None = None
    ) -> None:
        """`jitter` draws evenly from [0, 1)."""
        self.timeline = timeline
        self.limits = limits or Limits()
        self.counts = Counts()
        self.leases = Leases()
        self.book = Book(rows, timeline)
        self.draining = False
        # What the host is short of, in words; "" while it is not: then LOW tasks stay outside.
        self.strain = ""
        self._rows = rows
        self._jitter = jitter
        self._expected = Expected()
        self._drain_rate = DrainRate()
        self._modes = Modes()
        self._load()

    def _load(self) -> None:
        self._next_due_us = self._rows.next_due_us()
        self._next_sla_us = self._rows.next_sla_us()
        self._modes.load(self._rows.modes())

    def finished_per_second(self) -> float:
        """How fast tasks have been ending lately."""
        return self._drain_rate.per_second(self.timeline.now_us())

    # -- the end of a task ------------------------------------------------------------------------------------------

    def _finish(self, task: Task, state: int, now_us: int, kind: str, detail: str | None) -> None:
        self._end(task, state, now_us, kind, detail)
        if task.parent is not None or task.open_children:
            self._family(task, f"{task_name(task.id)} above it: {STATES[state]}")

    def _end(self, task: Task, state: int, now_us: int, kind: str, detail: str | None) -> None:
        turn = self.book.turn
        if state == DONE:
            self.book.move_only(task, state)
            turn.said(task.id, now_us, kind, task.attempts, detail)
        else:
            self.book.move(task, state)
            turn.event(task.id, now_us, kind, task.attempts, detail)
        task.finished_us = now_us
        task.not_before_us = None
        task.sla_next_us = None
        turn.finished.append(task)
        self._drain_rate.finished(now_us)
        if state == DEAD:
            self.counts.dead += 1

    def _family(self, task: Task, reason: str) -> None:
        """A task has ended: end what is below it, unless it is done, and tell those above it."""
        while True:
            if task.open_children and task.state != DONE:
                for one, parent in hierarchy.below(self.book, task):
                    self._drop(one, reason)
                    hierarchy.count_end(self.book, parent, one)
            if task.parent is None:
                return
            parent_or_none = self.book.find(task.parent)
            if parent_or_none is None:
                return
            hierarchy.count_end(self.book, parent_or_none, task)
            if not self._fails_with(parent_or_none, task):
                return
            task = parent_or_none
            reason = f"{task_name(task.id)} above it: {STATES[task.state]}"

    def _fails_with(self, parent: Task, child: Task) -> bool:
        """Does a parent end because of how its child ended? If it only has to be woken, do that."""
        if not parent.live or parent.state == LEASED:
            return False
        bad = child.state != DONE
        if bad and parent.on_child_failure == FAIL:
            parent.error = hierarchy.failure(child)
            self._end(parent, FAILED, self.timeline.stamp_us(), "failed", parent.error)
            return True
        if parent.state == WAITING and parent.not_before_us is None:
            if parent.open_children == 0:
                self._wake(parent, "its children have ended")
            elif bad and parent.on_child_failure == CONTINUE:
                self._wake(parent, hierarchy.failure(child))
        return False

    def _drop(self, task: Task, reason: str) -> None:
        """Cancel one task, whoever works on it."""
        lease = self.leases.get(task.id)
        if lease is not None:
            self.leases.end(lease, ghost=True)
            self.book.turn.ended.append(lease)
            self.book.turn.revoked.append((lease, reason))
            self.book.turn.lease_over(task)
        self._end(task, CANCELLED, self.timeline.stamp_us(), "cancelled", reason)

    # -- between states ---------------------------------------------------------------------------------------------

    def _wake(self, task: Task, reason: str) -> None:
        """Queue a waiting task; it keeps its rank."""
        self.book.move(task, QUEUED)
        task.not_before_us = None
        self.book.enqueue(task)
        self.book.turn.event(task.id, self.timeline.stamp_us(), "woken", task.attempts, reason)

    def _wait_until(self, task: Task, when_us: int) -> None:
        self.book.move(task, WAITING)
        task.worker = None
        task.not_before_us = when_us
        self._wake_at(when_us)

    def _wake_at(self, when_us: int) -> None:
        if self._next_due_us is None or when_us < self._next_due_us:
            self._next_due_us = when_us

    def _watch_at(self, sla_next_us: int | None) -> None:
        if sla_next_us is not None and (self._next_sla_us is None or sla_next_us < self._next_sla_us):
            self._next_sla_us = sla_next_us

    def _end_lease(self, lease: Lease) -> int:
        self.leases.end(lease)
        self.book.turn.ended.append(lease)
        now_us = self.timeline.stamp_us()
        # whoever says how one task ended is alive, and so are its others
        lease.worker.expires_us = now_us + LEASE_US
        return now_us

    def _lost(self, lease: Lease, kind: str, *, counted: bool) -> None:
        self.book.turn.ended.append(lease)
        # another loss of this worker may have ended it: it was below that one
        if lease.task.state == LEASED:
            self._again(lease.task, kind, counted=counted)

    def _again(self, task: Task, kind: str, *, counted: bool) -> None:
        now_us = self.timeline.stamp_us()
        worker = task.worker
        self.book.turn.lease_over(task)
        if counted:
            self.counts.lost += 1
            task.failures += 1
            task.error = f"worker {worker} was lost"
            if poisoned(task.failures, task.max_attempts):
                self._finish(task, DEAD, now_us, "dead", task.error)
                return
        self.book.move(task, QUEUED)
        task.worker = None
        self.book.turn.event(task.id, now_us, kind, task.attempts, worker)
        self.book.enqueue(task)
