"""The ledger's rows: entries, Merkle tiles, checkpoints, signatures, and the supervisor's records of keys.

A store room: it keeps bytes and enforces append-only (by triggers, against accidents; the Merkle tree is against
intent). What the bytes mean is the business of `graced.trust` and the supervisor. Schema and layout are final:
level-0 tiles are stored once, full (the open one is computed from the last 255 entries); a higher tile grows.
`ledger_subjects` is only the index of Find (SQLite 3.40 refuses JSON functions in an untrusted schema).
"""

from __future__ import annotations

import os
from itertools import chain

from graced.base.errors import StoreError
from graced.store.db import open_database, translate
from graced.store.sqlite import sqlite3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from typing import Any, Self

    from graced.base.json import JsonDict
    from graced.store.db import Database
    from graced.store.ledger_archive import Segment

FILE_NAME = "ledger.db"
MAX_ENTRY_BYTES = 65535

_SCHEMA = """
CREATE TABLE ledger (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL CHECK (length(entry) BETWEEN 2 AND 65535));
CREATE TABLE ledger_subjects (seq INTEGER PRIMARY KEY, task_id TEXT, intent_id TEXT, unit TEXT);
CREATE INDEX ledger_task ON ledger_subjects (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX ledger_intent ON ledger_subjects (intent_id) WHERE intent_id IS NOT NULL;
CREATE INDEX ledger_unit ON ledger_subjects (unit) WHERE unit IS NOT NULL;
CREATE TABLE tiles (
  level INTEGER NOT NULL, n INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (level, n)
) WITHOUT ROWID;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL);
CREATE TABLE signatures (
  artifact_digest BLOB NOT NULL, kid TEXT NOT NULL, signature BLOB NOT NULL, seq INTEGER PRIMARY KEY
);
CREATE INDEX signatures_digest ON signatures (artifact_digest);
CREATE TABLE crypto_keys (
  kid TEXT PRIMARY KEY, signer TEXT NOT NULL, purpose TEXT NOT NULL, public BLOB NOT NULL, sealed BLOB,
  not_before TEXT NOT NULL, not_after TEXT, state TEXT NOT NULL CHECK (state IN ('current', 'retired', 'revoked')),
  revoked_at_seq INTEGER, endorsed_by TEXT
) WITHOUT ROWID;
CREATE TABLE crypto_audit (
  id INTEGER PRIMARY KEY, time TEXT NOT NULL, boottime_us INTEGER NOT NULL, operation TEXT NOT NULL, kid TEXT NOT NULL,
  actor TEXT NOT NULL, uid INTEGER NOT NULL, details TEXT NOT NULL
);
CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER subjects_no_update BEFORE UPDATE ON ledger_subjects
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER subjects_no_delete BEFORE DELETE ON ledger_subjects
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER tiles_grow BEFORE UPDATE ON tiles
  WHEN NEW.level <> OLD.level OR NEW.n <> OLD.n OR substr(NEW.hashes, 1, length(OLD.hashes)) <> OLD.hashes
  BEGIN SELECT RAISE(ABORT, 'tiles only grow'); END;
CREATE TRIGGER tiles_no_delete BEFORE DELETE ON tiles BEGIN SELECT RAISE(ABORT, 'tiles only grow'); END;
CREATE TRIGGER checkpoints_no_update BEFORE UPDATE ON checkpoints
  BEGIN SELECT RAISE(ABORT, 'checkpoints stay'); END;
CREATE TRIGGER checkpoints_no_delete BEFORE DELETE ON checkpoints
  BEGIN SELECT RAISE(ABORT, 'checkpoints stay'); END;
CREATE TRIGGER signatures_no_update BEFORE UPDATE ON signatures BEGIN SELECT RAISE(ABORT, 'signatures stay'); END;
CREATE TRIGGER signatures_no_delete BEFORE DELETE ON signatures BEGIN SELECT RAISE(ABORT, 'signatures stay'); END;
CREATE TRIGGER keys_stay BEFORE UPDATE OF kid, signer, purpose, public, not_before, endorsed_by ON crypto_keys
  BEGIN SELECT RAISE(ABORT, 'a key is never overwritten'); END;
CREATE TRIGGER keys_sealed_stay BEFORE UPDATE OF sealed ON crypto_keys WHEN OLD.sealed IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a key is never overwritten'); END;
CREATE TRIGGER keys_no_delete BEFORE DELETE ON crypto_keys BEGIN SELECT RAISE(ABORT, 'a key is never deleted'); END;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON crypto_audit
  BEGIN SELECT RAISE(ABORT, 'crypto_audit is append-only'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON crypto_audit
  BEGIN SELECT RAISE(ABORT, 'crypto_audit is append-only'); END;
"""
# Closed tiles move to the archive: what is below the last sealed number may be deleted, and nothing else.
_SEALED = """
CREATE TABLE sealed (
  first INTEGER PRIMARY KEY, size INTEGER NOT NULL, file TEXT NOT NULL, digest BLOB NOT NULL, keys TEXT NOT NULL
);
CREATE TRIGGER sealed_no_update BEFORE UPDATE ON sealed BEGIN SELECT RAISE(ABORT, 'what is sealed stays'); END;
CREATE TRIGGER sealed_no_delete BEFORE DELETE ON sealed BEGIN SELECT RAISE(ABORT, 'what is sealed stays'); END;
DROP TRIGGER ledger_no_delete;
CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
  WHEN OLD.seq >= (SELECT coalesce(max(size), 0) FROM sealed)
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
DROP TRIGGER subjects_no_delete;
CREATE TRIGGER subjects_no_delete BEFORE DELETE ON ledger_subjects
  WHEN OLD.seq >= (SELECT coalesce(max(size), 0) FROM sealed)
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
DROP TRIGGER tiles_no_delete;
CREATE TRIGGER tiles_no_delete BEFORE DELETE ON tiles
  WHEN OLD.level <> 0 OR (OLD.n + 1) * 256 > (SELECT coalesce(max(size), 0) FROM sealed)
  BEGIN SELECT RAISE(ABORT, 'tiles only grow'); END;
DROP TRIGGER checkpoints_no_delete;
CREATE TRIGGER checkpoints_no_delete BEFORE DELETE ON checkpoints
  WHEN OLD.size > (SELECT coalesce(max(size), 0) FROM sealed)
  BEGIN SELECT RAISE(ABORT, 'checkpoints stay'); END;
DROP TRIGGER signatures_no_delete;
CREATE TRIGGER signatures_no_delete BEFORE DELETE ON signatures
  WHEN OLD.seq >= (SELECT coalesce(max(size), 0) FROM sealed)
  BEGIN SELECT RAISE(ABORT, 'signatures stay'); END;
"""
MIGRATIONS = (_SCHEMA, _SEALED)
_TRIM = (
    "DELETE FROM ledger WHERE seq < ?",
    "DELETE FROM ledger_subjects WHERE seq < ?",
    "DELETE FROM signatures WHERE seq < ?",
    "DELETE FROM checkpoints WHERE size <= ?",
    "DELETE FROM tiles WHERE level = 0 AND n < ? / 256",
)

