"""Tests of policies: what must come of a plan, in files beside the rules; and what rules say, in a form to compare.

Only the rules are asked: no limits, no history, no pause. Pure; used by gracectl.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.base.schema import Problems, Table, no_lines
from graced.policy.match import CALENDAR, HOSTS, MAX_TIER, ORIGINS, RISKS, Facts
from graced.policy.rules import EFFECTS, MAX_APPROVALS, RuleSet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.base.schema import LineOf
    from graced.policy.rules import Ruling

_AT = r"([01]\d|2[0-3]):([0-5]\d)"


class Case(Record):
    """One test. `rule` and `approvals` None: not looked at."""

    name: str
    facts: Facts
    expect: str
    rule: str | None
    approvals: int | None
    path: str = ""


class Said(Record):
    """What the rules alone say, in words that can be compared and recorded. `rule` None: no rule matched."""

    effect: str
    rule: str | None
    approvals: int = 0


def said(ruling: Ruling) -> Said:
    """A ruling in short; a hold for approval goes by the rule that asks."""
    rule = ruling.asked_by or ruling.rule
    return Said(ruling.effect, rule.id if rule else None, ruling.approvals)


def parse_cases(name: str, data: JsonDict, line_of: LineOf = no_lines, *, path: str = "") -> tuple[Case, ...]:
    """Check a parsed TOML file of tests. ConfigError lists every problem with dotted key and line."""
    problems = Problems(path or f"{name}.toml", line_of)
    top = Table(problems, data)
    cases = tuple(_case(table, path) for table in top.tables("test", required=True, most=1000))
    top.done()
    problems.raise_if_any()
    return cases


def _case(table: Table, path: str) -> Case:
    case = Case(
        name=table.text("name", required=True),
        facts=_facts(table),
        expect=table.text("expect", "deny", required=True, choices=EFFECTS),
        rule=table.text("rule") or None,
        approvals=table.whole("approvals", 0, 0, MAX_APPROVALS) if "approvals" in table.data else None,
        path=path,
    )
    table.take("approvals")
    table.done()
    return case


def _facts(table: Table) -> Facts:
    at = table.text("at", "12:00", match=_AT)
    hours, _colon, minutes = at.partition(":")
    return Facts(
        unit=table.text("unit", required=True),
        playbook=table.text("playbook", required=True),
        finding=table.text("finding", "unit.failed"),
        risk=table.text("risk", "low", choices=RISKS),
        origin=table.text("origin", "brain", choices=ORIGINS),
        tier=table.whole("tier", 2, 0, MAX_TIER, required=True),
        minute=int(hours) * 60 + int(minutes),
        verbs=table.texts("step", bare=True, unique=False),
        host=table.texts("host", choices=HOSTS, bare=True),
        open_windows=table.texts("open", match=CALENDAR, bare=True),
        unclear_windows=table.texts("unclear", match=CALENDAR, bare=True),
    )


def run_case(rules: RuleSet, case: Case) -> str:
    """What is wrong, empty when the rules say what the test expects."""
    for window in (*case.facts.open_windows, *case.facts.unclear_windows):
        if window not in rules.calendars:
            return f"no rule has the window {window!r}"
    got = said(rules.rule_on(case.facts))
    if got.effect != case.expect:
        return f"{case.expect} was expected, {got.effect} came ({got.rule or 'no rule'})"
    if case.rule is not None and got.rule != case.rule:
        return f"the rule {case.rule} was expected, {got.rule or 'none'} decided"
    if case.approvals is not None and got.approvals != case.approvals:
        return f"{case.approvals} approvals were expected, it takes {got.approvals}"
    return ""
