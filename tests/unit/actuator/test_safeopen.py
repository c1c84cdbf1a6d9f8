"""Attacks on the paths the actuator opens: links, hard links, foreign directories, swapped files."""

import gc
import os

import pytest

from graced.actuator.safeopen import Image, Owners, Place, UnsafePathError, expand, list_trusted, read_trusted

NOBODY = 65534


@pytest.fixture
def base(tmp_path):
    """A directory whose ancestors satisfy the walk (pytest's own base is below a sticky, world-writable /tmp)."""
    import shutil
    import tempfile

    path = tempfile.mkdtemp(prefix="graced-safeopen-", dir="/root")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


def put(path, data=b"x\n", mode=0o644):
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)
    return path


def content(path):
    with open(path, "rb") as file:
        return file.read()


def reason(error):
    return error.value.fields["reason"]


def test_reads_content_owner_and_mode(base):
    path = put(f"{base}/a.conf", b"hello", 0o640)
    os.chown(path, NOBODY, 12)
    with Place(path) as place:
        image = place.read()
    assert (image.kind, image.data, image.uid, image.gid, image.mode) == ("file", b"hello", NOBODY, 12, 0o640)


@pytest.mark.parametrize("path", ["relative", "/a//b", "/a/../b", "/a/./b", "/a/b/", "", "/a\0b"])
def test_refuses_what_is_not_a_plain_path(path):
    with pytest.raises(UnsafePathError) as error:
        Place(path)
    assert reason(error) == "path"


def test_refuses_a_link_on_the_way(base):
    os.mkdir(f"{base}/real")
    put(f"{base}/real/a.conf")
    os.symlink("real", f"{base}/link")
    with pytest.raises(UnsafePathError) as error:
        Place(f"{base}/link/a.conf")
    assert reason(error) == "symlink"


def test_a_final_link_is_a_link_and_never_followed(base):
    put(f"{base}/secret", b"secret")
    os.symlink("secret", f"{base}/a.conf")
    with Place(f"{base}/a.conf") as place:
        image = place.read()
        assert (image.kind, image.data) == ("symlink", b"secret")
        place.write(Image("file", b"new", 0, 0, 0o600))
    assert content(f"{base}/secret") == b"secret"
    assert not os.path.islink(f"{base}/a.conf")


@pytest.mark.parametrize("then", ["link", "file", "pipe"])
def test_what_is_swapped_between_two_looks_has_changed(base, monkeypatch, then):
    path = f"{base}/a.conf"
    make = {"link": lambda: os.symlink("/etc/shadow", path), "file": lambda: put(path), "pipe": lambda: os.mkfifo(path)}
    (make["link"] if then != "link" else make["file"])()
    look = os.stat

    def swapped(name, *, dir_fd=None, follow_symlinks=True):
        found = look(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if name == "a.conf":
            os.unlink(path)
            make[then]()
        return found

    monkeypatch.setattr("graced.actuator.safeopen.os.stat", swapped)
    with Place(path) as place, pytest.raises(UnsafePathError) as error:
        place.read()
    assert reason(error) == "changed"


def test_refuses_a_second_name(base):
    put(f"{base}/shadow")
    os.link(f"{base}/shadow", f"{base}/a.conf")
    with Place(f"{base}/a.conf") as place, pytest.raises(UnsafePathError) as error:
        place.read()
    assert reason(error) == "hard-link"


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_refuses_what_is_no_file(base, kind):
    path = f"{base}/a.conf"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
    with Place(path) as place, pytest.raises(UnsafePathError) as error:
        place.read()
    assert reason(error) == "type"


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "owners", "wrong"),
    [
        (0, 0, 0o755, Owners(), None),
        (0, 0, 0o775, Owners(), None),
        (0, 0, 0o777, Owners(), "directory-writable"),
        (0, 0, 0o1777, Owners(), "directory-writable"),
        (0, 7, 0o775, Owners(), "directory-writable"),
        (0, 7, 0o775, Owners((), (7,)), None),
        (NOBODY, 0, 0o755, Owners(), "directory-owner"),
        (NOBODY, 0, 0o755, Owners((NOBODY,), ()), None),
        (NOBODY, 7, 0o2770, Owners((NOBODY,), (7,)), None),
        (NOBODY, 7, 0o2770, Owners((NOBODY,), ()), "directory-writable"),
    ],
)
def test_directories_of_others_are_refused(base, uid, gid, mode, owners, wrong):
    os.mkdir(f"{base}/d")
    put(f"{base}/d/a.conf")
    os.chown(f"{base}/d", uid, gid)
    os.chmod(f"{base}/d", mode)
    if wrong is None:
        with Place(f"{base}/d/a.conf", owners) as place:
            assert place.read().data == b"x\n"
    else:
        with pytest.raises(UnsafePathError) as error:
            Place(f"{base}/d/a.conf", owners)
        assert reason(error) == wrong


