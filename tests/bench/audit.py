"""Appending to a ledger in bursts, and verifying one with nothing but the public key, in processor time of one core."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from graced.base.clock import SystemClock
from graced.base.json import canonical
from graced.store.ledger import LedgerStore
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.keys import LEDGER, Signer
from graced.trust.merkle import Tree, leaf_hashes
from graced.trust.note import Checkpoint, sign_checkpoint, verifier_key
from graced.trust.roster import Roster, origin_of, roster_key
from graced.trust.tiles import CHECKPOINT, ENTRIES, bundle, tile_path
from tests.bench.bench import Bench
from tests.bench.figures import Figure, figure, percentile

ROOT = Path(__file__).parents[2]
GOAL_SECONDS = 2.0
GOAL_APPENDS = 100_000
GROUP = 2000
TIME = "2026-01-01T00:00:00.000Z"


def verify(bench: Bench) -> list[Figure]:
    """Processor seconds of the whole process, its start and the reading of the files included."""
    count, rounds = (20_000, 3) if bench.quick else (1_000_000, 7)
    signer = Signer(os.urandom(32), LEDGER, "bench")
    key = verifier_key(origin_of(signer.public), signer.public)
    values = []
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory), signer, count)
        for _ in range(rounds):
            before = os.times()
            subprocess.run(
                [sys.executable, "-B", "-m", "graced.trust.verify", directory, "--key", key],
                cwd=ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            after = os.times()
            values.append(after.children_user - before.children_user + after.children_system - before.children_system)
    middle = percentile(values, 0.5)
    note = f"{count} entries of 300 bytes that nobody signed, one head; a signed one costs about 50 µs more"
    goal = f"<= {GOAL_SECONDS:.0f} s of one core for 1 M entries, median"
    return [figure("ledger_verify", "s", values, value=middle, goal=goal, ok=middle <= GOAL_SECONDS, note=note)]


def append(bench: Bench) -> list[Figure]:
    """Entries a second of processor time, from what is to be said to what is committed; the copying of the log apart.

    In the supervisor a thread copies it, and the disk is waited for once a group.
    """
    rounds, groups = (3, 5) if bench.quick else (15, 50)
    signer = Signer(os.urandom(32), LEDGER, "bench")
    keys = (roster_key(signer.public, LEDGER, TIME),)
    roster = Roster(origin=origin_of(signer.public), machine="bench", keys=keys)
    texts = [({"n": n, "origin": "brain", "result": "healed"}, f"task_{n}") for n in range(GROUP)]
    values = []
    for _ in range(rounds):
        # Beside the tree: /tmp may be memory, and this is about a file.
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as directory:
            store = LedgerStore.open(f"{directory}/ledger.db")
            store.db.execute("PRAGMA wal_autocheckpoint=0")
            writer = LedgerWriter(store, signer, roster, SystemClock(), "0123456789abcdef0123456789abcdef")
            writer.open(os.getuid())
            began = time.process_time()
            for _ in range(groups):
                for data, task_id in texts:
                    writer.stage(Entry("task", data, "supervisor", 990, "nginx.service", task_id))
                writer.commit()
            writer.checkpoint()
            values.append(GROUP * groups / (time.process_time() - began))
            store.close()
    middle = percentile(values, 0.5)
    note = f"of processor time, in groups of {GROUP}, each one transaction on disk; a unit and a task in each entry"
    goal, ok = f">= {GOAL_APPENDS} /s, median", middle >= GOAL_APPENDS
    return [figure("ledger_append_batched", "1/s", values, value=middle, goal=goal, ok=ok, note=note)]


def write(directory: Path, signer: Signer, count: int) -> None:
    """An export of `count` entries, the first of which makes `signer` the ledger's key."""
    tree = Tree()
    for first in range(0, count, 256):
        rows = list(entries(signer, first, min(count, first + 256)))
        tree.extend(leaf_hashes(rows))
        put(directory, tile_path(ENTRIES, first // 256, len(rows)), bundle(rows))
        grown = [(level, n, hashes) for level, n, hashes in tree.take_tiles() if level == 0 or len(hashes) == 8192]
        for level, n, hashes in grown:
            put(directory, tile_path(level, n), hashes)
    for level, n, hashes in tree.open_tiles():
        put(directory, tile_path(level, n, len(hashes) // 32), hashes)
    head = Checkpoint(origin=origin_of(signer.public), size=count, root=tree.root())
    put(directory, CHECKPOINT, sign_checkpoint(head, signer).encode())


def put(directory: Path, name: str, data: bytes) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data)


def entries(signer: Signer, first: int, end: int) -> Iterator[bytes]:
    plain = {
        "v": 1,
        "time": TIME,
        "boot_id": "0123456789abcdef0123456789abcdef",
        "actor": "supervisor",
        "uid": 990,
        "unit": "nginx.service",
        "intent_id": None,
        "kid": None,
        "signature": None,
    }
    for seq in range(first, end):
        more: dict[str, object] = {"kind": "task", "data": {"n": seq, "origin": "brain", "result": "healed"}}
        if seq == 0:
            facts = roster_key(signer.public, LEDGER, TIME).to_json()
            more = {"kind": "key", "data": {"operation": "activate", **facts}}
        yield canonical({**plain, **more, "seq": seq, "boottime_us": seq, "task_id": f"task_{seq}"})
