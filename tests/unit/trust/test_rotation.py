"""Rotation statements, revocation, and the change of key files that is whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.clock import iso
from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical
from graced.trust import keychange
from graced.trust.keychange import Change, NewFiles, Pin, commit, finish, put_pin, read_pin
from graced.trust.keyfiles import KeyRecord, KeyRoom, parse_record
from graced.trust.keys import GOVERNANCE, LEDGER, SIGNERS, Signer, decode_base64, unseal_key, verify
from graced.trust.keys_tool import Keeper
from graced.trust.roster import CURRENT, RETIRED, REVOKED, Roster, RosterFile, RosterKey, origin_of, roster_key
from graced.trust.rotation import (
    CONTEXT,
    DAY_SECONDS,
    VALIDITY_SECONDS,
    Rotation,
    check_rotation,
    is_due,
    is_endorsed,
    make_rotation,
    revoked,
    rotated,
)

WALL_US = 1_790_000_000_000_000
NOW = iso(WALL_US)
SEAL = bytes(range(32))
OLD = {name: Signer(bytes([number]) * 32, name, "test") for number, name in enumerate(SIGNERS, 1)}
OWNERS = (0, os.getuid())
HOST = "a" * 32


def make_roster() -> Roster:
    keys = tuple(roster_key(signer.public, name, iso(WALL_US - 1_000_000)) for name, signer in OLD.items())
    return Roster(origin=origin_of(OLD[LEDGER].public), machine="m", keys=keys)


def rotation_of(signer: str = GOVERNANCE, validity_s: float = VALIDITY_SECONDS) -> tuple[Rotation, Signer]:
    return make_rotation(OLD[signer], SEAL, WALL_US, validity_s, "uid1000", 1000, "by hand")


def code_of(roster: Roster, rotation: Rotation, wall_us: int = WALL_US) -> str:
    with pytest.raises(TrustError) as caught:
        check_rotation(roster, rotation, wall_us)
    return caught.value.code


@pytest.mark.parametrize("signer", SIGNERS)
def test_a_rotation_is_applied_once(signer: str) -> None:
    roster = make_roster()
    rotation, new = rotation_of(signer)
    said = check_rotation(roster, Rotation.parse(rotation.to_json()), WALL_US)
    after = Roster.parse(rotated(roster, said, NOW).to_bytes())
    assert after.current(signer).kid == new.kid
    assert after.current(signer).endorsed_by == OLD[signer].kid
    assert (after.current(signer).changed_by, after.current(signer).changed_by_uid) == ("uid1000", 1000)
    assert after.current(signer).not_after == iso(WALL_US + 90 * DAY_SECONDS * 1_000_000)
    gone = after.find(OLD[signer].kid)
    assert gone is not None
    assert (gone.state, gone.not_after) == (RETIRED, NOW)
    assert unseal_key(decode_base64(rotation.sealed, ""), SEAL)[0] == signer
    assert code_of(after, rotation) == "not-current"


def test_what_the_old_key_signed_verifies_with_it_alone() -> None:
    roster = make_roster()
    rotation, new = rotation_of()
    signature = OLD[GOVERNANCE].sign(b"graced-warrant-v1\n", b"{}")
    after = rotated(roster, check_rotation(roster, rotation, WALL_US), NOW)
    kept = after.key_for(OLD[GOVERNANCE].kid, at=iso(WALL_US - 1000))
    assert verify(kept.public_bytes(), b"graced-warrant-v1\n", b"{}", signature)
    for key in after.keys:
        assert verify(key.public_bytes(), b"graced-warrant-v1\n", b"{}", signature) is (key.kid == kept.kid)
    with pytest.raises(TrustError, match="not valid at"):
        after.key_for(new.kid, at=iso(WALL_US - 1000))


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("signer", "ledger", "not-current"),
        ("old_kid", OLD[LEDGER].kid, "not-current"),
        ("kid", OLD[LEDGER].kid, "not-current"),
        ("kid", "0" * 16, "format"),
        ("public", "AAAA", "format"),
        ("sealed_digest", "0" * 64, "signature"),
        ("not_after", "2099-01-01T00:00:00.000Z", "signature"),
        ("by", "root", "signature"),
        ("by_uid", 0, "signature"),
        ("reason", "x", "signature"),
        ("reason", "x" * 201, "format"),
        ("v", 2, "format"),
        ("more", 1, "format"),
    ],
)
def test_a_changed_statement_is_refused(field: str, value: object, code: str) -> None:
    rotation, _new = rotation_of()
    assert code_of(make_roster(), rotation.replace(statement={**rotation.statement, field: value})) == code


def test_wrong_signatures_are_refused() -> None:
    rotation, _new = rotation_of()
    other, _key = rotation_of()
    for field in ("signature", "proof"):
        assert code_of(make_roster(), rotation.replace(**{field: getattr(other, field)})) == "signature"
        assert code_of(make_roster(), rotation.replace(**{field: "!"})) == "signature"
    assert code_of(make_roster(), rotation.replace(sealed=other.sealed)) == "signature"
    assert code_of(make_roster(), rotation.replace(signature=rotation.proof)) == "signature"


@pytest.mark.parametrize("validity_s", [0, -DAY_SECONDS, 401 * DAY_SECONDS])
def test_validity_has_bounds(validity_s: float) -> None:
    assert code_of(make_roster(), rotation_of(validity_s=validity_s)[0]) == "validity"


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_statement_of_another_time_is_refused(hours: int) -> None:
    assert code_of(make_roster(), rotation_of()[0], WALL_US + hours * 3_600_000_000) == "validity"


def test_the_old_key_must_have_signed() -> None:
    thief = Signer(bytes(32), GOVERNANCE, "test")
    rotation, _new = make_rotation(thief, SEAL, WALL_US, VALIDITY_SECONDS, "root", 0, "")
    assert code_of(make_roster(), rotation) == "not-current"
    lied = {**rotation.statement, "old_kid": OLD[GOVERNANCE].kid}
    signed = rotation.replace(statement=lied, signature=rotation.signature)
    assert code_of(make_roster(), signed) == "signature"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_in_a_statement_is_an_answer(value: object) -> None:
    rotation, _new = rotation_of()
    for name in rotation.statement:
        with pytest.raises(TrustError):
            check_rotation(make_roster(), rotation.replace(statement={**rotation.statement, name: [value]}), WALL_US)
    with pytest.raises((TrustError, FormatError)):
        Rotation.parse({"statement": value, "signature": value, "proof": "", "sealed": ""})


@given(st.binary(max_size=200))
def test_any_bytes_as_change_record_or_pin_are_an_answer(data: bytes) -> None:
    for parse in (Change.parse, Pin.parse, Roster.parse, lambda data: parse_record(data, "record")):
        with pytest.raises(TrustError):
            parse(data)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=1))
def test_a_changed_byte_of_a_roster_is_refused_or_says_something_else(position: int, byte: bytes) -> None:
    data = make_roster().to_bytes()
    position %= len(data)
    changed = data[:position] + byte + data[position + 1 :]
    try:
        roster = Roster.parse(changed)
    except TrustError:
        return
    assert (roster == make_roster()) is (json.loads(changed) == json.loads(data))


def test_endorsement() -> None:
    rotation, new = rotation_of()
    parts = (rotation.statement, rotation.signature, rotation.proof)
    assert is_endorsed(*parts, OLD[GOVERNANCE].public, new.public)
    assert not is_endorsed(*parts, OLD[LEDGER].public, new.public)
    assert not is_endorsed(*parts, OLD[GOVERNANCE].public, OLD[GOVERNANCE].public)
    assert not is_endorsed({"x": float("nan")}, *parts[1:], OLD[GOVERNANCE].public, new.public)
    assert verify(new.public, CONTEXT, canonical(rotation.statement), decode_base64(rotation.proof, ""))


def test_revocation() -> None:
    roster = make_roster()
    new = Signer(bytes([9]) * 32, GOVERNANCE, "test")
    successor = roster_key(new.public, GOVERNANCE, NOW, "root")
    after = revoked(roster, OLD[GOVERNANCE].kid, NOW, 0, "stolen", None, successor)
    gone = after.find(OLD[GOVERNANCE].kid)
    assert gone is not None
    assert (gone.state, gone.revoked_at_seq, gone.reason) == (REVOKED, None, "stolen")
    assert after.current(GOVERNANCE).kid == new.kid
    # The theft was earlier than thought: the end in the log may move back, never forth.
    earlier = revoked(after, gone.kid, NOW, 0, "stolen in May", 70, None)
    assert earlier.find(gone.kid) != gone
    for at_seq in (None, 70, 71):
        with pytest.raises(TrustError, match="already"):
            revoked(earlier, gone.kid, NOW, 0, "", at_seq, None)
    with pytest.raises(TrustError, match="does not know"):
        revoked(after, "0" * 16, NOW, 0, "", None, None)
    with pytest.raises(TrustError, match="only a current one"):
        revoked(roster, OLD[LEDGER].kid, NOW, 0, "", None, None)
    with pytest.raises(TrustError, match="an end in the log"):
        revoked(after, gone.kid, NOW, 0, "", -1, None)


@pytest.mark.parametrize(("days", "due"), [(0, False), (82, False), (83, True), (90, True), (1000, True)])
def test_due_seven_days_before_the_end(days: int, due: bool) -> None:
    key = roster_key(OLD[LEDGER].public, LEDGER, NOW, not_after=iso(WALL_US + VALIDITY_SECONDS * 1_000_000))
    later_us = WALL_US + days * DAY_SECONDS * 1_000_000
    assert is_due(key, later_us) is due
    assert is_due(key.replace(not_after=None), later_us) is due
    assert is_due(key, later_us, ahead_s=0) is (days >= 90)


# Files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def room(tmp_path: Path) -> KeyRoom:
    lib = tmp_path / "lib"
    lib.mkdir(mode=0o755)
    room = KeyRoom(str(lib))
    assert keep(room) == 3
    return room


def keep(room: KeyRoom) -> int:
    keeper = Keeper(room, HOST, NOW, OWNERS)
    keeper.run()
    return len(keeper.notices)


def load(room: KeyRoom) -> Roster:
    return Roster.load(room.roster, owners=OWNERS)


def change_of(room: KeyRoom) -> tuple[Change, Signer]:
    roster = load(room)
    seed, _blob = room.load(GOVERNANCE)
    old = Signer(seed, GOVERNANCE, "test")
    seal = Path(room.keys, "governance.seal").read_bytes()
    rotation, new = make_rotation(old, seal, WALL_US, VALIDITY_SECONDS, "root", 0, "test")
    after = rotated(roster, check_rotation(roster, rotation, WALL_US), NOW)
    sealed = decode_base64(rotation.sealed, "")
    record = KeyRecord(
        key=after.current(GOVERNANCE),
        sealed=sealed,
        statement=rotation.statement,
        signature=rotation.signature,
        proof=rotation.proof,
    )
    gone = after.find(old.kid)
    assert gone is not None
    retired = KeyRecord(key=gone, sealed=room.load(GOVERNANCE)[1])
    pin = Pin(kid=new.kid, public=after.current(GOVERNANCE).public, previous_kid=old.kid)
    return Change(
        roster=after.to_bytes(), files=NewFiles(GOVERNANCE, sealed), records=(record, retired), stamp=NOW, pin=pin
    ), new


def test_a_change_is_whole(room: KeyRoom) -> None:
    change, new = change_of(room)
    assert Change.parse(change.to_bytes()) == change
    commit(room, change)
    assert Signer(room.load(GOVERNANCE)[0], GOVERNANCE, "").kid == new.kid == load(room).current(GOVERNANCE).kid
    assert read_pin(room) == change.pin
    assert parse_record(Path(room.public, f"{new.kid}.json").read_bytes(), "") == change.records[0]
    assert [name for name in os.listdir(f"{room.keys}/retired") if name.startswith("governance")]
    assert not os.path.exists(f"{room.keys}/change.json")
    assert finish(room) == ""
    assert keep(room) == 0


class Cut(Exception):
    """The power went away."""


CALLS = ("put_roster", "set_aside", "put_key", "put_record", "put_pin", "unlink")


@pytest.mark.parametrize("cut_before", CALLS)
@pytest.mark.parametrize("by_boot", [True, False])
def test_a_change_that_was_cut_off(
    room: KeyRoom, monkeypatch: pytest.MonkeyPatch, cut_before: str, by_boot: bool
) -> None:
    change, new = change_of(room)
    before = load(room)

    def cut(*_args: object, **_more: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        owner = {"put_pin": keychange, "unlink": keychange.os}.get(cut_before, room)
        patch.setattr(owner, cut_before, cut)
        with pytest.raises(Cut):
            commit(room, change)
    if by_boot:
        assert keep(room) == 1
    else:
        assert finish(room) == ("dropped" if cut_before == "put_roster" else "finished")
    current = load(room).current(GOVERNANCE)
    assert current.kid == (before.current(GOVERNANCE).kid if cut_before == "put_roster" else new.kid)
    assert Signer(room.load(GOVERNANCE)[0], GOVERNANCE, "").kid == current.kid
    pin = read_pin(room)
    assert pin is not None
    assert pin.kid == current.kid
    assert keep(room) == 0


def test_an_older_roster_is_not_believed(room: KeyRoom) -> None:
    older = Path(room.roster).read_bytes()
    change, new = change_of(room)
    commit(room, change)
    Path(room.roster).write_bytes(older)
    keeper = Keeper(room, HOST, NOW, OWNERS)
    keeper.run()
    assert any("older roster was put back" in notice.message for notice in keeper.notices)
    assert load(room).current(GOVERNANCE).kid == new.kid
    assert Signer(room.load(GOVERNANCE)[0], GOVERNANCE, "").kid == new.kid


def test_pin_files(room: KeyRoom) -> None:
    pin = read_pin(room)
    assert pin is not None
    assert pin.kid == load(room).current(GOVERNANCE).kid
    assert Path(room.keys, "governance.pin").stat().st_mode & 0o777 == 0o400
    put_pin(room, pin.replace(kid="0" * 16))
    with pytest.raises(TrustError, match="not what its name says"):
        read_pin(room)
    keeper = Keeper(room, HOST, NOW, OWNERS)
    keeper.run()
    assert read_pin(room) == pin
    assert len(keeper.notices) == 2


def test_the_roster_is_read_again_when_it_was_replaced(room: KeyRoom) -> None:
    file = RosterFile(room.roster, OWNERS)
    first = file.get()
    assert file.get() is first
    change, new = change_of(room)
    commit(room, change)
    assert file.get().current(GOVERNANCE).kid == new.kid
    os.chmod(room.roster, 0o666)
    again = RosterFile(room.roster, OWNERS)
    with pytest.raises(TrustError, match="refused"):
        again.get()
    os.unlink(room.roster)
    with pytest.raises(TrustError, match="cannot be read"):
        file.get()


def test_states_and_fields_of_the_roster() -> None:
    for key in make_roster().keys:
        assert RosterKey.from_json(key.to_json()) == key
        assert key.state == CURRENT
