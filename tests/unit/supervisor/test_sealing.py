"""Closed tiles move to the archive: nothing is lost, nothing is forged on the way, the database stays small."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from graced.base.clock import ManualClock
from graced.base.errors import StoreError
from graced.base.json import loads_object
from graced.cli.auditing import audit_database
from graced.cli.exporting import export_log, newest_head, prove_entry
from graced.runtime.loop import Loop
from graced.store.ledger import LedgerReader, LedgerStore
from graced.store.ledger_archive import SEGMENT_ENTRIES, Segment
from graced.supervisor.background import Background
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import LedgerWriter
from graced.supervisor.sealing import Sealing, seal, seal_entry
from graced.trust.audit import Anchor
from graced.trust.keys import LEDGER, Signer
from graced.trust.roster import Roster, origin_of, roster_key
from graced.trust.verify import Directory, parse_key, verify_export, verify_proof

KEY = Signer(b"1" * 32, LEDGER, "test")
ROSTER = Roster(
    origin=origin_of(KEY.public), machine="m", keys=(roster_key(KEY.public, LEDGER, "2026-01-01T00:00:00.000Z"),)
)


def open_writer(path: Path) -> LedgerWriter:
    writer = LedgerWriter(LedgerStore.open(str(path / "ledger.db")), KEY, ROSTER, ManualClock(), "boot")
    writer.open(1)
    return writer


def add(writer: LedgerWriter, count: int) -> None:
    for number in range(count):
        writer.stage(Entry("task", {"n": number}, "supervisor", 1, task_id=f"task_{number}"))
    writer.commit()
    writer.checkpoint()


def put(writer: LedgerWriter, segment: Segment, keys: str) -> None:
    """As the ledger's interface does it."""
    entry = Entry("checkpoint", seal_entry(writer._store, segment, keys), "supervisor", 1)
    writer.seal(entry, lambda: writer._store.put_sealed(segment, keys))
    writer.checkpoint()


