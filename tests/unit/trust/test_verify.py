"""Offline verification: a good export and proof, what each kind of tampering is called, keys and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from graced.base.errors import TrustError
from graced.trust.keys import GOVERNANCE, Signer
from graced.trust.merkle import leaf_hash
from graced.trust.note import verifier_key
from graced.trust.proof import Proof
from graced.trust.tiles import CHECKPOINT, ENTRIES, bundle, tile_path, unbundle
from graced.trust.verify import main, parse_key, verify_export, verify_proof
from tests.unit.trust.exports import (
    GOVERNOR,
    KEY,
    NEW_LEDGER,
    OLD_KEY,
    OLD_LEDGER,
    ORIGIN,
    ROTATED_AT,
    STRANGER,
    Memory,
    anchor,
    entries,
    entry,
    export,
    key_entry,
    note_over,
    public,
    tree_of,
)

ROOT = Path(__file__).parents[3]
COUNT = 320
ROWS = entries(COUNT)
FILES = export(ROWS)
LAST = tile_path(ENTRIES, 1, COUNT - 256)
FIRST = tile_path(ENTRIES, 0)


def codes(files: dict[str, bytes], *anchors: list[bytes]) -> set[str]:
    report = verify_export(Memory(files), [KEY], [anchor(rows) for rows in anchors])
    assert report.ok == (not report.problems)
    return {problem.code for problem in report.problems}


def test_a_good_export() -> None:
    report = verify_export(Memory(FILES), [KEY])
    assert report.ok, report
    assert (report.entries, report.size, report.checkpoints, report.uncovered) == (COUNT, COUNT, 1, 0)
    # One for the head, one for each warrant and verdict: 7 and 9 of each fifty.
    assert report.signatures == 1 + 14
    assert report.anchor == "none"
    assert verify_export(Memory(FILES), [KEY], [anchor(ROWS[:100]), anchor(ROWS)]).anchor == "agrees"


@pytest.mark.parametrize("count", [4, 255, 256, 257, 512, 513])
def test_exports_of_any_size(count: int) -> None:
    rows = entries(count)
    signer, key = (NEW_LEDGER, KEY) if count > ROTATED_AT + 1 else (OLD_LEDGER, OLD_KEY)
    report = verify_export(Memory(export(rows, signer)), [key])
    assert report.ok, report


def edited(seq: int) -> dict[str, bytes]:
    """One byte of one entry changed, and nothing else."""
    name = tile_path(ENTRIES, seq // 256, 256 if seq < 256 else COUNT - 256)
    rows, _ = unbundle(FILES[name])
    rows[seq % 256] = rows[seq % 256].replace(b'"n":', b'"m":')
    return {**FILES, name: bundle(rows)}


@pytest.mark.parametrize("seq", [7, 100, 255, 256, 319])
def test_the_first_bad_entry_is_named(seq: int) -> None:
    report = verify_export(Memory(edited(seq)), [KEY])
    assert seq in {problem.seq for problem in report.problems if problem.code == "changed-entry"}
    assert min(problem.seq for problem in report.problems if problem.seq is not None) in {seq, seq // 256 * 256}


def without(name: str) -> dict[str, bytes]:
    return {key: value for key, value in FILES.items() if key != name}


FORGED_ROWS = [*ROWS[:-1], entry(COUNT - 1, "task", {"n": "invented"})]
CASES: dict[str, tuple[dict[str, bytes], set[str]]] = {
    "no checkpoint": (without(CHECKPOINT), {"no-checkpoint"}),
    "binary checkpoint": ({**FILES, CHECKPOINT: b"\xff"}, {"no-checkpoint"}),
    "stranger's key": (export(FORGED_ROWS, STRANGER), {"no-checkpoint"}),
    "rotated-out key": (export(FORGED_ROWS, OLD_LEDGER), {"no-checkpoint"}),
    "huge size": (
        {**FILES, CHECKPOINT: note_over(ROWS, NEW_LEDGER, size=10**18).encode()},
        {"no-checkpoint"},
    ),
    "no entries": ({**FILES, CHECKPOINT: note_over(ROWS, NEW_LEDGER, size=0).encode()}, {"no-checkpoint"}),
    "bundle missing": (without(FIRST), {"missing-file", "bundle", "missing-entry"}),
    "last bundle missing": (without(LAST), {"missing-file", "bundle", "cut-tail"}),
    "tile missing": (without("tile/0/000"), {"missing-file", "tiles"}),
    "file too many": ({**FILES, "tile/entries/002": FILES[LAST]}, {"unexpected-file"}),
    "something else in it": ({**FILES, "README": b""}, {"unexpected-file"}),
    "bundle cut": ({**FILES, LAST: FILES[LAST][:-5]}, {"bundle", "cut-tail"}),
    "bundle longer": ({**FILES, LAST: FILES[LAST] + b"\0\1x"}, {"bundle"}),
    "tile changed": ({**FILES, "tile/0/000": bytes(8192)}, {"tiles"}),
    "tile of level 1 changed": ({**FILES, "tile/1/000.p/1": bytes(32)}, {"tiles"}),
    "open tile changed": ({**FILES, "tile/0/001.p/64": bytes(2048)}, {"tiles"}),
    "another head's root": (
        {**FILES, CHECKPOINT: note_over(ROWS, NEW_LEDGER, root=bytes(32)).encode()},
        {"changed"},
    ),
    "all hashes made anew": ({**export(FORGED_ROWS), CHECKPOINT: FILES[CHECKPOINT]}, {"changed"}),
}


@pytest.mark.parametrize("name", CASES)
def test_tampering_is_called_by_its_name(name: str) -> None:
    files, expected = CASES[name]
    assert expected <= codes(files)


@pytest.mark.parametrize("name", CASES)
def test_keys_learned_in_between_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many entries wait for the keys the rest is read for them first; the report is the same, word for word."""
    late = verify_export(Memory(CASES[name][0]), [KEY], [anchor(ROWS)])
    monkeypatch.setattr("graced.trust.audit._MAX_WAITING_BYTES", 0)
    assert verify_export(Memory(CASES[name][0]), [KEY], [anchor(ROWS)]) == late


