"""A database whose turns are durable in a redo log first, and committed by SQLite many at once.

A statement that may fail runs at once (`many`), inside a transaction that stays open over many turns, and so refuses
its turn before anything is promised. One that cannot is only noted (`note`), and run with its like when somebody is
about to read (`catch_up`), when there is time, or at the end: what a row went through meanwhile is then one statement.
`commit` writes the turn's statements to the redo log and waits for the disk; `settle` is SQLite's own commit, a little
later, without waiting. A turn that is rolled back takes the whole transaction with it; the turns before it are done
again from the log, as after a kill.
"""

from __future__ import annotations

import marshal
import os

from graced.base.errors import StoreError
from graced.store.db import sync_log, translate
from graced.store.redo import Full, RedoLog
from graced.store.sqlite import sqlite3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeAlias

    from graced.store.db import Database

    Statement: TypeAlias = tuple[str, Sequence[tuple[Any, ...]]]

_MARSHAL_VERSION = 2
"""Read by every Python: a log may be left by one release of Debian and read by the next. Later versions look for equal
texts, which costs more than it saves here."""


class Durable:
    """See the module. Every method raises StoreError; after one from anything but `settle`, call `rollback`.

    The database has a table ``head`` of one row with the columns ``redo_seq``, ``redo_place`` and ``redo_id``.
    `settled` is called after each commit of SQLite, outside a transaction.
    """

    def __init__(
        self, db: Database, *, sync: bool = True, fold: Callable[[list[Statement]], Iterable[Statement]] | None = None
    ) -> None:
        """Open the log beside `db`, whose commits need not wait for the disk, and redo what it has more.

        `fold` makes of statements, some of them noted, others that have the same effect.
        """
        self._db = db
        self._connection = db.connection
        self._sync = sync
        self._fold = fold or _as_they_are
        # of this turn, for the log
        self._turn: list[Statement] = []
        # noted and not run yet, those of this turn from `_mark` on
        self._noted: list[Statement] = []
        self._mark = 0
        self.noted_rows = 0
        # does the open transaction hold something of this turn, of earlier ones, or half of something?
        self._dirty = False
        self._holds = False
        self._torn = False
        self._stuck = False
        self.unsettled = 0
        self.settled: Callable[[], object] = _nothing
        self._applied: int
        self._place: int
        self._applied, self._place, identity = db.rows("SELECT redo_seq, redo_place, redo_id FROM head")[0]
        path = f"{db.path}-redo"
        log = None if identity is None else RedoLog.load(path, bytes.fromhex(identity), sync=sync)
        self.log = self._found() if log is None else self._redone(log)
        db.before_read = self.catch_up

    def _found(self) -> RedoLog:
        """A log for a database that has none."""
        identity = os.urandom(16)
        log = RedoLog.create(f"{self._db.path}-redo", identity, self._applied, sync=self._sync)
        try:
            with self._db.transaction():
                self._db.execute("UPDATE head SET redo_place = 0, redo_id = ?", (identity.hex(),))
            self._sync_database()
        except StoreError:
            log.close()
            raise
        self._place = 0
        return log

    def _redone(self, log: RedoLog) -> RedoLog:
        self.log = log
        try:
            self._run(log.resume(self._applied, self._place))
            # Not synced: the log keeps its records until it needs their room, and waits for the disk then.
            self.settle()
        except StoreError:
            log.close()
            raise
        return log

    # -- a turn -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the transaction unless it is."""
        if not self._connection.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def outside(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run and commit one statement, durably, while nothing else is under way."""
        with self._db.transaction():
            self._db.execute(sql, values)
        self._sync_database()

    def one(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Run one statement in this turn."""
        self.many(sql, [tuple(values)])

    def many(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run one statement for many rows in this turn."""
        self.catch_up()
        self._dirty = True
        self._execute([(sql, rows)])
        self._turn.append((sql, rows))

    def note(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As `many`, of what cannot fail but for the disk: it is run when it has to be."""
        self._turn.append((sql, rows))
        self._noted.append((sql, rows))

    def catch_up(self) -> None:
        """Run what was noted, so that a read sees it. Before every read that could miss something."""
        self.check()
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        self.noted_rows = 0
        self._dirty = self._dirty or len(noted) > self._mark
        self._holds = self._holds or self._mark > 0
        self._mark = 0
        self._execute(self._fold(noted))

    def _execute(self, statements: Iterable[Statement]) -> None:
        connection = self._connection
        self._torn = True
        try:
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            for sql, rows in statements:
                connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise translate(error, self._db.path) from error
        self._torn = False

    @property
    def _lost(self) -> bool:
        """Is the open transaction not what it has to be?"""
        return self._torn or (self._holds and not self._connection.in_transaction)

    def check(self) -> None:
        """Raises StoreError while what failed before has not been rolled back; `catch_up` does so, too."""
        if self._lost:
            raise StoreError(f"{self._db.path}: what failed before has not been rolled back yet", code="io")

    def commit(self) -> None:
        """The turn is on disk on return; nothing of it is, when this raises."""
        if not self._turn:
            return
        self.check()
        if self._stuck:
            self._commit_all()
        else:
            try:
                self.log.append(marshal.dumps(self._turn, _MARSHAL_VERSION))
                rows = sum([len(rows) for _, rows in self._turn])
                self.unsettled += rows
                self.noted_rows += rows
                self._holds = self._holds or self._dirty
            except Full:
                self._commit_all()
        self._turn = []
        self._dirty = False
        self._mark = len(self._noted)

    def rollback(self) -> bool:
        """Forget what came since the last `commit`; was there anything?"""
        lost = self._lost
        if not (self._turn or self._dirty or lost):
            if not self._holds:
                # what was only looked up may have begun one
                self._db.rollback()
            return False
        if self._dirty or lost:
            self._db.rollback()
        again = self._holds and (self._dirty or lost)
        self._turn = []
        self._dirty = self._torn = False
        del self._noted[self._mark :]
        if again:
            self._again()
        return True

    # -- SQLite's part ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Commit the turns so far; in the middle of a turn nothing happens."""
        if not self.unsettled or self._turn or self._dirty:
            return
        try:
            self._commit_database()
        except StoreError:
            # every turn from here on waits for SQLite again
            self._stuck = True
            self._db.rollback()
            self._again()
            raise

    def _commit_all(self) -> None:
        """The long way: this turn and those before it, without the log."""
        self.log.make_void()
        self._commit_database()
        self._sync_database()
        self.log.synced(self._applied)

    def _commit_database(self) -> None:
        self.catch_up()
        seq, place = self.log.seq, self.log.place
        self._execute([("UPDATE head SET redo_seq = ?, redo_place = ?", [(seq, place)])])
        self._db.commit()
        self._applied, self._place = seq, place
        self.unsettled = 0
        self._holds = self._stuck = False
        self.settled()

    def _again(self) -> None:
        """Run the turns after the last that SQLite committed, in a new transaction."""
        self._run(self.log.read(self._applied, self._place))

    def _run(self, payloads: list[bytes]) -> None:
        # only we write that file, and a record begins with its secret salt
        self._noted = [statement for payload in payloads for statement in marshal.loads(payload)]  # noqa: S302
        self._mark = len(self._noted)
        self.unsettled = sum(len(rows) for _, rows in self._noted)
        self._holds = self._dirty = self._torn = False
        self.catch_up()

    @property
    def applied(self) -> int:
        """The number of the last turn that SQLite has."""
        return self._applied

    def _sync_database(self) -> None:
        """Everything that SQLite has committed is on disk on return."""
        if self._sync:
            sync_log(self._db.path)

    def close(self) -> None:
        """Close the log."""
        self.log.close()


def _as_they_are(statements: list[Statement]) -> list[Statement]:
    return statements


def _nothing() -> None:
    """Nobody asked to be told."""
