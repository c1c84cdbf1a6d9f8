"""Policies without a daemon: the files read and checked, their tests run, recorded decisions judged anew.

For `gracectl policy`. Reads only; systemd-analyze is asked about calendars.
"""

from __future__ import annotations

from graced.base.config import Problem
from graced.base.errors import ConfigError, FormatError, HostError
from graced.base.json import get_dict, get_int, get_str, opt_dict
from graced.base.record import Record
from graced.cli.checks import Files
from graced.policy.calendar import SECOND_US, Answer, answer, question
from graced.policy.cases import Said, parse_cases, run_case, said
from graced.policy.match import Facts, parse_calendar
from graced.policy.recorded import anew
from graced.policy.rules import RuleSet, parse_policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict
    from graced.base.paths import Paths
    from graced.policy.rules import PolicyFile


class Failed(Record):
    """A policy test that failed, and why."""

    path: str
    name: str
    reason: str


class Change(Record):
    """A recorded decision that would be another one; of `rules_only` ones only what the rules say is known."""

    seq: int
    time: str
    task_id: str
    unit: str
    playbook: str
    was: Said
    would: Said
    rules_only: bool


def directories(paths: Paths, directory: str | None) -> tuple[str, str]:
    """Where policies are read: the shipped ones, then `directory` in the place of /etc/graced/policy.d."""
    shipped, own = paths.code_dirs("policy.d")
    return shipped, directory or own


def read_policies(where: tuple[str, ...]) -> tuple[list[PolicyFile], list[Problem], int]:
    """The policies in force, every problem, and how many files were read."""
    files = Files()
    found = files.read(where, parse_policy)
    return list(found.values()), files.problems, files.count


def check_policies(where: tuple[str, ...]) -> tuple[list[Problem], int]:
    """Every mistake: in each file, rules with the same id, and calendars that systemd does not understand."""
    policies, problems, count = read_policies(where)
    seen: dict[str, str] = {}
    for policy in policies:
        for rule in policy.rules:
            if rule.id in seen and seen[rule.id] != policy.path:
                problems.append(Problem(policy.path, 0, f"the rule {rule.id} is also in {seen[rule.id]}"))
            seen.setdefault(rule.id, policy.path)
        for text in sorted(RuleSet([policy]).calendars):
            try:
                ask(text, 1_000_000 * SECOND_US)
            except (FormatError, HostError) as error:
                problems.append(Problem(policy.path, 0, f"{text}: {error.message}"))
    return problems, count


def ask(text: str, wall_us: int) -> Answer:
    """Whether a calendar window is open at a time. Raises HostError, FormatError."""
    import subprocess

    expression, seconds = parse_calendar(text)
    argv = question(expression, seconds, wall_us)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"systemd-analyze cannot be asked: {error}") from error
    if done.returncode:
        raise HostError(done.stderr.strip()[:200] or f"systemd-analyze ended with {done.returncode}")
    return answer(done.stdout, seconds, wall_us)


def run_tests(where: tuple[str, ...]) -> tuple[list[Failed], list[Problem], int]:
    """The tests in tests/ beside the policies: what failed, what cannot be read, how many there are."""
    policies, problems, _count = read_policies(where)
    rules = RuleSet(policies)
    files = Files()
    failed = []
    count = 0
    for cases in files.read(tuple(f"{directory}/tests" for directory in where), parse_cases).values():
        for case in cases:
            count += 1
            reason = run_case(rules, case)
            if reason:
                failed.append(Failed(case.path, case.name, reason))
    return failed, problems + files.problems, count


class Replay:
    """Recorded decisions against a rule set. Feed entries oldest first.

    `judged` ones were made anew with the limits, histories, tiers, pauses, approvals and windows of their time;
    `rules_only` ones do not say what else they were made from, `without_facts` ones not even what the rules saw.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._answers: dict[str, Answer] = {}
        self.changes: list[Change] = []
        self.judged = 0
        self.rules_only = 0
        self.without_facts = 0

    def feed(self, entries: Iterable[JsonDict]) -> None:
        """Judge every decision among the entries of the ledger anew."""
        for entry in entries:
            data = entry.get("data")
            if entry.get("kind") == "decision" and isinstance(data, dict) and "plan" in data:
                self._judge(entry, data)

    def _judge(self, entry: JsonDict, data: JsonDict) -> None:
        try:
            facts = Facts.from_json(get_dict(data, "facts"), "facts")
            time = get_str(entry, "time")
            now = self._at(facts, time)
            decided = anew(data, self._rules, now.open_windows, now.unclear_windows)
            if decided is None:
                was, would = Said.from_json(get_dict(data, "rules"), "rules"), said(self._rules.rule_on(now))
            else:
                was, would = _decided(data), Said(decided.effect, decided.rule, decided.approvals)
        except FormatError:
            # From a version that did not record what the rules looked at.
            self.without_facts += 1
            return
        self.judged += 1
        self.rules_only += decided is None
        if would != was:
            seq, task_id = int(entry["seq"]), str(entry.get("task_id") or "")
            names = (seq, time, task_id, facts.unit, facts.playbook)
            self.changes.append(Change(*names, was, would, decided is None))

    def _at(self, facts: Facts, time: str) -> Facts:
        """The facts with the windows of the new rules, as they were at the time."""
        from datetime import datetime

        wall_us = int(datetime.fromisoformat(time).timestamp() * SECOND_US)
        opened, unclear = [], []
        for text in sorted(self._rules.calendars):
            found = self._answers.get(text)
            try:
                if found is None or not found.holds(wall_us):
                    found = self._answers[text] = ask(text, wall_us)
            except (FormatError, HostError):
                unclear.append(text)
                continue
            if found.is_open:
                opened.append(text)
        return facts.replace(open_windows=tuple(opened), unclear_windows=tuple(unclear))


def _decided(data: JsonDict) -> Said:
    """What was decided; in shadow, what would have been."""
    decision = opt_dict(data, "would") or data
    return Said(get_str(decision, "effect"), get_str(decision, "rule"), get_int(decision, "approvals"))


def plan_for(unit: str, playbook: str, finding: str, origin: str, files: dict[str, list[JsonDict]]) -> JsonDict:
    """The plan that Healing would make, from Code's lists of watches, profiles and playbooks. Raises ConfigError."""
    watch = next((one["content"] for one in files["watch"] if one["content"].get("unit") == unit), None)
    if watch is None:
        raise ConfigError(f"{unit} is not adopted", hint=f"gracectl adopt {unit}")
    profile = next((one for one in files["profile"] if one["name"] == watch.get("profile")), None)
    found = next((one for one in files["playbook"] if one["name"] == playbook), None)
    if found is None or profile is None:
        names = ", ".join(sorted(one["name"] for one in files["playbook"]))
        raise ConfigError(f"there is no playbook {playbook}", hint=f"there are {names}")
    content = found["content"]
    return {
        "task_id": "task_0",
        "intent_id": None,
        "unit": unit,
        "profile": profile["name"],
        "profile_digest": profile["digest"],
        "playbook": playbook,
        "playbook_digest": found["digest"],
        "steps": list(range(len(content.get("step") or []))),
        "risk": content.get("risk"),
        "tier": content.get("tier"),
        "finding": finding or (content.get("triggers") or ["unit.failed"])[0],
        "origin": origin,
    }
