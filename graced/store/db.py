"""One SQLite file, opened so that what was acknowledged stays, or refused loudly.

Invariants: WAL; one writing process (an flock on the marker file ``<path>.created``, which also remembers that the
database once existed, so a lost file is an error and not a fresh start); mode 0600; every sqlite3 error leaves as a
StoreError that names the file and what to do. Used by the queue, the ledger, Memory and whoever keeps state.
"""

from __future__ import annotations

import fcntl
import os
import time

from graced.base.errors import StoreError
from graced.store.sqlite import sqlite3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Self

_MAGIC = b"SQLite format 3\0"
QUICK_CHECK_MAX_BYTES = 2 << 20
"""Up to this size a file is checked page by page at every open (about 10 ms); above, by header and schema only."""
_LOCK_TRIES = 20
_LOCK_WAIT_SECONDS = 0.05
_CHECKPOINT_PAGES = 4000
_INCREMENTAL = 2

_TEMPORARY = "nothing that was acknowledged is lost; the operation can be repeated"
_REASONS: dict[int, tuple[str, str, str]] = {
    sqlite3.SQLITE_FULL: ("disk-full", "the disk is full", f"free space on its file system; {_TEMPORARY}"),
    sqlite3.SQLITE_IOERR: ("io", "the disk failed", f"look at 'journalctl -k' and at the file system; {_TEMPORARY}"),
    sqlite3.SQLITE_BUSY: ("busy", "another process holds it locked", "close the other program that opened it"),
    sqlite3.SQLITE_READONLY: ("read-only", "it is read only", "check mount options, owner and mode"),
    sqlite3.SQLITE_CANTOPEN: ("cannot-open", "it cannot be opened", "check owner and mode of it and its directory"),
    sqlite3.SQLITE_CORRUPT: ("damaged", "it is damaged", ""),
    sqlite3.SQLITE_NOTADB: ("damaged", "it is not a database", ""),
}


def _damaged(path: str, detail: str) -> StoreError:
    return StoreError(
        f"{path} is damaged: {detail}",
        hint=f"restore it from a backup, or move it and {path}.created away to start empty",
        code="damaged",
        path=path,
    )


def translate(error: sqlite3.Error, path: str) -> StoreError:
    """The StoreError for a sqlite3 error on `path`; its `code` is one of disk-full, io, busy, damaged, sql, …"""
    number = getattr(error, "sqlite_errorcode", 0) & 0xFF
    code, what, hint = _REASONS.get(number, ("sql", str(error), ""))
    if code == "damaged":
        return _damaged(path, str(error))
    return StoreError(f"{path}: {what} ({error})", hint=hint, code=code, path=path)


