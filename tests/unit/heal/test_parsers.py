"""Profiles, playbooks and watches: every problem at once with its line, and nothing but ConfigError ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import ConfigError
from graced.base.toml import parse_toml
from graced.heal.playbook import parse_playbook
from graced.heal.profile import parse_profile
from graced.heal.watch import Watch, parse_watch, render_watch

PLAYBOOK = {
    "description": "x",
    "risk": "low",
    "tier": 3,
    "triggers": ["unit.failed"],
    "undo": True,
    "step": [{"verb": "restore-config"}, {"verb": "restart", "timeout_seconds": 20}],
}
PROFILE = {
    "unit": "nginx.service",
    "config": {"paths": ["/etc/nginx/nginx.conf", "/etc/nginx/conf.d/*.conf"]},
    "validate": {"method": "command", "command": ["/usr/sbin/nginx", "-t", "-c", "{config}"]},
    "probe": [{"kind": "http", "address": "127.0.0.1:80"}],
    "heal": {"playbooks": ["restart-unit"]},
}
WATCH = {"unit": "nginx.service", "profile": "nginx", "tier": 3}


def problems(parse, data) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse("name", data)
    return [one["message"] for one in caught.value.fields["problems"]]


def changed(base: dict, **changes) -> dict:
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def test_good_ones_are_taken():
    playbook = parse_playbook("restore-config", PLAYBOOK, digest="d", path="p")
    assert (playbook.steps[1].verb, playbook.steps[1].timeout_seconds, playbook.digest) == ("restart", 20.0, "d")
    assert playbook.acts()
    profile = parse_profile("nginx", PROFILE)
    assert profile.config_paths[0] == "/etc/nginx/nginx.conf"
    assert profile.probes[0].expect_status == (200, 499)
    assert parse_watch("nginx", WATCH).tier == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tier": 2}, "step[0].verb: restore-config needs tier 3"),
        ({"undo": False}, "undo: a playbook with restore-config must set undo"),
        ({"triggers": ["unit.sad"]}, "triggers[0]: 'unit.sad' is not one of"),
        ({"triggers": []}, "triggers: at least one is needed"),
        ({"step": [{"verb": "rm -rf"}]}, "step[0].verb: 'rm -rf' is not one of"),
        ({"step": [{"verb": "restart", "command": "x"}]}, "step[0].command: unknown key"),
        ({"step": None}, "step is missing"),
        ({"risk": 3}, "risk: a string is needed, not a whole number"),
        ({"tier": True}, "tier: a whole number is needed, not true or false"),
        ({"limit": {}}, "limit: unknown key"),
        ({"preconditions": {"config": "broken"}}, "preconditions.config[0]: 'broken' is not one of"),
        ({"preconditions": []}, "preconditions: a table is needed"),
    ],
)
def test_bad_playbooks(change, words):
    assert any(words in one for one in problems(parse_playbook, changed(PLAYBOOK, **change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": "../x.service"}, "unit: '../x.service' is not accepted"),
        ({"unit": ""}, "unit: '' is not accepted"),
        ({"unit": "nginx.socket"}, "unit: "),
        ({"config": {"paths": ["/etc/../shadow"]}}, "config.paths[0]: must be plain"),
        ({"config": {"paths": ["/etc/nginx/*.conf"]}}, "config.paths[0]: the first path is the main config file"),
        ({"config": {"paths": ["/etc/a/b", "/etc/*/c"]}}, "config.paths[1]: a glob is only accepted in the last"),
        ({"config": {"paths": ["/passwd"]}}, "config.paths[0]: files directly under /"),
        ({"config": None}, "config: paths are needed to validate anything"),
        ({"probe": [{"kind": "tcp", "address": "10.0.0.1:80"}]}, "probe[0].address: "),
        ({"probe": [{"kind": "tcp", "address": "127.0.0.1:99999"}]}, "probe[0].address: the port"),
        ({"probe": [{"kind": "exec", "address": "127.0.0.1:80"}]}, "probe[0].kind: 'exec' is not one of"),
        ({"probe": [{"kind": "tcp", "address": "localhost:80", "path": "/"}]}, "probe[0].path: unknown key"),
        ({"probe": [{"kind": "http", "address": "[::1]:80", "expect_status": [500, 200]}]}, "probe[0].expect_status"),
        ({"validate": {"method": "command"}}, "validate.command: method command and the command do not fit"),
        ({"validate": {"method": "command", "command": ["nginx"]}}, "validate.command[0]: the program needs"),
        ({"validate": {"method": "command", "command": ["/a", "{home}"]}}, "validate.command[1]: the placeholders"),
        (
            {"validate": {"method": "trial-start", "command": ["/a"], "trial": {"settle_ms": 6000}}},
            "validate.timeout_seconds: must be longer",
        ),
        ({"heal": None}, "heal: playbooks is missing"),
    ],
)
def test_bad_profiles(change, words):
    assert any(words in one for one in problems(parse_profile, changed(PROFILE, **change)))


def test_all_problems_come_at_once_with_their_lines():
    text = b'description = 3\nrisk = "low"\ntier = 9\ntriggers = ["unit.failed"]\n\n'
    text += b'[[step]]\nverb = "dance"\nloud = true\n'
    values, line_of = parse_toml(text, "x.toml")
    with pytest.raises(ConfigError) as caught:
        parse_playbook("x", values, line_of, path="x.toml")
    assert [one["line"] for one in caught.value.fields["problems"]] == [1, 3, 7, 8]
    assert str(caught.value).splitlines()[2].startswith("x.toml:7: step[0].verb: 'dance' is not one of")


def test_a_bad_file_name_is_refused():
    with pytest.raises(ConfigError):
        parse_playbook("Restart Unit", PLAYBOOK)


def test_a_written_watch_reads_back():
    watch = Watch(
        unit="a-\\x2d.service", profile="nginx", tier=2, adopted_at="2026-11-22T10:00:00.000Z", adopted_by=1000
    )
    values, line_of = parse_toml(render_watch(watch).encode(), "w")
    assert parse_watch("w", values, line_of) == watch


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(data=st.data())
@pytest.mark.parametrize(
    ("parse", "good"),
    [(parse_playbook, PLAYBOOK), (parse_profile, PROFILE), (parse_watch, WATCH)],
    ids=["playbook", "profile", "watch"],
)
def test_nothing_but_config_error(parse, good, data):
    keys = st.sampled_from([*good, "preconditions", "limits", "start", "adopted_at", "other"])
    hostile = {**good, **data.draw(st.dictionaries(keys, values, max_size=4))}
    if isinstance(hostile.get("step"), list) or isinstance(hostile.get("probe"), list):
        inner = data.draw(
            st.dictionaries(st.sampled_from(["verb", "kind", "address", "send", "expect_status"]), values)
        )
        hostile["step" if "step" in hostile else "probe"] = [inner]
    try:
        parse("name", hostile)
    except ConfigError as error:
        assert error.fields["problems"]


@given(text=st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_gives_values_or_config_error(text):
    try:
        parsed, line_of = parse_toml(text.encode("utf-8", "surrogatepass"), "x.toml")
        parse_playbook("x", parsed, line_of)
    except ConfigError as error:
        assert error.message
