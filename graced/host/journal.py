"""Questions to the journal: argv of journalctl and pure parsers of its JSON lines.

Only fields that begin with `_` are trusted, and records that PID 1 itself wrote (`_PID=1`): any local user may
write UNIT= or MESSAGE_ID= into the journal. Every query is bounded. Used by Infrastructure and Verification;
the caller runs the process and needs group systemd-journal.
"""

from __future__ import annotations

from graced.base.clock import boot_id
from graced.base.json import loads
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

JOURNALCTL = "/usr/bin/journalctl"
MAX_RECORDS = 200
_MANAGER_FIELDS = "__MONOTONIC_TIMESTAMP,_PID,UNIT,INVOCATION_ID,JOB_TYPE,JOB_RESULT,UNIT_RESULT,MESSAGE"
_ERROR_FIELDS = "__MONOTONIC_TIMESTAMP,_SYSTEMD_UNIT,_PID,PRIORITY,MESSAGE"


class JournalRecord(Record):
    """One line of the journal; times in µs of CLOCK_MONOTONIC, absent fields are ""."""

    monotonic_us: int
    pid: str = ""
    unit: str = ""
    invocation_id: str = ""
    job_type: str = ""
    job_result: str = ""
    unit_result: str = ""
    priority: int = 6
    message: str = ""


def jobs_argv(unit: str) -> list[str]:
    """PID 1's newest records of this boot about a unit's jobs."""
    return [*_base(_MANAGER_FIELDS), "_PID=1", f"UNIT={unit}"]


def watchdog_argv(units: list[str]) -> list[str]:
    """PID 1's records of this boot that say a watchdog bit one of these units."""
    return [*_base(_MANAGER_FIELDS), "_PID=1", "UNIT_RESULT=watchdog", *[f"UNIT={unit}" for unit in units]]


def errors_argv(unit: str, priority: int = 3) -> list[str]:
    """The newest records of this boot, `priority` or worse, that the unit's own processes wrote."""
    return [*_base(_ERROR_FIELDS), f"--priority={priority}", f"_SYSTEMD_UNIT={unit}"]


def _base(fields: str) -> list[str]:
    # Not --boot: the boot id that journalctl reads in a sandboxed container is the outer host's.
    return [
        JOURNALCTL,
        f"_BOOT_ID={boot_id()}",
        "--no-pager",
        "--quiet",
        "--output=json",
        f"--output-fields={fields}",
        "--reverse",
        f"--lines={MAX_RECORDS}",
        "--system",
    ]


def parse(text: str) -> list[JournalRecord]:
    """Records of `journalctl --output=json`, newest first as printed; lines that are no record are dropped."""
    records = []
    for line in text.split("\n"):
        if not line:
            continue
        try:
            obj = loads(line)
        except (ValueError, RecursionError):
            continue
        stamp = obj.get("__MONOTONIC_TIMESTAMP") if isinstance(obj, dict) else None
        if not isinstance(stamp, str) or not (stamp.isascii() and stamp.isdigit()):
            continue
        priority = _text(obj, "PRIORITY")
        records.append(
            JournalRecord(
                monotonic_us=int(stamp),
                pid=_text(obj, "_PID"),
                unit=_text(obj, "UNIT") or _text(obj, "_SYSTEMD_UNIT"),
                invocation_id=_text(obj, "INVOCATION_ID"),
                job_type=_text(obj, "JOB_TYPE"),
                job_result=_text(obj, "JOB_RESULT"),
                unit_result=_text(obj, "UNIT_RESULT"),
                priority=int(priority) if priority in set("01234567") else 6,
                message=_text(obj, "MESSAGE"),
            )
        )
    return records


def _text(obj: dict[str, Any], name: str) -> str:
    # A repeated field is a list and a binary one a list of numbers: neither is what PID 1 writes for these.
    value = obj.get(name)
    return value if isinstance(value, str) else ""


def stopped_by_job(records: list[JournalRecord], since_us: int) -> bool | None:
    """Whether PID 1 ran a stop job for the unit after `since_us` (its last start), from `jobs_argv` records.

    None: the journal does not reach back to that start, so nobody can tell (treat it as the admin's stop).
    """
    own = [record for record in records if record.pid == "1"]
    if any(record.job_type == "stop" and record.monotonic_us >= since_us for record in own):
        return True
    known = any(record.monotonic_us <= since_us or record.job_type in {"start", "restart"} for record in own)
    return False if known and since_us > 0 else None


def errors_since(records: list[JournalRecord], since_us: int) -> list[str]:
    """Messages of `errors_argv` records newer than `since_us`, oldest first, at most 20."""
    return [record.message for record in reversed(records) if record.monotonic_us > since_us][-20:]
