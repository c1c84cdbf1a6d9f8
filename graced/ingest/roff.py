"""Make text of a man page's source (man(7) and the common part of mdoc(7)).

Not a typesetter: macros become their words, section macros become headings, font and size escapes go, the usual
special characters are translated, everything that is a definition or a condition is left out. Pure; used by
`graced.ingest.extract`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SPECIAL = {
    "(em": "—", "(en": "\u2013", "(bu": "•", "(co": "©", "(rg": "®", "(aq": "'", "(dq": '"', "(lq": "“", "(rq": "”",
    "(oq": "\u2018", "(cq": "\u2019", "(ti": "~", "(ha": "^", "(ga": "`", "(rs": "\\", "(mi": "-", "(hy": "-",
    "(->": "→", "(<-": "←", "(la": "⟨", "(ra": "⟩", "(sq": "□", "(de": "°", "(mu": "\u00d7", "(pl": "+", "(tm": "™",
}  # fmt: skip
_ONE = {"-": "-", " ": " ", "~": " ", "0": " ", "e": "\\", "'": "'", "`": "`", "_": "_", "\\": "\\", ".": "."}
_SECTION = {"SH": "# ", "Sh": "# ", "SS": "## ", "Ss": "## "}
_PARAGRAPH = {"PP", "P", "LP", "Pp", "IP", "TP", "HP", "It", "Bl", "El", "sp", "br", "RS", "RE", "TQ"}
_SILENT = {"TH", "Dd", "Os", "de", "de1", "ds", "nr", "if", "ie", "el", "so", "ft", "ad", "na", "nh", "hy", "nf", "fi",
           "in", "ta", "ti", "ne", "ig", "rm", "rn", "als", "am", "tr", "PD", "DT", "UE", "ME", "IX", "mso", "do",
           "EX", "EE", "ps", "vs", "ll", "Bd", "Ed", "Bk", "Ek", "Rs", "Re", "Nd-"}  # fmt: skip
_MDOC_FLAG = {"Fl": "-", "Cm": "", "Ar": "", "Nm": "", "Pa": "", "Nd": "\u2013 ", "Xr": "", "Op": "", "Dt": "# "}


_MAX_LINE = 8192


def looks_like_roff(text: str) -> bool:
    """Whether one of the first 60 lines is a man or mdoc title macro."""
    return any(line.startswith((".TH ", ".Dt ")) for line in text[:16384].split("\n")[:60])


def title(text: str) -> str:
    """``name(section)`` of the title macro, or an empty string."""
    for line in text[:16384].split("\n"):
        if line.startswith((".TH ", ".Dt ")):
            words = _words(line[4:])
            return f"{unescape(words[0]).lower()}({unescape(words[1])})" if len(words) > 1 else ""
    return ""


def lines(text: str) -> Iterator[str]:
    """Yield output lines (without newline); definitions (``.de`` to ``..``, ``.ig``) are skipped whole."""
    skip_until = ""
    for raw in _lines(text):
        if skip_until:
            if raw.startswith(skip_until):
                skip_until = ""
            continue
        if raw[:1] not in {".", "'"}:
            yield unescape(raw)
            continue
        body = raw[1:].lstrip()
        macro, _, rest = body.partition(" ")
        if macro.startswith('\\"') or not macro:
            continue
        if macro in {"de", "de1", "am", "ig"}:
            skip_until = ".."
            continue
        yield from _macro(macro, rest)


def _lines(text: str) -> Iterator[str]:
    """Source lines, longer ones cut: one line must not take longer than a slice of work may."""
    for line in text.split("\n"):
        for start in range(0, max(len(line), 1), _MAX_LINE):
            yield line[start : start + _MAX_LINE]


def _macro(macro: str, rest: str) -> Iterator[str]:
    words = [unescape(word) for word in _words(rest)]
    if macro in _SECTION:
        yield ""
        yield _SECTION[macro] + " ".join(words)
    elif macro in _PARAGRAPH:
        yield ""
        if words and macro in {"IP", "It"}:
            yield _mdoc(words) if macro == "It" else words[0]
    elif macro in _SILENT:
        return
    elif macro in {"BR", "RB", "BI", "IB", "IR", "RI"}:
        yield "".join(words)
    elif macro[:1].islower():  # a request of the typesetter, not text
        return
    elif words or macro in _MDOC_FLAG:
        yield _mdoc([macro, *words]) if macro[1:2].islower() else " ".join(words)


def _mdoc(words: list[str]) -> str:
    """Join mdoc words: a flag macro puts its mark before the next word, a callable macro name disappears."""
    out: list[str] = []
    mark = ""
    for word in words:
        if word in _MDOC_FLAG:
            mark = _MDOC_FLAG[word]
        elif len(word) == 2 and word[0].isupper() and word[1].islower() and word.isascii():
            continue
        else:
            out.append(mark + word)
            mark = ""
    return " ".join(out)


def _words(rest: str) -> list[str]:
    """Split macro arguments: blanks outside double quotes separate, a backslash keeps its next character."""
    out: list[str] = []
    at = 0
    while at < len(rest):
        if rest[at] in " \t":
            at += 1
            continue
        quoted = rest[at] == '"'
        at += quoted
        begin = at
        while at < len(rest) and (rest[at] != '"' if quoted else rest[at] not in " \t"):
            at += 2 if rest[at] == "\\" else 1
        out.append(rest[begin:at])
        at += quoted
    return out


def unescape(text: str) -> str:
    """Replace roff escapes by what they print; an unknown escape prints nothing."""
    if "\\" not in text:
        return text
    out: list[str] = []
    at = 0
    while at < len(text):
        if text[at] != "\\":
            out.append(text[at])
            at += 1
            continue
        printed, at = _escape(text, at + 1)
        if printed is None:
            break
        out.append(printed)
    return "".join(out)


def _escape(text: str, at: int) -> tuple[str | None, int]:
    """What the escape at `at` (behind its backslash) prints and where text goes on; None: a comment, stop."""
    kind = text[at : at + 1]
    if kind == '"':
        return None, len(text)
    if kind == "(":
        return _SPECIAL.get(text[at : at + 3], ""), at + 3
    if kind == "[":
        end = text.find("]", at)
        name = text[at + 1 : end] if end > 0 else ""
        return _SPECIAL.get("(" + name, ""), (end + 1 if end > 0 else len(text))
    if kind in {"f", "*", "n", "F", "m", "M"}:
        return "", _name_end(text, at + 1)
    if kind == "s":
        at += 1 + (text[at + 1 : at + 2] in {"+", "-"})
        return "", at + 1
    if kind in {"h", "v", "w", "N", "o", "l", "L", "D", "X", "Z", "x"} and text[at + 1 : at + 2] == "'":
        end = text.find("'", at + 2)
        return "", (end + 1 if end > 0 else len(text))
    return _ONE.get(kind, ""), at + 1


def _name_end(text: str, at: int) -> int:
    """End of a font or string name: one character, ``(xx`` or ``[long]``."""
    if text[at : at + 1] == "(":
        return at + 3
    if text[at : at + 1] == "[":
        end = text.find("]", at)
        return end + 1 if end > 0 else len(text)
    return at + 1
