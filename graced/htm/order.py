"""Which task is next: a static rank, and the head of the queue in memory.

The rank is a virtual deadline, ``min(max(created, deadline - expected run time), created + AGE[priority])``: earliest
deadline first, where priorities are head starts. It never changes with time, so an index holds it, and it bounds
starvation: a task can only be overtaken by tasks submitted before ``created + AGE`` and by the critical lane, which is
strict. (Virtual deadlines: Stankovic, Spuri, Ramamritham, Buttazzo, "Deadline Scheduling for Real-Time Systems", 1998.)
"""

from __future__ import annotations

from _heapq import heapify, heappop, heappush

from graced.model.task import CRITICAL, LEASED, QUEUED, Task

AGE_US = (0, 60_000_000, 600_000_000, 3_600_000_000)
"""By priority: how long others may go first."""

_LANE = 1 << 60
"""Subtracted from the rank of critical tasks: queue time stays below 2**53, so the lanes cannot touch."""

_EVERYTHING: tuple[int, int] = (-(1 << 62), 0)

WINDOW_HIGH = 8192
WINDOW_KEEP = 4096
WINDOW_LOW = 256


def rank_us(priority: int, created_us: int, deadline_us: int, expected_us: int) -> int:
    """The sort key of a task; smaller goes first. `created_us` is when it may first run."""
    rank = min(max(created_us, deadline_us - expected_us), created_us + AGE_US[priority])
    return rank - _LANE if priority == CRITICAL else rank


class Expected:
    """How long tasks of one kind run, learned: an exponential average with weight 1/8, bounded in kinds."""

    __slots__ = ("_us",)

    _MAX_KINDS = 512

    def __init__(self) -> None:
        self._us: dict[tuple[str, str], int] = {}

    def us(self, handler: str, task_type: str) -> int:
        """Expected run time in µs; 0 while unknown."""
        return self._us.get((handler, task_type), 0)

    def learn(self, handler: str, task_type: str, run_us: int) -> None:
        """Take one finished run into account."""
        kind = (handler, task_type)
        known_us = self._us.get(kind)
        if known_us is None:
            if len(self._us) < self._MAX_KINDS:
                self._us[kind] = run_us
            return
        self._us[kind] = known_us + (run_us - known_us) // 8


def _entry(task: Task) -> tuple[int, int, int, Task]:
    """A task in its place. One that ended and was queued again may be in a window twice, once as it was before and
    under the same rank: tasks are not compared.
    """
    return task.rank, task.id, id(task), task


class Window:
    """The head of one handler's queue. The store's index is the queue; this caches its front.

    Every queued task whose ``(rank, id)`` is below `horizon` is here; the others are only in the store. A new window
    is empty with everything beyond its horizon, so a start with a million tasks loads nothing.
    """

    __slots__ = ("_heap", "horizon")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Task]] = []
        self.horizon: tuple[int, int] | None = _EVERYTHING

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, task: Task) -> bool:
        """Take a queued task in; False when it lies beyond the horizon and stays in the store only."""
        if self.horizon is not None and (task.rank, task.id) >= self.horizon:
            return False
        heappush(self._heap, _entry(task))
        return True

    def take(self, most: int) -> list[Task]:
        """The next ones, leased from here on; fewer than `most` when a refill is due or nothing is queued.

        At least one where there is one.
        """
        heap = self._heap
        low = 0 if self.horizon is None else WINDOW_LOW
        taken: list[Task] = []
        while heap and len(taken) < most and (len(heap) >= low or not taken):
            rank, _, _, task = heappop(heap)
            # cancelled, escalated (it is in here a second time) or taken: entries are never searched for
            if task.state == QUEUED and task.rank == rank:
                task.state = LEASED
                taken.append(task)
        return taken

    @property
    def hungry(self) -> bool:
        """Is there more in the store, and little left here?"""
        return self.horizon is not None and len(self._heap) < WINDOW_LOW

    def refill(self, tasks: list[Task], *, complete: bool) -> None:
        """Take over what the store has from the horizon on, in order; `complete`: it has no more than these.

        When not complete, the last one becomes the new horizon and is not taken.
        """
        if complete:
            self.horizon = None
        else:
            last = tasks.pop()
            self.horizon = (last.rank, last.id)
        # each comes after all that is here, and in order: a heap as it is
        self._heap += [_entry(task) for task in tasks]

    def trim(self) -> list[Task]:
        """Give back the tail once the window has grown too long; the store still has these tasks."""
        if len(self._heap) <= WINDOW_HIGH:
            return []
        entries = sorted(entry for entry in self._heap if entry[3].state == QUEUED and entry[3].rank == entry[0])
        if len(entries) <= WINDOW_KEEP:
            self._heap = entries
            return []
        self.horizon = entries[WINDOW_KEEP][:2]
        self._heap = entries[:WINDOW_KEEP]
        heapify(self._heap)
        return [task for *_, task in entries[WINDOW_KEEP:]]
