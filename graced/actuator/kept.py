"""The version of each playbook and profile that the actuator could use last, for when an edit of it is no good.

Copies of root's files in a directory of its own; one counts only for a warrant of exactly that version, or where
nothing but looking is asked for. A file that is gone, or that others could have written, is never replaced by a copy.
"""

from __future__ import annotations

import hashlib

from graced.actuator.lkg import get_file, make_directories, put_file
from graced.actuator.safeopen import UnsafePathError
from graced.base.errors import StoreError

MAX_BYTES = 1 << 20


class Kept:
    """Files below `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._known: dict[str, str] = {}

    def keep(self, kind: str, name: str, data: bytes) -> None:
        """Remember the version in use; a disk that cannot keep it stops nothing."""
        path, digest = self._path(kind, name), hashlib.sha256(data).hexdigest()
        if self._known.get(path) == digest:
            return
        try:
            if self.get(kind, name) != data:
                make_directories(self._directory)
                put_file(path, data)
        except (StoreError, UnsafePathError):
            return
        self._known[path] = digest

    def get(self, kind: str, name: str) -> bytes:
        """The version that was kept, empty when there is none that can be read."""
        try:
            return get_file(self._path(kind, name), MAX_BYTES) or b""
        except StoreError:
            return b""

    def _path(self, kind: str, name: str) -> str:
        return f"{self._directory}/{kind}-{name}.toml"
