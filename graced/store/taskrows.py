"""How a task is written: the statements, and which of them a row needs.

Most rows have the same values in many columns. As constants in the statement these cost nothing; bound one by one they
are a third of what a row costs. And what a statement sets, SQLite takes out of every index over it and puts in again,
the same value too: a lease and a completion, which every task has, set only what they change. Used by
graced.store.tasks.

`fold` makes one statement of what a task went through since SQLite was last told of it.
"""

from __future__ import annotations

from _operator import attrgetter  # without the module around it, as in graced.base.sockets
from itertools import chain

from graced.model.task import COLUMNS, DONE, LEASED, QUEUED, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.store.durable import Statement

    Rows = list[tuple[Any, ...]]

_MUTABLE = (
    "state",
    "priority",
    "rank",
    "attempts",
    "failures",
    "open_children",
    "not_before_us",
    "sla_state",
    "sla_next_us",
    "worker",
    "started_us",
    "finished_us",
    "error",
    "result",
    "failed_children",
    "done_children",
    "progress",
)


USUAL: dict[str, int | None] = {
    "failures": 0,
    "open_children": 0,
    "not_before_us": None,
    "sla_state": 0,
    "error": None,
    "failed_children": 0,
    "done_children": 0,
    "progress": None,
}
USUAL_NEW = USUAL | {"parent": None, "on_child_failure": 0, "finished_us": None, "result": None}


def _literal(name: str, usual: dict[str, int | None]) -> str:
    if name not in usual:
        return "?"
    return "NULL" if usual[name] is None else str(usual[name])


def _insert(usual: dict[str, int | None], columns: tuple[str, ...] = COLUMNS) -> str:
    values = ", ".join(_literal(name, usual) for name in columns)
    return f"INSERT INTO task ({', '.join(columns)}) VALUES ({values})"  # noqa: S608  # constants


def _update(usual: dict[str, int | None]) -> str:
    changes = ", ".join(f"{name} = {_literal(name, usual)}" for name in _MUTABLE)
    return f"UPDATE task SET {changes} WHERE id = ?"  # noqa: S608  # constants


class _Kind:
    """Rows that differ only in `columns`; what `usual` says of the others stands in the statement."""

    __slots__ = ("_constants", "_of_constants", "_short", "statement")

    def __init__(self, statement: str, usual: dict[str, int | None], columns: tuple[str, ...]) -> None:
        self.statement = statement
        self._constants = tuple(usual.values())
        self._of_constants = attrgetter(*usual)
        self._short = attrgetter(*(name for name in columns if name not in usual))

    def row(self, task: Task) -> tuple[Any, ...] | None:
        """The task's row; None when it is not of this kind."""
        return self._short(task) if self._of_constants(task) == self._constants else None


_LEASE = f"UPDATE task SET state = {LEASED}, attempts = ?, worker = ?, started_us = ? WHERE id = ?"  # noqa: S608  # constants
_lease = attrgetter("attempts", "worker", "started_us", "id")
_ENDS = f"state = {DONE}, not_before_us = NULL, sla_next_us = NULL, error = NULL, finished_us = ?, result = ?"
END = f"UPDATE task SET {_ENDS} WHERE id = ?"  # noqa: S608  # constants
_end = attrgetter("finished_us", "result", "id")
_LEASE_END = f"UPDATE task SET attempts = ?, worker = ?, started_us = ?, {_ENDS} WHERE id = ?"  # noqa: S608  # constants
TALLY = "INSERT INTO tally VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
HEAD = "UPDATE head SET next_task = ?, last_us = ?"


def steps(tasks: Iterable[Task]) -> list[Statement]:
    """As `insertions`, for tasks of which only the lease, or only the end, is new."""
    leased: Rows = []
    ended: Rows = []
    for task in tasks:
        if task.state == LEASED:
            leased.append(_lease(task))
        else:
            ended.append(_end(task))
    return [(sql, rows) for sql, rows in ((_LEASE, leased), (END, ended)) if rows]


NEW = _insert(USUAL_NEW)
_NEW_COLUMNS = tuple(name for name in COLUMNS if name not in USUAL_NEW)
_KEY = _NEW_COLUMNS.index("idempotency_key")
_STATE, _ATTEMPTS, _SLA_NEXT, _WORKER, _STARTED = map(
    _NEW_COLUMNS.index, ("state", "attempts", "sla_next_us", "worker", "started_us")
)
_LATER = ("finished_us", "result")
_FIRST = tuple(name for name in COLUMNS if name not in _LATER)
_RUN = _insert({name: value for name, value in USUAL_NEW.items() if name not in _LATER}, (*_FIRST, *_LATER))
"""As NEW, with two values more, of one that may be leased or done."""

