"""The actuator on a real systemd, with Governance's real key in the wrong hands: it does only what root allowed.

And cut off in the middle of acts; GRACED_NIGHTLY=1 in the environment cuts off nine of them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.adopted import ESCALATED, Adopted

if TYPE_CHECKING:
    from tests.support.container import Container

NIGHTLY = os.environ.get("GRACED_NIGHTLY") == "1"
# After an act was written down: before and after its files, before and in its start.
DELAYS_S = [number / 20 for number in range(9)] if NIGHTLY else [0.0, 0.05, 0.4]
CONFIG = "/etc/nginx/nginx.conf"
# Runs inside, as root: signs a warrant as Governance would and calls the actuator, which takes root for Healing.
FORGER = """
import hashlib, json, os, sys, time
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from graced.base.json import canonical
from graced.trust.keys import Signer, encode_base64, unseal_key
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError

method, unit, playbook, changes = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
share, keys = "/usr/share/graced", "/var/lib/graced/keys"


def read(path):
    with open(path, "rb") as file:
        return file.read()


def digest(path):
    return hashlib.sha256(read(path)).hexdigest()


if method == "Execute":
    seed = unseal_key(read(keys + "/governance.key"), read(keys + "/governance.seal"))[1]
    signer = Signer(seed, "governance", "test")
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    warrant = {
        "v": 1, "task_id": "task_1", "intent_id": None, "unit": unit, "playbook": playbook,
        "playbook_digest": digest(f"{share}/playbooks/{playbook}.toml"), "profile": "nginx",
        "profile_digest": digest(share + "/profiles/nginx.toml"), "steps": [0, 1], "tier": 3,
        "boot_id": read("/proc/sys/kernel/random/boot_id").decode().strip().replace("-", ""),
        "not_before_boottime_us": now, "not_after_boottime_us": now + 30_000_000, "nonce": os.urandom(16).hex(),
        "policy_rule": "none", "policy_digest": "none", **changes,
    }
    signature = encode_base64(signer.sign(b"graced-warrant-v1\\n", canonical(warrant)))
    parameters = {"warrant": warrant, "kid": signer.kid, "signature": signature}
else:
    parameters = {"unit": unit, **changes}
with Client("/run/graced/io.graced.Actuator", 60.0) as client:
    try:
        print(json.dumps(client.call("io.graced.Actuator." + method, parameters)))
    except VarlinkError as error:
        print(json.dumps({"error": error.name, **error.parameters}))
