"""Every file shipped in graced/share passes its own checks, and what it refers to is there."""

from __future__ import annotations

import pathlib

import pytest

from graced.heal.playbook import TRIGGERS, VERBS
from graced.policy.match import Facts
from graced.policy.rules import ALLOW, RuleSet
from graced.runtime.catalog import PLAYBOOK, POLICY, PROFILE, parse, references_missing

SHARE = pathlib.Path(__file__).parents[3] / "graced" / "share"
FILES = [
    (kind, path)
    for kind, directory in ((PLAYBOOK, "playbooks"), (PROFILE, "profiles"), (POLICY, "policy.d"))
    for path in sorted((SHARE / directory).glob("*.toml"))
]


def _all() -> dict:
    running: dict = {PLAYBOOK: {}, PROFILE: {}, POLICY: {}, "watch": {}}
    for kind, path in FILES:
        running[kind][path.stem] = parse(kind, path.stem, path.read_bytes(), str(path))
    return running


@pytest.mark.parametrize(("kind", "path"), FILES, ids=[path.name for _kind, path in FILES])
def test_parses_and_refers_to_what_exists(kind, path):
    entry = parse(kind, path.stem, path.read_bytes(), str(path))
    assert references_missing(entry, _all()) == []


def test_the_promised_files_are_there():
    running = _all()
    assert {"nginx", "redis-server"} <= running[PROFILE].keys()
    assert {"restart-unit", "kill-and-restart", "restore-config", "diagnose"} <= running[PLAYBOOK].keys()
    assert running[POLICY]


def test_every_finding_has_a_playbook_in_every_profile():
    running = _all()
    for profile in running[PROFILE].values():
        covered = {trigger for name in profile.value.playbooks for trigger in running[PLAYBOOK][name].value.triggers}
        assert covered == set(TRIGGERS), profile.name


def test_every_shipped_playbook_is_allowed_by_the_shipped_policy():
    running = _all()
    rules = RuleSet([entry.value for entry in running[POLICY].values()])
    for entry in running[PLAYBOOK].values():
        playbook = entry.value
        assert all(step.verb in VERBS for step in playbook.steps)
        facts = Facts("x.service", playbook.name, playbook.triggers[0], playbook.risk, "brain", playbook.tier, 0)
        rule = rules.evaluate(facts)
        assert rule is not None and rule.effect == ALLOW, playbook.name
