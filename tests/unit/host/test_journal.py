from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from graced.host import journal


def line(us, **fields):
    return json.dumps({"__MONOTONIC_TIMESTAMP": str(us), **fields})


def records(*lines):
    return journal.parse("\n".join(lines) + "\n")


def test_fields():
    (record,) = records(
        line(
            12,
            _PID="1",
            UNIT="a.service",
            JOB_TYPE="stop",
            JOB_RESULT="done",
            PRIORITY="3",
            INVOCATION_ID="ff",
            MESSAGE="Stopped",
        )
    )
    assert record == journal.JournalRecord(
        monotonic_us=12,
        pid="1",
        unit="a.service",
        invocation_id="ff",
        job_type="stop",
        job_result="done",
        priority=3,
        message="Stopped",
    )


def test_a_stop_job_since_the_start_is_the_admins():
    found = records(line(30, _PID="1", JOB_TYPE="stop"), line(10, _PID="1", JOB_TYPE="start"))
    assert journal.stopped_by_job(found, 10) is True


def test_an_older_stop_job_is_not():
    found = records(line(12, _PID="1", JOB_TYPE="start"), line(5, _PID="1", JOB_TYPE="stop"))
    assert journal.stopped_by_job(found, 10) is False


def test_a_forged_stop_record_counts_for_nothing():
    found = records(line(30, _PID="4711", JOB_TYPE="stop"), line(12, _PID="1", JOB_TYPE="start"))
    assert journal.stopped_by_job(found, 10) is False


def test_a_journal_that_does_not_reach_back_cannot_tell():
    assert journal.stopped_by_job([], 10) is None
    assert journal.stopped_by_job(records(line(30, _PID="1")), 10) is None
    assert journal.stopped_by_job(records(line(30, _PID="1", JOB_TYPE="start")), 0) is None


def test_errors_since_are_oldest_first_and_bounded():
    found = records(*[line(us, MESSAGE=f"m{us}", PRIORITY="3") for us in range(60, 0, -1)])
    assert journal.errors_since(found, 57) == ["m58", "m59", "m60"]
    assert len(journal.errors_since(found, 0)) == 20


def test_binary_and_repeated_fields_are_not_text():
    (record,) = records(line(1, MESSAGE=[1, 2, 255], JOB_TYPE=["stop", "start"], _PID="1"))
    assert (record.message, record.job_type) == ("", "")


@given(st.text(max_size=300))
def test_any_text(text):
    journal.stopped_by_job(journal.parse(text), 5)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["__MONOTONIC_TIMESTAMP", "_PID", "JOB_TYPE", "PRIORITY", "x"]),
            st.one_of(st.text(max_size=5), st.integers(), st.none(), st.lists(st.integers())),
        )
    )
)
def test_any_json_lines(objects):
    text = "\n".join(json.dumps(o) for o in objects)
    assert len(journal.parse(text)) <= len(objects)


def test_queries_name_trusted_fields():
    assert "_PID=1" in journal.jobs_argv("a.service")
    assert "_SYSTEMD_UNIT=a.service" in journal.errors_argv("a.service")
    assert {"_PID=1", "UNIT=a", "UNIT=b"} <= set(journal.watchdog_argv(["a", "b"]))
    assert any(word.startswith("_BOOT_ID=") for word in journal.errors_argv("a.service"))
