"""Turns that are durable before SQLite has committed them: each is there afterwards, or none of it."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import StoreError
from graced.store import durable, redo
from graced.store.db import open_database
from graced.store.durable import Durable

SCHEMA = (
    """
    CREATE TABLE head (redo_seq INTEGER NOT NULL, redo_place INTEGER NOT NULL, redo_id TEXT);
    INSERT INTO head VALUES (0, 0, NULL);
    CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT UNIQUE);
    """,
)
PUT = "INSERT INTO t VALUES (?, ?)"


class Store:
    def __init__(self, path):
        self.db = open_database(path, SCHEMA, synchronous="NORMAL")
        try:
            self.durable = Durable(self.db, sync=False)
        except StoreError:
            self.db.close()
            raise

    def put(self, *keys):
        self.durable.many(PUT, [(key, f"v{key}") for key in keys])

    def note(self, *keys):
        self.durable.note(PUT, [(key, f"v{key}") for key in keys])

    def take(self, step, number):
        """Run it, note it, or both; the new keys."""
        if step != "turn":
            self.note(number + 1000)
        if step != "noted":
            self.put(number)
        return {"turn": [number], "noted": [number + 1000]}.get(step, [number + 1000, number])

    def keys(self):
        return [key for (key,) in self.db.rows("SELECT k FROM t ORDER BY k")]

    def close(self):
        self.db.close()
        self.durable.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "q.db")


@pytest.fixture
def store(path):
    one = Store(path)
    yield one
    one.close()


def as_after_a_kill(path, to):
    """A copy of the files as they are now: what the next process would find."""
    shutil.rmtree(to, ignore_errors=True)
    os.makedirs(to)
    for end in ("", "-wal", "-redo", ".created"):
        if os.path.exists(path + end):
            shutil.copy(path + end, to)
    return f"{to}/{os.path.basename(path)}"


def as_after_a_power_cut(path, to, wal):
    """The same when SQLite's own log was not on disk behind `wal` bytes."""
    copy = as_after_a_kill(path, to)
    if os.path.exists(f"{copy}-wal"):
        os.truncate(f"{copy}-wal", wal)
    return copy


def found(path):
    store = Store(path)
    try:
        assert store.durable.unsettled == 0
        return store.keys()
    finally:
        store.close()


def test_a_turn_is_there_after_a_kill_and_its_half_is_not(store, path, tmp_path):
    store.put(1, 2)
    store.durable.commit()
    store.put(3)
    assert store.keys() == [1, 2, 3]
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1, 2]
    store.durable.settle()
    assert store.db.connection.in_transaction, "in the middle of a turn nothing is settled"
    store.durable.commit()
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1, 2, 3]
    store.durable.settle()
    assert not store.db.connection.in_transaction
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1, 2, 3]


STEPS = ["turn", "noted", "both", "look", "settle", "refused", "kill", "power", "sync"]


@given(st.lists(st.sampled_from(STEPS), max_size=25))
def test_whatever_happens_what_was_committed_is_there(tmp_path_factory, steps):
    """`power`: SQLite's log is lost back to what was synced last."""
    base = tmp_path_factory.mktemp("durable")
    path, place = str(base / "q.db"), 0

    def size():
        return os.stat(f"{path}-wal").st_size if os.path.exists(f"{path}-wal") else 0

    before, redo.SEGMENT_BYTES = redo.SEGMENT_BYTES, 4 * redo.SECTOR_BYTES
    store, expected, number = Store(path), [], 0
    wal = size()
    try:
        for step in steps:
            number += 1
            if step in {"turn", "noted", "both"}:
                expected += store.take(step, number)
                full = store.durable.log.seq
                store.durable.commit()
                if store.durable.log.seq == full:
                    wal = size()
            elif step == "settle":
                store.durable.settle()
            elif step == "look":
                assert store.keys() == sorted(expected)
            elif step == "sync":
                applied = store.durable.applied
                wal = size()
                store.durable.log.synced(applied)
            elif step == "refused":
                store.note(number + 1000)
                store.put(number)
                with pytest.raises(StoreError):
                    store.durable.many(PUT, [(number, "twice")])
                store.durable.rollback()
            else:
                place += 1
                to = base / str(place)
                copy = as_after_a_kill(path, to) if step == "kill" else as_after_a_power_cut(path, to, wal)
                store.close()
                # a start does not wait for the disk: what it finds, or does again, may be lost in the next power cut
                path, store = copy, Store(copy)
        assert store.keys() == sorted(expected)
    finally:
        store.close()
        redo.SEGMENT_BYTES = before


