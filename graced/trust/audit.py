"""Does this ledger tell what was written? Pure verification over entries, checkpoints, tiles, roster and anchors.

Finds a changed byte, a missing or extra row, a cut tail, missing checkpoints, a wrong signer and a bad signature. A
database cannot prove its own completeness: that takes an anchor (a head kept elsewhere, such as the journal). "No
anchor" and "rolled back" are different answers. Which key may have signed is judged by the position of the `key`
entries in the log, not by clocks. Reads only; one pass over blocks of entries, a tile at a time.
"""

from __future__ import annotations

from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical, get_dict, get_int, get_str, loads_object, opt_dict, opt_str
from graced.trust.blocks import all_plain, blocks_of, cut
from graced.trust.keys import LEDGER, MUST_BE_SIGNED, SIGNER_OF, context_of, decode_base64, encode_base64, verify
from graced.trust.merkle import HASH_BYTES, TILE_BYTES, TILE_HASHES, Tree, leaf_hashes
from graced.trust.note import parse_checkpoint, parse_note, signed_by
from graced.trust.report import MAX_PROBLEMS, Anchor, Problem, Report, Sealed
from graced.trust.rotation import is_endorsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from graced.base.json import JsonDict
    from graced.trust.note import Checkpoint, Note
    from graced.trust.roster import Roster, RosterKey

__all__ = ["Anchor", "Problem", "Report", "Sealed", "audit", "audit_blocks"]

# A running supervisor signs a head every second while there is news; a longer unsigned tail is not one.
MAX_UNSIGNED_SECONDS = 60
_MAX_ENTRY_BYTES = 65535
_MAX_WAITING_BYTES = 4 << 20


def audit(
    entries: Iterable[tuple[int, bytes]],
    checkpoints: Iterable[tuple[int, str]],
    roster: Roster,
    *,
    anchors: Iterable[Anchor] = (),
    tile: Callable[[int, int], bytes] | None = None,
    start: Sealed | None = None,
) -> Report:
    """Check a whole log, or what comes behind `start`.

    `entries` and `checkpoints` in order of their number; `tile(level, n)` gives stored hashes (b"" when there are
    none), to name a changed entry exactly. Raises what the iterators raise (StoreError), nothing of its own.
    """
    return audit_blocks(blocks_of(entries), checkpoints, roster, anchors=anchors, tile=tile, start=start)


def audit_blocks(
    blocks: Iterable[tuple[int, Sequence[bytes]]],
    checkpoints: Iterable[tuple[int, str]],
    roster: Roster,
    *,
    anchors: Iterable[Anchor] = (),
    tile: Callable[[int, int], bytes] | None = None,
    start: Sealed | None = None,
    learn: Callable[[], Roster] | None = None,
) -> Report:
    """As `audit`, for whoever has entries in blocks: (number of the first, entries without a gap).

    `learn` gives the keys when the roster has only the origin. It is called once, when all entries are read or many
    wait for it: who learns the keys from these entries need not read most of them twice.
    """
    return _Auditor(roster, tile, start, learn).run(
        blocks, checkpoints, [one for one in anchors if one.origin == roster.origin]
    )