@pytest.mark.parametrize("most_bytes", [0, 4 << 20])
def test_a_key_of_a_later_bundle_is_known(most_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graced.trust.audit._MAX_WAITING_BYTES", most_bytes)
    governor = Signer(b"g" * 32, GOVERNANCE, "late")
    change = [key_entry(COUNT, "activate", governor), entry(COUNT + 1, "warrant", {"unit": "x.service"}, governor)]
    report = verify_export(Memory(export([*ROWS, *change])), [KEY])
    assert report.ok, report
    assert report.signatures == 1 + 14 + 1


def test_most_of_an_export_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    files = Memory(FILES)
    read = files.read
    names: list[str] = []
    monkeypatch.setattr(files, "read", lambda name: (names.append(name), read(name))[1])
    assert verify_export(files, [KEY]).ok
    assert sorted(name for name in names if ENTRIES in name) == [FIRST, LAST]
    names.clear()
    monkeypatch.setattr("graced.trust.audit._MAX_WAITING_BYTES", 0)
    assert verify_export(files, [KEY]).ok
    assert sorted(name for name in names if ENTRIES in name) == [FIRST, LAST, LAST]


def test_what_only_a_kept_head_shows() -> None:
    older = export(ROWS[:300])
    assert codes(older) == set()
    assert "rolled-back" in codes(older, ROWS)
    assert "anchor" in codes(export(FORGED_ROWS), ROWS)
    assert codes(FILES, ROWS[:300]) == set()
    foreign = anchor(ROWS).replace(origin="graced-ledger/other")
    report = verify_export(Memory(FILES), [KEY], [foreign])
    assert [problem.code for problem in report.problems] == ["anchor"]


def resigned(seq: int, row: bytes) -> dict[str, bytes]:
    """What a supervisor could sign that makes things up: one other entry, and all hashes and the head to match."""
    return export([*ROWS[:seq], row, *ROWS[seq + 1 :]])


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (entry(300, "warrant", {"n": 1}), "unsigned"),
        (entry(300, "warrant", {"n": 1}, NEW_LEDGER), "wrong-signer"),
        (entry(300, "warrant", {"n": 1}, STRANGER), "wrong-signer"),
        (entry(300, "warrant", {"n": 1}, GOVERNOR).replace(b'"n":1', b'"n":2'), "bad-signature"),
        (entry(301, "task", {"n": 1}), "bad-entry"),
        (entry(300, "task", {"n": 1}) + b"\n", "bad-entry"),
        (b"{}", "bad-entry"),
        (b"", "bad-entry"),
        # An entry inside the data looks like one that nobody signed.
        (
            entry(300, "warrant", {"kid": None, "kind": "task", "seq": 300, "signature": None, "task_id": None}),
            "unsigned",
        ),
        (
            entry(300, "warrant", json.loads(entry(300, "task", {"n": 1})), STRANGER),
            "wrong-signer",
        ),
        (key_entry(300, "activate", NEW_LEDGER, public="AA=="), "unknown-key"),
    ],
)
def test_what_the_ledgers_own_key_cannot_make_good(row: bytes, code: str) -> None:
    assert code in codes(resigned(300, row))


