"""The ledger's tables that follow from its entries, as rows to compare. Reads only, and makes nothing of what it reads.

Text that is no UTF-8 is an edit like any other and must be compared, not choked on: see `lenient`.
"""

from __future__ import annotations

import sqlite3

from graced.base.digest import sha256
from graced.base.errors import StoreError
from graced.store.db import translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    Row: TypeAlias = tuple[Any, ...]

_TABLES = ("ledger_subjects", "signatures")


def lenient(text: bytes) -> str:
    """A text_factory: what is no UTF-8 becomes surrogates, which no entry has."""
    return text.decode(errors="surrogateescape")


class DerivedRows:
    """Rows of a ledger's derived tables on an open connection. All methods raise StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path

    def _rows(self, sql: str, values: Sequence[int] = ()) -> list[Row]:
        factory, self._connection.text_factory = self._connection.text_factory, lenient
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        finally:
            self._connection.text_factory = factory

    def subjects(self, first: int, end: int) -> list[Row]:
        """(seq, task_id, intent_id, unit) from `first` to `end` - 1."""
        return self._rows(
            "SELECT seq, task_id, intent_id, unit FROM ledger_subjects WHERE seq BETWEEN ? AND ? ORDER BY seq",
            (first, end - 1),
        )

    def signatures(self, first: int, end: int) -> list[Row]:
        """(seq, digest of what is signed, kid, signature) from `first` to `end` - 1."""
        return self._rows(
            "SELECT seq, artifact_digest, kid, signature FROM signatures WHERE seq BETWEEN ? AND ? ORDER BY seq",
            (first, end - 1),
        )

    def strays(self, size: int) -> list[tuple[str, int]]:
        """(table, seq) of the last row about an entry beyond `size`, and of the first about one below 0."""
        found = []
        for table in _TABLES:
            sql = f"SELECT max(seq) FROM {table} WHERE seq > ? UNION SELECT min(seq) FROM {table} WHERE seq < 0"  # noqa: S608  # ours
            found += [(table, int(seq)) for (seq,) in self._rows(sql, (size - 1,)) if seq is not None]
        return found

    def key_rows(self) -> list[Row]:
        """crypto_keys by kid: its columns in order, the sealed blob as its SHA-256 in hex, public keys as bytes."""
        rows = self._rows(
            "SELECT kid, signer, purpose, public, sealed, not_before, not_after, state, revoked_at_seq, endorsed_by "
            "FROM crypto_keys ORDER BY kid"
        )
        return [(*row[:4], _digest(row[4]), *row[5:]) for row in rows]

    def key_operations(self) -> list[Row]:
        """crypto_audit in order."""
        return self._rows(
            "SELECT id, time, boottime_us, operation, kid, actor, uid, details FROM crypto_audit ORDER BY id"
        )

    def seals(self) -> list[Row]:
        """(first, size, file, digest, keys) of each sealed segment, in order. A first version has no such table."""
        try:
            return self._rows("SELECT first, size, file, digest, keys FROM sealed ORDER BY first")
        except StoreError as error:
            if "no such table" in str(error):
                return []
            raise


def _digest(sealed: object) -> object:
    return sha256(sealed).hexdigest() if isinstance(sealed, bytes) else sealed
