"""The log is copied beside the loop: short under load that never pauses, never against SQLite's rule."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
import sys
import time

import pytest

from graced.base.errors import StoreError
from graced.runtime.loop import Loop
from graced.store import checkpoint
from graced.store.checkpoint import Backfill, connect, passive
from graced.store.db import open_database
from graced.supervisor.background import Background
from graced.supervisor.logkeeper import DUE_PAGES, IDLE_PAGES, PAGE_BYTES, LogKeeper

SCHEMA = ("CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT NOT NULL);",)
PAGE_TEXT = "x" * 3500
COMMITS_MEANWHILE = 30
"""Of 5 pages and some more each, while the thread copies: fewer than the loop copies by itself."""


class Desk:
    def __init__(self, path):
        self.loop = Loop()
        self.background = Background(self.loop)
        self.db = open_database(str(path), SCHEMA, synchronous="NORMAL")
        self.keeper = LogKeeper(self.loop, self.background, self.db)
        self.rows = 0
        self.closed = False

    def commit(self, rows=1):
        with self.db.transaction():
            self.db.executemany("INSERT INTO item (body) VALUES (?)", [(PAGE_TEXT,)] * rows)
        self.rows += rows
        self.keeper.committed()

    def turn_until(self, condition, seconds=60):
        limit = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < limit
            self.loop.run_once(0.05)

    def close(self):
        if self.closed:
            return
        self.closed = True
        self.keeper.stop()
        self.background.close(self.keeper.close)
        self.db.close()


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "a.db")
    yield made
    made.close()


def test_the_log_stays_short_under_load_that_never_pauses(desk):
    desk.keeper.start()
    largest = written_meanwhile = 0
    for _ in range(8000):
        desk.commit(5)
        desk.loop.run_once(0.0)
        written_meanwhile = written_meanwhile + 1 if desk.keeper._running else 0
        # load that writes no faster than this machine lets the thread copy; the one is not measured by the other
        while desk.keeper._running and written_meanwhile > COMMITS_MEANWHILE:
            desk.loop.run_once(60)
            written_meanwhile = 0
        largest = max(largest, desk.keeper.log_bytes)
    written = desk.rows * PAGE_BYTES
    assert written > 5 * largest
    assert largest < 8 * DUE_PAGES * PAGE_BYTES
    assert (desk.keeper.error, desk.keeper.errors) == ("", 0)
    assert desk.db.rows("SELECT count(*) FROM item") == [(desk.rows,)]
    assert desk.db.check() == []


def test_before_the_start_and_without_a_thread_commits_checkpoint_by_themselves(desk):
    for _ in range(6000):
        desk.commit()
    assert desk.keeper.log_bytes < 6000 * PAGE_BYTES
    assert desk.db.rows("PRAGMA wal_autocheckpoint") == [(4000,)]
    desk.keeper.start()
    assert desk.db.rows("PRAGMA wal_autocheckpoint") == [(0,)]


def test_no_copy_begins_while_the_log_could_start_again(desk, monkeypatch):
    """What SQLite's WAL-reset bug needs: at the begin of each copy beside the loop a page must be left to copy."""
    desk.keeper.start()
    desk.commit()
    # mxFrame and nBackfill of the WAL index; closing another descriptor of it would drop SQLite's locks
    shared = os.open(f"{desk.db.path}-shm", os.O_RDONLY)
    began = []

    def watched(connection, path):
        began.append([int.from_bytes(os.pread(shared, 4, offset), sys.byteorder) for offset in (16, 96)])
        return passive(connection, path)

    monkeypatch.setattr(checkpoint, "passive", watched)
    draw = random.Random(3)
    limit = time.monotonic() + 60
    for number in itertools.count():
        if number >= 3000 and len(began) > 10:
            break
        assert time.monotonic() < limit
        desk.commit(draw.choice((1, 1, 30)))
        desk.loop.run_once(draw.choice((0.0, 0.0, 0.0, 0.001)))
        if draw.random() < 0.002:
            desk.turn_until(lambda: not desk.keeper._running)
            desk.keeper._ask()  # as if woken by its timer
    desk.turn_until(lambda: not desk.keeper._running)
    assert all(copied < pages for pages, copied in began), began
    desk.db.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    desk.keeper._fresh = False  # all is copied, and no commit followed
    asked = len(began)
    desk.keeper._ask()
    assert not desk.keeper._running
    assert len(began) == asked
    desk.close()
    os.close(shared)


