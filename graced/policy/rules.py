"""Policy files: parsed strictly, compiled once, evaluated in microseconds.

Deny wins over hold, hold over allow; what no rule allows is denied. An unknown key is an error, so a typo never
loosens anything. Pure; used by Governance and Code.
"""

from __future__ import annotations

from graced.base.digest import sha256
from graced.base.record import Record
from graced.base.schema import Problems, Table, no_lines
from graced.policy.match import (
    CALENDAR,
    HOSTS,
    MAX_TIER,
    ORIGINS,
    RISKS,
    WINDOW,
    Facts,
    Match,
    compile_match,
    globs,
    is_daily,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from graced.base.json import JsonDict
    from graced.base.schema import LineOf

ALLOW = "allow"
HOLD = "hold"
DENY = "deny"
EFFECTS = (DENY, HOLD, ALLOW)
"""In the order of their strength."""

_ID = r"[a-z0-9][a-z0-9.-]{0,62}"
_MAX_REMEMBERED = 1024
MAX_APPROVALS = 5

NO_RULE = "no-rule"


class Rule(Record):
    """One rule of a policy file. `approvals`: a hold that this many people can lift, 0 for one that nobody can."""

    id: str
    effect: str
    reason: str
    match: Match
    approvals: int = 0


class Group(Record):
    """Units that share bounds: heals in a sliding hour, and units under repair together; 0 for no bound."""

    id: str
    unit: tuple[str, ...]
    per_hour: int = 0
    units_at_once: int = 0


class Ruling(Record):
    """What the rules say. `rule` None: no rule allows it. `approvals`: how many people's it takes; `asked_by` the rule
    that wants them, and `rule` then the one that allows it afterwards.
    """

    effect: str
    rule: Rule | None
    approvals: int = 0
    asked_by: Rule | None = None


class Limits(Record):
    """Bounds on top of every rule, for one host.

    Rates count allowed plans in a sliding hour. `units_at_once` is how many units may be under repair together.
    After `breaker_failures` futile heals in a row a unit gets one try every `breaker_retry_seconds`, and one
    autonomy tier is taken away (never below 2), which comes back after `promote_after_seconds` without a failure.
    """

    per_unit_per_hour: int = 30
    per_host_per_hour: int = 120
    units_at_once: int = 8
    cooldown_seconds: float = 5.0
    breaker_failures: int = 3
    breaker_retry_seconds: float = 900.0
    promote_after_seconds: float = 86400.0


class PolicyFile(Record):
    """A checked policy file. `limits` holds only what the file says."""

    name: str
    rules: tuple[Rule, ...]
    limits: dict[str, float]
    digest: str = ""
    path: str = ""
    groups: tuple[Group, ...] = ()


def parse_policy(
    name: str, data: JsonDict, line_of: LineOf = no_lines, *, digest: str = "", path: str = ""
) -> PolicyFile:
    """Check a parsed TOML file. ConfigError lists every problem with dotted key and line."""
    problems = Problems(path or f"{name}.toml", line_of)
    top = Table(problems, data)
    rules: list[Rule] = []
    for table in top.tables("rule", most=1000):
        rule = Rule(
            id=table.text("id", required=True, match=_ID),
            effect=table.text("effect", DENY, required=True, choices=EFFECTS),
            reason=table.text("reason", required=True),
            match=_match(table.table("match")),
            approvals=_or_none(table, "approvals", MAX_APPROVALS),
        )
        table.done()
        if rule.approvals and rule.effect != HOLD:
            table.bad("approvals", f"only a rule with effect {HOLD!r} can ask for approvals")
        if rule.id and any(rule.id == other.id for other in rules):
            table.bad("id", f"{rule.id!r} is there twice")
        rules.append(rule)
    limits = _limits(top.table("limits"))
    groups = tuple(_group(table) for table in top.tables("group", most=100))
    top.done()
    problems.raise_if_any()
    return PolicyFile(name=name, rules=tuple(rules), limits=limits, digest=digest, path=path, groups=groups)


def _match(table: Table) -> Match:
    times = f"{WINDOW}|{CALENDAR}"
    match = Match(
        unit=table.texts("unit", bare=True),
        playbook=table.texts("playbook", bare=True),
        finding=table.texts("finding", bare=True),
        risk=table.texts("risk", choices=RISKS, bare=True),
        origin=table.texts("origin", choices=ORIGINS, bare=True),
        window=table.texts("window", match=times, bare=True),
        tier_max=table.whole("tier_max", MAX_TIER, 0, MAX_TIER),
        tier_min=table.whole("tier_min", 0, 0, MAX_TIER),
        step=table.texts("step", bare=True),
        host=table.texts("host", choices=HOSTS, bare=True),
        outside=table.texts("outside", match=times, bare=True),
    )
    # An empty list would match everything although it reads like "nothing".
    for name in ("unit", "playbook", "finding", "risk", "origin", "window", "step", "host", "outside"):
        if table.data.get(name) in ([], ""):
            table.bad(name, "must not be empty; leave it out to match everything")
    if match.tier_min > match.tier_max:
        table.bad("tier_min", f"{match.tier_min} is more than tier_max {match.tier_max}: it would match nothing")
    table.done()
    return match


def _group(table: Table) -> Group:
    group = Group(
        id=table.text("id", required=True, match=_ID),
        unit=table.texts("unit", required=True, bare=True),
        per_hour=_or_none(table, "per_hour", 10_000),
        units_at_once=_or_none(table, "units_at_once", 1000),
    )
    if not group.per_hour and not group.units_at_once:
        table.bad("id", "a group needs per_hour or units_at_once")
    table.done()
    return group


def _or_none(table: Table, name: str, most: int) -> int:
    """A whole number from 1 to `most`; 0 when it is not there."""
    return table.whole(name, 1, 1, most) if table.take(name) is not None else 0


_LIMITS_WHOLE = {
    "per_unit_per_hour": (1, 1000),
    "per_host_per_hour": (1, 10_000),
    "units_at_once": (1, 1000),
    "breaker_failures": (1, 100),
}
_LIMITS_SECONDS = {
    "cooldown_seconds": (0.0, 86400.0),
    "breaker_retry_seconds": (10.0, 7 * 86400.0),
    "promote_after_seconds": (60.0, 365 * 86400.0),
}


def _limits(table: Table) -> dict[str, float]:
    said: dict[str, float] = {}
    for name, (low, high) in _LIMITS_WHOLE.items():
        if name in table.data:
            said[name] = table.whole(name, low, low, high)
    for name, (least, most) in _LIMITS_SECONDS.items():
        if name in table.data:
            said[name] = table.number(name, least, least, most)
    for name in (*_LIMITS_WHOLE, *_LIMITS_SECONDS):
        table.take(name)
    table.done()
    return said


def merge_limits(files: Sequence[PolicyFile]) -> Limits:
    """The bounds of all files together: for each key the file that comes last by name."""
    said: JsonDict = {}
    for file in sorted(files, key=lambda file: file.name):
        said |= file.limits
    return Limits(**said)


def policy_digest(files: Sequence[PolicyFile]) -> str:
    """SHA-256 (hex) over names and digests of all files."""
    text = "".join(f"{file.name} {file.digest}\n" for file in sorted(files, key=lambda file: file.name))
    return sha256(text.encode()).hexdigest()


class Bound:
    """A group, compiled: `holds(unit)` says whether a unit is in it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._test = globs(group.unit)
        self._known: dict[str, bool] = {}

    def holds(self, unit: str) -> bool:
        """Whether the unit belongs to the group."""
        found = self._known.get(unit)
        if found is None:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            found = self._known[unit] = self._test is not None and bool(self._test(unit))
        return found


class RuleSet:
    """All rules of all files, compiled. It remembers which rules fit a plan: a pure function of its facts."""

    def __init__(self, files: Sequence[PolicyFile]) -> None:
        ordered = sorted(files, key=lambda file: file.name)
        self.rules: tuple[Rule, ...] = tuple(
            rule for effect in EFFECTS for file in ordered for rule in file.rules if rule.effect == effect
        )
        self.limits = merge_limits(ordered)
        groups = {group.id: group for file in ordered for group in file.groups}
        self.groups = tuple(Bound(group) for group in groups.values())
        self.digest = policy_digest(ordered)
        self.calendars = frozenset(
            text for rule in self.rules for text in (*rule.match.window, *rule.match.outside) if not is_daily(text)
        )
        self.asks_host = any(rule.match.host for rule in self.rules)
        self._tests = tuple(compile_match(rule.match, strict=rule.effect == ALLOW) for rule in self.rules)
        self._by_plan: dict[tuple[object, ...], tuple[tuple[Rule, Callable[[Facts], bool] | None], ...]] = {}
        self._units = tuple(globs(rule.match.unit) for rule in self.rules)

    def evaluate(self, facts: Facts) -> Rule | None:
        """The rule that decides: the first of the strongest effect that matches; None when none does."""
        for rule, test in self._of_plan(facts):
            if test is None or test(facts):
                return rule
        return None

    def matching(self, facts: Facts) -> list[Rule]:
        """Every rule that matches, strongest effect first."""
        return [rule for rule, test in self._of_plan(facts) if test is None or test(facts)]

    def rule_on(self, facts: Facts) -> Ruling:
        """What the rules say. A hold for approval stands in for no allow: without one it is a denial at once."""
        first = self.evaluate(facts)
        if first is None:
            return Ruling(DENY, None)
        if first.effect != HOLD:
            return Ruling(first.effect, first)
        found = self.matching(facts)
        holds = [rule for rule in found if rule.effect == HOLD]
        plain = [rule for rule in holds if not rule.approvals]
        if plain:
            return Ruling(HOLD, plain[0])
        allowing = [rule for rule in found if rule.effect == ALLOW]
        if not allowing:
            return Ruling(DENY, None)
        asking = max(holds, key=lambda rule: rule.approvals)
        return Ruling(HOLD, allowing[0], asking.approvals, asking)

    def _of_plan(self, facts: Facts) -> tuple[tuple[Rule, Callable[[Facts], bool] | None], ...]:
        """The rules that match as far as the plan goes, each with its test of the moment."""
        key = (facts.unit, facts.playbook, facts.finding, facts.risk, facts.origin, facts.tier, facts.verbs)
        found = self._by_plan.get(key)
        if found is None:
            if len(self._by_plan) >= _MAX_REMEMBERED:
                self._by_plan.clear()
            found = tuple(
                (rule, moment)
                for rule, (plan, moment), unit in zip(self.rules, self._tests, self._units, strict=True)
                if (unit is None or unit(facts.unit)) and plan(facts)
            )
            self._by_plan[key] = found
        return found
