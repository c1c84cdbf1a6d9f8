"""Keys on a real systemd: rotated while repairs go on, revoked, rolled back, cut off; old signatures stay good."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.adopted import Adopted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.container import Container

HOLDERS = {"ledger": "supervisor", "governance": "governance", "verification": "verification"}
ROSTER = "/var/lib/graced/roster.json"
KEYS = "/var/lib/graced/keys"


@pytest.fixture
def nginx(machine: Container) -> Adopted:
    """nginx, adopted."""
    daemon = Adopted(machine, "nginx")
    daemon.adopt()
    return daemon


def current(machine: Container) -> dict[str, str]:
    """signer → kid of the current keys, as anybody may see them."""
    rows = machine.run(["gracectl", "keys", "list", "--json=short"]).json()
    return {row["signer"]: row["kid"] for row in rows if row["state"] == "current"}


def pids(machine: Container, signers: Iterable[str] = HOLDERS) -> dict[str, str]:
    """signer → main process of its daemon."""
    show = ["show", "--value", "--property=MainPID"]
    return {one: machine.systemctl(*show, f"graced-{HOLDERS[one]}.service").stdout.strip() for one in signers}


def assert_sound(machine: Container) -> dict[str, Any]:
    report: dict[str, Any] = machine.run(["gracectl", "audit", "verify", "--json=short"]).json()
    assert report["ok"], report
    return report


def heal(nginx: Adopted) -> None:
    """nginx is killed, and repaired by a warrant and a verdict with the present keys."""
    with nginx.healed():
        nginx.kill()


def healthy(machine: Container) -> bool:
    return machine.run(["gracectl", "status"]).returncode == 0


def said(machine: Container) -> str:
    return machine.run(["journalctl", "--no-pager", "-q", "-o", "cat"]).stdout


def history(machine: Container, key: str) -> list[tuple[str, str, int]]:
    shown = machine.run(["gracectl", "keys", "show", key, "--json=short"]).json()
    return [(one["operation"], one["actor"], one["uid"]) for one in shown["operations"]]


def test_rotation_stops_nothing_and_old_signatures_stay_good(nginx: Adopted) -> None:
    machine = nginx.machine
    machine.allow("status=9/KILL", "Failed with result 'signal'")
    heal(nginx)
    before, processes = current(machine), pids(machine)
    machine.run(["gracectl", "keys", "rotate", "--all", "--reason", "test"]).ok()
    after = current(machine)
    assert not set(before.values()) & set(after.values())
    assert pids(machine) == processes
    heal(nginx)
    assert assert_sound(machine)["signatures"] > 6
    for signer in HOLDERS:
        assert history(machine, signer) == [("activate", "root", 0)]
        assert history(machine, before[signer]) == [("activate", "root", 0), ("retire", "root", 0)]
    # A daemon that is started again gets the new key as its credential.
    for signer, holder in HOLDERS.items():
        machine.unit(["systemctl", "kill", "--signal=SIGKILL", f"graced-{holder}.service"]).ok()
        machine.wait_until("it runs again", lambda one=signer: pids(machine)[one] not in {"0", processes[one]})
    machine.wait_until("all is well", lambda: healthy(machine))
    heal(nginx)
    assert current(machine) == after
    assert_sound(machine)


def test_who_may_and_whose_name_is_written_down(machine: Container) -> None:
    machine.unit(["useradd", "--groups=_graced-admin", "alice"]).ok()
    machine.unit(["useradd", "bob"]).ok()
    uid = int(machine.run(["id", "-u", "alice"]).stdout)

    def as_user(name: str, *arguments: str) -> Any:
        return machine.run(["runuser", "-u", name, "--", "gracectl", "keys", *arguments])

    as_user("alice", "rotate", "governance").ok()
    assert history(machine, "governance") == [("activate", f"uid{uid}", uid)]
    assert "permission denied" in as_user("bob", "rotate", "governance").stderr
    assert "needs root" in as_user("alice", "revoke", "governance", "--reason", "x").stderr
    call = (
        "import sys; sys.path.insert(0, '/usr/lib/python3/dist-packages')\n"
        "from graced.varlink.client import Client\n"
        "Client('/run/graced/io.graced.Actuator', 5).call('io.graced.Actuator.RevokeKey',"
        " {'kid': 'x', 'reason': 'x', 'at_seq': None})"
    )
    for account in ("alice", "_graced-governance", "_graced-healing"):
        done = machine.run(["runuser", "-u", account, "--", "python3", "-I", "-c", call])
        assert "Denied" in done.stderr or "denied" in done.stderr, done
    for name in HOLDERS.values():
        assert machine.run(["runuser", "-u", "bob", "--", "cat", f"{KEYS}/{name}.key"]).returncode != 0
    assert_sound(machine)


def test_a_revoked_key_is_replaced_at_once(nginx: Adopted) -> None:
    machine = nginx.machine
    machine.allow("was revoked|starting again|last head is left to the next start|signs nothing")
    heal(nginx)
    for signer, holder in HOLDERS.items():
        before, process = current(machine)[signer], pids(machine, [signer])
        machine.run(["gracectl", "keys", "revoke", signer, "--reason", "test"]).ok()
        assert current(machine)[signer] != before
        machine.wait_until("it starts anew", lambda one=signer, old=process: pids(machine, [one]) != old)
        machine.wait_until("all is well", lambda: healthy(machine))
        shown = machine.run(["gracectl", "keys", "show", before, "--json=short"]).json()
        assert (shown["state"], shown["reason"]) == ("revoked", "test"), holder
    heal(nginx)
    assert_sound(machine)


def test_an_older_roster_and_an_older_blob_are_refused(nginx: Adopted) -> None:
    machine = nginx.machine
    machine.allow(".*")
    machine.unit(["cp", "-a", ROSTER, f"{KEYS}/governance.key", f"{KEYS}/governance.seal", "/root/"]).ok()
    before = current(machine)
    machine.run(["gracectl", "keys", "rotate", "governance"]).ok()
    after = current(machine)
    # The blob alone: the daemon does not start with it, and graced-keys puts the right one back.
    machine.unit(["cp", "-a", "/root/governance.key", KEYS]).ok()
    machine.unit(["systemctl", "restart", "graced-governance.service"])
    assert "the roster's current one is" in said(machine)
    machine.unit(["/usr/lib/graced/graced-keys"]).ok()
    machine.unit(["systemctl", "reset-failed", "graced-governance.service"])
    machine.unit(["systemctl", "restart", "graced-governance.service"]).ok()
    assert current(machine) == after
    heal(nginx)
    # Roster and blob together: the actuator's pin and the records know better.
    machine.unit(["cp", "-a", "/root/roster.json", ROSTER]).ok()
    machine.unit(["cp", "-a", "/root/governance.key", KEYS]).ok()
    assert current(machine) == before
    done = machine.unit(["/usr/lib/graced/graced-keys"]).ok()
    assert "older roster was put back" in done.stdout + done.stderr
    assert current(machine) == after
    machine.unit(["systemctl", "restart", "graced.target"]).ok()
    heal(nginx)
    assert_sound(machine)


def test_a_clone_and_a_change_that_was_cut_off(machine: Container) -> None:
    machine.allow(".*")
    before = current(machine)
    machine.unit(["systemctl", "stop", "graced.target"]).ok()
    machine.write("/etc/machine-id", "b" * 32 + "\n", 0o444)
    done = machine.unit(["/usr/lib/graced/graced-keys"]).ok()
    after = current(machine)
    assert not set(before.values()) & set(after.values())
    told = done.stdout + done.stderr
    assert told.count("RE-KEYED") == 3
    assert "this is a copy of another host" in told
    machine.write(f"{KEYS}/change.json", json.dumps({"v": 1}), 0o400)
    done = machine.unit(["/usr/lib/graced/graced-keys"]).ok()
    assert "a change of keys was cut off and cannot be read" in done.stdout + done.stderr
    machine.unit(["systemctl", "start", "graced.target"]).ok()
    machine.wait_until("all is well", lambda: healthy(machine))
    assert current(machine) == after
    assert_sound(machine)
