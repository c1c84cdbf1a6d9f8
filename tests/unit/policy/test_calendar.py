"""Calendar windows: systemd-analyze is the calendar, here its words are read; an answer holds until it can change."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.policy.calendar import LONGEST_US, SECOND_US, answer, parse_elapse, question

HOUR = 3600
SUNDAY_2 = 1_764_468_000  # Sun 2025-11-30 02:00:00 UTC


def said(seconds_since_epoch, *, zone=False):
    stamp = datetime.fromtimestamp(seconds_since_epoch, UTC)
    utc = f"{stamp:%a %Y-%m-%d %H:%M:%S} UTC"
    first = "Sun 2025-11-30 02:00:00 CET" if zone else utc
    extra = f"       (in UTC): {utc}\n" if zone else ""
    return f"  Original form: x\nNormalized form: y\n    Next elapse: {first}\n{extra}       From now: 3 days left\n"


def test_the_elapse_is_read_in_utc_whatever_zone_the_host_has():
    assert parse_elapse(said(SUNDAY_2)) == SUNDAY_2 * SECOND_US
    assert parse_elapse(said(SUNDAY_2, zone=True)) == SUNDAY_2 * SECOND_US
    assert parse_elapse("    Next elapse: never\n") is None
    for other in ("", "Next elapse: soon", "    Next elapse: Sun 2025-11-30 02:00:00 CET\n"):
        with pytest.raises(FormatError):
            parse_elapse(other)


@pytest.mark.parametrize(
    ("now_s", "is_open", "until_s"),
    [
        (SUNDAY_2 - 1, False, SUNDAY_2),
        (SUNDAY_2, True, SUNDAY_2 + HOUR),
        (SUNDAY_2 + 10, True, SUNDAY_2 + HOUR),
        (SUNDAY_2 + HOUR - 1, True, SUNDAY_2 + HOUR),
        (SUNDAY_2 - 5 * HOUR, False, SUNDAY_2 - 4 * HOUR),
    ],
)
def test_a_window_is_open_from_its_elapse_for_its_length(now_s, is_open, until_s):
    found = answer(said(SUNDAY_2), HOUR, now_s * SECOND_US)
    assert (found.is_open, found.until_us) == (is_open, until_s * SECOND_US)
    assert found.holds(found.until_us - 1) and not found.holds(found.until_us)
    assert not found.holds(now_s * SECOND_US - 1)


def test_never_is_closed_and_asked_again():
    found = answer("    Next elapse: never\n", HOUR, 5)
    assert (found.is_open, found.until_us) == (False, 5 + LONGEST_US)


def systemd(expression, seconds, now_s, zone):
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": zone}
    argv = question(expression, seconds, now_s * SECOND_US)
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=env)
    return answer(done.stdout, seconds, now_s * SECOND_US)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_systemd_itself_says_so(zone):
    """Every day at two for an hour, asked through a day in steps: open for one hour of it."""
    hours = [systemd("*-*-* 02:30", HOUR, SUNDAY_2 + step * 1800, zone).is_open for step in range(48)]
    assert hours.count(True) == 2
    offset_s = {"UTC": 0, "Asia/Kolkata": 19_800, "America/New_York": -18_000}[zone]
    local_s = [(SUNDAY_2 + step * 1800 + offset_s) % 86_400 for step, is_open in enumerate(hours) if is_open]
    assert sorted(local_s) == [9000, 10_800]


@given(st.integers(0, 4_000_000_000), st.integers(1, 86_400), st.integers(-90_000, 90_000))
def test_an_answer_never_outlives_what_it_is_about(elapse_s, seconds, offset_s):
    now_us = max(0, elapse_s + offset_s) * SECOND_US
    found = answer(said(elapse_s), seconds, now_us)
    assert found.since_us == now_us < found.until_us <= now_us + LONGEST_US
    assert found.is_open == (elapse_s * SECOND_US <= now_us)