def test_a_start_does_not_wait_for_the_disk_and_keeps_what_is_not_on_it(path, monkeypatch):
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 4 * redo.SECTOR_BYTES)
    store = Store(path)
    for key in range(6):
        store.put(key)
        store.durable.commit()
    assert store.durable.log.seq == 6
    store.close()
    monkeypatch.setattr(durable, "sync_log", lambda _path: pytest.fail("it waits for the disk"))
    again = Store(path)
    monkeypatch.undo()
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 4 * redo.SECTOR_BYTES)
    assert again.durable.applied == 6
    # the segment that comes next has records that SQLite may lose: not one of them is written over
    for key in range(6, 9):
        again.put(key)
        again.durable.commit()
    assert again.durable.log.seq == 8, "the last one did not fit, and went the long way"
    assert again.keys() == list(range(9))
    again.close()


def test_a_refused_turn_takes_no_other_with_it(store):
    store.put(1)
    store.durable.commit()
    store.put(2)
    with pytest.raises(StoreError):
        store.put(1)
    store.durable.rollback()
    assert store.keys() == [1]
    assert store.durable.unsettled == 1
    store.durable.rollback()
    store.put(3)
    store.durable.commit()
    store.durable.settle()
    assert store.keys() == [1, 3]


def test_what_is_noted_is_run_when_somebody_looks(store, path, tmp_path):
    store.note(1)
    store.durable.commit()
    assert not store.db.connection.in_transaction
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1]
    store.note(2)
    assert store.keys() == [1, 2]
    assert store.durable.rollback()
    assert store.keys() == [1]
    assert not store.durable.rollback()


def test_what_cannot_be_run_after_all_takes_no_earlier_turn_along(store, path, tmp_path):
    store.note(1)
    store.durable.commit()
    store.note(2)
    store.note(1)
    with pytest.raises(StoreError):
        store.keys()
    with pytest.raises(StoreError, match="not been rolled back"):
        store.keys()
    with pytest.raises(StoreError, match="not been rolled back"):
        store.durable.commit()
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1]
    store.durable.rollback()
    assert store.keys() == [1]
    store.put(3)
    store.durable.commit()
    store.durable.settle()
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1, 3]


def test_a_transaction_that_sqlite_gave_up_is_begun_again(store):
    store.put(1)
    store.durable.commit()
    store.db.connection.execute("ROLLBACK")
    with pytest.raises(StoreError, match="not been rolled back"):
        store.put(2)
    store.durable.rollback()
    assert store.keys() == [1]


def test_statements_are_folded_once_for_all_turns(path):
    asked = []

    def fold(statements):
        asked.append(len(statements))
        return [(PUT, [row for _, rows in statements for row in rows])]

    with open_database(path, SCHEMA, synchronous="NORMAL") as db:
        held = Durable(db, sync=False, fold=fold)
        for key in range(3):
            held.note(PUT, [(key, str(key))])
            held.commit()
        held.settle()
        assert asked == [3]
        assert db.rows("SELECT count(*) FROM t") == [(3,)]
        held.close()


def test_what_was_only_looked_up_holds_no_transaction(store):
    store.durable.begin()
    store.durable.rollback()
    assert not store.db.connection.in_transaction
    store.durable.commit()
    store.durable.settle()
    assert store.durable.applied == 0


def test_a_turn_that_the_log_cannot_hold_is_committed_by_sqlite(store, path, tmp_path, monkeypatch):
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 4 * redo.SECTOR_BYTES)
    store.put(1)
    store.durable.commit()
    store.put(*range(100, 400))
    store.durable.commit()
    assert store.durable.unsettled == 0
    assert (store.durable.log.seq, store.durable.applied) == (1, 1)
    monkeypatch.undo()
    store.put(2)
    store.durable.commit()
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1, 2, *range(100, 400)]


def fail_commits(store, monkeypatch, left):
    real = store.db.commit

    def commit():
        if left:
            left.pop()
            store.db.rollback()
            raise StoreError("the disk is full", code="disk-full")
        real()

    others = type(store.db).commit
    monkeypatch.setattr(type(store.db), "commit", lambda db: commit() if db is store.db else others(db))


def test_while_sqlite_cannot_commit_every_turn_waits_for_it(store, path, tmp_path, monkeypatch):
    store.put(1)
    store.durable.commit()
    fail_commits(store, monkeypatch, [1, 1])
    with pytest.raises(StoreError):
        store.durable.settle()
    assert store.keys() == [1], "what was acknowledged is still seen"
    store.put(2)
    with pytest.raises(StoreError):
        store.durable.commit()
    store.durable.rollback()
    assert store.keys() == [1]
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1]
    store.put(3)
    store.durable.commit()
    assert store.durable.unsettled == 0
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1, 3]


