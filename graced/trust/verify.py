"""Does this export of a ledger, or this proof, tell what was signed? For a machine with no graced and a public key.

usage: python3 -m graced.trust.verify PATH --key KEY [--checkpoint FILE ...] [--json]

PATH is a directory made by `gracectl audit export` or a file made by `gracectl audit prove`; the file of `--from` needs
the head that it goes on from as --checkpoint. Needs the directories
graced/base and graced/trust, the standard library and PyNaCl. The newest head must be signed by the given key; the keys
of entries, and ledger keys before it, are those of the `key` entries which that head covers. A head kept elsewhere
(--checkpoint) is what shows a rollback: no export can prove that it is the newest. Exit status: 0 everything holds,
1 something does not, 2 wrong usage or a path that cannot be read.
"""

from __future__ import annotations

import os
import stat
import sys

from graced.base.errors import FormatError, TrustError
from graced.base.json import get_dict, get_str, loads_object
from graced.base.record import Record
from graced.trust.audit import Anchor, Problem, Report, audit_blocks
from graced.trust.keys import LEDGER, decode_base64, encode_base64, kid_of
from graced.trust.merkle import TILE_HASHES
from graced.trust.note import MAX_NOTE_BYTES, key_id, parse_checkpoint, parse_note, signed_by
from graced.trust.proof import MAX_PROOF_BYTES, is_consistent, is_continuation, parse_continuation, parse_proof
from graced.trust.roster import CURRENT, Roster, RosterKey
from graced.trust.tiles import CHECKPOINT, ENTRIES, MAX_BUNDLE_BYTES, files_of, tile_path, unbundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Protocol

    from graced.trust.note import Checkpoint

    class Files(Protocol):
        """An export: `names` of all its files, and `read` for the content of one ("" when it is not there)."""

        def names(self) -> set[str]: ...
        def read(self, name: str) -> bytes: ...


# Far more than a host writes in its life, and a bound on what a forged size can make a verifier do.
_MAX_SIZE = 1 << 40
# As every one of them has it; the longer the text, the faster it is not found.
_KEY = b',"kid":null,"kind":"key","seq":'
EXIT_BAD = 1
EXIT_USAGE = 2


class PublicKey(Record):
    """A ledger's public key as note tools write it: the log's origin and 32 bytes."""

    origin: str
    public: bytes


def parse_key(text: str) -> PublicKey:
    """``origin+id+base64``, the id being that of origin and key. Raises TrustError."""
    origin, _, rest = text.strip().partition("+")
    identity, _, blob = rest.partition("+")
    data = decode_base64(blob, "the public key")
    if not origin or len(data) != 33 or data[0] != 1 or key_id(origin, data[1:]).hex() != identity:
        raise TrustError("not a public key of a ledger, as in name+id+base64")
    return PublicKey(origin=origin, public=data[1:])


def verify_export(files: Files, keys: Sequence[PublicKey], anchors: Sequence[Anchor] = ()) -> Report:
    """Check an export: its head against `keys` and `anchors`, every byte of it against the head.

    Raises what `files` raises (OSError), nothing of its own: what is wrong is in the report.
    """
    try:
        text = files.read(CHECKPOINT).decode()
        if not text:
            raise FormatError("there is no checkpoint")
        head, key = _head(text, keys)
    except UnicodeDecodeError:
        return failed("no-checkpoint", "the checkpoint is no text")
    except (FormatError, TrustError) as error:
        return failed("no-checkpoint", error.message)
    problems = [
        Problem(code="missing-file", seq=None, detail=f"{name} is missing")
        for name in sorted(files_of(head.size) - files.names())
    ]
    problems += [
        Problem(code="unexpected-file", seq=None, detail=f"{name} is no file of an export of {head.size} entries")
        for name in sorted(files.names() - files_of(head.size))
    ]
    problems += [
        Problem(code="anchor", seq=anchor.size, detail=f"the head in {anchor.source} is one of {anchor.origin}")
        for anchor in anchors
        if anchor.origin != head.origin
    ]
    reader = _Reader(files, head.size)
    unknown = Roster(origin=head.origin, machine="", keys=())
    heads = [(head.size, text)]
    report = audit_blocks(
        reader.blocks(),
        heads,
        unknown,
        anchors=anchors,
        tile=reader.tile,
        learn=lambda: reader.roster(head.origin, key),
    )
    return report.concluded([*report.problems, *reader.problems, *problems])


def _head(text: str, keys: Sequence[PublicKey]) -> tuple[Checkpoint, PublicKey]:
    note = parse_note(text)
    head = parse_checkpoint(note.text)
    if not 0 < head.size <= _MAX_SIZE:
        raise FormatError(f"a checkpoint over {head.size} entries")
    for key in keys:
        if key.origin == head.origin and signed_by(note, key.origin, key.public):
            return head, key
    raise TrustError(f"the checkpoint of {head.origin} is not signed by a given key")


