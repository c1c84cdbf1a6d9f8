"""The Librarian's book: every file it took in or refused, with the reason, and which ones it knows already.

A file is known by device, inode, size, modification and change time, so that a restart does not read unchanged folders
again. The book is a convenience: when it is lost, files are read again and Memory finds them by digest. Only the
Librarian kernel opens it.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.record import Record
from graced.store.db import open_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.clock import Clock
    from graced.base.json import JsonDict

_MIGRATIONS = (
    """
CREATE TABLE intake (
  id INTEGER PRIMARY KEY, path TEXT NOT NULL, sha256 TEXT, bytes INTEGER NOT NULL, score REAL, verdict TEXT NOT NULL,
  reason TEXT NOT NULL, stamp TEXT NOT NULL, time TEXT NOT NULL);
CREATE UNIQUE INDEX intake_stamp ON intake(path, stamp);
""",
)
_KEPT = 100_000
ACCEPTED = "accepted"
DUPLICATE = "duplicate"
REJECTED = "rejected"


class Entry(Record):
    """One file's end: `verdict` accepted, duplicate or rejected; sha256 and score null when it never came to them."""

    path: str
    stamp: str
    size_bytes: int
    verdict: str
    reason: str
    sha256: str | None = None
    score: float | None = None


def stamp(device: int, inode: int, size_bytes: int, mtime_ns: int, ctime_ns: int) -> str:
    """What a file is recognised by without reading it."""
    return f"{device}:{inode}:{size_bytes}:{mtime_ns}:{ctime_ns}"


class IntakeStore:
    """The open book. Methods raise StoreError."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._db = open_database(path, _MIGRATIONS, synchronous="NORMAL")
        self._clock = clock
        counts = dict(self._db.rows("SELECT verdict, count(*) FROM intake GROUP BY verdict"))
        self.accepted = int(counts.get(ACCEPTED, 0)) + int(counts.get(DUPLICATE, 0))
        self.rejected = int(counts.get(REJECTED, 0))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def known(self, path: str, file_stamp: str) -> bool:
        """Whether this very state of the file had its verdict already."""
        return bool(self._db.rows("SELECT 1 FROM intake WHERE path = ? AND stamp = ?", (path, file_stamp)))

    def add(self, entry: Entry) -> None:
        """Write a verdict down; the oldest go when there are over 100 000."""
        with self._db.transaction():
            cursor = self._db.execute(
                "INSERT OR REPLACE INTO intake(path, sha256, bytes, score, verdict, reason, stamp, time)"
                " VALUES (?,?,?,?,?,?,?,?)",
                (entry.path, entry.sha256, entry.size_bytes, entry.score, entry.verdict, entry.reason, entry.stamp,
                 iso(self._clock.wall_us())),
            )  # fmt: skip
            self._db.execute("DELETE FROM intake WHERE id <= ?", (int(cursor.lastrowid or 0) - _KEPT,))
        if entry.verdict == REJECTED:
            self.rejected += 1
        else:
            self.accepted += 1

    def newest(self, limit: int) -> list[JsonDict]:
        """The newest verdicts first."""
        names = ("path", "sha256", "bytes", "score", "verdict", "reason", "time")
        rows = self._db.rows(f"SELECT {', '.join(names)} FROM intake ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in rows]