def test_write_gives_content_owner_mode_and_leaves_no_rest(base):
    path = put(f"{base}/a.conf", b"old")
    with Place(path) as place:
        place.write(Image("file", b"new\n", NOBODY, 12, 0o2640, 0, {"user.note": b"kept"}))
        image = place.read()
    assert (image.data, image.uid, image.gid, image.mode) == (b"new\n", NOBODY, 12, 0o2640)
    assert image.xattrs.get("user.note", b"kept") == b"kept"
    assert os.listdir(base) == ["a.conf"]


def test_write_restores_extended_attributes_where_there_are_some(base):
    path = put(f"{base}/a.conf")
    try:
        os.setxattr(path, "user.note", b"1")
    except OSError:
        pytest.fail("this file system has no extended attributes: run the tests on ext4, xfs or btrfs")
    with Place(path) as place:
        image = place.read()
        assert image.xattrs == {"user.note": b"1"}
        os.removexattr(path, "user.note")
        place.write(image)
    assert os.getxattr(path, "user.note") == b"1"


def test_write_stops_when_somebody_was_faster(base):
    path = put(f"{base}/a.conf", b"old")
    with Place(path) as place:
        seen = place.read()
        put(path, b"the admin's")
        with pytest.raises(UnsafePathError) as error:
            place.write(Image("file", b"new", 0, 0, 0o644), seen.identity)
    assert reason(error) == "changed"
    assert content(path) == b"the admin's"
    assert os.listdir(base) == ["a.conf"]


def test_nothing_there_is_an_identity_too(base):
    path = f"{base}/a.conf"
    with Place(path) as place:
        assert place.read() is None
        place.write(Image("file", b"1", 0, 0, 0o644), ())
        with pytest.raises(UnsafePathError):
            place.write(Image("file", b"2", 0, 0, 0o644), ())
        with pytest.raises(UnsafePathError):
            place.remove(())
        place.remove(place.read().identity)
        place.remove()
    assert os.listdir(base) == []


def test_too_large_is_refused(base):
    path = put(f"{base}/a.conf", b"12345")
    with Place(path) as place:
        assert place.read(5).data == b"12345"
        with pytest.raises(UnsafePathError) as error:
            place.read(4)
    assert reason(error) == "size"


@pytest.mark.parametrize(
    ("uid", "mode", "good"), [(0, 0o644, True), (0, 0o664, False), (0, 0o646, False), (NOBODY, 0o644, False)]
)
def test_trusted_files_are_roots_alone(base, uid, mode, good):
    path = put(f"{base}/p.toml", b"a = 1\n", mode)
    os.chown(path, uid, 0)
    os.chmod(path, mode)
    if good:
        assert read_trusted(path) == b"a = 1\n"
    else:
        with pytest.raises(UnsafePathError) as error:
            read_trusted(path)
        assert reason(error) == "not-root-owned"


def test_trusted_files_are_no_links_and_must_be_there(base):
    put(f"{base}/real.toml")
    os.symlink("real.toml", f"{base}/p.toml")
    with pytest.raises(UnsafePathError):
        read_trusted(f"{base}/p.toml")
    with pytest.raises(FileNotFoundError):
        read_trusted(f"{base}/none.toml")
    assert list_trusted(f"{base}/none", ".toml") == []
    assert list_trusted(base, ".toml") == [f"{base}/p.toml", f"{base}/real.toml"]


def test_globs_match_names_and_do_not_follow_directory_links(base):
    os.mkdir(f"{base}/conf.d")
    os.mkdir(f"{base}/other")
    os.symlink("other", f"{base}/linked")
    for name in ("conf.d/b.conf", "conf.d/a.conf", "conf.d/.hidden.conf", "conf.d/a.txt", "other/c.conf"):
        put(f"{base}/{name}")
    os.symlink("/nowhere", f"{base}/conf.d/l.conf")
    os.mkdir(f"{base}/conf.d/dir.conf")
    none = Owners()
    assert expand(f"{base}/conf.d/*.conf", none) == [f"{base}/conf.d/{n}.conf" for n in ("a", "b", "l")]
    assert expand(f"{base}/*/c.conf", none) == [f"{base}/other/c.conf"]
    assert expand(f"{base}/missing.conf", none) == [f"{base}/missing.conf"]
    assert expand(f"{base}/missing/*.conf", none) == []
    assert expand(f"{base}/conf.d/.h*", none) == [f"{base}/conf.d/.hidden.conf"]


def test_no_descriptor_is_left_open(base):
    # what tests before this one left to the collector must not go meanwhile
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    put(f"{base}/a.conf")
    for path in (f"{base}/a.conf", f"{base}/no/a.conf", "/tmp/a.conf"):
        try:
            with Place(path) as place:
                place.read()
        except (OSError, UnsafePathError):
            pass
        expand(f"{base}/*/x", Owners())
    assert sorted(os.listdir("/proc/self/fd")) == before