def keep_house(writer: LedgerWriter, keep: int) -> Sealing:
    loop = Loop()
    background = Background(loop)
    sealing = Sealing(loop, background, writer._store, keep, lambda: None, lambda *one: put(writer, *one))
    sealing.start()
    while True:
        sealing.look(writer.head.size)
        if not sealing._busy:
            break
        loop.run_once(1.0)
    background.close(lambda: None)
    return sealing


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Anchor]:
    path = tmp_path_factory.mktemp("sealed")
    writer = open_writer(path)
    for _ in range(5):
        add(writer, SEGMENT_ENTRIES // 2)
    early = Anchor(origin=ROSTER.origin, size=5000, root=writer.root_at(5000), source="journal")
    assert keep_house(writer, 1000).error == ""
    assert writer._store.sealed_size() == 2 * SEGMENT_ENTRIES
    writer._store.close()
    (path / "roster.json").write_bytes(ROSTER.to_bytes())
    return path, early


def check(path: Path, *anchors: Anchor) -> bool:
    return audit_database(str(path / "ledger.db"), str(path / "roster.json"), anchors, owners=None).ok


def test_all_of_it_verifies_and_is_there(sealed: tuple[Path, Anchor]) -> None:
    path, early = sealed
    report = audit_database(str(path / "ledger.db"), str(path / "roster.json"), (early,), owners=None)
    assert report.ok, report
    assert (report.anchor, report.entries) == ("agrees", 3 + 5 * SEGMENT_ENTRIES // 2)
    db = sqlite3.connect(path / "ledger.db")
    for table in ("ledger", "ledger_subjects"):
        assert db.execute(f"SELECT min(seq) FROM {table}").fetchone() == (2 * SEGMENT_ENTRIES,)
    assert db.execute("SELECT min(n) FROM tiles WHERE level = 0").fetchone() == (2 * SEGMENT_ENTRIES // 256,)
    db.close()
    reader = LedgerReader(str(path / "ledger.db"))
    for start in (0, 5, SEGMENT_ENTRIES - 1, 2 * SEGMENT_ENTRIES - 1, 2 * SEGMENT_ENTRIES):
        seq, entry = next(reader.entries(start))
        assert (seq, loads_object(entry)["seq"]) == (start, start)
    reader.close()


def test_the_archive_need_not_be_read(sealed: tuple[Path, Anchor], tmp_path: Path) -> None:
    path = shutil.copytree(sealed[0], tmp_path / "copy")
    files = str(path / "ledger.db"), str(path / "roster.json")
    report = audit_database(*files, owners=None, whole=False)
    assert report.ok, report
    assert (report.sealed, report.entries) == (2 * SEGMENT_ENTRIES, 3 + SEGMENT_ENTRIES // 2)
    assert report.root == audit_database(*files, owners=None).root
    # An anchor that only the archive can answer has it read.
    asked = audit_database(*files, (sealed[1],), owners=None, whole=False)
    assert (asked.ok, asked.anchor, asked.sealed) == (True, "agrees", 0)
    beyond = Anchor(origin=ROSTER.origin, size=report.size + 1, root=bytes(32), source="journal")
    assert audit_database(*files, (beyond,), owners=None, whole=False).anchor == "rolled-back"
    # What the sealed entries hash to is part of every head.
    without_triggers(path, "UPDATE tiles SET hashes = substr(hashes, 1, 99) || x'00' || substr(hashes, 101)")
    assert not audit_database(*files, owners=None, whole=False).ok
    without_triggers(path, "UPDATE sealed SET keys = '{}'")
    assert audit_database(*files, owners=None, whole=False).sealed == 0
    shutil.rmtree(path / "ledger-archive")
    assert not audit_database(*files, owners=None, whole=False).ok


def test_goes_on_after_a_restart(sealed: tuple[Path, Anchor], tmp_path: Path) -> None:
    path = shutil.copytree(sealed[0], tmp_path / "copy")
    writer = open_writer(path)
    add(writer, SEGMENT_ENTRIES)
    keep_house(writer, 1000)
    assert writer._store.sealed_size() == 3 * SEGMENT_ENTRIES
    assert keep_house(writer, 1000).error == ""
    writer._store.close()
    assert check(path, sealed[1])


def test_rows_that_a_crash_left_are_trimmed_at_the_next_start(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    add(writer, SEGMENT_ENTRIES + 2000)
    put(writer, *seal(str(tmp_path / "ledger.db"), 0, ""))
    writer._store.close()
    (tmp_path / "roster.json").write_bytes(ROSTER.to_bytes())
    assert check(tmp_path)
    writer = open_writer(tmp_path)
    keep_house(writer, 10**6)
    assert writer._store.entries(0, 5) == []
    writer._store.close()
    assert check(tmp_path)


def edit_file(path: Path) -> None:
    file = next((path / "ledger-archive").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def without_triggers(path: Path, sql: str) -> None:
    db = sqlite3.connect(path / "ledger.db")
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    db.execute(sql)
    db.commit()
    db.close()


def forge_segment(path: Path) -> None:
    """Another file, with the digest to match: only the tiles can tell."""
    import zlib
    from hashlib import sha256

    file = min((path / "ledger-archive").iterdir())
    data = zlib.compress(zlib.decompress(file.read_bytes(), wbits=31).replace(b'"n":77}', b'"n":78}'), wbits=31)
    file.write_bytes(data)
    without_triggers(path, f"UPDATE sealed SET digest = x'{sha256(data).hexdigest()}' WHERE first = 0")


@pytest.mark.parametrize(
    "change",
    [
        edit_file,
        forge_segment,
        lambda path: shutil.rmtree(path / "ledger-archive"),
        lambda path: without_triggers(path, "DELETE FROM sealed"),
        lambda path: without_triggers(path, "DELETE FROM sealed WHERE first > 0"),
        lambda path: without_triggers(path, "DELETE FROM sealed WHERE first = 0"),
        lambda path: without_triggers(path, "DELETE FROM tiles WHERE level = 1"),
        lambda path: without_triggers(path, "UPDATE sealed SET size = size + 256"),
    ],
)
def test_a_changed_archive_is_found(
    change: Callable[[Path], object], sealed: tuple[Path, Anchor], tmp_path: Path
) -> None:
    path = shutil.copytree(sealed[0], tmp_path / "copy")
    change(path)
    assert not check(path)


def test_what_was_changed_is_not_sealed_and_what_is_not_sealed_not_deleted(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    add(writer, SEGMENT_ENTRIES + 2000)
    for sql in ("DELETE FROM ledger", "DELETE FROM tiles", "DELETE FROM checkpoints", "DELETE FROM ledger_subjects"):
        with pytest.raises(StoreError):
            writer._store.db.execute(sql)
    writer._store.db.execute("DROP TRIGGER ledger_no_update")
    writer._store.db.execute("UPDATE ledger SET entry = x'7b7d' WHERE seq = 9000")
    sealing = keep_house(writer, 100)
    assert "not what was written" in sealing.error
    assert writer._store.sealed_size() == 0
    assert len(writer._store.entries(0, 99)) == 99
    assert not (tmp_path / "ledger-archive").exists()
    writer._store.close()


def test_what_is_in_the_archive_is_exported_and_proved(sealed: tuple[Path, Anchor], tmp_path: Path) -> None:
    path = sealed[0]
    reader = LedgerReader(str(path / "ledger.db"))
    head = newest_head(reader, Roster.parse((path / "roster.json").read_bytes()))
    export_log(reader, head, str(tmp_path / "export"))
    key = [parse_key(head.key)]
    report = verify_export(Directory(str(tmp_path / "export")), key, [sealed[1]])
    assert (report.ok, report.entries, report.anchor) == (True, head.checkpoint.size, "agrees"), report
    for seq in (0, 255, 256, 300, head.checkpoint.size - 1):
        assert verify_proof(prove_entry(reader, head, seq).text(), key)[0].ok
    reader.close()
