"""A ledger that was put back to an older copy while nobody watched: found at the start and by audit, loudly."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.container import Container

UNIT = "graced-supervisor.service"
STATE = "/var/lib/graced/supervisor"
BROKEN = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b70f"
PATTERN = r"ledger"


def test_rollback(machine: Container) -> None:
    machine.allow(PATTERN)
    machine.wait_state(UNIT, "active")
    good = machine.run(["gracectl", "audit", "verify", "--json=short"]).ok().json()
    assert good["anchor"] == "agrees"
    machine.systemctl("stop", UNIT, "graced-supervisor.socket").ok()
    state, copy = machine.path(STATE), machine.path("/root/older")
    shutil.copytree(state, copy)
    machine.systemctl("start", "graced.target").ok()
    machine.wait_state(UNIT, "active")
    machine.unit(["python3", "-c", APPEND]).ok()
    machine.wait_until("a head over it", lambda: head(machine) > good["size"])
    machine.systemctl("stop", UNIT, "graced-supervisor.socket").ok()
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (state / name).unlink(missing_ok=True)
        if (copy / name).exists():
            shutil.copy2(copy / name, state / name)
    machine.run(["chown", "-R", "_graced-supervisor:_graced", STATE]).ok()
    machine.systemctl("start", "graced.target").ok()

    record = machine.wait_journal("changed from outside", MESSAGE_ID=BROKEN)
    assert record["PRIORITY"] == "2"
    machine.wait_until("an incident", lambda: "ledger.rolled-back" in machine.run(["gracectl", "incidents"]).stdout)
    # The incident and the word about the return are entries: the new history may be as long as the old one was.
    audited = machine.run(["gracectl", "audit", "verify", "--json=short"])
    assert audited.returncode == 1
    found = json.loads(audited.stdout)
    assert (found["anchor"], found["answer"]) == ("rolled-back", "rolled-back"), found
    answers = machine.run(["python3", "-c", ANSWERS]).ok().json()
    assert answers == {"agrees": 0, "none": 0, "unread": 0, "rolled-back": 1, "differs": 0}
    status = machine.run(["gracectl", "status"])
    assert "changed from outside" in status.stdout


def test_an_edited_table(machine: Container) -> None:
    machine.allow(PATTERN)
    machine.wait_state(UNIT, "active")
    machine.systemctl("stop", UNIT, "graced-supervisor.socket").ok()
    machine.unit(["python3", "-c", EDIT], properties={"User": "_graced-supervisor"}).ok()
    machine.systemctl("start", "graced.target").ok()

    record = machine.wait_journal("the ledger's tables were changed from outside", MESSAGE_ID=BROKEN)
    assert record["PRIORITY"] == "2"
    machine.wait_until("an incident", lambda: "ledger.tables" in machine.run(["gracectl", "incidents"]).stdout)
    audited = machine.run(["gracectl", "audit", "verify", "--json=short"])
    assert audited.returncode == 1
    found = json.loads(audited.stdout)
    assert (found["anchor"], found["answer"]) == ("agrees", "changed"), found
    assert [problem["code"] for problem in found["problems"]] == ["crypto-audit"]
    assert "tables were changed" in machine.run(["gracectl", "status"]).stdout


EDIT = f"""
import sqlite3
db = sqlite3.connect("{STATE}/ledger.db")
db.execute("DROP TRIGGER audit_no_update")
db.execute("UPDATE crypto_audit SET uid = 1000 WHERE id = 1")
db.commit()
"""


APPEND = """
from graced.varlink.client import Client
with Client("/run/graced/io.graced.Supervisor", timeout_s=60.0) as client:
    client.call("io.graced.Ledger.Append", {"kind": "step", "data": {"test": "anchor"}})
"""
ANSWERS = """
import json
from graced.varlink.client import Client
with Client("/run/graced/io.graced.Supervisor", timeout_s=60.0) as client:
    families = client.call("io.graced.Supervisor.Metrics", {})["families"]
(family,) = [one for one in families if one["name"] == "graced_ledger_anchor"]
print(json.dumps({one["labels"]["answer"]: one["value"] for one in family["samples"]}))
"""


def head(machine: Container) -> int:
    """Entries that the newest head in the journal covers."""
    found = machine.journal(MESSAGE_ID="6a7f0c0a3d6e4c1f9b2d5e8f10a4b70e")
    return max((int(one["GRACED_LEDGER_SIZE"]) for one in found), default=0)
