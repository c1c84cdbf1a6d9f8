"""Words for people."""

from graced.base.words import counted


def test_one_is_one():
    assert counted(1, "file") == "1 file"
    assert counted(0, "file") == "0 files"
    assert counted(2, "file") == "2 files"
