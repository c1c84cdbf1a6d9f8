"""Decisions: deny beats hold beats allow, each answer has its reasons, failures cost and quiet time gives back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.policy.approval import Sanction
from graced.policy.decide import Known, Moment, Pause, Plan, decide
from graced.policy.limits import (
    HOUR_US,
    SECOND_US,
    UnitHistory,
    allowed,
    effective_tier,
    forgiven,
    history_from_json,
    with_outcome,
)
from graced.policy.rules import Limits, RuleSet, parse_policy

UNIT = "nginx.service"
ALLOW_ALL = {"rule": [{"id": "all", "effect": "allow", "reason": "fine"}]}
PLAN = Plan("task_1", UNIT, "nginx", "pd", "restart-unit", "bd", (0, 1), "low", 2, "unit.failed", "brain", "intent_1")
KNOWN = Known(3, "nginx", "pd", ("restart-unit",), "bd", 2, "low", ("unit.failed",), 2, (0, 0.0))
LIMITS = Limits()
NOBODY = Sanction()


def ask(plan=PLAN, known=KNOWN, policy=ALLOW_ALL, history=None, others=(), pause=None, sanction=NOBODY, **limits):
    now_us = limits.pop("now_us", HOUR_US * 100)
    rules = RuleSet([parse_policy("p", {**policy, "limits": limits})])
    return decide(plan, known, rules, history or UnitHistory(UNIT), others, pause, Moment(now_us, 600), sanction)


def failed(times, limits=LIMITS, start_us=HOUR_US * 100, playbook="restart-unit"):
    history, now_us = UnitHistory(UNIT), start_us
    for number in range(times):
        history = allowed(history, playbook, f"task_{number}", now_us)
        history = with_outcome(history, playbook, helped=False, limits=limits, now_us=now_us)
    return history


def test_allowed_with_the_rule_that_did():
    decision = ask()
    assert (decision.effect, decision.rule, decision.reason) == ("allow", "all", "fine")


def test_nothing_is_allowed_without_a_rule():
    decision = ask(policy={})
    assert (decision.effect, decision.rule) == ("deny", "no-rule")


@pytest.mark.parametrize(
    ("change", "known", "rule", "words"),
    [
        ({}, Known(), "not-adopted", "not adopted"),
        ({"profile": "x"}, KNOWN, "plan", "adopted with profile nginx"),
        ({"profile_digest": "x"}, KNOWN, "plan", "profile nginx is not the one in use"),
        ({"playbook_digest": "x"}, KNOWN, "plan", "playbook restart-unit is not the one in use"),
        ({"playbook": "other"}, KNOWN, "plan", "does not name the playbook other"),
        ({"tier": 1}, KNOWN, "plan", "has tier 2"),
        ({"risk": "medium"}, KNOWN, "plan", "risk low"),
        ({"steps": ()}, KNOWN, "plan", "steps 0 to 1"),
        ({"steps": (0, 2)}, KNOWN, "plan", "steps 0 to 1"),
        ({"steps": (1, 0)}, KNOWN, "plan", "steps 0 to 1"),
        ({"steps": (-1, 0)}, KNOWN, "plan", "steps 0 to 1"),
        ({"finding": "unit.hung"}, KNOWN, "plan", "not for unit.hung"),
        ({}, KNOWN.replace(watch_tier=1), "tier", "adopted with 1"),
        ({}, KNOWN.replace(profile_digest="", playbook_digest=""), "plan", "not the one in use"),
    ],
)
def test_a_plan_that_does_not_hold_is_denied(change, known, rule, words):
    decision = ask(PLAN.replace(**change), known)
    assert (decision.effect, decision.rule) == ("deny", rule)
    assert words in decision.reason


def test_pause_holds_and_a_denial_is_stronger():
    pause = Pause(1000, "upgrade", 90.0)
    held = ask(pause=pause)
    assert (held.effect, held.rule, held.retry_after_seconds) == ("hold", "paused", 90.0)
    assert "paused by uid 1000 for another 90 s: upgrade" in held.reason
    assert ask(pause=Pause(1000, "", None)).retry_after_seconds == 600.0
    assert ask(pause=pause, policy={}).effect == "deny"


def test_three_futile_heals_open_the_breaker_and_it_tries_again_at_a_bounded_rate():
    now_us = HOUR_US * 100
    assert ask(history=failed(2), now_us=now_us + 60 * SECOND_US).effect == "allow"
    history = failed(3)
    decision = ask(history=history, now_us=now_us + 60 * SECOND_US)
    assert (decision.effect, decision.rule, decision.retry_after_seconds) == ("deny", "breaker", 840.0)
    later_us = now_us + 901 * SECOND_US
    assert ask(history=history, now_us=later_us).effect == "allow"
    history = allowed(history, "restart-unit", "task_9", later_us)
    assert ask(history=history, now_us=later_us + SECOND_US).rule == "breaker"
    healed = with_outcome(history, "restart-unit", helped=True, limits=LIMITS, now_us=later_us)
    assert ask(history=healed, now_us=later_us + SECOND_US).effect == "allow"


def test_an_act_that_was_not_carried_out_is_no_failure():
    history = allowed(UnitHistory(UNIT), "restart-unit", "task_1", 5)
    assert with_outcome(history, "restart-unit", helped=None, limits=LIMITS, now_us=6).failures == 0


def test_futile_heals_cost_a_tier_but_never_the_safe_ones_and_quiet_time_gives_it_back():
    now_us = HOUR_US * 100
    assert effective_tier(failed(2), 3, LIMITS, now_us) == 3
    assert effective_tier(failed(3), 3, LIMITS, now_us) == 2
    assert effective_tier(failed(9), 4, LIMITS, now_us) == 2
    assert effective_tier(failed(9), 1, LIMITS, now_us) == 1
    day_us = int(LIMITS.promote_after_seconds) * SECOND_US
    assert effective_tier(failed(3), 3, LIMITS, now_us + day_us - 1) == 2
    assert effective_tier(failed(3), 3, LIMITS, now_us + day_us) == 3
    restore = PLAN.replace(playbook="restore-config", tier=3)
    known = KNOWN.replace(profile_playbooks=("restore-config",), playbook_tier=3)
    assert ask(restore, known, history=failed(3), now_us=now_us + 901 * SECOND_US).rule == "tier.lowered"


def test_a_reset_forgets_what_was_futile_and_keeps_the_last_hour():
    now_us = HOUR_US * 100
    history = allowed(failed(3), "restart-unit", "task_9", now_us)
    fresh = forgiven(history)
    assert (fresh.acts, fresh.open_task, fresh.tried_at_us) == (history.acts, "task_9", now_us)
    assert effective_tier(fresh, 3, LIMITS, now_us) == 3
    assert ask(history=fresh, now_us=now_us + SECOND_US).effect == "allow"
    assert forgiven(UnitHistory(UNIT)) == UnitHistory(UNIT)
    full = history.replace(acts=((now_us, "restart-unit"),) * 3)
    assert ask(history=forgiven(full), now_us=now_us + SECOND_US, per_unit_per_hour=3).rule == "rate.unit"


def test_cooldown_is_for_the_playbook_that_failed_and_grows():
    history = failed(1)
    held = ask(history=history, now_us=HOUR_US * 100 + SECOND_US)
    assert (held.effect, held.rule, held.retry_after_seconds) == ("hold", "cooldown", 4.0)
    other = PLAN.replace(playbook="kill-and-restart")
    assert ask(other, KNOWN.replace(profile_playbooks=("kill-and-restart",)), history=history).effect == "allow"
    assert ask(history=failed(2), now_us=HOUR_US * 100 + 6 * SECOND_US).rule == "cooldown"
    assert ask(history=failed(2), now_us=HOUR_US * 100 + 10 * SECOND_US).effect == "allow"


def test_rates_per_unit_playbook_and_host():
    now_us = HOUR_US * 100
    history = UnitHistory(UNIT)
    for second in range(3):
        history = allowed(history, "restart-unit", "t", now_us + second * SECOND_US).replace(open_task="")
    decision = ask(history=history, now_us=now_us + 10 * SECOND_US, per_unit_per_hour=3)
    assert (decision.effect, decision.rule, decision.retry_after_seconds) == ("deny", "rate.unit", 3590.0)
    assert ask(history=history, now_us=now_us + HOUR_US, per_unit_per_hour=3).effect == "allow"
    own = KNOWN.replace(playbook_limits=(2, 0.0))
    assert ask(known=own, history=history, now_us=now_us + 10 * SECOND_US).rule == "rate.unit"
    others = [history.replace(unit="b.service")]
    assert ask(others=others, now_us=now_us + 10 * SECOND_US, per_host_per_hour=3).rule == "rate.host"


def test_only_so_many_units_are_repaired_at_once():
    now_us = HOUR_US * 100
    others = [allowed(UnitHistory(f"{name}.service"), "x", "t", now_us) for name in "ab"]
    assert ask(others=others, now_us=now_us + SECOND_US, units_at_once=2).rule == "units-at-once"
    assert ask(others=others, now_us=now_us + 301 * SECOND_US, units_at_once=2).effect == "allow"


def test_looking_is_allowed_when_acting_is_not():
    look = PLAN.replace(playbook="diagnose", tier=0)
    known = KNOWN.replace(watch_tier=0, profile_playbooks=("diagnose",), playbook_tier=0)
    assert ask(look, known, history=failed(5)).effect == "allow"


events = st.lists(st.tuples(st.sampled_from([True, False, None]), st.integers(0, 5000)), max_size=40)


@given(events)
def test_no_history_allows_more_than_its_limits(steps):
    rules = RuleSet([parse_policy("p", {**ALLOW_ALL, "limits": {"per_unit_per_hour": 4}})])
    history, now_us, allowed_at = UnitHistory(UNIT), 0, []
    for helped, seconds in steps:
        now_us += seconds * SECOND_US
        decision = decide(PLAN, KNOWN, rules, history, (), None, Moment(now_us, 0))
        assert decision.reason
        if decision.effect != "allow":
            continue
        allowed_at.append(now_us)
        history = allowed(history, PLAN.playbook, PLAN.task_id, now_us)
        history = with_outcome(history, PLAN.playbook, helped=helped, limits=rules.limits, now_us=now_us)
        assert history_from_json(history.to_json()) == history
        assert 2 <= effective_tier(history, 3, rules.limits, now_us) <= 3
    for at_us in allowed_at:
        assert sum(at_us - HOUR_US < other <= at_us for other in allowed_at) <= 4


def test_a_damaged_history_is_an_error():
    with pytest.raises(FormatError):
        history_from_json({**UnitHistory(UNIT).to_json(), "acts": [[1]]})


TWO = {
    "rule": [
        *ALLOW_ALL["rule"],
        {"id": "ask", "effect": "hold", "reason": "it is the till", "approvals": 2},
        {"id": "ask-one", "effect": "hold", "reason": "ask", "approvals": 1},
    ]
}


def test_a_hold_for_approval_says_how_many_are_missing_and_goes_with_them():
    held = ask(policy=TWO)
    assert (held.effect, held.rule, held.approvals) == ("hold", "ask", 2)
    assert held.reason == "it is the till: 0 of 2 approvals are there"
    held = ask(policy=TWO, sanction=Sanction((1000,)))
    assert (held.effect, held.approvals) == ("hold", 2)
    decision = ask(policy=TWO, sanction=Sanction((1000, 1001)))
    assert (decision.effect, decision.rule, decision.approvals) == ("allow", "all", 0)
    assert decision.reason == "fine; approved by uid 1000, uid 1001"
    refused = ask(policy=TWO, sanction=Sanction((1000,), 1002, "not today"))
    assert (refused.effect, refused.rule, refused.approvals) == ("deny", "approval.denied", 0)
    assert refused.reason == "uid 1002 denied restart-unit: not today"


def test_an_approval_lifts_no_other_hold_and_stands_in_for_no_allow():
    both = Sanction((1000, 1001))
    plain = {"rule": [*TWO["rule"], {"id": "freeze", "effect": "hold", "reason": "frozen"}]}
    assert (ask(policy=plain, sanction=both).rule, ask(policy=plain).approvals) == ("freeze", 0)
    assert ask(policy={"rule": TWO["rule"][1:]}, sanction=both).rule == "no-rule"
    denied = {"rule": [*TWO["rule"], {"id": "never", "effect": "deny", "reason": "no"}]}
    assert ask(policy=denied, sanction=both).rule == "never"
    paused = ask(policy=TWO, sanction=both, pause=Pause(1000, "", None))
    assert (paused.effect, paused.rule, paused.approvals) == ("hold", "paused", 0)
    # While it is paused people can approve already.
    assert ask(policy=TWO, pause=Pause(1000, "", None)).approvals == 2


def test_tier_4_takes_a_person_even_where_a_rule_allows_it():
    plan, known = PLAN.replace(tier=4), KNOWN.replace(watch_tier=4, playbook_tier=4)
    held = ask(plan, known)
    assert (held.effect, held.rule, held.approvals) == ("hold", "tier.approval", 1)
    assert ask(plan, known, sanction=Sanction((1000,))).effect == "allow"
    assert ask(plan, known, policy={}).rule == "no-rule"
    assert ask(plan, known, policy=TWO).approvals == 2


def test_units_of_a_group_share_its_bounds():
    now_us = HOUR_US * 100
    policy = {**ALLOW_ALL, "group": [{"id": "web", "unit": ["nginx*", "web-*"], "per_hour": 2, "units_at_once": 1}]}
    member = allowed(UnitHistory("web-1.service"), "x", "t", now_us)
    stranger = allowed(UnitHistory("db.service"), "x", "t", now_us)
    assert ask(policy=policy, others=[stranger, stranger.replace(unit="mail.service")]).effect == "allow"
    held = ask(policy=policy, others=[member], now_us=now_us + SECOND_US)
    assert (held.effect, held.rule) == ("hold", "group-at-once")
    twice = allowed(member, "x", "t", now_us).replace(open_task="")
    denied = ask(policy=policy, others=[twice], now_us=now_us + SECOND_US)
    assert (denied.effect, denied.rule, denied.retry_after_seconds) == ("deny", "rate.group", 3599.0)
    assert "2 heals in the group web" in denied.reason
    other = UnitHistory("db.service")
    assert ask(PLAN.replace(unit="db.service"), policy=policy, history=other, others=[twice]).effect == "allow"
