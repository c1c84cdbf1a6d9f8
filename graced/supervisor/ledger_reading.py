"""The reading half of io.graced.Ledger: pages of entries, from the database and from the archive behind it.

An answer is bounded in number, bytes and segments looked at, and says where to go on: `next` is null only when that was
all. Sealed entries are read by the background thread (20 ms a segment), so that the loop does not wait; a file of the
archive that is missing or has changed is an error, never fewer entries.
"""

from __future__ import annotations

from graced.base.errors import FormatError, GracedError, StoreError
from graced.base.json import canonical, get_int, loads_object, opt_int, opt_str
from graced.runtime.service import Interface
from graced.store.ledger import SUBJECTS
from graced.trust.keys import encode_base64
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    from graced.base.json import JsonDict
    from graced.runtime.loop import Loop, Timer
    from graced.runtime.service import Call
    from graced.store.ledger import LedgerStore
    from graced.store.ledger_archive import Archive
    from graced.supervisor.background import Background
    from graced.supervisor.ledger_writer import LedgerWriter

    Rows: TypeAlias = list[tuple[int, bytes]]

MAX_READ = 1000
MAX_READ_BYTES = 4 << 20
MAX_SEGMENTS = 8
"""How many segments one answer of Find looks through."""
ARCHIVE_REST_SECONDS = 10.0
"""How long a segment that was read stays in memory (5 MiB)."""


class LedgerReading(Interface):
    """See the module. The other half is `graced.supervisor.ledger.LedgerInterface`."""

    name = "io.graced.Ledger"

    def __init__(self, loop: Loop, store: LedgerStore, writer: LedgerWriter) -> None:
        self._loop = loop
        self._store = store
        self._writer = writer
        self._background: Background | None = None
        self._archive: Archive | None = None
        self._archive_timer: Timer | None = None

    def Head(self, _call: Call) -> JsonDict:
        head = self._writer.head
        return {"size": head.size, "root": encode_base64(head.root), "checkpoint": head.note}

    def Read(self, call: Call) -> JsonDict | None:
        start, count = get_int(call.parameters, "start"), get_int(call.parameters, "count")
        if start < 0 or not 0 < count <= MAX_READ:
            raise FormatError(f"start is at least 0, count 1 to {MAX_READ}")
        if start >= self._store.sealed_size():
            return self._read_reply(page(self._store.entries(start, count), count)[0], start)
        archive = self._sealed()
        return self._on_thread(
            call, lambda: page(archive.entries(start), count)[0], lambda rows: self._read_reply(rows, start)
        )

    def _read_reply(self, rows: Rows, start: int) -> JsonDict:
        end = rows[-1][0] + 1 if rows else start
        if not rows and start < self._writer.size:
            raise StoreError(f"entries from {start} on are missing", hint="gracectl audit verify", code="ledger-broken")
        return _reply(rows, end if end < self._writer.size else None, size=self._writer.size)

    def Find(self, call: Call) -> JsonDict | None:
        wanted = {name: value for name in SUBJECTS if (value := opt_str(call.parameters, name)) is not None}
        limit = limit_of(call)
        before = opt_int(call.parameters, "before")
        before = self._writer.size if before is None else before
        if not wanted:
            raise FormatError("task_id, intent_id or unit is needed")
        if before < 0:
            raise FormatError("before is at least 0", path="$.before")
        sealed = self._store.sealed_size()
        if before > sealed or not sealed:
            rows, more = page(self._store.find(wanted, before), limit)
            return _reply(rows[::-1], rows[-1][0] if more else sealed or None)
        archive = self._sealed()
        return self._on_thread(
            call, lambda: find_sealed(archive, wanted, before, limit), lambda found: _reply(found[0][::-1], found[1])
        )

    def Keys(self, _call: Call) -> JsonDict:
        keys = self._store.key_rows()
        for key in keys:
            del key["sealed"]
            key["public"] = encode_base64(key["public"])
        return {"keys": keys}

    # The archive --------------------------------------------------------------------------------------------

    def _sealed(self) -> Archive:
        from graced.store.ledger_archive import Archive

        if self._archive is None or self._archive.size != self._store.sealed_size():
            self._archive = Archive(self._store.db.path, self._store.segments(), keep=1)
        if self._archive_timer is not None:
            self._archive_timer.cancel()
        self._archive_timer = self._loop.call_later(ARCHIVE_REST_SECONDS, self._forget_archive)
        return self._archive

    def _forget_archive(self) -> None:
        self._archive = self._archive_timer = None

    def _on_thread(self, call: Call, job: Callable[[], Any], then: Callable[[Any], JsonDict]) -> JsonDict | None:
        """The answer that `job` gives, by and by; at once before there is a thread."""
        if self._background is None:
            return then(job())

        def done(result: Any, error: StoreError | None) -> None:
            try:
                if error is not None:
                    raise error
                call.reply(then(result))
            except GracedError as failure:
                call.error(VarlinkError(f"{self.name}.Unavailable", {"reason": str(failure)}))

        self._background.run(job, done)
        return None


def limit_of(call: Call) -> int:
    """Its parameter `limit`. Raises FormatError."""
    limit = opt_int(call.parameters, "limit")
    limit = MAX_READ if limit is None else limit
    if not 0 < limit <= MAX_READ:
        raise FormatError(f"limit is 1 to {MAX_READ}", path="$.limit")
    return limit


def _reply(rows: Rows, following: int | None, **more: int) -> JsonDict:
    entries = [loads_object(entry, path=f"entry {seq}") for seq, entry in rows]
    return {"entries": entries, "truncated": following is not None, "next": following, **more}


def page(rows: Iterable[tuple[int, bytes]], limit: int) -> tuple[Rows, bool]:
    """At most `limit` rows and, but for the first, MAX_READ_BYTES of them; whether there are more."""
    taken: Rows = []
    total = 0
    for seq, entry in rows:
        total += len(entry)
        if len(taken) == limit or (taken and total > MAX_READ_BYTES):
            return taken, True
        taken.append((seq, entry))
    return taken, False


def find_sealed(archive: Archive, wanted: dict[str, str], before: int, limit: int) -> tuple[Rows, int | None]:
    """The newest sealed entries below `before` that match every value, newest first, and where to go on.

    Looks at MAX_SEGMENTS segments at most. Raises StoreError.
    """
    # The text is in the entry's own bytes, whose form is canonical; whether it is the entry's own is seen by parsing.
    texts = [f'"{name}":'.encode() + canonical(value) for name, value in wanted.items()]
    found: Rows = []
    total = 0
    for looked, (segment, entries) in enumerate(archive.newest_first(before), 1):
        candidates = [at for at, entry in enumerate(entries) if texts[0] in entry]
        for at in reversed(candidates):
            entry = entries[at]
            if not all(text in entry for text in texts) or not _is_about(entry, wanted):
                continue
            total += len(entry)
            if len(found) == limit or (found and total > MAX_READ_BYTES):
                return found, found[-1][0]
            found.append((segment.first + at, entry))
        if looked == MAX_SEGMENTS and segment.first:
            return found, segment.first
    return found, None


def _is_about(entry: bytes, wanted: dict[str, str]) -> bool:
    try:
        obj = loads_object(entry, path="entry")
    except FormatError as error:
        raise StoreError(f"an archived entry is not readable: {error.message}", code="archive") from error
    return all(obj.get(name) == value for name, value in wanted.items())
