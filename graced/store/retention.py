"""Finished tasks on their way out of the queue's database: which are due, as lines of JSON, and their deletion.

`Reader` runs on another thread with a connection of its own: everything that costs time (finding, rendering) happens
inside SQLite, which releases the interpreter, one row per slice. `remove` runs on the writer's connection and looks
again: a task that was requeued meanwhile, or that a live task refers to again, stays.

Two shelves with a limit each: done and cancelled; failed and dead. Successes, of which there are many, never push
out the failures that somebody still has to look at. A task goes when it is older than the keeping time or beyond the
shelf's count, oldest first. A live task's finished parent and a live parent's finished children stay.
"""

from __future__ import annotations

import json

from graced.base.record import Record
from graced.model.task import CANCELLED, COLUMNS, DEAD, DONE, FAILED, ON_CHILD_FAILURE, PRIORITIES, STATES
from graced.store.checkpoint import connect
from graced.store.db import translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import TypeAlias

    from graced.store.db import Database
    from graced.store.tasks import TaskStore

    Cursor: TypeAlias = tuple[int, int]
    Key: TypeAlias = tuple[str, str, int, int]
    Rows: TypeAlias = tuple[tuple[int, int], ...]

SHELVES = ((DONE, CANCELLED), (FAILED, DEAD))
START = (-1, -1)
MAX_SLICE_ROWS = 32
MAX_SLICE_BYTES = 256 << 10
_LOOK_ROWS = 100

_REFERRED = (
    "(EXISTS(SELECT 1 FROM task c WHERE c.parent = t.id AND c.state < 3)"
    " OR EXISTS(SELECT 1 FROM task p WHERE p.id = t.parent AND p.state < 3))"
)
_LOOK = f"""
SELECT json_group_array(json_array(id, finished_us, size, referred)) FROM (
  SELECT t.id, t.finished_us, {_REFERRED} AS referred,
    length(t.context) + ifnull(length(t.result), 0) + ifnull(length(t.reasoning), 0) AS size
  FROM task t INDEXED BY task_finished
  WHERE t.state = ? AND t.finished_us IS NOT NULL AND (t.finished_us, t.id) > (?, ?)
  ORDER BY t.finished_us, t.id LIMIT ?)
"""  # noqa: S608  # constants


def _words(column: str, words: tuple[str, ...]) -> str:
    cases = " ".join(f"WHEN {number} THEN '{word}'" for number, word in enumerate(words))
    return f"CASE t.{column} {cases} ELSE t.{column} END"


_SPECIAL = {
    "id": "'task_' || t.id",
    "parent": "'task_' || t.parent",
    "state": _words("state", STATES),
    "priority": _words("priority", PRIORITIES),
    "on_child_failure": _words("on_child_failure", ON_CHILD_FAILURE),
    "context": "CASE WHEN json_valid(t.context) THEN json(t.context) ELSE t.context END",
    "result": "CASE WHEN json_valid(t.result) THEN json(t.result) ELSE t.result END",
}
_FIELDS = ", ".join(f"'{name}', {_SPECIAL.get(name, f't.{name}')}" for name in COLUMNS)
# The rows of the view task_history for one task; through the view, SQLite would read all tasks for each.
_EVENTS = """(
  SELECT json_group_array(json_array(at_us, kind, attempt, detail)) FROM (
    SELECT t.created_us AS at_us, 'submitted' AS kind, 0 AS attempt, NULL AS detail
    UNION ALL SELECT e.at_us, e.kind, e.attempt, e.detail FROM task_event e WHERE e.task = t.id
    UNION ALL SELECT t.started_us, 'leased', t.attempts, t.worker WHERE t.state = 3 AND t.started_us IS NOT NULL
    UNION ALL SELECT t.finished_us, 'completed', t.attempts, NULL WHERE t.state = 3
    ORDER BY at_us))"""
_RENDER = f"""
SELECT group_concat(line, char(10)) FROM (
  SELECT json_object({_FIELDS}, 'events', {_EVENTS}) AS line
  FROM task t WHERE t.id IN (SELECT value FROM json_each(?)) ORDER BY t.id)
"""  # noqa: S608  # constants