def test_a_log_that_fails_refuses_the_turn(store, monkeypatch):
    store.put(1)
    store.durable.commit()
    store.put(2)
    with monkeypatch.context() as patch:
        patch.setattr(redo.os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(StoreError) as caught:
            store.durable.commit()
    assert caught.value.code == "io"
    store.durable.rollback()
    assert store.keys() == [1]


def test_a_turn_that_was_refused_though_it_is_on_disk_is_not_done_again(store, monkeypatch):
    store.put(1)
    store.durable.commit()
    store.put(2)
    with monkeypatch.context() as patch:
        patch.setattr(store.durable.log, "_sync", True)
        patch.setattr(redo.os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        with pytest.raises(StoreError):
            store.durable.commit()
    store.durable.rollback()
    assert store.keys() == [1]
    store.put(3)
    store.durable.commit()
    assert store.keys() == [1, 3]


def test_a_turn_that_was_refused_does_not_come_back_behind_one_that_sqlite_committed(path, tmp_path, monkeypatch):
    store = Store(path)
    store.durable.log._sync = True
    store.put(1)
    with monkeypatch.context() as patch:
        # the record is whole on disk, and neither synced nor taken back
        patch.setattr(redo.os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        patch.setattr(redo, "bytes", lambda _size: b"", raising=False)
        with pytest.raises(StoreError):
            store.durable.commit()
    store.durable.rollback()
    store.durable._stuck = True
    store.put(1)
    store.durable.commit()
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [1]
    store.close()


def test_a_lost_log_is_said_and_an_empty_one_goes_on_without(store, path, tmp_path):
    store.put(1)
    store.durable.commit()
    store.durable.settle()
    store.put(2)
    store.durable.commit()
    copy = as_after_a_kill(path, tmp_path / "copy")
    os.unlink(f"{copy}-redo")
    with pytest.raises(StoreError, match="the newest tasks may be in it only"):
        Store(copy)
    with open(f"{copy}-redo", "wb"):
        pass
    assert found(copy) == [1]
    assert found(copy) == [1]


def test_an_older_copy_of_the_database_is_brought_up_or_refused(store, path, tmp_path, monkeypatch):
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 4 * redo.SECTOR_BYTES)
    store.close()
    os.unlink(f"{path}-redo")
    with open(f"{path}-redo", "wb"):
        pass
    store.__init__(path)
    store.put(1)
    store.durable.commit()
    store.durable.settle()
    old = as_after_a_kill(path, tmp_path / "old")
    for key in range(2, 11):
        store.put(key)
        store.durable.commit()
        store.durable.settle()
        store.durable.log.synced(store.durable.applied)
        shutil.copy(f"{path}-redo", f"{old}-redo")
        copy = as_after_a_kill(old, tmp_path / "copy")
        if key < 10:
            assert found(copy) == list(range(1, key + 1))
        else:
            with pytest.raises(StoreError, match="end at record 1, but 10 is there"):
                Store(copy)


def test_it_is_told_when_sqlite_has_committed(store):
    told = []
    store.durable.settled = lambda: told.append(store.db.connection.in_transaction)
    store.put(1)
    store.durable.commit()
    assert told == []
    store.durable.settle()
    store.durable.settle()
    assert told == [False]


def test_outside_of_all_turns_a_statement_is_durable_at_once(store, path, tmp_path):
    store.durable.outside(PUT, (9, "nine"))
    assert found(as_after_a_kill(path, tmp_path / "copy")) == [9]


def test_syncing_a_log_that_is_not_there_is_nothing(tmp_path):
    durable.sync_log(str(tmp_path / "none.db"))
    connection = sqlite3.connect(tmp_path / "some.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    durable.sync_log(str(tmp_path / "some.db"))
    connection.close()


def test_it_counts_what_sqlite_was_not_told_of(store):
    store.note(1, 2)
    assert store.durable.noted_rows == 0, "the turn has not ended"
    store.durable.commit()
    assert store.durable.noted_rows == 2
    store.note(3)
    store.durable.rollback()
    assert store.durable.noted_rows == 2
    store.durable.catch_up()
    assert (store.durable.noted_rows, store.keys()) == (0, [1, 2])
    store.note(4)
    store.durable.commit()
    store.durable.settle()
    assert store.durable.noted_rows == 0
