"""Heads of the ledger that are kept outside its database: how they are read back, and which of them count.

In the journal only what journald itself stamps says who wrote a record: unit and uid, which must be the supervisor's.
In a file anybody could have written, the head's own signature must be by a ledger key of the roster. Pure but for
reading the given file. Used by the supervisor at its start and by `gracectl audit verify`.
"""

from __future__ import annotations

import json
import os

from graced.base.errors import FormatError, StoreError, TrustError
from graced.base.messages import LEDGER_CHECKPOINT
from graced.trust.audit import Anchor
from graced.trust.keys import LEDGER
from graced.trust.note import parse_checkpoint, parse_note, signed_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.trust.roster import Roster

UNIT = "graced-supervisor.service"
ACCOUNT = "_graced-supervisor"
MAX_FILE_BYTES = 1 << 20
"""An anchor file beyond it becomes ``<path>.1``, in the place of the former one."""
MAX_ANCHORS = 10_000


def journal_argv(lines: int, *arguments: str) -> list[str]:
    """The command that prints the newest heads of this host's journal, one JSON object a line."""
    return [
        "journalctl", "--output=json", "--quiet", "--reverse", f"--lines={lines}", *arguments,
        "--output-fields=GRACED_CHECKPOINT,_SYSTEMD_UNIT,_UID",
        f"MESSAGE_ID={LEDGER_CHECKPOINT}", f"_SYSTEMD_UNIT={UNIT}",
    ]  # fmt: skip


def parse_journal_line(line: bytes, uids: frozenset[str]) -> Anchor | None:
    """The anchor in one line of ``journalctl --output=json``; None when it is not the supervisor's or no head."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("_SYSTEMD_UNIT") != UNIT or record.get("_UID") not in uids:
        return None
    return _anchor(record.get("GRACED_CHECKPOINT"), "journal")


def journal_anchors(output: bytes, uids: frozenset[str]) -> list[Anchor]:
    """The anchors in the output of `journal_argv`."""
    anchors = (parse_journal_line(line, uids) for line in output.splitlines())
    return [anchor for anchor in anchors if anchor is not None]


def _anchor(text: object, source: str, roster: Roster | None = None) -> Anchor | None:
    try:
        note = parse_note(text) if isinstance(text, str) else None
        if note is None:
            return None
        head = parse_checkpoint(note.text)
        if roster is not None:
            keys = [key.public_bytes() for key in roster.keys if key.signer == LEDGER]
            if not any(signed_by(note, roster.origin, public) for public in keys):
                return None
    except (FormatError, TrustError):
        return None
    return Anchor(origin=head.origin, size=head.size, root=head.root, source=source)


def supervisor_uids() -> frozenset[str]:
    """Who writes heads to this host's journal: the supervisor's account, in development the developer's."""
    import pwd

    try:
        return frozenset({str(pwd.getpwnam(ACCOUNT).pw_uid)})
    except KeyError:
        return frozenset({str(os.getuid())})


def file_anchors(path: str, roster: Roster) -> list[Anchor]:
    """The heads in an anchor file and the one before it, newest last; what no ledger key of the roster signed is left
    out, and so is a line that a crash cut short.

    Raises StoreError when it is there and cannot be read.
    """
    lines: list[bytes] = []
    for name in (f"{path}.1", path):
        try:
            with open(name, "rb", opener=_opener) as file:
                lines += file.read(2 * MAX_FILE_BYTES).splitlines()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"the anchor file {name} cannot be read: {error.strerror}", code="anchor") from error
    anchors = []
    for line in lines[-MAX_ANCHORS:]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        anchor = _anchor(record.get("checkpoint"), "anchor file", roster) if isinstance(record, dict) else None
        if anchor is not None:
            anchors.append(anchor)
    return anchors


def _opener(path: str, flags: int) -> int:
    # A pipe in its place must not hold up whoever reads it.
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
