"""inotify(7) by way of libc: which entries of a directory changed. Used by the Librarian and Code kernels.

ctypes is imported at the first use (8 ms), never on the boot path. Reading is non-blocking; an overflow of the
kernel's queue is reported as an event with mask Q_OVERFLOW and wd -1: the owner then looks at everything again.
"""

from __future__ import annotations

import os
import struct

from graced.base.errors import HostError

MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
Q_OVERFLOW, IGNORED, ONLYDIR, DONT_FOLLOW, ISDIR = 0x4000, 0x8000, 0x1000000, 0x2000000, 0x40000000
# A file came, changed or went; what was only opened or half written is not news.
CHANGES = CLOSE_WRITE | MOVED_FROM | MOVED_TO | DELETE | ATTRIB | DELETE_SELF | MOVE_SELF
_HEAD = struct.Struct("iIII")


class Event:
    """One change: the watched directory, the entry's name in it ("" for the directory itself), the mask."""

    __slots__ = ("directory", "mask", "name")

    def __init__(self, directory: str, name: str, mask: int) -> None:
        self.directory = directory
        self.name = name
        self.mask = mask


class Watcher:
    """An inotify descriptor. Raises HostError when the kernel refuses (limits, missing directory)."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise self._problem("inotify", "fs.inotify.max_user_instances may be used up")
        self._directories: dict[int, str] = {}

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._fd

    def add(self, path: str, mask: int = CHANGES | ONLYDIR) -> None:
        """Watch a directory (adding it again changes the mask)."""
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), self._ctypes.c_uint32(mask))
        if number < 0:
            raise self._problem(path, "fs.inotify.max_user_watches may be used up")
        self._directories[number] = path

    def watched(self) -> list[str]:
        """The directories that are watched now."""
        return sorted(self._directories.values())

    def read(self) -> list[Event]:
        """The changes since the last read; empty when there are none."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        events = []
        for number, mask, name in parse(data):
            directory = self._directories.get(number, "")
            if mask & IGNORED:
                self._directories.pop(number, None)
            events.append(Event(directory, name, mask))
        return events

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _problem(self, what: str, hint: str) -> HostError:
        return HostError(f"{what}: {os.strerror(self._ctypes.get_errno())}", hint=hint)


def parse(data: bytes) -> list[tuple[int, int, str]]:
    """Take the kernel's buffer apart: (watch, mask, name). A cut tail, which the kernel never writes, is dropped."""
    found, at = [], 0
    while at + _HEAD.size <= len(data):
        number, mask, _cookie, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at : at + length].split(b"\0", 1)[0]
        at += length
        found.append((number, mask, os.fsdecode(name)))
    return found
