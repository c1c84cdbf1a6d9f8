"""Thousands of seeded changes of a ledger's database, by every means somebody with its file has: each one is found.

The ledger has a rotated ledger key, signed entries and 40 heads; every table is changed, those that follow from the
entries too. GRACED_NIGHTLY=1 in the environment makes it fourteen thousand. What no database can show by itself, that
it is an older copy or was written anew by a key that once was good, is found by the head that the journal kept;
everything else must be found without it.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from graced.base.clock import ManualClock
from graced.base.json import canonical, loads_object
from graced.cli.auditing import audit_database
from graced.store.ledger import LedgerStore
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.audit import Anchor
from graced.trust.keyfiles import KeyRecord
from graced.trust.keys import GOVERNANCE, LEDGER, WARRANT_CONTEXT, Signer, encode_base64
from graced.trust.merkle import Tree, leaf_hash
from graced.trust.note import Checkpoint, sign_checkpoint
from graced.trust.roster import Roster, origin_of, roster_key
from graced.trust.tables import CODES

COUNT = 14_000 if os.environ.get("GRACED_NIGHTLY") == "1" else 306
NOW = "2026-01-01T00:00:00.000Z"
OLD, NEW, STRANGER = (Signer(bytes([number]) * 32, LEDGER, "test") for number in (1, 2, 3))
WARRANTS = Signer(b"w" * 32, GOVERNANCE, "test")
ORIGIN = origin_of(OLD.public)
FIRST = Roster(
    origin=ORIGIN,
    machine="m",
    keys=(roster_key(OLD.public, LEDGER, NOW), roster_key(WARRANTS.public, GOVERNANCE, NOW)),
)
ROTATED = Roster(
    origin=ORIGIN,
    machine="m",
    keys=(
        FIRST.keys[0].replace(state="retired", not_after=NOW),
        FIRST.keys[1],
        roster_key(NEW.public, LEDGER, "2026-02-01T00:00:00.000Z"),
    ),
)


def fill(path: Path, roster: Roster, signer: Signer, rounds: range) -> LedgerWriter:
    writer = LedgerWriter(LedgerStore.open(str(path / "ledger.db")), signer, roster, ManualClock(), "boot")
    writer.open(1, [KeyRecord(key=key, sealed=b"sealed " + key.kid.encode()) for key in roster.keys])
    for number in rounds:
        for one in range(number * 19, number * 19 + 18):
            data = {"n": one, "status": "success"}
            writer.stage(Entry("task", data, "supervisor", 1, "nginx.service", f"task_{one}"))
        data = {"unit": "nginx.service", "n": number}
        signature = encode_base64(WARRANTS.sign(WARRANT_CONTEXT, canonical(data)))
        writer.stage(Entry("warrant", data, "governance", 2, kid=WARRANTS.kid, signature=signature))
        writer.commit()
        writer.checkpoint()
    return writer


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Anchor]:
    """(directory of the ledger, of an older copy, the head in the journal)."""
    path, older = tmp_path_factory.mktemp("ledger"), tmp_path_factory.mktemp("older")
    fill(path, FIRST, OLD, range(15))._store.close()
    fill(path, ROTATED, NEW, range(15, 30))._store.close()
    shutil.copy(path / "ledger.db", older / "ledger.db")
    writer = fill(path, ROTATED, NEW, range(30, 40))
    head = Anchor(origin=ORIGIN, size=writer.head.size, root=writer.head.root, source="journal")
    writer._store.close()
    for one in (path, older):
        (one / "roster.json").write_bytes(ROTATED.to_bytes())
    return path, older, head


def seqs(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT max(seq) + 1 FROM ledger").fetchone()[0])


def flip(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


def flip_entry(db: sqlite3.Connection, dice: random.Random) -> None:
    seq = dice.randrange(seqs(db))
    (data,) = db.execute("SELECT entry FROM ledger WHERE seq = ?", (seq,)).fetchone()
    db.execute("UPDATE ledger SET entry = ? WHERE seq = ?", (flip(data, dice), seq))


def flip_tile(db: sqlite3.Connection, dice: random.Random) -> None:
    level, n, hashes = dice.choice(db.execute("SELECT level, n, hashes FROM tiles").fetchall())
    db.execute("UPDATE tiles SET hashes = ? WHERE level = ? AND n = ?", (flip(hashes, dice), level, n))


def flip_checkpoint(db: sqlite3.Connection, dice: random.Random) -> None:
    size, note = dice.choice(db.execute("SELECT size, note FROM checkpoints").fetchall())
    changed = flip(note.encode(), dice).decode("latin-1")
    db.execute("UPDATE checkpoints SET note = ? WHERE size = ?", (changed, size))


def edit(db: sqlite3.Connection, dice: random.Random) -> None:
    """A plausible lie: another result, in perfect form."""
    seq = dice.randrange(seqs(db))
    (data,) = db.execute("SELECT entry FROM ledger WHERE seq = ?", (seq,)).fetchone()
    entry = loads_object(data)
    entry["data"]["status"] = "failed"
    db.execute("UPDATE ledger SET entry = ? WHERE seq = ?", (canonical(entry), seq))


def delete(db: sqlite3.Connection, dice: random.Random) -> None:
    first = dice.randrange(seqs(db) - 1)
    db.execute("DELETE FROM ledger WHERE seq BETWEEN ? AND ?", (first, first + dice.randrange(3)))


def delete_and_close_the_gap(db: sqlite3.Connection, dice: random.Random) -> None:
    seq = dice.randrange(seqs(db) - 1)
    db.execute("DELETE FROM ledger WHERE seq = ?", (seq,))
    # In two steps: no number may be taken twice on the way.
    db.execute("UPDATE ledger SET seq = -seq WHERE seq > ?", (seq,))
    db.execute("UPDATE ledger SET seq = -seq - 1 WHERE seq < 0")


def delete_tile(db: sqlite3.Connection, dice: random.Random) -> None:
    level, n = dice.choice(db.execute("SELECT level, n FROM tiles").fetchall())
    db.execute("DELETE FROM tiles WHERE level = ? AND n = ?", (level, n))


def put(db: sqlite3.Connection, entries: dict[int, bytes]) -> None:
    db.executemany("INSERT OR REPLACE INTO ledger VALUES (?, ?)", entries.items())


def swap(db: sqlite3.Connection, dice: random.Random) -> None:
    one, two = dice.sample(range(seqs(db)), 2)
    rows = dict(db.execute("SELECT seq, entry FROM ledger WHERE seq IN (?, ?)", (one, two)))
    put(db, {one: rows[two], two: rows[one]})


def duplicate(db: sqlite3.Connection, dice: random.Random) -> None:
    """An entry a second time: over another one, or at the end."""
    size = seqs(db)
    source, target = dice.sample(range(size + 1), 2)
    source = min(source, size - 1) if target != size - 1 else 0
    (data,) = db.execute("SELECT entry FROM ledger WHERE seq = ?", (source,)).fetchone()
    put(db, {target: data})


def reorder(db: sqlite3.Connection, dice: random.Random) -> None:
    """A run of entries in another order, renumbered so that each carries its own number."""
    first = dice.randrange(seqs(db) - 8)
    rows = db.execute("SELECT entry FROM ledger WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, first + 7)).fetchall()
    shift = dice.randrange(1, 8)
    moved = [loads_object(row[0]) for row in rows[shift:] + rows[:shift]]
    put(db, {seq: canonical({**entry, "seq": seq}) for seq, entry in enumerate(moved, first)})


def truncate(db: sqlite3.Connection, dice: random.Random) -> None:
    db.execute("DELETE FROM ledger WHERE seq >= ?", (dice.randrange(seqs(db)),))


def drop_checkpoints(db: sqlite3.Connection, dice: random.Random) -> None:
    db.execute("DELETE FROM checkpoints")
    if dice.random() < 0.5:
        flip_entry(db, dice)


def write_anew(db: sqlite3.Connection, start: int, keep: int, signer: Signer) -> None:
    """Tiles as they belong to the entries, and heads from `start` on signed by `signer`; nothing beyond `keep`."""
    db.execute("DELETE FROM ledger WHERE seq >= ?", (keep,))
    sizes = {size for (size,) in db.execute("SELECT size FROM checkpoints WHERE size > ?", (start,)) if size <= keep}
    db.execute("DELETE FROM checkpoints WHERE size > ?", (start,))
    db.execute("DELETE FROM tiles")
    tree = Tree()
    for seq, data in db.execute("SELECT seq, entry FROM ledger ORDER BY seq").fetchall():
        tree.append(leaf_hash(data))
        if seq + 1 > start and (seq + 1 in sizes or seq + 1 == keep):
            note = sign_checkpoint(Checkpoint(origin=ORIGIN, size=seq + 1, root=tree.root()), signer)
            db.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (seq + 1, note))
    db.executemany("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?)", tree.take_tiles())


def forge(db: sqlite3.Connection, dice: random.Random) -> None:
    """Another key signs a history that holds together."""
    if dice.random() < 0.7:
        edit(db, dice)
    write_anew(db, dice.choice((0, dice.randrange(seqs(db)))), seqs(db), STRANGER)


def sign_with_the_former_key(db: sqlite3.Connection, dice: random.Random) -> None:
    """The key that was rotated out signs heads after its time."""
    edit(db, dice)
    write_anew(db, dice.choice((0, dice.randrange(seqs(db)))), seqs(db), OLD)


def add_signed_by_the_former_key(db: sqlite3.Connection, dice: random.Random) -> None:
    """More entries than there were, and a head over them by the key that was rotated out."""
    size = seqs(db)
    (data,) = db.execute("SELECT entry FROM ledger WHERE seq = ?", (size - 2,)).fetchone()
    for seq in range(size, size + 1 + dice.randrange(5)):
        put(db, {seq: canonical({**loads_object(data), "seq": seq})})
    write_anew(db, size, seqs(db), OLD)


def pick(db: sqlite3.Connection, dice: random.Random, table: str, key: str) -> tuple[object, dict[str, object]]:
    """One row of a table: its key and all its columns."""
    cursor = db.execute(f"SELECT * FROM {table}")
    names = [one[0] for one in cursor.description]
    row = dict(zip(names, dice.choice(cursor.fetchall()), strict=True))
    return row[key], row


def another(value: object, dice: random.Random) -> object:
    """Something else of the same kind, or nothing, or the same as another kind."""
    match value:
        case None:
            return dice.choice(("task_7", "", NOW, 7))
        case int():
            return dice.choice((value + 1, value + 1000, -1 - value))
        case bytes():
            return dice.choice((flip(value, dice), value[:-1], value + b"!", b""))
    text = str(value)
    at = dice.randrange(len(text))
    return dice.choice((text[:at] + "~" + text[at + 1 :], f"{text} ", text[:-1], text.encode(), b"\xff"))


def change_row(table: str, key: str) -> Callable[[sqlite3.Connection, random.Random], None]:
    """One column of one row."""

    def change(db: sqlite3.Connection, dice: random.Random) -> None:
        at, row = pick(db, dice, table, key)
        name = dice.choice(sorted(row))
        # Over another row, when it is a key that is taken.
        db.execute(f"UPDATE OR REPLACE {table} SET {name} = ? WHERE {key} = ?", (another(row[name], dice), at))

    change.__name__ = f"change_{table}"
    return change


def delete_row(table: str, key: str) -> Callable[[sqlite3.Connection, random.Random], None]:
    def change(db: sqlite3.Connection, dice: random.Random) -> None:
        db.execute(f"DELETE FROM {table} WHERE {key} = ?", (pick(db, dice, table, key)[0],))

    change.__name__ = f"delete_{table}"
    return change


def add_row(table: str, key: str) -> Callable[[sqlite3.Connection, random.Random], None]:
    """A row again, under a key that is free: beyond the end, before the beginning, or between."""

    def change(db: sqlite3.Connection, dice: random.Random) -> None:
        _at, row = pick(db, dice, table, key)
        taken = {one for (one,) in db.execute(f"SELECT {key} FROM {table}")}
        free = {seqs(db) + dice.randrange(99), -1 - dice.randrange(9), dice.randrange(seqs(db))} - taken
        row[key] = "0123456789abcdef" if key == "kid" else dice.choice(sorted(free))
        db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", tuple(row.values()))

    change.__name__ = f"add_{table}"
    return change


def swap_rows(table: str, key: str) -> Callable[[sqlite3.Connection, random.Random], None]:
    """What two rows say, but for their keys."""

    def change(db: sqlite3.Connection, dice: random.Random) -> None:
        one, row = pick(db, dice, table, key)
        two, other = one, row
        while {**other, key: one} == row:
            two, other = pick(db, dice, table, key)
        for at, said in ((one, other), (two, row)):
            names = [name for name in said if name != key]
            sql = f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in names)} WHERE {key} = ?"
            db.execute(sql, (*(said[name] for name in names), at))

    change.__name__ = f"swap_{table}"
    return change


def sign_anew(db: sqlite3.Connection, dice: random.Random) -> None:
    """A signature that is one, over the right words: by the former key, by a stranger, or by the right key twice."""
    seq, row = pick(db, dice, "signatures", "seq")
    (entry,) = db.execute("SELECT entry FROM ledger WHERE seq = ?", (seq,)).fetchone()
    signer, data = dice.choice((OLD, NEW, STRANGER)), canonical(loads_object(entry)["data"])
    values = (signer.sign(WARRANT_CONTEXT, data), dice.choice((signer.kid, row["kid"])), seq)
    db.execute("UPDATE signatures SET signature = ?, kid = ? WHERE seq = ?", values)


def bring_a_key_back(db: sqlite3.Connection, dice: random.Random) -> None:
    """The key that was rotated out counts again, and its last operation is gone or says so."""
    db.execute("UPDATE crypto_keys SET state = 'current', not_after = NULL WHERE kid = ?", (OLD.kid,))
    if dice.random() < 0.5:
        db.execute("DELETE FROM crypto_audit WHERE kid = ? AND operation = 'retire'", (OLD.kid,))
    else:
        details = canonical(FIRST.keys[0].to_json()).decode()
        sql = "UPDATE crypto_audit SET operation = 'activate', details = ? WHERE kid = ? AND operation = 'retire'"
        db.execute(sql, (details, OLD.kid))
    if dice.random() < 0.5:
        db.execute("UPDATE crypto_audit SET uid = ? WHERE kid = ?", (dice.randrange(1, 99), OLD.kid))


DERIVED = {"ledger_subjects": "seq", "signatures": "seq", "crypto_keys": "kid", "crypto_audit": "id"}
OF_TABLES = (
    *(make(*one) for one in DERIVED.items() for make in (change_row, delete_row, add_row)),
    *(swap_rows(table, DERIVED[table]) for table in ("ledger_subjects", "signatures", "crypto_audit")),
    sign_anew, bring_a_key_back,
)  # fmt: skip
ALONE: tuple[Callable[[sqlite3.Connection, random.Random], None], ...] = (
    *OF_TABLES, flip_entry, flip_tile, flip_checkpoint, edit, delete, delete_and_close_the_gap, delete_tile, swap,
    duplicate, reorder, truncate, drop_checkpoints, forge, sign_with_the_former_key, add_signed_by_the_former_key,
)  # fmt: skip


def cut_back(db: sqlite3.Connection, dice: random.Random) -> None:
    """All of it as it was at an earlier head."""
    (size,) = dice.choice(db.execute("SELECT size FROM checkpoints ORDER BY size").fetchall()[:-1])
    tree = Tree()
    for _seq, data in db.execute("SELECT seq, entry FROM ledger WHERE seq < ? ORDER BY seq", (size,)):
        tree.append(leaf_hash(data))
    db.execute("DELETE FROM checkpoints WHERE size > ?", (size,))
    db.execute("DELETE FROM ledger WHERE seq >= ?", (size,))
    db.execute("DELETE FROM tiles")
    db.executemany("INSERT OR REPLACE INTO tiles VALUES (?, ?, ?)", tree.take_tiles())


def history_without_the_rotation(db: sqlite3.Connection, dice: random.Random) -> None:
    """The former key writes on as if it had never been replaced."""
    rotated = min(
        seq
        for seq, data in db.execute("SELECT seq, entry FROM ledger")
        if (entry := loads_object(data))["kind"] == "key" and entry["data"]["kid"] == NEW.kid
    )
    first = rotated - 1 - dice.randrange(100)
    rows = db.execute("SELECT seq, entry FROM ledger WHERE seq >= ?", (first,)).fetchall()
    fill_in = canonical({**loads_object(rows[0][1]), "kind": "task", "kid": None, "signature": None})
    put(db, {seq: canonical({**loads_object(fill_in), "seq": seq}) for seq, _data in rows})
    write_anew(db, first, dice.randrange(first + 1, seqs(db) + 1), OLD)


WITH_ANCHOR = (cut_back, history_without_the_rotation)


def mutated(path: Path, copy: Path, change: Callable[[sqlite3.Connection, random.Random], None], seed: int) -> bool:
    """Whether the change made a difference at all."""
    shutil.copy(path / "ledger.db", copy / "ledger.db")
    db = sqlite3.connect(copy / "ledger.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=OFF")
    db.execute("PRAGMA synchronous=OFF")
    db.execute("BEGIN")
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    before = content(db)
    db.execute("PRAGMA ignore_check_constraints=ON")
    change(db, random.Random(seed))
    changed = content(db) != before
    db.execute("COMMIT")
    db.close()
    return changed


def content(db: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
    return [db.execute(f"SELECT * FROM {table}").fetchall() for table in ("ledger", "tiles", "checkpoints", *DERIVED)]


def test_every_change_is_found(ledger: tuple[Path, Path, Anchor], tmp_path: Path) -> None:
    path, older, head = ledger
    (tmp_path / "roster.json").write_bytes(ROTATED.to_bytes())
    files = str(tmp_path / "ledger.db"), str(tmp_path / "roster.json")
    changes = (*ALONE, *WITH_ANCHOR)
    missed = []
    for seed in range(COUNT):
        change = changes[seed % len(changes)]
        assert mutated(path, tmp_path, change, seed), f"{change.__name__} with seed {seed} changed nothing"
        anchors = (head,) if change in WITH_ANCHOR else ()
        report = audit_database(*files, anchors, owners=None)
        if report.ok or report.answer == "holds":
            missed.append((change.__name__, seed))
        if change in OF_TABLES:
            codes = {problem.code for problem in report.problems}
            assert codes <= {*CODES, "cut-tail"}, (change.__name__, seed, report)
    assert missed == []
    for source, good in ((path, True), (older, False)):
        report = audit_database(str(source / "ledger.db"), str(source / "roster.json"), (head,), owners=None)
        assert report.ok is good
        assert report.anchor == ("agrees" if good else "rolled-back")
    assert audit_database(str(older / "ledger.db"), str(older / "roster.json"), owners=None).anchor == "none"
