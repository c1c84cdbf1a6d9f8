"""Refusals are said once a minute and kind, and counted."""

from __future__ import annotations

from graced.runtime.seldom import EACH, MOST, SECONDS, Seldom, left_out


class Now:
    def __init__(self):
        self.s = 5.0

    def __call__(self):
        return self.s


def test_the_first_of_a_kind_is_said_and_the_rest_is_counted():
    now = Now()
    seldom = Seldom(now)
    assert seldom.take(1, "a") == 0
    assert [seldom.take(1, "a") for _ in range(3)] == [None] * 3
    assert seldom.take(2, "a") == 0
    assert seldom.take(1, "b") == 3
    now.s += SECONDS
    assert seldom.take(1, "a") == 0


def test_one_caller_takes_no_words_from_another_and_all_together_are_bounded():
    seldom = Seldom(Now())
    assert sum(seldom.take(1, number) is not None for number in range(1000)) == EACH
    assert seldom.take(2, "a") == 0
    others = [seldom.take(uid, number) is not None for uid in range(3, 1000) for number in range(3)]
    assert sum(others) == MOST - EACH - 1
    assert len(seldom._missed) <= MOST


def test_what_was_left_out_in_words():
    assert left_out(0) == ""
    assert left_out(1) == "; 1 more was refused without a word"
    assert left_out(2) == "; 2 more were refused without a word"
