"""A small JSON file of learned series: {"v": 1, "series": {name: [values]}, "last": {name: [stamp_us, boot_id]}}.

Written whole and atomically. Losing it costs only learning, so a damaged one is moved aside, never an error.
Used by the Infrastructure kernel.
"""

from __future__ import annotations

import os

from graced.base.errors import FormatError, StoreError
from graced.base.json import dumps, get_dict, loads_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

MAX_BYTES = 4 << 20


class SeriesFile:
    """One file. Raises StoreError only when it cannot be written."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: JsonDict = {}

    def load(self) -> JsonDict:
        """The series by name; empty when there is no usable file."""
        try:
            with open(self._path, "rb") as file:
                content = loads_object(file.read(MAX_BYTES + 1), max_bytes=MAX_BYTES, path=self._path)
            series, self._last = get_dict(content, "series"), get_dict(content, "last")
        except FileNotFoundError:
            return {}
        except (OSError, FormatError):
            import contextlib

            with contextlib.suppress(OSError):
                os.replace(self._path, f"{self._path}.damaged")
            return {}
        return series

    def first_time(self, name: str, stamp_us: int, boot: str) -> bool:
        """Whether this occasion (a start, by its time stamp and boot) is new for `name`; it is remembered."""
        mark = [stamp_us, boot]
        if self._last.get(name) == mark:
            return False
        self._last[name] = mark
        return True

    def put(self, series: JsonDict) -> None:
        """Replace the file. Raises StoreError."""
        new = f"{self._path}.new"
        try:
            with open(new, "wb") as file:
                file.write(dumps({"v": 1, "series": series, "last": self._last}))
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self._path)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error
