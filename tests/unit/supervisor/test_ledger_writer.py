"""The ledger on disk: appends, restarts, self-test, and what an audit finds after each kind of tampering."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from graced.base.clock import ManualClock, iso
from graced.base.errors import FormatError, StoreError, TrustError
from graced.base.json import canonical
from graced.cli.auditing import audit_database
from graced.store.ledger import LedgerStore
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.anchors import parse_journal_line
from graced.trust.audit import Anchor, Report
from graced.trust.keyfiles import KeyRecord
from graced.trust.keys import GOVERNANCE, LEDGER, VERIFICATION, WARRANT_CONTEXT, Signer, encode_base64
from graced.trust.note import Checkpoint, sign_checkpoint
from graced.trust.roster import Roster, RosterKey, origin_of, roster_key
from graced.trust.rotation import VALIDITY_SECONDS, check_rotation, make_rotation, rotated

NOW = "2026-01-01T00:00:00.000Z"
SIGNERS = {
    name: Signer(bytes([number]) * 32, name, "test")
    for number, name in enumerate((LEDGER, GOVERNANCE, VERIFICATION), 1)
}
STRANGER = Signer(bytes(32), LEDGER, "test")


def make_roster(*more: RosterKey) -> Roster:
    keys = tuple(roster_key(signer.public, name, NOW) for name, signer in SIGNERS.items())
    return Roster(origin=origin_of(SIGNERS[LEDGER].public), machine="m", keys=keys + more)


ROSTER = make_roster()


def open_writer(path: Path, roster: Roster = ROSTER, signer: Signer | None = None) -> LedgerWriter:
    store = LedgerStore.open(str(path / "ledger.db"))
    writer = LedgerWriter(store, signer or SIGNERS[LEDGER], roster, ManualClock(), "boot")
    try:
        writer.open(1000)
    except (StoreError, TrustError):
        store.close()
        raise
    return writer


def close(writer: LedgerWriter) -> None:
    writer._store.close()


def plain(number: int) -> Entry:
    return Entry(kind="task", data={"n": number}, actor="supervisor", uid=1, task_id=f"task_{number}", unit="a.service")


def warrant(data: dict[str, object], by: Signer = SIGNERS[GOVERNANCE]) -> Entry:
    signature = encode_base64(by.sign(WARRANT_CONTEXT, canonical(data)))
    return Entry(kind="warrant", data=data, actor="governance", uid=2, kid=by.kid, signature=signature)


def fill(path: Path, count: int = 600, step: int = 100) -> tuple[int, bytes]:
    writer = open_writer(path)
    for start in range(0, count, step):
        for number in range(start, start + step):
            writer.stage(plain(number))
        entry = warrant({"unit": "nginx.service", "n": start})
        writer.check(entry)
        writer.stage(entry)
        writer.commit()
        writer.checkpoint()
    head = writer.head.size, writer.head.root
    close(writer)
    return head


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, bytes]]:
    path = tmp_path_factory.mktemp("ledger")
    head = fill(path)
    (path / "roster.json").write_bytes(ROSTER.to_bytes())
    return path, head


def check(path: Path, anchors: tuple[Anchor, ...] = ()) -> Report:
    return audit_database(str(path / "ledger.db"), str(path / "roster.json"), anchors, owners=None)


def anchor(head: tuple[int, bytes]) -> Anchor:
    return Anchor(origin=ROSTER.origin, size=head[0], root=head[1], source="journal")


def test_untouched(filled: tuple[Path, tuple[int, bytes]]) -> None:
    path, head = filled
    files = sorted(path.iterdir())
    report = check(path, (anchor(head),))
    assert report.ok, report
    assert (report.entries, report.anchor, report.uncovered) == (609, "agrees", 0)
    assert report.signatures == 6 + report.checkpoints == 13
    assert (check(path).ok, check(path).anchor) == (True, "none")  # no database can prove its own tail
    assert sorted(path.iterdir()) == files


def drop_triggers(db: sqlite3.Connection) -> None:
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")


def swap(db: sqlite3.Connection) -> None:
    one, two = (db.execute("SELECT entry FROM ledger WHERE seq = ?", (seq,)).fetchone()[0] for seq in (40, 41))
    db.execute("UPDATE ledger SET entry = ? WHERE seq = 40", (two,))
    db.execute("UPDATE ledger SET entry = ? WHERE seq = 41", (one,))


def edit(db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE ledger SET entry = CAST(replace(CAST(entry AS TEXT), 'a.service', 'b.service') AS BLOB) WHERE seq = 50"
    )


def cut(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM ledger WHERE seq >= 500")


def resign_by_stranger(db: sqlite3.Connection) -> None:
    note = sign_checkpoint(Checkpoint(origin=ROSTER.origin, size=609, root=bytes(32)), STRANGER)
    db.execute("UPDATE checkpoints SET note = ? WHERE size = 609", (note,))


def forge_root(db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE checkpoints SET note = replace(note, char(10) || '609' || char(10), char(10) || '608' || char(10))"
    )


def wrong_tile(db: sqlite3.Connection) -> None:
    db.execute("UPDATE tiles SET hashes = zeroblob(8192) WHERE level = 0 AND n = 1")


TAMPERING: dict[str, tuple[Callable[[sqlite3.Connection], object], set[str]]] = {
    "edit": (edit, {"changed-entry", "changed"}),
    "swap": (swap, {"bad-entry", "changed-entry", "changed"}),
    "delete": (lambda db: db.execute("DELETE FROM ledger WHERE seq = 300"), {"missing-entry"}),
    "delete first": (lambda db: db.execute("DELETE FROM ledger WHERE seq = 0"), {"missing-entry"}),
    "cut tail, checkpoints left": (cut, {"cut-tail"}),
    "drop checkpoints": (lambda db: db.execute("DELETE FROM checkpoints"), {"no-checkpoint"}),
    "stranger's checkpoint": (resign_by_stranger, {"bad-checkpoint"}),
    "forged checkpoint": (forge_root, {"bad-checkpoint"}),
    "tile": (wrong_tile, {"tiles"}),
    "huge number": (
        lambda db: db.execute("UPDATE ledger SET seq = 9223372036854775807 WHERE seq = 608"),
        {"missing-entry"},
    ),
    "text for bytes": (
        lambda db: db.execute("UPDATE ledger SET entry = 7654321 WHERE seq = 5"),
        {"bad-entry", "changed"},
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found(name: str, filled: tuple[Path, tuple[int, bytes]], tmp_path: Path) -> None:
    path = shutil.copytree(filled[0], tmp_path / "copy")
    db = sqlite3.connect(path / "ledger.db")
    drop_triggers(db)
    TAMPERING[name][0](db)
    db.commit()
    db.close()
    report = check(path)
    assert not report.ok
    assert TAMPERING[name][1] <= {problem.code for problem in report.problems}, report


def test_consistent_cut_needs_the_anchor(filled: tuple[Path, tuple[int, bytes]], tmp_path: Path) -> None:
    path = shutil.copytree(filled[0], tmp_path / "copy")
    db = sqlite3.connect(path / "ledger.db")
    drop_triggers(db)
    keep = db.execute("SELECT size FROM checkpoints ORDER BY size").fetchall()[2][0]
    db.execute("DELETE FROM ledger WHERE seq >= ?", (keep,))
    db.execute("DELETE FROM checkpoints WHERE size > ?", (keep,))
    db.execute("DELETE FROM tiles WHERE n > 0 OR level > 0")
    db.execute("DELETE FROM tiles WHERE (n + 1) * 256 > ?", (keep,))
    db.commit()
    # What was cut off left its traces beside it.
    report = check(path, (anchor(filled[1]),))
    assert (report.ok, report.anchor, report.answer) == (False, "rolled-back", "truncated")
    assert (check(path).anchor, check(path).answer) == ("none", "truncated")
    for table in ("ledger_subjects", "signatures"):
        db.execute(f"DELETE FROM {table} WHERE seq >= ?", (keep,))
    db.commit()
    db.close()
    assert (check(path).ok, check(path).anchor) == (True, "none")  # no database can prove its own tail
    report = check(path, (anchor(filled[1]),))
    assert (report.ok, report.anchor, report.answer) == (False, "rolled-back", "rolled-back")
    report = check(filled[0], (Anchor(origin=ROSTER.origin, size=100, root=bytes(32), source="journal"),))
    assert (report.ok, report.anchor, report.answer) == (False, "differs", "differs")
    foreign = Anchor(origin="graced-ledger/other", size=10**6, root=bytes(32), source="journal")
    assert check(filled[0], (foreign,)).anchor == "none"


def test_edited_roster(filled: tuple[Path, tuple[int, bytes]], tmp_path: Path) -> None:
    path = shutil.copytree(filled[0], tmp_path / "copy")
    other = Roster(
        origin=ROSTER.origin,
        machine="m",
        keys=(roster_key(STRANGER.public, LEDGER, NOW), *ROSTER.keys[1:]),
    )
    (path / "roster.json").write_bytes(other.to_bytes())
    assert {"bad-checkpoint", "no-checkpoint"} & {problem.code for problem in check(path).problems}
    (path / "roster.json").write_bytes(b"{}")
    assert [problem.code for problem in check(path).problems] == ["roster"]
    (path / "ledger.db").write_bytes(b"nothing")
    assert not check(path).ok


def test_signatures_are_checked_before_they_are_kept(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    good = warrant({"unit": "a.service"})
    writer.check(good)
    for bad in (
        good.replace(data={"unit": "b.service"}),
        good.replace(signature=None),
        good.replace(kid=None),
        good.replace(kid=None, signature=None),
        good.replace(kid=SIGNERS[VERIFICATION].kid),
        good.replace(kid="0" * 16),
        good.replace(kind="verdict"),
        good.replace(kind="step"),
        warrant({"unit": "a.service"}, STRANGER),
    ):
        with pytest.raises(FormatError):
            writer.check(bad)
    with pytest.raises(FormatError):
        writer.stage(plain(1).replace(data={"x": "y" * 66000}))
    with pytest.raises(FormatError):
        writer.stage(plain(1).replace(data={"x": float("nan")}))
    close(writer)


@pytest.mark.parametrize("counts", [(1,), (250, 10), (255, 1, 1), (252, 1, 600), (600, 0, 1)])
def test_restart_goes_on_where_it_was(counts: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "roster.json").write_bytes(ROSTER.to_bytes())
    total = 3
    for count in counts:
        writer = open_writer(tmp_path)
        assert writer.size == total
        for number in range(count):
            writer.stage(plain(number))
        writer.commit()
        total += count
        # Left like a crash between commit and checkpoint.
        close(writer)
    writer = open_writer(tmp_path)
    assert writer.head.size == writer.size == total
    close(writer)
    assert check(tmp_path).ok


@pytest.mark.parametrize("name", ["edit", "cut tail, checkpoints left", "drop checkpoints", "stranger's checkpoint"])
def test_self_test_refuses_what_is_near_the_head(name: str, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    for number in range(100):
        writer.stage(plain(number))
    writer.commit()
    writer.checkpoint()
    close(writer)
    db = sqlite3.connect(tmp_path / "ledger.db")
    drop_triggers(db)
    if name == "cut tail, checkpoints left":
        db.execute("DELETE FROM ledger WHERE seq >= 90")
    elif name == "stranger's checkpoint":
        note = sign_checkpoint(Checkpoint(origin=ROSTER.origin, size=103, root=bytes(32)), STRANGER)
        db.execute("UPDATE checkpoints SET note = ? WHERE size = 103", (note,))
    else:
        TAMPERING[name][0](db)
    db.commit()
    db.close()
    with pytest.raises(StoreError) as caught:
        open_writer(tmp_path)
    assert caught.value.code == "ledger-broken"


def test_wrong_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        open_writer(tmp_path, signer=STRANGER)


def test_rekeyed_signer_old_signatures_stay_new_ones_by_the_old_key_do_not(tmp_path: Path) -> None:
    fill(tmp_path, 10, 10)
    new = Signer(b"n" * 32, GOVERNANCE, "test")
    keys = tuple(
        key.replace(state="retired", not_after=NOW) if key.signer == GOVERNANCE else key for key in ROSTER.keys
    )
    roster = Roster(origin=ROSTER.origin, machine="m", keys=(*keys, roster_key(new.public, GOVERNANCE, NOW)))
    (tmp_path / "roster.json").write_bytes(roster.to_bytes())
    writer = open_writer(tmp_path, roster)
    writer.stage(warrant({"n": 1}, new))
    writer.commit()
    writer.checkpoint()
    close(writer)
    assert check(tmp_path).ok
    writer = open_writer(tmp_path, roster)
    with pytest.raises(FormatError):
        writer.check(warrant({"n": 2}))
    writer.stage(warrant({"n": 2}))
    writer.commit()
    writer.checkpoint()
    states = {row["kid"]: row["state"] for row in writer._store.key_rows()}
    assert states[SIGNERS[GOVERNANCE].kid] == "retired"
    close(writer)
    assert [problem.code for problem in check(tmp_path).problems] == ["retired-key"]


def test_triggers_abort(tmp_path: Path) -> None:
    fill(tmp_path, 300, 300)
    db = sqlite3.connect(tmp_path / "ledger.db")
    for sql in (
        "DELETE FROM ledger",
        "UPDATE ledger SET entry = x'00'",
        "DELETE FROM crypto_audit",
        "UPDATE crypto_audit SET actor = 'x'",
        "DELETE FROM crypto_keys",
        "UPDATE crypto_keys SET public = x'00'",
        "UPDATE tiles SET hashes = zeroblob(8192)",
        "DELETE FROM checkpoints",
        "DELETE FROM signatures",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(sql)
    db.close()


def test_failed_commit_keeps_what_was_staged(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.stage(plain(1))
    writer._store.db.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'full'); END")
    size = writer.size
    with pytest.raises(StoreError):
        writer.commit()
    assert (writer.size, writer.staged) == (size, 1)
    writer._store.db.execute("DROP TRIGGER full")
    writer.commit()
    assert (writer.size, writer.staged) == (size + 1, 0)
    close(writer)
    open_writer(tmp_path)


def test_journal_lines_count_only_by_what_journald_stamps() -> None:
    note = sign_checkpoint(Checkpoint(origin=ROSTER.origin, size=7, root=bytes(32)), SIGNERS[LEDGER])
    good = {"_SYSTEMD_UNIT": "graced-supervisor.service", "_UID": "990", "GRACED_CHECKPOINT": note}
    uids = frozenset({"990"})
    found = parse_journal_line(canonical(good), uids)
    assert found is not None
    assert (found.size, found.source) == (7, "journal")
    for change in (
        {"_UID": "1000"},
        {"_SYSTEMD_UNIT": "evil.service"},
        {"GRACED_CHECKPOINT": None},
        {"GRACED_CHECKPOINT": "x"},
    ):
        assert parse_journal_line(canonical({**good, **change}), uids) is None
    assert parse_journal_line(b"no json", uids) is None


WALL_US = 1_790_000_000_000_000


def rotation_of(roster: Roster, name: str, old: Signer) -> tuple[Roster, Signer, KeyRecord]:
    """The roster after a rotation, the new key and its record."""
    rotation, new = make_rotation(old, bytes(32), WALL_US, VALIDITY_SECONDS, "uid7", 7, "test")
    after = rotated(roster, check_rotation(roster, rotation, WALL_US), iso(WALL_US))
    record = KeyRecord(
        key=after.current(name),
        sealed=b"sealed",
        statement=rotation.statement,
        signature=rotation.signature,
        proof=rotation.proof,
    )
    return after, new, record


def test_rotated_keys_are_taken_over_without_a_restart(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    old_warrant = warrant({"n": 1})
    writer.check(old_warrant)
    writer.stage(old_warrant)
    after, governance, first = rotation_of(ROSTER, GOVERNANCE, SIGNERS[GOVERNANCE])
    with pytest.raises(FormatError, match="does not know"):
        writer.check(warrant({"n": 2}, governance))
    # What is staged already keeps its number and comes before.
    writer.adopt(after, SIGNERS[LEDGER], 5, [first])
    with pytest.raises(FormatError, match="is retired"):
        writer.check(warrant({"n": 2}))
    writer.check(warrant({"n": 2}, governance))
    writer.stage(warrant({"n": 2}, governance))
    writer.commit()
    final, ledger, second = rotation_of(after, LEDGER, SIGNERS[LEDGER])
    with pytest.raises(TrustError, match="current ledger key"):
        writer.adopt(final, SIGNERS[LEDGER], 5, [second])
    writer.adopt(final, ledger, 5, [first, second])
    writer.stage(plain(1))
    writer.commit()
    writer.checkpoint()
    operations = [(one["kid"], one["operation"], one["actor"], one["uid"]) for one in writer._store.key_audit(None, 99)]
    assert operations[3:] == [
        (SIGNERS[GOVERNANCE].kid, "retire", "uid7", 7),
        (governance.kid, "activate", "uid7", 7),
        (SIGNERS[LEDGER].kid, "retire", "uid7", 7),
        (ledger.kid, "activate", "uid7", 7),
    ]
    assert [one["operation"] for one in writer._store.key_audit(ledger.kid, 9)] == ["activate"]
    close(writer)
    (tmp_path / "roster.json").write_bytes(final.to_bytes())
    report = check(tmp_path)
    assert report.ok, report
    close(open_writer(tmp_path, final, ledger))


def test_a_disk_that_fails_leaves_the_old_keys_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = open_writer(tmp_path)
    writer.stage(plain(1))
    after, governance, record = rotation_of(ROSTER, GOVERNANCE, SIGNERS[GOVERNANCE])
    head, size = writer.head, writer.size

    def full(*_arguments: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(writer._store, "put_checkpoint", full)
        with pytest.raises(StoreError, match="disk full"):
            writer.adopt(after, SIGNERS[LEDGER], 5, [record])
    assert (writer.head, writer.size, writer.staged) == (head, size, 1)
    writer.check(warrant({"n": 1}))
    writer.adopt(after, SIGNERS[LEDGER], 5, [record])
    writer.check(warrant({"n": 1}, governance))
    close(writer)
    (tmp_path / "roster.json").write_bytes(after.to_bytes())
    assert check(tmp_path).ok


def test_a_retired_key_is_not_brought_back_by_an_entry(tmp_path: Path) -> None:
    after, _governance, record = rotation_of(ROSTER, GOVERNANCE, SIGNERS[GOVERNANCE])
    writer = open_writer(tmp_path)
    writer.adopt(after, SIGNERS[LEDGER], 5, [record])
    gone = after.find(SIGNERS[GOVERNANCE].kid)
    assert gone is not None
    writer.stage(Entry(kind="key", data={"operation": "activate", **gone.to_json()}, actor="supervisor", uid=1))
    writer.stage(warrant({"n": 1}))
    writer.commit()
    writer.checkpoint()
    close(writer)
    (tmp_path / "roster.json").write_bytes(after.to_bytes())
    assert [problem.code for problem in check(tmp_path).problems] == ["retired-key", "retired-key", "crypto-audit"]


def test_an_older_roster_is_not_taken_over(tmp_path: Path) -> None:
    after, governance, record = rotation_of(ROSTER, GOVERNANCE, SIGNERS[GOVERNANCE])
    writer = open_writer(tmp_path)
    writer.adopt(after, SIGNERS[LEDGER], 5, [record])
    size = writer.size
    with pytest.raises(TrustError, match="current again"):
        writer.adopt(ROSTER, SIGNERS[LEDGER], 5, [record])
    assert writer.size == size
    writer.check(warrant({"n": 1}, governance))
    close(writer)
    with pytest.raises(TrustError, match="current again"):
        open_writer(tmp_path)
    close(open_writer(tmp_path, after))


def test_an_activation_that_the_old_key_did_not_sign(tmp_path: Path) -> None:
    after, _governance, record = rotation_of(ROSTER, GOVERNANCE, SIGNERS[GOVERNANCE])
    writer = open_writer(tmp_path)
    writer.adopt(after, SIGNERS[LEDGER], 5, [record.replace(signature=record.proof)])
    close(writer)
    (tmp_path / "roster.json").write_bytes(after.to_bytes())
    assert [problem.code for problem in check(tmp_path).problems] == ["bad-signature"]
