"""Cut a text into chunks at headings and paragraphs.

The chunks are consecutive slices of the text: joined they are the text again, none is empty, none is longer
than the bound. Each turn of the loop moves `start` forward by at least one character, so it ends after at most
`len(text)` turns. Pure; work comes in steps (a generator), so that a daemon can answer between two steps.
"""

from __future__ import annotations

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CHARS = 1200
"""No chunk is longer. About 200 words: what a snippet and bm25's length norm work well with."""
MIN_CHARS = 240
"""A heading ends a chunk only when the chunk has this much already; shorter sections share a chunk."""


class Chunk(Record):
    """`text` is ``whole[start : start + len(text)]``; `heading` the last heading at or before its first line."""

    ordinal: int
    start: int
    heading: str
    text: str


def chunks(text: str, max_chars: int = MAX_CHARS, min_chars: int = MIN_CHARS) -> Iterator[Chunk]:
    """Yield the chunks of a text in order; ValueError unless ``0 < min_chars <= max_chars``.

    A chunk ends, in this order of preference, before a Markdown heading (``# Title`` at the start of a line),
    after a blank line, after a line, after a sentence, after a word, or at the bound.
    """
    if not 0 < min_chars <= max_chars:
        raise ValueError("chunk bounds must satisfy 0 < min_chars <= max_chars")
    start = ordinal = 0
    heading = ""
    while start < len(text):
        end = _end(text, start, min_chars, max_chars)
        piece = text[start:end]
        first, last = _headings(piece)
        yield Chunk(ordinal=ordinal, start=start, heading=first or heading, text=piece)
        heading = last or heading
        start = end
        ordinal += 1


def _end(text: str, start: int, min_chars: int, max_chars: int) -> int:
    """The end of the chunk that begins at `start`: always in ``start + 1 .. start + max_chars``."""
    limit = min(start + max_chars, len(text))
    least = min(start + min_chars, limit)
    at = _heading_after(text, least, limit)
    if at:
        return at
    if limit == len(text):
        return limit
    for mark in ("\n\n", "\n", ". ", " "):
        at = text.rfind(mark, least - 1, limit)
        if at >= 0 and at + len(mark) <= limit:
            return at + len(mark)
    return limit


def _heading_after(text: str, least: int, limit: int) -> int:
    """Position of the first heading line that begins in ``least .. limit - 1``; 0 when there is none."""
    at = text.find("\n#", least - 1, limit)
    while at >= 0:
        if is_heading(text[at + 1 : at + 200].split("\n", 1)[0]):
            return at + 1
        at = text.find("\n#", at + 1, limit)
    return 0


def is_heading(line: str) -> bool:
    """Whether a line is a Markdown ATX heading of level 1-6 with a title."""
    marks = len(line) - len(line.lstrip("#"))
    return 1 <= marks <= 6 and line[marks : marks + 1] in {" ", "\t"} and bool(line[marks:].strip())


def _headings(piece: str) -> tuple[str, str]:
    """The heading that governs the beginning of a chunk (only when it is its first line) and its last one."""
    first = last = ""
    seen_text = False
    for line in piece.split("\n"):
        if line.startswith("#") and is_heading(line):
            last = line.strip("# \t")[:200]
            if not seen_text:
                first = last
        seen_text = seen_text or bool(line.strip())
    return first, last
