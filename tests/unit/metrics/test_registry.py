"""The registry: declared names only, zeros from the start, cumulative buckets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.metrics.families import KERNEL, QUEUE, SUPERVISOR
from graced.metrics.registry import COUNTER, GAUGE, HISTOGRAM, MAX_SERIES, Family, Registry


def samples(registry: Registry, name: str) -> list[dict]:
    return next(family["samples"] for family in registry.families() if family["name"] == name)


def test_declared_label_values_exist_with_zero() -> None:
    registry = Registry([Family("x_total", COUNTER, "X.", labels=("a",), values=(("1",), ("2",)))])
    assert samples(registry, "x_total") == [
        {"labels": {"a": "1"}, "value": 0.0},
        {"labels": {"a": "2"}, "value": 0.0},
    ]


def test_an_unlabelled_counter_starts_at_zero_but_a_gauge_is_unknown() -> None:
    registry = Registry([Family("x_total", COUNTER, "X."), Family("y", GAUGE, "Y.")])
    assert samples(registry, "x_total") == [{"labels": {}, "value": 0.0}]
    assert samples(registry, "y") == []


def test_inc_put_and_clear() -> None:
    registry = Registry([Family("x_total", COUNTER, "X.", labels=("a",)), Family("y", GAUGE, "Y.")])
    registry.inc("x_total", a="1")
    registry.inc("x_total", 2, a="1")
    registry.put("y", -4)
    assert samples(registry, "x_total") == [{"labels": {"a": "1"}, "value": 3.0}]
    assert samples(registry, "y") == [{"labels": {}, "value": -4.0}]
    registry.clear("y")
    assert samples(registry, "y") == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r: r.inc("nothing_total"),
        lambda r: r.inc("x_total"),
        lambda r: r.inc("x_total", a="1", b="2"),
        lambda r: r.inc("x_total", -1, a="1"),
        lambda r: r.inc("x_total", float("nan"), a="1"),
        lambda r: r.inc("y"),
        lambda r: r.observe("y", 1),
        lambda r: r.put("h", 1),
        lambda r: r.clear("x_total"),
    ],
)
def test_wrong_use_is_an_error(wrong) -> None:
    registry = Registry(
        [
            Family("x_total", COUNTER, "X.", labels=("a",)),
            Family("y", GAUGE, "Y."),
            Family("h", HISTOGRAM, "H.", buckets=(1.0,)),
        ]
    )
    with pytest.raises(FormatError):
        wrong(registry)


def test_a_family_cannot_be_declared_twice() -> None:
    with pytest.raises(FormatError, match="twice"):
        Registry([Family("y", GAUGE, "Y."), Family("y", GAUGE, "Y.")])


def test_series_are_bounded_and_what_was_dropped_is_counted() -> None:
    registry = Registry([Family("x_total", COUNTER, "X.", labels=("a",))])
    for number in range(MAX_SERIES + 5):
        registry.inc("x_total", a=str(number))
    assert len(samples(registry, "x_total")) == MAX_SERIES
    assert registry.dropped == 5


def test_an_edge_belongs_to_its_own_bucket() -> None:
    registry = Registry([Family("h", HISTOGRAM, "H.", buckets=(0.1, 0.5))])
    for value in (0.1, 0.5, 0.500001):
        registry.observe("h", value)
    [sample] = samples(registry, "h")
    assert sample["buckets"] == [[0.1, 1], [0.5, 2]]
    assert sample["count"] == 3


@given(st.lists(st.floats(0, 1e6), max_size=50))
def test_buckets_are_cumulative_and_count_every_value(values: list[float]) -> None:
    edges = (0.5, 1.0, 10.0)
    registry = Registry([Family("h", HISTOGRAM, "H.", buckets=edges)])
    for value in values:
        registry.observe("h", value)
    [sample] = samples(registry, "h")
    assert sample["count"] == len(values)
    assert sample["sum"] == pytest.approx(sum(values))
    assert sample["buckets"] == [[edge, sum(value <= edge for value in values)] for edge in edges]


def test_the_shipped_families_are_json_and_follow_the_naming_rules() -> None:
    registry = Registry((*QUEUE, *SUPERVISOR, *KERNEL))
    json.dumps(registry.families(), allow_nan=False)
    for family in (*QUEUE, *SUPERVISOR, *KERNEL):
        assert family.name.startswith("graced_")
        assert family.name.endswith("_total") == (family.kind == COUNTER)
        assert "type" not in family.labels
        assert list(family.buckets) == sorted(set(family.buckets))
    boot = next(family for family in KERNEL if family.name == "graced_kernel_boot_duration_seconds")
    assert 0.5 in boot.buckets
