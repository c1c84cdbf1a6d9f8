"""RFC 6962 hashing against the published vectors of Certificate Transparency and a naive recursive tree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graced.base.errors import TrustError
from graced.trust.merkle import EMPTY_ROOT, Tree, leaf_hash, node_hash, tile_root, widths

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def naive_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


def test_published_roots() -> None:
    tree = Tree()
    assert tree.root() == EMPTY_ROOT == hashlib.sha256(b"").digest()
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        tree.append(leaf_hash(leaf))
        assert tree.root().hex() == root


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 65535, 65536, 65537, 66000])
def test_root_and_restart_at_tile_borders(size: int) -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(size)]
    tree = Tree()
    stored: dict[tuple[int, int], bytes] = {}
    for leaf in leaves:
        tree.append(leaf)
    stored = {(level, n): hashes for level, n, hashes in tree.take_tiles()}
    assert tree.root() == naive_root(leaves)
    # The tiles hold everything a restart needs but the open level-0 tile.
    levels = []
    for level, width in enumerate(widths(size)):
        if level == 0:
            levels.append(b"".join(leaves[size - width :]))
        else:
            levels.append(stored.get((level, (size >> (8 * level)) >> 8), b"")[: 32 * width])
    again = Tree(size, levels)
    assert again.root() == tree.root()
    again.append(leaf_hash(b"next"))
    tree.append(leaf_hash(b"next"))
    assert again.root() == tree.root()
    for n in range(size // 256):
        assert stored[0, n] == b"".join(leaves[256 * n : 256 * n + 256])
        assert tile_root(stored[0, n]) == naive_root(leaves[256 * n : 256 * n + 256])


@settings(max_examples=30)
@given(st.integers(0, 700), st.integers(0, 300))
def test_copy_is_independent(size: int, more: int) -> None:
    tree = Tree()
    leaves = [leaf_hash(b"%d" % number) for number in range(size + more)]
    for leaf in leaves[:size]:
        tree.append(leaf)
    copy = tree.copy()
    for leaf in leaves[size:]:
        copy.append(leaf)
    assert tree.root() == naive_root(leaves[:size])
    assert copy.root() == naive_root(leaves)


def test_wrong_tiles_are_refused() -> None:
    with pytest.raises(TrustError):
        Tree(3, [bytes(32)])
    with pytest.raises(TrustError):
        tile_root(bytes(32))
