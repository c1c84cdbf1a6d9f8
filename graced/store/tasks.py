"""The queue's rows: every task and its history in SQLite, written in batches by one process.

The partial index ``task_queue`` *is* the queue; memory holds only its head. What one turn writes becomes durable
together with `commit` (group commit; graced.store.durable): nothing may be acknowledged before it returns. A new task,
its lease and its end are noted first, and written as the one row that has come of them; a read that could miss them
has them written before.
A task's number is never used again, also after its row is gone (`head.next_task`).
"""

from __future__ import annotations

import sys

from graced.base.errors import StoreError, suppress
from graced.base.json import dumps_text
from graced.model.task import COLUMNS, LEASED, QUEUED, WAITING, Task
from graced.store.db import Database, open_database, translate
from graced.store.durable import Durable
from graced.store.sqlite import sqlite3
from graced.store.taskrows import END, HEAD, TALLY, fold, insertions, keys_of, steps, updates
from graced.store.taskschema import MIGRATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from graced.store.durable import Statement

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM task"  # noqa: S608  # constants
_DEADLINE_UPDATE = "UPDATE task SET deadline_wall_us = ?, deadline_boot = ?, deadline_boottime_us = ? WHERE id = ?"
_EVENT = "INSERT INTO task_event VALUES (?, ?, ?, ?, ?)"
_LIVE_WITH_KEY = "SELECT id FROM task WHERE idempotency_key = ? AND finished_us IS NULL"
_LIVE_WITH_KEYS = (
    # an IN would sort them first, which costs as much again
    "SELECT idempotency_key, task.id FROM json_each(?) AS one CROSS JOIN task"
    " WHERE finished_us IS NULL AND idempotency_key = one.value"
)
_LISTS = {QUEUED: ("task_queue", "handler, rank, id"), LEASED: ("task_leased", "id")}
_DEADLINE = slice(COLUMNS.index("deadline_wall_us"), COLUMNS.index("deadline_boottime_us") + 1)
_TEXTS = slice(COLUMNS.index("context"), COLUMNS.index("result") + 1)
MAX_READ_BYTES = 4 << 20
"""Of texts that one query brings into memory: rows are at most 64 KiB each, but there may be many."""


