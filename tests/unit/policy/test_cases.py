"""Tests of policies: what they look at and how they fail; and how many changes of the shipped rules the shipped ones
notice.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from graced.base.errors import ConfigError
from graced.policy.cases import parse_cases, run_case
from graced.policy.match import ORIGINS, RISKS
from graced.policy.rules import EFFECTS, RuleSet, parse_policy

SHARE = Path(__file__).parents[3] / "graced/share/policy.d"
CASE = {"name": "n", "unit": "a.service", "playbook": "restart", "tier": 2, "expect": "allow"}
RULES = RuleSet(
    [
        parse_policy(
            "p",
            {
                "rule": [
                    {"id": "all", "effect": "allow", "reason": "x"},
                    {
                        "id": "ask",
                        "effect": "hold",
                        "reason": "x",
                        "approvals": 2,
                        "match": {"unit": "till*", "window": "Sun 02:00 for 1h"},
                    },
                ]
            },
        )
    ]
)


def run(**changes):
    [case] = parse_cases("t", {"test": [{**CASE, **changes}]})
    return run_case(RULES, case)


def test_what_a_test_can_ask():
    assert run() == ""
    assert run(rule="all", approvals=0) == ""
    till = {"unit": "till.service", "open": "Sun 02:00 for 1h"}
    assert run(**till, expect="hold", rule="ask", approvals=2) == ""
    assert run(unit="till.service", unclear="Sun 02:00 for 1h", expect="hold") == ""
    assert run(unit="till.service") == ""
    assert run(expect="deny") == "deny was expected, allow came (all)"
    assert run(rule="ask") == "the rule ask was expected, all decided"
    assert run(**till, expect="hold", approvals=1) == "1 approvals were expected, it takes 2"
    assert run(open="Mon 02:00 for 1h") == "no rule has the window 'Mon 02:00 for 1h'"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expect": "maybe"}, "test[0].expect: 'maybe' is not one of"),
        ({"expected": "allow"}, "test[0].expected: unknown key"),
        ({"at": "25:00"}, "test[0].at: "),
        ({"unit": None}, "test[0]: unit is missing"),
        ({"host": "happy"}, "test[0].host[0]: 'happy' is not one of"),
    ],
)
def test_a_wrong_test_is_refused(change, words):
    table = {key: value for key, value in {**CASE, **change}.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        parse_cases("t", {"test": [table]})
    assert words in str(caught.value)


def shipped():
    return tomllib.loads((SHARE / "50-default.toml").read_text())


CASES = parse_cases("t", tomllib.loads((SHARE / "tests/50-default.toml").read_text()))


def noticed(data):
    rules = RuleSet([parse_policy("50-default", data)])
    return [case.name for case in CASES if run_case(rules, case)]


def mutations():
    """Every rule left out, with each other effect, each condition left out, and each condition changed a little."""
    for index, rule in enumerate(shipped()["rule"]):
        where = f"rule[{index}]"
        yield f"{where} left out", index, None
        for effect in EFFECTS:
            if effect != rule["effect"]:
                yield f"{where} {effect}", index, {**rule, "effect": effect}
        for key, value in rule["match"].items():
            rest = {name: other for name, other in rule["match"].items() if name != key}
            yield f"{where} without {key}", index, {**rule, "match": rest}
            for changed in variants(key, value):
                yield f"{where} {key} = {changed}", index, {**rule, "match": {**rest, key: changed}}


def variants(key, value):
    if isinstance(value, int):
        return [other for other in (value - 1, value + 1) if 0 <= other <= 4]
    words = {"risk": RISKS, "origin": ORIGINS}.get(key, ("other",))
    fewer = [[one for one in value if one != gone] for gone in value if len(value) > 1]
    more = [[*value, word] for word in words if word not in value]
    swapped = [[word] for word in words if word not in value]
    return fewer + more + swapped


def test_the_shipped_rules_pass_their_tests():
    assert noticed(shipped()) == []


def test_the_shipped_tests_notice_changes_of_the_shipped_rules():
    found = {}
    for name, index, rule in mutations():
        data = shipped()
        data["rule"][index : index + 1] = [] if rule is None else [rule]
        found[name] = bool(noticed(data))
    missed = [name for name, seen in found.items() if not seen]
    assert len(found) >= 40
    assert len(missed) <= len(found) * 0.05, missed
