"""graced.ingest.chunk: slices that cover the text, bounded, always forward."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.ingest.chunk import chunks, is_heading
from graced.ingest.document import parts

TEXTS = st.one_of(
    st.text(max_size=4000),
    st.text(alphabet="# \n.ab\t", max_size=4000),
    st.lists(
        st.sampled_from(["# Head\n", "\n\n", "word ", "Sentence. ", "x" * 400, "\n#", "####### no\n"]), max_size=60
    ).map("".join),
)


@given(TEXTS, st.integers(1, 900), st.integers(0, 900))
def test_chunks_are_consecutive_bounded_slices(text, least, more):
    found = list(chunks(text, max_chars=least + more, min_chars=least))
    assert "".join(chunk.text for chunk in found) == text
    at = 0
    for ordinal, chunk in enumerate(found):
        assert (chunk.ordinal, chunk.start) == (ordinal, at)
        assert 0 < len(chunk.text) <= least + more
        at += len(chunk.text)


@given(TEXTS, st.integers(1, 500))
def test_parts_keep_every_chunk_in_order(text, part_chars):
    pieces = list(chunks(text, max_chars=100, min_chars=10))
    runs = parts(pieces, part_chars)
    assert [piece for run in runs for piece in run] == pieces
    assert all(len(run) == 1 or sum(len(piece.text) for piece in run) <= part_chars for run in runs if run)


def test_a_chunk_ends_before_a_heading_and_knows_its_own():
    text = "# One\n" + "alpha beta. " * 30 + "\n# Two\n" + "gamma. " * 50
    found = list(chunks(text))
    assert [chunk.heading for chunk in found] == ["One", "Two"]
    assert found[1].text.startswith("# Two\n")


def test_a_chunk_without_a_heading_has_the_last_one():
    found = list(chunks("## Long\n" + "words and words. " * 200))
    assert len(found) > 2
    assert {chunk.heading for chunk in found} == {"Long"}


@pytest.mark.parametrize("bounds", [(10, 11), (10, 0), (0, 0)])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="bounds"):
        list(chunks("text", *bounds))


@pytest.mark.parametrize(
    ("line", "is_one"),
    [("# a", True), ("###### a", True), ("####### a", False), ("#a", False), ("# ", False), ("a # b", False)],
)
def test_headings(line, is_one):
    assert is_heading(line) is is_one
