"""A repair that waits for people, on a real host: who may approve, what happens then, and a host in shadow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.adopted import ESCALATED, Adopted

if TYPE_CHECKING:
    from tests.support.container import Container

POLICY = """
[[rule]]
id = "site.till"
effect = "hold"
approvals = 2
reason = "two people restart the till"
match = { unit = "nginx.service", step = "restart" }

[[rule]]
id = "site.night"
effect = "hold"
reason = "the till is counted"
match = { unit = "nginx.service", window = "2001-01-01 00:00 for 1h" }

[[rule]]
id = "site.day"
effect = "allow"
reason = "a minute began"
match = { unit = "till.service", window = "*-*-* *:*:00 for 5m", tier_max = 1 }
"""

NIGHT = """
[[rule]]
id = "site.night"
effect = "hold"
reason = "not at night"
match = { unit = "nginx.service" }
"""


def waiting(machine: Container) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = machine.run(["gracectl", "approvals", "--json=short"]).json()
    return listed


def test_a_repair_goes_on_once_two_people_approved_it(machine: Container) -> None:
    for name in ("anna", "otto"):
        machine.unit(["useradd", "--no-create-home", "--groups=_graced-admin", name]).ok()
    machine.unit(["useradd", "--no-create-home", "--groups=_graced-read", "reader"]).ok()
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    machine.write("/etc/graced/policy.d/90-till.toml", POLICY)
    machine.run(["gracectl", "policy", "check"]).ok()
    machine.run(["gracectl", "policy", "test"]).ok()

    # Governance asks systemd-analyze from within its sandbox.
    explained = machine.run(["gracectl", "policy", "explain", "nginx", "restart-unit", "--json=short"]).json()
    assert (explained["effect"], explained["rule"], explained["approvals"]) == ("hold", "site.till", 2)
    assert explained["facts"]["open_windows"] == ["*-*-* *:*:00 for 5m"]
    assert explained["facts"]["unclear_windows"] == []

    nginx.kill()
    [request] = machine.wait_until("a request for approval", lambda: waiting(machine))
    assert (request["unit"], request["needed"], request["state"]) == (nginx.unit, 2, "open")
    ident = request["id"]
    for account in (None, "_graced-healing", "_graced-governance", "reader"):
        refused = machine.run(["gracectl", "approve", ident], user=account)
        assert (refused.returncode, "not root" in refused.stderr) == (1, True), (account, refused.stderr)
    machine.run(["gracectl", "approve", ident], user="anna").ok()
    twice = machine.run(["gracectl", "approve", ident], user="anna")
    assert (twice.returncode, "another person" in twice.stderr) == (1, True)
    assert machine.state(nginx.unit) == "failed"
    assert nginx.acts() == []

    with nginx.healed() as caused:
        machine.run(["gracectl", "approve", ident], user="otto").ok()
    uids = [int(machine.run(["id", "-u", name]).ok().stdout) for name in ("anna", "otto")]
    [done] = machine.run(["gracectl", "approvals", "--all", "--json=short"]).json()
    assert (done["id"], done["state"], done["approved_by"]) == (ident, "used", uids)
    assert machine.run(["gracectl", "approve", ident], user="anna").returncode == 1
    story = nginx.explain(caused[0])
    assert all(f"uid {uid}" in story for uid in uids), story
    machine.run(["gracectl", "audit", "verify"]).ok()

    machine.path("/etc/graced/policy.d/90-till.toml").unlink()
    changed = machine.run(["gracectl", "policy", "replay", "--json=short"])
    assert changed.returncode == 1
    assert {one["was"]["rule"] for one in changed_list(changed.stdout)} == {"site.till"}
    assert {one["would"]["rule"] for one in changed_list(changed.stdout)} == {"default.safe"}


def changed_list(text: str) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = json.loads(text)["changes"]
    return changes


def test_in_shadow_nothing_acts(machine: Container) -> None:
    machine.allow(ESCALATED)
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    machine.run(["gracectl", "shadow", "on", "--reason", "a first week"]).ok()
    status = machine.run(["gracectl", "status"])
    assert (status.returncode, "in shadow" in status.stdout) == (3, True)
    nginx.kill()
    incident = nginx.wait_incident(outcome="refused")
    assert "shadow: it would allow" in incident["reason"]
    assert machine.state(nginx.unit) == "failed"
    assert nginx.acts() == []
    machine.run(["gracectl", "shadow", "off"]).ok()
    machine.unit(["systemctl", "restart", "nginx"]).ok()
    with nginx.healed():
        nginx.kill()

    # Held by a rule, and let go as soon as the rule is gone: nobody has to wait for the next time it would ask.
    machine.write("/etc/graced/policy.d/90-night.toml", NIGHT)
    nginx.kill()
    incident = nginx.wait_incident(outcome="held")
    assert nginx.acts() == ["restart-unit"]
    with nginx.healed(60) as caused:
        machine.path("/etc/graced/policy.d/90-night.toml").unlink()
    assert [one["id"] for one in caused] == [incident["id"]]
    show = ["gracectl", "audit", "show", "--kind", "decision", "--task", incident["task_id"], "--json=short"]
    assert [entry["data"]["effect"] for entry in machine.run(show).json()] == ["hold", "allow"]
