"""An upgrade of the package on a host whose keys were rotated: whatever was signed before it is good after it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.adopted import Adopted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.container import Container

DAEMONS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
# What the daemons say while the others restart.
RESTARTED = (r"io\.graced\.\w+", r"signs nothing")


@pytest.fixture(scope="session")
def newer(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files under a higher version."""
    where: Path = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "--raw-extract", str(deb), str(where / "tree")], check=True)
    control = where / "tree/DEBIAN/control"
    text = control.read_text()
    (version,) = [line.split()[1] for line in text.splitlines() if line.startswith("Version:")]
    control.write_text(text.replace(f"Version: {version}\n", f"Version: {version}.1\n"))
    output = where / f"graced_{version}.1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(where / "tree"), str(output)], check=True)
    return output


def keys(machine: Container) -> list[dict[str, Any]]:
    """The public side of all keys."""
    listed: list[dict[str, Any]] = machine.run(["gracectl", "keys", "list", "--json=short"]).json()
    return listed


def assert_good(machine: Container, signatures: int) -> int:
    """The ledger holds, an older head and an older export too, and roster and pin agree; its signatures are counted."""
    command = ["gracectl", "audit", "verify", "--archive", "--checkpoint=/root/before/checkpoint", "--json=short"]
    report = machine.run(command).json()
    assert (report["ok"], report["anchor"]) == (True, "agrees"), report
    assert report["signatures"] >= signatures
    (current,) = [one["kid"] for one in keys(machine) if (one["signer"], one["state"]) == ("governance", "current")]
    assert json.loads(machine.read("/var/lib/graced/keys/governance.pin"))["kid"] == current
    return int(report["signatures"])


def heal(nginx: Adopted) -> None:
    """By a warrant and a verdict with the present keys."""
    with nginx.healed():
        nginx.kill()


def test_rotated_keys_and_what_they_signed_survive_an_upgrade(machine: Container, newer: Path) -> None:
    machine.allow(*RESTARTED)
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    heal(nginx)
    machine.run(["gracectl", "keys", "rotate", "--all"]).ok()
    heal(nginx)
    machine.run(["gracectl", "keys", "rotate", "governance"]).ok()
    heal(nginx)
    public = machine.run(["gracectl", "keys", "export-public", "ledger", "--format", "note"]).ok().stdout.strip()
    machine.unit(["gracectl", "audit", "export", "/root/before"]).ok()
    before, pids = keys(machine), {name: machine.pid(f"graced-{name}.service") for name in DAEMONS}
    assert len(before) == 7
    signatures = assert_good(machine, 0)

    machine.put(newer, "/tmp/newer.deb")
    machine.unit(["dpkg", "--install", "/tmp/newer.deb"], timeout=120).ok()
    for name in DAEMONS:
        unit = f"graced-{name}.service"
        machine.wait_until(f"{unit} is new", lambda u=unit, n=name: machine.pid(u) not in (0, pids[n]), 60.0)
        machine.wait_state(unit, "active", 60.0)
    assert machine.run(["dpkg-query", "-W", "-f", "${Version}", "graced"]).stdout.endswith(".1")
    assert keys(machine) == before
    signatures = assert_good(machine, signatures)
    heal(nginx)
    machine.run(["gracectl", "keys", "rotate", "--all"]).ok()
    heal(nginx)
    assert [one["state"] for one in keys(machine) if one["kid"] in {old["kid"] for old in before}] == ["retired"] * 7
    assert assert_good(machine, signatures) > signatures
    # What left the host before the upgrade is checked with the key that was noted then.
    machine.run(["python3", "-m", "graced.trust.verify", "/root/before", "--key", public]).ok()
