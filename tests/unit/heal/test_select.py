"""The order of candidates: what worked first, then the profile's order; nothing that does not fit."""

from __future__ import annotations

import pathlib

from hypothesis import given
from hypothesis import strategies as st

from graced.heal.playbook import ACTIVE_STATES, CONFIG_STATES, TRIGGERS
from graced.heal.select import candidates, objections, rejected
from graced.runtime.catalog import parse

SHARE = pathlib.Path(__file__).parents[3] / "graced" / "share"
PLAYBOOKS = [parse("playbook", path.stem, path.read_bytes(), "").value for path in (SHARE / "playbooks").glob("*.toml")]
NGINX = parse("profile", "nginx", (SHARE / "profiles/nginx.toml").read_bytes(), "nginx.toml").value


def names(finding, unit_state, config_state, ranking=(), *, restorable=True):
    found = candidates(finding, unit_state, config_state, PLAYBOOKS, NGINX, ranking, restorable=restorable)
    return [one.playbook.name for one in found]


def test_a_crash_with_a_good_config_is_restarted():
    assert names("unit.failed", "failed", "same") == ["restart-unit"]


def test_a_failure_with_a_refused_config_is_restored_and_never_just_restarted():
    assert names("unit.failed", "failed", "invalid") == ["restore-config"]
    assert names("config.damaged", "active", "damaged") == ["restore-config"]


def test_without_a_copy_nothing_is_restored_and_it_is_said():
    assert names("unit.failed", "failed", "damaged", restorable=False) == []
    why = rejected("unit.failed", "failed", "damaged", PLAYBOOKS, NGINX, restorable=False)
    assert "no last-known-good copy" in why["restore-config"]
    assert "config to be same or edited or unknown, it is damaged" in why["restart-unit"]


def test_a_hang_is_killed_first():
    assert names("unit.hung", "active", "same") == ["kill-and-restart"]


def test_what_worked_before_comes_first_and_says_so():
    both = [one.replace(preconditions=one.preconditions.replace(config=())) for one in PLAYBOOKS]
    found = candidates("unit.failed", "failed", "same", both, NGINX, ["restart-unit", "unknown-one"])
    assert [one.playbook.name for one in found] == ["restart-unit", "restore-config"]
    assert "it worked for unit.failed on nginx.service before (place 1)" in found[0].reason
    assert "place 1 in the order of the profile nginx" in found[1].reason


@given(
    st.sampled_from(TRIGGERS),
    st.sampled_from([*ACTIVE_STATES, "unknown"]),
    st.sampled_from(CONFIG_STATES),
    st.lists(st.sampled_from([*NGINX.playbooks, "other"]), max_size=6),
    st.booleans(),
)
def test_chosen_and_rejected_are_the_profile(finding, unit_state, config_state, ranking, restorable):
    chosen = names(finding, unit_state, config_state, ranking, restorable=restorable)
    others = rejected(finding, unit_state, config_state, PLAYBOOKS, NGINX, restorable=restorable)
    assert sorted([*chosen, *others]) == sorted(NGINX.playbooks)
    by_name = {one.name: one for one in PLAYBOOKS}
    for name in chosen:
        assert objections(finding, unit_state, config_state, by_name[name], restorable=restorable) == ()
