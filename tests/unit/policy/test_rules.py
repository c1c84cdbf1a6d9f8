"""The compiled rules agree with the plain reading of the files; a typo is an error; windows cross midnight."""

from __future__ import annotations

import fnmatch
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import ConfigError
from graced.policy.match import HOSTS, ORIGINS, RISKS, Facts, Match, parse_calendar, parse_window, within
from graced.policy.rules import ALLOW, DENY, HOLD, PolicyFile, Rule, RuleSet, parse_policy

UNITS = ["nginx.service", "redis-server.service", "app@1.service", "a.service"]
PLAYBOOKS = ["restart-unit", "restore-config", "diagnose"]
FINDINGS = ["unit.failed", "unit.hung"]
GLOBS = ["*", "nginx*", "*.service", "app@?.service", "[ar]*", "nothing"]
WINDOWS = ["22:00-02:00 UTC", "02:00-04:00 UTC", "00:00-00:00 UTC"]
CALENDARS = ["Sun 02:00 for 2h", "*-*-* 03:00 for 90s"]
VERBS = ["restart", "reload", "kill"]


def some(choices):
    return st.lists(st.sampled_from(choices), max_size=2, unique=True).map(tuple)


matches = st.builds(
    Match,
    unit=some(UNITS + GLOBS),
    playbook=some([*PLAYBOOKS, "re*"]),
    finding=some([*FINDINGS, "unit.*"]),
    risk=some(RISKS),
    origin=some(ORIGINS),
    window=some(WINDOWS + CALENDARS),
    tier_max=st.integers(0, 4),
    tier_min=st.integers(0, 2),
    step=some([*VERBS, "re*"]),
    host=some(HOSTS),
    outside=some(WINDOWS + CALENDARS),
)
rules = st.lists(
    st.builds(Rule, id=st.just("r"), effect=st.sampled_from([ALLOW, HOLD, DENY]), reason=st.just("x"), match=matches),
    max_size=12,
)
facts = st.builds(
    Facts,
    unit=st.sampled_from([*UNITS, "other.service"]),
    playbook=st.sampled_from(PLAYBOOKS),
    finding=st.sampled_from(FINDINGS),
    risk=st.sampled_from(RISKS),
    origin=st.sampled_from(ORIGINS),
    tier=st.integers(0, 4),
    minute=st.integers(0, 1439),
    verbs=some(VERBS),
    host=some(HOSTS),
    open_windows=some(CALENDARS),
    unclear_windows=some(CALENDARS),
)


def naive(rules: list[Rule], fact: Facts) -> str | None:
    """The reference: read every rule as it is written."""
    effects = {rule.effect for rule in rules if _holds(rule, fact)}
    for effect in (DENY, HOLD, ALLOW):
        if effect in effects:
            return effect
    return None


def _holds(rule: Rule, fact: Facts) -> bool:
    match, unknown = rule.match, rule.effect != ALLOW

    def glob(patterns, value):
        return not patterns or any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)

    def is_open(text):
        if text in CALENDARS:
            return True if text in fact.open_windows else None if text in fact.unclear_windows else False
        first, last = (int(part[:2]) * 60 + int(part[3:]) for part in text.removesuffix(" UTC").split("-"))
        if first < last:
            return first <= fact.minute < last
        return fact.minute >= first or fact.minute < last

    def steps():
        named = [glob(match.step, verb) for verb in fact.verbs]
        if not match.step or (not named and unknown):
            return True
        return any(named) if unknown else bool(named) and all(named)

    def any_open(texts):
        states = [is_open(text) for text in texts]
        return True if True in states else None if None in states else False

    def certain(answer):
        return unknown if answer is None else answer

    outside = any_open(match.outside)
    return (
        glob(match.unit, fact.unit)
        and glob(match.playbook, fact.playbook)
        and glob(match.finding, fact.finding)
        and (not match.risk or fact.risk in match.risk)
        and (not match.origin or fact.origin in match.origin)
        and match.tier_min <= fact.tier <= match.tier_max
        and steps()
        and (not match.host or certain(bool({*match.host} & {*fact.host}) if fact.host else None))
        and (not match.window or certain(any_open(match.window)))
        and (not match.outside or certain(None if outside is None else not outside))
    )


@given(rules, st.lists(facts, min_size=1, max_size=30))
def test_compiled_rules_agree_with_a_naive_reading(some_rules, some_facts):
    ruleset = RuleSet([PolicyFile("a", tuple(some_rules[::2]), {}), PolicyFile("b", tuple(some_rules[1::2]), {})])
    for fact in some_facts:
        rule = ruleset.evaluate(fact)
        assert (rule.effect if rule else None) == naive(some_rules, fact)
        assert rule is None or _holds(rule, fact)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"effect": "permit"}, "rule[0].effect: 'permit' is not one of"),
        ({"match": {"units": ["x"]}}, "rule[0].match.units: unknown key"),
        ({"match": {"unit": []}}, "rule[0].match.unit: must not be empty"),
        ({"match": {"window": ["22-02"]}}, "rule[0].match.window[0]: '22-02' is not accepted"),
        ({"match": {"tier_max": 5}}, "rule[0].match.tier_max: 5 is not within 0..4"),
        ({"reason": None}, "rule[0]: reason is missing"),
        ({"id": "Not An Id"}, "rule[0].id: "),
        ({"priority": 1}, "rule[0].priority: unknown key"),
        ({"approvals": 1}, "rule[0].approvals: only a rule with effect 'hold'"),
        ({"effect": "hold", "approvals": 0}, "rule[0].approvals: 0 is not within 1..5"),
        ({"match": {"window": ["Sun 02:00"]}}, "rule[0].match.window[0]: 'Sun 02:00' is not accepted"),
        ({"match": {"outside": ["Sun 02:00 for 0h"]}}, "is not accepted"),
        ({"match": {"host": ["happy"]}}, "rule[0].match.host[0]: 'happy' is not one of"),
        ({"match": {"step": []}}, "rule[0].match.step: must not be empty"),
        ({"match": {"tier_min": 3, "tier_max": 2}}, "it would match nothing"),
    ],
)
def test_a_wrong_file_is_refused(change, words):
    rule = {"id": "a", "effect": "allow", "reason": "x", **change}
    data = {"rule": [{key: value for key, value in rule.items() if value is not None}]}
    with pytest.raises(ConfigError) as caught:
        parse_policy("p", data)
    assert any(words in one["message"] for one in caught.value.fields["problems"])


