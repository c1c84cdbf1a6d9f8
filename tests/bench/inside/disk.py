"""What the disk and SQLite can do by themselves, measured in the same run as the queue."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

RECORD_BYTES = 300
SCHEMA = """
CREATE TABLE task (
  id INTEGER PRIMARY KEY, state INTEGER NOT NULL, rank INTEGER NOT NULL, key TEXT, payload TEXT NOT NULL
);
CREATE INDEX queue ON task (rank) WHERE state = 0;
CREATE UNIQUE INDEX keys ON task (key) WHERE key IS NOT NULL AND state < 3;
CREATE TABLE event (
  task INTEGER NOT NULL, at_us INTEGER NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (task, at_us)
) WITHOUT ROWID;
"""


def appends(path: str, count: int) -> list[float]:
    """Append RECORD_BYTES and fdatasync, `count` times: ms each. The file is removed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    record, values = b"x" * RECORD_BYTES, []
    try:
        for _ in range(count):
            since_ns = time.monotonic_ns()
            os.write(descriptor, record)
            os.fdatasync(descriptor)
            values.append((time.monotonic_ns() - since_ns) / 1e6)
    finally:
        os.close(descriptor)
        os.unlink(path)
    return values


def inserts(path: str, count: int, batch: int) -> list[float]:
    """Insert `count` records with key and event into a new database (WAL, FULL), `batch` to a commit: ms per commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    payload, values = "x" * RECORD_BYTES, []
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
        for start in range(0, count, batch):
            numbers = range(start + 1, min(start + batch, count) + 1)
            rows = [(number, 0, 10**15 + number, f"bench-{number}", payload) for number in numbers]
            events = [(number, 10**15 + number, "submitted") for number in numbers]
            since_ns = time.monotonic_ns()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO task VALUES (?, ?, ?, ?, ?)", rows)
            connection.executemany("INSERT INTO event VALUES (?, ?, ?)", events)
            connection.execute("COMMIT")
            values.append((time.monotonic_ns() - since_ns) / 1e6)
    finally:
        connection.close()
        for ending in ("", "-wal", "-shm"):
            Path(f"{path}{ending}").unlink(missing_ok=True)
    return values
