"""Takes a ledger out of its database: as a directory for anyone's tools, or one entry with its proof.

Reads only; both are checked against the newest signed head before they are handed out, so that what leaves this host
verifies, or does not leave it. The layout is C2SP tlog-tiles. Used by `gracectl audit`.
"""

from __future__ import annotations

import os
from contextlib import closing
from itertools import islice

from graced.base.errors import FormatError, StoreError, TrustError
from graced.base.record import Record
from graced.trust.keys import LEDGER
from graced.trust.merkle import TILE_HASHES, Tree, leaf_hashes
from graced.trust.note import parse_checkpoint, parse_note, signed_by, verifier_key
from graced.trust.proof import Continuation, Proof, TileTree, is_consistent
from graced.trust.tiles import CHECKPOINT, ENTRIES, bundle, tile_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from graced.store.ledger import LedgerReader
    from graced.trust.note import Checkpoint
    from graced.trust.roster import Roster

_HINT = "gracectl audit verify tells what is wrong with it"


class Head(Record):
    """The newest head: what it says, the signed note, the public key that signed it as note tools write it, its kid."""

    checkpoint: Checkpoint
    note: str
    key: str
    kid: str


def newest_head(reader: LedgerReader, roster: Roster) -> Head:
    """The newest checkpoint, signed by a ledger key of the roster. Raises TrustError, StoreError."""
    last = reader.last_checkpoint()
    if last is None:
        raise TrustError("the ledger has no signed head", hint=_HINT, code="no-checkpoint")
    try:
        note = parse_note(last[1])
        head = parse_checkpoint(note.text)
    except FormatError as error:
        raise TrustError(f"the newest head of the ledger is malformed: {error.message}", hint=_HINT) from error
    for key in roster.keys:
        if key.signer == LEDGER and signed_by(note, roster.origin, key.public_bytes()):
            if (head.origin, head.size) != (roster.origin, last[0]):
                break
            public = verifier_key(roster.origin, key.public_bytes())
            return Head(checkpoint=head, note=last[1], key=public, kid=key.kid)
    raise TrustError("the newest head of the ledger is not signed by a key of the roster", hint=_HINT)


def export_log(reader: LedgerReader, head: Head, directory: str) -> None:
    """Write everything that `head` covers into `directory`, which is made, or is there and empty.

    The checkpoint comes last: a directory without one is not finished. Raises StoreError (also for what cannot be
    written), TrustError when the entries are not what was signed.
    """
    size = head.checkpoint.size
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if os.listdir(directory):
            raise StoreError(f"{directory} is not empty", hint="name a directory that is not there yet")
        tree, tiles = Tree(), _tiles(reader, size)
        grown: dict[tuple[int, int], bytes] = {}
        for first, rows in tiles:
            tree.extend(leaf_hashes(rows))
            _write(directory, tile_path(ENTRIES, first // TILE_HASHES, len(rows)), bundle(rows))
            for level, n, hashes in tree.take_tiles():
                # A tile above the leaves comes again each time it has grown.
                if level:
                    grown[level, n] = hashes
                else:
                    _write(directory, tile_path(0, n), hashes)
        grown.update({(level, n): hashes for level, n, hashes in tree.open_tiles()})
        for (level, n), hashes in grown.items():
            _write(directory, tile_path(level, n, len(hashes) // 32), hashes)
        if (tree.size, tree.root()) != (size, head.checkpoint.root):
            raise TrustError("the entries are not what was signed: the export is not finished", hint=_HINT)
        _write(directory, CHECKPOINT, head.note.encode())
    except (OSError, OverflowError) as error:
        raise StoreError(f"the export cannot be written: {error}") from error


def _tiles(reader: LedgerReader, size: int) -> Iterator[tuple[int, list[bytes]]]:
    with closing(reader.entries()) as rows:
        for first in range(0, size, TILE_HASHES):
            found = list(islice(rows, min(TILE_HASHES, size - first)))
            if [seq for seq, _entry in found] != list(range(first, min(first + TILE_HASHES, size))):
                raise TrustError(f"there are entries missing from {first} on", hint=_HINT)
            yield first, [entry for _seq, entry in found]


def _write(directory: str, name: str, data: bytes) -> None:
    path = f"{directory}/{name}"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)


def prove_entry(reader: LedgerReader, head: Head, seq: int) -> Proof:
    """Entry `seq` with its proof against `head`. Raises TrustError when it is not covered or does not hold."""
    size = head.checkpoint.size
    if not 0 <= seq < size:
        raise TrustError(
            f"no signed head covers an entry {seq}: the newest one covers {size}",
            hint="entries are numbered from 0; a new one is covered within a second",
        )
    with closing(reader.entries(seq)) as rows:
        found = next(rows, (-1, b""))
    path = _tree(reader, size).inclusion(seq)
    proof = Proof(entry=found[1], index=seq, path=tuple(path), checkpoint=head.note)
    if found[0] != seq or proof.root(found[1], size) != head.checkpoint.root:
        raise TrustError(f"entry {seq} is not what was signed", hint=_HINT)
    return proof


def prove_continuation(reader: LedgerReader, head: Head, old: Checkpoint) -> Continuation:
    """The proof that the log under `head` goes on from the earlier head `old`. Raises TrustError when it does not."""
    new = head.checkpoint
    if old.origin != new.origin or not old.size:
        raise TrustError(f"that is a head of {old.origin} over {old.size} entries, this ledger is {new.origin}")
    if old.size > new.size:
        raise TrustError(
            f"that head covers {old.size} entries, the newest one here {new.size}: the ledger was rolled back",
            hint=_HINT,
        )
    path = _tree(reader, new.size).consistency(old.size)
    if not is_consistent(old.size, old.root, new.size, new.root, path):
        raise TrustError(f"the ledger does not go on from that head: its first {old.size} entries differ", hint=_HINT)
    return Continuation(old_size=old.size, path=tuple(path), checkpoint=head.note)


def _tree(reader: LedgerReader, size: int) -> TileTree:
    open_from = size - size % TILE_HASHES

    def tile(level: int, n: int) -> bytes:
        # The open tile of level 0 is nowhere but in its entries.
        if level or n * TILE_HASHES < open_from:
            return reader.tile(level, n)
        with closing(reader.entries(open_from)) as rows:
            return leaf_hashes(entry for _seq, entry in islice(rows, size - open_from))

    return TileTree(size, tile)
