"""The undo journal and the last-known-good store: what a crash leaves, what somebody changed since, what is damaged."""

import os
import shutil
import tempfile

import pytest

from graced.actuator import lkg, undo
from graced.actuator.lkg import GoodStore, Manifest, good_file, to_image
from graced.actuator.safeopen import Image, Owners, Place
from graced.actuator.undo import BEGUN, DONE, Change, UndoJournal, UndoRecord, new_act_id
from graced.base.errors import StoreError

OWN = Owners((os.geteuid(),), (os.getegid(),))


def image(data, mode=0o644):
    return Image("file", data, os.geteuid(), os.getegid(), mode)


@pytest.fixture
def base():
    path = tempfile.mkdtemp(prefix="graced-undo-", dir=os.path.expanduser("~"))
    yield path
    shutil.rmtree(path)


def put(path, data):
    with Place(path, OWN) as place:
        place.write(image(data))


def content(path):
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture
def act(base):
    """Three files: a is replaced, b comes back, c goes away. Only written down, nothing done."""
    contents = {}
    changes = []
    for name, before, after in (("a", b"old", b"new"), ("b", None, b"back"), ("c", b"extra", None)):
        path = f"{base}/{name}.conf"
        if before is not None:
            put(path, before)
        entries = []
        for data in (before, after):
            one = None if data is None else image(data)
            entries.append(undo.remember(path, one, contents))
        changes.append(Change(path, *entries))
    journal = UndoJournal(f"{base}/acts")
    record = UndoRecord(new_act_id(), "x.service", BEGUN, OWN, tuple(changes))
    journal.begin(record, contents)
    return journal, record


def files(base):
    return [content(f"{base}/{name}.conf") for name in "abc"]


def test_a_cut_off_act_is_found_and_finished(base, act):
    _journal, record = act
    found = UndoJournal(f"{base}/acts")
    assert found.unfinished() == [record]
    assert found.finish_files(record) == []
    assert files(base) == [b"new", b"back", None]
    found.close(record, DONE, {"ok": True})
    assert UndoJournal(f"{base}/acts").unfinished() == []
    assert found.load(record.act_id).act == {"ok": True}


@pytest.mark.parametrize("done", range(4))
def test_cut_off_after_any_file_it_is_finished_or_undone(base, act, done):
    journal, record = act
    journal.finish_files(record.replace(changes=record.changes[:done]))
    assert journal.finish_files(record) == []
    assert files(base) == [b"new", b"back", None]
    assert journal.undo_files(record) == []
    assert files(base) == [b"old", None, b"extra"]
    assert journal.undo_files(record) == []


@pytest.mark.parametrize("direction", ["finish_files", "undo_files"])
def test_what_somebody_wrote_since_stays(base, act, direction):
    journal, record = act
    put(f"{base}/a.conf", b"the admin's")
    problems = getattr(journal, direction)(record)
    assert len(problems) == 1
    assert "a.conf" in problems[0]
    assert content(f"{base}/a.conf") == b"the admin's"


class Crash(Exception):
    pass


def test_a_crash_at_any_write_leaves_nothing_or_a_whole_record(base, monkeypatch):
    """Fail the n-th durable write of begin(), for every n: there is no record then, or one that can be finished."""
    real = lkg.put_file
    put(f"{base}/a.conf", b"old")
    failing = 0
    finished = False
    while not finished:
        failing += 1
        contents = {}
        change = Change(
            f"{base}/a.conf",
            undo.remember("a", image(b"old"), contents),
            undo.remember("a", image(b"new%d" % failing), contents),
        )
        record = UndoRecord(new_act_id(), "x.service", BEGUN, OWN, (change,))
        count = 0

        def failing_put(*arguments, at=failing):
            nonlocal count
            count += 1
            if count == at:
                raise Crash
            real(*arguments)

        monkeypatch.setattr(undo, "put_file", failing_put)
        journal = UndoJournal(f"{base}/acts{failing}")
        try:
            journal.begin(record, contents)
            finished = True
        except Crash:
            assert UndoJournal(f"{base}/acts{failing}").unfinished() == []
            assert content(f"{base}/a.conf") == b"old"
    monkeypatch.undo()
    assert failing == 4
    assert journal.finish_files(record) == []
    assert content(f"{base}/a.conf") == b"new4"


