from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.drift import baseline
from graced.drift.baseline import Baseline

MEASURES = st.lists(st.floats(0, 1e9), max_size=120)


def test_nothing_is_judged_before_five_values():
    series = Baseline([10, 10, 10, 10])
    assert series.limit() is None
    assert series.regression(1e6) is None
    series.learn(10)
    assert series.regression(1e6) is not None


def test_an_outlier_does_not_move_the_limit_much():
    calm, hit = Baseline([100, 101, 99, 100, 100, 102]), Baseline([100, 101, 99, 100, 100, 102, 5000])
    assert hit.limit() == pytest.approx(calm.limit(), rel=0.05)
    verdict = hit.regression(400)
    assert verdict.n == 7
    assert verdict.median == 100


def test_slack_keeps_small_steady_series_calm():
    assert Baseline([1.0] * 9, slack=100.0).regression(90) is None
    assert Baseline([1.0] * 9).regression(90) is not None


def test_a_lasting_change_becomes_normal():
    series = Baseline([10] * 50)
    for _ in range(26):
        series.learn(100)
    assert series.regression(100) is None


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_no_measurement(value):
    with pytest.raises(ValueError, match="measurement"):
        Baseline().learn(value)


@pytest.mark.parametrize("obj", [{}, {"values": 3}, {"values": ["1"]}, {"values": [True]}, {"values": [-1]}])
def test_bad_files(obj):
    with pytest.raises(FormatError):
        Baseline.from_json(obj)


@given(MEASURES)
def test_round_trip_bounds_and_limit(values):
    series = Baseline()
    for value in values:
        series.learn(value)
    assert len(series.values) <= baseline.WINDOW
    assert Baseline.from_json(series.to_json()).values == series.values
    limit = series.limit()
    assert (limit is None) == (len(values) < baseline.MIN_VALUES)
    if limit is not None:
        assert limit >= baseline.median(list(series.values))
        assert series.regression(limit) is None


@given(st.lists(st.floats(0, 1e9), min_size=1), st.randoms())
def test_median_does_not_depend_on_order(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert baseline.median(shuffled) == baseline.median(values)
    assert min(values) <= baseline.median(values) <= max(values)
