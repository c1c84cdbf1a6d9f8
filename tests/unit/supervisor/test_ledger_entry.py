"""The bytes of an entry are the canonical JSON of its object, whatever is in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.clock import ManualClock, iso
from graced.base.errors import FormatError
from graced.base.json import canonical
from graced.supervisor.ledger_entry import Encoder, Entry

TEXT = st.text(st.characters(blacklist_categories=("Cs",)))
MAYBE = st.none() | TEXT
ENTRIES = st.builds(
    Entry,
    kind=TEXT,
    data=st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT)),
    actor=TEXT,
    uid=st.integers(0, 2**32),
    unit=MAYBE,
    task_id=MAYBE,
    intent_id=MAYBE,
    kid=MAYBE,
    signature=MAYBE,
)


@given(st.lists(ENTRIES, max_size=4), st.integers(0, 2**62), st.integers(0, 4 * 10**15))
def test_canonical(entries: list[Entry], seq: int, start_us: int) -> None:
    clock = ManualClock(start_us)
    encoder = Encoder(clock, "boot")
    for entry in entries:
        expected = {"v": 1, "seq": seq, "time": iso(clock.wall_us()), "boot_id": "boot"}
        expected |= {"boottime_us": clock.boottime_us(), **entry.to_json()}
        del expected["payload"]
        assert encoder.encode(entry, seq) == canonical(expected)
        assert encoder.encode(entry.replace(payload=canonical(entry.data)), seq) == canonical(expected)


def test_one_turn_carries_one_time() -> None:
    clock = ManualClock()
    encoder = Encoder(clock, "boot")
    entry = Entry(kind="task", data={}, actor="supervisor", uid=1)
    before = encoder.encode(entry, 1)
    clock.advance_us(10**7)
    other = encoder.encode(entry.replace(actor="healing", unit="a.service"), 1)
    assert encoder.encode(entry, 1) == before
    assert b'"boottime_us":0,' in other
    encoder.next_turn()
    assert b'"boottime_us":10000000,' in encoder.encode(entry, 1)


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": "\ud800"}, {"x": object()}, {1.5: {2}}])
def test_no_json(bad: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        Encoder(ManualClock(), "boot").encode(Entry(kind="task", data=bad, actor="a", uid=1), 1)
