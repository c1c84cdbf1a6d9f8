"""Where a document came from, as the file system said it at the moment it was read.

Nothing in it is guessed: what was not asked or cannot be known is null. Used by the Librarian (fills it from
`fstat` of the file it read) and by Memory (stores it as it is).
"""

from __future__ import annotations

from graced.base.record import Record


class Provenance(Record):
    """One file as it was when it was read.

    `mode` holds the permission bits only, times are wall clock UTC in nanoseconds, `package` is the Debian
    package that owns the path (null: not asked), `extractor` says how text was made from bytes.
    """

    path: str
    uid: int
    gid: int
    mode: int
    mtime_ns: int
    size_bytes: int
    sha256: str
    extractor: str
    package: str | None = None
