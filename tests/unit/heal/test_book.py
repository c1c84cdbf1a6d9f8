from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graced.heal.book import APPROVED, CLOSED, OPENED, FindingBook
from graced.heal.checks.facts import CLEAR, FOUND, UNKNOWN, Judgement
from graced.model.finding import Finding


def found(unit, kind="unit.failed", value="signal"):
    finding = Finding(unit=unit, kind=kind, severity="high", value=value, threshold="active")
    return Judgement(kind, FOUND, finding=finding)


def test_opens_once_closes_once():
    book = FindingBook()
    assert book.record("a", found("a"), 0) == OPENED
    assert book.record("a", found("a", value="other"), 1) == ""
    assert book.get("a", "unit.failed").value == "signal"
    assert book.record("a", Judgement("unit.failed", UNKNOWN), 2) == ""
    assert book.record("a", Judgement("unit.failed", CLEAR), 3) == CLOSED
    assert book.record("a", Judgement("unit.failed", CLEAR), 4) == ""


def test_repeats_while_open():
    book = FindingBook(repeat_us=60)
    book.record("a", found("a"), 0)
    assert book.due(59) == []
    assert [finding.unit for finding in book.due(60)] == ["a"]
    assert book.due(61) == []
    book.set_repeat(1)
    assert len(book.due(62)) == 1


def test_a_forgotten_unit_repeats_nothing():
    book = FindingBook(repeat_us=1)
    book.record("a", found("a"), 0)
    book.record("b", found("b"), 0)
    assert [finding.unit for finding in book.forget("a")] == ["a"]
    assert [finding.unit for finding in book.due(9)] == ["b"]


def test_a_finding_is_its_unit_and_kind():
    one, two = found("a").finding, found("a", value="other").finding
    assert one == two
    assert len({one, two, found("b").finding}) == 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([FOUND, CLEAR, UNKNOWN]))))
def test_open_and_close_alternate(steps):
    book, open_now = FindingBook(), set()
    for us, (unit, state) in enumerate(steps):
        outcome = book.record(unit, found(unit) if state == FOUND else Judgement("unit.failed", state), us)
        if outcome == OPENED:
            assert unit not in open_now
            open_now.add(unit)
        elif outcome == CLOSED:
            open_now.remove(unit)
        assert {finding.unit for finding in book.all()} == open_now


def test_the_first_good_judgement_is_told_once():
    book = FindingBook()
    assert book.record("a", Judgement("unit.failed", CLEAR), 0) == APPROVED
    assert book.record("a", Judgement("unit.failed", CLEAR), 1) == ""
    assert book.record("a", Judgement("unit.hung", UNKNOWN), 2) == ""
    book.forget("a")
    assert book.record("a", Judgement("unit.failed", CLEAR), 3) == APPROVED
