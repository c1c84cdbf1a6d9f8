"""Keys: libsodium calls against PyNaCl's public classes, sealing, loading, file permissions."""

from __future__ import annotations

import os
from pathlib import Path

import nacl.exceptions
import nacl.secret
import nacl.signing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graced.base.errors import TrustError
from graced.trust import sodium
from graced.trust.keys import (
    GOVERNANCE,
    LEDGER,
    Signer,
    decode_base64,
    development_key,
    read_private,
    seal_key,
    unseal_key,
    verify,
)

SEED = bytes(range(32))
SEAL = bytes(range(32, 64))


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_same_as_pynacl(seed: bytes, message: bytes) -> None:
    theirs = nacl.signing.SigningKey(seed)
    public, secret = sodium.keypair(seed)
    assert public == bytes(theirs.verify_key)
    signature = sodium.sign(message, secret)
    assert signature == theirs.sign(message).signature
    assert sodium.is_signed(message, signature, public)
    assert not sodium.is_signed(message + b"x", signature, public)
    nonce = bytes(24)
    boxed = sodium.seal(message, seed, nonce)
    assert boxed == nacl.secret.SecretBox(seed).encrypt(message, nonce).ciphertext
    assert sodium.unseal(boxed, seed, nonce) == message


def test_wrong_lengths_are_no_signature() -> None:
    public, secret = sodium.keypair(SEED)
    signature = sodium.sign(b"m", secret)
    assert not sodium.is_signed(b"m", signature[:-1], public)
    assert not sodium.is_signed(b"m", signature, public[:-1])
    assert not sodium.is_signed(b"m", b"", b"")


def give(directory: Path, seal: bytes, blob: bytes) -> str:
    for name, data in (("seal", seal), ("key", blob)):
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o400)
    return str(directory)


def test_credentials(tmp_path: Path) -> None:
    signer = Signer.load(give(tmp_path, SEAL, seal_key(SEED, SEAL, GOVERNANCE)), signer=GOVERNANCE)
    assert signer.source == "credentials"
    signature = signer.sign(b"graced-warrant-v1\n", b"{}")
    assert verify(signer.public, b"graced-warrant-v1\n", b"{}", signature)
    assert not verify(signer.public, b"graced-verdict-v1\n", b"{}", signature)


def test_wrong_signer_seal_or_blob(tmp_path: Path) -> None:
    blob = seal_key(SEED, SEAL, GOVERNANCE)
    with pytest.raises(TrustError, match="belongs to governance"):
        Signer.load(give(tmp_path, SEAL, blob), signer=LEDGER)
    for changed in (blob[:-1], blob[:-1] + bytes([blob[-1] ^ 1]), b"", blob[10:], b"x" + blob):
        with pytest.raises(TrustError):
            unseal_key(changed, SEAL)
    for seal in (bytes(32), b"", SEAL[:-1]):
        with pytest.raises(TrustError):
            unseal_key(blob, seal)


def test_inside_must_agree() -> None:
    from graced.base.json import canonical, loads_object

    inside = loads_object(development_key(SEED, LEDGER))
    other = loads_object(development_key(bytes(32), LEDGER))
    for name in ("kid", "public", "seed"):
        forged = canonical({**inside, name: other[name]})
        blob = seal_key(SEED, SEAL, LEDGER)
        nonce = blob[len(b"graced-sealed-key-v1\n") :][:24]
        with pytest.raises(TrustError, match="belong together"):
            unseal_key(b"graced-sealed-key-v1\n" + nonce + sodium.seal(forged, SEAL, nonce), SEAL)


def test_no_credentials_under_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = tmp_path / "development.key"
    path.write_bytes(development_key(SEED, LEDGER))
    path.chmod(0o600)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    assert Signer.load(signer=LEDGER, state_directory=str(tmp_path)).source == "development-file"
    monkeypatch.setenv("INVOCATION_ID", "x")
    with pytest.raises(TrustError, match="no credentials"):
        Signer.load(signer=LEDGER, state_directory=str(tmp_path))


def test_private_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"secret")
    for mode in (0o644, 0o604, 0o620, 0o660):
        path.chmod(mode)
        if mode & 0o040 and mode & 0o007 == 0 and mode & 0o020 == 0 and path.stat().st_gid == 0:
            continue
        with pytest.raises(TrustError, match="open to others"):
            read_private(str(path), "f")
    path.chmod(0o400)
    assert read_private(str(path), "f") == b"secret"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(TrustError):
        read_private(str(tmp_path / "link"), "f")
    with pytest.raises(TrustError):
        read_private(str(tmp_path / "none"), "f")
    with pytest.raises(TrustError):
        read_private(str(tmp_path), "f")
    path.chmod(0o600)
    path.write_bytes(os.urandom(5000))
    with pytest.raises(TrustError, match="larger"):
        read_private(str(path), "f")


def test_base64_has_one_spelling() -> None:
    assert decode_base64("AA==", "x") == b"\0"
    for text in ("AB==", "AA=", "AA", " AA==", "AA==\n", "ä"):
        with pytest.raises(TrustError):
            decode_base64(text, "x")
