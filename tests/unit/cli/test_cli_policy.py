"""gracectl approvals, approve, deny, shadow and policy: what they ask, what they print, how they fail."""

from __future__ import annotations

import pytest

from graced.cli.story import tell
from graced.policy.approval import Sanction
from graced.policy.decide import Known, Moment, Plan
from graced.policy.limits import UnitHistory
from graced.policy.recorded import inputs
from graced.varlink.wire import VarlinkError

REQUEST = {
    "id": "approval_7",
    "state": "open",
    "unit": "till.service",
    "playbook": "restart-unit",
    "finding": "unit.failed",
    "risk": "low",
    "tier": 2,
    "task_id": "task_9",
    "rule": "site.till",
    "reason": "it is the till: 1 of 2 approvals are there",
    "needed": 2,
    "approved_by": [1000],
    "denied_by": None,
    "denied_reason": None,
    "plan_digest": "ab",
    "opened_at": "2026-11-22T15:04:05Z",
    "expires_seconds": 1800.0,
}
POLICY = """
[[rule]]
id = "all"
effect = "allow"
reason = "fine"

[[rule]]
id = "ask"
effect = "hold"
approvals = 2
reason = "the till"
match = { unit = "till*", window = "*-*-* 02:00:00 UTC for 1h" }
"""
TEST = """
[[test]]
name = "a restart is allowed"
unit = "a.service"
playbook = "restart-unit"
tier = 2
expect = "allow"
rule = "all"
"""


def fails(name, **parameters):
    return VarlinkError(f"io.graced.Governance.{name}", parameters)


def test_approvals(ctl, graced) -> None:
    graced.answers["Governance.Approvals"] = {"approvals": [REQUEST]}
    assert ctl("approvals", "--json=short").json == [REQUEST]
    assert graced.calls[-1] == ("io.graced.Governance.Approvals", {})
    shown = ctl("approvals", "--all").stdout
    assert graced.calls[-1] == ("io.graced.Governance.Approvals", {"all": True})
    for words in ("approval_7", "till.service", "1/2 (uid 1000)", "30 min", "it is the till"):
        assert words in shown
    graced.answers["Governance.Approvals"] = {"approvals": []}
    assert ctl("approvals").stderr == "No repair waits for a person.\n"


def test_approve_and_deny(ctl, graced) -> None:
    graced.answers["Governance.Approve"] = {"state": "open", "needed": 2, "approved_by": [1000]}
    assert "1 more person has to" in ctl("approve", "approval_7").stderr
    graced.answers["Governance.Approve"] = {"state": "granted", "needed": 2, "approved_by": [1000, 1001]}
    assert "goes on" in ctl("approve", "approval_7").stderr
    assert graced.calls[-1] == ("io.graced.Governance.Approve", {"id": "approval_7"})
    graced.answers["Governance.Deny"] = {"state": "denied", "needed": 2, "approved_by": []}
    assert ctl("deny", "approval_7", "--reason", "no").exit_code == 0
    assert graced.calls[-1] == ("io.graced.Governance.Deny", {"id": "approval_7", "reason": "no"})
    assert ctl("deny", "approval_7").exit_code == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (fails("PermissionDenied", method="x", needed=["admin"]), "and not root"),
        (fails("SamePerson", reason="uid 5 has approved approval_7 already"), "uid 5 has approved"),
        (fails("NotOpen", reason="approval_7 is used already"), "is used already"),
        (fails("NoSuchApproval", reason="there is no approval_7"), "there is no approval_7"),
    ],
)
def test_an_approval_that_does_not_count(ctl, graced, error, words) -> None:
    graced.answers["Governance.Approve"] = error
    refused = ctl("approve", "approval_7")
    assert (refused.exit_code, words in refused.stderr) == (1, True)
    assert "next: " in refused.stderr


def test_shadow(ctl, graced, systemd) -> None:
    graced.answers["Governance.Shadow"] = lambda asked: {"on": asked["on"]}
    assert ctl("shadow", "on", "--reason", "first week").exit_code == 0
    assert graced.calls[-1] == ("io.graced.Governance.Shadow", {"on": True, "reason": "first week"})
    assert ctl("shadow", "off").exit_code == 0
    graced.answers["Governance.Shadow"] = {"on": True}
    assert "graced.toml" in ctl("shadow", "off").stderr
    graced.answers["Governance.State"] = {"paused": False, "shadow": True}
    status = ctl("status", "--json=short")
    assert (status.exit_code, status.json["shadow"]) == (3, True)
    assert any("in shadow" in reason for reason in status.json["reasons"])


