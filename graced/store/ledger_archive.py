"""Sealed parts of the ledger as files: the entries of SEGMENT_ENTRIES in a row, one a line, compressed.

``ledger-archive/<first>-<end>.jsonl.gz`` beside the database; ``zcat`` reads it. What is sealed is decided by the
database's table `sealed`, which has each file's digest; whether the entries are what was signed, by the tiles that
stay in the database. A file that is missing or has changed is an error, never fewer entries.
"""

from __future__ import annotations

import os

from graced.base.errors import StoreError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DIRECTORY = "ledger-archive"
SEGMENT_ENTRIES = 16384
"""64 tiles: some 5 MiB of entries, one of file."""
_HINT = "restore it from a backup of the directory; a copied ledger.db needs ledger-archive beside it"


class Segment(Record):
    """Entries `first` to `size` - 1 are in `file`, whose SHA-256 is `digest`."""

    first: int
    size: int
    file: str
    digest: bytes


class Archive:
    """Reads the sealed entries of the database at `path`. Keeps the last `keep` segments in memory."""

    def __init__(self, path: str, segments: Sequence[Segment], keep: int = 2) -> None:
        self._directory = f"{os.path.dirname(path) or '.'}/{DIRECTORY}"
        self._segments = segments
        self._keep = keep
        self._kept: dict[int, list[bytes]] = {}
        self.size = segments[-1].size if segments else 0

    def missing(self) -> list[str]:
        """Files that are not there, and names where something is missing between two of them."""
        size = 0
        names = []
        for segment in self._segments:
            if segment.first != size or not os.path.isfile(f"{self._directory}/{os.path.basename(segment.file)}"):
                names.append(segment.file)
            size = segment.size
        return names

    def entries(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Every sealed (seq, entry) from `start` on. Raises StoreError."""
        for segment in self._segments:
            if segment.size > start:
                skip = max(0, start - segment.first)
                yield from enumerate(self._read(segment)[skip:], segment.first + skip)

    def block(self, first: int, count: int) -> list[bytes]:
        """`count` sealed entries of one segment from `first` on; none when it is not there. Raises StoreError."""
        for segment in self._segments:
            if segment.first <= first < segment.size:
                return self._read(segment)[first - segment.first :][:count]
        return []

    def newest_first(self, before: int) -> Iterator[tuple[Segment, list[bytes]]]:
        """Segments with entries below number `before`, each with these entries. Raises StoreError."""
        for segment in reversed(self._segments):
            if segment.first < before:
                yield segment, self._read(segment)[: before - segment.first]

    def _read(self, segment: Segment) -> list[bytes]:
        if segment.first not in self._kept:
            while len(self._kept) >= self._keep:
                del self._kept[next(iter(self._kept))]
            self._kept[segment.first] = read_segment(self._directory, segment)
        return self._kept[segment.first]


def read_segment(directory: str, segment: Segment) -> list[bytes]:
    """Its entries. Raises StoreError (code "archive") when the file is not the one that was sealed."""
    import zlib
    from hashlib import sha256

    # What the database says is a name in this directory, whoever wrote it there.
    path = f"{directory}/{os.path.basename(segment.file)}"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint=_HINT, code="archive", path=path) from error
    if sha256(data).digest() != segment.digest:
        raise StoreError(f"{path} is not the file that was sealed", hint=_HINT, code="archive", path=path)
    try:
        entries = zlib.decompress(data, wbits=31).split(b"\n")
    except zlib.error as error:
        raise StoreError(f"{path} cannot be unpacked: {error}", hint=_HINT, code="archive", path=path) from error
    if entries.pop() or len(entries) != segment.size - segment.first:
        raise StoreError(f"{path} has other entries than were sealed", hint=_HINT, code="archive", path=path)
    return entries


def write_segment(path: str, first: int, entries: Sequence[bytes]) -> Segment:
    """Write the file for the database at `path`; on disk when it returns. The same entries give the same file.

    Raises StoreError.
    """
    import zlib
    from hashlib import sha256

    directory = f"{os.path.dirname(path) or '.'}/{DIRECTORY}"
    size = first + len(entries)
    name = f"{first:012d}-{size:012d}.jsonl.gz"
    packer = zlib.compressobj(6, wbits=31)
    data = b"".join([packer.compress(entry + b"\n") for entry in entries]) + packer.flush()
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        fd = os.open(f"{directory}/{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(f"{directory}/{name}.new", f"{directory}/{name}")
        for one in (directory, os.path.dirname(path) or "."):
            directory_fd = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory_fd)
            finally:
                os.close(directory_fd)
    except OSError as error:
        raise StoreError(f"{directory}/{name}: {error.strerror}", code="archive", path=directory) from error
    return Segment(first=first, size=size, file=name, digest=sha256(data).digest())
