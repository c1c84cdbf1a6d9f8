"""How a task is written: the statements, and which of them a row needs.

Most rows have the same values in many columns. As constants in the statement these cost nothing; bound one by one they
are a third of what a row costs. And what a statement sets, SQLite takes out of every index over it and puts in again,
the same value too: a lease and a completion, which every task has, set only what they change. Used by
graced.store.tasks.

`fold` makes one statement of what a task went through since SQLite was last told of it.
"""

from __future__ import annotations

from _operator import attrgetter  # without the module around it, as in graced.base.sockets

from graced.model.task import COLUMNS, DONE, LEASED, Task

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


class Writer:
    """One statement for rows that are as usual, one for all others."""

    __slots__ = ("_constants", "_general", "_of_constants", "_short", "_statements")

    def __init__(self, statements: tuple[str, str], usual: dict[str, int | None], columns: tuple[str, ...]) -> None:
        self._statements = statements
        self._constants = tuple(usual.values())
        self._of_constants = attrgetter(*usual)
        self._short = attrgetter(*(name for name in columns if name not in usual))
        self._general = attrgetter(*columns)

    def batches(self, tasks: Iterable[Task]) -> list[tuple[str, Rows]]:
        """(statement, its rows), for executemany; none without rows."""
        of_constants, constants, short = self._of_constants, self._constants, self._short
        usual: Rows = []
        others: Rows = []
        for task in tasks:
            if of_constants(task) == constants:
                usual.append(short(task))
            else:
                others.append(self._general(task))
        return [(sql, rows) for sql, rows in zip(self._statements, (usual, others), strict=True) if rows]


_LEASE = f"UPDATE task SET state = {LEASED}, attempts = ?, worker = ?, started_us = ? WHERE id = ?"  # noqa: S608  # constants
_lease = attrgetter("attempts", "worker", "started_us", "id")
_ENDS = f"state = {DONE}, not_before_us = NULL, sla_next_us = NULL, error = NULL, finished_us = ?, result = ?"
END = f"UPDATE task SET {_ENDS} WHERE id = ?"  # noqa: S608  # constants
_end = attrgetter("finished_us", "result", "id")
_LEASE_END = f"UPDATE task SET attempts = ?, worker = ?, started_us = ?, {_ENDS} WHERE id = ?"  # noqa: S608  # constants
TALLY = "INSERT INTO tally VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
HEAD = "UPDATE head SET next_task = ?, last_us = ?"


def steps(tasks: Iterable[Task]) -> list[tuple[str, Rows]]:
    """As `Writer.batches`, for tasks of which only the lease, or only the end, is new."""
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
KEY = _NEW_COLUMNS.index("idempotency_key")
_STATE, _ATTEMPTS, _SLA_NEXT, _WORKER, _STARTED = map(
    _NEW_COLUMNS.index, ("state", "attempts", "sla_next_us", "worker", "started_us")
)
insertions = Writer((NEW, _insert({})), USUAL_NEW, COLUMNS).batches
updates = Writer((_update(USUAL), _update({})), USUAL, (*_MUTABLE, "id")).batches


_LATER = ("finished_us", "result")
_FIRST = tuple(name for name in COLUMNS if name not in _LATER)
_RUN = _insert({name: value for name, value in USUAL_NEW.items() if name not in _LATER}, (*_FIRST, *_LATER))
"""As NEW, with two values more, of one that may be leased or done."""


def fold(statements: list[Statement]) -> list[Statement]:
    """Statements with the same effect as these, where a task that is new, leased and done is one row.

    What is none of those five (NEW, a lease, END, TALLY, HEAD) keeps its place: nothing is moved across it.
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


class _Some:
    """Rows of NEW, leases and ends by the task, the sums of TALLY, and the last of HEAD."""

    def __init__(self) -> None:
        self._new: Rows = []
        self._leases: dict[int, tuple[Any, ...]] = {}
        self._ends: dict[int, tuple[Any, ...]] = {}
        self._tally: dict[tuple[Any, ...], int] = {}
        self._head: Sequence[tuple[Any, ...]] = ()

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
        new = self._run() if self._leases or self._ends else self._new
        both = self._leases.keys() & self._ends.keys()
        folded: list[Statement] = [
            (_LEASE_END, [self._leases.pop(number)[:-1] + self._ends.pop(number) for number in sorted(both)]),
            (_LEASE, list(self._leases.values())),
            # before the new ones: an end may free the idempotency key that one of them uses
            (END, list(self._ends.values())),
            (NEW if new is self._new else _RUN, new),
            (TALLY, [(*key, count) for key, count in self._tally.items() if count]),
            (HEAD, self._head),
        ]
        return [(statement, rows) for statement, rows in folded if rows]

    def _run(self) -> Rows:
        """The new tasks as they are by now, in their order; their leases and ends are used up."""
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
    NEW: _Some.came,
    _LEASE: _Some.leased,
    END: _Some.ended,
    TALLY: _Some.counted,
    HEAD: _Some.headed,
}