@pytest.fixture
def policies(run):
    directory = run / "etc/policy.d"
    (directory / "tests").mkdir(parents=True)
    (directory / "90-site.toml").write_text(POLICY)
    (directory / "tests/90-site.toml").write_text(TEST)
    return directory


def test_check_finds_what_only_systemd_knows(ctl, run, policies) -> None:
    assert ctl("policy", "check").exit_code == 0
    other = run / "other"
    other.mkdir()
    (other / "a.toml").write_text(POLICY.replace("*-*-* 02:00:00 UTC", "Blursday"))
    (other / "b.toml").write_text(POLICY.replace('effect = "allow"', 'effect = "permit"'))
    (other / "c.toml").write_text('[[rule]]\nid = "all"\neffect = "deny"\nreason = "x"\n')
    problems = ctl("policy", "check", str(other), "--json=short")
    assert problems.exit_code == 1
    told = [(one["path"].rpartition("/")[2], one["line"]) for one in problems.json]
    assert ("b.toml", 4) in told and len(told) == 3
    assert any("Blursday" in one["message"] for one in problems.json)
    assert any("the rule all is also in" in one["message"] for one in problems.json)


def test_policy_tests_stand_beside_the_policies(ctl, run, policies) -> None:
    assert ctl("policy", "test", "--json=short").json == {"tests": 1, "failed": [], "problems": []}
    (policies / "90-site.toml").write_text(POLICY.replace('effect = "allow"', 'effect = "deny"'))
    failed = ctl("policy", "test")
    assert (failed.exit_code, "a restart is allowed: allow was expected, deny came (all)" in failed.stdout) == (1, True)
    (policies / "tests/90-site.toml").write_text(TEST.replace("expect", "expects"))
    assert ctl("policy", "test").exit_code == 1


def decision(seq, unit, time="2026-11-22T12:00:00Z", **data):
    facts = {
        "unit": unit,
        "playbook": "restart-unit",
        "finding": "unit.failed",
        "risk": "low",
        "origin": "brain",
        "tier": 2,
        "minute": 720,
        "verbs": ["restart"],
    }
    rules = {"effect": "allow", "rule": "all", "approvals": 0}
    data = {"effect": "allow", "plan": {}, "facts": facts, "rules": rules, **data}
    return {"seq": seq, "time": time, "kind": "decision", "task_id": f"task_{seq}", "data": data}


def test_replay_shows_what_would_differ(ctl, graced, policies) -> None:
    entries = [
        decision(0, "a.service"),
        decision(1, "till.service"),
        decision(2, "till.service", "2026-11-22T02:30:00Z"),
        decision(3, "b.service", facts=None),
        {"seq": 4, "kind": "decision", "data": {"paused": True}},
        {"seq": 5, "kind": "warrant", "data": {}},
    ]

    def read(asked):
        return {"entries": entries[asked["start"] : asked["start"] + 4], "size": 6}

    graced.answers["Ledger.Read"] = read
    (policies / "90-site.toml").write_text(POLICY)
    found = ctl("policy", "replay", "--json=short")
    assert found.exit_code == 1
    [change] = found.json["changes"]
    assert (found.json["judged"], found.json["without_facts"], change["seq"]) == (3, 1, 2)
    assert (found.json["rules_only"], change["rules_only"]) == (3, True)
    assert (change["was"]["rule"], change["would"]) == ("all", {"effect": "hold", "rule": "ask", "approvals": 2})
    shown = ctl("policy", "replay")
    assert "hold (ask, 2 approvals)" in shown.stdout
    assert "1 of 3 recorded decisions would differ" in shown.stderr
    (policies / "90-site.toml").write_text(POLICY.partition('[[rule]]\nid = "ask"')[0])
    assert ctl("policy", "replay").exit_code == 0


