"""Whose warrants count: the pin, a rotation, what was signed just before it, revocation."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graced.actuator.keyring import Keyring
from graced.actuator.warrant import MAX_WINDOW_US, Refused
from graced.base.clock import ManualClock, iso
from graced.base.errors import TrustError
from graced.runtime.peer import Peer
from graced.trust.keyfiles import KeyRoom, read_records
from graced.trust.keys import GOVERNANCE, HOLDERS, LEDGER, SIGNERS, Signer
from graced.trust.keys_tool import Keeper
from graced.trust.roster import RETIRED, REVOKED, Roster
from graced.trust.rotation import VALIDITY_SECONDS, is_endorsed, make_rotation

OWNERS = (0, os.getuid())
BOOT = "0" * 32


class Rig:
    def __init__(self, lib: Path) -> None:
        lib.mkdir(mode=0o755)
        self.lib = lib
        self.clock = ManualClock(10_000_000)
        self.room = KeyRoom(str(lib))
        self.keep()
        self.keyring = self.restart()

    def keep(self) -> None:
        Keeper(self.room, "a" * 32, iso(self.clock.wall_us()), OWNERS).run()

    def restart(self, boot: str = BOOT) -> Keyring:
        return Keyring(str(self.lib), self.clock, boot, OWNERS)

    def roster(self) -> Roster:
        return Roster.load(self.room.roster, owners=OWNERS)

    def signer(self, name: str = GOVERNANCE) -> Signer:
        return Signer(self.room.load(name)[0], name, "test")

    def rotation(self, name: str = GOVERNANCE) -> Any:
        seal = Path(self.room.keys, f"{HOLDERS[name]}.seal").read_bytes()
        made = make_rotation(self.signer(name), seal, self.clock.wall_us(), VALIDITY_SECONDS, "uid7", 7, "test")
        return made[0].to_json()

    def rotate(self, name: str = GOVERNANCE) -> str:
        reply = self.keyring.rotate(self.rotation(name), peer(HOLDERS[name]))
        return str(reply["kid"])


def peer(role: str) -> Peer:
    return Peer(uid=990, gid=990, pid=1, roles=frozenset({role}), name=role)


def warrant(not_before_us: int) -> Any:
    return SimpleNamespace(not_before_boottime_us=not_before_us)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "lib")


@pytest.mark.parametrize("name", SIGNERS)
def test_a_rotation_changes_roster_file_record_and_pin(rig: Rig, name: str) -> None:
    old = rig.signer(name)
    rig.clock.advance_us(1_000_000)
    kid = rig.rotate(name)
    assert rig.signer(name).kid == kid == rig.roster().current(name).kid != old.kid
    records = {record.key.kid: record for record in read_records(rig.room.public)}
    assert (records[old.kid].key.state, records[kid].key.changed_by_uid) == (RETIRED, 7)
    new = records[kid]
    assert new.statement is not None
    assert is_endorsed(new.statement, new.signature or "", new.proof or "", old.public, rig.signer(name).public)
    assert rig.keyring.signers().public_of(rig.signer().kid) == rig.signer().public
    before = rig.roster()
    rig.keep()
    assert rig.roster() == before


def test_only_the_holder_of_a_key_rotates_it(rig: Rig) -> None:
    for role in ("verification", "supervisor", "healing", "admin"):
        with pytest.raises(TrustError, match="does not hold the key"):
            rig.keyring.rotate(rig.rotation(), peer(role))
    assert rig.keyring.rotate(rig.rotation(), peer("root"))["kid"] == rig.signer().kid


def test_asked_twice_it_is_done_once_and_replayed_never(rig: Rig) -> None:
    first = rig.rotation()
    kid = rig.keyring.rotate(first, peer("governance"))["kid"]
    after = rig.roster()
    assert rig.keyring.rotate(first, peer("governance")) == {"kid": kid}
    assert rig.roster() == after
    rig.rotate()
    with pytest.raises(TrustError, match="is not governance's current key"):
        rig.keyring.rotate(first, peer("governance"))


def test_what_was_signed_before_a_rotation_counts_until_it_expires(rig: Rig) -> None:
    old = rig.signer()
    rig.clock.advance_us(5_000_000)
    at_us = rig.clock.boottime_us()
    rig.rotate()
    assert rig.keyring.signers().public_of(old.kid) == old.public
    rig.keyring.signers().check_age(old.kid, warrant(at_us))
    with pytest.raises(Refused, match="after it was rotated out"):
        rig.keyring.signers().check_age(old.kid, warrant(at_us + 1))
    rig.keyring.signers().check_age(rig.signer().kid, warrant(at_us + 1))
    assert rig.restart("1" * 32).signers().public_of(old.kid) is None
    rig.clock.advance_us(MAX_WINDOW_US)
    assert rig.keyring.signers().public_of(old.kid) == old.public
    rig.clock.advance_us(1)
    assert rig.keyring.signers().public_of(old.kid) is None


@pytest.mark.parametrize("name", SIGNERS)
def test_a_revoked_key_counts_no_more_and_is_replaced(rig: Rig, name: str) -> None:
    old = rig.signer(name)
    seal = Path(rig.room.keys, f"{HOLDERS[name]}.seal").read_bytes()
    reply = rig.keyring.revoke(old.kid, 7, "stolen", 0)
    gone = rig.roster().find(old.kid)
    assert gone is not None
    assert (gone.state, gone.revoked_at_seq, gone.reason) == (REVOKED, 7, "stolen")
    assert reply["replaced_by"] == rig.signer(name).kid == rig.roster().current(name).kid
    assert Path(rig.room.keys, f"{HOLDERS[name]}.seal").read_bytes() != seal
    if name == GOVERNANCE:
        assert rig.keyring.signers().public_of(old.kid) is None
    assert rig.keyring.signers().public_of(rig.signer().kid) == rig.signer().public
    before = rig.roster()
    rig.keep()
    assert rig.roster() == before


def test_a_rotated_out_key_that_is_revoked_counts_no_more_at_once(rig: Rig) -> None:
    old = rig.signer()
    rig.rotate()
    assert rig.keyring.signers().public_of(old.kid) == old.public
    assert rig.keyring.revoke(old.kid, None, "stolen", 0) == {"kid": old.kid, "replaced_by": None}
    assert rig.keyring.signers().public_of(old.kid) is None
    with pytest.raises(TrustError, match="does not know"):
        rig.keyring.revoke("0" * 16, None, "", 0)


def test_an_older_roster_does_not_bring_an_older_key_back(rig: Rig) -> None:
    older, old = Path(rig.room.roster).read_bytes(), rig.signer()
    rig.rotate()
    Path(rig.room.roster).write_bytes(older)
    for kid in (old.kid, "", "0" * 16):
        with pytest.raises(Refused) as caught:
            rig.keyring.signers().public_of(kid)
        assert caught.value.reason == "pin"
    rig.keep()
    assert rig.keyring.signers().public_of(rig.signer().kid) == rig.signer().public
    assert rig.signer().kid != old.kid


def test_a_lost_pin_is_made_from_roots_roster_and_a_damaged_one_is_refused(rig: Rig) -> None:
    pin = Path(rig.room.keys, "governance.pin")
    pin.unlink()
    assert rig.keyring.signers().public_of(rig.signer().kid) == rig.signer().public
    assert pin.exists()
    pin.chmod(0o600)
    pin.write_text("{}")
    with pytest.raises(TrustError, match="damaged"):
        rig.keyring.signers().public_of(rig.signer().kid)


def test_other_keys_are_nobodys(rig: Rig) -> None:
    for kid in ("", "0" * 16, rig.signer(LEDGER).kid):
        assert rig.keyring.signers().public_of(kid) is None


def test_a_change_that_was_cut_off_is_finished_at_the_next_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_arguments: object) -> None:
        raise OSError("gone")

    rotation = rig.rotation()
    with monkeypatch.context() as patch:
        patch.setattr(KeyRoom, "put_key", cut)
        with pytest.raises(OSError, match="gone"):
            rig.keyring.rotate(rotation, peer("governance"))
    again = rig.restart()
    again.recover()
    assert rig.signer().kid == rig.roster().current(GOVERNANCE).kid == rotation["statement"]["kid"]
    assert again.signers().public_of(rig.signer().kid) == rig.signer().public
    again.recover()