# Nearly every task is of these three, one after the other: nobody's child, no reasoning, no intent. What each step adds
# comes at the end. To bind NULL costs ten times what a number does: the driver looks for adapters of it, every time.
_STEPS = ("sla_next_us", "attempts", "worker", "started_us", *_LATER)
_ORDER = (*(name for name in COLUMNS if name not in _STEPS), *_STEPS)
_BARE = USUAL_NEW | {"intent_id": None, "reasoning": None}
_BARE_QUEUED = _BARE | {"state": QUEUED, "attempts": 0, "worker": None, "started_us": None}
_BARE_LEASED = _BARE | {"state": LEASED}
_BARE_DONE = {name: value for name, value in _BARE.items() if name not in _LATER} | {"state": DONE, "sla_next_us": None}
PLAIN = _insert(_BARE_QUEUED, _ORDER)
_PLAIN_LEASED = _insert(_BARE_LEASED, _ORDER)
_PLAIN_DONE = _insert(_BARE_DONE, _ORDER)
_AT_ONCE = 64
_MANY = {sql: sql + f", {sql.partition(' VALUES ')[2]}" * (_AT_ONCE - 1) for sql in (PLAIN, _PLAIN_LEASED, _PLAIN_DONE)}
"""Each of them → the same for so many rows."""
_PLAIN_COLUMNS = tuple(name for name in _ORDER if name not in _BARE_QUEUED)
_WIDTH = len(_PLAIN_COLUMNS)
_PLAIN_KEY = _PLAIN_COLUMNS.index("idempotency_key")
_NEVER = (0, None, None)
"""The attempts, worker and start of one that was not leased."""

_queued = _Kind(PLAIN, _BARE_QUEUED, _ORDER)
_leased = _Kind(_PLAIN_LEASED, _BARE_LEASED, _ORDER)
_new = _Kind(NEW, USUAL_NEW, COLUMNS)
_any_new = (_insert({}), attrgetter(*COLUMNS))
_update_kind = _Kind(_update(USUAL), USUAL, (*_MUTABLE, "id"))
_any_update = (_update({}), attrgetter(*_MUTABLE, "id"))


def insertions(tasks: Iterable[Task]) -> list[Statement]:
    """(statement, its rows) of new tasks; none without rows."""
    queued: Rows = []
    leased: Rows = []
    usual: Rows = []
    others: Rows = []
    for task in tasks:
        if task.state == LEASED:
            row, rows = _leased.row(task), leased
        else:
            row, rows = _queued.row(task), queued
        if row is None:
            row, rows = _new.row(task), usual
        if row is None:
            row, rows = _any_new[1](task), others
        rows.append(row)
    found = ((PLAIN, queued), (_PLAIN_LEASED, leased), (NEW, usual), (_any_new[0], others))
    return [(sql, rows) for sql, rows in found if rows]


def updates(tasks: Iterable[Task]) -> list[Statement]:
    """As `insertions`, for stored tasks of which anything may be new."""
    usual: Rows = []
    others: Rows = []
    for task in tasks:
        row = _update_kind.row(task)
        if row is None:
            others.append(_any_update[1](task))
        else:
            usual.append(row)
    return [(sql, rows) for sql, rows in ((_update_kind.statement, usual), (_any_update[0], others)) if rows]


def keys_of(statement: str, rows: Sequence[tuple[Any, ...]]) -> list[tuple[str | None, int]] | None:
    """(idempotency key, number) of each row of a new task that may be noted; None when this statement may not."""
    place = _KEYS.get(statement)
    return None if place is None else [(row[place], row[0]) for row in rows]


_KEYS = {NEW: _KEY, PLAIN: _PLAIN_KEY, _PLAIN_LEASED: _PLAIN_KEY}


def fold(statements: list[Statement]) -> list[Statement]:
    """Statements with the same effect as these, where a task that is new, leased and done is one row.

    What is none of these (a new task, a lease, END, TALLY, HEAD) keeps its place: nothing is moved across it.
    """
    folded: list[Statement] = []
    some = _Some()
    for statement, rows in statements:
        take = _TAKERS.get(statement)
        if take is None:
            folded += some.statements()
            folded.append((statement, rows))
            some = _Some()
        else:
            take(some, rows)
    return folded + some.statements()


