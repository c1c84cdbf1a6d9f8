"""Text of a simple HTML page.

Headings become Markdown headings, block elements paragraphs; script, style and the like are left out. A scanner of
its own: html.parser takes quadratic time on hostile pages (2 MiB of ``<a <a <a`` ran for over five minutes), this
one looks at each character a bounded number of times. It does not repair broken nesting, and a ``>`` inside an
attribute's quotes ends the tag. Pure; `html` (entities) is imported with this module, on first use.
"""

from __future__ import annotations

from html import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

SLICE = 32768
"""Characters handled between two yields (about 5 ms of ordinary pages)."""
_MAX_TAG = 4096
_HIDDEN = frozenset({"script", "style", "template", "noscript", "svg"})
_BLOCK = frozenset(
    {"address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption",
     "figure", "footer", "form", "head", "header", "hr", "html", "li", "main", "nav", "ol", "p", "section", "summary",
     "table", "tbody", "tfoot", "thead", "title", "tr", "ul"}
)  # fmt: skip
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})


class _Page:
    """Collects text between tags."""

    def __init__(self) -> None:
        self.title = ""
        self.out: list[str] = []
        self.in_title = False
        self.in_pre = False

    def tag(self, name: str, *, closing: bool) -> None:
        if name == "title":
            self.in_title = not closing and not self.title
        elif name == "pre":
            self.in_pre = not closing
            self.out.append("\n\n")
        elif name in _HEADINGS:
            self.out.append("\n\n" if closing else "\n\n" + "#" * int(name[1]) + " ")
        elif name == "br":
            self.out.append("\n")
        elif name in {"td", "th"}:
            self.out.append(" ")
        elif name in _BLOCK:
            self.out.append("\n\n")

    def data(self, raw: str) -> None:
        if not raw:
            return
        text = unescape(raw)
        if self.in_title:
            self.title = " ".join(f"{self.title} {text}".split())[:200]
        elif self.in_pre:
            self.out.append(text)
        else:
            words = " ".join(text.split())
            lead = " " if text[:1].isspace() else ""
            self.out.append(lead + words + (" " if words and text[-1:].isspace() else ""))


def html_steps(text: str) -> Generator[None, None, tuple[str, str]]:
    """Return (title, text) of a page; yields between slices. Any string is accepted."""
    page = _Page()
    at = done = 0
    lower = text.lower() if text.isascii() else _lower_ascii(text)
    while at < len(text):
        begin = text.find("<", at, at + SLICE)
        if begin < 0:
            begin = min(at + SLICE, len(text))
        page.data(text[at:begin])
        at = _markup(lower, begin, page) if begin < len(text) and text[begin] == "<" else begin
        if at - done >= SLICE // 4:
            done = at
            yield
    return page.title, (yield from _tidy("".join(page.out)))


def _markup(lower: str, begin: int, page: _Page) -> int:
    """Handle what begins with the ``<`` at `begin`; returns where text goes on, always behind `begin`."""
    if lower.startswith("<!--", begin):
        end = lower.find("-->", begin + 4)
        return end + 3 if end >= 0 else len(lower)
    end = lower.find(">", begin + 1, begin + _MAX_TAG)
    kind = lower[begin + 1 : begin + 2]
    if end < 0 or not (kind.isalpha() or kind in {"/", "!", "?"}):
        page.data("<")
        return begin + 1
    if kind in {"!", "?"}:
        return end + 1
    closing = kind == "/"
    words = lower[begin + 1 + closing : end].split(maxsplit=1)
    name = words[0].rstrip("/") if words else ""
    if name in _HIDDEN and not closing:
        after = lower.find("</" + name, end)
        return after if after >= 0 else len(lower)
    page.tag(name, closing=closing)
    return end + 1


def _lower_ascii(text: str) -> str:
    """Lower case without changing any position (``"İ".lower()`` has two characters)."""
    return text.translate({code: code + 32 for code in range(65, 91)})


def _tidy(text: str) -> Generator[None, None, str]:
    """Paragraphs parted by one blank line, no blanks at line ends."""
    out: list[str] = []
    size = 0
    for raw in text.split("\n"):
        line = raw.rstrip()
        if line or (out and out[-1]):
            out.append(line)
        size += len(raw) + 1
        if size >= SLICE * 4:
            size = 0
            yield
    return "\n".join(out).strip() + "\n" if any(out) else ""
