"""The same host booted again and again, ended in order or killed in the middle of a repair: its record raises no false
alarm, old keys and signatures stay good, and what was half done is finished.

GRACED_NIGHTLY=1 in the environment makes it 20 reboots on each Debian; otherwise 3 on one of them.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import image
from tests.support.adopted import Adopted
from tests.support.disk import Disk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.container import Container

NIGHTLY = os.environ.get("GRACED_NIGHTLY") == "1"
REBOOTS, SUITES = (20, image.SUITES) if NIGHTLY else (3, image.SUITES[:1])
BROKEN = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b70f"
ANSWERS = """
import json
from graced.varlink.client import Client
with Client("/run/graced/io.graced.Supervisor", timeout_s=60.0) as client:
    families = client.call("io.graced.Supervisor.Metrics", {})["families"]
(family,) = [one for one in families if one["name"] == "graced_ledger_anchor"]
print(json.dumps([one["labels"]["answer"] for one in family["samples"] if one["value"]]))
"""
# What follows from a repair that the end of the machine cut off, in words of the daemons that were in it.
CUT_OFF = (r"was cut off and is finished now",)


def verify(machine: Container, *heads: str) -> dict[str, Any]:
    """The report of `gracectl audit verify`, with heads that were kept elsewhere."""
    options = [f"--checkpoint={head}" for head in heads]
    report: dict[str, Any] = machine.run(["gracectl", "audit", "verify", "--json=short", *options]).json()
    assert report["ok"], report
    return report


def start_check(machine: Container) -> str:
    """What the supervisor found when it compared its ledger with the heads outside."""

    def answer() -> str:
        (found,) = machine.run(["python3", "-c", ANSWERS]).json()
        return "" if found == "unread" else str(found)

    found: str = machine.wait_until("the heads were compared", answer)
    return found


def keys(machine: Container) -> Any:
    """The public side of all keys."""
    return machine.run(["gracectl", "keys", "list", "--json=short"]).json()


def settled(nginx: Adopted) -> bool:
    """Whether nothing is left to be repaired and the unit serves."""
    listed = nginx.machine.run(["gracectl", "incidents", "--json=short"])
    if listed.returncode:
        return False
    left = [one for one in json.loads(listed.stdout) if one["closed_at"] is None and one["outcome"] != "observed"]
    return not left and nginx.answers()


def allow_many(disk: Disk) -> None:
    """A bad hour, as far as policy is concerned: the shipped bounds would end it."""
    etc = disk.where / "etc/graced"
    for shipped in sorted((disk.root / "usr/share/graced/playbooks").glob("*.toml")):
        text = re.sub(r"^per_unit_per_hour = .*$", "per_unit_per_hour = 500", shipped.read_text(), flags=re.MULTILINE)
        (etc / "playbooks" / shipped.name).write_text(text)
    (etc / "policy.d/60-reboots.toml").write_text("[limits]\nper_unit_per_hour = 500\nper_host_per_hour = 1000\n")


def end(nginx: Adopted, number: int) -> None:
    """Ends the machine: in order, at rest, or in the middle of a repair, at different points of it."""
    machine = nginx.machine
    how = number % 4
    if how == 0:
        machine.poweroff()
    elif how == 2:
        # Nothing is awaited: what it was about to do is cut off.
        nginx.kill()
    else:
        count = len(nginx.incidents())
        nginx.fault(f"echo nonsense {number} > CONFIG", restart=True)
        if how == 3:
            machine.wait_until("the incident is open", lambda: len(nginx.incidents()) > count)
    machine.stop()


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.timeout(1800)
def test_reboots_raise_no_false_alarm(suite: str, deb: Path, tmp_path: Path) -> None:
    disk = Disk.of(image.installed(suite, deb), tmp_path)
    allow_many(disk)
    with disk.boot() as machine:
        nginx = Adopted(machine, "nginx")
        nginx.adopt()
        redis = Adopted(machine, "redis-server")
        redis.adopt()
        machine.systemctl("enable", "--quiet", nginx.unit, redis.unit).ok()
        good = nginx.file()
        known = keys(machine)
        public = machine.run(["gracectl", "keys", "export-public", "ledger", "--format", "note"]).ok().stdout.strip()
        before = verify(machine)
        end(nginx, 1)

    heads: list[str] = []
    for number in range(2, REBOOTS + 2):
        with disk.boot() as machine:
            machine.allow(*CUT_OFF)
            nginx = Adopted(machine, "nginx")
            machine.wait_until("what was cut off is finished", lambda one=nginx: settled(one), 60.0)
            assert nginx.file() == good
            assert start_check(machine) == "agrees"
            report = verify(machine, *heads)
            assert report["anchor"] == "agrees"
            assert report["signatures"] >= before["signatures"]
            assert report["entries"] >= before["entries"]
            assert keys(machine) == known
            redis = Adopted(machine, "redis-server")
            with redis.healed():
                redis.fault(f"echo nonsense {number} > CONFIG", restart=True)
            copy = f"/etc/export-{number}"
            machine.unit(["gracectl", "audit", "export", copy]).ok()
            heads.append(f"{copy}/checkpoint")
            # The whole, by the key of the first boot and nothing else of this host.
            offline = ["python3", "-m", "graced.trust.verify", copy, "--key", public]
            machine.run([*offline, *(f"--checkpoint={head}" for head in heads)]).ok()
            before = verify(machine, *heads)
            assert machine.journal(MESSAGE_ID=BROKEN) == []
            assert machine.complaints() == []
            end(nginx, number)
