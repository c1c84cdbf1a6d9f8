"""Many of a kind at once: plain tasks that come together, leases that end together.

The rules are those of intake and results. What is the same for all is looked up once, and whatever is not plain stops
the run before it: the caller takes that one by itself.
"""

from __future__ import annotations

from graced.base.errors import TaskError
from graced.htm import sla
from graced.htm.intake import Intake
from graced.htm.lease import LEASE_US
from graced.htm.limits import admit
from graced.htm.mode import DRAINED
from graced.htm.order import rank_us
from graced.htm.results import Results
from graced.htm.retry import MAX_ATTEMPTS
from graced.model.task import DEFAULT_SLA_SECONDS, DONE, FAIL, LEASED, LOW, QUEUED, SLA_FINE, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from graced.htm.lease import Lease

    Plain: TypeAlias = tuple[str, str, int, int | None, str, str | None]


class Runs(Intake, Results):
    """See the module."""

    def submit_run(self, specs: list[Plain], origin: str) -> list[tuple[int, bool]]:
        """As `submit` for each: (handler, task type, priority, SLA in seconds, context, idempotency key).

        All of them, or none when there may be a reason to refuse one.
        """
        if not self._open_to(specs, origin):
            return []
        book, timeline = self.book, self.timeline
        known = book.live_with_keys([spec[5] for spec in specs if spec[5] is not None])
        kinds: dict[tuple[str, str, int, int | None], tuple[int, int, int, int]] = {}
        now_us = timeline.stamps_us(len(specs))
        wall_us, boot, offset_us = timeline.clock.wall_us(), timeline.boot, timeline.offset_us
        taken: list[tuple[int, bool]] = []
        fresh: list[Task] = []
        for handler, task_type, priority, sla_seconds, context, key in specs:
            if key is not None and key in known:
                taken.append((known[key], True))
                continue
            number = book.next_number()
            if key is not None:
                known[key] = number
            kind = (handler, task_type, priority, sla_seconds)
            if kind not in kinds:
                kinds[kind] = self._kind(*kind)
            seconds, span_us, rank_after_us, event_after_us = kinds[kind]
            deadline_us = now_us + span_us
            fresh.append(Task(
                (
                    number, QUEUED, priority, now_us + rank_after_us, 0, 0, MAX_ATTEMPTS, None, 0, FAIL,
                    handler, task_type, origin, None, key, seconds, now_us, wall_us,
                    wall_us + span_us, boot, deadline_us - offset_us,
                    None, SLA_FINE, now_us + event_after_us, None, None, None, context, None, None, None,
                    0, 0, None,
                ),
                deadline_us,
            ))  # fmt: skip
            taken.append((number, False))
            now_us += 1
        self.counts.deduplicated += len(specs) - len(fresh)
        book.add_all(fresh)
        for task in fresh:
            self._watch_at(task.sla_next_us)
            if book.turn.heard:
                book.turn.said(task.id, task.created_us, "submitted", 0, None)
        return taken

    def _open_to(self, specs: list[Plain], origin: str) -> bool:
        """May all of them enter, whatever they are?"""
        if self.draining or (self.strain and any(spec[2] == LOW for spec in specs)):
            return False
        if self._modes and any(self._modes.of(handler, DRAINED) for handler in {spec[0] for spec in specs}):
            return False
        live = self.book.tally.live + len(specs)
        live_of_origin = self.book.tally.live_of.get(origin, 0) + len(specs)
        try:
            for priority in {spec[2] for spec in specs}:
                admit(self.limits, priority, live, live_of_origin, origin, self.finished_per_second)
        except TaskError:
            return False
        return True

    def _kind(self, handler: str, task_type: str, priority: int, sla_seconds: int | None) -> tuple[int, int, int, int]:
        """(SLA in seconds, until the deadline, rank, until the first SLA event) of one that is created at 0."""
        seconds = DEFAULT_SLA_SECONDS[priority] if sla_seconds is None else sla_seconds
        span_us = seconds * 1_000_000
        rank_after_us = rank_us(priority, 0, span_us, self._expected.us(handler, task_type))
        event_us = sla.next_event_us(SLA_FINE, seconds, span_us, 0)
        assert event_us is not None
        return seconds, span_us, rank_after_us, event_us

    def complete_run(self, ended: list[tuple[Lease, str]]) -> int:
        """As `complete` for each (lease, result), and how many they were; no task twice, and each `alone`."""
        turn, end_lease = self.book.turn, self.leases.end
        learn = self._expected.learn
        runs_us: list[int] = []
        now_us = self.timeline.stamps_us(len(ended))
        for lease, result in ended:
            end_lease(lease)
            turn.ended.append(lease)
            lease.worker.expires_us = now_us + LEASE_US
            task = lease.task
            run_us = now_us - lease.since_us
            learn(task.handler, task.task_type, run_us)
            runs_us.append(run_us)
            task.state = DONE
            task.finished_us = now_us
            task.result = result
            task.error = task.not_before_us = task.sla_next_us = None
            turn.finished.append(task)
            if turn.heard:
                turn.said(task.id, now_us, "completed", task.attempts, None)
            now_us += 1
        self.counts.run.observe_all_us(runs_us)
        self._drain_rate.finished(now_us, len(ended))
        self.book.all_moved([lease.task for lease, _ in ended], LEASED, DONE)
        return len(ended)
