"""A first, honest quality score of a text: is it readable text, or damaged, generated or empty?

Measured on the text alone, six components in 0..1, each reported beside the total:

======== ==================================================================================================
decoding   undecodable bytes (U+FFFD) and UTF-8 that was read as Latin-1 or Windows-1252 ("Ã©", "â€™")
control    control characters that are neither line ends, tabs nor form feeds
letters    share of letters among the characters that are not blank
words      words with a digit inside (OCR), and characters in words longer than 40 (base64, lost blanks)
compress   how far deflate shrinks windows of 4096 characters: too well is boilerplate, too little is noise
length     characters that are not blank: 40 or fewer are worth nothing, 240 are enough
======== ==================================================================================================

`total` is the power mean with exponent -4, so one bad component sinks it. The bounds come from quantiles of
clean documents (see below). **What it cannot see**: lines or words in the wrong order, letters replaced by other
letters at a low rate (OCR without digits), a text that is fluent and wrong, who wrote it, whether it is current.
It says nothing about truth. Pure; zlib is imported on first use; work comes in steps.
"""

from __future__ import annotations

import re

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

WINDOW = 4096
"""Characters per compression window and per step."""
_FLOOR = 0.01
_EXPONENT = -4.0
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_MOJIBAKE = re.compile(
    "[\u00c2\u00c3][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
    "|\u00e2[\u20ac\u0080-\u0084]"
)
_WORD = re.compile(r"\w+")
_MIXED = re.compile(r"[^\W\d_]\d+[^\W\d_]")
_LONG = re.compile(r"[A-Za-z0-9+]{41,}")

# (worth 0, worth 1), linear in between. Measured on 3 000 clean documents (man pages, README, NEWS, changelogs, HTML
# of a Debian 12 host): a quarter of them may be worse than "worth 1"; the worst 0.2 % come out near one half. Where
# clean text left room (damage, control, long, length) the bound is a choice: one hash in a short note must not sink it.
_DAMAGE_PER_1000 = (6.0, 0.3)
_CONTROL_PER_1000 = (4.0, 0.2)
_LETTER_SHARE = (0.26, 0.87)
_MIXED_WORD_SHARE = (0.105, 0.01)
_LONG_SHARE = (0.4, 0.03)
_RATIO_ABOVE_MEDIAN = (0.20, 0.035)
_RATIO_TO_MEDIAN = (0.12, 0.62)
_VISIBLE_CHARACTERS = (40.0, 240.0)
_MEDIAN_RATIO = ((128, 0.828), (256, 0.677), (512, 0.580), (1024, 0.499), (2048, 0.437), (4096, 0.404))
"""(characters, median deflate ratio of clean text that long): short texts compress less."""


class Quality(Record):
    """The six components and their combination, all in 0..1."""

    total: float
    decoding: float
    control: float
    letters: float
    words: float
    compress: float
    length: float


class Counts(Record):
    """What was counted in one text. `ratio` is compressed bytes per raw byte over all windows."""

    characters: int
    visible: int
    letters: int
    damaged: int
    control: int
    words: int
    mixed_words: int
    long_characters: int
    ratio: float


def count_steps(text: str, replaced: int = 0) -> Generator[None, None, Counts]:
    """Count in steps of one window; `replaced` is Extract.replaced (U+FFFD in the text are counted either way)."""
    import zlib

    visible = letters = damaged = control = words = mixed = long_characters = raw = packed = 0
    for start in range(0, len(text), WINDOW):
        piece = text[start : start + WINDOW]
        tokens = _WORD.findall(piece)
        visible += len(piece) - sum(map(str.isspace, piece))
        letters += sum(map(str.isalpha, piece))
        damaged += piece.count("\ufffd") + len(_MOJIBAKE.findall(piece))
        control += len(_CONTROL.findall(piece))
        words += len(tokens)
        mixed += sum(1 for token in tokens if _MIXED.search(token))
        long_characters += sum(map(len, _LONG.findall(piece)))
        if len(piece) >= WINDOW // 4 or start == 0:  # the ratio of a short tail says nothing
            data = piece.encode("utf-8", "surrogatepass")
            raw += len(data)
            packed += len(zlib.compress(data, 6)) - 8  # zlib's own header and trailer
        yield
    return Counts(
        characters=len(text), visible=visible, letters=letters, damaged=max(damaged, replaced), control=control,
        words=words, mixed_words=mixed, long_characters=long_characters, ratio=packed / raw if raw else 0.0,
    )  # fmt: skip


def score(counts: Counts) -> Quality:
    """The components and the total of what was counted."""
    visible = max(counts.visible, 1)
    words = max(counts.words, 1)
    median = _median_ratio(counts.characters)
    parts = {
        "decoding": _worth(1000 * counts.damaged / visible, _DAMAGE_PER_1000),
        "control": _worth(1000 * counts.control / visible, _CONTROL_PER_1000),
        "letters": _worth(counts.letters / visible, _LETTER_SHARE),
        "words": min(
            _worth(counts.mixed_words / words, _MIXED_WORD_SHARE),
            _worth(counts.long_characters / visible, _LONG_SHARE),
        ),
        "compress": min(
            _worth(counts.ratio - median, _RATIO_ABOVE_MEDIAN), _worth(counts.ratio / median, _RATIO_TO_MEDIAN)
        ),
        "length": _worth(counts.visible, _VISIBLE_CHARACTERS),
    }
    mean = sum(max(part, _FLOOR) ** _EXPONENT for part in parts.values()) / len(parts)
    return Quality(total=round(mean ** (1 / _EXPONENT), 4), **{name: round(part, 4) for name, part in parts.items()})


def quality(text: str, replaced: int = 0) -> Quality:
    """All steps of `count_steps` at once, scored."""
    steps = count_steps(text, replaced)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return score(stop.value)


def _worth(value: float, bounds: tuple[float, float]) -> float:
    nothing, full = bounds
    return min(1.0, max(0.0, (value - nothing) / (full - nothing)))


def _median_ratio(characters: int) -> float:
    """Linear interpolation in `_MEDIAN_RATIO`, constant outside it."""
    low_n, low = _MEDIAN_RATIO[0]
    if characters <= low_n:
        return low
    for high_n, high in _MEDIAN_RATIO[1:]:
        if characters <= high_n:
            return low + (high - low) * (characters - low_n) / (high_n - low_n)
        low_n, low = high_n, high
    return low
