from __future__ import annotations

import pytest

from graced.heal.checks import config_damaged, host_pressure, start_slow, unit_failed, unit_hung
from graced.heal.checks.facts import BY_ADMIN, BY_FAULT, CLEAR, FOUND, UNDECIDED, UNKNOWN, UnitFacts
from graced.model.unit import UnitState

UNIT = "nginx.service"


def facts(active_state="failed", *, state=None, **more):
    values = {
        "load_state": "loaded",
        "result": "signal",
        "inactive_exit_us": 10,
        "main_exit_us": 50,
        "inactive_enter_us": 60,
        **(state or {}),
    }
    defaults = {"adopted": True, "down_by": BY_FAULT, "profile": "nginx"}
    return UnitFacts(
        state=UnitState(unit=UNIT, active_state=active_state, **values), now_us=100, **{**defaults, **more}
    )


def test_failed_by_fault_is_found_with_systemds_own_stamp():
    finding = unit_failed.judge(facts()).finding
    assert (finding.unit, finding.kind, finding.severity, finding.healable) == (UNIT, "unit.failed", "high", True)
    assert (finding.fault_monotonic_us, finding.detected_monotonic_us) == (50, 100)
    data = finding.anomaly("2026-01-01T00:00:00.000Z", {"load1": 0.1})
    assert data["anomalies"] == [{"type": "unit.failed", "value": "signal", "threshold": "active", "severity": "high"}]
    assert data["finding"] == "unit.failed"


def test_not_adopted_is_observed_only():
    assert unit_failed.judge(facts(adopted=False)).finding.healable is False


@pytest.mark.parametrize(
    "change",
    [
        {"down_by": BY_ADMIN},
        {"down_by": UNDECIDED},
        {"host_leaving": True},
        {"state": {"load_state": "masked"}},
        {"state": {"load_state": "not-found"}},
        {"state": {"job": 3}},
    ],
)
def test_the_admin_wins(change):
    judgement = unit_failed.judge(facts(**change))
    assert judgement.state != FOUND
    assert judgement.reason


@pytest.mark.parametrize(
    ("active_state", "expected"),
    [
        ("active", CLEAR),
        ("reloading", CLEAR),
        ("inactive", UNKNOWN),
        ("activating", UNKNOWN),
        ("deactivating", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_other_states(active_state, expected):
    assert unit_failed.judge(facts(active_state)).state == expected


def test_the_stamp_of_an_older_run_is_not_used():
    state = facts(state={"main_exit_us": 5, "main_start_us": 3}).state
    assert state.fault_us == 60
    assert facts(state={"main_exit_us": 0, "inactive_enter_us": 0}).state.fault_us is None


BAD = {"ok": False, "latency_ms": 1000.0, "error": "no answer"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"probe": BAD, "probe_failures": 3}, FOUND),
        ({"probe": BAD, "probe_failures": 2}, UNKNOWN),
        ({"probe": {**BAD, "ok": True}, "probe_failures": 3}, CLEAR),
        ({"probe": {**BAD, "ok": None}, "probe_failures": 3}, UNKNOWN),
        ({"probe": None}, UNKNOWN),
        ({"probe": BAD, "probe_failures": 3, "host_leaving": True}, UNKNOWN),
        ({"probe": BAD, "probe_failures": 3, "state_is_old": True}, UNKNOWN),
        ({"probe": {**BAD, "ok": True}, "state_is_old": True}, CLEAR),
    ],
)
def test_hung(more, expected):
    judgement = unit_hung.judge(facts("active", hung_since_us=70, **more))
    assert judgement.state == expected
    if expected == FOUND:
        assert judgement.finding.fault_monotonic_us is None
        assert judgement.finding.evidence["failing_since_monotonic_us"] == 70


@pytest.mark.parametrize(("active_state", "expected"), [("failed", CLEAR), ("activating", UNKNOWN)])
def test_what_is_not_up_cannot_hang(active_state, expected):
    assert unit_hung.judge(facts(active_state, probe=BAD, probe_failures=9)).state == expected


