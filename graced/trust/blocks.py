"""Entries of a ledger in blocks, so that a verifier pays per tile and not per entry. Pure; for `graced.trust.audit`."""

from __future__ import annotations

import re
from operator import itemgetter

from graced.trust.keys import MUST_BE_SIGNED
from graced.trust.merkle import TILE_HASHES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# The end of an entry that nobody signed, from its own "kid" on. Such entries need no parsing: the signed root covers
# their bytes, and that they carry their own number and a kind that needs no signature is all there is to see.
_TAIL = b',"kid":null,"kind":"'
_LAST = itemgetter(slice(-1, None))
_KIND = re.compile(_TAIL + rb'(?!(?:%s)")[a-z]+"' % "|".join(sorted({*MUST_BE_SIGNED, "checkpoint", "key"})).encode())
_NUMBER = b',"seq":%d,"signature":null,"task_id":'


def blocks_of(entries: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """Numbered entries as (number of the first, entries without a gap), at most a tile's worth each."""
    first = 0
    block: list[bytes] = []
    for seq, entry in entries:
        if block and (seq != first + len(block) or len(block) == TILE_HASHES):
            yield first, block
            block = []
        if not block:
            first = seq
        block.append(entry)
    if block:
        yield first, block


def cut(blocks: Iterable[tuple[int, Sequence[bytes]]], stops: set[int]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """The blocks, cut so that none reaches over the end of a tile or over a size to stop at."""
    waiting = sorted(stops, reverse=True)
    for first, block in blocks:
        at = 0
        while at < len(block):
            seq = first + at
            while waiting and waiting[-1] <= seq:
                waiting.pop()
            end = (seq | 255) + 1
            if waiting and waiting[-1] < end:
                end = waiting[-1]
            yield seq, block[at : end - first]
            at = end - first


def all_plain(first: int, block: Sequence[bytes]) -> bool:
    """Whether all entries carry their own number, no signature, and are of a kind that needs none."""
    tails = [entry[entry.rfind(_TAIL) : -1] for entry in block]
    # The key is the entry's own, not one of an object inside it, when nothing but the entry itself is closed after it.
    together = b"".join(tails)
    if b"}" in together or b"\n" in together or set(map(_LAST, block)) != {b"}"}:
        return False
    left = list(enumerate(tails, first))
    while left:
        # All of the first one's kind at once.
        kind = _KIND.match(left[0][1])
        if kind is None:
            return False
        begin = kind[0] + _NUMBER
        others = [(seq, tail) for seq, tail in left if not tail.startswith(begin % seq)]
        if len(others) == len(left):
            return False
        left = others
    return True
