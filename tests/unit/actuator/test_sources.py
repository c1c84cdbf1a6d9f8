"""Which file a name in a warrant means."""

from __future__ import annotations

import hashlib
import os
import pathlib
import tempfile
from types import SimpleNamespace

import pytest

from graced.actuator import sources
from graced.actuator.kept import Kept
from graced.actuator.sources import NotAdoptedError, Sources
from graced.actuator.warrant import Refused
from graced.base.errors import ConfigError

GOOD = b'description = "d"\nrisk = "low"\ntier = 2\ntriggers = ["unit.failed"]\n[[step]]\nverb = "restart"\n'
OTHER = GOOD.replace(b'"d"', b'"other"')
PROFILE = b'unit = "x.service"\n[heal]\nplaybooks = ["p"]\n'
BROKEN = GOOD.replace(b"restart", b"format-disk")


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def files(monkeypatch):
    found = {}

    def read(path):
        if path not in found:
            raise FileNotFoundError(path)
        return found[path]

    monkeypatch.setattr(sources, "_trusted", read)
    monkeypatch.setattr(sources, "_trusted_names", lambda place: sorted(one for one in found if one.startswith(place)))
    return found


class Copies(dict):
    def keep(self, kind, name, data):
        self[kind, name] = data

    def get(self, kind, name):
        return dict.get(self, (kind, name), b"")


@pytest.fixture
def subject():
    directories = {"code_dirs": lambda kind: (f"/share/{kind}", f"/etc/{kind}"), "watch_dir": lambda: "/etc/watch.d"}
    return Sources(SimpleNamespace(**directories), Copies())


def test_the_admins_file_wins_also_when_the_warrant_is_for_the_shipped_one(files, subject):
    files.update({"/share/playbooks/p.toml": GOOD, "/etc/playbooks/p.toml": OTHER})
    assert subject.playbook("p", digest(GOOD)).digest == digest(OTHER)


def test_the_same_bytes_are_taken_apart_once_and_others_at_once(files, subject, monkeypatch):
    real, read = sources.parse_toml, []
    monkeypatch.setattr(sources, "parse_toml", lambda data, path: read.append(data) or real(data, path))
    files["/share/playbooks/p.toml"] = GOOD
    first = subject.playbook("p", digest(GOOD))
    assert subject.playbook("p", digest(GOOD)) is first
    files["/share/playbooks/p.toml"] = GOOD.replace(b'"d"', b'"e"')
    assert subject.playbook("p", digest(GOOD)).description == "e"
    files["/share/playbooks/p.toml"] = BROKEN
    for _ in range(2):
        # what is refused is refused again
        with pytest.raises(ConfigError):
            subject.playbook("p", digest(BROKEN))
    del files["/share/playbooks/p.toml"]
    with pytest.raises(ConfigError):
        subject.playbook("p", digest(GOOD))
    assert read[:2] == [GOOD, GOOD.replace(b'"d"', b'"e"')]
    for number in range(2 * sources._MAX_PARSED):
        files[f"/share/playbooks/p{number}.toml"] = GOOD
        subject.playbook(f"p{number}", digest(GOOD))
    assert len(subject._parsed) <= sources._MAX_PARSED


def test_a_broken_override_leaves_the_shipped_file_in_force_for_a_warrant_of_exactly_that(files, subject):
    files.update({"/share/playbooks/p.toml": GOOD, "/etc/playbooks/p.toml": BROKEN})
    assert subject.playbook("p", digest(GOOD)).digest == digest(GOOD)
    for warranted in ("", digest(OTHER), digest(BROKEN)):
        with pytest.raises(ConfigError, match="/etc/playbooks/p"):
            subject.playbook("p", warranted)


def test_the_version_before_a_bad_edit_stays_in_force_for_a_warrant_of_exactly_that(files, subject):
    files.update({"/share/playbooks/p.toml": GOOD, "/etc/playbooks/p.toml": OTHER})
    assert subject.playbook("p", digest(OTHER)).description == "other"
    files["/etc/playbooks/p.toml"] = BROKEN
    assert subject.playbook("p", digest(OTHER)).description == "other"
    assert subject.playbook("p", digest(GOOD)).description == "d"
    with pytest.raises(ConfigError):
        subject.playbook("p", digest(BROKEN))
    del files["/etc/playbooks/p.toml"]
    assert subject.playbook("p", digest(OTHER)).digest == digest(GOOD)


def test_a_profile_that_is_no_good_stops_no_look_and_no_act_on_its_version_before(files, subject):
    watch(files, "c", b"x.service")
    mine, shipped = b'description = "mine"\n' + PROFILE, PROFILE
    files.update({"/share/profiles/p.toml": shipped, "/etc/profiles/p.toml": b"unit = 3\n"})
    assert subject.adopted("x.service").profile.digest == digest(shipped)
    assert subject.adopted("x.service", digest(shipped)).profile.digest == digest(shipped)
    files["/etc/profiles/p.toml"] = mine
    assert subject.adopted("x.service").profile.digest == digest(mine)
    files["/etc/profiles/p.toml"] = b"unit = 3\n"
    assert subject.adopted("x.service").profile.digest == digest(mine)
    with pytest.raises(ConfigError):
        subject.adopted("x.service", "0" * 64)


def test_copies_are_kept_on_disk_and_a_disk_that_cannot_stops_nothing(tmp_path):
    # The actuator trusts no directory below one that everybody may write, such as /tmp.
    with tempfile.TemporaryDirectory(prefix="graced-kept-", dir=os.path.expanduser("~")) as base:
        copies(pathlib.Path(base))
    blocked = Kept(str(tmp_path / "kept"))
    blocked.keep("playbooks", "p", GOOD)
    assert blocked.get("playbooks", "p") == b""


def copies(base):
    kept = Kept(str(base / "kept"))
    assert kept.get("playbooks", "p") == b""
    for data in (GOOD, OTHER, OTHER):
        kept.keep("playbooks", "p", data)
        assert Kept(str(base / "kept")).get("playbooks", "p") == data


def test_a_broken_file_alone_is_an_error(files, subject):
    files["/etc/playbooks/p.toml"] = BROKEN
    with pytest.raises(ConfigError, match="format-disk"):
        subject.playbook("p", digest(b""))
    del files["/etc/playbooks/p.toml"]
    files["/share/playbooks/p.toml"] = BROKEN
    with pytest.raises(ConfigError, match="format-disk"):
        subject.playbook("p", digest(BROKEN))


def watch(files, name, unit, more=b""):
    files[f"/etc/watch.d/{name}.toml"] = b'unit = "%b"\nprofile = "p"\ntier = 2\n%b' % (unit, more)


def test_a_watch_file_that_cannot_be_used_takes_out_its_own_unit_alone(files, subject, monkeypatch):
    files["/share/profiles/p.toml"] = PROFILE
    watch(files, "c", b"x.service")
    watch(files, "a", b"y.service", b"# beside x.service\ntier = 3\n")
    assert subject.adopted("x.service").watch.path.endswith("/c.toml")
    with pytest.raises(ConfigError, match=r"a\.toml"):
        subject.adopted("y.service")
    with pytest.raises(NotAdoptedError):
        subject.adopted("z.service")

    trusted = sources._trusted

    def read(path):
        if path.endswith("/b.toml"):
            raise Refused("untrusted-file", path)
        return trusted(path)

    watch(files, "b", b"z.service")
    monkeypatch.setattr(sources, "_trusted", read)
    assert subject.adopted("x.service").watch.path.endswith("/c.toml")
    with pytest.raises(Refused) as caught:
        subject.adopted("z.service")
    assert caught.value.code == "untrusted-file"
