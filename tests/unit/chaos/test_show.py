"""What people see while it heals and at the end."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chaos import journal
from chaos.runner import Row
from chaos.show import Live, Paint, about, stage_of, table

PLAIN = Paint(colour=False)
UNIT = "nginx.service"


def record(stamp_us: int, **fields: Any) -> dict[str, Any]:
    """A journal record."""
    return {"__MONOTONIC_TIMESTAMP": str(stamp_us), "PRIORITY": "5", "MESSAGE": "hello", **fields}


def systemd(stamp_us: int, message: str, unit: str = UNIT) -> dict[str, Any]:
    """One of PID 1."""
    return record(stamp_us, _PID="1", UNIT=unit, MESSAGE=message)


def supervisor(stamp_us: int, message_id: str) -> dict[str, Any]:
    """One of the supervisor."""
    return record(stamp_us, _PID="7", _SYSTEMD_UNIT="graced-supervisor.service", UNIT=UNIT, MESSAGE_ID=message_id)


def test_live_lines_have_the_time_since_the_fault_and_their_stage() -> None:
    out = io.StringIO()
    live = Live(out, PLAIN)
    live.expect(UNIT)
    live(systemd(900_000, "before the fault"))
    live(systemd(1_002_500, "died"))  # the fault's stamp is not known yet
    assert out.getvalue() == ""
    live.begin(1_000_000)
    live(supervisor(1_010_000, journal.INCIDENT_OPENED))
    live(systemd(1_020_000, "something else", unit="redis-server.service"))
    live(supervisor(3_000_000, journal.INCIDENT_CLOSED))
    assert out.getvalue().splitlines() == [
        "       +2.5 ms  systemd     died",
        "      +10.0 ms  detected    hello",
        "    +2000.0 ms  closed      hello",
    ]


def test_a_user_cannot_forge_a_line() -> None:
    assert about(systemd(1, "x"), UNIT)
    assert not about(record(1, _PID="99", _SYSTEMD_UNIT="user@1000.service", UNIT=UNIT), UNIT)
    forged = supervisor(1, journal.INCIDENT_CLOSED) | {"_SYSTEMD_UNIT": "evil.service"}
    assert not journal.by_service(forged, journal.SUPERVISOR, journal.INCIDENT_CLOSED)
    assert not journal.by_pid1(record(1, _PID="9", UNIT=UNIT, MESSAGE_ID=journal.STARTED), UNIT, journal.STARTED)


def test_stages() -> None:
    assert stage_of(record(1, _SYSTEMD_UNIT="graced-governance.service")) == "decided"
    assert stage_of(record(1, _SYSTEMD_UNIT="graced-memory.service")) == "memory"


@given(st.one_of(st.none(), st.text(), st.lists(st.integers(0, 255)), st.lists(st.text(), min_size=1)))
def test_every_message_journalctl_can_give_is_one_line(message: Any) -> None:
    assert "\n" not in journal.message({"MESSAGE": message})


def test_the_table_names_what_failed_and_counts() -> None:
    good = Row(UNIT, "kill", detected_ms=4.0, healed_ms=200.0, limit_ms=500.0, by="systemd")
    late = Row(UNIT, "stop", healed_ms=600.0, limit_ms=500.0, by="systemd")
    silent = Row(UNIT, "config", limit_ms=500.0, error="no evidence: nothing")
    wrong = Row(UNIT, "kill", healed_ms=1.0, limit_ms=500.0, error="does not serve")
    assert [row.passed for row in (good, late, silent, wrong)] == [True, False, False, False]
    shown = table([{"debian": "trixie", **row.to_json()} for row in (good, late, silent, wrong)], PLAIN, ["debian"])
    lines = shown.splitlines()
    assert lines[0].split() == ["DEBIAN", "UNIT", "FAULT", "DETECTED", "HEALED", "BOOT", "LIMIT", "RESULT"]
    assert lines[1].endswith("ok, systemd")
    assert lines[2].endswith("FAILED: too late")
    assert lines[3].endswith("FAILED: no evidence: nothing")
    assert lines[5] == "1 of 4 healed in time"
    assert "\x1b" not in shown
    assert "\x1b[32m" in table([good.to_json()], Paint(colour=True))
