"""After the start: do the ledger's derived tables say what its entries say? One pass, in small steps on the loop.

`Tables` compares; this feeds it, a tile's worth of entries at a time with a rest after each, from the end of what is
sealed to the newest entry. Signatures are not verified here: that is `gracectl audit verify`, which does all of this
as well. An edit is evidence and is left where it is.
"""

from __future__ import annotations

from graced.base.errors import FormatError, StoreError
from graced.base.log import log
from graced.base.messages import LEDGER_BROKEN
from graced.store.ledger_derived import DerivedRows
from graced.trust.keylog import KeyLog
from graced.trust.merkle import TILE_HASHES
from graced.trust.tables import Tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.runtime.loop import Loop
    from graced.store.ledger import LedgerStore
    from graced.supervisor.ledger_writer import LedgerWriter

CRITICAL = 2
REST_SECONDS = 0.02
_SHOWN = 3


class TableCheck:
    """See the module. `on_answer(findings)` is called once, with a sentence for each row that differs."""

    def __init__(
        self, loop: Loop, store: LedgerStore, writer: LedgerWriter, on_answer: Callable[[list[str]], object]
    ) -> None:
        self._loop = loop
        self._store = store
        self._writer = writer
        self._on_answer = on_answer
        self._rows = DerivedRows(store.db.connection, store.db.path)
        self._start = -1
        self._tables = Tables(self._rows)
        self._stopped = False
        self.error = ""

    def start(self) -> None:
        """Begin, by and by."""
        self._loop.call_soon(self._step)

    def stop(self) -> None:
        """Before the store is closed."""
        self._stopped = True

    def _step(self) -> None:
        if self._stopped:
            return
        try:
            if self._block():
                self._loop.call_later(REST_SECONDS, self._step)
                return
            found = [problem.detail for problem in self._tables.finish(self._writer.roster)]
        except (FormatError, StoreError) as error:
            found = [str(error)]
        found += self._writer.suspects
        if found:
            more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            self.error = f"the ledger's tables were changed from outside: {'; '.join(found[:_SHOWN])}{more}"
            log(CRITICAL, self.error, LEDGER_BROKEN, GRACED_LEDGER_SIZE=self._writer.size)
        self._on_answer(found)

    def _block(self) -> bool:
        """Compare the next entries; whether there were any. Raises FormatError, StoreError."""
        sealed = self._store.sealed_size()
        if sealed != self._start:
            # At the beginning, and when entries that were to be compared went to the archive meanwhile.
            self._start = sealed
            self._tables = Tables(self._rows, sealed, KeyLog.parse(self._store.sealed_keys()), sealed)
        first = self._tables.size
        rows = self._store.entries(first, min(TILE_HASHES, self._writer.size - first))
        if [seq for seq, _entry in rows] != list(range(first, min(first + TILE_HASHES, self._writer.size))):
            raise StoreError(f"entries from {first} on are missing", code="ledger-broken")
        self._tables.block(first, [entry for _seq, entry in rows])
        return bool(rows)
