"""Proofs out of tiles for every tree up to two tiles, and what is not one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError, TrustError
from graced.trust.merkle import Tree, leaf_hash
from graced.trust.proof import (
    Continuation,
    Proof,
    TileTree,
    is_consistent,
    is_continuation,
    parse_continuation,
    parse_proof,
    root_of_inclusion,
)
from tests.unit.trust.exports import tree_of

ROWS = [b"entry %d" % number for number in range(66_000)]
LEAVES = [leaf_hash(row) for row in ROWS]


def roots(sizes: list[int]) -> dict[int, bytes]:
    tree = Tree()
    found = {}
    for size in sorted(sizes):
        tree.extend(b"".join(LEAVES[tree.size : size]))
        found[size] = tree.root()
    return found


@pytest.mark.parametrize("size", [*range(1, 40), 255, 256, 257, 300, 511, 512, 513])
def test_every_inclusion_and_every_prefix(size: int) -> None:
    tree, root = tree_of(ROWS[:size]), roots([size])[size]
    assert tree.root() == root
    for index in range(0, size, 1 if size < 64 else 7):
        path = tree.inclusion(index)
        assert root_of_inclusion(LEAVES[index], index, size, path) == root
        if size > 1:
            assert root_of_inclusion(LEAVES[(index + 1) % size], index, size, path) != root
            with pytest.raises(TrustError):
                root_of_inclusion(LEAVES[index], index, size, path[:-1])
        with pytest.raises(TrustError):
            root_of_inclusion(LEAVES[index], index, size, [*path, root])
    step = 1 if size < 64 else 11
    before = roots(list(range(1, size + 1, step)))
    for old, old_root in before.items():
        path = tree.consistency(old)
        assert is_consistent(old, old_root, size, root, path)
        assert not is_consistent(old, LEAVES[0][::-1], size, root, path)
        assert not is_consistent(old, old_root, size, LEAVES[0][::-1], path)
        assert not is_consistent(old, old_root, size, root, [*path, root])
        assert not path or not is_consistent(old, old_root, size, root, path[:-1])


def test_over_three_levels() -> None:
    tree, known = tree_of(ROWS), roots([65_535, 65_536, 65_537, 66_000])
    for index in (0, 255, 256, 65_535, 65_536, 65_999):
        assert root_of_inclusion(LEAVES[index], index, 66_000, tree.inclusion(index)) == known[66_000]
    for old in (65_535, 65_536, 65_537):
        assert is_consistent(old, known[old], 66_000, known[66_000], tree.consistency(old))


def test_no_such_entry_or_tree() -> None:
    tree = tree_of(ROWS[:5])
    for index in (-1, 5):
        with pytest.raises(IndexError):
            tree.inclusion(index)
        with pytest.raises(TrustError):
            root_of_inclusion(LEAVES[0], index, 5, [])
    for size in (0, 6):
        with pytest.raises(IndexError):
            tree.consistency(size)
        assert not is_consistent(size, LEAVES[0], 5, LEAVES[0], [])


def test_a_short_tile_is_said() -> None:
    with pytest.raises(TrustError, match="too short"):
        TileTree(300, lambda _level, _n: bytes(32)).inclusion(0)


def test_forged_paths() -> None:
    """Any changed bit, swapped or doubled hash, and any other index or size leads elsewhere."""
    dice = random.Random(4)
    tree = tree_of(ROWS[:300])
    root = tree.root()
    for _ in range(2000):
        index = dice.randrange(300)
        leaf, path = LEAVES[index], tree.inclusion(index)
        match dice.randrange(4):
            case 0:
                at, bit = dice.randrange(len(path)), dice.randrange(256)
                path[at] = (int.from_bytes(path[at], "big") ^ 1 << bit).to_bytes(32, "big")
            case 1:
                first, second = dice.sample(range(len(path)), 2)
                path[first], path[second] = path[second], path[first]
            case 2:
                path.insert(dice.randrange(len(path)), path[0])
            case 3:
                index = (index + dice.randrange(1, 300)) % 300
        try:
            assert root_of_inclusion(leaf, index, 300, path) != root
        except TrustError:
            continue


def test_the_file() -> None:
    tree = tree_of(ROWS[:9])
    proof = Proof(entry=ROWS[4], index=4, path=tuple(tree.inclusion(4)), checkpoint="o\n9\nAA==\n\n\u2014 o AAAA\n")
    text = proof.text()
    assert text.startswith("c2sp.org/tlog-proof@v1\nextra ")
    assert parse_proof(text) == proof
    bare = proof.replace(entry=None)
    assert parse_proof(bare.text()) == bare
    assert proof.root(ROWS[4], 9) == tree.root()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c2sp.org/tlog-proof@v1\n\ncheckpoint",
        "c2sp.org/tlog-proof@v2\nindex 1\n\ncheckpoint",
        "c2sp.org/tlog-proof@v1\nindex 01\n\ncheckpoint",
        "c2sp.org/tlog-proof@v1\nindex -1\n\ncheckpoint",
        "c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\ncheckpoint",
        "c2sp.org/tlog-proof@v1\nindex 1\nextra AAAA\n\ncheckpoint",
        "c2sp.org/tlog-proof@v1\nextra A\nindex 1\n\ncheckpoint",
    ],
)
def test_no_proof(text: str) -> None:
    with pytest.raises(FormatError):
        parse_proof(text)


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    for one in (text, f"c2sp.org/tlog-proof@v1\n{text}\n\n"):
        try:
            parse_proof(one)
        except FormatError:
            continue


@given(
    size=st.integers(0, 10**18),
    path=st.lists(st.binary(min_size=32, max_size=32), max_size=64),
    checkpoint=st.text(alphabet="ab\n", min_size=1).filter(lambda text: not text.startswith("\n")),
)
def test_the_file_of_a_continuation(size: int, path: list[bytes], checkpoint: str) -> None:
    one = Continuation(old_size=size, path=tuple(path), checkpoint=checkpoint)
    assert is_continuation(one.text())
    assert parse_continuation(one.text()) == one


@given(st.text(max_size=200))
def test_no_file_of_a_continuation(text: str) -> None:
    for one in (text, f"old {text}", f"old 7\n{text}", f"old 007\n\n{text}"):
        try:
            found = parse_continuation(one)
        except FormatError:
            continue
        assert found.text() == one
