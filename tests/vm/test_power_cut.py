"""The power is cut while graced repairs, signs, queues and changes keys: what it had acknowledged is there at the next
boot, keys and signatures from before it are good, and nobody cries wolf. tests/support/vm.py says what this proves.

GRACED_CUTS in the environment is how often (3), GRACED_SEED where the moments come from (the clock; it is printed).
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.vm import Machine, Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

CUTS = int(os.environ.get("GRACED_CUTS", "3"))
SEED = int(os.environ.get("GRACED_SEED", str(time.time_ns() % 1_000_000)))
GUEST = Path(__file__).with_name("guest")
BROKEN = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b70f"
SETTLED = (
    "systemctl is-active --quiet graced.target && curl -sS -o /dev/null --max-time 5 http://127.0.0.1/ && "
    "gracectl incidents --json=short | python3 -c 'import json, sys; "
    'sys.exit(any(one["closed_at"] is None and one["outcome"] != "observed" for one in json.load(sys.stdin)))\''
)


@pytest.fixture
def vm(suite: str, deb: Path) -> Iterator[Vm]:
    """A host, off. On a real disk: /tmp may be in memory."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="graced-vm-") as where,
        Vm(Machine.of(suite, deb), Path(where)) as one,
    ):
        yield one


def be_patient(vm: Vm) -> None:
    """What an admin does about a machine this slow: checks may take longer, and futile repairs are not counted."""
    profile = (
        vm.sh("sed 's/^timeout_seconds = .*/timeout_seconds = 15/' /usr/share/graced/profiles/nginx.toml").ok().stdout
    )
    vm.write("/etc/graced/profiles/nginx.toml", profile)
    bounds = "per_unit_per_hour = 500\nper_host_per_hour = 1000\nbreaker_failures = 100\n"
    vm.write("/etc/graced/policy.d/60-patience.toml", f"[limits]\n{bounds}")
    vm.run(["gracectl", "config", "check"]).ok()
    vm.run(["systemctl", "reload", "graced.target"]).ok()


def acknowledged(vm: Vm) -> list[dict[str, Any]]:
    """What left the guest; a line that the cut went through was not acknowledged to anybody."""
    lines = vm.acks.read_text().split("\n")[:-1] if vm.acks.exists() else []
    return [json.loads(line) for line in lines]


def wait_acks(vm: Vm, wanted: set[str], seconds: float) -> None:
    """Until the guest has acknowledged each kind of work since the last cut."""
    before = len(acknowledged(vm))
    deadline = time.monotonic() + seconds
    while not wanted <= {kind for one in acknowledged(vm)[before:] for kind in one}:
        assert time.monotonic() < deadline, f"only {acknowledged(vm)[before:][-5:]}\n{vm.report()}"
        time.sleep(0.2)


def start_load(vm: Vm) -> None:
    """The work, as a unit of its own."""
    vm.write("/usr/lib/testbed-load.py", (GUEST / "load.py").read_text())
    vm.write("/usr/lib/testbed-kept.py", (GUEST / "kept.py").read_text())
    vm.run(["systemd-run", "--unit=testbed-load", "python3", "/usr/lib/testbed-load.py"]).ok()


def assert_kept(vm: Vm, good: str) -> dict[str, int]:
    """Everything that was acknowledged before the cut, after it."""
    said = acknowledged(vm)
    tasks = [one["task"] for one in said if "task" in one]
    kept = vm.run(["python3", "/usr/lib/testbed-kept.py", str(max(int(one[5:]) for one in tasks))], timeout=600).json()
    assert not set(kept["missing"]) & set(tasks)
    for one in said:
        if "entry" in one:
            assert kept["entries"].get(str(one["entry"])) == one["n"], one
    assert kept["answer"] in {"agrees", "none"}

    heads = [one["head"] for one in said if "head" in one]
    vm.write("/root/head", heads[-1])
    report = vm.run(["gracectl", "audit", "verify", "--json=short", "--checkpoint=/root/head"]).json()
    assert report["ok"], report
    assert report["anchor"] == "agrees"

    listed = {one["kid"]: one for one in vm.run(["gracectl", "keys", "list", "--json=short"]).json()}
    for one in said:
        for kid, signer in one.get("keys", {}).items():
            assert listed[kid]["signer"] == signer
    current = [one["signer"] for one in listed.values() if one["state"] == "current"]
    assert sorted(current) == ["governance", "ledger", "verification"]

    assert vm.sh("cat /etc/nginx/nginx.conf").stdout == good
    assert vm.run(["journalctl", "-q", "--no-pager", f"MESSAGE_ID={BROKEN}"]).stdout == ""
    journal = vm.sh("journalctl -q --no-pager -b -u 'graced*' -p warning -o cat").stdout
    assert "refuses to start" not in journal
    assert "RE-KEYED" not in journal
    assert "put back" not in journal
    return {
        "tasks": len(tasks),
        "entries": len(kept["entries"]),
        "keys": len(listed),
        "signatures": report["signatures"],
    }


@pytest.mark.timeout(7200)
def test_power_cuts(vm: Vm) -> None:
    moments = random.Random(SEED)
    print(f"GRACED_SEED={SEED}")
    vm.boot()
    vm.wait("graced is up", "gracectl status")
    be_patient(vm)
    vm.run(["systemctl", "enable", "--now", "--quiet", "nginx"]).ok()
    vm.run(["gracectl", "adopt", "nginx"]).ok()
    good = vm.sh("cat /etc/nginx/nginx.conf").ok().stdout
    vm.run(["sync"]).ok()
    for number in range(CUTS):
        start_load(vm)
        wait_acks(vm, {"task", "entry", "head", "fault", "keys"}, 900.0)
        time.sleep(moments.uniform(0.0, 20.0))
        vm.cut()
        vm.boot()
        vm.wait("what was cut off is finished", SETTLED)
        print(f"cut {number + 1}: kept {assert_kept(vm, good)}", flush=True)
        if number + 1 < CUTS:
            # An orderly end in between: not every boot follows a cut.
            vm.poweroff()
            vm.boot()
            vm.wait("graced is up", SETTLED)
