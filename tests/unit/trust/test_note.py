"""Signed notes against the example of Go's sumdb/note package, and against malformed input."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError, TrustError
from graced.trust.keys import LEDGER, Signer
from graced.trust.note import (
    Checkpoint,
    key_id,
    parse_checkpoint,
    parse_note,
    sign_checkpoint,
    signed_by,
    verifier_key,
)

# golang.org/x/mod/sumdb/note, package example.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
PETER_PUBLIC = base64.b64decode(PETER.split("+", 2)[2])[1:]


def test_gos_example_verifies() -> None:
    note = parse_note(PETER_NOTE)
    assert verifier_key("PeterNeumann", PETER_PUBLIC) == PETER
    assert key_id("PeterNeumann", PETER_PUBLIC).hex() == "c74f20a3"
    assert signed_by(note, "PeterNeumann", PETER_PUBLIC)
    assert not signed_by(note, "EnochRoot", PETER_PUBLIC)
    changed = parse_note(PETER_NOTE.replace("answer", "Answer"))
    with pytest.raises(TrustError):
        signed_by(changed, "PeterNeumann", PETER_PUBLIC)


def test_checkpoint_there_and_back() -> None:
    signer = Signer(bytes(range(32)), LEDGER, "test")
    head = Checkpoint(origin="graced-ledger/0011223344556677", size=12345, root=bytes(32))
    text = sign_checkpoint(head, signer)
    note = parse_note(text)
    assert parse_checkpoint(note.text) == head
    assert signed_by(note, head.origin, signer.public)
    assert not signed_by(note, head.origin, Signer(bytes(32), LEDGER, "test").public)


@pytest.mark.parametrize("position", range(0, 200, 1))
def test_every_changed_byte_is_seen(position: int) -> None:
    signer = Signer(bytes(range(32)), LEDGER, "test")
    head = Checkpoint(origin="graced-ledger/0011223344556677", size=12345, root=bytes(range(32)))
    text = sign_checkpoint(head, signer)
    at = position % len(text)
    changed = text[:at] + ("B" if text[at] == "A" else "A") + text[at + 1 :]
    try:
        note = parse_note(changed)
        accepted = signed_by(note, head.origin, signer.public)
    except (FormatError, TrustError):
        accepted = False
    assert not accepted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "a\n1\n",
        "a\n01\n" + base64.b64encode(bytes(32)).decode() + "\n",
        "a\n-1\nAA==\n",
        "a\n1\nAA==\n",
        "a\n\u0661\n" + base64.b64encode(bytes(32)).decode() + "\n",
    ],
)
def test_malformed_checkpoints(text: str) -> None:
    with pytest.raises(FormatError):
        parse_checkpoint(text)


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_note, parse_checkpoint):
        try:
            parse(text)
        except FormatError:
            continue


def test_a_name_with_plus_or_space_is_no_name() -> None:
    signer = Signer(bytes(32), LEDGER, "test")
    for origin in ("", "a b", "a+b", "a\nb"):
        with pytest.raises(TrustError):
            sign_checkpoint(Checkpoint(origin=origin, size=1, root=bytes(32)), signer)