class _Reader:
    """Blocks of entries and tiles out of an export of `size` entries; what is malformed is noted in `problems`."""

    def __init__(self, files: Files, size: int) -> None:
        self._files = files
        self._size = size
        self._tiles: dict[int, tuple[int, bytes]] = {}
        self._keys: dict[str, RosterKey] = {}
        self._learned = 0
        self.problems: list[Problem] = []

    def _width(self, level: int, n: int) -> int:
        return min(TILE_HASHES, (self._size >> (8 * level)) - n * TILE_HASHES)

    def _bundle(self, n: int) -> bytes:
        """The bundle `n` as it is on disk; what it says of keys is learned when it is the next one."""
        data = self._files.read(tile_path(ENTRIES, n, self._width(0, n)))
        if n == self._learned:
            self._learned += 1
            # A look at 1 M entries costs a tenth of taking them apart.
            if _KEY in data:
                found = [_key_of(entry) for entry in unbundle(data)[0] if _KEY in entry]
                self._keys |= {key.kid: key for key in found if key is not None}
        return data

    def roster(self, origin: str, key: PublicKey) -> Roster:
        """The keys of the log's own `key` entries, of all its bundles; what they say of a key last is what counts."""
        for n in range(self._learned, -(-self._size // TILE_HASHES)):
            self._bundle(n)
        public = encode_base64(key.public)
        given = RosterKey(kid=kid_of(key.public), signer=LEDGER, public=public, not_before="", state=CURRENT)
        # One that nothing in the log made a key of this ledger: the audit will say so.
        keys = {given.kid: given, **self._keys}
        return Roster(origin=origin, machine="", keys=tuple(keys.values()))

    def blocks(self) -> Iterator[tuple[int, list[bytes]]]:
        """Every bundle's entries; those of a broken bundle as far as they go."""
        for first in range(0, self._size, TILE_HASHES):
            width = self._width(0, first // TILE_HASHES)
            entries, whole = unbundle(self._bundle(first // TILE_HASHES))
            if not whole or len(entries) != width:
                at = first + min(len(entries), width)
                detail = f"the bundle with entry {at} has {len(entries)} whole entries and not exactly {width}"
                self.problems.append(Problem(code="bundle", seq=at, detail=detail))
            if entries:
                yield first, entries[:width]

    def tile(self, level: int, n: int) -> bytes:
        """The hashes of a tile; the last one of each level is kept, higher ones are asked for again and again."""
        kept, hashes = self._tiles.get(level, (-1, b""))
        if kept != n:
            width = self._width(level, n)
            hashes = self._files.read(tile_path(level, n, width))
            if len(hashes) != 32 * width:
                detail = f"tile {n} of level {level} has {len(hashes)} bytes, not {32 * width}"
                self.problems.append(Problem(code="tiles", seq=n << (8 * level + 8), detail=detail))
            self._tiles[level] = n, hashes
        return hashes


def _key_of(entry: bytes) -> RosterKey | None:
    """The key in a `key` entry; None for what is not one. The audit judges the entry, this only reads it."""
    try:
        obj = loads_object(entry, max_bytes=65535)
        data = get_dict(obj, "data")
        if get_str(obj, "kind") != "key":
            return None
        found = RosterKey.from_json({name: data[name] for name in RosterKey._fields if name in data})
        public = found.public_bytes()
    except (FormatError, TrustError):
        return None
    return found if len(public) == 32 and kid_of(public) == found.kid else None


def verify_proof(text: str, keys: Sequence[PublicKey], anchors: Sequence[Anchor] = ()) -> tuple[Report, bytes]:
    """Check a proof file that carries its entry; the report and the entry (b"" when it does not hold)."""
    try:
        proof = parse_proof(text)
        head, _key = _head(proof.checkpoint, keys)
        if proof.entry is None:
            raise FormatError("the proof does not carry its entry")
        if proof.root(proof.entry, head.size) != head.root:
            raise TrustError(f"the proof does not lead from entry {proof.index} to the signed head")
        for anchor in anchors:
            if anchor.size == head.size and (anchor.origin, anchor.root) != (head.origin, head.root):
                raise TrustError(f"the head at {head.size} in {anchor.source} is another one")
    except (FormatError, TrustError) as error:
        return failed("proof", error.message), b""
    root = encode_base64(head.root)
    good = failed("", "").replace(
        ok=True, entries=1, checkpoints=1, signatures=1, size=head.size, root=root, problems=(), answer="holds"
    )
    return good, proof.entry


def verify_continuation(text: str, keys: Sequence[PublicKey], anchors: Sequence[Anchor]) -> Report:
    """Check a file that proves that the log goes on from a kept head, which must be one of `anchors`."""
    try:
        proof = parse_continuation(text)
        head, _key = _head(proof.checkpoint, keys)
    except (FormatError, TrustError) as error:
        return failed("proof", error.message)
    kept = [one for one in anchors if one.size == proof.old_size and one.origin == head.origin]
    if not kept:
        return failed("proof", f"give the kept head over {proof.old_size} entries of {head.origin} as --checkpoint")
    for one in kept:
        if not is_consistent(one.size, one.root, head.size, head.root, list(proof.path)):
            detail = f"the log under the signed head does not go on from the head at {one.size} in {one.source}"
            return failed("anchor", detail).replace(anchor="differs", answer="differs", anchors=len(kept))
    good = failed("", "").replace(ok=True, checkpoints=1, signatures=1, size=head.size, problems=(), answer="holds")
    return good.replace(root=encode_base64(head.root), anchor="agrees", anchors=len(kept))


def failed(code: str, detail: str) -> Report:
    """A report of one problem with the whole."""
    problem = Problem(code=code, seq=None, detail=detail)
    return Report(
        ok=False,
        entries=0,
        checkpoints=0,
        signatures=0,
        uncovered=0,
        anchor="none",
        anchors=0,
        size=0,
        root="",
        problems=(problem,),
        answer="changed",
    )


class Directory:
    """An export on disk. Follows no link; anything but a regular file has a name and no content."""

    def __init__(self, path: str) -> None:
        """Raises OSError when it is no readable directory."""
        self._path = path
        self._names: set[str] = set()
        waiting = [""]
        while waiting:
            below = waiting.pop()
            with os.scandir(f"{path}/{below}") as found:
                for one in found:
                    if one.is_dir(follow_symlinks=False):
                        waiting.append(f"{below}{one.name}/")
                    else:
                        self._names.add(f"{below}{one.name}")

    def names(self) -> set[str]:
        """Every file's name, relative to the directory."""
        return self._names

    def read(self, name: str) -> bytes:
        """A file's content, b"" when it is not there, no regular file, or larger than any of an export."""
        try:
            fd = os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BUNDLE_BYTES:
                return b""
            return os.read(fd, MAX_BUNDLE_BYTES if status.st_size == MAX_BUNDLE_BYTES else status.st_size + 1)
        finally:
            os.close(fd)


def checkpoint_of(path: str) -> Checkpoint:
    """The head in a file; who signed it is not looked at. Raises FormatError, OSError."""
    return parse_checkpoint(parse_note(_text(path, MAX_NOTE_BYTES)).text)


def anchor_of(path: str) -> Anchor:
    """A head kept in a file, trusted because of where it was kept. Raises FormatError, OSError."""
    head = checkpoint_of(path)
    return Anchor(origin=head.origin, size=head.size, root=head.root, source=path)


def _text(path: str, most: int) -> str:
    with open(path, "rb") as file:
        data = file.read(most + 1)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no text") from error


def sentences(report: Report) -> list[str]:
    """The report for people; the first bad entry comes first."""
    lines = ["It holds." if report.ok else f"It does NOT hold: {report.answer}."]
    bad = [problem.seq for problem in report.problems if problem.seq is not None]
    if bad:
        lines.append(f"First bad entry: {min(bad)}.")
    lines.append(f"{report.entries} entries, {report.signatures} good signatures.")
    lines.append(f"Size {report.size}, root {report.root or 'unknown'}, kept heads: {report.anchor}.")
    for problem in report.problems:
        where = "" if problem.seq is None else f" at {problem.seq}"
        lines.append(f"  {problem.code}{where}: {problem.detail}")
    return [*lines, f"  and {report.more_problems} more problems"] if report.more_problems else lines


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module."""
    import argparse
    import json

    parser = argparse.ArgumentParser(prog="python3 -m graced.trust.verify", description="Verify an export or a proof.")
    parser.add_argument(
        "path", help="a directory made by gracectl audit export, or a file made by gracectl audit prove"
    )
    parser.add_argument("--key", action="append", required=True, help="the ledger's public key, or a file with it")
    parser.add_argument("--checkpoint", action="append", default=[], help="a file with a head that was kept elsewhere")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(arguments)
    entry = b""
    try:
        keys = [parse_key(_text(one, 4096) if os.path.isfile(one) else one) for one in options.key]
        anchors = [anchor_of(one) for one in options.checkpoint]
        if os.path.isdir(options.path):
            report = verify_export(Directory(options.path), keys, anchors)
        elif is_continuation(text := _text(options.path, MAX_PROOF_BYTES)):
            report = verify_continuation(text, keys, anchors)
        else:
            report, entry = verify_proof(text, keys, anchors)
    except (OSError, FormatError, TrustError) as error:
        sys.stderr.write(f"verify: {error}\n")
        return EXIT_USAGE
    shown = entry.decode(errors="replace")
    if options.json:
        sys.stdout.write(json.dumps({**report.to_json(), "entry": shown or None}) + "\n")
    else:
        for line in [*sentences(report), *([shown] if shown else [])]:
            sys.stdout.write("".join(char if char.isprintable() else "?" for char in line) + "\n")
    return 0 if report.ok else EXIT_BAD


if __name__ == "__main__":
    sys.exit(main())