def test_the_same_id_twice_and_unknown_limits_are_refused():
    rule = {"id": "a", "effect": "allow", "reason": "x"}
    with pytest.raises(ConfigError) as caught:
        parse_policy("p", {"rule": [rule, rule], "limits": {"per_unit_per_day": 3}})
    assert len(caught.value.fields["problems"]) == 2


def test_limits_of_the_last_file_win_key_by_key():
    first = parse_policy("10-a", {"limits": {"per_unit_per_hour": 5, "breaker_failures": 2}})
    last = parse_policy("90-z", {"limits": {"per_unit_per_hour": 7}})
    limits = RuleSet([last, first]).limits
    assert (limits.per_unit_per_hour, limits.breaker_failures, limits.per_host_per_hour) == (7, 2, 120)


def test_a_window_crosses_midnight():
    window = parse_window("22:00-02:00 UTC")
    inside = [minute for minute in range(1440) if within(window, minute)]
    assert inside == [*range(120), *range(22 * 60, 1440)]
    with pytest.raises(ValueError, match="25"):
        parse_window("25:00-02:00 UTC")


def test_a_calendar_window_is_an_expression_and_a_length():
    assert parse_calendar("Mon..Fri *-*-* 08:00 Europe/Berlin for 90m") == ("Mon..Fri *-*-* 08:00 Europe/Berlin", 5400)
    with pytest.raises(ValueError, match="for"):
        parse_calendar("daily for ever")
    ruleset = RuleSet([parse_policy("p", {"rule": [{**HOLD_RULE, "match": {"window": ["daily for 1h"]}}]})])
    assert ruleset.calendars == {"daily for 1h"}


HOLD_RULE = {"id": "a", "effect": "hold", "reason": "x"}


def test_a_group_needs_a_bound_and_the_last_file_wins():
    with pytest.raises(ConfigError) as caught:
        parse_policy("p", {"group": [{"id": "web", "unit": "nginx*"}]})
    assert "needs per_hour or units_at_once" in str(caught.value)
    first = parse_policy("10-a", {"group": [{"id": "web", "unit": "nginx*", "per_hour": 3}]})
    last = parse_policy("90-z", {"group": [{"id": "web", "unit": ["nginx*", "web-*"], "units_at_once": 2}]})
    [bound] = RuleSet([last, first]).groups
    assert (bound.group.per_hour, bound.group.units_at_once) == (0, 2)
    assert bound.holds("web-1.service") and not bound.holds("db.service")


def test_a_hundred_thousand_requests_agree_with_the_naive_reading():
    chance = random.Random(20261122)

    def pick(choices, most=2):
        return tuple(chance.sample(choices, chance.randrange(most + 1)))

    def rule():
        match = Match(
            unit=pick(UNITS + GLOBS),
            playbook=pick([*PLAYBOOKS, "re*"]),
            finding=pick([*FINDINGS, "unit.*"], 1),
            risk=pick(RISKS),
            origin=pick(ORIGINS),
            window=pick(WINDOWS + CALENDARS, 1),
            tier_max=chance.choice([2, 3, 4, 4]),
            tier_min=chance.choice([0, 0, 1, 2]),
            step=pick([*VERBS, "re*"], 1),
            host=pick(HOSTS, 1),
            outside=pick(WINDOWS + CALENDARS, 1),
        )
        return Rule("r", chance.choice([ALLOW, ALLOW, HOLD, DENY]), "x", match)

    seen = {ALLOW: 0, HOLD: 0, DENY: 0, None: 0}
    for _set in range(1000):
        some_rules = [rule() for _ in range(chance.randrange(1, 16))]
        ruleset = RuleSet([PolicyFile("a", tuple(some_rules), {})])
        for _request in range(100):
            fact = Facts(
                chance.choice([*UNITS, "other.service"]),
                chance.choice(PLAYBOOKS),
                chance.choice(FINDINGS),
                chance.choice(RISKS),
                chance.choice(ORIGINS),
                chance.randrange(5),
                chance.randrange(1440),
                pick(VERBS),
                pick(HOSTS),
                pick(CALENDARS),
                pick(CALENDARS),
            )
            found = ruleset.evaluate(fact)
            effect = found.effect if found else None
            assert effect == naive(some_rules, fact)
            seen[effect] += 1
    assert sum(seen.values()) == 100_000 and min(seen.values()) > 1000, seen