class TaskStore:
    """See the module. Every method raises StoreError; after one from `write` or `commit`, call `rollback`."""

    def __init__(self, path: str, *, synchronous: str = "FULL") -> None:
        self.db: Database = open_database(path, MIGRATIONS, synchronous="NORMAL", shrinkable=True)
        self._connection = self.db.connection
        # What is not committed yet fits into memory, as it does into the redo log. Written to a full disk before its
        # commit, it could not be done again when that is refused.
        self._connection.execute("PRAGMA cache_spill=OFF")
        # of the tasks that were noted: whether any came, by their key, and those that were leased and that ended
        self._fresh = False
        self._came: dict[str, int] = {}
        self._leased: set[int] = set()
        self._ended: set[int] = set()
        try:
            self.durable = Durable(self.db, sync=synchronous == "FULL", fold=self._folded)
        except StoreError:
            self.db.close()
            raise
        self._offsets: dict[int, int] = {}
        self._deadline_us: Callable[[int, int, int, int], int] = _unbound

    # -- the boot we are in -----------------------------------------------------------------------------------------

    def last_us(self) -> int:
        """The newest stamp ever committed."""
        value: int = self.db.rows("SELECT last_us FROM head")[0][0]
        return value

    def boot(self, boot_id: str, first_offset_us: Callable[[], int]) -> tuple[int, int, bool]:
        """(number, offset in µs, is this the first start in it) of this boot; the first start fixes the offset."""
        rows = self.db.rows("SELECT id, offset_us FROM boot WHERE boot_id = ?", (boot_id,))
        first = not rows
        if first:
            self.durable.outside("INSERT INTO boot (boot_id, offset_us) VALUES (?, ?)", (boot_id, first_offset_us()))
            rows = self.db.rows("SELECT id, offset_us FROM boot WHERE boot_id = ?", (boot_id,))
        self._offsets = dict(self.db.rows("SELECT id, offset_us FROM boot"))
        number, offset_us = rows[0]
        return number, offset_us, first

    def bind(self, deadline_us: Callable[[int, int, int, int], int]) -> None:
        """How a stored deadline becomes queue time: (boot, boottime, wall, that boot's offset) → queue time."""
        self._deadline_us = deadline_us

    def _folded(self, statements: list[Statement]) -> list[Statement]:
        self._all_written()
        return fold(statements)

    def _all_written(self) -> None:
        self._fresh = False
        self._came = {}
        self._leased = set()
        self._ended = set()

    def _tasks(self, where: str, values: tuple[Any, ...]) -> list[Task]:
        return self._bounded(where, values, sys.maxsize)[0]

    def _bounded(self, where: str, values: tuple[Any, ...], room: int) -> tuple[list[Task], bool]:
        """Tasks until their texts are `room` bytes together, at least one; and whether there were more."""
        self.durable.catch_up()
        return self._read(where, values, room)

    def _read(self, where: str, values: tuple[Any, ...], room: int) -> tuple[list[Task], bool]:
        """As `_bounded`, without what is noted."""
        offset_us, deadline_us = self._offsets.get, self._deadline_us
        tasks: list[Task] = []
        try:
            for row in self._connection.execute(f"{_SELECT} {where}", values):
                if room < 0:
                    return tasks, True
                context, reasoning, error, result = row[_TEXTS]
                room -= len(context)
                if reasoning or error or result:
                    room -= len(reasoning or "") + len(error or "") + len(result or "")
                wall_us, boot, boottime_us = row[_DEADLINE]
                tasks.append(Task(row, deadline_us(boot, boottime_us, wall_us, offset_us(boot, 0))))
        except sqlite3.Error as error:
            raise translate(error, self.db.path) from error
        return tasks, False

    # -- Rows: what the engine asks (graced.htm.turn) ---------------------------------------------------------------

    def next_id(self) -> int:
        """The number the next task gets."""
        value: int = self.db.rows("SELECT next_task FROM head")[0][0]
        return value

    def tally(self) -> list[tuple[str, str, int, int, int]]:
        """Counts: (handler, origin, priority, state, n)."""
        return self.db.rows("SELECT handler, origin, priority, state, n FROM tally WHERE n != 0")

    def load(self, number: int) -> Task | None:
        """One task."""
        tasks = self._tasks("WHERE id = ?", (number,))
        return tasks[0] if tasks else None

    def live_with_key(self, key: str) -> int:
        """The live task with this idempotency key, or 0.

        Asked for every task that comes in: a look inside a transaction costs a third of one outside, and the turn that
        asks is about to write anyway.
        """
        number = self._came.get(key)
        if number is None:
            connection = self._connection
            self.durable.begin()
            try:
                row = connection.execute(_LIVE_WITH_KEY, (key,)).fetchone()
            except sqlite3.Error as error:
                raise translate(error, self.db.path) from error
            if row is None:
                return 0
            number = row[0]
        return 0 if number in self._ended else number

    def live_with_keys(self, keys: list[str]) -> dict[str, int]:
        """The live tasks with these idempotency keys, by key."""
        self.durable.begin()
        try:
            found: dict[str, int] = dict(self._connection.execute(_LIVE_WITH_KEYS, (dumps_text(keys),)).fetchall())
        except sqlite3.Error as error:
            raise translate(error, self.db.path) from error
        found.update([(key, self._came[key]) for key in self._came.keys() & keys])
        return {key: number for key, number in found.items() if number not in self._ended}

    def queued(self, handler: str, start: tuple[int, int], limit: int) -> tuple[list[Task], bool]:
        """Queued tasks of a handler from (rank, id) `start` on, in order; and whether there may be more.

        What is noted is written first only where it would show: while a long queue is worked off, leases and ends stay
        noted, as they do with a short one that is never read.
        """
        where = "WHERE handler = ? AND state = 0 AND (rank, id) >= (?, ?) ORDER BY rank, id LIMIT ?"
        values = (handler, *start, limit)
        if self._fresh:
            self.durable.catch_up()
        self.durable.check()
        tasks, more = self._read(where, values, MAX_READ_BYTES)
        if not self._leased.isdisjoint([task.id for task in tasks]):
            tasks, more = self._bounded(where, values, MAX_READ_BYTES)
        return tasks, more or len(tasks) == limit

    def leased(self) -> list[Task]:
        """All leased tasks."""
        return self._tasks("WHERE state = 2 ORDER BY id", ())

    def live_children(self, parent: int, limit: int = -1) -> list[Task]:
        """Live tasks with this parent, oldest first; all of them without a limit."""
        return self._tasks("WHERE parent = ? AND state < 3 ORDER BY id LIMIT ?", (parent, limit))

    def children(self, parent: int, limit: int) -> list[Task]:
        """Tasks with this parent in any state, oldest first."""
        return self._tasks("WHERE parent = ? ORDER BY id LIMIT ?", (parent, limit))

    def failed_child(self, parent: int) -> Task | None:
        """The child that ended last in another way than done."""
        tasks = self._tasks("WHERE parent = ? AND state > 3 ORDER BY finished_us DESC LIMIT 1", (parent,))
        return tasks[0] if tasks else None

    def ahead(self, handler: str, before: tuple[int, int], limit: int) -> int:
        """How many queued tasks of a handler come before (rank, id), counted up to `limit`."""
        sql = "SELECT 1 FROM task WHERE handler = ? AND state = 0 AND (rank, id) < (?, ?) LIMIT ?"
        rows = self.db.rows(f"SELECT count(*) FROM ({sql})", (handler, *before, limit))  # noqa: S608  # a constant
        count: int = rows[0][0]
        return count

    def oldest_queued(self, handler: str, limit: int) -> list[tuple[int, int]]:
        """(priority, created) of the oldest queued task of each priority, among the first `limit` of a handler."""
        sql = "SELECT priority, created_us FROM task WHERE handler = ? AND state = 0 ORDER BY rank, id LIMIT ?"
        return self.db.rows(
            f"SELECT priority, min(created_us) FROM ({sql}) GROUP BY priority ORDER BY priority",  # noqa: S608
            (handler, limit),
        )

    def modes(self) -> list[tuple[str, str, str, str, int]]:
        """Handlers that are held: (handler, mode, reason, by, since)."""
        return self.db.rows("SELECT handler, mode, reason, set_by, since_us FROM handler_mode ORDER BY handler")

    def set_mode(self, mode: tuple[str, str, str, str, int]) -> None:
        """Keep or replace a handler's mode, in the open transaction."""
        self.durable.one("INSERT OR REPLACE INTO handler_mode VALUES (?, ?, ?, ?, ?)", mode)

    def clear_mode(self, handler: str) -> None:
        """Forget a handler's mode, in the open transaction."""
        self.durable.one("DELETE FROM handler_mode WHERE handler = ?", (handler,))

    def set_deadline(self, task: Task) -> None:
        """Store a new deadline of a stored task, in the open transaction; `write` leaves deadlines alone."""
        values = (task.deadline_wall_us, task.deadline_boot, task.deadline_boottime_us, task.id)
        self.durable.one(_DEADLINE_UPDATE, values)

    def due(self, now_us: int, limit: int) -> list[Task]:
        """Waiting tasks whose pause is over."""
        return self._tasks(
            "WHERE state = 1 AND not_before_us IS NOT NULL AND not_before_us <= ? ORDER BY not_before_us LIMIT ?",
            (now_us, limit),
        )

    def next_due_us(self) -> int | None:
        """When the next pause ends."""
        return self._least("not_before_us", "state = 1 AND not_before_us IS NOT NULL")

    def sla_due(self, now_us: int, limit: int) -> list[Task]:
        """Live tasks with an SLA event due."""
        return self._tasks(
            "WHERE sla_next_us IS NOT NULL AND sla_next_us <= ? ORDER BY sla_next_us LIMIT ?", (now_us, limit)
        )

    def next_sla_us(self) -> int | None:
        """When the next SLA event is due."""
        return self._least("sla_next_us", "sla_next_us IS NOT NULL")

    def _least(self, column: str, where: str) -> int | None:
        rows = self.db.rows(f"SELECT {column} FROM task WHERE {where} ORDER BY {column} LIMIT 1")  # noqa: S608
        return rows[0][0] if rows else None

    def write(
        self,
        new: Collection[Task],
        changed: Collection[Task],
        brief: Collection[Task],
        events: list[tuple[int, int, str, int, str | None]],
        tally: list[tuple[str, str, int, int, int]],
        next_id: int,
        last_us: int,
    ) -> None:
        """Execute all this in the open transaction (begun when none is), or note it."""
        many, note = self.durable.many, self.durable.note
        # updates first: one of them may free the idempotency key that a new task uses
        for statement, rows in updates(changed) if changed else ():
            many(statement, rows)
        for statement, rows in steps(brief) if brief else ():
            note(statement, rows)
            (self._ended if statement == END else self._leased).update([row[-1] for row in rows])
        for statement, rows in insertions(new) if new else ():
            came = keys_of(statement, rows)
            if came is None:
                many(statement, rows)
            else:
                note(statement, rows)
                self._fresh = True
                self._came.update([(key, number) for key, number in came if key is not None])
        if events:
            many(_EVENT, events)
        if tally:
            note(TALLY, tally)
        note(HEAD, [(next_id, last_us)])

    # -- for the owner ----------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything written durable."""
        self.durable.commit()

    def settle(self) -> None:
        """Let SQLite commit what is durable already."""
        self.durable.settle()

    def probe(self) -> None:
        """Write without changing anything, so that the next `commit` shows whether the disk takes one."""
        self.durable.one("UPDATE head SET last_us = last_us")

    def rollback(self) -> None:
        """Forget everything written since the last commit."""
        if self.durable.rollback():
            # what came and ended is no longer what is noted
            self.durable.catch_up()
            self._all_written()

    def events(self, number: int) -> list[tuple[int, str, int, str | None]]:
        """A task's history: (queue time, kind, attempt, detail)."""
        return self.db.rows(
            "SELECT at_us, kind, attempt, detail FROM task_history WHERE task = ? ORDER BY at_us", (number,)
        )

    def listed(self, *, state: int | None, handler: str | None, limit: int) -> tuple[list[Task], bool]:
        """Tasks for a person to look at: queued ones in the order they will run, ended ones newest first; and whether
        their size cut the list short.

        Each query walks an index (or the newest numbers), so its cost goes with `limit`; only a rare handler among
        many ended tasks has to be searched for.
        """
        if state == WAITING:
            # those that wait for a time, then those that wait for their children
            where = "state = 1 AND not_before_us IS NOT NULL"
            delayed, cut = self._some("task_waiting", where, "not_before_us", handler, limit)
            left = limit - len(delayed)
            if cut or not left:
                return delayed, cut
            others, cut = self._some("task_family", "state = 1 AND not_before_us IS NULL", "id", handler, left)
            return delayed + others, cut
        if state is None:
            return self._some("", "1", "id DESC", handler, limit)
        if state in _LISTS:
            return self._some(_LISTS[state][0], f"state = {int(state)}", _LISTS[state][1], handler, limit)
        where = f"state = {int(state)} AND finished_us IS NOT NULL"
        return self._some("task_finished", where, "state, finished_us DESC", handler, limit)

    def _some(self, index: str, where: str, order: str, handler: str | None, limit: int) -> tuple[list[Task], bool]:
        hint = f"INDEXED BY {index} " if index else ""
        if handler is None:
            return self._bounded(f"{hint}WHERE {where} ORDER BY {order} LIMIT ?", (limit,), MAX_READ_BYTES)
        return self._bounded(
            f"{hint}WHERE {where} AND handler = ? ORDER BY {order} LIMIT ?", (handler, limit), MAX_READ_BYTES
        )

    def close(self) -> None:
        """Close the files; what was not committed is gone."""
        # what SQLite cannot take now is in the redo log
        with suppress(StoreError):
            self.rollback()
            self.durable.settle()
        self.db.close()
        self.durable.close()


def _unbound(*_values: int) -> int:
    raise AssertionError("bind() first")
