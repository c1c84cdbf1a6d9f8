"""The brain's promises: one fault is one incident, one heal per unit, what worked is tried first."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.clock import ManualClock
from graced.base.errors import FormatError
from graced.brain.brain import Brain, Change, Incident
from graced.brain.lessons import Lesson, Lessons


def anomaly(unit="nginx.service", finding="unit.failed", **more):
    return {
        "anomalies": [{"type": finding, "value": "signal", "threshold": "active", "severity": "high"}],
        "unit": unit,
        "profile": "nginx",
        "finding": finding,
        "fault_monotonic_us": 1_000_000,
        "detected_monotonic_us": 1_004_000,
        **more,
    }


def result(status, playbook=None, tried=(), decided_us=1_250_000):
    return {
        "status": status,
        "issue_resolved": status == "success",
        "playbook": playbook,
        "tried": [{"playbook": name, "helped": helped, "reason": ""} for name, helped in tried],
        "verdict": {"decided_monotonic_us": decided_us},
        "verified_by": "verification/k1",
    }


@pytest.fixture
def clock():
    return ManualClock(5_000_000)


@pytest.fixture
def brain(clock):
    return Brain(clock)


def heal(brain, task="task_1", **how):
    change = brain.on_anomaly(anomaly())
    brain.submitted(change.intents[0].incident.id, task)
    return change, brain.on_completed(task, result(**how))


def test_a_fault_opens_one_incident_and_one_intent(brain):
    first = brain.on_anomaly(anomaly())
    assert len(first.opened) == len(first.intents) == 1
    assert first.intents[0].to_data()["priority"] == "high"
    assert first.intents[0].to_data()["sla_seconds"] == 3600
    assert first.opened[0].detect_ms == 4.0
    for _ in range(3):
        again = brain.on_anomaly(anomaly())
        assert again.opened == again.intents == ()


def test_a_success_closes_the_incident_and_teaches(brain):
    _, done = heal(brain, status="success", playbook="restart-unit", tried=[("restart-unit", True)])
    assert [one.outcome for one in done.closed] == ["healed"]
    assert done.closed[0].heal_ms == 250.0
    assert done.closed[0].verified_by == "verification/k1"
    assert brain.open_incidents == []
    second = brain.on_anomaly(anomaly())
    assert second.intents[0].proven() == ["restart-unit"]
    assert "Try restart-unit first" in second.intents[0].reasoning
    assert second.opened[0].id != done.closed[0].id


def test_the_playbook_that_worked_goes_before_the_one_that_did_not(brain):
    heal(brain, status="success", playbook="b", tried=[("a", False), ("b", True)])
    assert brain.on_anomaly(anomaly()).intents[0].proven() == ["b"]


def test_a_failure_escalates_and_is_retried_at_a_bounded_rate(brain, clock):
    _, done = heal(brain, status="failed", tried=[("a", False)])
    assert done.escalated
    assert done.escalated[0].closed_at is None
    assert brain.on_anomaly(anomaly()).intents == ()
    tries = 0
    for _ in range(24 * 60):
        clock.advance_us(60_000_000)
        change = brain.on_anomaly(anomaly())
        if change.intents:
            tries += 1
            brain.submitted(change.intents[0].incident.id, f"task_{tries + 1}")
            brain.on_completed(f"task_{tries + 1}", result("failed", tried=[("a", False)]))
    assert 24 <= tries <= 32, "about one try an hour for as long as it lasts"


def test_what_failed_is_tried_again_when_its_pause_is_over_and_not_a_report_later(brain, clock):
    heal(brain, status="failed", tried=[("a", False)])
    for number, pause_s in enumerate((60, 120, 240), 2):
        clock.advance_us((pause_s - 1) * 1_000_000)
        assert brain.on_telemetry({}) == Change()
        clock.advance_us(1_000_000)
        change = brain.on_telemetry({})
        assert [one.incident.tries for one in change.intents] == [number]
        assert change.incidents[0].active
        assert brain.on_telemetry({}).intents == brain.on_anomaly(anomaly()).intents == (), "once"
        brain.submitted(change.intents[0].incident.id, f"task_{number}")
        brain.on_completed(f"task_{number}", result("failed", tried=[("a", False)]))


def test_what_is_gone_when_its_pause_is_over_is_closed_and_not_tried(brain, clock):
    heal(brain, status="failed", tried=[("a", False)])
    clock.advance_us(60_000_000)
    change = brain.on_telemetry({"cleared": [{"unit": "nginx.service", "finding": "unit.failed"}]})
    assert len(change.closed) == 1
    assert change.intents == ()
    assert brain.on_telemetry({}) == Change()


def test_a_refusal_is_not_asked_again_with_every_telemetry(brain, clock):
    heal(brain, status="failed", tried=[("a", False)])
    clock.advance_us(60_000_000)
    change = brain.on_telemetry({})
    brain.not_submitted(change.intents[0].incident.id, "the queue is full")
    assert brain.on_telemetry({}).intents == ()
    assert brain.on_anomaly(anomaly()).intents, "but with the next report"


def test_one_heal_per_unit(brain):
    assert brain.on_anomaly(anomaly(finding="unit.failed")).intents
    second = brain.on_anomaly(anomaly(finding="unit.hung"))
    assert second.intents == ()
    assert second.opened
    assert brain.on_anomaly(anomaly(unit="redis-server.service")).intents, "another unit does not wait"


def test_what_is_not_adopted_or_not_healable_is_only_observed(brain):
    for data in (anomaly(profile=None), anomaly(finding="start.slow"), anomaly(unit=None, finding="host.pressure")):
        change = brain.on_anomaly(data)
        assert change.intents == ()
        assert change.incidents[0].outcome == "observed"


def test_a_cleared_finding_closes_its_incident(brain):
    brain.on_anomaly(anomaly(finding="start.slow"))
    brain.on_anomaly(anomaly(finding="unit.failed"))
    change = brain.on_telemetry(
        {"cleared": [{"unit": "nginx.service", "finding": finding} for finding in ("start.slow", "unit.failed")]}
    )
    assert [one.finding for one in change.closed] == ["start.slow"], "the heal under way reports by itself"


CLEARED = {"cleared": [{"unit": "nginx.service", "finding": "config.damaged"}]}


def damaged(brain):
    brain.submitted(brain.on_anomaly(anomaly(finding="config.damaged")).opened[0].id, "task_1")


@pytest.mark.parametrize("tried", [[], [("a", False)]])
def test_what_cleared_during_a_heal_that_came_to_nothing_is_closed(brain, clock, tried):
    damaged(brain)
    [flagged] = brain.on_telemetry(CLEARED).incidents
    later = Brain(clock, incidents=[Incident.from_json(flagged.to_json())], next_number=2)
    done = later.on_completed("task_1", result("refused", tried=tried))
    assert [one.outcome for one in done.closed] == ["refused"]
    assert len(done.escalated) == len(done.lessons) == len(tried), "what was tried in vain is told"
    assert later.open_incidents == []


def test_what_cleared_during_a_heal_and_came_back_stays_open(brain):
    damaged(brain)
    brain.on_telemetry(CLEARED)
    assert brain.on_anomaly(anomaly(finding="config.damaged")).intents == ()
    done = brain.on_completed("task_1", result("refused"))
    assert (done.closed, len(done.escalated)) == ((), 1)
    assert [one.outcome for one in brain.on_telemetry(CLEARED).closed] == ["refused"]


def test_what_cleared_during_a_heal_that_helped_is_healed(brain):
    damaged(brain)
    brain.on_telemetry(CLEARED)
    done = brain.on_completed("task_1", result("success", "a", [("a", True)]))
    assert [one.outcome for one in done.closed] == ["healed"]


def test_unknown_times_stay_unknown(brain):
    change = brain.on_anomaly(anomaly(fault_monotonic_us=None))
    assert change.opened[0].detect_ms is None
    brain.submitted(change.opened[0].id, "task_1")
    assert brain.on_completed("task_1", result("success", "a", [("a", True)])).closed[0].heal_ms is None


def test_state_survives_a_restart(brain, clock):
    _, done = heal(brain, status="success", playbook="b", tried=[("b", True)])
    change = brain.on_anomaly(anomaly(finding="unit.hung"))
    brain.submitted(change.opened[0].id, "task_9")
    stored = [one.to_json() for one in brain.open_incidents]
    lessons = [Lesson.from_json(one.to_json()) for one in done.lessons]
    later = Brain(clock, lessons, [Incident.from_json(one) for one in stored], next_number=10)
    assert later.on_anomaly(anomaly(finding="unit.hung")).intents == ()
    assert later.on_completed("task_9", result("success", "k", [("k", True)])).closed
    assert later.on_anomaly(anomaly()).intents[0].proven() == ["b"]


@given(
    st.dictionaries(
        st.sampled_from(["unit", "finding", "anomalies", "profile", "fault_monotonic_us"]),
        st.none() | st.text() | st.integers() | st.lists(st.text()),
    )
)
def test_hostile_anomalies_only_raise_format_error(data):
    with contextlib.suppress(FormatError):
        Brain(ManualClock()).on_anomaly(data)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_the_last_success_is_always_first(tries):
    lessons = Lessons()
    for number, (playbook, ok) in enumerate(tries):
        lessons.learn("f", "p", playbook, ok=ok, wall_us=number)
    ranked = lessons.ranked("f", "p")
    assert {one.playbook for one in ranked} == {playbook for playbook, _ in tries}
    oks = [one.last_ok for one in ranked]
    assert oks == sorted(oks, reverse=True)


def crash(**evidence):
    return anomaly(evidence={"result": "exit-code", "main_process": "exited", "main_status": 7, **evidence})


def repaired(brain, data, task, lasting_seconds=60.0):
    change = brain.on_anomaly(data)
    if change.intents:
        brain.submitted(change.intents[0].incident.id, task)
        done = result("success", "restart-unit", [("restart-unit", True)])
        brain.on_completed(task, {**done, "lasting_seconds": lasting_seconds})
    return change


def test_a_flapping_unit_is_left_to_a_person_and_tried_at_a_bounded_rate(brain, clock):
    for number in range(3):
        change = repaired(brain, crash(), f"task_{number}")
        assert len(change.intents) == 1
        assert change.opened[0].id == f"incident_{number + 1}"
        clock.advance_us(3_000_000)
    stopped = repaired(brain, crash(), "task_3")
    assert stopped.intents == ()
    assert stopped.escalated == stopped.opened == stopped.incidents
    [incident] = stopped.escalated
    assert (incident.outcome, incident.closed_at, incident.relapses) == ("failed", None, 3)
    assert "the last 3 repairs, by restart-unit, lasted less than 60 s each" in str(incident.reason)
    assert [(one.playbook, one.successes, one.failures, one.last_ok) for one in stopped.lessons] == [
        ("restart-unit", 0, 3, False)
    ]
    tries = []
    for second in range(0, 24 * 3600, 3):
        clock.advance_us(3_000_000)
        if repaired(brain, crash(), f"again_{second}").intents:
            tries.append(second)
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert tries[0] == 57
    assert gaps[:3] == [123, 243, 483]
    assert max(gaps) < 3700
    assert len(tries) < 32


def test_after_a_reset_it_is_tried_at_once(brain, clock):
    for number in range(4):
        repaired(brain, crash(), f"task_{number}")
        clock.advance_us(3_000_000)
    assert brain.on_anomaly(crash()).intents == ()
    assert brain.on_reset("other.service") == Change()
    change = brain.on_reset(crash()["unit"])
    [incident] = change.incidents
    assert (incident.tries, incident.relapses, incident.retry_boottime_us, incident.active) == (1, 0, 0, True)
    [intent] = change.intents
    assert (intent.incident, intent.anomaly) == (incident, crash())
    assert "This is try" not in intent.reasoning


def test_what_was_not_reported_since_a_start_is_tried_at_its_next_report_after_a_reset(brain, clock):
    for number in range(4):
        repaired(brain, crash(), f"task_{number}")
    later = Brain(clock, incidents=brain.open_incidents)
    change = later.on_reset(crash()["unit"])
    assert change.intents == ()
    assert [one.retry_boottime_us for one in change.incidents] == [0]
    assert len(later.on_anomaly(crash()).intents) == 1


def test_of_two_findings_of_a_unit_one_is_tried_after_a_reset(brain):
    for finding in ("unit.failed", "unit.hung"):
        brain.on_anomaly(crash() | {"finding": finding})
        [incident] = [one for one in brain.open_incidents if one.finding == finding]
        brain.not_submitted(incident.id, "the queue is full")
    change = brain.on_reset(crash()["unit"])
    assert [one.active for one in change.incidents] == [True, False]
    assert len(change.intents) == 1


def test_a_reset_forgets_what_the_repair_before_came_to(brain, clock):
    repaired(brain, crash(), "task_1")
    brain.on_reset(crash()["unit"])
    change = brain.on_anomaly(crash())
    assert change.lessons == ()
    assert change.opened[0].relapses == 0


def test_a_heal_under_way_goes_on_over_a_reset(brain):
    change = brain.on_anomaly(crash())
    assert brain.on_reset(crash()["unit"]).incidents == ()
    assert brain.open_incidents == list(change.incidents)


def test_a_repair_that_lasted_begins_anew(brain, clock):
    for number in range(10):
        assert repaired(brain, crash(), f"task_{number}").opened[0].relapses == number % 3
        clock.advance_us(3_000_000 if number % 3 < 2 else 60_000_000)


@pytest.mark.parametrize(
    ("data", "lasting_seconds"),
    [
        (crash(result="signal", main_process="killed", main_status=9), 60.0),
        (crash(result="signal", main_process="killed", main_status=15), 60.0),
        (crash(), 0.0),
        (crash(), None),
    ],
)
def test_what_says_nothing_against_the_repair_before(brain, clock, data, lasting_seconds):
    for number in range(10):
        change = repaired(brain, data, f"task_{number}", lasting_seconds)
        assert len(change.intents) == 1
        assert change.lessons == ()
        clock.advance_us(1_000_000)


def test_a_crash_by_a_signal_is_the_units_own(brain, clock):
    for number in range(4):
        change = repaired(brain, crash(result="signal", main_process="killed", main_status=11), f"task_{number}")
        clock.advance_us(1_000_000)
    assert change.escalated


def test_a_unit_that_flaps_and_is_not_adopted_any_more_is_only_observed(brain):
    for number in range(3):
        repaired(brain, crash(), f"task_{number}")
    change = brain.on_anomaly({**crash(), "profile": None})
    assert change.escalated == change.intents == change.lessons == ()
    assert change.incidents[0].outcome == "observed"


def test_a_malformed_result_leaves_the_incident_open(brain):
    with pytest.raises(FormatError):
        repaired(brain, crash(), "task_1", lasting_seconds="long")
    assert [one.task_id for one in brain.open_incidents] == ["task_1"]
