"""What a scrape shows, also when nobody answers, and that promtool finds nothing to complain about."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.exporter.render import check_family, exposition
from graced.exporter.scrape import Scraper
from graced.metrics.families import QUEUE, SUPERVISOR
from graced.metrics.registry import Registry
from graced.model.daemons import KERNELS


def metrics() -> dict:
    registry = Registry((*QUEUE, *SUPERVISOR))
    registry.put("graced_incidents_open", 1)
    registry.put("graced_config_last_reload_successful", 1)
    registry.inc("graced_remediations_total", playbook="restart")
    registry.inc("graced_remediation_failures_total", playbook="restart")
    registry.observe("graced_time_to_recover_seconds", 0.34)
    registry.observe("graced_time_to_detect_seconds", 0.004)
    return {"families": registry.families()}


def kernels(**changes: object) -> dict:
    row = {"state": "active", "pid": 7, "ready_ms": 120.0, "restarts": 2, "watchdog_resets": 1, "last_error": None}
    return {"kernels": [{"name": name, **row, **changes} for name in KERNELS]}


def rule(**changes: object) -> dict:
    return {"approvals_open": 2, "held": 3, "paused": False, "shadow": True, "unusable": None, **changes}


def page(scraper: Scraper, metrics_: dict | None, kernels_: dict | None, rule_: dict | None = None) -> dict[str, float]:
    families, _ = scraper.families(metrics_, kernels_, rule() if rule_ is None else rule_)
    body, content_type = exposition(families, "")
    assert content_type.startswith("text/plain; version=0.0.4")
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_a_healthy_scrape() -> None:
    shown = page(Scraper(), metrics(), kernels())
    assert shown["graced_up"] == 1
    assert shown['graced_kernel_up{kernel="memory"}'] == 1
    assert shown['graced_kernel_boot_duration_seconds_bucket{kernel="memory",le="0.1"}'] == 0
    assert shown['graced_kernel_boot_duration_seconds_bucket{kernel="memory",le="0.5"}'] == 1
    assert shown['graced_kernel_boot_duration_seconds_bucket{kernel="memory",le="+Inf"}'] == 1
    assert shown['graced_kernel_restarts_total{kernel="code"}'] == 2
    assert shown['graced_watchdog_resets_total{kernel="code"}'] == 1
    assert shown['graced_tasks{priority="high",state="queued"}'] == 0
    assert shown["graced_time_to_recover_seconds_count"] == 1
    assert shown['graced_scrape_error{source="supervisor"}'] == 0
    assert not [name for name in shown if "_created" in name]


def test_promtool_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is needed: run the tests by make, or apt-get install prometheus"
    families, _ = Scraper().families(metrics(), kernels(), rule())
    body, _ = exposition(families, "")
    done = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_silent_supervisor_shows_no_old_number() -> None:
    scraper = Scraper()
    page(scraper, metrics(), kernels())
    shown = page(scraper, None, kernels())
    assert shown["graced_up"] == 0
    assert shown['graced_scrape_error{source="supervisor"}'] == 1
    assert shown['graced_scrape_errors_total{source="supervisor"}'] == 1
    assert not [name for name in shown if name.startswith(("graced_tasks", "graced_incidents", "graced_time"))]


def test_a_silent_infrastructure_means_no_kernel_is_up() -> None:
    scraper = Scraper()
    page(scraper, metrics(), kernels())
    shown = page(scraper, metrics(), None)
    assert [shown[f'graced_kernel_up{{kernel="{name}"}}'] for name in KERNELS] == [0] * len(KERNELS)
    assert not [name for name in shown if name.startswith("graced_kernel_restarts")]
    assert shown["graced_up"] == 1


def test_a_kernel_that_infrastructure_does_not_know_is_down() -> None:
    shown = page(Scraper(), metrics(), {"kernels": kernels()["kernels"][1:]})
    assert shown['graced_kernel_up{kernel="supervisor"}'] == 0
    assert shown['graced_kernel_up{kernel="memory"}'] == 1


def test_what_governance_says() -> None:
    shown = page(Scraper(), metrics(), kernels())
    names = ("approvals_open", "repairs_held", "paused", "shadow", "policy_unusable")
    assert [shown[f"graced_{name}"] for name in names] == [2, 3, 0, 1, 0]
    assert page(Scraper(), metrics(), kernels(), rule(unusable="a.toml:1: no"))["graced_policy_unusable"] == 1


def test_a_silent_governance_shows_no_old_number() -> None:
    scraper = Scraper()
    page(scraper, metrics(), kernels())
    for answer in (None, {"paused": "no"}):
        families, _problems = scraper.families(metrics(), kernels(), answer)
        assert not {"graced_approvals_open", "graced_paused"} & {family["name"] for family in families}
    shown = page(scraper, metrics(), kernels(), {})
    assert shown['graced_scrape_error{source="governance"}'] == 1


def test_an_unknown_count_is_absent_not_zero() -> None:
    shown = page(Scraper(), metrics(), kernels(watchdog_resets=None))
    assert 'graced_watchdog_resets_total{kernel="memory"}' not in shown


def test_each_start_is_counted_once() -> None:
    scraper = Scraper()
    page(scraper, metrics(), kernels())
    page(scraper, metrics(), kernels())
    scraper.look(kernels(pid=8, ready_ms=700.0))
    shown = page(scraper, metrics(), kernels(pid=8, ready_ms=700.0))
    assert shown['graced_kernel_boot_duration_seconds_count{kernel="memory"}'] == 2
    assert shown['graced_kernel_boot_duration_seconds_bucket{kernel="memory",le="0.5"}'] == 1
    assert shown['graced_kernel_boot_duration_seconds_sum{kernel="memory"}'] == pytest.approx(0.82)


def test_openmetrics_on_request() -> None:
    families, _ = Scraper().families(metrics(), kernels(), rule())
    body, content_type = exposition(families, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_a_family_of_the_exporter_cannot_be_replaced_from_outside() -> None:
    fake = {"name": "graced_up", "kind": "gauge", "help": "X.", "samples": [{"labels": {}, "value": 1}]}
    _, problems = Scraper().families({"families": [fake, fake]}, kernels(), rule())
    assert problems
    families, problems = Scraper().families({"families": [fake]}, None, rule())
    assert not problems
    assert [family["name"] for family in families].count("graced_up") == 1


GOOD = {"name": "graced_x_total", "kind": "counter", "help": "X.", "samples": [{"labels": {"a": "1"}, "value": 1}]}
HISTOGRAM = {"labels": {}, "buckets": [[0.5, 1], [1.0, 2]], "sum": 1.0, "count": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other_total"},
        {"name": "graced_x"},
        {"kind": "gauge"},
        {"kind": "summary"},
        {"samples": [{"labels": {"type": "1"}, "value": 1}]},
        {"samples": [{"labels": {"A-b": "1"}, "value": 1}]},
        {"samples": [{"labels": {}, "value": "1"}]},
        {"samples": [{"labels": {}, "value": -1}]},
        {"samples": [{"labels": {"a": "1"}, "value": 1}, {"labels": {}, "value": 1}]},
        {"samples": [7]},
        {"samples": [{"labels": {}, "value": 1}] * 3000},
        {"name": "graced_h", "kind": "histogram", "samples": [{**HISTOGRAM, "buckets": [[0.5, 3], [1.0, 2]]}]},
        {"name": "graced_h", "kind": "histogram", "samples": [{**HISTOGRAM, "buckets": [[1.0, 1], [0.5, 2]]}]},
        {"name": "graced_h", "kind": "histogram", "samples": [{**HISTOGRAM, "buckets": [["a", 1]]}]},
        {"name": "graced_h", "kind": "histogram", "samples": [{**HISTOGRAM, "count": 1}]},
    ],
)
def test_wrong_families_are_refused(change: dict) -> None:
    assert check_family(GOOD) is GOOD
    with pytest.raises(FormatError):
        check_family({**GOOD, **change})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_any_answer_gives_a_page(metrics_: object, kernels_: object, shadow: object) -> None:
    families, _ = Scraper().families({"families": metrics_}, {"kernels": kernels_}, rule(shadow=shadow))
    body, _ = exposition(families, "")
    assert b"graced_up " in body


@given(st.fixed_dictionaries(dict.fromkeys(GOOD, JSON)))
def test_any_family_is_refused_or_rendered(family: dict) -> None:
    try:
        checked = check_family(family)
    except FormatError:
        return
    exposition([checked], "")
