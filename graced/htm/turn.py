"""What changed since the last commit, and the door through which the engine reads and writes rows."""

from __future__ import annotations

from graced.model.task import DONE, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Protocol, TypeAlias

    from graced.htm.lease import Lease

    EventRow: TypeAlias = tuple[int, int, str, int, str | None]
    Written: TypeAlias = tuple[dict[int, Task], dict[int, Task], list[EventRow]]
    ModeRow: TypeAlias = tuple[str, str, str, str, int]
    TallyKey: TypeAlias = tuple[str, str, int, int]
    TallyRow: TypeAlias = tuple[str, str, int, int, int]

    class Rows(Protocol):
        """The stored tasks. Reads see what `write` wrote, committed or not; none is larger than its limit."""

        def next_id(self) -> int:
            """The number the next task gets; never one that was committed before."""

        def tally(self) -> list[TallyRow]:
            """Counts: (handler, origin, priority, state, n)."""

        def load(self, number: int) -> Task | None:
            """One task."""

        def live_with_key(self, key: str) -> int:
            """The live task with this idempotency key, or 0."""

        def live_with_keys(self, keys: list[str]) -> dict[str, int]:
            """The live tasks with these idempotency keys, by key."""

        def queued(self, handler: str, start: tuple[int, int], limit: int) -> tuple[list[Task], bool]:
            """Queued tasks of a handler from (rank, id) `start` on, in order; and whether there may be more."""

        def leased(self) -> list[Task]:
            """All leased tasks."""

        def live_children(self, parent: int, limit: int = -1) -> list[Task]:
            """Live tasks with this parent, oldest first; all of them without a limit."""

        def children(self, parent: int, limit: int) -> list[Task]:
            """Tasks with this parent in any state, oldest first."""

        def failed_child(self, parent: int) -> Task | None:
            """The child that ended last in another way than done."""

        def ahead(self, handler: str, before: tuple[int, int], limit: int) -> int:
            """How many queued tasks of a handler come before (rank, id), counted up to `limit`."""

        def modes(self) -> list[ModeRow]:
            """Handlers that are held: (handler, mode, reason, by, since)."""

        def set_mode(self, mode: ModeRow) -> None:
            """Keep or replace a handler's mode, in the open transaction."""

        def clear_mode(self, handler: str) -> None:
            """Forget a handler's mode, in the open transaction."""

        def set_deadline(self, task: Task) -> None:
            """Store a new deadline of a stored task, in the open transaction."""

        def due(self, now_us: int, limit: int) -> list[Task]:
            """Waiting tasks whose pause is over."""

        def next_due_us(self) -> int | None:
            """When the next pause ends."""

        def sla_due(self, now_us: int, limit: int) -> list[Task]:
            """Live tasks with an SLA event due."""

        def next_sla_us(self) -> int | None:
            """When the next SLA event is due."""

        def write(
            self,
            new: Collection[Task],
            changed: Collection[Task],
            brief: Collection[Task],
            events: list[EventRow],
            tally: list[TallyRow],
            next_id: int,
            last_us: int,
        ) -> None:
            """Execute all this in the open transaction (begun when none is).

            Of the tasks in `brief` only the lease is new (those in state LEASED), or only the end (DONE).
            """


class Turn:
    """Collected between two commits.

    `new` and `changed` tasks are written whole; a lease or a completion alone is a change of few columns: `brief`.
    A task is in one of the three at most.

    To be told after the commit: `granted` leases, `revoked` ones (with the reason; their workers do not know yet),
    `finished` tasks, `notices` (SLA: "slack" or "breached"), and `log`, every batch that was written: (new, changed,
    events). `modes`: were handlers held or freed?

    Of what happens to a task, `events` are told and kept; `fleeting` ones are told only: the row itself says them
    (submitted, completed, the lease it has or was done in) or they are no history (progress); `late` ones are kept
    only: a lease that the row will not show any more. `log` and `fleeting` are kept only while `heard`.
    """

    __slots__ = (
        "brief", "changed", "ended", "events", "finished", "fleeting", "granted", "heard", "keys", "late", "log",
        "modes", "new", "notices", "revoked", "touched",
    )  # fmt: skip

    def __init__(self, *, heard: bool = False) -> None:
        self.heard = heard
        self.brief: dict[int, Task] = {}
        self.new: dict[int, Task] = {}
        self.changed: dict[int, Task] = {}
        self.touched: set[int] = set()
        self.keys: dict[str, Task] = {}
        self.events: list[EventRow] = []
        self.fleeting: list[EventRow] = []
        self.late: list[EventRow] = []
        self.granted: list[Lease] = []
        self.ended: list[Lease] = []
        self.revoked: list[tuple[Lease, str]] = []
        self.finished: list[Task] = []
        self.notices: list[tuple[str, Task]] = []
        self.log: list[Written] = []
        self.modes = False

    def event(self, number: int, at_us: int, kind: str, attempt: int, detail: str | None) -> None:
        """One line of a task's history; `at_us` is a stamp, unique."""
        self.events.append((number, at_us, kind, attempt, detail))

    def said(self, number: int, at_us: int, kind: str, attempt: int, detail: str | None) -> None:
        """As `event`, of what the row itself shows. Hot paths ask for `heard` before they call."""
        if self.heard:
            self.fleeting.append((number, at_us, kind, attempt, detail))

    def lease_over(self, task: Task) -> None:
        """The lease of a task ends in another way than done, and its row will not show it any more."""
        if task.started_us is not None:
            self.late.append((task.id, task.started_us, "leased", task.attempts, task.worker))

    def written(self) -> None:
        """The rows have them; what changes from here on changes again."""
        self.touched.update(self.new)
        self.touched.update(self.changed)
        self.touched.update(self.brief)
        if self.heard:
            self.log.append((self.new, self.changed | self.brief, self.events + self.fleeting))
        self.new = {}
        self.changed = {}
        self.brief = {}
        self.events = []
        self.fleeting = []
        self.late = []

    @property
    def empty(self) -> bool:
        """Is there nothing to write or to tell?"""
        return not (self.new or self.changed or self.brief or self.events or self.touched or self.ended or self.modes)


