"""Rank, learned run times, and the window on the queue."""

from __future__ import annotations

import itertools
import random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graced.htm.order import AGE_US, WINDOW_HIGH, WINDOW_KEEP, Expected, Window, rank_us
from graced.model.task import CANCELLED, COLUMNS, CRITICAL, LEASED, QUEUED, Task

times = st.integers(0, 2_000_000_000_000_000)
spans = st.integers(0, 40_000_000_000_000)


def make(number, rank, state=0):
    row = dict.fromkeys(COLUMNS)
    row.update(id=number, rank=rank, state=state, handler="h")
    return Task(tuple(row[name] for name in COLUMNS), 0)


@given(priority=st.integers(1, 3), created=times, sla=spans, expected=spans, wait=spans, other=st.integers(1, 3))
def test_nothing_submitted_after_the_age_bound_goes_first(priority, created, sla, expected, wait, other):
    mine = rank_us(priority, created, created + sla, expected)
    assert created <= mine <= created + AGE_US[priority]
    later = created + AGE_US[priority] + 1 + wait
    for late_sla in (0, 1, sla):
        assert rank_us(other, later, later + late_sla, expected) > mine


@given(created=times, sla=spans, other_created=times, other_sla=spans, priority=st.integers(1, 3))
def test_critical_is_a_strict_lane(created, sla, other_created, other_sla, priority):
    critical = rank_us(CRITICAL, created, created + sla, 0)
    assert critical < rank_us(priority, other_created, other_created + other_sla, 0)


@given(created=times, sla=spans, expected=spans, shorter=spans, priority=st.integers(1, 3))
def test_higher_priority_or_earlier_deadline_is_never_later(created, sla, expected, shorter, priority):
    deadline = created + sla
    rank = rank_us(priority, created, deadline, expected)
    assert rank_us(priority - 1, created, deadline, expected) <= rank
    assert rank_us(priority, created, deadline - min(shorter, sla), expected) <= rank


def test_earliest_deadline_first_within_a_priority():
    assert rank_us(2, 0, 50_000_000, 0) < rank_us(2, 0, 60_000_000, 0)
    assert rank_us(2, 0, 60_000_000, 20_000_000) < rank_us(2, 0, 50_000_000, 0)


def test_expected_converges_and_is_bounded():
    expected = Expected()
    assert expected.us("h", "t") == 0
    for _ in range(100):
        expected.learn("h", "t", 1_000_000)
    for _ in range(100):
        expected.learn("h", "t", 2_000_000)
    assert 1_990_000 <= expected.us("h", "t") <= 2_000_000
    for number in range(10_000):
        expected.learn("h", f"t{number}", 5)
    assert sum(1 for number in range(10_000) if expected.us("h", f"t{number}")) < 600


def refill(window, stored, limit):
    rest = sorted((task for task in stored if (task.rank, task.id) >= window.horizon), key=lambda t: (t.rank, t.id))
    tasks = rest[:limit]
    window.refill(tasks, complete=len(rest) < limit)


@settings(max_examples=60)
@given(
    ranks=st.lists(st.integers(0, 1000), max_size=80),
    limit=st.integers(2, 20),
    later=st.lists(st.integers(0, 1000)),
    twice=st.booleans(),
    most=st.lists(st.integers(1, 9), min_size=1),
    low=st.sampled_from([1, 3, 256]),
)
def test_window_gives_every_task_once_and_in_order(ranks, limit, later, twice, most, low):
    stored = [make(number, rank) for number, rank in enumerate(ranks, 1)]
    window = Window()
    # a new window has everything beyond its horizon
    refill(window, stored, limit)
    for number, rank in enumerate(later, len(ranks) + 1):
        task = make(number, rank)
        taken_in = [window.push(task) for _ in range(1 + twice)]
        assert len({*taken_in}) == 1
        stored.append(task)
    got = []
    with mock.patch("graced.htm.order.WINDOW_LOW", low):
        for wanted in itertools.cycle(most):
            if window.hungry:
                refill(window, [one for one in stored if one.state == QUEUED], limit)
            tasks = window.take(wanted)
            assert len(tasks) <= wanted
            got += [(task.rank, task.id) for task in tasks]
            if not tasks and window.horizon is None:
                break
    assert {task.state for task in stored} <= {LEASED}
    assert got == sorted((task.rank, task.id) for task in stored)


@pytest.mark.parametrize("turned", [False, True])
def test_one_that_was_queued_again_is_given_once(turned):
    """Cancelled, forgotten, and requeued under the same rank: the window has it as it was and as it is."""
    window = Window()
    window.refill([], complete=True)
    was, is_ = make(7, 5), make(7, 5)
    tasks = [was, make(6, 5), is_, make(8, 5)]
    for task in reversed(tasks) if turned else tasks:
        window.push(task)
    was.state = CANCELLED
    assert [task.id for task in window.take(9)] == [6, 7, 8]
    assert is_.state == LEASED


def test_trim_gives_back_the_tail_and_keeps_the_order():
    window = Window()
    window.refill([], complete=True)
    tasks = [make(number, number) for number in range(1, WINDOW_HIGH + 2)]
    random.Random(7).shuffle(tasks)
    for task in tasks:
        assert window.push(task)
    back = window.trim()
    assert len(window) == WINDOW_KEEP
    assert len(back) == WINDOW_HIGH + 1 - WINDOW_KEEP
    assert window.horizon == (WINDOW_KEEP + 1, WINDOW_KEEP + 1)
    assert not window.push(make(99_999, WINDOW_KEEP + 5))
    assert window.push(make(0, 0))
    assert [task.id for task in window.take(3)] == [0, 1, 2]
