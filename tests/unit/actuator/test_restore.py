"""restore-config's decisions: what goes back, what is kept, which edit is left alone."""

import os
import shutil
import tempfile

import pytest

from graced.actuator import restore
from graced.actuator.configs import digest_json, examine, manifest_of, writable_by_service
from graced.actuator.lkg import GoodStore
from graced.actuator.safeopen import Image, Owners, Place
from graced.actuator.warrant import Refused
from graced.base.errors import HostError

OWN = Owners((os.geteuid(),), (os.getegid(),))
TEN_MINUTES_US = 600_000_000


@pytest.fixture
def unit():
    """A config set of three files with a last-known-good copy."""
    base = tempfile.mkdtemp(prefix="graced-restore-", dir=os.path.expanduser("~"))
    os.mkdir(f"{base}/d")
    this = Unit(base)
    for name in ("main", "d/a", "d/b"):
        this.put(name, f"good {name} {'x' * 40}\n".encode())
    manifest, contents = manifest_of("x.service", this.examined(), "2026-01-01T00:00:00.000Z", 0, "adopt")
    this.store.save(manifest, contents)
    yield this
    shutil.rmtree(base)


class Unit:
    def __init__(self, base):
        self.base = base
        self.store = GoodStore(f"{base}/lkg")

    def put(self, name, data, mode=0o644):
        with Place(f"{self.base}/{name}.conf", OWN) as place:
            place.write(Image("file", data, os.geteuid(), os.getegid(), mode))

    def examined(self):
        patterns = (f"{self.base}/main.conf", f"{self.base}/d/*.conf")
        return examine(patterns, OWN, self.store.manifest("x.service"), self.store)

    def chosen(self, *, valid, failed=True):
        names = restore.choose(self.examined(), valid=valid, unit_failed=failed)
        return [one.path.removeprefix(f"{self.base}/").removesuffix(".conf") for one in names]


def test_a_set_that_is_the_same_needs_nothing(unit):
    for valid in (True, False, None):
        assert unit.chosen(valid=valid) == []
    digest = digest_json("x.service", unit.store.manifest("x.service"), unit.examined())
    assert (digest["changed"], digest["damaged"]) == (False, False)


def test_an_accepted_edit_is_the_admins(unit):
    unit.put("main", b"another good one\n")
    unit.put("d/new", b"more\n")
    assert unit.chosen(valid=True) == []
    assert restore.depends_on_validator(unit.examined(), unit_failed=True)


def test_a_refused_set_goes_back_as_a_whole(unit):
    unit.put("main", b"another\n")
    unit.put("d/new", b"more\n")
    os.unlink(f"{unit.base}/d/a.conf")
    assert unit.chosen(valid=False) == ["d/a", "d/new", "main"]


def test_without_a_validator_edits_count_only_when_the_unit_failed(unit):
    unit.put("main", b"another\n")
    assert unit.chosen(valid=None, failed=True) == ["main"]
    assert unit.chosen(valid=None, failed=False) == []


def test_damage_goes_back_whatever_the_validator_says(unit):
    unit.put("main", b"\0" * 50)
    for valid in (True, False, None):
        assert unit.chosen(valid=valid, failed=False) == ["main"]
    assert not restore.depends_on_validator(unit.examined(), unit_failed=False)
    assert digest_json("x.service", unit.store.manifest("x.service"), unit.examined())["damaged"]


def test_restoring_keeps_the_rejected_file_and_gives_the_old_one_back(unit):
    unit.put("main", b"bad\n", 0o640)
    unit.put("d/new", b"bad too\n")
    chosen = restore.choose(unit.examined(), valid=False, unit_failed=True)
    changes, contents = restore.changes_for("x.service", chosen, unit.store, f"{unit.base}/rejected", "T")
    if os.geteuid() == 0:
        kept = restore.keep_rejected(changes, contents)
        assert kept == [f"{unit.base}/rejected/x.service/T-{name}.conf" for name in ("new", "main")]
        with open(kept[1], "rb") as file:
            assert file.read() == b"bad\n"
            assert os.fstat(file.fileno()).st_mode & 0o777 == 0o640
    restore.apply(changes, chosen, contents, OWN)
    assert all(one.finding.state == "same" for one in unit.examined())


def test_nothing_is_replaced_when_somebody_was_faster(unit):
    unit.put("main", b"bad\n")
    chosen = restore.choose(unit.examined(), valid=False, unit_failed=True)
    changes, contents = restore.changes_for("x.service", chosen, unit.store, f"{unit.base}/rejected", "T")
    unit.put("main", b"the admin's repair\n")
    with pytest.raises(HostError):
        restore.apply(changes, chosen, contents, OWN)
    with open(f"{unit.base}/main.conf", "rb") as file:
        assert file.read() == b"the admin's repair\n"


def test_two_files_of_one_name_are_both_kept(unit):
    unit.put("main", b"bad\n")
    unit.put("d/main", b"bad\n")
    chosen = restore.choose(unit.examined(), valid=False, unit_failed=True)
    changes, _contents = restore.changes_for("x.service", chosen, unit.store, f"{unit.base}/r", "T")
    assert len({change.rejected for change in changes}) == 2


def test_the_same_edit_again_is_left_alone_for_ten_minutes(unit):
    edits = restore.Edits(f"{unit.base}/edits.json", "b" * 32)
    unit.put("main", b"bad\n")
    chosen = restore.choose(unit.examined(), valid=False, unit_failed=True)
    changes, _contents = restore.changes_for("x.service", chosen, unit.store, f"{unit.base}/r", "T")
    edits.check("x.service", chosen, 0)
    edits.note("x.service", changes, 0)
    again = restore.Edits(f"{unit.base}/edits.json", "b" * 32)
    for now_us in (0, TEN_MINUTES_US):
        with pytest.raises(Refused) as error:
            again.check("x.service", chosen, now_us)
        assert error.value.reason == "same-edit-again"
    again.check("x.service", chosen, TEN_MINUTES_US + 1)
    again.check("y.service", chosen, 0)
    restore.Edits(f"{unit.base}/edits.json", "c" * 32).check("x.service", chosen, 0)
    unit.put("main", b"bad otherwise\n")
    again.check("x.service", restore.choose(unit.examined(), valid=False, unit_failed=True), 0)


def test_the_same_damage_again_is_repaired_again(unit):
    edits = restore.Edits(f"{unit.base}/edits.json", "b" * 32)
    unit.put("main", b"")
    chosen = restore.choose(unit.examined(), valid=None, unit_failed=True)
    changes, _contents = restore.changes_for("x.service", chosen, unit.store, f"{unit.base}/r", "T")
    edits.note("x.service", changes, 0)
    edits.check("x.service", chosen, 1)


def test_what_the_service_could_have_written_is_seen(unit):
    assert writable_by_service(unit.examined(), Owners()) == ("" if os.geteuid() == 0 else f"{unit.base}/d/a.conf")
    unit.put("d/a", b"x\n", 0o666)
    assert writable_by_service(unit.examined(), Owners()) == f"{unit.base}/d/a.conf"


def test_an_unreadable_file_is_no_snapshot(unit):
    os.link(f"{unit.base}/main.conf", f"{unit.base}/second")
    with pytest.raises(HostError):
        manifest_of("x.service", unit.examined(), "t", 0, "adopt")


def test_the_fingerprint_follows_content_and_mode(unit):
    before = restore.fingerprint(unit.examined())
    assert restore.fingerprint(unit.examined()) == before
    unit.put("main", unit.store.blob("x.service", unit.store.manifest("x.service").files[-1].sha256), 0o600)
    assert restore.fingerprint(unit.examined()) != before