def test_keys_by_their_place_in_the_log() -> None:
    assert "retired-key" in {p.code for p in verify_export(Memory(export(ROWS, OLD_LEDGER)), [OLD_KEY]).problems}
    before = export(ROWS[:150], OLD_LEDGER)
    assert verify_export(Memory(before), [OLD_KEY]).ok
    assert verify_export(Memory(before), [KEY, OLD_KEY]).ok
    assert not verify_export(Memory(before), [KEY]).ok
    assert not verify_export(Memory(before), [public(STRANGER)]).ok
    revoked = [*ROWS, key_entry(COUNT, "revoke", GOVERNOR, state="revoked", revoked_at_seq=200)]
    found = verify_export(Memory(export(revoked)), [KEY]).problems
    assert {problem.code for problem in found} == {"revoked-key"}
    assert min(problem.seq or 0 for problem in found) == 207
    # A key that the log never heard of, though it signed the head.
    assert "retired-key" in {p.code for p in verify_export(Memory(export(ROWS, STRANGER)), [public(STRANGER)]).problems}


def test_a_key_is_what_it_says() -> None:
    text = verifier_key(ORIGIN, NEW_LEDGER.public)
    assert parse_key(text + "\n") == KEY
    for wrong in ("", "a+b", text[:-4], text.replace("graced", "graved"), f"{ORIGIN}+00000000+{text.split('+', 2)[2]}"):
        with pytest.raises(TrustError):
            parse_key(wrong)


def proof_of(seq: int, row: bytes | None = None) -> str:
    proof = Proof(
        entry=ROWS[seq] if row is None else row,
        index=seq,
        path=tuple(tree_of(ROWS).inclusion(seq)),
        checkpoint=FILES[CHECKPOINT].decode(),
    )
    return proof.text()


def test_proofs() -> None:
    report, shown = verify_proof(proof_of(7), [KEY])
    assert report.ok
    assert shown == ROWS[7]
    for wrong in (
        proof_of(7, ROWS[8]),
        proof_of(7).replace("index 7", "index 8"),
        proof_of(7).replace("extra", "Extra"),
    ):
        report, shown = verify_proof(wrong, [KEY])
        assert (report.ok, shown) == (False, b"")
    assert not verify_proof(proof_of(7), [OLD_KEY])[0].ok
    assert verify_proof(proof_of(7), [KEY], [anchor(ROWS)])[0].ok
    other = anchor(ROWS).replace(root=leaf_hash(b""))
    assert not verify_proof(proof_of(7), [KEY], [other])[0].ok
    assert not verify_proof(Proof(entry=None, index=0, path=(), checkpoint="").text(), [KEY])[0].ok


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "key").write_text(verifier_key(ORIGIN, NEW_LEDGER.public) + "\n")
    (tmp_path / "head").write_bytes(FILES[CHECKPOINT])
    (tmp_path / "one.tlog-proof").write_text(proof_of(7))
    return tmp_path


def test_exit_codes(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, key = str(written / "export"), str(written / "key")
    assert main([path, "--key", key, "--checkpoint", str(written / "head")]) == 0
    assert "It holds." in capsys.readouterr().out
    assert main([path, "--key", (written / "key").read_text(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == COUNT
    assert main([str(written / "one.tlog-proof"), "--key", key]) == 0
    assert '"kind":"warrant"' in capsys.readouterr().out
    rows, _ = unbundle(FILES[LAST])
    rows[3] = rows[3].replace(b"task", b"tusk")
    (written / "export" / LAST).write_bytes(bundle(rows))
    assert main([path, "--key", key]) == 1
    assert "First bad entry: 259." in capsys.readouterr().out
    for wrong in (
        [path, "--key", "nonsense"],
        [f"{path}-not", "--key", key],
        [path, "--key", key, "--checkpoint", "/"],
    ):
        assert main(wrong) == 2
        assert capsys.readouterr().err.startswith("verify: ")


@pytest.mark.parametrize(
    "plant",
    [
        lambda at: at.symlink_to("001.p/64"),
        os.mkfifo,
        lambda at: at.write_bytes(bytes(17 << 20)),
    ],
)
def test_what_is_no_file_is_not_followed(plant: Callable[[Path], object], written: Path) -> None:
    at = written / "export" / FIRST
    at.unlink()
    plant(at)
    assert main([str(written / "export"), "--key", str(written / "key")]) == 1


def test_a_machine_without_graced(written: Path) -> None:
    """Two directories, Python and PyNaCl are all it takes."""
    for name in ("base", "trust"):
        shutil.copytree(ROOT / "graced" / name, written / "copy/graced" / name)
    shutil.copy(ROOT / "graced/__init__.py", written / "copy/graced/__init__.py")
    command = ["/usr/bin/python3", "-P", "-B", "-m", "graced.trust.verify", "../export", "--key", "../key"]
    environment = {"PYTHONPATH": ".", "PATH": "/usr/bin"}
    done = subprocess.run(command, cwd=written / "copy", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "It holds." in done.stdout
    loaded = "import sys; import graced.trust.verify; print(*sorted(n for n in sys.modules if n.startswith('graced.')))"
    done = subprocess.run(
        ["/usr/bin/python3", "-P", "-B", "-c", loaded],
        cwd=written / "copy",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    homes = {name.split(".")[1] for name in done.stdout.split()}
    assert homes == {"base", "trust"}
