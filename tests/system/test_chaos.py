"""graced-chaos as installed: every fault on every target, and its own bad luck. The same scripts as `make chaos`.

How long a heal took is asserted by `make chaos`, which has the machine for itself; here the evidence is.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.adopted import Adopted
from tests.support.chaos import CHAOS, chaos_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.container import Container, Done

UNDO = "/var/lib/graced-chaos/undo.jsonl"
FAULTS = {"kill", "stop", "config"}
DAEMONS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
# What a broken daemon of graced leaves in the journal: systemd's words about it, its own, and that others miss it.
NOISE = (
    r"Main process exited, code=killed",
    r"Failed with result '(signal|watchdog)'",
    r"Watchdog timeout",
    r"Killing process \d+",
    r"configuration refused",
    r"io\.graced\.",
    r"^incident_\d+: nginx.service is not healed",
)
HOLD_DPKG = """
import fcntl, sys
lock = open("/var/lib/dpkg/lock-frontend", "r+")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def nginx(machine: Container) -> Adopted:
    """nginx under graced's care."""
    machine.allow(*NOISE)
    unit = Adopted(machine, "nginx")
    unit.adopt()
    return unit


@pytest.fixture
def no_heal(nginx: Adopted) -> Iterator[None]:
    """A package manager at work: graced sees every fault and repairs none."""
    holder = nginx.machine.popen(
        ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "python3", "-I", "-c", HOLD_DPKG],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()
        holder.wait(timeout=60)


def chaos(machine: Container, *arguments: str) -> Done:
    """graced-chaos run, as a unit inside."""
    return machine.run(chaos_command(["--json", *arguments]), timeout=800)


def rows(done: Done) -> list[dict[str, Any]]:
    """What it found."""
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(900)
def test_every_fault_on_every_target_heals_with_evidence(nginx: Adopted) -> None:
    machine = nginx.machine
    # The actuator ends when idle: whoever calls it while graced.toml is broken has it started in vain.
    machine.allow(
        r"^actuator refuses to start: /etc/graced/graced\.toml:1: Invalid statement",
        r"^graced-actuator.service: Failed with result 'exit-code'|^Failed to start graced-actuator.service",
    )
    redis = Adopted(machine, "redis-server")
    redis.adopt()
    before = nginx.file(nginx.config), redis.file(redis.config)
    found = rows(chaos(machine))
    assert [row["error"] for row in found if row["error"]] == [], machine.report()
    wanted = {f"graced-{name}.service" for name in DAEMONS} | {nginx.unit, redis.unit}
    assert {(row["unit"], row["fault"]) for row in found} == {(unit, fault) for unit in wanted for fault in FAULTS}
    for row in found:
        assert 0 < row["detected_ms"] <= row["healed_ms"], row
        assert (row["boot_ms"] is not None) == (row["by"] == "systemd"), row
        assert row["by"] == "systemd" or row["by"] == "kept running" or "verification/" in row["by"], row
    assert (nginx.file(nginx.config), redis.file(redis.config)) == before
    assert machine.read(UNDO) == ""


def test_watching_it_shows_the_whole_story_in_plain_text(nginx: Adopted) -> None:
    done = nginx.machine.run(chaos_command(["--watch", "--unit", "nginx", "--fault", "kill"])).ok()
    for stage in ("detected", "decided", "repaired", "verified", "closed"):
        assert f" ms  {stage}" in done.stderr
    assert "1 of 1 healed in time" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.usefixtures("no_heal")
def test_a_heal_that_never_comes_fails_the_run_and_the_fault_is_taken_back(nginx: Adopted) -> None:
    good = nginx.file(nginx.config)
    done = chaos(nginx.machine, "--unit", "nginx", "--fault", "config", "--timeout", "10")
    assert done.returncode == 1
    [row] = rows(done)
    assert "no evidence: the end of an incident on nginx.service" in row["error"]
    assert not row["passed"]
    assert row["healed_ms"] is None
    assert nginx.file(nginx.config) == good
    assert nginx.machine.state(nginx.unit) == "active"
    assert nginx.answers()
    assert nginx.machine.read(UNDO) == ""


@pytest.mark.usefixtures("no_heal")
def test_a_killed_runner_is_cleaned_up_after_at_the_next_start(nginx: Adopted) -> None:
    machine = nginx.machine
    good = nginx.file(nginx.config)
    runner = [
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit=runner",
        "--",
        CHAOS,
        "run",
        "--unit=nginx",
        "--fault=config",
    ]
    machine.run(runner).ok()
    machine.wait_state(nginx.unit, "failed")
    machine.unit(["systemctl", "kill", "--signal=KILL", "runner.service"]).ok()
    machine.wait_until("the runner is dead", lambda: machine.state("runner.service") in {"inactive", "failed"})
    assert nginx.file(nginx.config) != good
    entry = json.loads(machine.read(UNDO))
    assert (entry["fault"], entry["unit"], entry["undo"]["path"]) == ("config", nginx.unit, nginx.config)

    # Any run begins with it, also one that then does nothing else.
    done = machine.unit([CHAOS, "rollback"]).ok()
    assert "rolled back config on nginx.service" in done.stderr
    assert nginx.file(nginx.config) == good
    assert machine.state(nginx.unit) == "active"
    assert nginx.answers()
    assert machine.read(UNDO) == ""


def test_without_graced_nothing_is_broken_and_the_run_fails(nginx: Adopted) -> None:
    machine = nginx.machine
    machine.systemctl("stop", "graced.target").ok()
    pid = machine.pid(nginx.unit)
    done = chaos(machine, "--unit", "nginx", "--settle", "1")
    assert done.returncode == 1
    found = rows(done)
    assert {row["fault"] for row in found} == FAULTS
    assert all("no steady state" in row["error"] and not row["passed"] for row in found)
    assert machine.pid(nginx.unit) == pid


def test_it_breaks_nothing_it_was_not_allowed_to(nginx: Adopted) -> None:
    machine = nginx.machine
    stranger = chaos(machine, "--unit", "dbus.service")
    assert stranger.returncode == 1
    assert "neither a daemon of graced nor adopted" in stranger.stderr
    nobody = machine.run([CHAOS, "run", "--unit", "nginx"], user="_graced-memory")
    assert nobody.returncode == 3
    assert "needs root" in nobody.stderr
    assert machine.run([CHAOS, "run", "--fault", "no-such-fault"]).returncode == 2
    listed = machine.run([CHAOS, "list"]).ok().stdout
    assert "experiments: config kill stop" in listed
    assert nginx.unit in listed