class Tally:
    """How many tasks there are by (handler, origin, priority, state), kept by addition: never counted."""

    __slots__ = ("_delta", "_total", "_unsettled", "live", "live_of")

    def __init__(self, rows: list[TallyRow]) -> None:
        self._total: dict[TallyKey, int] = {row[:4]: row[4] for row in rows}
        self.live = 0
        self.live_of: dict[str, int] = {}
        self._delta: dict[TallyKey, int] = {}
        self._unsettled: dict[TallyKey, int] = {}
        for (_, origin, _, state), count in self._total.items():
            if state < DONE:
                self._alive(origin, count)

    @property
    def total(self) -> dict[TallyKey, int]:
        """All counts, with what is not written yet."""
        total = dict(self._total)
        for key, count in self._delta.items():
            total[key] = total.get(key, 0) + count
        return total

    def _alive(self, origin: str, count: int) -> None:
        self.live += count
        self.live_of[origin] = self.live_of.get(origin, 0) + count

    def add(self, task: Task, count: int) -> None:
        """Count `task` in (1) or out (-1) as it is."""
        key = (task.handler, task.origin, task.priority, task.state)
        self._delta[key] = self._delta.get(key, 0) + count
        if task.state < DONE:
            self._alive(task.origin, count)

    def add_all(self, tasks: list[Task]) -> None:
        """Count many in."""
        kinds: dict[TallyKey, list[Task]] = {}
        for task in tasks:
            kinds.setdefault((task.handler, task.origin, task.priority, task.state), []).append(task)
        for of_a_kind in kinds.values():
            self.add(of_a_kind[0], len(of_a_kind))

    def moved(self, task: Task, before: int) -> None:
        """`task` was in the state `before`."""
        handler, origin, priority, state = task.handler, task.origin, task.priority, task.state
        delta = self._delta
        key = (handler, origin, priority, before)
        delta[key] = delta.get(key, 0) - 1
        key = (handler, origin, priority, state)
        delta[key] = delta.get(key, 0) + 1
        if (before < DONE) is not (state < DONE):
            self._alive(origin, 1 if state < DONE else -1)

    def all_moved(self, tasks: list[Task], before: int, state: int) -> None:
        """They all were in the state `before`, and are in `state` now."""
        kinds: dict[tuple[str, str, int], int] = {}
        for task in tasks:
            kind = (task.handler, task.origin, task.priority)
            kinds[kind] = kinds.get(kind, 0) + 1
        delta = self._delta
        for kind, count in kinds.items():
            delta[*kind, before] = delta.get((*kind, before), 0) - count
            delta[*kind, state] = delta.get((*kind, state), 0) + count
            if (before < DONE) is not (state < DONE):
                self._alive(kind[1], count if state < DONE else -count)

    def take(self) -> list[TallyRow]:
        """The changes to write now."""
        delta, self._delta = self._delta, {}
        rows = []
        for key, count in delta.items():
            if count:
                self._unsettled[key] = self._unsettled.get(key, 0) + count
                self._total[key] = self._total.get(key, 0) + count
                rows.append((*key, count))
        return rows

    def removed(self, counts: dict[TallyKey, int]) -> None:
        """These finished tasks were taken out of the rows, and out of their tally, in the open transaction."""
        for key, count in counts.items():
            self._unsettled[key] = self._unsettled.get(key, 0) - count
            self._total[key] = self._total.get(key, 0) - count

    def settle(self) -> None:
        """They are on disk."""
        self._unsettled.clear()

    def revert(self) -> None:
        """They were rolled back, and so is what was not written yet."""
        for key, count in self._unsettled.items():
            self._total[key] -= count
        for changes in (self._unsettled, self._delta):
            for (_, origin, _, state), count in changes.items():
                if state < DONE:
                    self._alive(origin, -count)
            changes.clear()

    def by(self, *, handler: str | None = None) -> dict[tuple[int, int], int]:
        """Counts by (priority, state), of one handler or of all."""
        counts: dict[tuple[int, int], int] = {}
        for (of, _, priority, state), count in self.total.items():
            if handler is None or of == handler:
                counts[priority, state] = counts.get((priority, state), 0) + count
        return counts
