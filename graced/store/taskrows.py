"""How a task is written: the statements, and which of them a row needs.

Most rows have the same values in many columns. As constants in the statement these cost nothing; bound one by one they
are a third of what a row costs. And what a statement sets, SQLite takes out of every index over it and puts in again,
the same value too: a lease and a completion, which every task has, set only what they change. Used by
graced.store.tasks.
"""

from __future__ import annotations

from _operator import attrgetter  # without the module around it, as in graced.base.sockets

from graced.model.task import COLUMNS, DONE, LEASED, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

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


def _insert(usual: dict[str, int | None]) -> str:
    values = ", ".join(_literal(name, usual) for name in COLUMNS)
    return f"INSERT INTO task ({', '.join(COLUMNS)}) VALUES ({values})"  # noqa: S608  # constants


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
_END = (
    f"UPDATE task SET state = {DONE}, not_before_us = NULL, sla_next_us = NULL, error = NULL, finished_us = ?,"  # noqa: S608  # constants
    " result = ? WHERE id = ?"
)
_end = attrgetter("finished_us", "result", "id")


def steps(tasks: Iterable[Task]) -> list[tuple[str, Rows]]:
    """As `Writer.batches`, for tasks of which only the lease, or only the end, is new."""
    leased: Rows = []
    ended: Rows = []
    for task in tasks:
        if task.state == LEASED:
            leased.append(_lease(task))
        else:
            ended.append(_end(task))
    return [(sql, rows) for sql, rows in ((_LEASE, leased), (_END, ended)) if rows]


insertions = Writer((_insert(USUAL_NEW), _insert({})), USUAL_NEW, COLUMNS).batches
updates = Writer((_update(USUAL), _update({})), USUAL, (*_MUTABLE, "id")).batches
