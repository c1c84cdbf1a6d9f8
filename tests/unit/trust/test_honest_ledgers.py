"""Whatever an honest supervisor does, no audit and no check after a start finds anything: seeded histories.

Entries, signed ones among them, heads, restarts with and without a crash, full disks, rotations, revocations, seals and
trimming, in any order. GRACED_NIGHTLY=1 in the environment makes it two thousand histories.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from graced.base.clock import ManualClock, iso
from graced.base.errors import StoreError
from graced.base.json import canonical
from graced.cli.auditing import audit_database
from graced.store.ledger import LedgerStore
from graced.store.ledger_derived import DerivedRows
from graced.supervisor import sealing
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.audit import Anchor
from graced.trust.blocks import blocks_of
from graced.trust.keyfiles import KeyRecord
from graced.trust.keylog import KeyLog
from graced.trust.keys import GOVERNANCE, LEDGER, VERIFICATION, WARRANT_CONTEXT, Signer, encode_base64
from graced.trust.roster import Roster, origin_of, roster_key
from graced.trust.rotation import VALIDITY_SECONDS, check_rotation, make_rotation, revoked, rotated
from graced.trust.tables import Tables

HISTORIES = 2000 if os.environ.get("GRACED_NIGHTLY") == "1" else 6
STEPS = 14
SEGMENT = 256
NOW = "2026-01-01T00:00:00.000Z"
WALL_US = 1_790_000_000_000_000


class Host:
    """One host's ledger and keys."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        self.path = path
        self.dice = dice
        self.signers = {name: Signer(dice.randbytes(32), name, "test") for name in (LEDGER, GOVERNANCE, VERIFICATION)}
        keys = tuple(roster_key(one.public, name, NOW) for name, one in self.signers.items())
        self.roster = Roster(origin=origin_of(self.signers[LEDGER].public), machine="m", keys=keys)
        self.records = [KeyRecord(key=key, sealed=key.kid.encode()) for key in keys]
        self.heads: list[Anchor] = []
        self.clock = ManualClock(WALL_US)
        self.open()

    def open(self) -> None:
        store = LedgerStore.open(str(self.path / "ledger.db"))
        self.writer = LedgerWriter(store, self.signers[LEDGER], self.roster, self.clock, "boot")
        self.writer.open(1, self.records)
        (self.path / "roster.json").write_bytes(self.roster.to_bytes())

    def write(self) -> None:
        dice = self.dice
        for _ in range(dice.choice((1, 3, 70, 150, 400))):
            unit = dice.choice((None, "a.service", 'b"\\\u2028.service'))
            about = dice.choice((None, f"task_{dice.randrange(9)}")), dice.choice((None, "intent_1"))
            data = {"n": dice.random(), "text": dice.choice(('},"kid":null', "a\nb", ',"intent_id":null', ""))}
            self.writer.stage(Entry(dice.choice(("task", "finding", "step")), data, "x", 1, unit, *about))
            if dice.random() < 0.1:
                signer = self.signers[GOVERNANCE]
                signature = encode_base64(signer.sign(WARRANT_CONTEXT, canonical(data)))
                entry = Entry("warrant", data, "governance", 2, unit, *about, kid=signer.kid, signature=signature)
                self.writer.check(entry)
                self.writer.stage(entry)
        self.clock.advance_us(dice.randrange(5_000_000))
        self.writer.commit()

    def head(self) -> None:
        self.writer.checkpoint()
        head = self.writer.head
        self.heads.append(Anchor(origin=self.roster.origin, size=head.size, root=head.root, source="journal"))

    def full_disk(self) -> None:
        db = self.writer._store.db
        db.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(StoreError):
            self.write()
        db.execute("DROP TRIGGER full")
        self.writer.drop([])

    def restart(self) -> None:
        self.writer._store.close()
        self.open()

    def rotate(self) -> None:
        name = self.dice.choice((LEDGER, GOVERNANCE))
        rotation, new = make_rotation(self.signers[name], bytes(32), WALL_US, VALIDITY_SECONDS, "uid7", 7, "test")
        self.roster = rotated(self.roster, check_rotation(self.roster, rotation, WALL_US), iso(WALL_US))
        said = {one: getattr(rotation, one) for one in ("statement", "signature", "proof")}
        self.records.append(KeyRecord(key=self.roster.current(name), sealed=b"sealed", **said))
        self.signers[name] = new
        self.take_over()

    def revoke(self) -> None:
        """Root ends Governance's key and makes another."""
        new = Signer(self.dice.randbytes(32), GOVERNANCE, "test")
        successor = roster_key(new.public, GOVERNANCE, iso(WALL_US), "root")
        gone = self.signers[GOVERNANCE].kid
        self.roster = revoked(self.roster, gone, iso(WALL_US), 0, "stolen", self.writer.size, successor)
        self.records.append(KeyRecord(key=successor, sealed=b"sealed"))
        self.signers[GOVERNANCE] = new
        self.take_over()

    def take_over(self) -> None:
        """Running, or at the next start; the roster is there before."""
        (self.path / "roster.json").write_bytes(self.roster.to_bytes())
        self.audit()
        if self.dice.random() < 0.5:
            self.writer.adopt(self.roster, self.signers[LEDGER], 1, self.records)
        else:
            self.restart()

    def seal(self) -> None:
        store = self.writer._store
        sealed = store.sealed_size()
        if self.writer.head.size < sealed + SEGMENT:
            return
        segment, keys = sealing.seal(store.db.path, sealed, store.sealed_keys())
        entry = Entry("checkpoint", sealing.seal_entry(store, segment, keys), "supervisor", 1)
        self.writer.seal(entry, lambda: store.put_sealed(segment, keys))

    def trim(self) -> None:
        with self.writer._store.db.transaction():
            self.writer._store.trim(SEGMENT)

    def audit(self) -> None:
        said = str(self.path / "ledger.db"), str(self.path / "roster.json")
        for whole in (True, False):
            report = audit_database(*said, self.heads[-5:], owners=None, whole=whole)
            assert report.ok, report
            assert (report.answer, report.anchor) == ("holds", "agrees" if self.heads else "none")
        store = self.writer._store
        sealed = store.sealed_size()
        tables = Tables(DerivedRows(store.db.connection, ""), sealed, KeyLog.parse(store.sealed_keys()), sealed)
        for first, block in blocks_of(store.entries(sealed, self.writer.size)):
            tables.block(first, block)
        assert tables.finish(self.roster) == []
        assert self.writer.suspects == []


@pytest.mark.parametrize("part", range(2))
def test_no_false_alarm(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SEGMENT_ENTRIES", SEGMENT)
    for number in range(part, HISTORIES, 2):
        path = tmp_path / str(number)
        path.mkdir()
        dice = random.Random(number)
        host = Host(path, dice)
        steps = (
            *(3 * (host.write,)), *(2 * (host.head, host.seal, host.trim)),
            host.full_disk, host.restart, host.rotate, host.revoke,
        )  # fmt: skip
        for _ in range(STEPS):
            dice.choice(steps)()
            host.audit()
        host.writer._store.close()
