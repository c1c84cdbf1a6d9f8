"""The files of an exported log, as C2SP tlog-tiles.md lays them out: names, entry bundles, and what must be there.

``checkpoint``, ``tile/<level>/<n>`` with up to 256 hashes and ``tile/entries/<n>`` with the entries themselves; a tile
that is not full ends in ``.p/<width>``. `n` is written in groups of three digits, all but the last begun with an x.
Pure; `graced.cli.exporting` writes such a directory, `graced.trust.verify` reads one.
"""

from __future__ import annotations

from io import BytesIO

from graced.base.errors import FormatError
from graced.trust.merkle import TILE_HASHES, widths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHECKPOINT = "checkpoint"
ENTRIES = "entries"
MAX_BUNDLE_BYTES = TILE_HASHES * (2 + 65535)


def tile_path(level: int | str, n: int, width: int = TILE_HASHES) -> str:
    """The name of tile `n` of `level` (a number, or ENTRIES for the bundle of entries), of `width` hashes."""
    groups = [f"{n % 1000:03d}"]
    while n >= 1000:
        n //= 1000
        groups.append(f"x{n % 1000:03d}")
    suffix = "" if width == TILE_HASHES else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(groups))}{suffix}"


def tiles_of(size: int) -> Iterator[tuple[int, int, int]]:
    """(level, n, width) of every tile of a tree of `size` leaves."""
    for level, width in enumerate(widths(size)):
        full = (size >> (8 * level)) >> 8
        for n in range(full):
            yield level, n, TILE_HASHES
        if width:
            yield level, full, width


def files_of(size: int) -> set[str]:
    """The names of all files of an export of `size` entries."""
    names = {CHECKPOINT}
    for level, n, width in tiles_of(size):
        names.add(tile_path(level, n, width))
        if level == 0:
            names.add(tile_path(ENTRIES, n, width))
    return names


def bundle(entries: Sequence[bytes]) -> bytes:
    """Entries as one bundle, each behind its length in two bytes. OverflowError for one above 65535 bytes."""
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def unbundle(data: bytes) -> tuple[list[bytes], bool]:
    """The entries of a bundle, and whether it ends where the last one does; those before the fault otherwise."""
    read = BytesIO(data).read
    entries: list[bytes] = []
    length = 0
    while len(size := read(2)) == 2:
        length = int.from_bytes(size, "big")
        entries.append(read(length))
    if entries and len(entries[-1]) < length:
        # The last one ends before its length says.
        del entries[-1]
        return entries, False
    return entries, not size


def entries_of(data: bytes, count: int) -> list[bytes]:
    """The `count` entries of a bundle. Raises FormatError when it has not exactly these."""
    entries, whole = unbundle(data)
    if not whole or len(entries) != count:
        raise FormatError(f"the bundle has {len(entries)} whole entries and not exactly {count}")
    return entries
