"""Deadlines watched, not only written down: a warning while there is time, a breach counted once.

A task has at most two SLA events: slack (20 % of its time is left: it moves up one priority, and people can act
before the breach) and breach. Both fire for queued, waiting and running tasks alike.
"""

from __future__ import annotations

from graced.htm.order import rank_us
from graced.model.task import CRITICAL, SLA_BREACHED, SLA_FINE, SLA_SLACK, Task

SLACK_SHARE = 5
"""One part in this many of the SLA is left when the slack event fires."""


def next_event_us(sla_state: int, sla_seconds: int, deadline_us: int, created_us: int) -> int | None:
    """When the next SLA event is due in queue time; None after the breach.

    A child with its parent's deadline has less time than its own SLA says: its share is of what it has.
    """
    if sla_state == SLA_FINE:
        span_us = min(sla_seconds * 1_000_000, deadline_us - created_us)
        return deadline_us - span_us // SLACK_SHARE
    return deadline_us if sla_state == SLA_SLACK else None


def due(task: Task, now_us: int) -> str:
    """Advance the task's SLA state if an event is due: "slack", "breached" or "" (and `sla_next_us` is set anew).

    A task found after its deadline (the host was down) goes straight to the breach.
    """
    if task.sla_state != SLA_BREACHED and now_us >= task.deadline_us:
        task.sla_state, task.sla_next_us = SLA_BREACHED, None
        return "breached"
    event_us = next_event_us(task.sla_state, task.sla_seconds, task.deadline_us, task.created_us)
    if task.sla_state == SLA_FINE and event_us is not None and now_us >= event_us:
        task.sla_state, task.sla_next_us = SLA_SLACK, task.deadline_us
        return "slack"
    task.sla_next_us = event_us
    return ""


def escalated(task: Task, expected_us: int) -> tuple[int, int]:
    """(priority, rank) one level up; never a lower priority, never a later rank, and the deadline stays.

    The rank counts from when the SLA began, so that one that was queued again long after it had been created does not
    overtake everything.
    """
    priority = max(CRITICAL, task.priority - 1)
    start_us = max(task.created_us, task.deadline_us - task.sla_seconds * 1_000_000)
    return priority, min(task.rank, rank_us(priority, start_us, task.deadline_us, expected_us))
