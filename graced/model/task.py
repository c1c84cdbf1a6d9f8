"""A task as the queue holds it: its states, its priorities and the one mutable record of the hot path.

Shared by the pure engine (graced.htm) and the store (graced.store.tasks), which never import each other.
`Task` mirrors one row: its slots up to ``deadline_us`` are the columns, in order. It is the exception to "values are
frozen": a million tasks an hour pass through it, and exactly one object exists per task in memory. All ``*_us``
times are queue time (see graced.htm.timeline) unless the name says wall or boottime.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PRIORITIES = ("critical", "high", "normal", "low")
CRITICAL, HIGH, NORMAL, LOW = range(4)

STATES = ("queued", "waiting", "leased", "done", "failed", "dead", "cancelled")
QUEUED, WAITING, LEASED, DONE, FAILED, DEAD, CANCELLED = range(7)
"""A state below DONE is live: the task may still run."""

SLA_FINE, SLA_SLACK, SLA_BREACHED = range(3)

ON_CHILD_FAILURE = ("fail", "continue", "ignore")
FAIL, CONTINUE, IGNORE = range(3)
"""What a child that ended failed, dead or cancelled means for its parent."""

DEFAULT_SLA_SECONDS = (300, 1800, 14400, 86400)

COLUMNS = (
    "id",
    "state",
    "priority",
    "rank",
    "attempts",
    "failures",
    "max_attempts",
    "parent",
    "open_children",
    "on_child_failure",
    "handler",
    "task_type",
    "origin",
    "intent_id",
    "idempotency_key",
    "sla_seconds",
    "created_us",
    "created_wall_us",
    "deadline_wall_us",
    "deadline_boot",
    "deadline_boottime_us",
    "not_before_us",
    "sla_state",
    "sla_next_us",
    "worker",
    "started_us",
    "finished_us",
    "context",
    "reasoning",
    "error",
    "result",
    "failed_children",
    "done_children",
    "progress",
)


class Task:
    """One task. `attempts` numbers its leases (a fencing token), `failures` counts those that were used up.

    `context` and `result` are JSON text, never re-encoded on the way; `progress` is the JSON text of {"percent",
    "message", "at_us"}. A waiting task without `not_before_us` waits for its children. `open_children` are live,
    `done_children` ended done and `failed_children` in any other way. `deadline_boot` is the store's number of the
    boot whose CLOCK_BOOTTIME `deadline_boottime_us` is; `deadline_us` is the same instant in queue time.
    """

    __slots__ = (*COLUMNS, "deadline_us")

    id: int
    state: int
    priority: int
    rank: int
    attempts: int
    failures: int
    max_attempts: int
    parent: int | None
    open_children: int
    on_child_failure: int
    handler: str
    task_type: str
    origin: str
    intent_id: str | None
    idempotency_key: str | None
    sla_seconds: int
    created_us: int
    created_wall_us: int
    deadline_wall_us: int
    deadline_boot: int
    deadline_boottime_us: int
    not_before_us: int | None
    sla_state: int
    sla_next_us: int | None
    worker: str | None
    started_us: int | None
    finished_us: int | None
    context: str
    reasoning: str | None
    error: str | None
    result: str | None
    failed_children: int
    done_children: int
    progress: str | None
    deadline_us: int

    def __init__(self, row: tuple[Any, ...], deadline_us: int) -> None:
        (
            self.id,
            self.state,
            self.priority,
            self.rank,
            self.attempts,
            self.failures,
            self.max_attempts,
            self.parent,
            self.open_children,
            self.on_child_failure,
            self.handler,
            self.task_type,
            self.origin,
            self.intent_id,
            self.idempotency_key,
            self.sla_seconds,
            self.created_us,
            self.created_wall_us,
            self.deadline_wall_us,
            self.deadline_boot,
            self.deadline_boottime_us,
            self.not_before_us,
            self.sla_state,
            self.sla_next_us,
            self.worker,
            self.started_us,
            self.finished_us,
            self.context,
            self.reasoning,
            self.error,
            self.result,
            self.failed_children,
            self.done_children,
            self.progress,
        ) = row
        self.deadline_us = deadline_us

    @property
    def live(self) -> bool:
        """May it still run?"""
        return self.state < DONE

    @property
    def alone(self) -> bool:
        """Does its end concern nobody above or below it?"""
        return self.parent is None and not self.open_children


def task_name(number: int) -> str:
    """The id people and messages use: ``task_7``."""
    return f"task_{number}"


def task_number(name: str) -> int:
    """The number in ``task_7``; 0, which no task has, when it is not such a name."""
    digits = name[5:]
    if not name.startswith("task_") or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        return 0
    return int(digits)
