"""io.graced.HTM.Watch: changes of tasks for whoever looks on, after they are on disk.

A watcher costs a bounded amount: one that does not read loses changes, is told how many, and neither blocks the
queue nor makes it grow. Nothing is collected while nobody watches.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.model.task import (
    CANCELLED,
    DEAD,
    DONE,
    FAILED,
    LEASED,
    PRIORITIES,
    QUEUED,
    STATES,
    WAITING,
    task_name,
)
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.htm.timeline import Timeline
    from graced.htm.turn import EventRow, Written
    from graced.model.task import Task
    from graced.runtime.connection import Call

MAX_WATCHERS = 64
MAX_BACKLOG_BYTES = 256 << 10
"""What one watcher may leave unread before it loses changes; a change is about 250 bytes."""
MAX_CHANGES_PER_TURN = 2000
"""Of one turn for one watcher: dispatch comes first."""

_STATE_AFTER = {
    "leased": LEASED,
    "progress": LEASED,
    "completed": DONE,
    "failed": FAILED,
    "dead": DEAD,
    "cancelled": CANCELLED,
    "retry": WAITING,
    "deferred": WAITING,
    "waiting": WAITING,
    "woken": QUEUED,
    "lost": QUEUED,
    "returned": QUEUED,
    "expired": QUEUED,
    "requeued": QUEUED,
}


class _Watcher:
    __slots__ = ("call", "dropped", "handler", "number", "room", "told")

    def __init__(self, call: Call, handler: str | None, number: int | None) -> None:
        self.call = call
        self.handler = handler
        self.number = number
        self.dropped = 0
        self.told = 0
        self.room = 0

    def wants(self, task: Task) -> bool:
        return (self.number is None or self.number == task.id) and self.handler in {None, task.handler}

    def tell(self, change: JsonDict) -> bool:
        """Send it; False when it had to be dropped."""
        if self.room <= 0 or self.call.backlog_bytes > MAX_BACKLOG_BYTES:
            self.dropped += 1
            return False
        self.room -= 1
        self._send(change)
        return True

    def catch_up(self) -> bool:
        """Tell it what it has missed once it reads again; False while it does not."""
        if self.told != self.dropped:
            if self.call.backlog_bytes > MAX_BACKLOG_BYTES // 2:
                return False
            self._send(None)
        return True

    def _send(self, change: JsonDict | None) -> None:
        self.told = self.dropped
        self.call.reply({"change": change, "dropped": self.dropped}, continues=True)


class Watchers:
    """Everyone who watches one queue. `dropped` counts the changes that slow ones lost."""

    def __init__(self) -> None:
        self._watchers: list[_Watcher] = []
        self._behind = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._watchers)

    def add(self, call: Call, handler: str | None, number: int | None) -> None:
        """Take in one more, for tasks of `handler` or for one task, or for all. Raises VarlinkError: Busy."""
        if len(self._watchers) >= MAX_WATCHERS:
            reason = f"{MAX_WATCHERS} watchers already"
            raise VarlinkError("io.graced.HTM.Busy", {"retry_after_ms": 1000, "reason": reason})
        watcher = _Watcher(call, handler, number)
        self._watchers.append(watcher)
        call.on_close(lambda: self._watchers.remove(watcher))
        call.reply({"change": None, "dropped": 0}, continues=True)

    def tell(self, log: list[Written], timeline: Timeline) -> None:
        """Let them hear of a turn that is on disk: what was written in it, in order."""
        for watcher in self._watchers:
            watcher.room = MAX_CHANGES_PER_TURN
        for new, changed, events in log:
            for event in events:
                task = new.get(event[0]) or changed.get(event[0])
                if task is not None:
                    self._tell(task, event, timeline)

    def _tell(self, task: Task, event: EventRow, timeline: Timeline) -> None:
        change: JsonDict | None = None
        for watcher in self._watchers:
            if watcher.wants(task):
                change = change or _change(task, event, timeline)
                if not watcher.tell(change):
                    self.dropped += 1
                    self._behind = True

    def catch_up(self) -> None:
        """Once a turn of the loop: whoever reads again hears what it has missed, also when nothing changes."""
        if self._behind:
            self._behind = sum(not watcher.catch_up() for watcher in self._watchers) > 0


def _change(task: Task, event: EventRow, timeline: Timeline) -> JsonDict:
    _, at_us, kind, attempt, _ = event
    return {
        "task_id": task_name(task.id),
        "handler": task.handler,
        "task_type": task.task_type,
        "priority": PRIORITIES[task.priority],
        "state": STATES[_state_after(task, kind)],
        "kind": kind,
        "attempt": attempt,
        "at": iso(timeline.wall_us(at_us)),
    }


def _state_after(task: Task, kind: str) -> int:
    # the task is as the whole turn left it: one that was submitted may be leased by now
    state = _STATE_AFTER.get(kind)
    if state is not None:
        return state
    if kind == "submitted" and task.state not in {QUEUED, WAITING}:
        return QUEUED
    return task.state