def _packed(statement: str, rows: Sequence[tuple[Any, ...]]) -> list[Statement]:
    """The same rows, many to an execution where there are enough of them: each one opens every index anew."""
    whole = len(rows) - len(rows) % _AT_ONCE if statement in _MANY else 0
    flat = [tuple(chain.from_iterable(rows[at : at + _AT_ONCE])) for at in range(0, whole, _AT_ONCE)]
    return [(sql, some) for sql, some in ((_MANY.get(statement, ""), flat), (statement, rows[whole:])) if some]


class _Some:
    """Rows of new tasks, leases and ends by the task, the sums of TALLY, and the last of HEAD."""

    def __init__(self) -> None:
        self._queued: Rows = []
        self._leased: Rows = []
        self._new: Rows = []
        self._leases: dict[int, tuple[Any, ...]] = {}
        self._ends: dict[int, tuple[Any, ...]] = {}
        self._tally: dict[tuple[Any, ...], int] = {}
        self._head: Sequence[tuple[Any, ...]] = ()

    def came_queued(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of PLAIN."""
        self._queued += rows

    def came_leased(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of _PLAIN_LEASED."""
        self._leased += rows

    def came(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of NEW."""
        self._new += rows

    def leased(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of leases."""
        self._leases.update([(row[-1], row) for row in rows])

    def ended(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of END."""
        self._ends.update([(row[-1], row) for row in rows])

    def counted(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of TALLY."""
        tally = self._tally
        for *key, count in rows:
            of = tuple(key)
            tally[of] = tally.get(of, 0) + count

    def headed(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of HEAD."""
        self._head = rows[-1:]

    def statements(self) -> list[Statement]:
        """All of them, as few as they can be."""
        new = self._as_they_are() if self._leases or self._ends else self._as_they_came()
        both = self._leases.keys() & self._ends.keys()
        folded: list[Statement] = [
            (_LEASE_END, [self._leases.pop(number)[:-1] + self._ends.pop(number) for number in sorted(both)]),
            (_LEASE, list(self._leases.values())),
            # before the new ones: an end may free the idempotency key that one of them uses
            (END, list(self._ends.values())),
            *new,
            (TALLY, [(*key, count) for key, count in self._tally.items() if count]),
            (HEAD, self._head),
        ]
        return [packed for statement, rows in folded for packed in _packed(statement, rows)]

    def _as_they_came(self) -> list[Statement]:
        return [(PLAIN, self._queued), (_PLAIN_LEASED, self._leased), (NEW, self._new)]

    def _as_they_are(self) -> list[Statement]:
        """The new tasks as they are by now; their leases and ends are used up."""
        pop_lease, pop_end = self._leases.pop, self._ends.pop
        queued: Rows = []
        leased: Rows = []
        done: Rows = []
        for row in self._queued + self._leased:
            number = row[0]
            lease = pop_lease(number, None)
            lasts = row[_WIDTH:] if lease is None else lease[:-1]
            end = pop_end(number, None)
            if end is not None:
                done.append(row[: _WIDTH - 1] + (lasts or _NEVER) + end[:-1])
            elif lasts:
                leased.append(row[:_WIDTH] + lasts)
            else:
                queued.append(row)
        return [(_PLAIN_DONE, done), (PLAIN, queued), (_PLAIN_LEASED, leased), (_RUN, self._run())]

    def _run(self) -> Rows:
        pop_lease, pop_end = self._leases.pop, self._ends.pop
        run = []
        for row in self._new:
            lease, end = pop_lease(row[0], None), pop_end(row[0], None)
            values = [*row, None, None]
            if lease is not None:
                values[_STATE] = LEASED
                values[_ATTEMPTS], values[_WORKER], values[_STARTED], _ = lease
            if end is not None:
                values[_STATE], values[_SLA_NEXT] = DONE, None
                values[-2], values[-1], _ = end
            run.append(tuple(values))
        return run


_TAKERS: dict[str, Callable[[_Some, Sequence[tuple[Any, ...]]], None]] = {
    PLAIN: _Some.came_queued,
    _PLAIN_LEASED: _Some.came_leased,
    NEW: _Some.came,
    _LEASE: _Some.leased,
    END: _Some.ended,
    TALLY: _Some.counted,
    HEAD: _Some.headed,
}
