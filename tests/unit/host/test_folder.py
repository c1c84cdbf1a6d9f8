"""graced.host.folder: only regular files are opened, only the file that was seen is moved."""

import os

import pytest

from graced.base.errors import FormatError, HostError
from graced.host.folder import Folder


def test_links_and_pipes_are_not_opened(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "inbox").mkdir()
    os.symlink(tmp_path / "secret", tmp_path / "inbox" / "link")
    os.mkfifo(tmp_path / "inbox" / "pipe")
    (tmp_path / "inbox" / ".hidden").write_text("x")
    (tmp_path / "inbox" / "sub").mkdir()
    folder = Folder(str(tmp_path / "inbox"))
    assert folder.names() == ["link", "pipe"]
    with pytest.raises(FormatError, match="cannot be opened"):
        folder.open("link")
    with pytest.raises(FormatError, match="not a regular file"):
        folder.open("pipe")
    folder.close()


def test_a_file_is_moved_to_a_free_name_unless_it_was_replaced(tmp_path):
    folder = Folder(str(tmp_path))
    for number in range(2):
        (tmp_path / "a").write_text(str(number))
        folder.move("a", folder.look("a"), ".taken")
    assert sorted(os.listdir(tmp_path / ".taken")) == ["a", "a.1"]
    (tmp_path / "a").write_text("old")
    seen = folder.look("a")
    (tmp_path / "b").write_text("new")
    os.rename(tmp_path / "b", tmp_path / "a")
    assert folder.move("a", seen, ".taken") is None
    assert (tmp_path / "a").read_text() == "new"
    folder.close()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(HostError, match="nowhere"):
        Folder(str(tmp_path / "nowhere"))
