from __future__ import annotations

import os
import select
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import HostError
from graced.host import inotify


@pytest.fixture
def watcher():
    made = inotify.Watcher()
    yield made
    made.close()


def changes(watcher):
    assert select.select([watcher], [], [], 60.0)[0]
    return {(event.name, event.mask) for event in watcher.read()}


def test_written_moved_deleted(watcher, tmp_path):
    watcher.add(str(tmp_path))
    (tmp_path / "a").write_text("x")
    assert ("a", inotify.CLOSE_WRITE) in changes(watcher)
    os.rename(tmp_path / "a", tmp_path / "b")
    assert changes(watcher) == {("a", inotify.MOVED_FROM), ("b", inotify.MOVED_TO)}
    os.unlink(tmp_path / "b")
    assert ("b", inotify.DELETE) in changes(watcher)
    assert watcher.read() == []


def test_a_deleted_directory_is_forgotten(watcher, tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    watcher.add(str(folder))
    assert watcher.watched() == [str(folder)]
    folder.rmdir()
    assert ("", inotify.DELETE_SELF) in changes(watcher)
    assert watcher.watched() == []


def test_a_missing_directory_is_an_error(watcher, tmp_path):
    with pytest.raises(HostError, match="No such file"):
        watcher.add(str(tmp_path / "none"))


@given(st.binary(max_size=200))
def test_any_buffer(data):
    inotify.parse(data)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**31 - 1), st.integers(0, 2**32 - 1), st.text(alphabet="abc.", min_size=1, max_size=15)
        )
    )
)
def test_reads_back(events):
    data = b"".join(struct.pack("iIII16s", n, m, 0, 16, name.encode()) for n, m, name in events)
    assert inotify.parse(data) == events