_ROWS = 64
SUBJECTS = ("task_id", "intent_id", "unit")
_KEY_COLUMNS = "kid, signer, purpose, public, sealed, not_before, not_after, state, revoked_at_seq, endorsed_by"


class LedgerStore:
    """The supervisor's writing end. Writes happen between `begin` and `commit`. All methods raise StoreError."""

    def __init__(self, db: Database) -> None:
        self.db = db

    @classmethod
    def open(cls, path: str) -> Self:
        """Open or make the database (synchronous=FULL). Raises StoreError as `open_database` does."""
        return cls(open_database(path, MIGRATIONS, synchronous="FULL"))

    def size(self) -> int:
        """Number of entries, by the highest one."""
        row = self.db.rows("SELECT max(seq) FROM ledger")[0]
        return 0 if row[0] is None else int(row[0]) + 1

    def put_entries(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Append (seq, entry) rows."""
        self._insert("INSERT INTO ledger (seq, entry) VALUES ", "(?, ?)", rows)

    def _insert(self, sql: str, marks: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows, a burst of them many at a time: a statement's beginning costs as much as two rows."""
        whole = len(rows) - len(rows) % _ROWS
        if whole:
            many = sql + ", ".join([marks] * _ROWS)
            for at in range(0, whole, _ROWS):
                self.db.execute(many, list(chain.from_iterable(rows[at : at + _ROWS])))
        if whole < len(rows):
            self.db.executemany(sql + marks, rows[whole:])

    def put_subjects(
        self, tasks: Sequence[tuple[int, str]], rows: Sequence[tuple[int, str | None, str | None, str | None]]
    ) -> None:
        """Index (seq, task_id), the usual one, and (seq, task_id, intent_id, unit) for `find`."""
        self._insert("INSERT INTO ledger_subjects (seq, task_id) VALUES ", "(?, ?)", tasks)
        self._insert("INSERT INTO ledger_subjects (seq, task_id, intent_id, unit) VALUES ", "(?, ?, ?, ?)", rows)

    def put_tiles(self, tiles: Sequence[tuple[int, int, bytes]]) -> None:
        """Add or grow (level, n, hashes) tiles."""
        self.db.executemany(
            "INSERT INTO tiles (level, n, hashes) VALUES (?, ?, ?) "
            "ON CONFLICT (level, n) DO UPDATE SET hashes = excluded.hashes",
            tiles,
        )

    def put_signatures(self, rows: Sequence[tuple[bytes, str, bytes, int]]) -> None:
        """Add (artifact digest, kid, signature, seq) rows."""
        self.db.executemany("INSERT INTO signatures (artifact_digest, kid, signature, seq) VALUES (?, ?, ?, ?)", rows)

    def put_checkpoint(self, size: int, note: str) -> None:
        """Add a signed head."""
        self.db.execute("INSERT INTO checkpoints (size, note) VALUES (?, ?)", (size, note))

    def sealed_size(self) -> int:
        """Entries below this number are in the archive."""
        return int(self.db.rows("SELECT coalesce(max(size), 0) FROM sealed")[0][0])

    def put_sealed(self, segment: Segment, keys: str) -> None:
        """From now on these entries may be trimmed; `keys` says what the log said about keys up to their end."""
        values = (segment.first, segment.size, segment.file, segment.digest, keys)
        self.db.execute("INSERT INTO sealed (first, size, file, digest, keys) VALUES (?, ?, ?, ?, ?)", values)

    def sealed_keys(self) -> str:
        """The `keys` of the newest segment, "" when there is none."""
        rows = self.db.rows("SELECT keys FROM sealed ORDER BY first DESC LIMIT 1")
        return str(rows[0][0]) if rows else ""

    def trim(self, count: int) -> bool:
        """Delete up to `count` sealed entries (a multiple of 256), oldest first; whether there may be more."""
        (first,) = self.db.rows("SELECT min(seq) FROM ledger")[0]
        end = self.sealed_size()
        if first is None or first >= end:
            return False
        stop: int = min(end, (first - first % 256) + count)
        for statement in _TRIM:
            self.db.execute(statement, (stop,))
        return stop < end

    def put_key(self, key: JsonDict, sealed: bytes | None, public: bytes, purpose: str) -> None:
        """Add a key record, or take over state, not_after and revoked_at_seq of the roster's `key`."""
        self.db.execute(
            "INSERT INTO crypto_keys (kid, signer, purpose, public, sealed, not_before, not_after, state, "
            "revoked_at_seq, endorsed_by) VALUES (:kid, :signer, :purpose, :public, :sealed, :not_before, "
            ":not_after, :state, :revoked_at_seq, :endorsed_by) ON CONFLICT (kid) DO UPDATE SET "
            "not_after = excluded.not_after, state = excluded.state, revoked_at_seq = excluded.revoked_at_seq",
            {**key, "sealed": sealed, "public": public, "purpose": purpose},
        )

    def put_audit(
        self, time: str, boottime_us: int, operation: str, kid: str, actor: str, uid: int, details: str
    ) -> None:
        """Add a key operation."""
        self.db.execute(
            "INSERT INTO crypto_audit (time, boottime_us, operation, kid, actor, uid, details) VALUES (?,?,?,?,?,?,?)",
            (time, boottime_us, operation, kid, actor, uid, details),
        )

    def entries(self, start: int, count: int) -> list[tuple[int, bytes]]:
        """Up to `count` (seq, entry) from `start` on."""
        return self.db.rows(
            "SELECT seq, entry FROM ledger WHERE seq >= ? AND seq < ? ORDER BY seq", (start, start + count)
        )

    def find(self, wanted: dict[str, str], before: int) -> Generator[tuple[int, bytes], None, None]:
        """(seq, entry) that match every value of `wanted` (of task_id, intent_id, unit) below `before`, newest first.

        Sealed entries are left out, also those that are not trimmed yet.
        """
        where = " AND ".join(f"{name} = :{name}" for name in SUBJECTS if name in wanted)
        sql = (
            f"SELECT seq, entry FROM ledger_subjects JOIN ledger USING (seq) WHERE {where} "  # noqa: S608  # fixed names
            "AND seq >= (SELECT coalesce(max(size), 0) FROM sealed) AND seq < :before ORDER BY seq DESC"
        )
        cursor = self.db.execute(sql, {**wanted, "before": before})
        try:
            yield from cursor
        except sqlite3.Error as error:
            raise translate(error, self.db.path) from error

    def segments(self) -> list[Segment]:
        """What is in the archive, oldest first."""
        from graced.store.ledger_archive import Segment

        return [Segment(*row) for row in self.db.rows("SELECT first, size, file, digest FROM sealed ORDER BY first")]

    def tile(self, level: int, n: int) -> bytes:
        """The hashes of a tile, empty when it is not stored."""
        rows = self.db.rows("SELECT hashes FROM tiles WHERE level = ? AND n = ?", (level, n))
        return bytes(rows[0][0]) if rows else b""

    def last_checkpoint(self) -> tuple[int, str] | None:
        """(size, note) of the newest signed head."""
        rows = self.db.rows("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
        return rows[0] if rows else None

    def key_rows(self) -> list[JsonDict]:
        """Every key record, as a dict of the table's columns; oldest first."""
        names = _KEY_COLUMNS.split(", ")
        rows = self.db.rows(f"SELECT {_KEY_COLUMNS} FROM crypto_keys ORDER BY not_before, kid")  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in rows]

    def key_audit(self, kid: str | None, limit: int) -> list[JsonDict]:
        """The newest `limit` key operations, of one key when `kid` is given; oldest first."""
        names = ("time", "operation", "kid", "actor", "uid", "details")
        rows = self.db.rows(
            "SELECT time, operation, kid, actor, uid, details FROM crypto_audit "
            "WHERE :kid IS NULL OR kid = :kid ORDER BY id DESC LIMIT :limit",
            {"kid": kid, "limit": limit},
        )
        return [dict(zip(names, row, strict=True)) for row in reversed(rows)]

    def close(self) -> None:
        """Close the file."""
        self.db.close()


class LedgerReader:
    """A read-only look at a ledger, live or a copied file, in one consistent snapshot. Writes nothing."""

    def __init__(self, path: str) -> None:
        """Raises StoreError when it is not there or no ledger."""
        from graced.store.ledger_archive import Archive, Segment
        from graced.store.ledger_derived import DerivedRows, lenient

        self._path = path
        if not os.path.isfile(path):
            raise StoreError(f"{path} is not there", code="missing", path=path)
        # Without a WAL nobody has it open: immutable reads it without making -wal and -shm files beside it.
        mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        try:
            self._connection = sqlite3.connect(f"file:{quoted}?{mode}", uri=True, timeout=5.0, isolation_level=None)
        except sqlite3.Error as error:
            raise translate(error, path) from error
        try:
            self._connection.text_factory = lenient
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT count(*) FROM checkpoints").fetchone()
            sealed = []
            # A database of the first version has no archive.
            if self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sealed'").fetchone():
                sealed = self._connection.execute(
                    "SELECT first, size, file, digest FROM sealed ORDER BY first"
                ).fetchall()
        except sqlite3.Error as error:
            self._connection.close()
            raise translate(error, path) from error
        self._archive = Archive(path, [Segment(*row) for row in sealed])
        self.derived = DerivedRows(self._connection, path)

    @property
    def sealed_size(self) -> int:
        """Entries below this number are in the archive."""
        return self._archive.size

    def sealed_keys(self) -> str:
        """What is said about all keys before the last sealed entry's end; "" when there is none. Raises StoreError."""
        for _first, keys in self._rows("SELECT first, CAST(keys AS TEXT) FROM sealed ORDER BY first DESC LIMIT 1"):
            return str(keys)
        return ""

    def missing_files(self) -> list[str]:
        """Files of sealed entries that are not there."""
        return self._archive.missing()

    def entries(self, start: int = 0) -> Generator[tuple[int, bytes], None, None]:
        """Every (seq, entry) from `start` on, in order, also sealed ones. Raises StoreError for damage."""
        yield from self._archive.entries(start)
        yield from self._rows(
            "SELECT seq, coalesce(CAST(entry AS BLOB), x'') FROM ledger WHERE seq >= ? ORDER BY seq",
            (max(start, self._archive.size),),
        )

    def checkpoints(self) -> Iterator[tuple[int, str]]:
        """Every (size, note) in order. Raises StoreError."""
        return self._rows("SELECT size, coalesce(CAST(note AS TEXT), '') FROM checkpoints ORDER BY size")

    def last_checkpoint(self) -> tuple[int, str] | None:
        """(size, note) of the newest head. Raises StoreError."""
        rows = self._rows("SELECT size, coalesce(CAST(note AS TEXT), '') FROM checkpoints ORDER BY size DESC LIMIT 1")
        return next(rows, None)

    def tile(self, level: int, n: int) -> bytes:
        """The hashes of a tile, empty when it is not stored. Raises StoreError.

        Those of sealed entries are made from the archive; the tile above, which is stored, says whether they are right.
        """
        if level == 0 and n * 256 < self._archive.size:
            from hashlib import sha256

            return b"".join([sha256(b"\0" + entry).digest() for entry in self._archive.block(n * 256, 256)])
        for row in self._rows("SELECT level, CAST(hashes AS BLOB) FROM tiles WHERE level = ? AND n = ?", (level, n)):
            return bytes(row[1])
        return b""

    def _rows(self, sql: str, values: Sequence[int] = ()) -> Generator[tuple[int, Any], None, None]:
        try:
            yield from self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def close(self) -> None:
        """Done."""
        self._connection.close()
