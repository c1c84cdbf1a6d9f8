"""graced-keys and the roster: first boot, clones, lost and swapped files, permissions."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import TrustError
from graced.trust.keyfiles import KeyRoom, read_records
from graced.trust.keys import HOLDERS, LEDGER, SIGNERS, Signer
from graced.trust.keys_tool import Keeper, make_development_keys, read_machine_id
from graced.trust.roster import RETIRED, Roster

HOST, CLONE = "a" * 32, "b" * 32
NOW, LATER = "2026-01-01T00:00:00.000Z", "2026-02-01T00:00:00.000Z"
OWNERS = (0, os.getuid())


def keep(lib: Path, machine_id: str = HOST, now: str = NOW) -> list[str]:
    keeper = Keeper(KeyRoom(str(lib)), machine_id, now, OWNERS)
    keeper.run()
    return [notice.message for notice in keeper.notices]


def load(lib: Path) -> Roster:
    return Roster.load(str(lib / "roster.json"), owners=OWNERS)


def signer_of(lib: Path, signer: str, tmp: Path) -> Signer:
    tmp.mkdir(exist_ok=True)
    for name in ("seal", "key"):
        shutil.copy(lib / "keys" / f"{HOLDERS[signer]}.{name}", tmp / name)
        (tmp / name).chmod(0o400)
    return Signer.load(str(tmp), signer=signer)


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    path = tmp_path / "lib"
    path.mkdir(mode=0o755)
    keep(path)
    return path


def test_first_boot(tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    assert len(keep(lib)) == 3
    roster = load(lib)
    for signer in SIGNERS:
        assert signer_of(lib, signer, tmp_path / signer).kid == roster.current(signer).kid
    assert (lib / "keys").stat().st_mode & 0o777 == 0o700
    for path in (lib / "keys").glob("*.*"):
        assert path.stat().st_mode & 0o777 == 0o400
    assert (lib / "roster.json").stat().st_mode & 0o777 == 0o644
    assert (lib / "keys" / "machine-id").read_text() == HOST + "\n"
    assert (lib / "keys" / f"made-on-{HOST}").exists()
    assert {record.key.kid for record in read_records(str(lib / "keys-public"))} == {key.kid for key in roster.keys}
    before = (lib / "roster.json").read_bytes()
    assert keep(lib, now=LATER) == []
    assert (lib / "roster.json").read_bytes() == before


def test_clone_is_rekeyed_loudly(lib: Path) -> None:
    old = load(lib)
    messages = keep(lib, CLONE, LATER)
    new = load(lib)
    assert sum("RE-KEYED" in message for message in messages) == 3
    assert new.origin == old.origin
    assert new.machine != old.machine
    for signer in SIGNERS:
        assert new.current(signer).kid != old.current(signer).kid
        gone = new.find(old.current(signer).kid)
        assert gone is not None
        assert (gone.state, gone.not_after) == (RETIRED, LATER)
    assert len(list((lib / "keys" / "retired").iterdir())) == 6
    assert keep(lib, CLONE, LATER) == []


def test_lost_machine_id_file_on_the_same_host(lib: Path) -> None:
    old = load(lib)
    (lib / "keys" / "machine-id").unlink()
    assert keep(lib, now=LATER) == ["the file keys/machine-id is lost"]
    assert load(lib) == old


def test_lost_key_comes_back_from_its_record(lib: Path) -> None:
    old = load(lib)
    (lib / "keys" / "governance.key").unlink()
    assert "restored from its record" in keep(lib, now=LATER)[0]
    assert load(lib) == old


def test_lost_seal_means_a_new_key(lib: Path) -> None:
    old = load(lib)
    (lib / "keys" / "supervisor.seal").unlink()
    messages = keep(lib, now=LATER)
    assert any("ledger: RE-KEYED" in message for message in messages)
    assert load(lib).current(LEDGER).kid != old.current(LEDGER).kid
    assert load(lib).current("governance") == old.current("governance")


def test_swapped_and_rolled_back_blobs(lib: Path, tmp_path: Path) -> None:
    shutil.copytree(lib / "keys", tmp_path / "old")
    keep(lib, CLONE, LATER)
    current = load(lib)
    # An older key with its own seal comes back: it is not the roster's current key.
    for name in ("governance.seal", "governance.key"):
        (lib / "keys" / name).unlink()
        shutil.copy2(tmp_path / "old" / name, lib / "keys" / name)
    messages = keep(lib, CLONE, "2026-03-01T00:00:00.000Z")
    assert any("the roster says" in message for message in messages)
    assert load(lib).current("governance").kid != current.current("governance").kid
    # Governance's files in the supervisor's place.
    for suffix in ("seal", "key"):
        (lib / "keys" / f"supervisor.{suffix}").unlink()
        shutil.copy2(lib / "keys" / f"governance.{suffix}", lib / "keys" / f"supervisor.{suffix}")
    assert any("belongs to governance" in message for message in keep(lib, CLONE, "2026-04-01T00:00:00.000Z"))


def test_key_open_to_others_is_replaced(lib: Path) -> None:
    (lib / "keys" / "verification.key").chmod(0o644)
    (lib / "keys" / "verification.seal").chmod(0o644)
    assert any("open to others" in message for message in keep(lib, now=LATER))


def test_lost_or_damaged_roster_is_made_again(lib: Path) -> None:
    old = load(lib)
    (lib / "roster.json").unlink()
    assert any("roster was lost" in message for message in keep(lib, now=LATER))
    assert set(load(lib).keys) == set(old.keys)
    assert load(lib).origin == old.origin
    (lib / "roster.json").write_text("{}")
    assert any("set aside" in message for message in keep(lib, now=LATER))
    assert set(load(lib).keys) == set(old.keys)


def test_interrupted_first_run_is_no_loss(lib: Path) -> None:
    (lib / "roster.json").unlink()
    (lib / "keys" / "machine-id").unlink()
    shutil.rmtree(lib / "keys-public")
    assert keep(lib, now=LATER) == []
    for signer in SIGNERS:
        assert load(lib).current(signer).not_before == LATER


def test_roster_permissions(lib: Path) -> None:
    path = lib / "roster.json"
    for mode in (0o664, 0o646, 0o666):
        path.chmod(mode)
        with pytest.raises(TrustError, match="refused"):
            load(lib)
    path.chmod(0o644)
    lib.chmod(0o775)
    with pytest.raises(TrustError, match="refused"):
        load(lib)
    lib.chmod(0o755)
    with pytest.raises(TrustError, match="refused"):
        Roster.load(str(path), owners=(os.getuid() + 1,))
    load(lib)
    path.rename(lib / "other")
    path.symlink_to(lib / "other")
    with pytest.raises(TrustError):
        load(lib)
    path.unlink()
    path.mkdir()
    with pytest.raises(TrustError):
        load(lib)


def test_edited_rosters_are_refused(lib: Path) -> None:
    data = load(lib).to_bytes()
    roster = Roster.parse(data)
    other = roster.keys[0].public
    with pytest.raises(TrustError):
        Roster.parse(data.replace(roster.keys[1].public.encode(), other.encode()))
    with pytest.raises(TrustError, match="two current"):
        Roster.parse(data.replace(b'"governance"', b'"ledger"'))
    with pytest.raises(TrustError):
        Roster.parse(data.replace(b'"current"', b'"fine"'))
    with pytest.raises(TrustError):
        Roster.parse(data.replace(NOW.encode(), b"yesterday"))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_roster_or_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        Roster.parse(data)


def test_key_for(lib: Path) -> None:
    kid = load(lib).current(LEDGER).kid
    keep(lib, CLONE, LATER)
    roster = load(lib)
    assert roster.key_for(kid, "2026-01-15T00:00:00.000Z").kid == kid
    for at, code in ((None, "not-current"), ("2026-03-01T00:00:00.000Z", "not-valid-then")):
        with pytest.raises(TrustError) as caught:
            roster.key_for(kid, at)
        assert caught.value.code == code
    with pytest.raises(TrustError):
        roster.key_for("0" * 16)


def test_no_machine_id_no_keys(tmp_path: Path) -> None:
    for text in ("", "uninitialized\n", "xyz"):
        (tmp_path / "id").write_text(text)
        with pytest.raises(TrustError):
            read_machine_id(str(tmp_path / "id"))
    (tmp_path / "id").write_text(HOST + "\n")
    assert read_machine_id(str(tmp_path / "id")) == HOST


def test_development(tmp_path: Path) -> None:
    assert len(make_development_keys(str(tmp_path), NOW)) == 4
    assert make_development_keys(str(tmp_path), LATER) == []
    key = Signer.load_development(str(tmp_path / "supervisor" / "development.key"), LEDGER)
    assert Roster.load(str(tmp_path / "roster.json"), owners=OWNERS).current(LEDGER).kid == key.kid