def test_when_load_ends_the_log_is_copied(desk):
    desk.keeper.start()
    desk.commit(IDLE_PAGES * 3)
    desk.turn_until(lambda: desk.keeper._pages)
    assert desk.keeper._left == 0
    plain = sqlite3.connect(f"file:{desk.db.path}?mode=ro&immutable=1", uri=True)
    assert plain.execute("SELECT count(*) FROM item").fetchone() == (desk.rows,), "without reading the log"
    plain.close()


def test_what_a_killed_process_left_is_copied_after_the_first_commit(tmp_path):
    desk = Desk(tmp_path / "a.db")
    with desk.db.transaction():
        desk.db.executemany("INSERT INTO item (body) VALUES (?)", [(PAGE_TEXT,)] * (DUE_PAGES + 100))
    for end in ("", "-wal", ".created"):
        shutil.copy(tmp_path / f"a.db{end}", tmp_path / f"b.db{end}")
    desk.close()
    desk = Desk(tmp_path / "b.db")
    desk.keeper.start()
    desk.commit()
    desk.turn_until(lambda: desk.keeper._pages)
    assert desk.keeper._left == 0
    desk.close()


def test_an_error_is_said_and_put_off(desk):
    desk.keeper.start()
    healthy = desk.keeper._backfill

    class Broken:
        def run(self):
            raise StoreError("no room", code="disk-full")

        def stop(self):
            pass

    desk.keeper._backfill = Broken()
    desk.commit(2 * DUE_PAGES)
    desk.turn_until(lambda: desk.keeper.errors)
    assert "no room" in desk.keeper.error
    assert desk.db.path in desk.keeper.error
    desk.commit(DUE_PAGES)
    assert not desk.keeper._running, "not before RETRY_SECONDS"
    desk.keeper._backfill = healthy
    desk.keeper._not_before_s = 0.0
    desk.commit()
    desk.turn_until(lambda: not desk.keeper.error)
    assert desk.db.check() == []


def test_a_reader_holds_the_log_back_and_no_longer_when_it_ends(desk):
    reader = connect(desk.db.path)
    desk.commit(10)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM item").fetchone()
    desk.commit(100)
    backfill = Backfill(desk.db.path)
    pages, copied = backfill.run()
    assert copied < pages
    reader.execute("ROLLBACK")
    pages, copied = backfill.run()
    assert copied == pages > 100
    backfill.close()
    reader.close()


@pytest.mark.parametrize(
    "passes",
    [
        # until there is next to nothing left
        [(1000, 800), (1000, 960), (1000, 970)],
        # while it gets ahead of the writer
        [(1000, 800), (1100, 880)],
    ],
)
def test_the_thread_leaves_little_to_the_loop(desk, monkeypatch, passes):
    backfill, left = Backfill(desk.db.path), list(passes)
    monkeypatch.setattr("graced.store.checkpoint.passive", lambda _connection, _path: left.pop(0))
    assert backfill.run() == passes[-1]
    assert left == []
    backfill.close()


def test_a_second_connection_to_nothing_is_a_store_error(tmp_path):
    with pytest.raises(StoreError):
        connect(str(tmp_path / "none" / "a.db"))
    plain = sqlite3.connect(tmp_path / "b.db")
    plain.execute("CREATE TABLE t (x)")
    assert passive(plain, "b.db") == (0, 0)
    plain.close()


def test_what_a_job_raises_reaches_the_loop():
    loop = Loop()
    background = Background(loop)
    errors, told = [], []
    loop.on_error = errors.append
    background.run(lambda: 1 / 0, lambda *outcome: told.append(outcome))
    background.run(os.getpid, lambda *outcome: told.append(outcome))
    background.run(lambda: open_database("/proc/none/x.db", SCHEMA), lambda *outcome: told.append(outcome))
    limit = time.monotonic() + 60
    while len(told) < 2 or not errors:
        assert time.monotonic() < limit
        loop.run_once(0.05)
    assert isinstance(errors[0], ZeroDivisionError)
    assert told[0] == (os.getpid(), None)
    assert isinstance(told[1][1], StoreError)
    ended = []
    background.close(lambda: ended.append(True))
    assert ended == [True]
    background.run(lambda: 1, lambda *outcome: told.append(outcome))
    loop.run_once(0.0)
    assert len(told) == 2