def test_unknown_and_damaged_records(base, act):
    journal, record = act
    for name in ("act_0", "../act", "", "act_" + "0" * 16):
        assert journal.load(name) is None
    with open(f"{base}/acts/{record.act_id}/record.json", "wb") as file:
        file.write(b"{")
    with pytest.raises(StoreError):
        journal.load(record.act_id)


def test_old_acts_go_and_unfinished_ones_stay(base, act):
    journal, record = act
    for _ in range(3):
        other = UndoRecord(new_act_id(), "x.service", BEGUN, OWN)
        journal.begin(other, {})
        journal.close(other, DONE, {})
    journal.prune(keep=1)
    assert sum(name.startswith("act_") for name in os.listdir(f"{base}/acts")) == 2
    assert journal.load(record.act_id) == record


def manifest_of(base, *names):
    contents = {}
    entries = []
    for name in names:
        one = image(name.encode() * 3)
        entry = good_file(f"{base}/{name}", one)
        contents[entry.sha256] = one.data
        entries.append(entry)
    return Manifest("x.service", "2026-01-01T00:00:00.000Z", 0, "adopt", tuple(entries)), contents


def test_a_set_comes_back_as_it_was_saved(base):
    store = GoodStore(f"{base}/lkg")
    assert store.manifest("x.service") is None
    manifest, contents = manifest_of(base, "a", "b")
    store.save(manifest, contents)
    again = GoodStore(f"{base}/lkg").manifest("x.service")
    assert again == manifest
    assert again.digest == manifest.digest
    data = store.blob("x.service", manifest.files[0].sha256)
    assert to_image(manifest.files[0], data).data == b"aaa"


def test_a_new_set_forgets_the_old_contents(base):
    store = GoodStore(f"{base}/lkg")
    first, contents = manifest_of(base, "a", "b")
    store.save(first, contents)
    second, contents = manifest_of(base, "b", "c")
    store.save(second, contents)
    assert sorted(os.listdir(f"{base}/lkg/x.service/blobs")) == sorted(file.sha256 for file in second.files)
    assert store.forget("x.service")
    assert not store.forget("x.service")
    assert store.manifest("x.service") is None


def test_damaged_copies_are_noticed(base):
    store = GoodStore(f"{base}/lkg")
    manifest, contents = manifest_of(base, "a")
    store.save(manifest, contents)
    sha256 = manifest.files[0].sha256
    with open(f"{base}/lkg/x.service/blobs/{sha256}", "wb") as file:
        file.write(b"other")
    with pytest.raises(StoreError):
        store.blob("x.service", sha256)
    with open(f"{base}/lkg/x.service/manifest.json", "wb") as file:
        file.write(b"{}")
    with pytest.raises(StoreError):
        store.manifest("x.service")


def test_half_a_file_of_a_killed_process_goes_and_nothing_else(base, act):
    journal, record = act
    left = f"{base}/.graced-{os.getpid()}-0123456789ab"
    others = [f"{base}/.graced-109-0123456789", f"{base}/.graced-x-0123456789ab", f"{base}/.graced-keep"]
    for path in (left, *others):
        put(path, b"half")
    os.mkdir(f"{base}/.graced-1-0123456789ab")
    assert journal.undo_files(record) == []
    assert os.path.exists(left), "only after a kill, when nobody writes"
    assert journal.finish_files(record) == []
    assert not os.path.exists(left)
    assert all(os.path.exists(path) for path in others)
    assert files(base) == [b"new", b"back", None]
