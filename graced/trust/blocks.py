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
_PLAIN = re.compile(
    rb'^,"kid":null,"kind":"(?!(?:%s)")[a-z]+","seq":(\d{1,18}),"signature":null,"task_id":.*$'
    % "|".join(sorted({*MUST_BE_SIGNED, "checkpoint", "key"})).encode(),
    re.MULTILINE,
)


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
    together = b"".join(tails)
    # The key is the entry's own, not one of an object inside it, when nothing but the entry itself is closed after it.
    if b"\n" in together or b"}" in together or set(map(_LAST, block)) != {b"}"}:
        return False
    numbers = _PLAIN.findall(b"\n".join(tails))
    return list(map(int, numbers)) == list(range(first, first + len(block)))
