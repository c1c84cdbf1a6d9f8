"""RFC 6962 tree hashing in the tile layout of C2SP tlog-tiles: append, root, and the tiles to keep.

A tile holds up to 256 hashes of one level; level 0 are leaf hashes, a hash of level L+1 is the root of a full
tile of level L. A tree's whole state is its size and the partial tile of each level, so appending costs one
hash amortised and restarting costs at most 255 leaves and one row per higher level. Pure; used by the ledger
and by audit.
"""

from __future__ import annotations

from struct import unpack

from graced.base.digest import sha256
from graced.base.errors import TrustError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

HASH_BYTES = 32
TILE_HASHES = 256
TILE_BYTES = TILE_HASHES * HASH_BYTES
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry), RFC 6962 section 2.1."""
    return sha256(b"\0" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> bytes:
    """The leaf hashes of several entries, one after the other: a call per entry would cost half as much again."""
    import hashlib

    return _hashes(hashlib.sha256(b"\0").copy, entries)


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), RFC 6962 section 2.1."""
    return sha256(b"\1" + left + right).digest()


def tile_root(hashes: bytes) -> bytes:
    """The root over a full tile's 256 hashes."""
    if len(hashes) != TILE_BYTES:
        raise TrustError(f"a full tile has {TILE_BYTES} bytes, not {len(hashes)}")
    import hashlib

    while len(hashes) > HASH_BYTES:
        hashes = _pairs(hashes, hashlib.sha256(b"\1").copy)
    return hashes


class Tree:
    """An append-only Merkle tree that keeps only the open tile of each level. `size` is the number of leaves."""

    __slots__ = ("_changed", "_levels", "size")

    def __init__(self, size: int = 0, levels: list[bytes] | None = None) -> None:
        """`levels[L]` are the hashes of level L's open tile; `widths(size)` says how many there must be."""
        self.size = size
        self._levels = [bytearray(level) for level in levels or []]
        self._changed: dict[tuple[int, int], bytes] = {}
        have = [len(level) for level in self._levels]
        if have != [width * HASH_BYTES for width in widths(size)]:
            raise TrustError(f"the tiles do not fit a tree of {size} entries", code="tiles")

    def copy(self) -> Tree:
        """An independent tree in the same state."""
        return Tree(self.size, [bytes(level) for level in self._levels])

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        if not self._levels:
            self._levels.append(bytearray())
        level0 = self._levels[0]
        level0 += leaf
        self.size += 1
        if len(level0) == TILE_BYTES:
            self._close(0)

    def extend(self, leaves: bytes) -> None:
        """Add leaf hashes as `leaf_hashes` gives them; as many `append`s, in a fraction of the time."""
        at = 0
        while at < len(leaves):
            if not self._levels:
                self._levels.append(bytearray())
            level0 = self._levels[0]
            added = leaves[at : at + TILE_BYTES - len(level0)]
            level0 += added
            at += len(added)
            self.size += len(added) // HASH_BYTES
            if len(level0) == TILE_BYTES:
                self._close(0)

    def open_tiles(self) -> list[tuple[int, int, bytes]]:
        """(level, n, hashes) of each level's open tile that has any."""
        return [
            (level, (self.size >> (8 * level)) >> 8, bytes(hashes))
            for level, hashes in enumerate(self._levels)
            if hashes
        ]

    def _close(self, level: int) -> None:
        """A tile is full: hand it out, and its root goes one level up (whose open tile is handed out too)."""
        hashes = bytes(self._levels[level])
        if level == 0:
            self._changed[level, (self.size >> 8) - 1] = hashes
        self._levels[level].clear()
        if level + 1 == len(self._levels):
            self._levels.append(bytearray())
        above = self._levels[level + 1]
        above += tile_root(hashes)
        self._changed[level + 1, tile_index(self.size, level + 1, len(above))] = bytes(above)
        if len(above) == TILE_BYTES:
            self._close(level + 1)

    def take_tiles(self) -> list[tuple[int, int, bytes]]:
        """(level, n, hashes) of every tile to store since the last call.

        Level 0 tiles appear once, full; a higher tile appears each time it grew, every 256 ** level entries.
        """
        tiles = [(level, n, hashes) for (level, n), hashes in self._changed.items()]
        self._changed.clear()
        return tiles

    def root(self) -> bytes:
        """The RFC 6962 root of all leaves so far; O(256 * levels)."""
        right = b""
        for hashes in self._levels:
            level = bytes(hashes)
            while level:
                # An odd last subtree waits for what is to its right; at the top it is the root.
                if len(level) & HASH_BYTES:
                    right = node_hash(level[-HASH_BYTES:], right) if right else level[-HASH_BYTES:]
                    level = level[:-HASH_BYTES]
                level = _pairs(level, sha256(b"\1").copy)
        return right or EMPTY_ROOT


def _pairs(hashes: bytes, begun: Callable[[], Any]) -> bytes:
    """The parents of an even number of hashes; `begun` gives a hash that has seen what a node's begins with."""
    return _hashes(begun, unpack("64s" * (len(hashes) // 64), hashes))


def _hashes(begun: Callable[[], Any], parts: Iterable[bytes]) -> bytes:
    """A copy for each part: cheaper than to begin anew and to put the first byte before each.

    `update` gives None; as a condition it needs no loop of its own.
    """
    return b"".join([one.digest() for part in parts if (one := begun()).update(part) is None])


def widths(size: int) -> list[int]:
    """How many hashes the open tile of each level holds in a tree of `size` leaves (lowest level first)."""
    result = []
    while size:
        result.append(size % TILE_HASHES)
        size //= TILE_HASHES
    return result


def tile_index(size: int, level: int, open_bytes: int) -> int:
    """The number n of the tile of `level` whose last hash was completed at `size` (open_bytes: its length)."""
    return ((size >> (8 * level)) - open_bytes // HASH_BYTES) >> 8
