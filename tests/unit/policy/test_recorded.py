"""A decision that was recorded is made anew: the same by the same policies, another one by others."""

from __future__ import annotations

import json
import random

import pytest

from graced.base.errors import FormatError
from graced.base.json import canonical
from graced.policy.approval import Sanction
from graced.policy.decide import Known, Moment, Pause, Plan, decide
from graced.policy.limits import HOUR_US, SECOND_US, UnitHistory, allowed, with_outcome
from graced.policy.recorded import MAX_ACTS, anew, inputs
from graced.policy.rules import Limits, RuleSet, parse_policy

UNIT = "nginx.service"
PLAN = Plan("task_1", UNIT, "nginx", "pd", "restart-unit", "bd", (0, 1), "low", 2, "unit.failed", "brain", "intent_1")
KNOWN = Known(3, "nginx", "pd", ("restart-unit",), "bd", 2, "low", ("unit.failed",), 2, (4, 5.5), ("kill", "restart"))
NOW_US = 100 * HOUR_US
WINDOW = "daily for 1h"
RULES = [
    {"id": "all", "effect": "allow", "reason": "fine"},
    {"id": "ask", "effect": "hold", "approvals": 2, "reason": "two", "match": {"unit": "till.service"}},
    {"id": "night", "effect": "hold", "reason": "night", "match": {"window": WINDOW, "unit": "a.service"}},
]


def policy(limits=None, rules=RULES, groups=()):
    return RuleSet([parse_policy("p", {"rule": rules, "limits": limits or {}, "group": list(groups)})])


def record(plan, *given):
    """As it comes back from the ledger."""
    return json.loads(canonical({"plan": plan.to_json(), "inputs": inputs(*given)}))


def history(unit, acts=0, failures=0, busy=False, ago_s=60):
    one, at_us = UnitHistory(unit), NOW_US - ago_s * SECOND_US
    for number in range(max(acts, failures)):
        one = allowed(one, "restart-unit", f"task_{number}", at_us)
        if number < failures:
            one = with_outcome(one, "restart-unit", helped=False, limits=Limits(), now_us=at_us)
    return one.replace(open_task="task_9" if busy else "", tried_at_us=at_us if busy else one.tried_at_us)


def test_by_the_same_policies_it_is_the_same():
    chance = random.Random(20261122)
    rules = policy({"per_host_per_hour": 12, "units_at_once": 2, "per_unit_per_hour": 6}, groups=[
        {"id": "web", "unit": ["nginx*", "b.service"], "per_hour": 5, "units_at_once": 1}
    ])  # fmt: skip
    seen = set()
    for _ in range(2000):
        unit = chance.choice([UNIT, "till.service", "a.service"])
        plan = PLAN.replace(unit=unit, tier=chance.choice([1, 2, 3, 4]))
        known = KNOWN.replace(watch_tier=chance.choice([None, 2, 3, 4]), playbook_tier=plan.tier)
        own = history(unit, chance.randrange(4), chance.randrange(4), ago_s=chance.choice([1, 60, 4000]))
        others = [
            history(name, chance.randrange(5), 0, chance.random() < 0.3, chance.choice([60, 4000]))
            for name in ("b.service", "c.service", "d.service")
        ]
        pause = chance.choice([None, None, Pause(1000, "quiet", 90.0), Pause(1000, "", None)])
        opened = chance.choice([(), (WINDOW,)])
        sanction = chance.choice([Sanction(), Sanction((1, 2)), Sanction((), 3, "no")])
        moment = Moment(NOW_US, chance.randrange(1440), ("calm",), opened, ())
        said = decide(plan, known, rules, own, others, pause, moment, sanction)
        entry = record(plan, known, own, others, pause, moment, sanction)
        assert anew(entry, rules, opened, ()) == said
        seen.add(said.rule)
    expected = {"all", "ask", "night", "paused", "tier", "not-adopted", "cooldown", "breaker", "approval.denied"}
    assert expected | {"rate.group", "rate.host", "units-at-once", "group-at-once", "tier.approval"} <= seen


@pytest.mark.parametrize(
    ("limits", "rule"),
    [({}, "all"), ({"per_unit_per_hour": 2}, "rate.unit"), ({"per_host_per_hour": 2}, "rate.host")],
)
def test_by_other_limits_it_is_another(limits, rule):
    entry = record(PLAN, KNOWN, history(UNIT, 2), [], None, Moment(NOW_US, 0), Sanction())
    assert anew(entry, policy(limits), (), ()).rule == rule


def test_only_what_it_can_hang_on_is_kept_and_never_too_much():
    quiet = [history(f"u{number}.service", 3, ago_s=4000) for number in range(50)]
    given = inputs(KNOWN, history(UNIT, 2), [*quiet, history("b.service", 1)], None, Moment(NOW_US, 0), Sanction())
    assert [one["unit"] for one in given["others"]] == ["b.service"]
    assert len(canonical(given)) < 2000
    assert inputs(KNOWN, history(UNIT, MAX_ACTS + 1), [], None, Moment(NOW_US, 0), Sanction()) is None


def test_an_entry_without_them_says_so_and_a_malformed_one_is_refused():
    assert anew({"plan": PLAN.to_json()}, policy(), (), ()) is None
    entry = record(PLAN, KNOWN, history(UNIT, 2), [], None, Moment(NOW_US, 0), Sanction())
    for name, value in (("others", [3]), ("known", {"watch_tier": "x"}), ("moment", None), ("history", {})):
        with pytest.raises(FormatError):
            anew({**entry, "inputs": {**entry["inputs"], name: value}}, policy(), (), ())
