"""Thousands of seeded changes of a ledger with an archive: files, seals, hashes and what is behind them. All are found.

Small segments make a ledger of four of them cheap. Its ledger key was rotated twice, so that a key that was rotated out
is active in one segment, retired in the next, and named in the summary that the newest seal carries. GRACED_NIGHTLY=1
in the environment makes it ten thousand. Without reading the archive only its files' bytes may be wrong unseen.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from graced.base.clock import ManualClock
from graced.base.json import canonical, loads_object
from graced.cli.auditing import audit_database
from graced.store.ledger import LedgerStore
from graced.supervisor import sealing
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.audit import Anchor
from graced.trust.keyfiles import KeyRecord
from graced.trust.keylog import KeyLog, seal_facts
from graced.trust.keys import LEDGER, Signer
from graced.trust.merkle import Tree, leaf_hash
from graced.trust.note import Checkpoint, sign_checkpoint
from graced.trust.roster import Roster, origin_of, roster_key

COUNT = 10_000 if os.environ.get("GRACED_NIGHTLY") == "1" else 126
SEGMENT = 256
FIRST, SECOND, THIRD, STRANGER = (Signer(bytes([number]) * 32, LEDGER, "test") for number in range(1, 5))
ORIGIN = origin_of(FIRST.public)
Change = Callable[[Path, sqlite3.Connection, random.Random], None]


def roster_of(*signers: Signer) -> Roster:
    """The last one is current, those before were rotated out one after the other."""
    keys = [roster_key(one.public, LEDGER, f"2026-0{at}-01T00:00:00.000Z") for at, one in enumerate(signers, 1)]
    gone = [key.replace(state="retired", not_after="2026-06-01T00:00:00.000Z") for key in keys[:-1]]
    return Roster(origin=ORIGIN, machine="m", keys=(*gone, keys[-1]))


def write(path: Path, rounds: range, *signers: Signer) -> LedgerWriter:
    """Entries and heads by the last of `signers`; what is full is sealed on the way."""
    writer = LedgerWriter(
        LedgerStore.open(str(path / "ledger.db")), signers[-1], roster_of(*signers), ManualClock(), "boot"
    )
    writer.open(1, [KeyRecord(key=key, sealed=key.kid.encode()) for key in writer.roster.keys])
    for number in rounds:
        for one in range(number * 40, number * 40 + 40):
            writer.stage(Entry("task", {"n": one, "status": "success"}, "supervisor", 1, "a.service", f"task_{one}"))
        writer.commit()
        writer.checkpoint()
        sealed = writer._store.sealed_size()
        if writer.head.size >= sealed + SEGMENT + 60:
            segment, keys = sealing.seal(writer._store.db.path, sealed, writer._store.sealed_keys())
            said = sealing.seal_entry(writer._store, segment, keys)
            writer.seal(
                Entry("checkpoint", said, "supervisor", 1),
                lambda segment=segment, keys=keys: writer._store.put_sealed(segment, keys),  # type: ignore[misc]
            )
            writer.checkpoint()
            with writer._store.db.transaction():
                while writer._store.trim(SEGMENT):
                    pass
    return writer


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Anchor]:
    """(the ledger, an older copy of it, the head in the journal)."""
    path, older = tmp_path_factory.mktemp("ledger"), tmp_path_factory.mktemp("older") / "copy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "SEGMENT_ENTRIES", SEGMENT)
        write(path, range(10), FIRST)._store.close()
        write(path, range(10, 20), FIRST, SECOND)._store.close()
        write(path, range(20, 25), FIRST, SECOND, THIRD)._store.close()
        shutil.copytree(path, older)
        writer = write(path, range(25, 30), FIRST, SECOND, THIRD)
    assert writer._store.sealed_size() == 4 * SEGMENT
    head = Anchor(origin=ORIGIN, size=writer.head.size, root=writer.head.root, source="journal")
    writer._store.close()
    for one in (path, older):
        (one / "roster.json").write_bytes(writer.roster.to_bytes())
    return path, older, head


def files(path: Path) -> list[Path]:
    return sorted((path / "ledger-archive").iterdir())


def flip(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]


# The files --------------------------------------------------------------------------------------------------------


def flip_file(path: Path, _db: sqlite3.Connection, dice: random.Random) -> None:
    file = dice.choice(files(path))
    file.write_bytes(flip(file.read_bytes(), dice))


def truncate_file(path: Path, _db: sqlite3.Connection, dice: random.Random) -> None:
    file = dice.choice(files(path))
    data = file.read_bytes()
    file.write_bytes(data[: dice.randrange(len(data))])


def delete_file(path: Path, _db: sqlite3.Connection, dice: random.Random) -> None:
    dice.choice(files(path)).unlink()


def swap_files(path: Path, _db: sqlite3.Connection, dice: random.Random) -> None:
    one, two = dice.sample(files(path), 2)
    was = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(was)


def duplicate_file(path: Path, _db: sqlite3.Connection, dice: random.Random) -> None:
    one, two = dice.sample(files(path), 2)
    one.write_bytes(two.read_bytes())


def entries_of(path: Path) -> list[bytes]:
    return zlib.decompress(path.read_bytes(), wbits=31).split(b"\n")[:-1]


def rewrite(
    path: Path, db: sqlite3.Connection, dice: random.Random, entries: Callable[[list[bytes]], list[bytes]]
) -> None:
    """Other entries in a file, with the digest to match."""
    file = dice.choice(files(path))
    rows = entries(entries_of(file))
    data = zlib.compress(b"".join(row + b"\n" for row in rows), wbits=31)
    file.write_bytes(data)
    db.execute("UPDATE sealed SET digest = ? WHERE file = ?", (sha256(data).digest(), file.name))


def edit_in_file(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    def edit(rows: list[bytes]) -> list[bytes]:
        at = dice.choice([at for at, row in enumerate(rows) if b'"status":"success"' in row])
        return [*rows[:at], rows[at].replace(b'"success"', b'"failed"'), *rows[at + 1 :]]

    rewrite(path, db, dice, edit)


def delete_in_file(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    at = dice.randrange(SEGMENT)
    rewrite(path, db, dice, lambda rows: rows[:at] + rows[at + 1 :])


def duplicate_in_file(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    one, two = dice.sample(range(SEGMENT), 2)
    rewrite(path, db, dice, lambda rows: [*rows[:one], rows[two], *rows[one + 1 :]])


def swap_in_file(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    one, two = dice.sample(range(SEGMENT), 2)
    order = list(range(SEGMENT))
    order[one], order[two] = two, one
    rewrite(path, db, dice, lambda rows: [rows[at] for at in order])


def reorder_in_file(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    shift = dice.randrange(1, SEGMENT)
    rewrite(path, db, dice, lambda rows: rows[shift:] + rows[:shift])


def truncate_in_file(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    keep = dice.randrange(SEGMENT)
    rewrite(path, db, dice, lambda rows: rows[:keep])


IN_FILES: tuple[Change, ...] = (
    flip_file, truncate_file, swap_files, duplicate_file,
)  # fmt: skip


# The database -----------------------------------------------------------------------------------------------------


def change_seal(_path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    """One column of one sealed segment."""
    rows = db.execute("SELECT first, size, file, digest, keys FROM sealed").fetchall()
    first, size, file, digest, keys = dice.choice(rows)
    # SQLite itself refuses the number of another one.
    others = sorted({first - 1, first + 1, first + 256, first + 10_000} - {row[0] for row in rows})
    name, value = dice.choice(
        (
            ("first", dice.choice(others)),
            ("size", size + dice.choice((-256, -1, 1, 256))),
            ("file", dice.choice((f"{file}.old", f"../{file}", f"./{file}", file.encode(), "x"))),
            ("digest", dice.choice((flip(digest, dice), digest[:-1], digest.hex()))),
            ("keys", dice.choice(("", "{}", f"{keys} ", keys.replace(FIRST.kid, STRANGER.kid), keys.encode()))),
        )
    )
    db.execute(f"UPDATE sealed SET {name} = ? WHERE first = ?", (value, first))


def delete_seal(_path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    where = dice.choice(("first = 0", f"size = {4 * SEGMENT}", f"first = {SEGMENT}", "1"))
    db.execute(f"DELETE FROM sealed WHERE {where}")


def swap_seals(_path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    """File and digest, or the summaries of keys."""
    rows = db.execute("SELECT first, file, digest, keys FROM sealed").fetchall()
    one, two = dice.choice([(one, two) for one in rows for two in rows if one < two and one[3] != two[3]])
    for (first, *_), other in ((one, two), (two, one)):
        if dice.random() < 0.5:
            db.execute("UPDATE sealed SET keys = ? WHERE first = ?", (other[3], first))
        else:
            db.execute("UPDATE sealed SET file = ?, digest = ? WHERE first = ?", (other[1], other[2], first))


def duplicate_seal(_path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    size, file, digest, keys = dice.choice(db.execute("SELECT size, file, digest, keys FROM sealed").fetchall())
    first = dice.choice((1, 4 * SEGMENT, 10_000, -256))
    db.execute("INSERT INTO sealed VALUES (?, ?, ?, ?, ?)", (first, size, file, digest, keys))


def forget_a_key(_path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    """A summary of keys in perfect form that says something else."""
    first, keys = dice.choice(db.execute("SELECT first, keys FROM sealed").fetchall())
    log = KeyLog.parse(keys)
    gone = dice.choice(sorted(log.rows))
    match dice.randrange(4):
        case 0:
            del log.rows[gone]
        case 1:
            log.ended ^= {gone}
        case 2:
            log.active[LEDGER] = STRANGER.kid
        case 3:
            log.rows[gone] = {**log.rows[gone], "state": "revoked", "revoked_at_seq": dice.randrange(9)}
    db.execute("UPDATE sealed SET keys = ? WHERE first = ?", (log.text(), first))


def change_tile(_path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    """The hashes of what is sealed."""
    hashes = db.execute("SELECT hashes FROM tiles WHERE level = 1").fetchone()[0]
    db.execute("UPDATE tiles SET hashes = ? WHERE level = 1", (dice.choice((flip(hashes, dice), hashes[:-32])),))


def seal_too_much(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
    """Entries that are not sealed yet go, as if they had been: with a file or without."""
    rows = db.execute("SELECT entry FROM ledger ORDER BY seq").fetchall()[:SEGMENT]
    data = zlib.compress(b"".join(row[0] + b"\n" for row in rows), wbits=31)
    (keys,) = db.execute("SELECT keys FROM sealed ORDER BY first DESC").fetchone()
    first, end = 4 * SEGMENT, 4 * SEGMENT + len(rows)
    if dice.random() < 0.5:
        (path / "ledger-archive" / "more.gz").write_bytes(data)
    db.execute("INSERT INTO sealed VALUES (?, ?, 'more.gz', ?, ?)", (first, end, sha256(data).digest(), keys))
    db.execute("DELETE FROM ledger WHERE seq < ?", (end - dice.randrange(2) * len(rows),))


def sign_heads(db: sqlite3.Connection, signer: Signer, archived: list[bytes]) -> None:
    """Tiles and heads as they belong to the entries, signed anew."""
    sizes = {size for (size,) in db.execute("SELECT size FROM checkpoints")}
    tree = Tree()
    for seq, entry in enumerate([*archived, *(one for (one,) in db.execute("SELECT entry FROM ledger ORDER BY seq"))]):
        tree.append(leaf_hash(entry))
        if seq + 1 in sizes:
            note = sign_checkpoint(Checkpoint(origin=ORIGIN, size=seq + 1, root=tree.root()), signer)
            db.execute("UPDATE checkpoints SET note = ? WHERE size = ?", (note, seq + 1))
    db.execute("DELETE FROM tiles")
    rows = [one for one in tree.take_tiles() if one[0] or one[1] >= len(archived) // 256]
    db.executemany("INSERT INTO tiles VALUES (?, ?, ?)", rows)


def forge(signer: Signer) -> Change:
    """Another history of what is sealed, in perfect form, with every hash, seal and word about it. By `signer`."""

    def change(path: Path, db: sqlite3.Connection, dice: random.Random) -> None:
        edit_in_file(path, db, dice)
        archived = [row for file in files(path) for row in entries_of(file)]
        said: dict[int, dict[str, object]] = {}
        chain = ""
        for row in db.execute("SELECT first, size, file, digest, keys FROM sealed ORDER BY first").fetchall():
            said[row[1]] = seal_facts(chain, row)
            chain = str(said[row[1]]["chain"])
        for seq, entry in db.execute("SELECT seq, entry FROM ledger").fetchall():
            obj = loads_object(entry)
            if obj["kind"] == "checkpoint":
                obj["data"]["sealed"] = said[obj["data"]["sealed"]["size"]]
                db.execute("UPDATE ledger SET entry = ? WHERE seq = ?", (canonical(obj), seq))
        sign_heads(db, signer, archived)

    change.__name__ = "forge" if signer is STRANGER else f"sign_with_key_{signer.public[0]}"
    return change


ALONE: tuple[Change, ...] = (
    *IN_FILES, delete_file, edit_in_file, delete_in_file, duplicate_in_file, swap_in_file, reorder_in_file,
    truncate_in_file, change_seal, delete_seal, swap_seals, duplicate_seal, forget_a_key, change_tile, seal_too_much,
    forge(STRANGER), forge(FIRST), forge(SECOND),
)  # fmt: skip


def content(path: Path, db: sqlite3.Connection) -> object:
    tables = [db.execute(f"SELECT * FROM {table}").fetchall() for table in ("ledger", "tiles", "checkpoints", "sealed")]
    return tables, {file.name: file.read_bytes() for file in files(path)}


def mutated(path: Path, copy: Path, change: Change, seed: int) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    db = sqlite3.connect(copy / "ledger.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=OFF")
    db.execute("PRAGMA synchronous=OFF")
    db.execute("BEGIN")
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    before = content(copy, db)
    attempt = 0
    while content(copy, db) == before:
        # A swap of the same, or an edit that was there already.
        change(copy, db, random.Random(f"{seed} {attempt}"))
        attempt += 1
    db.execute("COMMIT")
    db.close()


def test_every_change_is_found(ledger: tuple[Path, Path, Anchor], tmp_path: Path) -> None:
    path, _older, head = ledger
    copy = tmp_path / "copy"
    said = str(copy / "ledger.db"), str(copy / "roster.json")
    missed = []
    for seed in range(COUNT):
        change = ALONE[seed % len(ALONE)]
        mutated(path, copy, change, seed)
        report = audit_database(*said, owners=None)
        if report.ok or report.answer == "holds":
            missed.append((change.__name__, seed, "with the archive"))
        if change not in IN_FILES and audit_database(*said, owners=None, whole=False).ok:
            missed.append((change.__name__, seed, "without the archive"))
        assert not audit_database(*said, (head,), owners=None).ok
    assert missed == []


def test_an_older_copy_needs_the_head(ledger: tuple[Path, Path, Anchor], tmp_path: Path) -> None:
    path, older, head = ledger
    for whole in (True, False):
        said = str(older / "ledger.db"), str(older / "roster.json")
        report = audit_database(*said, owners=None, whole=whole)
        assert (report.ok, report.anchor, report.answer) == (True, "none", "holds")
        report = audit_database(*said, (head,), owners=None, whole=whole)
        assert (report.ok, report.anchor, report.answer) == (False, "rolled-back", "rolled-back")
        # The old database beside the new files, and the new one beside the old files.
        mixed = tmp_path / f"mixed{whole}"
        shutil.copytree(older, mixed)
        shutil.copytree(path / "ledger-archive", mixed / "ledger-archive", dirs_exist_ok=True)
        assert not audit_database(str(mixed / "ledger.db"), said[1], (head,), owners=None, whole=whole).ok
        shutil.rmtree(mixed / "ledger-archive")
        shutil.copy(path / "ledger.db", mixed / "ledger.db")
        shutil.copytree(older / "ledger-archive", mixed / "ledger-archive")
        assert not audit_database(str(mixed / "ledger.db"), said[1], owners=None, whole=whole).ok


def test_an_audit_behind_the_archive_knows_the_keys_before(ledger: tuple[Path, Path, Anchor]) -> None:
    """The keys were rotated in what is sealed; nothing of it is read, and nothing is missed."""
    path, _older, head = ledger
    said = str(path / "ledger.db"), str(path / "roster.json")
    behind = audit_database(*said, (head,), owners=None, whole=False)
    assert (behind.ok, behind.sealed, behind.anchor, behind.problems) == (True, 4 * SEGMENT, "agrees", ())
    assert audit_database(*said, (head,), owners=None).ok
    for signer in (FIRST, SECOND):
        db = sqlite3.connect(path / "ledger.db")
        keys = KeyLog.parse(db.execute("SELECT keys FROM sealed ORDER BY first DESC").fetchone()[0])
        db.close()
        assert signer.kid in keys.ended
    assert keys.active == {LEDGER: THIRD.kid}
