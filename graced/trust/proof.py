"""Inclusion and consistency proofs (RFC 6962 section 2.1) out of tiles, and their forms as files.

`TileTree` makes proofs from whoever stores tiles; `root_of_inclusion` and `is_consistent` check them and know nothing
of tiles. The file of an entry's proof is a C2SP tlog-proof@v1; its extra line holds the entry itself, so that the file
is enough to see what was proved. That of a log's continuation is what a C2SP tlog-witness is sent. Pure.
"""

from __future__ import annotations

from graced.base.errors import FormatError, TrustError
from graced.base.record import Record
from graced.trust.keys import decode_base64, encode_base64
from graced.trust.merkle import EMPTY_ROOT, HASH_BYTES, TILE_HASHES, leaf_hash, node_hash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROOF_LINE = "c2sp.org/tlog-proof@v1"
MAX_PROOF_BYTES = 256 << 10
_MAX_HASHES = 64


class TileTree:
    """A tree of `size` leaves read from tiles: `tile(level, n)` gives a tile's hashes, at least those up to `size`.

    All methods raise TrustError (code "tiles") when a tile lacks a hash, and what `tile` raises.
    """

    def __init__(self, size: int, tile: Callable[[int, int], bytes]) -> None:
        self.size = size
        self._tile = tile

    def root(self) -> bytes:
        """The RFC 6962 root."""
        return self._range(0, self.size) if self.size else EMPTY_ROOT

    def inclusion(self, index: int) -> list[bytes]:
        """The audit path of leaf `index`, the leaf's sibling first. IndexError when there is no such leaf."""
        if not 0 <= index < self.size:
            raise IndexError(f"there is no entry {index} in a tree of {self.size}")
        path = []
        start, end = 0, self.size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old_size: int) -> list[bytes]:
        """Proof that the tree of the first `old_size` leaves is a prefix. IndexError when it is no such size."""
        if not 0 < old_size <= self.size:
            raise IndexError(f"there is no tree of {old_size} in a tree of {self.size}")
        path = []
        start, end = 0, self.size
        while end != old_size:
            middle = start + _split(end - start)
            if old_size <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(start, middle))
                start = middle
        if start:
            path.append(self._range(start, end))
        return path[::-1]

    def _range(self, start: int, end: int) -> bytes:
        """The root over leaves `start` to `end` - 1; `start` is a multiple of the range's largest power of two."""
        length = end - start
        if length & (length - 1):
            middle = start + _split(length)
            return node_hash(self._range(start, middle), self._range(middle, end))
        height = length.bit_length() - 1
        level, inside = divmod(height, 8)
        first = start >> (8 * level)
        at, count = first % TILE_HASHES, 1 << inside
        hashes = self._tile(level, first // TILE_HASHES)[at * HASH_BYTES : (at + count) * HASH_BYTES]
        if len(hashes) != count * HASH_BYTES:
            raise TrustError(f"tile {first // TILE_HASHES} of level {level} is too short", code="tiles")
        return _fold(hashes)


def _split(length: int) -> int:
    """The largest power of two smaller than `length`."""
    return 1 << ((length - 1).bit_length() - 1)


def _fold(hashes: bytes) -> bytes:
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join([node_hash(hashes[at : at + 32], hashes[at + 32 : at + 64]) for at in pairs])
    return hashes


def root_of_inclusion(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that `path` leads to from leaf hash `leaf` at `index` of `size`.

    Algorithm: RFC 9162 section 2.1.3.2. Raises TrustError (code "proof") when the path cannot be one of such a tree.
    """
    if not 0 <= index < size:
        raise TrustError(f"there is no entry {index} in a tree of {size}", code="proof")
    node, last, root = index, size - 1, leaf
    for sibling in path:
        if not last:
            raise TrustError("the proof is too long", code="proof")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise TrustError("the proof is too short", code="proof")
    return root


def is_consistent(old_size: int, old_root: bytes, size: int, root: bytes, path: list[bytes]) -> bool:
    """Whether `path` proves that the tree (`old_size`, `old_root`) is a prefix of (`size`, `root`).

    Algorithm: RFC 9162 section 2.1.4.2. Raises nothing.
    """
    if not 0 < old_size <= size:
        return False
    if old_size == size:
        return not path and old_root == root
    hashes = path if old_size & (old_size - 1) else [old_root, *path]
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    if not hashes:
        return False
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if not last:
            return False
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return not last and old == old_root and new == root


class Proof(Record):
    """One entry's proof: the entry's bytes (None: not in the file), its index, the path and the signed checkpoint."""

    entry: bytes | None
    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        """The file's content."""
        extra = [] if self.entry is None else [f"extra {encode_base64(self.entry)}"]
        hashes = [encode_base64(one) for one in self.path]
        return "\n".join([PROOF_LINE, *extra, f"index {self.index}", *hashes, "", self.checkpoint])

    def root(self, entry: bytes, size: int) -> bytes:
        """The root that the proof gives for `entry` in a tree of `size`. Raises TrustError as `root_of_inclusion`."""
        return root_of_inclusion(leaf_hash(entry), self.index, size, list(self.path))


class Continuation(Record):
    """The proof that the log under a signed checkpoint goes on from its first `old_size` entries as they were."""

    old_size: int
    path: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        """The file's content."""
        return "\n".join([f"old {self.old_size}", *(encode_base64(one) for one in self.path), "", self.checkpoint])


def parse_continuation(text: str) -> Continuation:
    """Take such a file apart; the checkpoint in it is not looked at. Raises FormatError."""
    lines, checkpoint = _lines(text)
    size = _number(lines.pop(0), "old ")
    return Continuation(old_size=size, path=_path(lines), checkpoint=checkpoint)


def is_continuation(text: str) -> bool:
    """Whether the file's first line is that of a continuation's proof."""
    return text.startswith("old ")


def parse_proof(text: str) -> Proof:
    """Take a proof file apart; the checkpoint in it is not looked at. Raises FormatError."""
    lines, checkpoint = _lines(text)
    if lines.pop(0) != PROOF_LINE:
        raise FormatError(f"not a proof: its first line must be {PROOF_LINE}")
    entry = None
    try:
        if lines and lines[0].startswith("extra "):
            entry = decode_base64(lines.pop(0)[len("extra ") :], "the extra data of the proof")
    except TrustError as error:
        raise FormatError(error.message) from error
    index = _number(lines.pop(0) if lines else "", "index ")
    return Proof(entry=entry, index=index, path=_path(lines), checkpoint=checkpoint)


def _lines(text: str) -> tuple[list[str], str]:
    if len(text) > MAX_PROOF_BYTES:
        raise FormatError(f"a proof has at most {MAX_PROOF_BYTES} bytes")
    head, mark, checkpoint = text.partition("\n\n")
    if not mark:
        raise FormatError("not a proof: it has no empty line before a checkpoint")
    return head.split("\n"), checkpoint


def _path(lines: list[str]) -> tuple[bytes, ...]:
    try:
        path = tuple(decode_base64(line, "a hash of the proof") for line in lines)
    except TrustError as error:
        raise FormatError(error.message) from error
    if len(path) > _MAX_HASHES or any(len(one) != HASH_BYTES for one in path):
        raise FormatError(f"a proof has at most {_MAX_HASHES} hashes of {HASH_BYTES} bytes")
    return path


def _number(line: str, word: str) -> int:
    digits = line.removeprefix(word)
    if line == digits or not (digits.isascii() and digits.isdigit()) or len(digits) > 19 or str(int(digits)) != digits:
        raise FormatError(f"the proof has no line with {word}and a number")
    return int(digits)