class Database:
    """An open database in autocommit mode. Made by `open_database`; one thread uses it.

    `connection` is there for prepared hot paths; its users translate sqlite3.Error themselves. `before_read` is called
    before each query of `rows`: whoever holds changes back lets go of them then.
    """

    __slots__ = ("_marker_fd", "before_read", "connection", "path")

    def __init__(self, connection: sqlite3.Connection, path: str, marker_fd: int) -> None:
        self.connection = connection
        self.path = path
        self.before_read: Callable[[], object] | None = None
        self._marker_fd = marker_fd

    def execute(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """One statement. Raises StoreError."""
        try:
            return self.connection.execute(sql, values)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """One prepared statement over many rows. Raises StoreError."""
        try:
            self.connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises StoreError."""
        if self.before_read is not None:
            self.before_read()
        try:
            return self.connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    def begin(self) -> None:
        """Start a transaction unless one is open. Raises StoreError."""
        if not self.connection.in_transaction:
            self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """End the transaction; on return it is on disk (synchronous=FULL). Raises StoreError: nothing was kept."""
        if not self.connection.in_transaction:
            return
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.rollback()
            raise translate(error, self.path) from error

    def rollback(self) -> None:
        """Forget the open transaction, if SQLite did not do so by itself already."""
        if self.connection.in_transaction:
            self.execute("ROLLBACK")

    def transaction(self) -> Transaction:
        """``with db.transaction():`` commits at the end, rolls back when the block raises."""
        return Transaction(self)

    def check(self) -> list[str]:
        """Read every page and index: seconds per GiB. Empty when sound, else SQLite's findings, at most 100."""
        found = [str(row[0]) for row in self.rows("PRAGMA integrity_check(100)")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Close it and let the next writer in."""
        self.connection.close()
        if self._marker_fd >= 0:
            os.close(self._marker_fd)
            self._marker_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Transaction:
    """See `Database.transaction`."""

    __slots__ = ("_db",)

    def __init__(self, db: Database) -> None:
        self._db = db

    def __enter__(self) -> Database:
        self._db.begin()
        return self._db

    def __exit__(self, kind: object, *_exc: object) -> None:
        if kind is None:
            self._db.commit()
        else:
            self._db.rollback()


def open_database(
    path: str, migrations: Sequence[str], *, synchronous: str = "FULL", shrinkable: bool = False
) -> Database:
    """Open `path`, making it when it never existed, and bring its schema up to date.

    `migrations[n]` is the SQL script from user_version n to n+1; scripts that were released never change.
    `synchronous` is FULL (a commit survives power loss) or NORMAL (only a killed process). `shrinkable` lets
    ``PRAGMA incremental_vacuum`` give pages back: decided when the file is made, and changed later only while it is
    small enough to be written anew at once.
    Raises StoreError with code in-use, missing, damaged, newer, disk-full, cannot-open, read-only, io.
    """
    if synchronous not in {"FULL", "NORMAL"}:
        raise ValueError(synchronous)
    try:
        marker_fd = _lock(path)
    except OSError as error:
        raise os_error(path, error) from error
    try:
        existed = os.fstat(marker_fd).st_size > 0
        _check_file(path, existed=existed)
        connection = _connect(path, synchronous, shrinkable=shrinkable)
    except OSError as error:
        os.close(marker_fd)
        raise os_error(path, error) from error
    except StoreError:
        os.close(marker_fd)
        raise
    db = Database(connection, path, marker_fd)
    try:
        small = _check_content(db)
        if shrinkable and existed and small and db.rows("PRAGMA auto_vacuum") == [(0,)]:
            db.execute("VACUUM")
        _migrate(db, migrations)
        if not existed:
            _mark(path, marker_fd)
    except OSError as error:
        db.close()
        raise os_error(path, error) from error
    except StoreError:
        db.close()
        raise
    return db


def sync_log(path: str) -> None:
    """Sync the write-ahead log of the database at `path`. For any thread. Raises StoreError."""
    try:
        fd = os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        # closed for good, or never written: all of it is in the database
        return
    except OSError as error:
        raise os_error(path, error) from error
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise os_error(path, error) from error
    finally:
        os.close(fd)


def os_error(path: str, error: OSError) -> StoreError:
    """The StoreError for a file of a database; its `code` as in `translate`."""
    import errno

    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        code, _what, hint = _REASONS[sqlite3.SQLITE_FULL]
    elif error.errno == errno.EIO:
        code, _what, hint = _REASONS[sqlite3.SQLITE_IOERR]
    else:
        code, _what, hint = _REASONS[sqlite3.SQLITE_CANTOPEN]
    return StoreError(f"{path}: {error.strerror} ({error.filename or path})", hint=hint, code=code, path=path)


def _lock(path: str) -> int:
    """The marker's descriptor with the writer's lock; a process that was just killed gets a second to go away."""
    directory = os.path.dirname(path)
    if directory:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    fd = os.open(f"{path}.created", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_WAIT_SECONDS)
        else:
            return fd
    os.close(fd)
    raise StoreError(
        f"{path} is in use by another process",
        hint=f"only one may write; 'fuser {path}' names it",
        code="in-use",
        path=path,
    )


def _check_file(path: str, *, existed: bool) -> None:
    """Refuse a lost, emptied or foreign file before SQLite could overwrite it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        if existed or os.path.exists(f"{path}-wal"):
            raise StoreError(
                f"{path} is missing, but it existed before",
                hint=f"restore it from a backup, or remove {path}.created and {path}-wal to start empty",
                code="missing",
                path=path,
            ) from error
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return
    try:
        if os.fstat(fd).st_mode & 0o077:
            os.fchmod(fd, 0o600)
        head = os.read(fd, len(_MAGIC))
    finally:
        os.close(fd)
    if head != _MAGIC and (head or existed):
        raise _damaged(path, "it is empty" if not head else "it does not begin as an SQLite file does")


def _connect(path: str, synchronous: str, *, shrinkable: bool) -> sqlite3.Connection:
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
        _set(connection, "trusted_schema=OFF", "cell_size_check=ON", f"wal_autocheckpoint={_CHECKPOINT_PAGES}")
        # Said to a file that has it already, it would be written once more, with an fsync and a checkpoint of all that
        # a killed process left in the log.
        if not (shrinkable and connection.execute("PRAGMA auto_vacuum").fetchone() == (_INCREMENTAL,)):
            _set(connection, f"auto_vacuum={'INCREMENTAL' if shrinkable else 'NONE'}")
        _set(
            connection,
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "journal_size_limit=67108864",
            "temp_store=MEMORY",
            "cache_size=-4096",
        )
        # SQLite falls back to reading only when it could not open the file for writing, and would stay with that; it
        # says so at the first change, which is not kept here
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA user_version={version}")
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise translate(error, path) from error
    return connection


def _set(connection: sqlite3.Connection, *pragmas: str) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _check_content(db: Database) -> bool:
    """Refuse a damaged file; whether it is small."""
    db.rows("SELECT count(*) FROM sqlite_master")
    pages, page_bytes = db.rows("PRAGMA page_count")[0][0], db.rows("PRAGMA page_size")[0][0]
    small: bool = pages * page_bytes <= QUICK_CHECK_MAX_BYTES
    if small:
        found = db.rows("PRAGMA quick_check(1)")
        if found != [("ok",)]:
            raise _damaged(db.path, str(found[0][0]) if found else "the check gave no answer")
    return small


def _migrate(db: Database, migrations: Sequence[str]) -> None:
    version: int = db.rows("PRAGMA user_version")[0][0]
    if version > len(migrations):
        raise StoreError(
            f"{db.path} has schema {version}, this version knows up to {len(migrations)}",
            hint="it was written by a newer graced: install that again, or restore the older backup",
            code="newer",
            path=db.path,
        )
    for number in range(version, len(migrations)):
        try:
            db.connection.executescript(
                f"BEGIN IMMEDIATE;\n{migrations[number]}\n;PRAGMA user_version={number + 1};\nCOMMIT;"
            )
        except sqlite3.Error as error:
            db.rollback()
            raise translate(error, db.path) from error


def _mark(path: str, marker_fd: int) -> None:
    """From now on a missing file is a loss. Only after the schema is on disk, so a crash before is a fresh start."""
    os.write(marker_fd, b"This file says that the database beside it exists; a missing one is then an error.\n")
    os.fsync(marker_fd)
    directory_fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
