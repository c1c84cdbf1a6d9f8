"""Archive files: whole members whatever was torn, bounded as a whole, private, readable by other programs."""

from __future__ import annotations

import gzip
import os
import random
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graced.base.errors import StoreError
from graced.store.archive import PARTS, Archive, files, lines, member

MONTH = "202611"
BIG = 64 << 20


def _line(number):
    return b'{"id":"task_%d"}\n' % number


def _fill(archive, numbers, month=MONTH):
    for number in numbers:
        archive.append(_line(number) + _line(number + 1000), 2, month)


def _unpacked(path):
    with gzip.open(path) as file:
        return file.read()


def _numbers(path):
    return [int(line[12:-2]) for line in lines(path)]


def test_other_programs_read_it_and_nobody_else_may(tmp_path):
    directory = str(tmp_path / "archive")
    archive = Archive(directory, BIG)
    assert archive.count() == (0, 0)
    _fill(archive, (1, 2))
    (path,) = files(directory)
    assert os.path.basename(path) == "tasks-202611.jsonl.gz"
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(directory).st_mode & 0o777 == 0o700
    whole = _line(1) + _line(1001) + _line(2) + _line(1002)
    assert _unpacked(path) == whole
    assert subprocess.run(["/usr/bin/gzip", "-dc", path], capture_output=True, check=True).stdout == whole
    assert archive.totals == (4, os.path.getsize(path)) == Archive(directory, BIG).count()
    archive.close()


def test_a_kill_at_any_byte_of_an_append_costs_that_append_only(tmp_path):
    directory = str(tmp_path)
    archive = Archive(directory, BIG)
    _fill(archive, (1, 2))
    archive.close()
    (path,) = files(directory)
    with open(path, "rb") as file:
        before = file.read()
    torn = member(_line(3), 1)
    for cut in range(len(torn)):
        with open(path, "wb") as file:
            file.write(before + torn[:cut])
        assert _numbers(path) == [1, 1001, 2, 1002]
        again = Archive(directory, BIG)
        assert again.count()[0] == 4
        again.append(_line(4), 1, MONTH)
        again.close()
        assert _numbers(path) == [1, 1001, 2, 1002, 4]
        assert _unpacked(path).count(b"\n") == 5
    # a file that grew before its data were written: the tail is zeros, or its last member is
    for tail in (bytes(4096), torn[:24] + bytes(len(torn) - 24)):
        with open(path, "wb") as file:
            file.write(before + tail)
        again = Archive(directory, BIG)
        again.count()
        again.append(_line(5), 1, MONTH)
        again.close()
        assert _numbers(path) == [1, 1001, 2, 1002, 5]


@settings(
    max_examples=60,
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.binary(max_size=300), max_size=8), st.binary(max_size=60))
def test_any_tail_is_cut_off(tmp_path, texts, tail):
    path = tmp_path / "tasks-202601.jsonl.gz"
    good = [text.replace(b"\n", b"").replace(b"\r", b"") + b"\n" for text in texts]
    path.write_bytes(b"".join(member(text, 1) for text in good) + tail)
    archive = Archive(str(tmp_path), BIG)
    archive.count()
    archive.append(b"last\n", 1, "202601")
    archive.close()
    assert b"".join(line + b"\n" for line in lines(str(path)))[-5:] == b"last\n"
    assert gzip.decompress(path.read_bytes()) == b"".join(good) + b"last\n"


def test_damage_in_the_middle_is_said(tmp_path):
    archive = Archive(str(tmp_path), BIG)
    _fill(archive, (1, 2))
    archive.close()
    (path,) = files(str(tmp_path))
    with open(path, "r+b") as file:
        file.seek(30)
        file.write(b"\xff\xff")
    with pytest.raises(StoreError) as caught:
        list(lines(path))
    assert (caught.value.code, path in str(caught.value)) == ("damaged", True)


def test_the_whole_is_bounded_and_the_oldest_goes_first(tmp_path):
    limit = 64 << 10
    archive = Archive(str(tmp_path), limit)
    _fill(archive, (1,), "202609")
    deleted, dice = [], random.Random(1)
    for number in range(40):
        archive.append(dice.randbytes(4096).hex().encode() + b"\n", 1, MONTH)
        deleted += archive.trim()
        assert archive.totals[1] <= limit + 4096 * 2
        assert number or not deleted
    archive.close()
    names = [os.path.basename(path) for path in deleted]
    assert names[:2] == ["tasks-202609.jsonl.gz", "tasks-202611.jsonl.gz"]
    assert names[2:] == [f"tasks-202611-{part:03}.jsonl.gz" for part in range(2, len(names))]
    left = files(str(tmp_path))
    assert len(left) >= PARTS - 2
    assert sum(map(os.path.getsize, left)) == archive.totals[1] == Archive(str(tmp_path), limit).count()[1]


def test_foreign_files_are_left_alone(tmp_path):
    for name in ("tasks-2026.jsonl.gz", "tasks-202611-x.jsonl.gz", "notes.txt", "tasks-202611.jsonl"):
        (tmp_path / name).write_text("mine")
    assert files(str(tmp_path)) == []
    archive = Archive(str(tmp_path), 1)
    _fill(archive, (1, 2, 3))
    archive.trim()
    archive.close()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert [_numbers(path) for path in files(str(tmp_path))] == [[3, 1003]], "the newest always stays"


def test_a_symlink_is_not_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"")
    os.symlink(tmp_path / "target", tmp_path / "tasks-202611.jsonl.gz")
    archive = Archive(str(tmp_path), BIG)
    with pytest.raises(StoreError):
        archive.append(b"x\n", 1, MONTH)
    assert (tmp_path / "target").read_bytes() == b""


_FULL = """
import resource, signal, sys
from graced.base.errors import StoreError
from graced.store.archive import Archive, files, lines
import os
archive = Archive(sys.argv[1], 1 << 30)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
kept = 0
try:
    while True:
        archive.append(os.urandom(100).hex().encode() + b"\\n", 1, "202611")
        kept += 1
except StoreError as error:
    assert error.code == "disk-full" and error.hint, error
try:
    archive.append(b"x" * 9000 + os.urandom(9000).hex().encode() + b"\\n", 1, "202611")
except StoreError as error:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
archive.append(b"after\\n", 1, "202611")
(path,) = files(sys.argv[1])
found = list(lines(path))
assert len(found) == kept + 1 and found[-1] == b"after", (kept, len(found))
assert archive.totals == (kept + 1, os.path.getsize(path))
print(kept)
"""


def test_a_full_disk_leaves_whole_members(tmp_path):
    run = subprocess.run(
        ["/usr/bin/python3", "-c", _FULL, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 20