def test_replay_judges_limits_and_what_had_happened_where_it_is_recorded(ctl, graced, policies) -> None:
    plan = Plan("task_1", "a.service", "a", "pd", "restart-unit", "bd", (0,), "low", 2, "unit.failed", "brain")
    known = Known(3, "a", "pd", ("restart-unit",), "bd", 2, "low", ("unit.failed",), 1, (0, 0.0), ("restart",))
    history = UnitHistory("a.service", ((999, "restart-unit"), (1000, "restart-unit")))
    given = inputs(known, history, [], None, Moment(2000, 720), Sanction())
    said = {"rule": "all", "reason": "fine", "approvals": 0, "plan": plan.to_json(), "inputs": given}
    shadowed = {**said, "effect": "deny", "rule": "shadow", "would": {"effect": "allow", "rule": "all", "approvals": 0}}
    graced.answers["Ledger.Read"] = lambda asked: {
        "entries": [decision(0, "a.service", **said), decision(1, "a.service", **shadowed)][asked["start"] :]
    }
    unchanged = ctl("policy", "replay", "--json=short")
    assert (unchanged.exit_code, unchanged.json["judged"], unchanged.json["rules_only"]) == (0, 2, 0)
    (policies / "95-limits.toml").write_text("[limits]\nper_unit_per_hour = 2\n")
    found = ctl("policy", "replay", "--json=short")
    assert found.exit_code == 1
    assert [one["would"]["rule"] for one in found.json["changes"]] == ["rate.unit", "rate.unit"]
    assert "each judged by itself" in ctl("policy", "replay").stderr


def test_explain_asks_with_the_plan_that_healing_would_make(ctl, graced, run) -> None:
    files = {
        "watch": [{"name": "till", "content": {"unit": "till.service", "profile": "till"}}],
        "profile": [{"name": "till", "digest": "pd", "content": {}}],
        "playbook": [
            {
                "name": "restart-unit",
                "digest": "bd",
                "content": {"risk": "low", "tier": 2, "triggers": ["unit.failed"], "step": [{}, {}]},
            }
        ],
    }
    graced.serve("io.graced.Code")
    graced.answers["Code.List"] = lambda asked: {"files": files[asked["kind"]]}
    graced.answers["Governance.Explain"] = {
        "effect": "hold",
        "rule": "ask",
        "reason": "the till",
        "policy_digest": "d",
        "approvals": 2,
        "facts": {"verbs": ["restart"], "host": [], "open_windows": ["daily for 1h"], "unclear_windows": []},
        "rules": {"effect": "hold", "rule": "ask", "approvals": 2},
    }
    told = ctl("policy", "explain", "till", "restart-unit")
    plan = graced.calls[-1][1]["plan"]
    assert (plan["unit"], plan["profile_digest"], plan["steps"], plan["finding"]) == (
        "till.service",
        "pd",
        [0, 1],
        "unit.failed",
    )
    for words in ("hold: the till (ask)", "approval of 2", "Open windows: daily for 1h."):
        assert words in told.stdout
    assert "not adopted" in ctl("policy", "explain", "other", "restart-unit").stderr
    assert "there is no playbook dance" in ctl("policy", "explain", "till", "dance").stderr


def test_the_story_tells_who_approved() -> None:
    data = {"id": "approval_7", "by_uid": 1000, "word": "approved", "reason": None, "plan": {"playbook": "restart"}}
    entry = {"seq": 3, "time": "2026-11-22T15:04:05.123Z", "kind": "approval", "actor": "governance", "data": data}
    evidence = {"incident": None, "task": {"id": "task_9"}, "events": [], "entries": [entry], "missing": []}
    assert any("uid 1000 approved restart (approval_7)." in line for line in tell(evidence))


def test_the_story_tells_of_a_warrant_that_was_refused() -> None:
    data = {"verb": "refuse", "reason": "tier", "detail": "tier: 4 is above the 3 allowed", "uid": 990, "missed": 2}
    entry = {"seq": 3, "time": "2026-11-22T15:04:05.123Z", "kind": "step", "actor": "root", "data": data}
    evidence = {"incident": None, "task": {"id": "task_9"}, "events": [], "entries": [entry], "missing": []}
    assert any("A warrant was refused to uid 990: tier: 4 is above" in line for line in tell(evidence))
