"""Why a task is where it is: the facts. Read only, for people; nothing here decides anything."""

from __future__ import annotations

from graced.base.record import Record
from graced.htm.lease import LEASE_US
from graced.htm.mode import DRAINED, PAUSED
from graced.model.task import LEASED, QUEUED, STATES, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.htm.lease import Leases
    from graced.htm.mode import Modes
    from graced.htm.turn import Rows

MAX_AHEAD = 10_000
MAX_CHILDREN = 20


class Why(Record):
    """The facts about one task. `mode` is how its handler (or all) is held; it has `workers` with `free_credits`.

    `ahead` (of a queued task) and `open_children` (ids, of a live one) are counted up to MAX_AHEAD and MAX_CHILDREN;
    `open_count` is how many children are open in all. `silent_us`: since the worker's last sign of life. `slack_us`:
    until the deadline, negative after it; None when the task has ended. Times are queue time.
    """

    number: int
    state: str
    handler: str
    mode: str | None
    workers: int
    free_credits: int
    ahead: int
    ahead_truncated: bool
    not_before_us: int | None
    open_children: tuple[int, ...]
    open_count: int
    worker: str | None
    silent_us: int | None
    deadline_us: int
    slack_us: int | None
    failures: int
    max_attempts: int
    error: str | None
    now_us: int


def explain(task: Task, rows: Rows, leases: Leases, modes: Modes, now_us: int) -> Why:
    """Collect the facts; the turn must have been written."""
    mode = modes.of(task.handler, PAUSED) or modes.of(task.handler, DRAINED)
    workers = [worker for worker in leases.workers() if worker.handler == task.handler]
    ahead = rows.ahead(task.handler, (task.rank, task.id), MAX_AHEAD) if task.state == QUEUED else 0
    lease = leases.get(task.id)
    children: tuple[int, ...] = ()
    if task.live and task.open_children:
        children = tuple(child.id for child in rows.live_children(task.id, MAX_CHILDREN))
    return Why(
        number=task.id,
        state=STATES[task.state],
        handler=task.handler,
        mode=None if mode is None else mode.word,
        workers=len(workers),
        free_credits=sum(max(0, worker.free) for worker in workers),
        ahead=ahead,
        ahead_truncated=ahead >= MAX_AHEAD,
        not_before_us=task.not_before_us,
        open_children=children,
        open_count=task.open_children,
        worker=task.worker if task.state == LEASED else None,
        silent_us=None if lease is None else max(0, now_us - (lease.worker.expires_us - LEASE_US)),
        deadline_us=task.deadline_us,
        slack_us=task.deadline_us - now_us if task.live else None,
        failures=task.failures,
        max_attempts=task.max_attempts,
        error=task.error,
        now_us=now_us,
    )
