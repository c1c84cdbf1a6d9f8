"""open_database: makes, keeps, refuses. Real files, really damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from graced.base.errors import StoreError
from graced.store.db import QUICK_CHECK_MAX_BYTES, open_database
from graced.store.retention import shrink

V1 = ("CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT NOT NULL);",)
V2 = (*V1, "ALTER TABLE item ADD COLUMN size INTEGER; UPDATE item SET size = length(body);")


def _fill(path, rows=1, body="x"):
    with open_database(path, V1) as db, db.transaction():
        db.executemany("INSERT INTO item (body) VALUES (?)", [(body,)] * rows)


def _code(path, migrations=V1):
    with pytest.raises(StoreError) as caught:
        open_database(path, migrations)
    assert path in caught.value.message
    return caught.value


def test_new_file_is_private_and_durable(tmp_path):
    path = str(tmp_path / "sub" / "a.db")
    with open_database(path, V1) as db:
        assert db.rows("PRAGMA journal_mode") == [("wal",)]
        assert db.rows("PRAGMA synchronous") == [(2,)]
        assert db.check() == []
        db.execute("INSERT INTO item (body) VALUES ('x')")
        for name in os.listdir(tmp_path / "sub"):
            assert (tmp_path / "sub" / name).stat().st_mode & 0o777 == 0o600, name
    with open_database(path, V1, synchronous="NORMAL") as db:
        assert db.rows("SELECT body FROM item") == [("x",)]
        assert db.rows("PRAGMA synchronous") == [(1,)]


def test_a_start_after_a_kill_writes_nothing(tmp_path):
    """Neither an fsync nor SQLite's own checkpoint of what the killed process left in its log."""
    path, copy = str(tmp_path / "a.db"), str(tmp_path / "copy.db")
    with open_database(path, V1, shrinkable=True) as db:
        with db.transaction():
            db.executemany("INSERT INTO item (body) VALUES (?)", [("x" * 4000,)] * 2000)
        for end in ("", "-wal", ".created"):
            shutil.copy(path + end, copy + end)
    files = [tmp_path / f"copy.db{end}" for end in ("", "-wal")]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    with open_database(copy, V1, shrinkable=True) as db:
        assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before
        assert db.rows("SELECT count(*) FROM item") == [(2000,)]
        assert _mode(db) == (2, "wal")


def _mode(db):
    return db.rows("PRAGMA auto_vacuum")[0][0], db.rows("PRAGMA journal_mode")[0][0]


def test_a_shrinkable_file_gives_pages_back(tmp_path):
    path = str(tmp_path / "a.db")
    with open_database(path, V1, shrinkable=True) as db:
        assert _mode(db) == (2, "wal")
        with db.transaction():
            db.executemany("INSERT INTO item (body) VALUES (?)", [("x" * 4000,)] * 1000)
        db.execute("DELETE FROM item WHERE id > 100")
        pages = db.rows("PRAGMA page_count")[0][0]
        shrink(db, 500)
        assert pages - 505 < db.rows("PRAGMA page_count")[0][0] <= pages - 500
        assert db.check() == []
    with open_database(str(tmp_path / "b.db"), V1) as db:
        assert _mode(db) == (0, "wal")


