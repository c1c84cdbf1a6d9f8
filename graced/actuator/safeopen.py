"""Open, read and replace files as root without being led astray.

Every path is walked component by component with ``openat(O_NOFOLLOW)``; a directory must belong to root
or to the healed unit's own account and may not be writable by anybody else; a file must be regular and
have one name. A file is replaced by a hidden temporary file in the same directory that is renamed over
it, so a reader sees the old or the new content and never a third. Only the actuator uses this.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from contextlib import suppress

from graced.base.errors import HostError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE_BYTES = 8 << 20
MAX_MATCHES = 4096
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GLOB = frozenset("*?[")


class UnsafePathError(HostError):
    """A path cannot be used safely; `fields["reason"]` is one word, `fields["path"]` where the walk ended."""

    code = "unsafe-path"


class Owners(Record):
    """Accounts besides root that may own (`uids`) or write (`uids`, `gids`) the directories on the way."""

    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()


ROOT_ONLY = Owners()


class Image(Record):
    """One file as found: `kind` is ``file`` or ``symlink`` (then `data` is the target), `mode` has
    permission bits only.
    """

    kind: str
    data: bytes
    uid: int
    gid: int
    mode: int
    mtime_ns: int = 0
    xattrs: dict[str, bytes] = {}
    identity: tuple[int, ...] = ()


def _unsafe(reason: str, path: str, text: str) -> UnsafePathError:
    return UnsafePathError(f"{path}: {text}", hint="the actuator leaves it alone", reason=reason, path=path)


def _components(path: str) -> list[str]:
    parts = path.split("/")[1:]
    if not path.startswith("/") or "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise _unsafe("path", path, "not a plain absolute path")
    return parts


def _check_dir(fd: int, path: str, owners: Owners) -> None:
    status = os.fstat(fd)
    if status.st_uid != 0 and status.st_uid not in owners.uids:
        raise _unsafe("directory-owner", path, f"the directory belongs to uid {status.st_uid}")
    if status.st_mode & stat.S_IWOTH:
        raise _unsafe("directory-writable", path, "everybody may write to the directory")
    if status.st_mode & stat.S_IWGRP and status.st_gid != 0 and status.st_gid not in owners.gids:
        raise _unsafe("directory-writable", path, f"group {status.st_gid} may write to the directory")


def _step(parent: int, name: str, path: str, owners: Owners, flags: int) -> int:
    try:
        fd = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise _unsafe("symlink", path, "a link or a file where a directory is needed") from error
        raise
    try:
        _check_dir(fd, path, owners)
    except UnsafePathError:
        os.close(fd)
        raise
    return fd


def open_directory(path: str, owners: Owners = ROOT_ONLY) -> int:
    """A descriptor of the directory `path`; UnsafePathError, or OSError when it is not there."""
    fd = os.open("/", _DIR)
    walked = ""
    parts = [] if path == "/" else _components(path)
    for index, part in enumerate(parts):
        walked += "/" + part
        try:
            following = _step(fd, part, walked, owners, _DIR if index == len(parts) - 1 else _PATH_DIR)
        finally:
            os.close(fd)
        fd = following
    return fd


_TEMPORARY = ".graced-"
_HEX = frozenset("0123456789abcdef")


class Place:
    """An open directory and a name in it; a context manager. Operations cannot leave that directory."""

    def __init__(self, path: str, owners: Owners = ROOT_ONLY) -> None:
        head, _, self.name = path.rpartition("/")
        _components(path)
        self.path = path
        self.fd = open_directory(head or "/", owners)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)

    def read(self, max_bytes: int = MAX_FILE_BYTES) -> Image | None:
        """The file there now, None when there is none; UnsafePathError for anything but a file or a link."""
        try:
            found = os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not (stat.S_ISLNK(found.st_mode) or stat.S_ISREG(found.st_mode)):
            raise _unsafe("type", self.path, "neither a regular file nor a link")
        try:
            if stat.S_ISLNK(found.st_mode):
                target = os.readlink(os.fsencode(self.name), dir_fd=self.fd)
                mtime_ns = found.st_mtime_ns
                return Image("symlink", target, found.st_uid, found.st_gid, 0o777, mtime_ns, {}, _identity(found))
            fd = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            # A link became a file, or a file a link, a pipe without a reader, a socket.
            if error.errno in {errno.EINVAL, errno.ELOOP, errno.ENXIO}:
                raise _unsafe("changed", self.path, "somebody changed it a moment ago") from error
            raise
        try:
            return self._read_open(fd, max_bytes)
        finally:
            os.close(fd)

    def _read_open(self, fd: int, max_bytes: int) -> Image:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _unsafe("type", self.path, "not a regular file any more")
        if status.st_nlink != 1:
            raise _unsafe("hard-link", self.path, f"the file has {status.st_nlink} names")
        chunks = []
        left = max_bytes + 1
        while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
        if left <= 0:
            raise _unsafe("size", self.path, f"larger than {max_bytes} bytes")
        mode = stat.S_IMODE(status.st_mode)
        data = b"".join(chunks)
        return Image(
            "file", data, status.st_uid, status.st_gid, mode, status.st_mtime_ns, _xattrs(fd), _identity(status)
        )

    def write(self, image: Image, expected: tuple[int, ...] | None = None) -> None:
        """Put `image` there, durable and all at once; links are replaced, never followed.

        `expected` is the identity of what may be replaced, () for nothing there: UnsafePathError
        ``changed`` when
        somebody was faster.
        """
        temporary = f"{_TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}"
        try:
            if image.kind == "symlink":
                # Not chowned: in a directory of the unit's own account the name could be swapped before
                # that.
                os.symlink(image.data, os.fsencode(temporary), dir_fd=self.fd)
            else:
                _write_new(self.fd, temporary, image)
            self._expect(expected)
            os.rename(temporary, self.name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except BaseException:
            _forget(self.fd, temporary)
            raise
        os.fsync(self.fd)

    def sweep(self) -> None:
        """Take away what a process that was killed in `write` left beside the file.

        Only for one that writes nothing meanwhile.
        """
        for name in os.listdir(self.fd):
            pid, _, drawn = name.removeprefix(_TEMPORARY).partition("-")
            if name.startswith(_TEMPORARY) and pid.isdecimal() and len(drawn) == 12 and not set(drawn) - _HEX:
                with suppress(IsADirectoryError):
                    _forget(self.fd, name)

    def remove(self, expected: tuple[int, ...] | None = None) -> None:
        """Take the name away, durably; nothing happens when it is not there."""
        self._expect(expected)
        try:
            os.unlink(self.name, dir_fd=self.fd)
        except FileNotFoundError:
            return
        os.fsync(self.fd)

    def _expect(self, expected: tuple[int, ...] | None) -> None:
        if expected is None:
            return
        try:
            now = _identity(os.stat(self.name, dir_fd=self.fd, follow_symlinks=False))
        except FileNotFoundError:
            now = ()
        if now != expected:
            raise _unsafe("changed", self.path, "somebody changed it a moment ago")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _xattrs(fd: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno in {errno.ENOTSUP, errno.ENODATA, errno.EPERM}:
            return {}
        raise


def _write_new(dir_fd: int, name: str, image: Image) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
    try:
        view = memoryview(image.data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchown(fd, image.uid, image.gid)
        os.fchmod(fd, image.mode)
        for key, value in image.xattrs.items():
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno not in {errno.ENOTSUP, errno.EPERM}:
                    raise
        os.fsync(fd)
    finally:
        os.close(fd)


def _forget(dir_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return


def read_trusted(path: str, max_bytes: int = 1 << 20) -> bytes:
    """A file only root can have written, with all directories above it; UnsafePathError, or OSError if
    absent.
    """
    with Place(path) as place:
        image = place.read(max_bytes)
    if image is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if image.kind != "file" or image.uid != 0 or image.mode & 0o022:
        raise _unsafe("not-root-owned", path, "only root may own and write it")
    return image.data


def list_trusted(directory: str, suffix: str) -> list[str]:
    """Sorted paths in a root-owned directory whose visible names end in `suffix`; empty when it is not
    there.
    """
    try:
        fd = open_directory(directory)
    except FileNotFoundError:
        return []
    try:
        names = sorted(os.listdir(fd))
    finally:
        os.close(fd)
    return [f"{directory}/{name}" for name in names if name.endswith(suffix) and not name.startswith(".")]


def expand(pattern: str, owners: Owners) -> list[str]:
    """Paths that a profile's glob matches now, sorted; directory links are not followed, ``*`` skips hidden names.

    A pattern without wildcards is returned as it is, there or not. Raises UnsafePathError.
    """
    parts = _components(pattern)
    if not any(_GLOB & set(part) for part in parts):
        return [pattern]
    fd = os.open("/", _DIR)
    matches = []
    for match in _walk(fd, "", parts, owners):
        matches.append(match)
        if len(matches) > MAX_MATCHES:
            raise _unsafe("matches", pattern, f"matches more than {MAX_MATCHES} files")
    return sorted(matches)


def _walk(fd: int, path: str, parts: list[str], owners: Owners) -> Iterator[str]:
    """Matches below the open directory `fd`, which is closed here."""
    head, rest = parts[0], parts[1:]
    try:
        names = [head]
        if _GLOB & set(head):
            names = [name for name in os.listdir(fd) if fnmatch.fnmatchcase(name, head)]
            names = [name for name in names if head.startswith(".") or not name.startswith(".")]
        for name in names:
            here = f"{path}/{name}"
            if not rest:
                if _is_file_or_link(fd, name):
                    yield here
                continue
            try:
                inner = _step(fd, name, here, owners, _DIR)
            except FileNotFoundError:
                continue
            except UnsafePathError as error:
                if error.fields["reason"] == "symlink" and _GLOB & set(head):
                    continue
                raise
            yield from _walk(inner, here, rest, owners)
    finally:
        os.close(fd)


def _is_file_or_link(fd: int, name: str) -> bool:
    try:
        return not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
