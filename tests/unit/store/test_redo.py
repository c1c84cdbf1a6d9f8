"""The redo log: what was acknowledged is read back, whatever else is in the file."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import StoreError
from graced.store import redo
from graced.store.redo import HEAD_BYTES, SECTOR_BYTES, SEGMENT_BYTES, Full, RedoLog

ME = b"0123456789abcdef"


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "q.db-redo")


@pytest.fixture
def small(monkeypatch):
    """Segments of eight sectors."""
    monkeypatch.setattr(redo, "SEGMENT_BYTES", 8 * SECTOR_BYTES)


def made(path, seq=0):
    return RedoLog.create(path, ME, seq, sync=False)


def kept(path, applied=0, place=0):
    log = RedoLog.load(path, ME, sync=False)
    try:
        found = log.resume(applied, place)
        assert log.seq == applied + len(found)
        return found
    finally:
        log.close()


def overwrite(path, place, data):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def flip(path, place):
    """Another byte than the one that is there: a record begins with the log's random word."""
    with open(path, "rb") as file:
        byte = file.read()[place]
    overwrite(path, place, bytes([byte ^ 0xFF]))


def test_what_was_appended_is_read_in_order(path):
    log = made(path)
    payloads = [bytes([number]) * (number * 300) for number in range(20)]
    for payload in payloads:
        log.append(payload)
    log.close()
    assert log.seq == 20
    assert kept(path) == payloads
    place = sum(-(-(24 + len(payload)) // SECTOR_BYTES) * SECTOR_BYTES for payload in payloads[:17])
    assert kept(path, 17, place) == payloads[17:]
    assert kept(path, 20, log.place) == []
    assert kept(path, 50, log.place) == []
    assert os.stat(path).st_size == HEAD_BYTES + 2 * SEGMENT_BYTES
    assert os.stat(path).st_mode & 0o777 == 0o600


@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=40),
    settled=st.lists(st.sampled_from(["no", "applied", "synced", "restarted"]), min_size=40, max_size=40),
)
def test_segments_are_written_in_turns_and_nothing_needed_is_overwritten(tmp_path_factory, sizes, settled):
    where = str(tmp_path_factory.mktemp("redo") / "log")
    before, redo.SEGMENT_BYTES = redo.SEGMENT_BYTES, 8 * SECTOR_BYTES
    log = made(where)
    try:
        payloads, applied, place, synced = [], 0, 0, 0
        for number, size in enumerate(sizes):
            payload = bytes([number]) * size
            try:
                log.append(payload)
            except Full:
                # as graced.store.durable does: the database commits and syncs instead
                applied, place, synced = log.seq, log.place, log.seq
                log.synced(applied)
                continue
            payloads.append(payload)
            if settled[number] in {"applied", "synced"}:
                applied, place = log.seq, log.place
            if settled[number] == "synced":
                synced = applied
                log.synced(applied)
            assert log.read(applied, place) == payloads[applied:]
            if settled[number] == "restarted":
                log.close()
                log = RedoLog.load(where, ME, sync=False)
                assert log.resume(applied, place) == payloads[applied:]
                applied, place, synced = log.seq, log.place, log.seq
                log.synced(applied)
            assert synced <= applied <= log.seq == len(payloads)
    finally:
        log.close()
        redo.SEGMENT_BYTES = before


@pytest.mark.usefixtures("small")
def test_a_segment_is_begun_again_only_when_the_database_has_it(path):
    log = made(path)
    for _ in range(8):
        log.append(b"x" * 1000)
    assert log.wants_sync
    with pytest.raises(Full):
        log.append(b"x" * 1000)
    log.synced(3)
    with pytest.raises(Full):
        log.append(b"x" * 1000)
    log.synced(4)
    assert not log.wants_sync
    log.append(b"y" * 1000)
    assert log.read(4, 8 * SECTOR_BYTES) == [b"x" * 1000] * 4 + [b"y" * 1000]
    assert log.read(8, 16 * SECTOR_BYTES) == [b"y" * 1000]
    with pytest.raises(Full):
        log.append(b"x" * 8 * SECTOR_BYTES)
    log.close()


def test_a_record_that_is_torn_at_the_end_was_never_acknowledged(path):
    log = made(path)
    for number in range(3):
        log.append(bytes([number]) * 2000)
    log.close()
    for place in (HEAD_BYTES + 2 * 2048, HEAD_BYTES + 2 * 2048 + 1500):
        flip(path, place)
        assert kept(path) == [bytes([number]) * 2000 for number in range(2)]


@pytest.mark.parametrize("place", [0, 30, 700])
def test_a_record_that_is_broken_in_the_middle_is_damage(path, place):
    log = made(path)
    for number in range(4):
        log.append(bytes([number]) * 2000)
    log.close()
    overwrite(path, HEAD_BYTES + 2048 + place, b"\xff\xfe")
    with pytest.raises(StoreError, match="end at record 1, but 3 is there") as caught:
        kept(path)
    assert caught.value.code == "damaged"
    assert "truncate -s 0" in caught.value.hint
    # what the database has need not be read
    assert kept(path, applied=4) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("place", [0, 8 * SECTOR_BYTES])
def test_it_goes_on_behind_the_last_record_when_both_segments_are_read(path, place):
    log = made(path)
    log._active = place // (8 * SECTOR_BYTES)
    for _ in range(9):
        log.append(b"x")
    end = log.place
    log.close()
    log = RedoLog.load(path, ME, sync=False)
    assert log.resume(0, place) == [b"x"] * 9
    assert log.place == end
    log.close()


