"""How a unit came to be down, from the order in which systemd announces states and jobs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graced.heal.checks import unit_failed, unit_hung
from graced.heal.checks.facts import BY_ADMIN, BY_FAULT, CLEAR, FOUND, UNDECIDED, UNKNOWN
from graced.heal.tracker import UnitTracker

UNIT = "nginx.service"


def properties(state, us, **more):
    return {
        "LoadState": "loaded",
        "ActiveState": state,
        "SubState": "x",
        "Result": "success",
        "MainPID": 7,
        "StateChangeTimestampMonotonic": us,
        **more,
    }


def running():
    tracker = UnitTracker(UNIT, adopted=True)
    tracker.shown(properties("active", 100, InactiveExitTimestampMonotonic=80, ActiveEnterTimestampMonotonic=100))
    return tracker


def failed(us=200, result="signal", **more):
    return properties("failed", us, Result=result, MainPID=0, InactiveEnterTimestampMonotonic=us, **more)


def judge(tracker):
    return unit_failed.judge(tracker.facts(1000, host_leaving=False)).state


def test_a_crash_without_a_job_is_a_fault_at_once():
    tracker = running()
    tracker.announced(failed())
    assert tracker.down_by == BY_FAULT
    assert not tracker.needs_journal
    assert judge(tracker) == FOUND


def test_a_stop_job_that_ends_in_failure_is_the_admins():
    tracker = running()
    tracker.job_new(5)
    tracker.announced(properties("deactivating", 150))
    tracker.announced(failed(result="timeout"))
    assert tracker.down_by == UNDECIDED
    assert judge(tracker) != FOUND
    tracker.job_removed(5, "done")
    assert tracker.down_by == BY_ADMIN
    assert judge(tracker) != FOUND


def test_a_restart_whose_start_failed_is_a_fault():
    tracker = running()
    tracker.job_new(5)
    tracker.announced(properties("inactive", 150))
    tracker.announced(properties("activating", 160))
    tracker.announced(failed(result="exit-code", Job=5))
    assert judge(tracker) != FOUND
    tracker.job_removed(5, "failed")
    assert tracker.state.job == 0
    assert judge(tracker) == FOUND


def test_the_end_of_the_start_job_is_no_stop():
    tracker = UnitTracker(UNIT, adopted=True)
    tracker.shown(properties("inactive", 50))
    tracker.job_new(4)
    tracker.announced(properties("activating", 80))
    tracker.announced(properties("active", 100))
    tracker.job_removed(4, "done")
    tracker.announced(failed())
    assert tracker.down_by == BY_FAULT


def test_a_canceled_job_is_a_question_for_the_journal():
    tracker = running()
    tracker.job_new(5)
    tracker.announced(failed())
    tracker.job_removed(5, "canceled")
    assert tracker.needs_journal
    tracker.journal_says(None)
    assert tracker.down_by == BY_ADMIN


def test_found_failed_at_the_first_look_only_the_journal_knows():
    tracker = UnitTracker(UNIT, adopted=True)
    tracker.shown(failed())
    assert tracker.needs_journal
    assert judge(tracker) != FOUND
    tracker.journal_says(False)
    assert judge(tracker) == FOUND


def test_the_start_limit_is_never_a_stop():
    tracker = UnitTracker(UNIT, adopted=True)
    tracker.shown(failed(result="start-limit-hit"))
    assert tracker.down_by == BY_FAULT


def test_a_late_answer_of_the_journal_changes_nothing_after_a_start():
    tracker = UnitTracker(UNIT, adopted=True)
    tracker.shown(failed())
    tracker.announced(properties("active", 300))
    tracker.journal_says(False)
    assert tracker.down_by == UNDECIDED


def test_each_failure_is_decided_anew():
    tracker = running()
    tracker.announced(failed())
    tracker.announced(properties("active", 300))
    tracker.job_new(9)
    tracker.announced(failed(400))
    tracker.job_removed(9, "done")
    assert tracker.down_by == BY_ADMIN


def test_an_old_look_does_not_undo_an_announcement():
    tracker = running()
    tracker.announced(failed(200))
    assert not tracker.shown(properties("active", 100))
    assert tracker.state.active_state == "failed"


def test_announcements_before_the_first_look_are_incomplete_and_wait_for_it():
    tracker = UnitTracker(UNIT)
    assert not tracker.announced({"ActiveState": "failed"})
    assert tracker.state.active_state == ""


def test_after_a_lost_bus_the_next_look_counts():
    tracker = running()
    tracker.job_new(3)
    tracker.missed()
    tracker.shown(failed(500))
    assert tracker.needs_journal


def test_what_died_while_the_bus_was_away_does_not_hang():
    tracker = running()
    assert not tracker.facts(600, host_leaving=False).state_is_old
    tracker.missed()
    for began_us in (510, 520, 530):
        tracker.probed({"ok": False, "latency_ms": 1.0, "error": "Connection refused"}, began_us, grace=False)
    assert unit_hung.judge(tracker.facts(600, host_leaving=False)).state == UNKNOWN
    tracker.shown(failed(500))
    assert unit_hung.judge(tracker.facts(600, host_leaving=False)).state == CLEAR


def test_a_unit_that_was_unloaded_keeps_its_last_stamp():
    tracker = running()
    tracker.announced(failed(200))
    tracker.announced(properties("inactive", 0))
    assert (tracker.state.active_state, tracker.state.state_change_us) == ("inactive", 200)
    assert tracker.shown(properties("active", 300))


def test_watchdog_resets_are_counted_once_each():
    tracker = running()
    for us in (200, 300):
        tracker.announced(properties("deactivating", us, Result="watchdog"))
        tracker.announced({"SubState": "final-sigterm"})
        tracker.announced(properties("active", us + 50))
    assert tracker.watchdog_resets == [200, 300]
    assert tracker.last_error == "watchdog"


def test_probe_failures_are_counted_in_a_row_and_forgotten_with_the_process():
    tracker = running()
    bad, good = {"ok": False, "latency_ms": 1.0, "error": "x"}, {"ok": True, "latency_ms": 1.0, "error": ""}
    tracker.probed(bad, 10, grace=True)
    assert tracker.probe_failures == 0
    tracker.probed(bad, 20, grace=False)
    tracker.probed(bad, 30, grace=False)
    assert (tracker.probe_failures, tracker.hung_since_us) == (2, 20)
    tracker.probed({"ok": None, "latency_ms": 0.0, "error": "no rights"}, 40, grace=False)
    assert tracker.probe_failures == 2
    tracker.probed(good, 50, grace=False)
    assert (tracker.probe_failures, tracker.hung_since_us) == (0, None)
    tracker.probed(bad, 60, grace=False)
    tracker.announced(properties("active", 300, MainPID=8))
    assert (tracker.probe, tracker.probe_failures) == (None, 0)


STEP = st.one_of(
    st.tuples(st.just("state"), st.sampled_from(["active", "inactive", "activating", "deactivating", "failed"])),
    st.tuples(st.just("new"), st.integers(1, 3)),
    st.tuples(st.just("removed"), st.tuples(st.integers(1, 3), st.sampled_from(["done", "failed", "canceled"]))),
)


@given(st.lists(STEP, max_size=30))
def test_no_finding_while_a_job_is_open_or_the_unit_is_not_failed(steps):
    tracker, open_jobs = running(), set()
    for us, (kind, value) in enumerate(steps, start=1000):
        if kind == "state":
            tracker.announced(failed(us) if value == "failed" else properties(value, us))
        elif kind == "new":
            tracker.job_new(value)
            open_jobs.add(value)
        else:
            tracker.job_removed(*value)
            open_jobs.discard(value[0])
        if judge(tracker) == FOUND:
            assert tracker.state.active_state == "failed"
            assert tracker.down_by == BY_FAULT
        assert not (tracker.needs_journal and open_jobs)


def test_what_systemd_restarts_is_left_to_systemd_until_that_fails_too():
    tracker = running()
    tracker.announced({"Restart": "always"})
    tracker.announced(failed())
    young = unit_failed.judge(tracker.facts(300, host_leaving=False))
    assert (young.state, young.reason) == (UNKNOWN, "systemd may restart it by itself")
    assert unit_failed.judge(tracker.facts(60_000, host_leaving=False)).state == FOUND, "nothing was announced"
    tracker.announced({"SubState": "failed-before-auto-restart"})
    assert unit_failed.judge(tracker.facts(60_000, host_leaving=False)).state == UNKNOWN, "systemd 257 says so itself"
    tracker.announced(properties("activating", 210))
    tracker.announced(failed(220))
    assert unit_failed.judge(tracker.facts(300, host_leaving=False)).state == FOUND


def test_a_restart_that_helped_starts_the_count_anew():
    tracker = running()
    tracker.announced({"Restart": "on-failure"})
    for us in (200, 300, 400):
        tracker.announced(failed(us))
        assert unit_failed.judge(tracker.facts(us + 1, host_leaving=False)).state == UNKNOWN
        tracker.announced(properties("active", us + 50))


def test_what_was_announced_during_the_first_look_is_newer_than_it():
    tracker = UnitTracker(UNIT)
    assert not tracker.announced(properties("active", 300))
    tracker.shown(properties("activating", 200))
    assert tracker.state.active_state == "active"


def test_what_was_announced_before_the_first_look_is_older_than_it():
    tracker = UnitTracker(UNIT)
    tracker.announced(properties("activating", 200))
    tracker.shown(properties("active", 300))
    assert tracker.state.active_state == "active"
    tracker.missed()
    tracker.announced(properties("deactivating", 400))
    tracker.missed()
    tracker.shown(properties("active", 300))
    assert tracker.state.active_state == "active", "what came before a gap says nothing"
