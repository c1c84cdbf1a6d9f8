"""Ten thousand damaged exports, every one found: seeded, so that a failure can be had again.

GRACED_NIGHTLY=1 in the environment makes it a hundred thousand. Each is the good export with one thing done to it.
"""

from __future__ import annotations

import os
import random

import pytest

from graced.trust.merkle import leaf_hash
from graced.trust.note import Checkpoint, sign_checkpoint
from graced.trust.tiles import CHECKPOINT, ENTRIES, bundle, tile_path
from graced.trust.verify import verify_export
from tests.unit.trust.exports import (
    KEY,
    NEW_LEDGER,
    OLD_LEDGER,
    ORIGIN,
    STRANGER,
    Memory,
    anchor,
    entries,
    entry,
    export,
)

MUTATIONS = 100_000 if os.environ.get("GRACED_NIGHTLY") == "1" else 10_000
PARTS = 4
COUNT = 270
ROWS = entries(COUNT)
FILES = export(ROWS)
HEAD = anchor(ROWS)
Files = dict[str, bytes]


def flip(dice: random.Random) -> Files:
    """One bit of one file."""
    name = dice.choice(sorted(FILES))
    data = bytearray(FILES[name])
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return {**FILES, name: bytes(data)}


def overwrite(dice: random.Random) -> Files:
    """A run of bytes of one file."""
    name = dice.choice(sorted(FILES))
    data = bytearray(FILES[name])
    at = dice.randrange(len(data))
    data[at : at + dice.randrange(1, 40)] = dice.randbytes(dice.randrange(1, 40))
    return {**FILES, name: bytes(data)}


def truncate(dice: random.Random) -> Files:
    """One file, to any shorter length."""
    name = dice.choice(sorted(FILES))
    return {**FILES, name: FILES[name][: dice.randrange(len(FILES[name]))]}


def delete_file(dice: random.Random) -> Files:
    gone = dice.choice(sorted(FILES))
    return {name: data for name, data in FILES.items() if name != gone}


def swap_files(dice: random.Random) -> Files:
    one, other = dice.sample(sorted(FILES), 2)
    return {**FILES, one: FILES[other], other: FILES[one]}


def copy_file(dice: random.Random) -> Files:
    """A file under the name that a longer log would have for it, or over another one."""
    name = dice.choice(sorted(FILES))
    others = [tile_path(ENTRIES, 2), tile_path(0, 1), tile_path(1, 0, 2), f"{name}.old", *sorted(set(FILES) - {name})]
    return {**FILES, dice.choice(others): FILES[name]}


def bundled(rows: list[bytes]) -> Files:
    """The export with other bundles under the old hashes; names as for the old number of entries."""
    names = {0: tile_path(ENTRIES, 0), 1: tile_path(ENTRIES, 1, COUNT - 256)}
    return {**FILES, names[0]: bundle(rows[:256]), names[1]: bundle(rows[256:])}


def hashed(rows: list[bytes], dice: random.Random) -> Files:
    """As `bundled`, or with all hashes made anew as well, under the old head or one by whoever can sign."""
    how = dice.randrange(4)
    if how == 0 or not rows:
        return bundled(rows)
    if how == 1:
        return {**export(rows), CHECKPOINT: FILES[CHECKPOINT]}
    return export(rows, (STRANGER, OLD_LEDGER)[how - 2])


def change_entry(dice: random.Random) -> Files:
    seq = dice.randrange(COUNT)
    rows = list(ROWS)
    rows[seq] = entry(seq, "task", {"n": dice.randrange(1000), "forged": True})
    return hashed(rows, dice)


def delete_entries(dice: random.Random) -> Files:
    start = dice.randrange(COUNT)
    return hashed(ROWS[:start] + ROWS[start + dice.randrange(1, 20) :], dice)


def swap_entries(dice: random.Random) -> Files:
    one, other = dice.sample(range(COUNT), 2)
    rows = list(ROWS)
    rows[one], rows[other] = rows[other], rows[one]
    return hashed(rows, dice)


def duplicate_entry(dice: random.Random) -> Files:
    seq, at = dice.randrange(COUNT), dice.randrange(COUNT + 1)
    return hashed([*ROWS[:at], ROWS[seq], *ROWS[at:]], dice)


def reorder(dice: random.Random) -> Files:
    start = dice.randrange(COUNT - 3)
    part = ROWS[start : start + dice.randrange(3, 30)]
    turned = part[::-1] if dice.randrange(2) else part[1:] + part[:1]
    return hashed(ROWS[:start] + turned + ROWS[start + len(part) :], dice)


def cut_tail(dice: random.Random) -> Files:
    return hashed(ROWS[: dice.randrange(4, COUNT)], dice)


def append(dice: random.Random) -> Files:
    more = [entry(COUNT + number, "task", {"forged": True}) for number in range(dice.randrange(1, 5))]
    return hashed(ROWS + more, dice)


def roll_back(dice: random.Random) -> Files:
    """An older state, signed when it was the newest; the kept head is what shows it."""
    return export(ROWS[: dice.randrange(205, COUNT)])


def rewrite(dice: random.Random) -> Files:
    """Another history, signed with the stolen ledger key; the kept head is what shows it."""
    seq = dice.randrange(210, COUNT)
    return export([*ROWS[:seq], entry(seq, "task", {"forged": dice.random()}), *ROWS[seq + 1 :]])


def forge_head(dice: random.Random) -> Files:
    """The old entries under a head of another root, size, name or signer."""
    root, size, origin, signer = HEAD.root, COUNT, ORIGIN, NEW_LEDGER
    match dice.randrange(4):
        case 0:
            root = dice.randbytes(32)
        case 1:
            size += dice.choice((-256, -1, 1, 256, 65536))
        case 2:
            origin = f"graced-ledger/{dice.randbytes(8).hex()}"
        case 3:
            signer = dice.choice((STRANGER, OLD_LEDGER))
    head = Checkpoint(origin=origin, size=size, root=root)
    return {**FILES, CHECKPOINT: sign_checkpoint(head, signer).encode()}


def forge_tile(dice: random.Random) -> Files:
    """One hash in a tile, another one that is the hash of something."""
    name = dice.choice([name for name in sorted(FILES) if name.startswith(("tile/0", "tile/1"))])
    at = 32 * dice.randrange(len(FILES[name]) // 32)
    return {**FILES, name: FILES[name][:at] + leaf_hash(dice.randbytes(4)) + FILES[name][at + 32 :]}


# What needs no new hashes is cheap: most of the number is there.
KINDS = (
    *(3 * (flip, overwrite, truncate, delete_file, swap_files, copy_file, forge_head, forge_tile)),
    *(change_entry, delete_entries, swap_entries, duplicate_entry, reorder, cut_tail, append, roll_back, rewrite),
)


def test_the_export_itself_is_good() -> None:
    assert verify_export(Memory(FILES), [KEY], [HEAD]).ok


@pytest.mark.parametrize("part", range(PARTS))
def test_every_mutation_is_found(part: int) -> None:
    found = 0
    for number in range(part, MUTATIONS, PARTS):
        kind = KINDS[number % len(KINDS)]
        files = FILES
        for attempt in range(100):
            files = kind(random.Random(f"{number} {attempt}"))
            if files != FILES:
                break
        assert files != FILES, kind
        report = verify_export(Memory(files), [KEY], [HEAD])
        assert not report.ok, f"{kind.__name__}, number {number}"
        assert report.problems
        found += 1
    assert found == len(range(part, MUTATIONS, PARTS))
