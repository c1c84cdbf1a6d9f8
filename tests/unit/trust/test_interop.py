"""Other people's tools agree with every export and proof: Go's sumdb/note and sumdb/tlog, openssl, signify, minisign.

None of them knows graced. Each also has to refuse what was changed, or its agreement would say nothing.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import pytest

from graced.base.json import canonical
from graced.trust.keys import WARRANT_CONTEXT, encode_base64
from graced.trust.note import parse_note, verifier_key
from graced.trust.proof import Continuation, Proof
from graced.trust.tiles import CHECKPOINT, ENTRIES, tile_path
from tests.unit.trust.exports import (
    GOVERNOR,
    NEW_LEDGER,
    OLD_LEDGER,
    ORIGIN,
    ROTATED_AT,
    entries,
    export,
    tree_of,
)

SOURCE = Path(__file__).with_name("tlog") / "main.go"
KEY = verifier_key(ORIGIN, NEW_LEDGER.public)
# SubjectPublicKeyInfo of an Ed25519 key, RFC 8410: what openssl reads.
SPKI = bytes.fromhex("302a300506032b6570032100")
SIZES = (4, 255, 256, 257, 700, 65_537)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tlog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built from Debian's packages alone."""
    path = tmp_path_factory.mktemp("go")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(path / "cache"),
        "GOFLAGS": "",
        "GOPROXY": "off",
    }
    command = ["/usr/bin/go", "build", "-o", str(path / "tlog"), str(SOURCE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path / "tlog"


def write(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("size", SIZES)
def test_go_agrees(tlog: Path, tmp_path: Path, size: int) -> None:
    """The signature, the root from every entry, inclusion and consistency: the very hashes, too."""
    rows = entries(size)
    signer = NEW_LEDGER if size > ROTATED_AT + 1 else OLD_LEDGER
    key = verifier_key(ORIGIN, signer.public)
    there = write(tmp_path / "export", export(rows, signer))
    assert run(tlog, there, key).stdout == f"agrees {size}\n"
    tree = tree_of(rows)
    for index in sorted({0, 1, size // 2, size - 2, size - 1}):
        ours = [encode_base64(one) for one in tree.inclusion(index)]
        told = run(tlog, there, key, str(index))
        assert told.stdout.split("\n") == [*ours, f"agrees {size}", ""], told.stderr
        proof = Proof(entry=rows[index], index=index, path=tuple(tree.inclusion(index)), checkpoint=_head(there))
        (tmp_path / "proof").write_text(proof.text())
        assert run(tlog, there, key, "proof", tmp_path / "proof").stdout == f"agrees {size}\n"
    for old in sorted({1, 2, size // 2, size - 1, size}):
        ours = [encode_base64(one) for one in tree.consistency(old)]
        root = encode_base64(tree_of(rows[:old]).root())
        told = run(tlog, there, key, "prefix", str(old), root)
        assert told.stdout.split("\n") == [*ours, f"agrees {size}", ""], told.stderr
        file = Continuation(old_size=old, path=tuple(tree.consistency(old)), checkpoint=_head(there))
        (tmp_path / "continues").write_text(file.text())
        assert run(tlog, there, key, "continues", root, tmp_path / "continues").stdout == f"agrees {size}\n"


def _head(there: Path) -> str:
    return (there / CHECKPOINT).read_text()


def test_go_refuses_what_was_changed(tlog: Path, tmp_path: Path) -> None:
    rows = entries(300)
    files = export(rows)
    good = write(tmp_path / "good", files)
    assert run(tlog, good, KEY).returncode == 0
    assert run(tlog, good, verifier_key(ORIGIN, OLD_LEDGER.public)).returncode == 1
    assert run(tlog, good, KEY, "prefix", "100", encode_base64(bytes(32))).returncode == 1
    for number, name in enumerate((tile_path(ENTRIES, 0), tile_path(ENTRIES, 1, 44), CHECKPOINT)):
        data = bytearray(files[name])
        data[30] ^= 1
        bad = write(tmp_path / f"bad{number}", {**files, name: bytes(data)})
        assert run(tlog, bad, KEY).returncode == 1
    bad = write(tmp_path / "tile", {**files, tile_path(0, 0): files[tile_path(0, 0)][::-1]})
    assert run(tlog, bad, KEY, "7").returncode == 1
    proof = Proof(entry=rows[8], index=7, path=tuple(tree_of(rows).inclusion(7)), checkpoint=_head(good))
    (tmp_path / "proof").write_text(proof.text())
    assert run(tlog, good, KEY, "proof", tmp_path / "proof").returncode == 1
    file = Continuation(old_size=100, path=tuple(tree_of(rows).consistency(100)), checkpoint=_head(good))
    (tmp_path / "continues").write_text(file.text())
    assert run(tlog, good, KEY, "continues", encode_base64(bytes(32)), tmp_path / "continues").returncode == 1


def signed_things() -> dict[str, tuple[bytes, bytes, bytes]]:
    """What is signed, as (public key, signed bytes, signature): a head and a warrant out of an export."""
    note = parse_note(export(entries(300))[CHECKPOINT].decode())
    warrant = json.loads(entries(300)[207])
    assert warrant["kind"] == "warrant"
    return {
        "head": (NEW_LEDGER.public, note.text.encode(), note.signatures[0][2]),
        "warrant": (
            GOVERNOR.public,
            WARRANT_CONTEXT + canonical(warrant["data"]),
            base64.b64decode(warrant["signature"]),
        ),
    }


@pytest.fixture(params=["head", "warrant"])
def signed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bytes, bytes]:
    public, message, signature = signed_things()[request.param]
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "changed").write_bytes(message[:-2] + bytes([message[-2] ^ 1]) + message[-1:])
    return tmp_path, public, signature


def test_openssl_agrees(signed: tuple[Path, bytes, bytes]) -> None:
    path, public, signature = signed
    (path / "key").write_bytes(SPKI + public)
    (path / "signature").write_bytes(signature)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", path / "key"]
    command += ["-sigfile", path / "signature", "-in"]
    assert "Signature Verified Successfully" in run(*command, path / "message").stdout
    assert run(*command, path / "changed").returncode != 0


def test_signify_agrees(signed: tuple[Path, bytes, bytes]) -> None:
    path, public, signature = signed
    for name, data in (("key", public), ("signature", signature)):
        text = base64.b64encode(b"Ed" + bytes(8) + data).decode()
        (path / name).write_text(f"untrusted comment: graced\n{text}\n")
    command = ["signify-openbsd", "-V", "-p", path / "key", "-x", path / "signature", "-m"]
    assert run(*command, path / "message").stdout == "Signature Verified\n"
    assert run(*command, path / "changed").returncode != 0


def test_minisign_agrees(tmp_path: Path) -> None:
    """Its file has a second signature, over the first and a comment: the signer makes both."""
    message = signed_things()["head"][1]
    signature = NEW_LEDGER.sign(b"", message)
    comment = b"graced"
    lines = [
        "untrusted comment: graced",
        base64.b64encode(b"Ed" + bytes(8) + signature).decode(),
        f"trusted comment: {comment.decode()}",
        base64.b64encode(NEW_LEDGER.sign(b"", signature + comment)).decode(),
    ]
    (tmp_path / "signature").write_text("\n".join(lines) + "\n")
    (tmp_path / "message").write_bytes(message)
    (tmp_path / "changed").write_bytes(message + b"\n")
    key = base64.b64encode(b"Ed" + bytes(8) + NEW_LEDGER.public).decode()
    command = ["minisign", "-V", "-P", key, "-x", tmp_path / "signature", "-m"]
    assert "verified" in run(*command, tmp_path / "message").stdout
    assert run(*command, tmp_path / "changed").returncode != 0
