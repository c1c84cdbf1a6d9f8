"""The running set: etc over share, the last good version stays, lost references and foreign files are refused."""

from __future__ import annotations

import os

import pytest

from graced.base.paths import Paths
from graced.runtime import catalog as catalogs
from graced.runtime.catalog import PLAYBOOK, PROFILE, WATCH, Catalog, LastGood

GOOD = 'description = "{0}"\nrisk = "low"\ntier = 2\ntriggers = ["unit.failed"]\n[[step]]\nverb = "restart"\n'


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    for name in ("etc", "share"):
        monkeypatch.setenv(f"GRACED_{name.upper()}", str(tmp_path / name))
        for directory in ("playbooks", "profiles", "watch.d"):
            (tmp_path / name / directory).mkdir(parents=True)
    (tmp_path / "share/playbooks/a.toml").write_text(GOOD.format("shipped"))
    return make(tmp_path)


def make(tmp_path):
    one = Catalog(Paths(), LastGood(str(tmp_path / "state")))
    one.refresh()
    return one


def described(catalog):
    return catalog.running[PLAYBOOK]["a"].value.description


def test_etc_wins_by_name_and_going_back_works(catalog, tmp_path):
    assert described(catalog) == "shipped"
    mine = tmp_path / "etc/playbooks/a.toml"
    mine.write_text(GOOD.format("mine"))
    assert catalog.refresh_if_changed()
    assert described(catalog) == "mine"
    assert not catalog.refresh_if_changed()
    mine.unlink()
    catalog.refresh()
    assert described(catalog) == "shipped"


def test_a_bad_file_keeps_what_passed_over_a_restart_and_a_deleted_one_is_gone(catalog, tmp_path):
    path = tmp_path / "share/playbooks/a.toml"
    path.write_text("tier = \n")
    for one in (catalog, make(tmp_path)):
        one.refresh()
        assert described(one) == "shipped"
        [refused] = one.refused
        assert refused.errors[0]["line"] == 1
        assert refused.running_digest == one.running[PLAYBOOK]["a"].digest
    path.unlink()
    catalog.refresh()
    assert catalog.running[PLAYBOOK] == {}
    path.write_text("tier = \n")
    assert make(tmp_path).running[PLAYBOOK] == {}


def test_what_refers_to_nothing_is_refused(catalog, tmp_path):
    (tmp_path / "etc/profiles/p.toml").write_text('unit = "x.service"\n[heal]\nplaybooks = ["a", "b"]\n')
    (tmp_path / "etc/watch.d/w.toml").write_text('unit = "x.service"\nprofile = "p"\ntier = 3\n')
    catalog.refresh()
    assert [one.errors[0]["message"] for one in catalog.refused] == [
        "heal.playbooks: there is no playbook b",
        "profile: there is no profile p",
    ]
    assert catalog.running[PROFILE] == catalog.running[WATCH] == {}


def test_what_came_while_the_files_were_read_refers_to_nothing_wrong(catalog, tmp_path, monkeypatch):
    real = os.listdir

    def listed(directory):
        # The admin writes a playbook and the profile that names it after the playbooks were read.
        if directory == f"{tmp_path}/etc/profiles" and not (tmp_path / "etc/playbooks/b.toml").exists():
            (tmp_path / "etc/playbooks/b.toml").write_text(GOOD.format("new"))
            (tmp_path / "etc/profiles/p.toml").write_text('unit = "x.service"\n[heal]\nplaybooks = ["b"]\n')
        return real(directory)

    monkeypatch.setattr("graced.runtime.catalog.os.listdir", listed)
    catalog.refresh()
    assert catalog.refused == []
    assert list(catalog.running[PROFILE]) == ["p"]
    assert not catalog.refresh_if_changed()


def test_files_that_change_without_end_are_read_a_few_times_only(catalog, tmp_path, monkeypatch):
    real, times = os.listdir, []

    def listed(directory):
        if directory == f"{tmp_path}/etc/profiles":
            times.append(directory)
            (tmp_path / "etc/profiles/p.toml").write_text("tier = \n" + "#" * len(times))
        return real(directory)

    monkeypatch.setattr("graced.runtime.catalog.os.listdir", listed)
    catalog.refresh()
    assert [one.name for one in catalog.refused] == ["p"]
    assert len(times) == 3
    assert catalog.refresh_if_changed()


def test_a_unit_is_adopted_once_and_with_its_own_profile(catalog, tmp_path):
    (tmp_path / "etc/profiles/p.toml").write_text('unit = "x.service"\n[heal]\nplaybooks = ["a"]\n')
    for name, unit in (("a", "x.service"), ("b", "x.service"), ("c", "y.service")):
        (tmp_path / f"etc/watch.d/{name}.toml").write_text(f'unit = "{unit}"\nprofile = "p"\ntier = 3\n')
    catalog.refresh()
    assert list(catalog.running[WATCH]) == ["a"]
    assert [
        next(words for words in ("is adopted by", "is for x.service") if words in one.errors[0]["message"])
        for one in catalog.refused
    ] == ["is adopted by", "is for x.service"]


