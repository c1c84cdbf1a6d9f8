"""SLA, retry, limits, histograms: the small rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import TaskError
from graced.htm import sla
from graced.htm.limits import DrainRate, Limits, admit
from graced.htm.measure import BOUNDS_SECONDS, Histogram
from graced.htm.order import rank_us
from graced.htm.retry import BASE_US, CAP_US, backoff_us, poisoned
from graced.model.task import COLUMNS, SLA_BREACHED, SLA_FINE, SLA_SLACK, Task, task_name, task_number


def make(**fields):
    row = dict.fromkeys(COLUMNS)
    deadline_us = fields.pop("deadline_us")
    row.update(id=1, state=0, priority=2, sla_state=SLA_FINE, sla_seconds=100, created_us=0, attempts=0, **fields)
    return Task(tuple(row[name] for name in COLUMNS), deadline_us)


def test_slack_at_twenty_percent_left_then_breach_once():
    task = make(deadline_us=100_000_000)
    task.sla_next_us = sla.next_event_us(SLA_FINE, 100, 100_000_000, 0)
    assert task.sla_next_us == 80_000_000
    assert sla.due(task, 79_999_999) == ""
    assert sla.due(task, 80_000_000) == "slack"
    assert (task.sla_state, task.sla_next_us) == (SLA_SLACK, 100_000_000)
    assert sla.due(task, 99_999_999) == ""
    assert sla.due(task, 100_000_000) == "breached"
    assert (task.sla_state, task.sla_next_us) == (SLA_BREACHED, None)
    assert sla.due(task, 200_000_000) == ""
    assert task.sla_next_us is None


def test_found_after_the_deadline_is_a_breach_at_once():
    task = make(deadline_us=100_000_000)
    assert sla.due(task, 100_000_001) == "breached"


@given(
    priority=st.integers(0, 3),
    created=st.integers(0, 1 << 50),
    span=st.integers(1, 1 << 40),
    expected=st.integers(0, 1 << 40),
)
def test_escalation_never_demotes_and_keeps_the_deadline(priority, created, span, expected):
    task = make(deadline_us=created + span)
    task.priority, task.created_us = priority, created
    task.rank = rank_us(priority, created, created + span, expected)
    higher, rank = sla.escalated(task, expected)
    assert higher == max(0, priority - 1)
    assert rank <= task.rank
    assert task.deadline_us == created + span


@given(failures=st.integers(0, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_backoff_is_full_jitter_under_a_growing_ceiling(failures, jitter):
    pause = backoff_us(failures, jitter)
    assert 0 <= pause <= CAP_US
    assert pause <= BASE_US * 2 ** max(0, failures - 1)
    assert backoff_us(failures, 0.0) == 0
    assert backoff_us(failures, 0.999) <= backoff_us(failures + 1, 0.999)


def test_poison():
    assert not poisoned(4, 5)
    assert poisoned(5, 5)


@pytest.mark.parametrize(("priority", "room"), [(0, 1000), (1, 950), (2, 900), (3, 800)])
def test_low_is_shed_first(priority, room):
    limits = Limits(max_live=1000, max_per_origin=1000)
    admit(limits, priority, room - 1, 0, "root", lambda: 1.0)
    with pytest.raises(TaskError) as caught:
        admit(limits, priority, room, 0, "root", lambda: 1.0)
    assert caught.value.code == "busy"
    assert 100 <= caught.value.fields["retry_after_ms"] <= 60_000


def test_one_origin_cannot_take_all():
    limits = Limits(max_live=1000, max_per_origin=10)
    admit(limits, 0, 500, 9, "uid1", lambda: 0.0)
    with pytest.raises(TaskError, match="uid1"):
        admit(limits, 0, 500, 10, "uid1", lambda: 0.0)


def test_retry_after_follows_the_drain_rate():
    limits = Limits(max_live=1000, max_per_origin=1000)

    def wait_ms(per_second):
        with pytest.raises(TaskError) as caught:
            admit(limits, 0, 1000, 0, "root", lambda: per_second)
        return caught.value.fields["retry_after_ms"]

    assert wait_ms(0.0) == 60_000
    assert wait_ms(10.0) == 1000
    assert wait_ms(1e6) == 100


def test_drain_rate_rises_and_fades():
    rate = DrainRate()
    for second in range(20):
        for _ in range(50):
            rate.finished(second * 1_000_000)
    assert 40 < rate.per_second(20_000_000) <= 50
    assert rate.per_second(200_000_000) < 0.01


@given(st.lists(st.integers(0, 10**10), max_size=50))
def test_histogram_is_cumulative(values):
    histogram = Histogram()
    for value in values:
        histogram.observe_us(value)
    sample = histogram.sample({"priority": "low"})
    assert sample["count"] == len(values)
    assert sample["sum"] == pytest.approx(sum(values) / 1e6)
    for (bound, count), expected in zip(sample["buckets"], BOUNDS_SECONDS, strict=True):
        assert bound == expected
        assert count == sum(1 for value in values if value <= int(bound * 1e6))


@given(st.text(max_size=30))
def test_only_task_names_have_numbers(text):
    number = task_number(text)
    assert number == 0 or task_name(number).removeprefix("task_") == text.removeprefix("task_").lstrip("0")


def test_task_names_round_trip():
    assert task_number(task_name(123)) == 123
    assert task_number("task_") == task_number("task_-1") == task_number("incident_5") == task_number("task_²") == 0
