"""What a worker says about a task it has leased, and what a person does to one.

Whoever acts for a worker first asks `lease`, which fences off everyone who has lost it.
"""

from __future__ import annotations

from graced.base.errors import TaskError
from graced.base.json import dumps_ascii
from graced.htm import hierarchy
from graced.htm.core import Core
from graced.htm.lease import LEASE_US, Lease
from graced.htm.retry import backoff_us, poisoned
from graced.model.task import (
    CONTINUE,
    DEAD,
    DONE,
    FAIL,
    FAILED,
    STATES,
    WAITING,
    Task,
    task_name,
)


class Results(Core):
    """See the module."""

    def lease(self, number: int, attempt: int, uid: int) -> Lease:
        """The lease that `uid` (0 may act for anyone) holds. Raises TaskError: no-such-task, not-leased."""
        lease = self.leases.held(number, attempt, uid)
        if lease is not None:
            return lease
        for worker in self.leases.workers():
            if number in worker.ghosts and uid in {0, worker.uid}:
                worker.ghosts.discard(number)
        state = STATES[self.book.get(number).state]
        raise TaskError(
            f"{task_name(number)} is not leased to you as attempt {attempt}: it is {state}",
            code="not-leased",
            task_id=task_name(number),
            attempt=attempt,
            state=state,
        )

    # -- the end of an attempt --------------------------------------------------------------------------------------

    def complete(self, lease: Lease, result: str) -> Task:
        """The task is done; `result` is JSON text."""
        task = lease.task
        now_us = self._end_lease(lease)
        run_us = now_us - lease.since_us
        self._expected.learn(task.handler, task.task_type, run_us)
        self.counts.run.observe_us(run_us)
        task.result = result
        task.error = None
        self._finish(task, DONE, now_us, "completed", None)
        return task

    def fail(self, lease: Lease, error: str, *, retry: bool, result: str | None = None) -> Task:
        """The attempt failed: again after a pause, dead when that was the last one, failed when `retry` is False."""
        task = lease.task
        now_us = self._end_lease(lease)
        self.book.turn.lease_over(task)
        task.failures += 1
        task.error = error
        task.result = result
        if not retry:
            self._finish(task, FAILED, now_us, "failed", error)
        elif poisoned(task.failures, task.max_attempts):
            self._finish(task, DEAD, now_us, "dead", error)
        else:
            self.counts.retries += 1
            self._wait_until(task, now_us + backoff_us(task.failures, self._jitter()))
            self.book.turn.event(task.id, now_us, "retry", task.attempts, error)
        return task

    def defer(self, lease: Lease, delay_us: int, reason: str) -> Task:
        """The worker hands it back; no attempt is used up."""
        now_us = self._end_lease(lease)
        self.book.turn.lease_over(lease.task)
        self._wait_until(lease.task, now_us + delay_us)
        self.book.turn.event(lease.task.id, now_us, "deferred", lease.attempt, reason)
        return lease.task

    def wait(self, lease: Lease) -> Task:
        """The worker hands it back until its children have ended; no attempt is used up and the rank stays.

        It is queued at once when none is open, or when one has failed that its worker was not told of and it is to
        be woken by that; it fails at once when that is what a failed child means.
        """
        task = lease.task
        now_us = self._end_lease(lease)
        self.book.turn.lease_over(task)
        if task.failed_children and task.on_child_failure == FAIL:
            self.book.write()
            child = self._rows.failed_child(task.id)
            task.error = "a child failed" if child is None else hierarchy.failure(child)
            self._finish(task, FAILED, now_us, "failed", task.error)
            return task
        self.book.move(task, WAITING)
        task.worker = None
        task.not_before_us = None
        self.book.turn.event(task.id, now_us, "waiting", lease.attempt, None)
        if not task.open_children:
            self._wake(task, "its children have ended")
        elif task.on_child_failure == CONTINUE and task.failed_children > lease.failed_children:
            self._wake(task, "a child has failed")
        return task

    # -- during an attempt ------------------------------------------------------------------------------------------

    def extend(self, lease: Lease, us: int) -> int:
        """No sign of life is needed for this long: until when, in queue time."""
        now_us = self.timeline.now_us()
        self.leases.extend(lease, now_us + us, now_us)
        return now_us + us

    def progress(self, lease: Lease, percent: float | None, message: str | None) -> Task:
        """How far it is: kept with the task, told to those who watch, no part of its history. A sign of life."""
        task = lease.task
        now_us = self.timeline.stamp_us()
        lease.worker.expires_us = now_us + LEASE_US
        task.progress = dumps_ascii({"percent": percent, "message": message, "at_us": now_us})
        self.book.touch(task)
        self.book.turn.said(task.id, now_us, "progress", lease.attempt, message)
        return task

    # -- what a person does -----------------------------------------------------------------------------------------

    def hurry(self, number: int, reason: str) -> Task:
        """What it waited for came early: a deferred task is queued now. Others stay as they are."""
        task = self.book.get(number)
        if task.state == WAITING and task.not_before_us is not None:
            self._wake(task, reason)
        return task

    def cancel(self, number: int, reason: str) -> Task:
        """End a task and all live tasks below it, running ones too. Raises TaskError: no-such-task, ended."""
        task = self.book.get(number)
        if not task.live:
            raise TaskError(f"{task_name(number)} is {STATES[task.state]} already", code="ended")
        self._drop(task, reason)
        self._family(task, reason)
        return task