def test_files_others_can_write_and_things_that_are_no_files_are_refused(catalog, tmp_path):
    open_file = tmp_path / "etc/playbooks/b.toml"
    open_file.write_text(GOOD.format("b"))
    open_file.chmod(0o666)
    os.mkfifo(tmp_path / "etc/playbooks/c.toml")
    (tmp_path / "etc/playbooks/d.toml").symlink_to("/nowhere")
    catalog.refresh()
    assert [one.name for one in catalog.refused] == ["b", "c", "d"]
    assert list(catalog.running[PLAYBOOK]) == ["a"]


def test_a_state_directory_that_cannot_be_written_stops_no_good_file(tmp_path, catalog):
    (tmp_path / "blocked").write_text("")
    one = Catalog(Paths(), LastGood(str(tmp_path / "blocked" / "state")))
    one.refresh()
    assert described(one) == "shipped"
    assert "blocked" in one.store_error


def test_a_directory_others_can_write_counts_for_nothing_and_comes_back(catalog, tmp_path):
    (tmp_path / "etc/playbooks/a.toml").write_text(GOOD.format("mine"))
    assert catalog.refresh_if_changed()
    (tmp_path / "etc/playbooks").chmod(0o777)
    (tmp_path / "share/playbooks").chmod(0o777)
    assert catalog.refresh_if_changed()
    assert catalog.running[PLAYBOOK] == {}
    assert {one.running_digest for one in catalog.refused} == {None}
    assert [one.errors[0]["message"] for one in catalog.refused] == ["must not be writable for others"] * 2
    for place in ("etc", "share"):
        (tmp_path / place / "playbooks").chmod(0o755)
    assert catalog.refresh_if_changed()
    assert described(catalog) == "mine"


def test_a_file_that_never_passed_leaves_the_shipped_one_in_force(catalog, tmp_path):
    (tmp_path / "etc/playbooks/a.toml").write_text("tier = \n")
    for one in (catalog, make(tmp_path / ".")):
        one.refresh()
        assert described(one) == "shipped"
        assert one.refused[0].running_digest == one.running[PLAYBOOK]["a"].digest
    fresh = Catalog(Paths(), LastGood(str(tmp_path / "other")))
    fresh.refresh()
    assert described(fresh) == "shipped"


def _write(path):
    path.write_text(GOOD.format("other"))


def _through_a_link(path):
    (path.parent / "new").write_text(GOOD.format("linked"))
    path.unlink()
    path.symlink_to("new")


@pytest.mark.parametrize(
    "change",
    [
        _write,
        lambda path: path.with_name("b.toml").write_text(GOOD.format("one more")),
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("c.toml")),
        _through_a_link,
        lambda path: path.parent.chmod(0o777),
        lambda path: path.parent.rename(path.parent.with_name("away")),
        lambda path: path.parents[2].joinpath("etc/playbooks/a.toml").write_text(GOOD.format("mine")),
    ],
)
def test_directories_that_did_not_change_are_not_listed_and_each_change_is_found(
    tmp_path, monkeypatch, change, catalog
):
    # none of them has been there for long
    monkeypatch.setattr(catalogs, "SETTLED_NS", -(10**18))
    (tmp_path / "etc/watch.d").rmdir()
    one, listed, scandir = make(tmp_path), [], os.scandir
    monkeypatch.setattr(catalogs.os, "scandir", lambda directory: listed.append(directory) or scandir(directory))
    assert not one.refresh_if_changed()
    assert listed == []
    change(tmp_path / "share/playbooks/a.toml")
    assert one.refresh_if_changed()
    assert listed
    listed.clear()
    assert not one.refresh_if_changed()
    assert listed == []


def test_what_a_link_leads_to_is_looked_at(tmp_path, monkeypatch, catalog):
    monkeypatch.setattr(catalogs, "SETTLED_NS", -(10**18))
    path = tmp_path / "share/playbooks/a.toml"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    one = make(tmp_path)
    assert not one.refresh_if_changed()
    (tmp_path / "elsewhere").write_text(GOOD.format("behind the link"))
    assert one.refresh_if_changed()
    assert described(one) == "behind the link"


def test_a_directory_that_has_just_changed_is_listed_again(tmp_path, monkeypatch, catalog):
    one, listed, scandir = make(tmp_path), [], os.scandir
    monkeypatch.setattr(catalogs.os, "scandir", lambda directory: listed.append(directory) or scandir(directory))
    assert not one.refresh_if_changed()
    assert str(tmp_path / "share/playbooks") in listed
