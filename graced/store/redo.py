"""A log of fixed size in which a turn is durable before SQLite has committed it.

A commit of SQLite writes each page that a row touches, and waits for all of them: half a dozen for one task. A record
here is one write and one fdatasync in a file whose blocks are there already. SQLite then commits many turns at once,
without waiting for the disk, and notes the number of the last; after a kill or a power cut the records behind that
number are done again (redo as in ARIES: Mohan et al., ACM TODS 17(1), 1992).

The file: a head, then two segments that are written in turns. A segment is begun again only when the database has
everything in it durably (`synced`). A record is (salt, number, length, CRC-32, payload), on a sector's border. The
salt is random and secret, so that nothing in a payload can pass for a record. Records are numbered without gaps: one
that is missing in between is damage, one that is broken at the end was never acknowledged. Used by
graced.store.durable.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from zlib import crc32

from graced.base.errors import StoreError, suppress
from graced.store.db import os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD_BYTES = 4096
SEGMENT_BYTES = 4 << 20
SECTOR_BYTES = 512
_WINDOW_BYTES = 64 << 10
_AHEAD_BYTES = 8 * SECTOR_BYTES
"""Of a record that may be there: most fit."""
_TITLE = b"graced redo log 1\n".ljust(32, b" ")
_HEAD = struct.Struct("<32s8s16s")
_RECORD = struct.Struct("<8sQII")


class Full(Exception):
    """The record does not fit before the database has what is in the other segment."""


class RedoLog:
    """See the module. Made by `create` or `load`; not thread safe."""

    def __init__(self, path: str, fd: int, salt: bytes, *, sync: bool) -> None:
        self.path = path
        self._fd = fd
        self._salt = salt
        self._sync = sync
        self.seq = 0
        self._synced = 0
        self._active = 0
        self._offset = 0
        self._last = [0, 0]
        self._torn: int | None = None

    # -- the file ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str, identity: bytes, seq: int = 0, *, sync: bool = True) -> RedoLog:
        """A new, empty log in place of any, for the database called `identity` (16 bytes), which has record `seq`.

        Raises StoreError.
        """
        salt = os.urandom(8)
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.posix_fallocate(fd, 0, HEAD_BYTES + 2 * SEGMENT_BYTES)
            _write_once(path, fd)
            os.pwrite(fd, _HEAD.pack(_TITLE, salt, identity), 0)
            if sync:
                os.fsync(fd)
                _sync_directory(path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise os_error(path, error) from error
        log = cls(path, fd, salt, sync=sync)
        log.seq = log._synced = seq
        return log

    @classmethod
    def load(cls, path: str, identity: bytes, *, sync: bool = True) -> RedoLog | None:
        """The log of that database; None when its file is empty, which says: go on without.

        Raises StoreError: missing, damaged.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise StoreError(
                f"{path} is missing: the newest tasks may be in it only",
                hint=f"restore it; or, when it is lost for good, make an empty one: install -m 600 /dev/null {path}",
                code="missing",
                path=path,
            ) from error
        except OSError as error:
            raise os_error(path, error) from error
        try:
            size, head = os.fstat(fd).st_size, os.pread(fd, _HEAD.size, 0)
        except OSError as error:
            os.close(fd)
            raise os_error(path, error) from error
        title, salt, owner = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", b"", b"")
        if size and (title != _TITLE or owner != identity or size != HEAD_BYTES + 2 * SEGMENT_BYTES):
            os.close(fd)
            raise _damaged(path, "it is not the log of this database" if title == _TITLE else "its head is not one")
        if not size:
            os.close(fd)
            return None
        return cls(path, fd, salt, sync=sync)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    # -- reading ----------------------------------------------------------------------------------------------------

    def resume(self, applied: int, place: int) -> list[bytes]:
        """As `read`, of all there is; the next record follows the last of them. Raises StoreError: damaged.

        For a database that is about to have all of them durably.
        """
        payloads, end = self._follow(applied, place, sys.maxsize)
        self.seq = applied + len(payloads)
        self._active, self._offset = divmod(end % (2 * SEGMENT_BYTES), SEGMENT_BYTES)
        self._last = [self.seq, self.seq]
        return payloads

    def read(self, applied: int, place: int) -> list[bytes]:
        """The payloads of all records after number `applied`, which ended at `place`. Raises StoreError: damaged."""
        payloads = self._follow(applied, place, self.seq)[0]
        if applied + len(payloads) != self.seq:
            raise _damaged(self.path, f"record {applied + len(payloads) + 1} of {self.seq} cannot be read")
        return payloads

    @property
    def place(self) -> int:
        """Where the last record ended: segment times SEGMENT_BYTES plus offset."""
        return self._active * SEGMENT_BYTES + self._offset

    def _follow(self, applied: int, place: int, until: int) -> tuple[list[bytes], int]:
        """The records from `place` on, through the other segment and back to the front of this one, and their end."""
        place %= 2 * SEGMENT_BYTES
        this = place - place % SEGMENT_BYTES
        payloads: list[bytes] = []
        end = place
        for nth, start in enumerate((place, SEGMENT_BYTES - this, this)):
            more, length = self._chain(start, applied + len(payloads), until)
            if nth and not more:
                break
            payloads += more
            end = start + length
        if applied + len(payloads) < until:
            self._nothing_newer(applied + len(payloads), end)
        return payloads, end

    def _read(self, place: int, length: int) -> bytes:
        """Bytes of a segment."""
        try:
            data = os.pread(self._fd, length, HEAD_BYTES + place)
        except OSError as error:
            raise os_error(self.path, error) from error
        if len(data) != length:
            raise _damaged(self.path, "it is cut off")
        return data

    def _chain(self, start: int, last: int, until: int) -> tuple[list[bytes], int]:
        """Payloads from `start` on that are numbered on from `last`, and their length."""
        payloads: list[bytes] = []
        place, end = start, _end_of(start)
        while last < until and (record := self._record(place, end)) is not None and record[0] == last + 1:
            payloads.append(record[1])
            last += 1
            place += _room(len(record[1]))
        return payloads, place - start

    def _nothing_newer(self, last: int, end: int) -> None:
        """What cannot be read was never acknowledged, unless a later record is there.

        Behind a damaged record come later ones, or those of a former round, wherever the log went on.
        """
        for start in (end % (2 * SEGMENT_BYTES), 0, SEGMENT_BYTES):
            for place in self._salted(start):
                record = self._record(place, _end_of(start))
                if record is not None:
                    if record[0] > last:
                        raise _damaged(self.path, f"the database and it end at record {last}, but {record[0]} is there")
                    break

    def _salted(self, start: int) -> Iterator[int]:
        """The places from `start` to its segment's end where a record may begin, by its first word.

        Every start of the daemon asks, and only this word of each sector is looked at: a tenth of searching every byte.
        """
        salt = int.from_bytes(self._salt, sys.byteorder)
        end = _end_of(start)
        for window in range(start, end, _WINDOW_BYTES):
            data = self._read(window, min(_WINDOW_BYTES, end - window))
            words = memoryview(data).cast("Q")[:: SECTOR_BYTES // 8].tolist()
            if salt in words:
                yield from [window + at * SECTOR_BYTES for at, word in enumerate(words) if word == salt]

    def _record(self, place: int, end: int) -> tuple[int, bytes] | None:
        """The record at `place` of a segment that ends at `end`."""
        if place == end:
            return None
        data = self._read(place, min(end - place, _AHEAD_BYTES))
        salt, number, length, check = _RECORD.unpack_from(data)
        if salt != self._salt or _RECORD.size + length > end - place:
            return None
        missing = _RECORD.size + length - len(data)
        if missing > 0:
            data += self._read(place + len(data), missing)
        payload = data[_RECORD.size : _RECORD.size + length]
        return (number, payload) if crc32(payload, number & 0xFFFFFFFF) == check else None

    # -- writing ----------------------------------------------------------------------------------------------------

    def append(self, payload: bytes) -> None:
        """One record; it is on disk on return. Raises Full, and StoreError: then it does not count."""
        room = _room(len(payload))
        if self._offset + room > SEGMENT_BYTES:
            self._turn_over(room)
        number = self.seq + 1
        check = crc32(payload, number & 0xFFFFFFFF)
        data = _RECORD.pack(self._salt, number, len(payload), check) + payload
        place = HEAD_BYTES + self._active * SEGMENT_BYTES + self._offset
        try:
            if os.pwrite(self._fd, data, place) != len(data):
                raise OSError(errno.EIO, "a write was cut short", self.path)
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            self._torn = place
            # after a kill it should not be there; `make_void` makes sure of it
            with suppress(OSError):
                os.pwrite(self._fd, bytes(_RECORD.size), place)
            raise os_error(self.path, error) from error
        self._torn = None
        self.seq = self._last[self._active] = number
        self._offset += room

    def _turn_over(self, room: int) -> None:
        other = 1 - self._active
        if room > SEGMENT_BYTES or self._last[other] > self._synced:
            raise Full
        self.make_void()
        self._active, self._offset = other, 0

    def make_void(self) -> None:
        """A record that was refused may be whole on disk: see that it is not, before its number is used elsewhere.

        Raises StoreError.
        """
        if self._torn is None:
            return
        try:
            os.pwrite(self._fd, bytes(_RECORD.size), self._torn)
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            raise os_error(self.path, error) from error
        self._torn = None

    # -- what the database has ----------------------------------------------------------------------------------------

    def synced(self, seq: int) -> None:
        """The database has all records up to number `seq` durably."""
        self._synced = max(self._synced, seq)

    @property
    def wants_sync(self) -> bool:
        """Is the segment that comes next still needed, and this one half full?"""
        return self._offset > SEGMENT_BYTES // 2 and self._last[1 - self._active] > self._synced


def _end_of(place: int) -> int:
    """Where the segment of `place` ends."""
    return place - place % SEGMENT_BYTES + SEGMENT_BYTES


def _room(length: int) -> int:
    return -(-(_RECORD.size + length) // SECTOR_BYTES) * SECTOR_BYTES


def _write_once(path: str, fd: int) -> None:
    """Zeros over all segments: the first record in a block that was never written would wait for the file system, too.

    A host with few tasks does not come round for months.
    """
    if os.pwritev(fd, [bytes(SEGMENT_BYTES // 64)] * 128, HEAD_BYTES) != 2 * SEGMENT_BYTES:
        raise OSError(errno.EIO, "a write was cut short", path)


def _damaged(path: str, detail: str) -> StoreError:
    return StoreError(
        f"{path} is damaged: {detail}",
        hint=f"restore it together with its database; or, to go on with the database alone: truncate -s 0 {path}",
        code="damaged",
        path=path,
    )


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
