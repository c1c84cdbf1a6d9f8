"""Keeps the ledger's database small: closed tiles move to the archive when there are enough newer entries.

Order: a thread reads a segment, makes sure that its entries are what the stored tiles were made of, and writes and
syncs the file; then the loop seals it in the database, together with an entry of the ledger that vouches for it and for
the summary of the keys so far; then it deletes the sealed rows, a few at a time. A crash in between leaves them in both
places, and the next start goes on. What does not fit its tiles is evidence: it stays.
"""

from __future__ import annotations

import sqlite3

from graced.base.errors import FormatError, StoreError
from graced.base.json import loads_object
from graced.base.log import WARNING, log
from graced.store.checkpoint import connect
from graced.store.db import translate
from graced.store.ledger_archive import SEGMENT_ENTRIES, write_segment
from graced.store.ledger_derived import DerivedRows
from graced.trust.keylog import KeyLog, seal_facts
from graced.trust.merkle import HASH_BYTES, TILE_HASHES, leaf_hashes, tile_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.runtime.loop import Loop
    from graced.store.ledger import LedgerStore
    from graced.store.ledger_archive import Segment
    from graced.supervisor.background import Background

TRIM_ENTRIES = TILE_HASHES
REST_SECONDS = 0.02
RETRY_SECONDS = 60.0


class Sealing:
    """See the module. `look` after each signed head; `committed` is called after each of its own commits."""

    def __init__(
        self,
        loop: Loop,
        background: Background,
        store: LedgerStore,
        keep: int,
        committed: Callable[[], object],
        write: Callable[[Segment, str], object],
    ) -> None:
        """`write` seals a segment, with the summary of all keys before its end; raises StoreError."""
        self._write = write
        self._loop = loop
        self._background = background
        self._store = store
        self._keep = keep
        self._committed = committed
        self._busy = False
        self._stopped = False
        self._not_before_s = 0.0
        self._sealed = store.sealed_size()
        self.error = ""

    def start(self) -> None:
        """Go on with what a crash left."""
        self._busy = True
        self._trim()

    def look(self, head_size: int) -> None:
        """Seal the oldest entries when a head covers `keep` newer ones."""
        if self._busy or self._stopped or head_size - self._sealed < self._keep + SEGMENT_ENTRIES:
            return
        if self._loop.now_s() < self._not_before_s:
            return
        self._busy = True
        path, first, keys = self._store.db.path, self._sealed, self._store.sealed_keys()
        self._background.run(lambda: seal(path, first, keys), self._written)

    def _written(self, outcome: tuple[Segment, str], error: StoreError | None) -> None:
        if error is not None:
            self._failed(error)
            return
        segment, keys = outcome
        try:
            self._write(segment, keys)
        except StoreError as failure:
            self._failed(failure)
            return
        self._sealed = segment.size
        self.error = ""
        self._trim()

    def _trim(self) -> None:
        if self._stopped:
            return
        try:
            with self._store.db.transaction():
                more = self._store.trim(TRIM_ENTRIES)
        except StoreError as error:
            self._failed(error)
            return
        self._committed()
        if more:
            self._loop.call_later(REST_SECONDS, self._trim)
        else:
            self._busy = False

    def _failed(self, error: StoreError) -> None:
        if not self.error:
            log(WARNING, f"the ledger is not archived: {error}")
        self.error = f"the ledger is not archived: {error}"
        self._busy = False
        self._not_before_s = self._loop.now_s() + RETRY_SECONDS

    def stop(self) -> None:
        """Before the store is closed."""
        self._stopped = True


def seal(path: str, first: int, keys: str) -> tuple[Segment, str]:
    """Write the file of the segment that begins at `first`, when its entries are what the tiles say. For a thread.

    Returns it with `KeyLog.text` behind it; `keys` is that before it. Raises StoreError.
    """
    connection = connect(path)
    try:
        rows = connection.execute(
            "SELECT entry FROM ledger WHERE seq >= ? AND seq < ? ORDER BY seq", (first, first + SEGMENT_ENTRIES)
        ).fetchall()
        n, at = divmod(first >> 8, TILE_HASHES)
        stored = connection.execute("SELECT hashes FROM tiles WHERE level = 1 AND n = ?", (n,)).fetchone()
    except sqlite3.Error as error:
        raise translate(error, path) from error
    finally:
        connection.close()
    entries = [bytes(row[0]) for row in rows]
    roots = b"".join(
        [
            tile_root(leaf_hashes(entries[begin : begin + TILE_HASHES]))
            for begin in range(0, len(entries) - len(entries) % TILE_HASHES, TILE_HASHES)
        ]
    )
    width = SEGMENT_ENTRIES // TILE_HASHES * HASH_BYTES
    if len(entries) != SEGMENT_ENTRIES or stored is None or stored[0][at * HASH_BYTES :][:width] != roots:
        raise StoreError(
            f"entries {first} to {first + SEGMENT_ENTRIES - 1} are not what was written, they stay where they are",
            hint="gracectl audit verify tells more",
            code="ledger-broken",
        )
    try:
        log = KeyLog.parse(keys)
        for entry in entries:
            if b'"kind":"key"' in entry and (obj := loads_object(entry))["kind"] == "key":
                log.add(obj)
    except FormatError as error:
        raise StoreError(f"the summary of keys before {first}: {error.message}", code="ledger-broken") from error
    return write_segment(path, first, entries), log.text()


def seal_entry(store: LedgerStore, segment: Segment, keys: str) -> JsonDict:
    """What the log says about a segment that is sealed now: with the chain over all before it."""
    facts: JsonDict = {"chain": ""}
    newest = (segment.first, segment.size, segment.file, segment.digest, keys)
    for row in [*DerivedRows(store.db.connection, store.db.path).seals(), newest]:
        facts = seal_facts(facts["chain"], row)
    return {"sealed": facts}
