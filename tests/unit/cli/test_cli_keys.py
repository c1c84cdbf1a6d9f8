"""gracectl keys: what the roster says, who is asked to change it, and what root alone may."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from graced.cli import app
from graced.trust.keys import GOVERNANCE, LEDGER, SIGNERS, Signer, decode_base64
from graced.trust.note import Checkpoint, parse_note, sign_checkpoint, signed_by
from graced.trust.roster import REVOKED, Roster, origin_of, roster_key
from graced.varlink.wire import VarlinkError

NOW = "2026-01-01T00:00:00.000Z"
KEYS = {name: Signer(bytes([number]) * 32, name, "test") for number, name in enumerate(SIGNERS, 1)}
OLD = Signer(b"o" * 32, GOVERNANCE, "test")


@pytest.fixture
def roster(run: Path) -> Roster:
    keys = tuple(
        roster_key(signer.public, name, NOW, not_after="2999-01-01T00:00:00.000Z") for name, signer in KEYS.items()
    )
    gone = roster_key(OLD.public, GOVERNANCE, NOW, not_after=NOW).replace(state=REVOKED, reason="stolen")
    return put(run, Roster(origin=origin_of(KEYS[LEDGER].public), machine="m", keys=(*keys, gone)))


def put(run: Path, roster: Roster) -> Roster:
    (run / "lib").chmod(0o755)
    (run / "lib/roster.json").write_bytes(roster.to_bytes())
    return roster


def test_list(ctl, roster) -> None:
    listed = ctl("keys", "list", "--json=short")
    assert listed.exit_code == 0
    assert [(one["signer"], one["state"]) for one in listed.json] == [
        ("governance", "current"),
        ("ledger", "current"),
        ("verification", "current"),
        ("governance", "revoked"),
    ]
    human = ctl("keys", "list").stdout
    assert all(key.kid in human for key in roster.keys)


def test_an_ended_key_is_an_exit_code(ctl, run, roster) -> None:
    keys = tuple(key.replace(not_after=NOW) if key.signer == LEDGER else key for key in roster.keys)
    put(run, roster.replace(keys=keys))
    told = ctl("keys", "list")
    assert told.exit_code == 1
    assert "has ended" in told.stderr
    assert [one["state"] for one in ctl("keys", "list", "--json=short").json].count("ended") == 1


def test_a_roster_that_is_not_there_is_said(ctl, run) -> None:
    told = ctl("keys", "list")
    assert told.exit_code == 1
    assert "roster" in told.stderr


def test_show(ctl, graced, roster) -> None:
    graced.answers["Ledger.KeyHistory"] = {
        "operations": [
            {"time": NOW, "operation": "activate", "kid": KEYS[GOVERNANCE].kid, "actor": "uid1000", "uid": 1000}
        ]
    }
    shown = ctl("keys", "show", "governance", "--json=short")
    assert (shown.json["kid"], shown.json["operations"][0]["uid"]) == (KEYS[GOVERNANCE].kid, 1000)
    assert "uid1000" in ctl("keys", "show", KEYS[GOVERNANCE].kid[:6]).stdout
    assert graced.calls[-1] == ("io.graced.Ledger.KeyHistory", {"kid": KEYS[GOVERNANCE].kid})
    assert "stolen" in ctl("keys", "show", OLD.kid).stdout


@pytest.mark.parametrize("key", ["0123", "", "xyz", "led"])
def test_a_key_that_is_not_there(ctl, roster, key: str) -> None:
    told = ctl("keys", "show", key)
    assert told.exit_code == 1
    assert "gracectl keys list" in told.stderr


def test_history_that_is_not_known_is_said(ctl, roster) -> None:
    told = ctl("keys", "show", "ledger")
    assert told.exit_code == 0
    assert "is not known" in told.stdout


def test_rotate(ctl, graced, roster) -> None:
    reply = {"old_kid": OLD.kid, "kid": "00" * 8, "not_after": NOW}
    graced.serve("io.graced.Verification")
    for interface in ("Ledger", "Governance", "Verification"):
        graced.answers[f"{interface}.RotateKey"] = reply
    assert ctl("keys", "rotate", "governance", "--reason", "why").exit_code == 0
    assert graced.calls == [("io.graced.Governance.RotateKey", {"reason": "why"})]
    done = ctl("keys", "rotate", "--all", "--json=short").json
    assert done == [{"signer": signer, **reply} for signer in sorted(SIGNERS)]
    for wrong in (("keys", "rotate"), ("keys", "rotate", "ledger", "--all"), ("keys", "rotate", "memory")):
        assert ctl(*wrong).exit_code == 2
    graced.answers["Ledger.RotateKey"] = VarlinkError(
        "io.graced.Ledger.PermissionDenied", {"method": "RotateKey", "needed": ["admin", "root"]}
    )
    assert "permission denied" in ctl("keys", "rotate", "ledger").stderr


def test_revoke(ctl, graced, roster, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    graced.serve("io.graced.Actuator")
    graced.answers["Actuator.RevokeKey"] = {"kid": OLD.kid, "replaced_by": "00" * 8}
    told = ctl("keys", "revoke", "governance", "--reason", "stolen", "--at", "7")
    assert told.exit_code == 0
    assert "from ledger entry 7 on" in told.stdout
    given = {"kid": KEYS[GOVERNANCE].kid, "at_seq": 7, "reason": "stolen"}
    assert graced.calls == [("io.graced.Actuator.RevokeKey", given)]
    assert ctl("keys", "revoke", "governance").exit_code == 2
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in ctl("keys", "revoke", "governance", "--reason", "x").stderr
    assert ctl("keys", "revoke", "governance", "--reason", "x").exit_code == app.EXIT_FAILED


def test_openssl_takes_the_exported_key(ctl, roster, tmp_path) -> None:
    (tmp_path / "key.pem").write_text(ctl("keys", "export-public", "governance").stdout)
    (tmp_path / "data").write_bytes(b"graced-warrant-v1\n{}")
    (tmp_path / "signature").write_bytes(KEYS[GOVERNANCE].sign(b"graced-warrant-v1\n", b"{}"))
    argv = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pem", "-in", "data"]
    argv += ["-sigfile", "signature"]
    assert subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    (tmp_path / "data").write_bytes(b"graced-warrant-v1\n{ }")
    assert subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True).returncode != 0


def test_other_formats(ctl, roster) -> None:
    told = ctl("keys", "export-public", "ledger", "--format", "note").stdout.strip()
    name, _hash, _key = told.split("+", 2)
    assert name == roster.origin
    note = sign_checkpoint(Checkpoint(origin=name, size=1, root=bytes(32)), KEYS[LEDGER])
    assert signed_by(parse_note(note), name, KEYS[LEDGER].public)
    bare = ctl("keys", "export-public", "ledger", "--format", "base64").stdout.strip()
    assert decode_base64(bare, "") == KEYS[LEDGER].public
    assert ctl("keys", "export-public", "governance", "--format", "note").exit_code == 1
