"""Archive files: lines of JSON in gzip, appended durably, readable by zcat, jq and `lines` whatever happened.

A file is ``tasks-YYYYMM.jsonl.gz`` (then ``tasks-YYYYMM-002.jsonl.gz``, …, when one grows large), mode 0600, in a
directory of mode 0700. Every append is one whole gzip member and is synced before `append` returns. A member's header
says how long it is and how many lines it has (an extra field ``GR``, which other programs skip), so that after a kill
in the middle of an append the file is cut back to its last whole member: what follows stays readable.

Whoever moves records here deletes them elsewhere only after `append` returned: a crash in between leaves a line twice,
never none. A reader takes the last line of an id. One process writes; a Python thread may own the object.
"""

from __future__ import annotations

import os
import zlib

from graced.base.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "tasks-"
SUFFIX = ".jsonl.gz"
PARTS = 8
"""A file has at most this part of the whole, so that deleting the oldest never deletes nearly everything."""
_LEVEL = 6
# ID1 ID2 CM=deflate FLG=FEXTRA MTIME=0 XFL=0 OS=unknown, XLEN=12, subfield "GR" of 8 bytes: member length, lines
_HEAD = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x0c\0GR\x08\0"
_HEAD_BYTES = len(_HEAD) + 8


def member(text: bytes, line_count: int) -> bytes:
    """One gzip member that holds `text`."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    body = packer.compress(text) + packer.flush()
    tail = zlib.crc32(text).to_bytes(4, "little") + (len(text) & 0xFFFFFFFF).to_bytes(4, "little")
    length = _HEAD_BYTES + len(body) + len(tail)
    return b"".join((_HEAD, length.to_bytes(4, "little"), line_count.to_bytes(4, "little"), body, tail))


def _members(fd: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(offset, length, lines) of each member, by the headers, up to the first that is not whole or not one of ours."""
    offset = 0
    while offset + _HEAD_BYTES <= size:
        head = os.pread(fd, _HEAD_BYTES, offset)
        length = int.from_bytes(head[-8:-4], "little")
        if not head.startswith(_HEAD) or length < _HEAD_BYTES or offset + length > size:
            return
        yield offset, length, int.from_bytes(head[-4:], "little")
        offset += length


def _text(data: bytes) -> bytes | None:
    """What a member holds; None when it is damaged."""
    unpacker = zlib.decompressobj(31)
    try:
        text = unpacker.decompress(data)
    except zlib.error:
        return None
    return text if unpacker.eof and not unpacker.unused_data else None


def _whole(fd: int, size: int) -> tuple[int, int]:
    """(length, lines) of the part of a file that consists of whole members; the last one is unpacked to be sure."""
    found = list(_members(fd, size))
    if found and _text(os.pread(fd, found[-1][1], found[-1][0])) is None:
        found.pop()
    if not found:
        return 0, 0
    return found[-1][0] + found[-1][1], sum(lines for _offset, _length, lines in found)


def lines(path: str) -> Iterator[bytes]:
    """The lines of a file, oldest first, without a torn end. An id may come twice: the later line counts.

    Raises StoreError when the file cannot be read or a member in it is damaged.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            whole = _whole(file.fileno(), size)[0]
            for offset, length, _count in _members(file.fileno(), whole):
                text = _text(os.pread(file.fileno(), length, offset))
                if text is None:
                    raise StoreError(f"{path} is damaged at byte {offset}", code="damaged", path=path)
                yield from text.splitlines()
    except OSError as error:
        raise _os_error(path, error) from error


def files(directory: str) -> list[str]:
    """The archive files in a directory, oldest first; none when there is no directory. Raises StoreError."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _os_error(directory, error) from error
    ours = sorted((key, name) for name in names if (key := _key(name)) is not None)
    return [f"{directory}/{name}" for _key_, name in ours]


def _key(name: str) -> tuple[str, int] | None:
    """(month, part) of a file name; None for other files."""
    if not name.startswith(PREFIX) or not name.endswith(SUFFIX):
        return None
    month, _dash, part = name[len(PREFIX) : -len(SUFFIX)].partition("-")
    if len(month) != 6 or not month.isdecimal() or not (part or "1").isdecimal():
        return None
    return month, int(part or "1")


def _os_error(path: str, error: OSError) -> StoreError:
    import errno

    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return StoreError(
        f"{error.filename or path}: {error.strerror}",
        hint="free space on its file system; nothing is deleted from the queue before it is archived" if full else "",
        code="disk-full" if full else "io",
        path=path,
    )


class Archive:
    """See the module. `count` first (it may read a lot); then `append`, `trim`. All raise StoreError."""

    __slots__ = ("_directory", "_fd", "_path", "_sizes", "max_bytes")

    def __init__(self, directory: str, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._directory = directory
        self._sizes: dict[str, tuple[int, int]] = {}
        self._path = ""
        self._fd = -1

    @property
    def totals(self) -> tuple[int, int]:
        """(lines, bytes) of all files, as of the last `count`, `append` or `trim`."""
        return sum(count for _, count in self._sizes.values()), sum(size for size, _ in self._sizes.values())

    def count(self) -> tuple[int, int]:
        """Read how much there is: (lines, bytes). Changes nothing on disk."""
        self._sizes = {}
        for path in files(self._directory):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    size = os.fstat(fd).st_size
                    self._sizes[path] = size, sum(count for _, _, count in _members(fd, size))
                finally:
                    os.close(fd)
            except OSError as error:
                raise _os_error(path, error) from error
        return self.totals

    def append(self, text: bytes, line_count: int, month: str) -> None:
        """Add lines (each ended by a newline) to the newest file of `month` (``YYYYMM``); on disk when it returns."""
        data = member(text, line_count)
        try:
            self._choose(month)
            size, count = self._sizes[self._path]
            self._write(data, size)
        except OSError as error:
            self.close()  # opening it again cuts off what was written of this
            raise _os_error(self._path or self._directory, error) from error
        self._sizes[self._path] = size + len(data), count + line_count

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            offset += written
            view = view[written:]
        os.fdatasync(self._fd)

    def _choose(self, month: str) -> None:
        """Have the file open that the next member goes to."""
        part = 1
        for path in self._sizes:
            of, number = _key(os.path.basename(path)) or ("", 0)
            if of == month:
                part = max(part, number)
        while True:
            path = f"{self._directory}/{PREFIX}{month}{f'-{part:03}' if part > 1 else ''}{SUFFIX}"
            if path != self._path or self._fd < 0:
                self._open(path)
            if self._sizes[path][0] <= self.max_bytes // PARTS:
                return
            part += 1

    def _open(self, path: str) -> None:
        """Open or make a file, without the torn end that a kill may have left."""
        self.close()
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._path = path
        size = os.fstat(self._fd).st_size
        whole, count = _whole(self._fd, size)
        if size == 0:
            _sync_directory(self._directory)
        elif whole < size:
            os.ftruncate(self._fd, whole)
            os.fsync(self._fd)
        self._sizes[path] = whole, count

    def trim(self) -> list[str]:
        """Delete the oldest files until all are within `max_bytes`, never the newest; the deleted paths."""
        deleted: list[str] = []
        order = sorted(self._sizes, key=lambda path: _key(os.path.basename(path)) or ("", 0))
        for path in order[:-1]:
            if self.totals[1] <= self.max_bytes:
                break
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise _os_error(path, error) from error
            del self._sizes[path]
            deleted.append(path)
        return deleted

    def close(self) -> None:
        """Close the open file; the next `append` opens it again and checks its end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
