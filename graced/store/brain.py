"""What the brain must not forget: lessons, open incidents, and incident records Memory has not taken yet.

One small SQLite file of the supervisor. The outbox makes "recorded in Memory" at least once: a row leaves only
when Memory has acknowledged it.
"""

from __future__ import annotations

from graced.base.json import dumps_ascii, loads
from graced.store.db import Database, open_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict

_MIGRATIONS = (
    """
    CREATE TABLE lesson(
        finding TEXT NOT NULL, profile TEXT NOT NULL, playbook TEXT NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY(finding, profile, playbook)) WITHOUT ROWID;
    CREATE TABLE incident(id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE outbox(seq INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
    """,
)


class BrainStore:
    """Open it once; `save` is one transaction. Raises StoreError."""

    def __init__(self, path: str) -> None:
        self._db: Database = open_database(path, _MIGRATIONS)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def lessons(self) -> list[JsonDict]:
        """All lessons as stored."""
        return [loads(row[0]) for row in self._db.rows("SELECT body FROM lesson")]

    def incidents(self) -> list[JsonDict]:
        """Open incidents as stored."""
        return [loads(row[0]) for row in self._db.rows("SELECT body FROM incident")]

    def next_number(self) -> int:
        """The number for the next incident: never used before."""
        rows = self._db.rows("SELECT value FROM counter WHERE name = 'incident'")
        return int(rows[0][0]) + 1 if rows else 1

    def save(
        self, incidents: Iterable[JsonDict], lessons: Iterable[JsonDict], outbox: Iterable[JsonDict], last_number: int
    ) -> None:
        """Store open incidents (closed ones, with `closed_at`, are dropped), lessons and records for Memory."""
        with self._db.transaction() as db:
            for incident in incidents:
                if incident["closed_at"] is None:
                    db.execute("INSERT OR REPLACE INTO incident VALUES (?, ?)", (incident["id"], dumps_ascii(incident)))
                else:
                    db.execute("DELETE FROM incident WHERE id = ?", (incident["id"],))
            for lesson in lessons:
                key = (lesson["finding"], lesson["profile"], lesson["playbook"])
                db.execute("INSERT OR REPLACE INTO lesson VALUES (?, ?, ?, ?)", (*key, dumps_ascii(lesson)))
            for body in outbox:
                db.execute("INSERT INTO outbox(body) VALUES (?)", (dumps_ascii(body),))
            db.execute(
                "INSERT INTO counter VALUES ('incident', ?)"
                " ON CONFLICT(name) DO UPDATE SET value = max(value, excluded.value)",
                (last_number,),
            )

    def outbox(self, limit: int = 100) -> list[tuple[int, JsonDict]]:
        """The oldest records not taken yet, with their sequence numbers."""
        rows = self._db.rows("SELECT seq, body FROM outbox ORDER BY seq LIMIT ?", (limit,))
        return [(int(seq), loads(body)) for seq, body in rows]

    def taken(self, seq: int) -> None:
        """Memory has everything up to `seq`."""
        self._db.execute("DELETE FROM outbox WHERE seq <= ?", (seq,))