"""


def call(machine: Container, method: str, unit: str = "nginx.service", playbook: str = "", **changes: Any) -> Any:
    """One call to the actuator; for Execute with a warrant that is sound but for `changes`."""
    return machine.run(["python3", "-I", "-c", FORGER, method, unit, playbook, json.dumps(changes)]).json()


@pytest.fixture
def adopted(machine: Container) -> Container:
    """A machine with nginx up, adopted by hand, with a last-known-good copy; the other daemons stay out of it."""
    machine.allow("a warrant was refused")
    machine.systemctl("stop", "graced-infrastructure.service", "graced-infrastructure.socket").ok()
    machine.systemctl("start", "nginx.service").ok()
    watch = 'unit = "nginx.service"\nprofile = "nginx"\ntier = 3\n'
    machine.write("/etc/graced/watch.d/nginx.toml", watch)
    assert "digest" in call(machine, "Snapshot", reason="adopt")
    return machine


def test_a_stolen_key_does_only_what_root_allowed(adopted: Container) -> None:
    def refusal(unit: str = "nginx.service", **changes: Any) -> str:
        answer = call(adopted, "Execute", unit, "restart-unit", **changes)
        return str(answer.get("reason") or answer.get("error"))

    before = adopted.pid("nginx.service")
    assert refusal(unit="dbus.service") == "denied-unit"
    assert refusal(unit="cron.service") == "NotAdopted"
    assert refusal(tier=4) == "tier"
    assert refusal(steps=[0, 9]) == "steps"
    assert refusal(playbook_digest="0" * 64) == "playbook-digest"
    assert refusal(profile_digest="0" * 64) == "profile-digest"
    assert refusal(boot_id="0" * 32) == "boot"
    assert refusal(not_after_boottime_us=1) == "expired"
    assert adopted.pid("nginx.service") == before


def test_the_admin_goes_first(adopted: Container) -> None:
    adopted.systemctl("stop", "nginx.service").ok()
    assert call(adopted, "Execute", "nginx.service", "restart-unit")["reason"] == "admin-stopped"
    adopted.systemctl("mask", "--runtime", "nginx.service").ok()
    assert call(adopted, "Execute", "nginx.service", "restart-unit")["reason"] == "masked"
    assert adopted.state("nginx.service") == "inactive"


def test_a_broken_config_comes_back_and_the_rejected_one_is_kept(adopted: Container) -> None:
    adopted.allow("nginx")
    good = adopted.read(CONFIG)
    adopted.write(CONFIG, "not a directive;\n")
    adopted.systemctl("restart", "nginx.service")
    assert adopted.state("nginx.service") == "failed"
    act = call(adopted, "Execute", "nginx.service", "restore-config", steps=[0, 1, 2])["act"]
    assert adopted.read(CONFIG) == good
    assert adopted.state("nginx.service") == "active"
    assert adopted.read(act["rejected"][0]) == "not a directive;\n"
    records = adopted.journal(OBJECT_SYSTEMD_UNIT="nginx.service", GRACED_REJECTED=act["rejected"][0])
    assert len(records) == 1
    assert "directive" in records[0]["GRACED_VALIDATOR"]
    adopted.write(CONFIG, "not a directive;\n")
    adopted.systemctl("restart", "nginx.service")
    again = call(adopted, "Execute", "nginx.service", "restore-config", steps=[0, 1, 2])
    assert again["reason"] == "same-edit-again"
    assert adopted.read(CONFIG) == "not a directive;\n"
    adopted.write(CONFIG, good)
    adopted.systemctl("restart", "nginx.service").ok()


class Killer(threading.Thread):
    """Waits for the next act to be written down, and a little longer; then SIGKILL to the actuator."""

    def __init__(self, machine: Container, delay_s: float) -> None:
        super().__init__()
        self.acts, self.delay_s, self.hit = machine.path("/var/lib/graced/actuator/acts"), delay_s, False
        self.known, self.deadline = self.records(), time.monotonic() + 60
        self.end = cgroup(machine) / "graced.slice/graced-actuator.service/cgroup.kill"

    def records(self) -> set[Path]:
        return set(self.acts.glob("*/record.json")) if self.acts.is_dir() else set()

    def run(self) -> None:
        while self.records() == self.known:
            if time.monotonic() > self.deadline:
                return
            time.sleep(0.001)
        time.sleep(self.delay_s)
        self.end.write_text("1")
        self.hit = True


def test_an_act_that_is_cut_off_is_brought_to_its_end(machine: Container) -> None:
    machine.allow(
        "was cut off and is finished now", "graced-actuator.service", "heal of nginx.service failed", ESCALATED
    )
    machine.allow("Failed with result", "nginx")
    # Long enough to be cut off in the middle of a start too.
    machine.write("/etc/systemd/system/nginx.service.d/slow.conf", "[Service]\nExecStartPre=/bin/sleep 0.3\n")
    machine.systemctl("daemon-reload").ok()
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    good = nginx.file()
    for turn, delay_s in enumerate(DELAYS_S):
        killer = Killer(machine, delay_s)
        killer.start()
        rubbish = f"rubbish {turn};"
        nginx.fault(f"echo '{rubbish}' > CONFIG", restart=True)
        killer.join()
        assert killer.hit
        machine.wait_until("it serves again", lambda: nginx.file() == good and nginx.answers(), 60)
        machine.wait_until("it is over", lambda: all(one["closed_at"] for one in nginx.incidents()), 60)
        kept = machine.sh("cat $(find /var/lib/graced/rejected -type f)").ok().stdout
        assert rubbish in kept
        assert machine.sh("find /etc/nginx -name '.graced-*'").ok().stdout == ""
    machine.wait_until("no act is left undone", lambda: '"begun"' not in records(machine), 60)
    said = machine.run(["journalctl", "-q", "--no-pager", "-u", "graced-actuator", "-g", "was cut off and is finished"])
    assert said.stdout
    machine.run(["gracectl", "audit", "verify"]).ok()
    with nginx.healed():
        nginx.kill()


def cgroup(machine: Container) -> Path:
    """The machine's control group as this process sees it."""
    lines = Path(f"/proc/{machine.leader}/cgroup").read_text().splitlines()
    inside = next(line[3:] for line in lines if line.startswith("0::")).removesuffix("/init.scope")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return Path(next(mount[1] for mount in mounts if mount[2] == "cgroup2") + inside)


def records(machine: Container) -> str:
    return machine.sh("cat /var/lib/graced/actuator/acts/*/record.json").ok().stdout
