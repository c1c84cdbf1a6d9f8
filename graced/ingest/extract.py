"""Make text of a file's bytes: UTF-8 text, Markdown, simple HTML, man pages, each also gzip-compressed.

Pure: bytes in, text out. Bytes that are not text are refused with FormatError, never returned as a message in
the text. Work comes in steps: `extract_steps` yields None between slices of at most `SLICE` characters and
returns the result, so that a daemon can answer in between. html and zlib are imported on first use.
"""

from __future__ import annotations

from graced.base.errors import FormatError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

SLICE = 65536
"""Characters (or bytes) handled between two yields."""
_MAGIC = {
    b"\x7fELF": "an ELF program", b"%PDF": "a PDF file", b"PK\x03\x04": "a zip archive", b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"BZh": "bzip2 data", b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data", b"!<arch>\n": "an ar archive", b"SQLite format 3": "an SQLite database",
    b"7z\xbc\xaf": "a 7z archive", b"\xd0\xcf\x11\xe0": "an OLE document",
}  # fmt: skip
_GZIP = b"\x1f\x8b"


class Extract(Record):
    """The text of one file.

    `extractor` is text, markdown, html or man (with ``+gzip``), `title` a heading, the page's name or the file's
    name, `replaced` the number of undecodable byte runs that became U+FFFD. Line ends are ``\\n``.
    """

    extractor: str
    title: str
    text: str
    replaced: int


def extract(name: str, data: bytes, max_bytes: int = 4 << 20) -> Extract:
    """All steps of `extract_steps` at once."""
    steps = extract_steps(name, data, max_bytes)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Extract = stop.value
            return result


def extract_steps(name: str, data: bytes, max_bytes: int = 4 << 20) -> Generator[None, None, Extract]:
    """Extract text from `data`; `name` is the file's name (its suffix helps to choose the extractor).

    `max_bytes` bounds what a compressed file may grow to. Raises FormatError for binary or damaged data, for a
    file without any text, and for one that grows beyond the bound.
    """
    packed = data.startswith(_GZIP)
    if packed:
        data = yield from _gunzip(data, max_bytes)
        name = name.removesuffix(".gz")
    _refuse_binary(data)
    text, replaced = _decode(data)
    yield
    kind = _kind(name, text)
    title = ""
    if kind == "html":
        from graced.ingest.markup import html_steps

        title, text = yield from html_steps(text)
    elif kind == "man":
        title, text = yield from _from_man(text)
    elif "\b" in text or "\x1b[" in text:
        text = yield from _from_terminal(text)
    if not text.strip():
        raise FormatError("the file holds no text", path=name)
    title = title or _first_heading(text) or name
    return Extract(extractor=kind + ("+gzip" if packed else ""), title=title[:200], text=text, replaced=replaced)


def _gunzip(data: bytes, max_bytes: int) -> Generator[None, None, bytes]:
    import zlib

    out: list[bytes] = []
    size = 0
    unpacker = zlib.decompressobj(wbits=31)
    try:
        while data and not unpacker.eof:
            piece = unpacker.decompress(data, SLICE)
            data = unpacker.unconsumed_tail
            size += len(piece)
            out.append(piece)
            if size > max_bytes:
                raise FormatError(f"the compressed file grows beyond {max_bytes} bytes")
            yield
    except zlib.error as error:
        raise FormatError(f"the compressed file is damaged: {error}") from error
    if not unpacker.eof:
        raise FormatError("the compressed file is cut short")
    return b"".join(out)


def _refuse_binary(data: bytes) -> None:
    """Raise FormatError for a known binary format, or NUL bytes that are not UTF-16's."""
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise FormatError(f"binary: {what}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    if b"\0" in data:
        raise FormatError("binary: it holds NUL bytes")


def _decode(data: bytes) -> tuple[str, int]:
    """Text with ``\\n`` line ends and the count of replacements; FormatError when over a tenth is not text."""
    codec = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = data.decode(codec, errors="replace")
    replaced = text.count("\ufffd") - (data.count(b"\xef\xbf\xbd") if codec == "utf-8-sig" else 0)
    if replaced * 10 > len(text):
        raise FormatError("binary: more than a tenth of it is not UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n"), replaced


def _kind(name: str, text: str) -> str:
    from graced.ingest.roff import looks_like_roff

    lower = name.lower()
    head = text[:2048].lstrip().lower()
    if lower.endswith((".html", ".htm", ".xhtml")) or head.startswith(("<!doctype html", "<html")):
        return "html"
    if lower.endswith((".md", ".markdown")):
        return "markdown"
    return "man" if looks_like_roff(text) else "text"


def _from_man(text: str) -> Generator[None, None, tuple[str, str]]:
    from graced.ingest import roff

    out: list[str] = []
    size = 0
    for line in roff.lines(text):
        if line.strip() or (out and out[-1].strip()):  # no runs of blank lines
            out.append(line)
        size += max(len(line), 1024)  # a line that prints little may have cost as much
        if size >= SLICE // 4:
            size = 0
            yield
    return roff.title(text), "\n".join(out).strip("\n") + "\n"


def _from_terminal(text: str) -> Generator[None, None, str]:
    """Undo a terminal page's bold and underline: colour escapes go, a backspace drops the character before it."""
    import re

    out: list[str] = []
    for start in range(0, len(text), SLICE):
        for char in text[start : start + SLICE]:
            if char != "\b":
                out.append(char)
            elif out and out[-1] != "\n":
                out.pop()
        yield
    return re.sub(r"\x1b\[[0-9;]{0,20}m", "", "".join(out))


def _first_heading(text: str) -> str:
    from graced.ingest.chunk import is_heading

    for line in text[:4096].split("\n"):
        if is_heading(line):
            return line.strip("# \t")
    return ""