def test_an_older_file_becomes_shrinkable_while_it_is_small(tmp_path):
    for rows, mode in ((1000, 2), (QUICK_CHECK_MAX_BYTES // 1000 + 100, 0)):
        path = str(tmp_path / f"{rows}.db")
        _fill(path, rows=rows, body="y" * 1000)
        for _ in range(2):
            with open_database(path, V2, shrinkable=True) as db:
                assert _mode(db) == (mode, "wal")
                assert db.rows("SELECT count(*), min(size) FROM item") == [(rows, 1000)]
                assert db.check() == []


def test_too_open_mode_is_closed(tmp_path):
    path = str(tmp_path / "a.db")
    _fill(path)
    os.chmod(path, 0o644)
    open_database(path, V1).close()
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_migrations_run_once_and_only_forward(tmp_path):
    path = str(tmp_path / "a.db")
    _fill(path)
    for _ in range(2):
        with open_database(path, V2) as db:
            assert db.rows("SELECT body, size FROM item") == [("x", 1)]
    assert _code(path, V1).code == "newer"


def test_failed_migration_changes_nothing(tmp_path):
    path = str(tmp_path / "a.db")
    _fill(path)
    error = _code(path, (*V1, "CREATE TABLE other (id INTEGER); NOT SQL;"))
    assert error.code == "sql"
    with open_database(path, V1) as db:
        assert db.rows("SELECT name FROM sqlite_master") == [("item",)]


def test_second_writer_is_refused_until_the_first_leaves(tmp_path):
    path = str(tmp_path / "a.db")
    with open_database(path, V1):
        assert _code(path).code == "in-use"
    open_database(path, V1).close()


@pytest.mark.parametrize("lost", ["remove", "empty", "garbage", "header"])
def test_lost_or_foreign_file_is_refused_and_left_alone(tmp_path, lost):
    path = str(tmp_path / "a.db")
    _fill(path)
    if lost == "remove":
        os.unlink(path)
    else:
        data = {"empty": b"", "garbage": b"hello" * 1000, "header": b"SQLite format 4\0" + b"\0" * 4080}[lost]
        with open(path, "wb") as file:
            file.write(data)
    before = sorted(os.listdir(tmp_path))
    error = _code(path)
    assert error.code == ("missing" if lost == "remove" else "damaged")
    assert "backup" in error.hint
    assert sorted(os.listdir(tmp_path)) == before


def test_wal_without_its_database_is_refused(tmp_path):
    path = str(tmp_path / "a.db")
    (tmp_path / "a.db-wal").write_bytes(b"x" * 100)
    assert _code(path).code == "missing"
    assert (tmp_path / "a.db-wal").exists()


def test_damaged_page_is_found_at_open(tmp_path):
    path = str(tmp_path / "a.db")
    _fill(path, rows=2000, body="y" * 100)
    size = os.path.getsize(path)
    assert 100_000 < size < QUICK_CHECK_MAX_BYTES
    with open(path, "r+b") as file:
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 200)
    assert _code(path).code == "damaged"


def test_damage_met_later_is_a_store_error(tmp_path):
    path = str(tmp_path / "a.db")
    _fill(path, rows=40_000, body="y" * 100)
    with open(path, "r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xff" * 4096 * 100)
    assert os.path.getsize(path) > QUICK_CHECK_MAX_BYTES
    with open_database(path, V1) as db:
        with pytest.raises(StoreError) as caught:
            db.rows("SELECT sum(length(body)) FROM item")
        assert caught.value.code == "damaged"
        assert db.check()


def test_a_restored_backup_is_accepted(tmp_path):
    path = str(tmp_path / "a.db")
    plain = sqlite3.connect(path)
    plain.executescript(V1[0] + "INSERT INTO item (body) VALUES ('old'); PRAGMA user_version = 1;")
    plain.close()
    with open_database(path, V1) as db:
        assert db.rows("SELECT body FROM item") == [("old",)]
    os.unlink(path)
    assert _code(path).code == "missing"


def test_transaction_rolls_back_on_error(tmp_path):
    with open_database(str(tmp_path / "a.db"), V1) as db:
        with pytest.raises(KeyError), db.transaction():
            db.execute("INSERT INTO item (body) VALUES ('x')")
            raise KeyError
        assert db.rows("SELECT count(*) FROM item") == [(0,)]
        with pytest.raises(StoreError) as caught:
            db.execute("SELECT nothing FROM nowhere")
        assert caught.value.code == "sql"


def test_symlink_is_not_followed(tmp_path):
    path = str(tmp_path / "a.db")
    os.symlink("/etc/hostname", path)
    assert _code(path).code == "cannot-open"


_FILL_UNTIL_FULL = """
import resource, signal, sys
from graced.base.errors import StoreError
from graced.store.db import open_database
path, limit = sys.argv[1], int(sys.argv[2])
db = open_database(path, ["CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT NOT NULL);"])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
kept = 0
code = ""
while not code:
    try:
        with db.transaction():
            db.executemany("INSERT INTO item (body) VALUES (?)", [("z" * 500,)] * 10)
        kept += 10
    except StoreError as error:
        code = error.code
        assert path in str(error) and error.hint, error
assert db.rows("SELECT count(*) FROM item") == [(kept,)], "state must be the one before"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with db.transaction():
    db.execute("INSERT INTO item (body) VALUES ('after')")
print(code, kept + 1, len(db.check()))
"""


@pytest.mark.parametrize("limit", [49_152, 65_536, 131_072, 131_100, 262_144, 1_000_000])
def test_no_more_room_keeps_what_was_committed(tmp_path, limit):
    path = str(tmp_path / "a.db")
    run = subprocess.run(
        [sys.executable, "-c", _FILL_UNTIL_FULL, path, str(limit)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    code, kept, findings = run.stdout.split()
    assert code in {"disk-full", "io"}
    assert findings == "0"
    with open_database(path, V1) as db:
        assert db.rows("SELECT count(*) FROM item") == [(int(kept),)]
