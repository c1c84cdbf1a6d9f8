"""Time spans of systemd, against its own way of printing them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.shell import ChaosError
from chaos.timespan import UNIT_MS, parse_ms

# From the largest, as format_timespan() of systemd goes.
SIZES = sorted(((round(ms * 1000), word) for word, ms in UNIT_MS.items()), reverse=True)


def printed(microseconds: int) -> str:
    """As systemd prints a time span in full accuracy: whole units, and a fraction below the second."""
    if microseconds == 0:
        return "0"
    words = []
    for size, word in SIZES:
        if microseconds < size:
            continue
        if word in {"s", "ms"} and microseconds % size:
            fraction = f"{microseconds / size:.6f}".rstrip("0")
            words.append(f"{fraction}{word}")
            break
        words.append(f"{microseconds // size}{word}")
        microseconds %= size
    return " ".join(words)


@given(st.integers(0, 10**15))
def test_what_systemd_prints_is_read_back(microseconds: int) -> None:
    assert parse_ms(printed(microseconds)) == pytest.approx(microseconds / 1000, rel=1e-9, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("3s", 3000.0), ("500ms", 500.0), ("250us", 0.25), ("1min 30s", 90_000.0), ("1h 500ms", 3_600_500.0), ("0", 0.0)],
)
def test_what_units_really_have(text: str, wanted: float) -> None:
    assert parse_ms(text) == wanted


def test_infinity_is_not_a_number() -> None:
    assert parse_ms("infinity") is None


@given(st.text(max_size=12))
def test_anything_else_is_refused_or_a_number(text: str) -> None:
    try:
        value = parse_ms(text)
    except ChaosError as error:
        assert "time span" in str(error)
    else:
        assert value is None or value >= 0


@pytest.mark.parametrize("text", ["", "3", "s", "-3s", "3 s", "3s ", "3sec", "1m", "1e3s", "nan", "3s,5s"])
def test_what_systemd_never_prints_is_refused(text: str) -> None:
    with pytest.raises(ChaosError, match="time span"):
        parse_ms(text)
