"""From a file's bytes to what Memory stores: the document, its chunks, its score, cut into messages.

Pure, in steps like the engines it joins. Used by the Librarian.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.ingest.chunk import chunks
from graced.ingest.extract import extract_steps
from graced.ingest.provenance import Provenance
from graced.ingest.quality import count_steps, score

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Protocol

    from graced.base.json import JsonDict
    from graced.ingest.chunk import Chunk

    class Seen(Protocol):
        """What is used of an `os.stat_result`."""

        @property
        def st_uid(self) -> int: ...
        @property
        def st_gid(self) -> int: ...
        @property
        def st_mode(self) -> int: ...
        @property
        def st_mtime_ns(self) -> int: ...


PART_CHARS = 64 << 10
"""Characters per message: at most 6 bytes each on the wire, well below the 1 MiB that a message may have."""


def document_steps(
    *, path: str, source: str, seen: Seen, data: bytes, sha256: str, max_bytes: int
) -> Generator[None, None, tuple[JsonDict, list[Chunk]]]:
    """The document (its `score` and all components of it inside) and its chunks that hold more than blanks.

    `seen` is what fstat said of the file that `data` was read from, `sha256` the digest of `data`. Raises
    FormatError as `extract_steps` does.
    """
    found = yield from extract_steps(path.rpartition("/")[2], data, max_bytes)
    quality = score((yield from count_steps(found.text, found.replaced)))
    pieces: list[Chunk] = []
    for piece in chunks(found.text):
        if piece.text.strip():
            pieces.append(piece)
        if piece.ordinal % 16 == 0:
            yield
    shown = path.encode("utf-8", "backslashreplace").decode()  # a name that is not UTF-8 cannot travel as JSON
    provenance = Provenance(
        path=shown, uid=seen.st_uid, gid=seen.st_gid, mode=seen.st_mode & 0o7777, mtime_ns=seen.st_mtime_ns,
        size_bytes=len(data), sha256=sha256, extractor=found.extractor,
    )  # fmt: skip
    document: JsonDict = {
        "digest": sha256, "source": source, "path": shown, "uid": seen.st_uid, "mtime": iso(seen.st_mtime_ns // 1000),
        "size": len(data), "title": found.title.encode("utf-8", "backslashreplace").decode(), "score": quality.total,
        "provenance": {**provenance.to_json(), "quality": quality.to_json()},
    }  # fmt: skip
    return document, pieces


def parts(pieces: list[Chunk], part_chars: int = PART_CHARS) -> list[list[Chunk]]:
    """Consecutive runs of chunks that fit one message each; one empty run when there are no chunks."""
    runs: list[list[Chunk]] = [[]]
    size = 0
    for piece in pieces:
        if size + len(piece.text) > part_chars and runs[-1]:
            runs.append([])
            size = 0
        runs[-1].append(piece)
        size += len(piece.text)
    return runs
