"""Families as JSON → the Prometheus exposition formats: the only importer of prometheus_client.

A registry is made for every scrape, so a number that was not answered this time cannot appear. No `_created`
series: families are made without a creation time.
"""

from __future__ import annotations

import os
import re

from graced.base.errors import FormatError
from graced.base.json import get_dict, get_float, get_int, get_list, get_str

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from graced.base.json import JsonDict

MAX_FAMILIES = 500
MAX_SAMPLES = 2000

_NAME = re.compile(r"^graced_[a-z][a-z0-9_]*$")
_LABEL = re.compile(r"^[a-z][a-z0-9_]*$")


def exposition(families: Iterable[JsonDict], accept: str) -> tuple[bytes, str]:
    """The page and its Content-Type for an Accept header. Raises FormatError for a family that is not one."""
    os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "True")
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    collector: Any = _Snapshot(list(families))
    registry.register(collector)
    encoder, content_type = choose_encoder(accept)
    page: bytes = encoder(registry)
    return page, content_type


class _Snapshot:
    """A collector over one answer; it is thrown away with its registry."""

    def __init__(self, families: list[JsonDict]) -> None:
        self._families = families

    def collect(self) -> Iterator[Any]:
        """What prometheus_client calls at each exposition."""
        return map(_metric, self._families)

    @staticmethod
    def describe() -> list[Any]:
        """Nothing is known before the first answer."""
        return []


def check_family(family: object) -> JsonDict:
    """`family` when its shape, name, labels and numbers are sound; raises FormatError with the reason."""
    if not isinstance(family, dict):
        raise FormatError(f"a family is a {type(family).__name__}")
    name = get_str(family, "name")
    kind = get_str(family, "kind", name)
    get_str(family, "help", name)
    samples = get_list(family, "samples", name)
    if not _NAME.match(name) or kind not in {"counter", "gauge", "histogram"} or len(samples) > MAX_SAMPLES:
        raise FormatError(f"{name} of kind {kind} with {len(samples)} samples is refused")
    if (kind == "counter") != name.endswith("_total"):
        raise FormatError(f"{name} is a {kind}: counters and only counters end in _total")
    labels: set[str] | None = None
    for sample in samples:
        if not isinstance(sample, dict):
            raise FormatError(f"{name}: a sample is a {type(sample).__name__}")
        own = get_dict(sample, "labels", name)
        if labels is not None and labels != own.keys():
            raise FormatError(f"{name}: samples with different labels")
        labels = set(own)
        if not all(_LABEL.match(label) and label not in {"le", "type"} for label in own):
            raise FormatError(f"{name}: labels {sorted(own)} are refused")
        _check_value(sample, name, kind)
    return family


def _check_value(sample: JsonDict, name: str, kind: str) -> None:
    if kind != "histogram":
        if kind == "counter" and get_float(sample, "value", name) < 0:
            raise FormatError(f"{name}: a counter below 0")
        get_float(sample, "value", name)
        return
    get_float(sample, "sum", name)
    last_edge, last_count = float("-inf"), 0
    for bucket in get_list(sample, "buckets", name):
        if not isinstance(bucket, list) or len(bucket) != 2:
            raise FormatError(f"{name}: a bucket is [upper edge, cumulative count]")
        edge, count = bucket
        if not isinstance(edge, (int, float)) or not isinstance(count, (int, float)):
            raise FormatError(f"{name}: a bucket holds two numbers")
        if edge <= last_edge or count < last_count:
            raise FormatError(f"{name}: buckets do not rise")
        last_edge, last_count = edge, int(count)
    if get_int(sample, "count", name) < last_count:
        raise FormatError(f"{name}: fewer values than in its buckets")


def _metric(family: JsonDict) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    samples = family["samples"]
    names = list(samples[0]["labels"]) if samples else []
    if family["kind"] == "histogram":
        histogram = HistogramMetricFamily(family["name"], family["help"], labels=names)
        for sample in samples:
            buckets = [(_edge(edge), count) for edge, count in sample["buckets"]]
            buckets.append(("+Inf", sample["count"]))
            histogram.add_metric([str(sample["labels"][name]) for name in names], buckets, sample["sum"])
        return histogram
    made = CounterMetricFamily if family["kind"] == "counter" else GaugeMetricFamily
    metric = made(family["name"], family["help"], labels=names)
    for sample in samples:
        metric.add_metric([str(sample["labels"][name]) for name in names], sample["value"])
    return metric


def _edge(edge: float) -> str:
    return str(float(edge))
