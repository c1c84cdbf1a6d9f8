"""C2SP signed notes and checkpoints: what a ledger head looks like outside, for anyone's tools.

A note is text, an empty line and signature lines ``— <name> <base64(key id || signature)>``. A checkpoint is a note
whose text is origin, tree size and root. A bad signature by a known key refuses the whole note; signatures of
unknown keys are skipped. Formats: C2SP signed-note.md and tlog-checkpoint.md. Pure but for the signing itself.
"""

from __future__ import annotations

from graced.base.digest import sha256
from graced.base.errors import FormatError, TrustError
from graced.base.record import Record
from graced.trust.keys import decode_base64, encode_base64, verify
from graced.trust.merkle import HASH_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.trust.keys import Signer

MAX_NOTE_BYTES = 64 << 10
_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_DASH = "\u2014 "


class Note(Record):
    """`text` ends with a newline; `signatures` are (name, key id, signature) in order."""

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]


class Checkpoint(Record):
    """The head of a log: its name, its number of entries, the RFC 6962 root over them (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


def key_id(name: str, public: bytes) -> bytes:
    """First 4 bytes of SHA-256(name || 0x0A || 0x01 || public key)."""
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, public: bytes) -> str:
    """The key as other people's note tools take it: ``name+hex id+base64(0x01 || public key)``."""
    return f"{name}+{key_id(name, public).hex()}+{encode_base64(_ED25519 + public)}"


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> str:
    """The signed note; the key's name in it is the log's origin. Raises TrustError for an unusable origin."""
    _check_name(checkpoint.origin)
    text = checkpoint.text()
    signature = signer.sign(b"", text.encode())
    blob = encode_base64(key_id(checkpoint.origin, signer.public) + signature)
    return f"{text}\n{_DASH}{checkpoint.origin} {blob}\n"


def _check_name(name: str) -> None:
    if not name or "+" in name or any(char.isspace() or ord(char) < 0x20 for char in name):
        raise TrustError(f"{name!r} cannot be a key's name in a note")


def parse_note(data: str) -> Note:
    """Take a note apart. Raises FormatError: control characters, no text, no or malformed signature lines."""
    if len(data.encode(errors="replace")) > MAX_NOTE_BYTES:
        raise FormatError(f"a note has at most {MAX_NOTE_BYTES} bytes")
    if any((char < " " and char != "\n") or "\ud800" <= char <= "\udfff" for char in data):
        raise FormatError("a note has no control characters but newlines")
    body, mark, lines = data.rpartition("\n\n")
    if not mark or not body or not lines.endswith("\n"):
        raise FormatError("not a signed note: text, an empty line and signature lines are needed")
    signatures = tuple(_signature_line(line) for line in lines[:-1].split("\n"))
    return Note(text=body + "\n", signatures=signatures)


def _signature_line(line: str) -> tuple[str, bytes, bytes]:
    name, space, blob = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space:
        raise FormatError("a signature line of the note is malformed")
    try:
        _check_name(name)
        data = decode_base64(blob, "a signature of the note")
    except TrustError as error:
        raise FormatError(error.message) from error
    if len(data) <= _KEY_ID_BYTES:
        raise FormatError("a signature of the note is too short")
    return name, data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:]


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text; extension lines are accepted and ignored. Raises FormatError."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise FormatError("a checkpoint has an origin, a size and a root line")
    origin, digits, root = lines[0], lines[1], lines[2]
    if not (digits.isascii() and digits.isdigit()) or (digits[0] == "0" and digits != "0") or len(digits) > 19:
        raise FormatError("the size of a checkpoint is a decimal number")
    try:
        hash_bytes = decode_base64(root, "the root of the checkpoint")
    except TrustError as error:
        raise FormatError(error.message) from error
    if len(hash_bytes) != HASH_BYTES:
        raise FormatError(f"the root of a checkpoint has {HASH_BYTES} bytes")
    return Checkpoint(origin=origin, size=int(digits), root=hash_bytes)


def signed_by(note: Note, name: str, public: bytes) -> bool:
    """Whether the key `public`, known as `name`, signed the note.

    Raises TrustError when it has a line of this key whose signature is wrong: such a note is forged, whatever
    else it carries.
    """
    wanted = key_id(name, public)
    found = False
    for line_name, line_id, signature in note.signatures:
        if line_name == name and line_id == wanted:
            if not verify(public, b"", note.text.encode(), signature):
                raise TrustError(f"the note carries a wrong signature of {name}", code="signature")
            found = True
    return found
