"""The record of what was healed: signed, tamper-evident, and there after a reboot; a task for nothing fails."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import image
from tests.support.adopted import ESCALATED, Adopted
from tests.support.container import Container

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEDGER = "/var/lib/graced/supervisor/ledger.db"
ROSTER = "/var/lib/graced/roster.json"
COPY, COPIED_ROSTER = "/root/ledger.db", "/root/roster.json"


@pytest.fixture
def nginx(machine: Container) -> Adopted:
    """nginx, adopted."""
    daemon = Adopted(machine, "nginx")
    daemon.adopt()
    return daemon


def verify(machine: Container, *arguments: str) -> dict[str, Any]:
    """The report of `gracectl audit verify`, whose exit status must agree with it."""
    done = machine.run(["gracectl", "audit", "verify", "--json=short", *arguments])
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0), done
    return report


def flip_a_byte(path: Path) -> None:
    """One letter of one decision, in place."""
    data = path.read_bytes()
    at = data.index(b'"kind":"decision"')
    at = data.index(b"allow", at)
    path.write_bytes(data[:at] + b"b" + data[at + 1 :])


def delete(path: Path, which: str) -> None:
    """Deletes one row of the ledger, without asking its triggers."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        assert database.execute(f"DELETE FROM ledger WHERE {which}").rowcount == 1


def delete_a_row(path: Path) -> None:
    """As somebody would who knows SQLite, its triggers and the ledger's tables."""
    delete(path, "seq = 3")


def cut_the_tail(path: Path) -> None:
    """The last entry never was."""
    delete(path, "seq = (SELECT max(seq) FROM ledger)")


def test_the_ledger_holds_and_every_change_shows(nginx: Adopted, tmp_path: Path) -> None:
    machine = nginx.machine
    with nginx.healed():
        nginx.kill()
    with nginx.healed():
        nginx.fault("echo nonsense > CONFIG", restart=True)
    report = verify(machine)
    assert report["ok"]
    assert report["problems"] == []
    assert report["entries"] > 10

    machine.systemctl("stop", "graced.target").ok()
    machine.wait_state("graced-supervisor.service", "inactive")
    report = verify(machine)
    assert report["ok"]
    assert report["anchor"] == "agrees"

    def with_change(change: Callable[[Path], None] | None) -> dict[str, Any]:
        # Changed out here: SQLite resolves links, and the container's path is one.
        copy = tmp_path / "ledger.db"
        shutil.copyfile(machine.path(LEDGER), copy)
        if change is not None:
            change(copy)
        machine.put(copy, COPY)
        shutil.copyfile(machine.path(ROSTER), machine.path(COPIED_ROSTER))
        return verify(machine, "--database", COPY, "--roster", COPIED_ROSTER)

    assert with_change(None)["ok"]
    for change in (flip_a_byte, delete_a_row, cut_the_tail):
        report = with_change(change)
        assert not report["ok"], change.__name__
        assert report["problems"], change.__name__


def test_a_task_for_a_unit_that_is_not_there_fails_and_changes_nothing(nginx: Adopted) -> None:
    machine = nginx.machine
    machine.allow(ESCALATED, "^heal of ghost.service failed at ", "^heal of nginx.service failed at ")

    def state() -> str:
        return machine.sh(
            "systemctl list-units --all --plain --no-legend --type=service | grep -v '^run-\\|graced'"
        ).stdout

    def submit(unit: str) -> dict[str, Any]:
        context = json.dumps({"unit": unit, "finding": "unit.failed"})
        task = machine.run(["gracectl", "submit", "heal", "remediate", "--context", context, "--json=short"]).json()

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = machine.run(["gracectl", "task", task["task_id"], "--json=short"]).json()
            return found if found.get("task", found)["state"] not in {"queued", "waiting", "leased"} else None

        found: dict[str, Any] = machine.wait_until(f"{task} ended", ended)
        return found.get("task", found)

    before = state()
    never_adopted = submit("ghost.service")
    assert never_adopted["state"] in {"failed", "dead"}
    assert "ghost.service" in never_adopted["error"]
    assert state() == before

    # Adopted, and then its package is gone.
    machine.sh("systemctl stop nginx").ok()
    machine.sh("rm $(systemctl show -P FragmentPath nginx); systemctl daemon-reload").ok()
    before = state()
    gone = submit(nginx.unit)
    assert gone["state"] == "done"
    result = gone["result"]
    assert (result["status"], result["issue_resolved"]) == ("refused", False)
    assert "nginx.service" in json.dumps(result) or "no-such-unit" in json.dumps(result)
    assert state() == before
    assert nginx.acts() == []


def test_what_was_healed_survives_a_reboot(suite: str, deb: Path, tmp_path: Path) -> None:
    """The same disk, powered off in order and booted again: queue, incidents, ledger and keys are there."""
    root = image.installed(suite, deb)
    etc, state = tmp_path / "etc", tmp_path / "graced"
    image.copy(root / "etc", etc)
    state.mkdir(mode=0o755)
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    disk = {etc: "/etc", state: "/var/lib/graced"}

    with Container(root, binds=disk) as machine:
        nginx = Adopted(machine, "nginx")
        nginx.adopt()
        machine.systemctl("enable", "--quiet", nginx.unit).ok()
        with nginx.healed():
            nginx.kill()
        queued = machine.run(["gracectl", "submit", "someday", "something", "--json=short"]).json()["task_id"]
        incidents = nginx.incidents()
        entries = verify(machine)["entries"]
        keys = machine.sh("cat /var/lib/graced/keys/*.key | sha256sum").ok().stdout
        assert machine.complaints() == []
        machine.poweroff()

    with Container(root, binds=disk) as machine:
        nginx = Adopted(machine, "nginx")
        assert nginx.incidents() == incidents
        assert machine.sh("cat /var/lib/graced/keys/*.key | sha256sum").ok().stdout == keys
        report = verify(machine)
        assert report["ok"]
        assert report["entries"] >= entries
        found = machine.run(["gracectl", "task", queued, "--json=short"]).json()
        assert found.get("task", found)["state"] == "queued"
        # Still adopted, still healed, and it still knows what helped.
        machine.wait_state(nginx.unit, "active")
        with nginx.healed() as again:
            nginx.kill()
        assert "Try restart-unit first" in nginx.explain(again[0])
        assert machine.complaints() == []