class Slice(Record):
    """Finished tasks that are due, as (id, finished_us), and where to go on. `text` has a line for each.

    `cursor` is None at the end of the shelf's due tasks; `next_us` is then the queue time at which its oldest task
    finished that is not due yet, None when there is none.
    """

    rows: Rows
    text: bytes
    cursor: Cursor | None
    next_us: int | None = None


class Reader:
    """See the module. Used by one thread, which makes the first call. Raises StoreError."""

    __slots__ = ("_connection", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def slice(self, shelf: int, cursor: Cursor, cutoff_us: int, excess: int, limit: int) -> Slice:
        """The next due tasks of a shelf after `cursor`: finished at or before `cutoff_us`, or the oldest `excess`."""
        seen = sorted(
            (finished_us, number, size, referred)
            for state in SHELVES[shelf]
            for number, finished_us, size, referred in json.loads(self._value(_LOOK, (state, *cursor, _LOOK_ROWS)))
        )[:_LOOK_ROWS]
        rows: list[tuple[int, int]] = []
        total_bytes = 0
        for finished_us, number, size, referred in seen:
            if finished_us > cutoff_us and len(rows) >= excess:
                return self._slice(rows, None, finished_us)
            if rows and (len(rows) >= limit or total_bytes + size > MAX_SLICE_BYTES):
                return self._slice(rows, cursor)
            cursor = finished_us, number
            if not referred:
                rows.append((number, finished_us))
                total_bytes += size
        return self._slice(rows, cursor if len(seen) == _LOOK_ROWS else None)

    def _slice(self, rows: list[tuple[int, int]], cursor: Cursor | None, next_us: int | None = None) -> Slice:
        text = b""
        if rows:
            ids = json.dumps([number for number, _finished_us in rows])
            text = self._value(_RENDER, (ids,)).encode() + b"\n"
        return Slice(rows=tuple(rows), text=text, cursor=cursor, next_us=next_us)

    def _value(self, sql: str, values: tuple[object, ...]) -> str:
        import sqlite3

        if self._connection is None:
            self._connection = connect(self._path)
        try:
            row = self._connection.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        return row[0] or ""

    def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def remove(store: TaskStore, rows: Rows) -> tuple[list[int], dict[Key, int]]:
    """Delete those of (id, finished_us) that are still as they were, with events and tally, in this turn.

    Returns the deleted numbers and how many there were by (handler, origin, priority, state). Raises StoreError: then
    the turn must be rolled back.
    """
    finished_us = dict(rows)
    durable = store.durable
    found = store.db.rows(
        "SELECT t.id, t.finished_us, t.handler, t.origin, t.priority, t.state FROM task t"  # noqa: S608  # constants
        f" WHERE t.id IN (SELECT value FROM json_each(?)) AND t.state >= {DONE} AND NOT {_REFERRED}",
        (json.dumps(list(finished_us)),),
    )
    numbers: list[int] = []
    counts: dict[Key, int] = {}
    for number, at_us, *key in found:
        if at_us == finished_us[number]:
            numbers.append(number)
            of: Key = tuple(key)
            counts[of] = counts.get(of, 0) + 1
    ids = (json.dumps(numbers),)
    if not numbers:
        return numbers, counts
    durable.one("DELETE FROM task_event WHERE task IN (SELECT value FROM json_each(?))", ids)
    durable.one("DELETE FROM task WHERE id IN (SELECT value FROM json_each(?))", ids)
    durable.many(
        "UPDATE tally SET n = n - ? WHERE handler = ? AND origin = ? AND priority = ? AND state = ?",
        [(count, *of) for of, count in counts.items()],
    )
    return numbers, counts


def spare_pages(db: Database) -> tuple[int, int]:
    """(free pages, all pages) of the database file. Raises StoreError."""
    return db.rows("PRAGMA freelist_count")[0][0], db.rows("PRAGMA page_count")[0][0]


def shrink(db: Database, pages: int) -> None:
    """Take `pages` free pages out of the file, durably; it shrinks at a checkpoint. Not inside a transaction.

    Raises StoreError.
    """
    import sqlite3

    try:
        # a script is stepped to its end; a single statement would free one page only
        db.connection.executescript(f"PRAGMA incremental_vacuum({int(pages)})")
    except sqlite3.Error as error:
        raise translate(error, db.path) from error
