"""What Governance must not forget: each unit's history, requests for approval, a pause, and this host's age clock.

Values are JSON objects; their meaning belongs to the policy engine. On return of a writing method they are on disk.
"""

from __future__ import annotations

from graced.base.errors import FormatError, StoreError
from graced.base.json import canonical, loads_object
from graced.store.db import Database, open_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

MIGRATIONS = (
    """
    CREATE TABLE unit (unit TEXT PRIMARY KEY, history BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    """,
    "CREATE TABLE approval (number INTEGER PRIMARY KEY AUTOINCREMENT, request BLOB NOT NULL);",
)
MAX_APPROVALS = 1000
"""How many requests for approval are kept; the ledger keeps what people said."""
_PUT_UNIT = "INSERT INTO unit VALUES (?, ?) ON CONFLICT (unit) DO UPDATE SET history = excluded.history"
_PUT_FACT = "INSERT INTO fact VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"

_PUT_APPROVAL = "INSERT INTO approval VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET request = excluded.request"


class GovernanceStore:
    """An open governance.db. All methods raise StoreError."""

    def __init__(self, path: str) -> None:
        self._db: Database = open_database(path, MIGRATIONS)

    def histories(self) -> dict[str, JsonDict]:
        """unit → history of every unit."""
        return {str(unit): self._object(data) for unit, data in self._db.rows("SELECT unit, history FROM unit")}

    def fact(self, name: str) -> JsonDict | None:
        """A single fact; None when it was never put."""
        rows = self._db.rows("SELECT value FROM fact WHERE name = ?", (name,))
        return self._object(rows[0][0]) if rows else None

    def put(self, histories: dict[str, JsonDict], facts: dict[str, JsonDict]) -> None:
        """Write histories and facts in one transaction."""
        with self._db.transaction() as db:
            for unit, history in histories.items():
                db.execute(_PUT_UNIT, (unit, canonical(history)))
            for name, value in facts.items():
                db.execute(_PUT_FACT, (name, canonical(value)))

    def forget_fact(self, name: str) -> None:
        """Remove a fact."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM fact WHERE name = ?", (name,))

    def approvals(self) -> list[JsonDict]:
        """Every request that is kept, oldest first."""
        return [self._object(row[0]) for row in self._db.rows("SELECT request FROM approval ORDER BY number")]

    def next_approval(self) -> int:
        """The number of the next request: never one that was used."""
        rows = self._db.rows("SELECT seq FROM sqlite_sequence WHERE name = 'approval'")
        return int(rows[0][0]) + 1 if rows else 1

    def put_approval(self, number: int, request: JsonDict) -> None:
        """Add or replace a request; the oldest beyond MAX_APPROVALS go."""
        with self._db.transaction() as db:
            db.execute(_PUT_APPROVAL, (number, canonical(request)))
            db.execute("DELETE FROM approval WHERE number <= ?", (number - MAX_APPROVALS,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _object(self, data: bytes) -> JsonDict:
        try:
            return loads_object(data, path=self._db.path)
        except FormatError as error:
            raise StoreError(f"{self._db.path} is damaged: {error.message}", code="damaged") from error
