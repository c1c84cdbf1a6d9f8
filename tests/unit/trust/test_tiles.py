"""The layout of an export against the examples of the specification, and bundles that are not whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.trust.tiles import ENTRIES, bundle, entries_of, files_of, tile_path, tiles_of, unbundle


def test_names() -> None:
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(1, 1234067) == "tile/1/x001/x234/067"
    assert tile_path(ENTRIES, 273, 112) == "tile/entries/273.p/112"
    assert tile_path(2, 1000, 1) == "tile/2/x001/000.p/1"


def test_the_tiles_of_a_tree() -> None:
    """The two trees that the specification describes."""
    assert list(tiles_of(256)) == [(0, 0, 256), (1, 0, 1)]
    tiles = list(tiles_of(70_000))
    assert [tile for tile in tiles if tile[0] or tile[2] < 256] == [(0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)]
    assert len(tiles) == 273 + 1 + 1 + 1 + 1
    assert files_of(2) == {"checkpoint", "tile/0/000.p/2", "tile/entries/000.p/2"}


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 400))
def test_bundles_there_and_back(entries: list[bytes], cut: int) -> None:
    data = bundle(entries)
    assert entries_of(data, len(entries)) == entries
    short, whole = unbundle(data[: -min(cut, len(data))]) if data else ([], True)
    assert short == entries[: len(short)]
    assert not whole or len(short) < len(entries) or not data
    with pytest.raises(FormatError):
        entries_of(data + b"\0", len(entries))
    with pytest.raises(FormatError):
        entries_of(data, len(entries) + 1)


def test_too_long_an_entry() -> None:
    with pytest.raises(OverflowError):
        bundle([bytes(65536)])
