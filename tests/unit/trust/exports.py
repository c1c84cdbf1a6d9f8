"""Exports of a small ledger in memory: three signers, warrants, and a ledger key rotated on the way."""

from __future__ import annotations

from graced.base.json import canonical
from graced.trust.audit import Anchor
from graced.trust.keys import GOVERNANCE, LEDGER, VERIFICATION, Signer, context_of, encode_base64
from graced.trust.merkle import Tree, leaf_hash
from graced.trust.note import Checkpoint, sign_checkpoint, verifier_key
from graced.trust.proof import TileTree
from graced.trust.roster import origin_of, roster_key
from graced.trust.tiles import CHECKPOINT, ENTRIES, bundle, tile_path, tiles_of
from graced.trust.verify import PublicKey, parse_key

NOW = "2026-01-01T00:00:00.000Z"
OLD_LEDGER, GOVERNOR, VERIFIER, NEW_LEDGER, STRANGER = (
    Signer(bytes([number]) * 32, name, "test")
    for number, name in enumerate((LEDGER, GOVERNANCE, VERIFICATION, LEDGER, LEDGER), 1)
)
ORIGIN = origin_of(OLD_LEDGER.public)
KEY = parse_key(verifier_key(ORIGIN, NEW_LEDGER.public))
OLD_KEY = parse_key(verifier_key(ORIGIN, OLD_LEDGER.public))
ROTATED_AT = 200


def entry(seq: int, kind: str, data: dict[str, object], by: Signer | None = None, **more: object) -> bytes:
    """One entry in its canonical form, signed by `by`."""
    signature = None if by is None else encode_base64(by.sign(context_of(kind), canonical(data)))
    return canonical(
        {
            "v": 1,
            "seq": seq,
            "time": NOW,
            "boot_id": "boot",
            "boottime_us": seq,
            "actor": "supervisor",
            "uid": 1,
            "kind": kind,
            "unit": "nginx.service",
            "task_id": f"task_{seq}",
            "intent_id": None,
            "data": data,
            "kid": None if by is None else by.kid,
            "signature": signature,
            **more,
        }
    )


def key_entry(seq: int, operation: str, signer: Signer, **facts: object) -> bytes:
    """A `key` entry, as the supervisor writes it."""
    key = roster_key(signer.public, signer.signer, NOW).to_json()
    return entry(seq, "key", {"operation": operation, **key, **facts})


def entries(count: int) -> list[bytes]:
    """Entries as a host would have them; from ROTATED_AT on another ledger key is the active one."""
    found = [key_entry(seq, "activate", one) for seq, one in enumerate((OLD_LEDGER, GOVERNOR, VERIFIER))]
    for seq in range(3, count):
        if seq == ROTATED_AT:
            found.append(key_entry(seq, "retire", OLD_LEDGER, state="retired"))
        elif seq == ROTATED_AT + 1:
            found.append(key_entry(seq, "activate", NEW_LEDGER))
        elif seq % 50 == 7:
            found.append(entry(seq, "warrant", {"n": seq, "unit": "nginx.service"}, GOVERNOR))
        elif seq % 50 == 9:
            found.append(entry(seq, "verdict", {"n": seq, "healthy": True}, VERIFIER))
        else:
            found.append(entry(seq, "task", {"n": seq, "text": 'a \\ and a " and a \u2014 and a \n in data'}))
    return found


def tree_of(rows: list[bytes]) -> TileTree:
    """The tree over these entries, for proofs."""
    levels = [[leaf_hash(row) for row in rows]]
    while len(levels[-1]) >= 256:
        below = levels[-1]
        above = []
        for at in range(0, len(below) - 255, 256):
            tree = Tree()
            tree.extend(b"".join(below[at : at + 256]))
            above.append(tree.root())
        levels.append(above)
    return TileTree(len(rows), lambda level, n: b"".join(levels[level][256 * n : 256 * n + 256]))


def note_over(rows: list[bytes], signer: Signer, size: int | None = None, root: bytes | None = None) -> str:
    """The signed head over these entries."""
    head = Checkpoint(
        origin=ORIGIN,
        size=len(rows) if size is None else size,
        root=tree_of(rows).root() if root is None else root,
    )
    return sign_checkpoint(head, signer)


def export(rows: list[bytes], signer: Signer = NEW_LEDGER) -> dict[str, bytes]:
    """All files of an export, by name."""
    tree = tree_of(rows)
    files = {CHECKPOINT: note_over(rows, signer).encode()}
    for level, n, width in tiles_of(len(rows)):
        files[tile_path(level, n, width)] = tree._tile(level, n)[: 32 * width]
        if level == 0:
            files[tile_path(ENTRIES, n, width)] = bundle(rows[256 * n : 256 * n + width])
    return files


class Memory:
    """An export in memory, as the verifier wants to read it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def names(self) -> set[str]:
        return set(self._files)

    def read(self, name: str) -> bytes:
        return self._files.get(name, b"")


def anchor(rows: list[bytes]) -> Anchor:
    """A head over these entries, kept elsewhere."""
    return Anchor(origin=ORIGIN, size=len(rows), root=tree_of(rows).root(), source="vault")


def public(signer: Signer) -> PublicKey:
    """A key as a verifier takes it."""
    return PublicKey(origin=ORIGIN, public=signer.public)