@pytest.mark.parametrize("behind", [1, 2, 40, 300])
def test_damage_shows_however_far_behind_it_the_next_record_is(path, behind):
    log = made(path)
    for number in range(2):
        log.append(bytes([number]) * (behind * 4096))
    log.close()
    flip(path, HEAD_BYTES)
    with pytest.raises(StoreError, match="end at record 0, but 2 is there"):
        kept(path)


def test_records_that_the_database_lacks_are_missed(path):
    log = made(path, 5)
    log.append(b"six")
    log.close()
    assert kept(path, applied=5) == [b"six"]
    with pytest.raises(StoreError, match="end at record 3, but 6 is there"):
        kept(path, applied=3)


def test_nothing_in_a_payload_passes_for_a_record(path):
    log = made(path)
    forged = redo._RECORD.pack(b"guess" * 2, 2, 4, 0)
    log.append((forged + b"evil").ljust(SECTOR_BYTES, b"\0") * 3)
    log.close()
    log = RedoLog.load(path, ME, sync=False)
    log._record = lambda _data, _place: None
    assert log.resume(0, 0) == []
    # a shorter record in its place: what was behind it is there still
    log.append(b"short")
    log.close()
    assert kept(path) == [b"short"]
    assert log._salt not in forged


def failing(monkeypatch, name, left):
    real = getattr(os, name)

    def call(*args):
        if left:
            left.pop()
            if name == "pwrite":
                real(args[0], args[1][:700], args[2])
                return 700
            raise OSError(errno.EIO, "Input/output error")
        return real(*args)

    monkeypatch.setattr(redo.os, name, call)


@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
@pytest.mark.usefixtures("small")
def test_a_record_that_failed_does_not_count(path, monkeypatch, name):
    log = RedoLog.create(path, ME, sync=True)
    log.append(b"one" * 400)
    with monkeypatch.context() as patch:
        failing(patch, name, [1])
        with pytest.raises(StoreError) as caught:
            log.append(b"refused" * 200)
    assert caught.value.code == "io"
    assert kept(path) == log.read(0, 0) == [b"one" * 400]
    log.append(b"two" * 400)
    assert kept(path) == log.read(0, 0) == [b"one" * 400, b"two" * 400]
    log.close()


@pytest.mark.usefixtures("small")
def test_its_number_comes_only_once_when_the_next_is_in_the_other_segment(path, monkeypatch):
    log = RedoLog.create(path, ME, sync=True)
    log.append(b"one" * 700)
    with monkeypatch.context() as patch:
        # it is whole on disk, and cannot be taken back at once
        patch.setattr(redo.os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        patch.setattr(redo, "suppress", lambda _kind: pytest.raises(ZeroDivisionError))
        patch.setattr(redo, "bytes", lambda _size: 1 // 0, raising=False)
        with pytest.raises(StoreError):
            log.append(b"refused" * 100)
    assert kept(path) == [b"one" * 700, b"refused" * 100]
    with monkeypatch.context() as patch:
        failing(patch, "fdatasync", [1])
        with pytest.raises(StoreError):
            log.append(b"two" * 800)
    log.append(b"two" * 800)
    assert kept(path) == [b"one" * 700, b"two" * 800]
    log.close()


def test_what_is_damaged_while_it_is_needed_is_said(path):
    log = made(path)
    log.append(b"one")
    log.append(b"two")
    overwrite(path, HEAD_BYTES + SECTOR_BYTES + 25, b"\xff")
    with pytest.raises(StoreError, match="record 2 of 2 cannot be read"):
        log.read(0, 0)
    log.close()


def test_the_file_of_another_database_or_none_is_refused(path):
    with pytest.raises(StoreError, match="is missing") as caught:
        kept(path)
    assert caught.value.code == "missing"
    made(path).close()
    with pytest.raises(StoreError, match="not the log of this database"):
        RedoLog.load(path, b"another database")
    overwrite(path, 0, b"G")
    with pytest.raises(StoreError, match="its head is not one"):
        kept(path)
    os.truncate(path, 5000)
    with pytest.raises(StoreError, match="damaged"):
        kept(path)
    os.truncate(path, 0)
    assert RedoLog.load(path, ME) is None


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "io"), (errno.EACCES, "cannot-open")]
)
def test_what_cannot_be_made_says_why(path, monkeypatch, number, code):
    def fail(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(redo.os, "posix_fallocate", fail)
    with pytest.raises(StoreError) as caught:
        made(path)
    assert caught.value.code == code


def test_every_block_is_written_once_before_its_first_record(path, monkeypatch):
    monkeypatch.setattr(redo.os, "pwritev", lambda fd, buffers, place: sum(map(len, buffers)) - 1)
    with pytest.raises(StoreError, match="cut short"):
        made(path)
    monkeypatch.undo()
    written = []
    pwritev = os.pwritev
    monkeypatch.setattr(
        redo.os,
        "pwritev",
        lambda fd, buffers, at: written.append((at, at + sum(map(len, buffers)))) or pwritev(fd, buffers, at),
    )
    made(path).close()
    assert written == [(redo.HEAD_BYTES, redo.HEAD_BYTES + 2 * redo.SEGMENT_BYTES)]
