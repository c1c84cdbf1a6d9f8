"""Moving a write-ahead log's pages into the database while its writer goes on writing.

SQLite's own automatic checkpoint runs inside the commit that crosses its limit, and that commit then waits for the
disk. Here another thread copies (`Backfill`, with a connection of its own; SQLite releases the interpreter for it) and
the writer only copies the few pages that are left at the end (`passive`), after which its next commit starts the log
from its beginning again. The data are in the log until they are in the database and synced: a kill loses nothing.

SQLite 3.7.0 to 3.51.2 can damage a database when a checkpoint *begins* while another connection starts the log
again (sqlite.org/wal.html, "The WAL-Reset Bug"). The log can start again only once every page in it was copied. So
the rule, kept by the caller: one checkpoint at a time, automatic ones are off, and the thread's begins only when the
writer has committed something since the last one that copied all: then there is a page that was not copied, and the
log cannot start again before that very checkpoint has ended. `Backfill.run` ends as soon as it copied all.
"""

from __future__ import annotations

import sqlite3

from graced.store.db import translate

FEW_PAGES = 256
"""What the writer copies by itself at most: a few milliseconds."""
BEST_PAGES = 32
"""What the thread tries to leave to it: half a millisecond."""
MAX_PASSES = 6


def passive(connection: sqlite3.Connection, path: str) -> tuple[int, int]:
    """Copy what no reader holds back: (pages in the log, pages of them that are copied). Raises StoreError.

    Not inside a transaction.
    """
    try:
        busy, pages, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        raise translate(error, path) from error
    return (0, 0) if busy else (max(0, pages), max(0, copied))


class Backfill:
    """The thread's side: `run` and `close` belong to one thread, `stop` to any."""

    __slots__ = ("_connection", "_path", "_stopped")

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._stopped = False

    def run(self) -> tuple[int, int]:
        """Copy until all or all but a few pages are copied, or copying does not get ahead of the writer.

        (pages in the log, pages of them that are copied) as of the last pass. Raises StoreError.
        """
        if self._connection is None:
            self._connection = connect(self._path)
        pages, copied = passive(self._connection, self._path)
        left = pages - copied
        for _ in range(MAX_PASSES):
            # Pages that were written during the pass are left; a pass over few pages leaves fewer.
            if left <= BEST_PAGES or self._stopped:
                break
            before = left
            pages, copied = passive(self._connection, self._path)
            left = pages - copied
            if left >= before:
                break
        return pages, copied

    def stop(self) -> None:
        """No further pass."""
        self._stopped = True

    def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connect(path: str) -> sqlite3.Connection:
    """A second connection to a database that this process has open, for one other thread. Raises StoreError."""
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=2.0, isolation_level=None)
        for pragma in ("trusted_schema=OFF", "wal_autocheckpoint=0", "temp_store=MEMORY", "cache_size=-1024"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise translate(error, path) from error
    return connection


class Gauge:
    """About how many pages the writer has added to the log since `reset`, from what it did. For the hot path."""

    __slots__ = ("_changes", "_connection", "commits")

    # A commit alone writes a leaf of each tree; rows of one batch share pages. Measured on the queue: 7 pages for a
    # single submit, 0.45 pages per changed row in batches of a hundred.
    _PAGES_PER_COMMIT = 5
    _ROWS_PER_PAGE = 2

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.commits = 0
        self._changes = connection.total_changes

    def reset(self) -> None:
        """Count from here."""
        self.commits = 0
        self._changes = self._connection.total_changes

    @property
    def pages(self) -> int:
        """An estimate."""
        changes = self._connection.total_changes - self._changes
        return self.commits * self._PAGES_PER_COMMIT + changes // self._ROWS_PER_PAGE