class _Auditor:
    def __init__(
        self,
        roster: Roster,
        tile: Callable[[int, int], bytes] | None,
        start: Sealed | None = None,
        learn: Callable[[], Roster] | None = None,
    ) -> None:
        self._roster = roster
        self._learn = learn
        # Entries that only one who knows the keys can judge, and how many bytes they are.
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._tile = tile
        self._sealed = 0 if start is None else start.size
        self._tree = Tree() if start is None else Tree(start.size, list(start.levels))
        self._active: dict[str, str] = {} if start is None else dict(start.keys)
        self._ended: set[str] = set() if start is None else set(start.ended)
        # (size it was put back to, size it had had): what the log itself says about restored copies.
        self._returns: list[tuple[int, int]] = []
        self._other_heads: list[Anchor] = []
        self._problems: list[Problem] = []
        self._more = 0
        self._signatures = 0
        self._checked = 0
        self._good_size = self._sealed
        # A row is missing: there are no hashes to compare from here on.
        self._gap = False
        # A root was wrong already: every later one is too, which says nothing new.
        self._changed = False
        self._anchor = "none"

    def _problem(self, code: str, seq: int | None, detail: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(code=code, seq=seq, detail=detail))
        else:
            self._more += 1

    def run(
        self,
        blocks: Iterable[tuple[int, Sequence[bytes]]],
        checkpoints: Iterable[tuple[int, str]],
        anchors: list[Anchor],
    ) -> Report:
        heads = self._parse_heads(checkpoints)
        kept: dict[int, list[Anchor]] = {}
        for anchor in anchors:
            kept.setdefault(anchor.size, []).append(anchor)
        stops = heads.keys() | kept.keys()
        last_head = max(heads, default=0)
        first_open = last = b""
        count, size = 0, self._sealed
        for first, block in cut(blocks, stops):
            if first != size:
                self._missing(size, first)
            if first == last_head:
                first_open = block[0]
            last = block[-1]
            count += len(block)
            size = first + len(block)
            self._block(first, block)
            if size in stops:
                self._stop(size, heads.get(size), kept.get(size, ()))
        self._end(size, heads, kept)
        if first_open and _seconds_between(first_open, last) > MAX_UNSIGNED_SECONDS:
            detail = f"entries {last_head} to {size - 1} were never covered by a checkpoint"
            self._problem("unsigned-tail", last_head, detail)
        report = Report(
            ok=True,
            entries=count,
            checkpoints=self._checked,
            signatures=self._signatures,
            uncovered=max(0, size - last_head),
            anchor=self._anchor,
            anchors=len(anchors),
            size=size,
            root="" if self._gap else encode_base64(self._tree.root()),
            problems=(),
            more_problems=self._more,
            sealed=self._sealed,
        )
        return report.concluded([self._named(problem) for problem in self._problems])

    def _named(self, problem: Problem) -> Problem:
        """A hash that differs from its entry is the wrong one of the two where a later head vouches for the entry."""
        if problem.code != "changed-entry" or problem.seq is None or problem.seq >= self._good_size:
            return problem
        return Problem(code="tiles", seq=problem.seq, detail=f"the stored hash of entry {problem.seq} is wrong")

    def _block(self, first: int, block: Sequence[bytes]) -> None:
        if not all_plain(first, block):
            for seq, entry in enumerate(block, first):
                if not all_plain(seq, [entry]):
                    self._waiting.append((seq, entry))
                    self._waiting_bytes += len(entry)
            if self._learn is None or self._waiting_bytes > _MAX_WAITING_BYTES:
                self._judge()
        if not self._gap:
            self._tree.extend(leaf_hashes(block))
            if not self._tree.size % TILE_HASHES:
                self._compare_tiles(self._tree.take_tiles())

    def _judge(self) -> None:
        """Look at the entries that wait for it."""
        if self._learn is not None:
            self._roster = self._learn()
            self._learn = None
        for seq, entry in self._waiting:
            self._entry(seq, entry)
        self._waiting.clear()

    def _missing(self, expected: int, seq: int) -> None:
        self._judge()
        self._gap = True
        if seq < expected:
            self._problem("order", seq, f"entry {seq} appears after entry {expected - 1}")
        else:
            self._problem("missing-entry", expected, f"entries {expected} to {seq - 1} are missing")

    def _parse_heads(self, checkpoints: Iterable[tuple[int, str]]) -> dict[int, tuple[Note, Checkpoint]]:
        heads: dict[int, tuple[Note, Checkpoint]] = {}
        for size, text in checkpoints:
            try:
                note = parse_note(text)
                head = parse_checkpoint(note.text)
            except FormatError as error:
                self._problem("bad-checkpoint", size, f"the checkpoint at {size} is malformed: {error.message}")
                continue
            if head.size != size or head.origin != self._roster.origin:
                detail = f"the checkpoint at {size} is one of {head.origin} at {head.size}"
                self._problem("bad-checkpoint", size, detail)
                continue
            heads[size] = (note, head)
        return heads

    def _entry(self, seq: int, entry: bytes) -> None:
        try:
            obj = loads_object(entry, max_bytes=_MAX_ENTRY_BYTES, path=f"entry {seq}")
            if canonical(obj) != entry or get_int(obj, "seq") != seq:
                raise FormatError(f"entry {seq} is not in canonical form or carries another number")
            kind_name = get_str(obj, "kind")
            data = get_dict(obj, "data")
            if kind_name == "key":
                self._key_entry(seq, data)
            elif kind_name == "checkpoint" and (back := opt_dict(data, "rolled_back")) is not None:
                self._returns.append((get_int(back, "size"), get_int(back, "lost")))
            self._signature(seq, obj, kind_name, data)
        except (FormatError, TrustError) as error:
            self._problem("bad-entry", seq, error.message)

    def _key_entry(self, seq: int, data: JsonDict) -> None:
        signer, kid = get_str(data, "signer"), get_str(data, "kid")
        if get_str(data, "operation") != "activate":
            self._ended.add(kid)
            return
        key = self._roster.find(kid)
        if key is None or key.signer != signer or key.public != get_str(data, "public"):
            self._problem("unknown-key", seq, f"entry {seq} activates the key {kid}, which the roster does not know")
            return
        if kid in self._ended:
            self._problem("retired-key", seq, f"entry {seq} activates the key {kid}, which was retired before")
            return
        if not self._is_endorsed(key, data):
            self._problem("bad-signature", seq, f"entry {seq}: {key.endorsed_by} did not sign for the key {kid}")
            return
        if self._active.get(signer) not in {None, kid}:
            self._ended.add(self._active[signer])
        self._active[signer] = kid

    def _is_endorsed(self, key: RosterKey, data: JsonDict) -> bool:
        """Whether the statement of a rotation, where the entry has one, was made by the key before and this one."""
        statement = opt_dict(data, "statement")
        if statement is None:
            return True
        old = self._roster.find(key.endorsed_by or "")
        if old is None or (statement.get("kid"), statement.get("old_kid")) != (key.kid, old.kid):
            return False
        signature, proof = get_str(data, "signature"), get_str(data, "proof")
        return is_endorsed(statement, signature, proof, old.public_bytes(), key.public_bytes())

    def _signature(self, seq: int, obj: JsonDict, kind: str, data: JsonDict) -> None:
        kid, text = opt_str(obj, "kid"), opt_str(obj, "signature")
        if kid is None or text is None:
            if kind in MUST_BE_SIGNED or kid is not None or text is not None:
                self._problem("unsigned", seq, f"entry {seq} ({kind}) is not signed")
            return
        key = self._roster.find(kid)
        if key is None or key.signer != SIGNER_OF.get(kind):
            self._problem("wrong-signer", seq, f"entry {seq} ({kind}) is signed by {kid}, who may not sign it")
            return
        if not verify(key.public_bytes(), context_of(kind), canonical(data), decode_base64(text, "the signature")):
            self._problem("bad-signature", seq, f"the signature of entry {seq} ({kind}) does not verify")
            return
        self._signatures += 1
        self._validity(key, seq, f"entry {seq} ({kind})", opt_str(obj, "time"))

    def _validity(self, key: RosterKey, seq: int, what: str, time: str | None) -> None:
        if key.revoked_at_seq is not None and seq >= key.revoked_at_seq:
            self._problem("revoked-key", seq, f"{what} is signed by {key.kid}, revoked at {key.revoked_at_seq}")
        elif self._active.get(key.signer) != key.kid:
            self._problem("retired-key", seq, f"{what} is signed by {key.kid}, which was not the active key then")
        elif key.state == "current" and key.not_after is not None and time is not None and time > key.not_after:
            self._problem("expired-key", seq, f"{what} is signed by {key.kid} after {key.not_after}")

    def _compare_tiles(self, tiles: Iterable[tuple[int, int, bytes]]) -> None:
        for level, n, hashes in tiles:
            stored = hashes if self._tile is None else self._tile(level, n)[: len(hashes)]
            # A database keeps the open tile of level 0 only as entries.
            if stored == hashes or (not stored and level == 0 and len(hashes) < TILE_BYTES):
                continue
            # What is found is told in the order of the log, as far as there is room.
            self._judge()
            differs = next(
                (at for at in range(0, len(hashes), HASH_BYTES) if stored[at : at + 32] != hashes[at : at + 32]), 0
            )
            index = (n << 8) + differs // HASH_BYTES
            if level == 0:
                self._problem("changed-entry", index, f"entry {index} is not what was written (its hash differs)")
            elif not any(problem.code == "changed-entry" for problem in self._problems):
                self._problem("tiles", index << (8 * level), f"the stored tile {n} of level {level} is wrong")

    def _stop(self, size: int, head: tuple[Note, Checkpoint] | None, anchors: Iterable[Anchor]) -> None:
        root = b"" if self._gap else self._tree.root()
        for anchor in anchors:
            if root != anchor.root:
                self._other_heads.append(anchor)
            elif self._anchor == "none":
                self._anchor = "agrees"
        if head is None:
            return
        self._judge()
        note, checkpoint = head
        self._checked += 1
        if not self._head_signature(note, size) or self._gap or self._changed:
            return
        if checkpoint.root != root:
            self._changed = True
            detail = f"entries {self._good_size} to {size - 1} are not what was signed at {size}"
            self._problem("changed", size, detail)
            return
        self._good_size = size

    def _head_signature(self, note: Note, size: int) -> bool:
        for key in self._roster.keys:
            if key.signer != LEDGER:
                continue
            try:
                found = signed_by(note, self._roster.origin, key.public_bytes())
            except TrustError as error:
                self._problem("bad-checkpoint", size, f"the checkpoint at {size}: {error.message}")
                return False
            if found:
                self._signatures += 1
                self._validity(key, size - 1, f"the checkpoint at {size}", None)
                return True
        self._problem("bad-checkpoint", size, f"the checkpoint at {size} is not signed by a key of the roster")
        return False

    def _end(self, size: int, heads: dict[int, tuple[Note, Checkpoint]], kept: dict[int, list[Anchor]]) -> None:
        self._judge()
        if not self._gap:
            self._compare_tiles(self._tree.open_tiles())
        if not heads:
            self._problem("no-checkpoint", None, "there is no valid checkpoint: nothing vouches for these entries")
        largest = max(heads, default=0)
        if largest > size:
            self._problem("cut-tail", size, f"a checkpoint covers {largest} entries, only {size} are there")
        if 0 in heads:
            self._problem("bad-checkpoint", 0, "a checkpoint over nothing")
        beyond = max(kept, default=0)
        if beyond > size:
            self._anchor = "rolled-back"
            self._problem("rolled-back", size, f"the {kept[beyond][0].source} knows {beyond} entries, not {size}")
        for one in self._other_heads:
            back = next((at for at, lost in self._returns if at < one.size <= lost), None)
            if back is None:
                self._anchor = "differs"
                self._problem("anchor", one.size, f"the head at {one.size} in the {one.source} is another one")
            else:
                self._anchor = "rolled-back" if self._anchor != "differs" else self._anchor
                detail = f"it was put back to {back} entries and went on; the {one.source} knows what came then before"
                self._problem("rolled-back", back, detail)


def _seconds_between(first: bytes, last: bytes) -> float:
    """By the boottime stamps of two entries of one boot; 0 when they are of different boots or unreadable."""
    try:
        one, two = (loads_object(entry, max_bytes=_MAX_ENTRY_BYTES) for entry in (first, last))
        if get_str(one, "boot_id") != get_str(two, "boot_id"):
            return 0.0
        return (get_int(two, "boottime_us") - get_int(one, "boottime_us")) / 1e6
    except FormatError:
        return 0.0
