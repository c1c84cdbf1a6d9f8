"""What needs no parsing: every block against what a parser finds, and entries that only look plain."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.json import canonical
from graced.trust.blocks import all_plain
from graced.trust.keys import MUST_BE_SIGNED

PLAIN = ("task", "finding", "restore", "step")
JUDGED = ("checkpoint", "key", *sorted(MUST_BE_SIGNED))


def row(seq: int, kind: str = "task", **more: object) -> bytes:
    fields = {"v": 1, "actor": "supervisor", "data": {"n": {"deep": "}"}}, "unit": "nginx.service", "task_id": None}
    return canonical({**fields, "kid": None, "signature": None, "kind": kind, "seq": seq, **more})


def naive(first: int, block: list[bytes]) -> bool:
    found = [json.loads(entry) for entry in block]
    return all(
        one["seq"] == seq and one["kind"] not in JUDGED and one["kid"] is None and one["signature"] is None
        for seq, one in enumerate(found, first)
    )


@given(
    st.integers(0, 2000),
    st.lists(
        st.tuples(st.sampled_from((*PLAIN, *PLAIN, *JUDGED)), st.sampled_from((0, 0, 0, 0, 0, 0, 1)), st.booleans()),
        min_size=1,
        max_size=40,
    ),
)
def test_as_a_parser_finds(first: int, wanted: list[tuple[str, int, bool]]) -> None:
    block = [
        row(seq + off, kind, **({"kid": "k", "signature": "s"} if signed and kind in JUDGED else {}))
        for seq, (kind, off, signed) in enumerate(wanted, first)
    ]
    assert all_plain(first, block) == naive(first, block)


@pytest.mark.parametrize("kinds", [PLAIN, PLAIN[:1] * 256, PLAIN * 64])
def test_kinds_may_be_mixed(kinds: tuple[str, ...]) -> None:
    block = [row(seq, kind) for seq, kind in enumerate(kinds, 990)]
    assert all_plain(990, block)
    assert not all_plain(991, block)
    assert not all_plain(990, [*block[:-1], row(989 + len(block), JUDGED[0])])


TAIL = b',"kid":null,"kind":"task","seq":7,"signature":null,"task_id":null}'
WRONG = {
    "nothing": b"",
    "no object": b"task",
    "its own is signed": row(7, kid="k", signature="s"),
    "signed without a key": row(7, signature="s"),
    "the plain one is inside": row(7, "warrant", task_id={"x": TAIL.decode()}),
    "an object behind it": row(7, unit={"n": 1}),
    "no end": row(7)[:-1],
    "something behind its end": row(7) + b" ",
    "another number": row(8),
    "more digits": row(70),
    "a number with a zero": row(7).replace(b'"seq":7', b'"seq":07'),
    "a number that is text": row(7).replace(b'"seq":7', b'"seq":"7"'),
    "a line in it": row(7).replace(b'"unit":"nginx', b'"unit":"\n'),
    "a kind that must be signed": row(7, "warrant"),
    "no kind of ours": row(7, "Task"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_only_looks_plain(name: str) -> None:
    assert not all_plain(7, [WRONG[name]])
    assert not all_plain(6, [row(6), WRONG[name], row(8)])
    assert all_plain(7, [row(7)])
