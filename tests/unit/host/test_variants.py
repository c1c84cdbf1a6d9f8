"""What Wanted finds is what jeepney, another implementation, reads; what it steps over ends where jeepney says."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney import low_level

from graced.host.variants import VARIANTS, Wanted, step_over

NUMBERS = {
    "y": (0, 255),
    "n": (-9, 9),
    "q": (0, 9),
    "i": (-9, 9),
    "u": (0, 2**32 - 1),
    "x": (-9, 9),
    "t": (0, 2**64 - 1),
}
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=9)


def simple() -> st.SearchStrategy[tuple[str, object]]:
    numbers = [st.tuples(st.just(kind), st.integers(*bounds)) for kind, bounds in NUMBERS.items()]
    return st.one_of(
        *numbers,
        st.tuples(st.just("b"), st.booleans()),
        st.tuples(st.just("d"), st.floats(allow_nan=False)),
        st.tuples(st.just("s"), TEXT),
        st.tuples(st.just("o"), st.sampled_from(("/", "/a", "/a/b_c"))),
        st.tuples(st.just("g"), st.sampled_from(("", "s", "a(iu)"))),
    )


def together(parts: st.SearchStrategy[tuple[str, object]]) -> st.SearchStrategy[tuple[str, object]]:
    def array(part: tuple[str, Any], count: int) -> tuple[str, object]:
        kind, value = part
        return (f"a{kind}", bytes([value] * count) if kind == "y" else [value] * count)

    return st.one_of(
        st.builds(array, parts, st.integers(0, 3)),
        st.lists(parts, min_size=1, max_size=3).map(
            lambda fields: (f"({''.join(kind for kind, _ in fields)})", tuple(value for _, value in fields))
        ),
        parts.map(lambda part: ("v", part)),
        st.tuples(simple(), parts).map(lambda pair: (f"a{{{pair[0][0]}{pair[1][0]}}}", {pair[0][1]: pair[1][1]})),
    )


VALUES = st.recursive(simple(), together, max_leaves=6)
LITTLE, BIG = low_level.Endianness.little, low_level.Endianness.big


def marshalled(signature: str, value: object, endianness: low_level.Endianness, before: int = 0) -> bytes:
    kind = low_level.parse_signature(list(signature))
    return bytes(before) + kind.serialise(value, before, endianness)


@given(st.dictionaries(TEXT, VALUES, max_size=8), st.data(), st.sampled_from((LITTLE, BIG)), st.integers(0, 9))
def test_the_wanted_are_read_as_jeepney_reads_them(told, data, endianness, before):
    names = frozenset(data.draw(st.sets(st.sampled_from([*told, "another"]))))
    whole = marshalled(VARIANTS, told, endianness, before)
    expected, end = low_level.parse_signature(list(VARIANTS)).parse_data(whole, before, endianness)
    found, behind = Wanted(names, low_level.parse_signature).parse_data(whole + b"more", before, endianness)
    assert found == {name: value for name, value in expected.items() if name in names}
    assert behind == end


@given(VALUES, st.sampled_from((LITTLE, BIG)), st.integers(0, 9))
def test_a_value_that_is_stepped_over_ends_where_jeepney_ends(part, endianness, before):
    signature, value = part
    whole = marshalled(signature, value, endianness, before)
    u32 = struct.Struct(f"{endianness.struct_code()}I").unpack_from
    assert step_over(signature.encode(), whole, before, u32) == len(whole)


@given(st.dictionaries(TEXT, VALUES, min_size=1, max_size=4), st.data())
def test_what_is_cut_off_or_changed_is_an_error_or_another_answer_and_never_more(told, data):
    whole = bytearray(marshalled(VARIANTS, told, LITTLE))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    reader = Wanted(frozenset(data.draw(st.sets(st.sampled_from(list(told))))), low_level.parse_signature)
    try:
        found, end = reader.parse_data(cut, 0, LITTLE)
    except (ValueError, KeyError, IndexError, TypeError, AssertionError, struct.error):
        return
    assert end <= len(cut)
    assert set(found) <= set(told)


@pytest.mark.parametrize("signature", ["a", "a(s", "a!", "!", "aa{s", "a)"])
def test_a_signature_that_is_none_is_an_error(signature):
    with pytest.raises(ValueError):
        step_over(signature.encode(), bytes(64), 0, struct.Struct("<I").unpack_from)
