"""Which units are adopted: a file that is wrong takes out nothing but itself."""

from __future__ import annotations

import pytest

from graced.base.paths import Paths
from graced.runtime import adopted

PROFILE = 'unit = "{0}.service"\ndescription = "{1}"\n[heal]\nplaybooks = ["p"]\n'


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    for name in ("etc", "share"):
        monkeypatch.setenv(f"GRACED_{name.upper()}", str(tmp_path / name))
        for directory in ("profiles", "watch.d"):
            (tmp_path / name / directory).mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / f"share/profiles/{name}.toml").write_text(PROFILE.format(name, "shipped"))
        (tmp_path / f"etc/watch.d/{name}.toml").write_text(f'unit = "{name}.service"\nprofile = "{name}"\ntier = 3\n')
    return tmp_path


def load(before=None):
    units, problems = adopted.load(Paths(), before)
    return {name: (one.profile.description, one.watch.tier) for name, one in units.items()}, problems, units


BOTH = {"a.service": ("shipped", 3), "b.service": ("shipped", 3)}


def test_units_with_their_profiles(host):
    assert load()[:2] == (BOTH, [])
    (host / "etc/profiles/a.toml").write_text(PROFILE.format("a", "mine"))
    assert load()[0]["a.service"] == ("mine", 3)


def test_a_profile_that_is_wrong_leaves_the_one_before_or_the_shipped_one(host):
    mine = host / "etc/profiles/a.toml"
    mine.write_text("unit = \n")
    found, problems, _units = load()
    assert found == BOTH
    assert [str(mine) in one for one in problems] == [True]
    mine.write_text(PROFILE.format("a", "mine"))
    units = load()[2]
    mine.write_text("unit = \n")
    found, problems, units = load(units)
    assert (found["a.service"], len(problems)) == (("mine", 3), 1)
    mine.unlink()
    assert load(units)[:2] == (BOTH, [])


def test_a_watch_file_that_is_wrong_leaves_what_it_said_and_the_others(host):
    units = load()[2]
    (host / "etc/watch.d/a.toml").write_text("tier = 9\n")
    found, problems, _units = load(units)
    assert (found, len(problems)) == (BOTH, 1)
    found, problems, _units = load()
    assert (list(found), len(problems)) == (["b.service"], 1)
    (host / "etc/watch.d/a.toml").unlink()
    assert list(load(units)[0]) == ["b.service"]


def test_a_file_that_others_can_write_counts_for_nothing(host):
    units = load()[2]
    (host / "etc/watch.d/a.toml").chmod(0o666)
    (host / "etc/watch.d/c.toml").write_text('unit = "c.service"\nprofile = "a"\ntier = 3\n')
    (host / "etc/watch.d/c.toml").chmod(0o666)
    found, problems, _units = load(units)
    assert (found, len(problems)) == (BOTH, 2)


def test_without_any_profile_the_unit_is_left_out(host):
    units = load()[2]
    (host / "share/profiles/a.toml").unlink()
    found, problems, _units = load(units)
    assert (list(found), len(problems)) == (["b.service"], 1)
    assert "there is no profile a" in problems[0]