def test_a_hang_that_is_being_cured_is_no_second_finding():
    killed = facts(hung_open=True, state={"state_change_us": 90})
    assert unit_failed.judge(killed).state == UNKNOWN
    assert unit_hung.judge(killed).state == UNKNOWN
    later = killed.replace(now_us=90 + 15_000_000)
    assert unit_failed.judge(later).state == FOUND
    assert unit_hung.judge(later).state == CLEAR


def test_a_reset_failure_is_not_a_cure_yet():
    reset = facts("inactive", state={"state_change_us": 90})
    assert unit_failed.judge(reset).state == UNKNOWN
    assert unit_failed.judge(reset.replace(now_us=90 + 15_000_000)).state == CLEAR
    assert unit_failed.judge(reset.replace(down_by=BY_ADMIN)).state == CLEAR


def test_slow_start():
    up = {"inactive_exit_us": 1_000_000, "active_enter_us": 3_000_000}
    assert start_slow.judge(facts("active", state=up)).state == UNKNOWN
    assert start_slow.judge(facts("active", state=up, start_limit_ms=2000.0)).state == CLEAR
    slow = start_slow.judge(facts("active", state=up, start_limit_ms=1999.0))
    assert slow.state == FOUND
    assert slow.finding.value == 2000.0
    assert slow.finding.healable is False
    assert start_slow.judge(facts("failed", state=up, start_limit_ms=1.0)).state == UNKNOWN


def sample(free=50, memory=0.0):
    return {
        "pressure": {"cpu": None, "io": None, "memory": {"full_avg60": memory}},
        "disks": [{"path": "/", "size_bytes": 100, "free_bytes": free}],
    }


def test_host_pressure_has_hysteresis():
    judge = host_pressure.judge
    assert judge(sample(), 1, is_open=False).state == CLEAR
    assert judge(sample(free=4), 1, is_open=False).finding.value == 96.0
    assert judge(sample(free=6), 1, is_open=False).state == CLEAR
    assert judge(sample(free=6), 1, is_open=True).state == FOUND
    assert judge(sample(memory=40.0), 1, is_open=False).finding.evidence["worst"] == "memory"
    assert judge({"pressure": {"cpu": None}, "disks": []}, 1, is_open=True).state == UNKNOWN


def digest(**more):
    return {
        "unit": UNIT,
        "lkg": {"taken_at": "x"},
        "changed": True,
        "damaged": False,
        "files": [{"path": "/etc/a", "state": "edited", "reason": "r"}, {"path": "/etc/b", "state": "same"}],
        **more,
    }


@pytest.mark.parametrize(
    ("more", "valid", "since", "expected"),
    [
        ({}, True, True, (CLEAR, CLEAR)),
        ({}, False, True, (CLEAR, FOUND)),
        ({}, None, True, (CLEAR, UNKNOWN)),
        ({"damaged": True}, None, True, (FOUND, CLEAR)),
        ({"damaged": True}, True, False, (CLEAR, FOUND)),
        ({"damaged": True}, False, None, (CLEAR, FOUND)),
        ({"lkg": None}, False, True, (UNKNOWN, UNKNOWN)),
        ({"changed": False, "files": []}, True, True, (CLEAR, CLEAR)),
    ],
)
def test_config(more, valid, since, expected):
    damaged, invalid = config_damaged.judge(
        digest(**more),
        valid=valid,
        output="line 3: bad",
        started_since=since,
        profile="nginx",
        now_us=9,
        started_us=5,
    )
    assert (damaged.state, invalid.state) == expected
    for judgement, healable in ((damaged, True), (invalid, False)):
        if judgement.state == FOUND:
            assert judgement.finding.healable is healable
            assert judgement.finding.fault_monotonic_us == (5 if healable else None)
            assert judgement.finding.value == "/etc/a"
            assert judgement.finding.evidence["output"] == "line 3: bad"
