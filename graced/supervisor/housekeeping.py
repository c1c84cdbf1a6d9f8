"""What keeps the queue's database small: finished tasks move to the archive, free pages go back, the log stays short.

Order of a move: a thread finds due tasks, writes them to the archive and syncs it; then the loop deletes the rows in
the turn's own transaction. A crash or a refused commit in between leaves them in both places, and they are archived
again: twice in the archive, never in neither. A slice is a millisecond of the loop, and about as much of a processor
for the thread: what comes meanwhile waits for it. Between two slices they rest many times as long while the queue is
busy, less while more tasks end than go, and not at all while it is idle. When all that was due has gone, more may
collect for a second.
"""

from __future__ import annotations

import time

from graced.base.errors import StoreError
from graced.base.log import INFO, WARNING, log
from graced.base.record import Record
from graced.store.archive import Archive, files
from graced.store.retention import MAX_SLICE_ROWS, SHELVES, START, Reader, Slice, remove, shrink, spare_pages
from graced.supervisor.background import Background
from graced.supervisor.logkeeper import LogKeeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.runtime.loop import Loop, Timer
    from graced.store.retention import Cursor, Rows
    from graced.supervisor.keep import Keep
    from graced.supervisor.queue import Queue

LOOK_SECONDS = 1.0
RESWEEP_SECONDS = 60.0
RETRY_SECONDS = 30.0
SLICE_SECONDS = 0.001
"""What the loop's part of a slice should take; the number of rows follows."""
MIN_SLICE_ROWS = 5
GENTLE = 9.0
"""Of a busy queue's loop, one part in this many more; down to one part in two while ended tasks pile up."""
LEAST_SECONDS = 0.002
"""A slice counts as so long at least: its other costs are not the loop's."""
PILED_UP = 3
"""Times what is to be kept: what comes in faster than it is archived may become so many."""
BUSY_SECONDS = 0.25
"""So long after its last turns a queue still counts as busy."""
SHRINK_PAGES = 20
SPARE_PAGES = 4096
"""Free pages that are no reason to move others: the next tasks will use them."""


class Outcome(Record):
    """What the thread did: a slice is in the archive."""

    shelf: int
    slice: Slice
    totals: tuple[int, int]
    deleted: tuple[str, ...]


class Housekeeping:
    """See the module. `start` after READY; `committed` after every commit of SQLite; `close` before the queue's.

    The queue counts its turns in `turns`, by which it is seen to be busy.
    """

    def __init__(self, loop: Loop, background: Background, queue: Queue, directory: str, keep: Keep) -> None:
        self._loop = loop
        self._background = background
        self._queue = queue
        self._directory = directory
        self._keep = keep
        self._db = queue.store.db
        self.log = LogKeeper(loop, background, self._db, queue.store.durable)
        self._reader = Reader(self._db.path)
        self._archive = Archive(directory, keep.archive_max_bytes)
        self._cursors: list[Cursor] = [START for _ in SHELVES]
        self._look_at_us: list[int | None] = [0 for _ in SHELVES]
        # a shelf that was emptied rests until then
        self._not_before_s = [0.0 for _ in SHELVES]
        self._rows = MAX_SLICE_ROWS // 2
        self._running = self._shrinking = False
        self._busy_until_s = 0.0
        # ended tasks at the last slice, and how many times as long as it the loop rested
        self._there = 0
        self._times = GENTLE
        self._started = False
        self._timer: Timer | None = None
        self.turns = 0
        self._error = ""
        self._totals: tuple[int, int] | None = None
        self.errors = 0
        self.archived = 0
        self.longest_us = 0

    @property
    def error(self) -> str:
        """Why housekeeping does not get on; "" while it does."""
        return self._error or self.log.error

    def start(self) -> None:
        """Begin. Raises StoreError."""
        self.log.start()
        self._started = True
        if files(self._directory):
            self._background.run(self._archive.count, self._counted)
        else:
            self._totals = 0, 0
        self._plan(LOOK_SECONDS)

    def reload(self, keep: Keep) -> None:
        """Other limits from now on."""
        self._keep = keep
        self._archive.max_bytes = keep.archive_max_bytes
        self._look_at_us = [0 for _ in SHELVES]
        self._not_before_s = [0.0 for _ in SHELVES]
        if self._started:
            self._plan(0.0)

    def committed(self) -> None:
        """Hot path: after every commit of SQLite."""
        self.log.committed()
        if self._timer is None and not self._running and self._started:
            self._plan(LOOK_SECONDS)

    def refused(self) -> None:
        """What the last turn deleted is there again: begin with it."""
        self._cursors = [START for _ in SHELVES]

    def _plan(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._look)

    def _counted(self, totals: tuple[int, int] | None, error: StoreError | None) -> None:
        if error is not None:
            self._failed(error)
        else:
            self._totals = totals

    # -- one slice --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Is anything due?"""
        self._timer = None
        if self._running or self._queue.error:
            return
        now_us = self._queue.timeline.now_us()
        now_s, cutoff_us = self._loop.now_s(), now_us - int(self._keep.seconds * 1e6)
        waits_s: list[float] = []
        for shelf, (finished, look_at_us) in enumerate(zip(self._finished(), self._look_at_us, strict=True)):
            excess = max(0, finished - self._keep.count)
            if finished == 0 or look_at_us is None:
                continue
            wait_s = self._not_before_s[shelf] - now_s
            if not excess and look_at_us > cutoff_us:
                wait_s = max((look_at_us - cutoff_us) / 1e6, LOOK_SECONDS)
            if wait_s <= 0:
                self._ask(shelf, cutoff_us, excess)
                return
            waits_s.append(wait_s)
        began_s = time.monotonic()
        if self._shrink():
            self._plan(self._rest_s(time.monotonic() - began_s))
        elif waits_s:
            self._plan(min(*waits_s, RESWEEP_SECONDS))

    def _finished(self) -> list[int]:
        counts = [0] * len(SHELVES)
        for (_handler, _origin, _priority, state), count in self._queue.engine.book.tally.total.items():
            for shelf, states in enumerate(SHELVES):
                if state in states:
                    counts[shelf] += count
        return counts

    def _ask(self, shelf: int, cutoff_us: int, excess: int) -> None:
        # the thread sees what SQLite has committed
        self._queue.settle()
        if self._queue.error:
            self._plan(RETRY_SECONDS)
            return
        self._running = True
        cursor, limit = self._cursors[shelf], self._rows
        month = time.strftime("%Y%m", time.gmtime(self._queue.timeline.clock.wall_us() / 1e6))

        def move() -> Outcome:
            found = self._reader.slice(shelf, cursor, cutoff_us, excess, limit)
            deleted: list[str] = []
            if found.rows:
                self._archive.append(found.text, len(found.rows), month)
                deleted = self._archive.trim()
            return Outcome(shelf=shelf, slice=found, totals=self._archive.totals, deleted=tuple(deleted))

        self._background.run(move, self._moved)

    def _moved(self, outcome: Outcome, error: StoreError | None) -> None:
        self._running = False
        if error is not None:
            self._failed(error)
            return
        self._totals = outcome.totals
        for path in outcome.deleted:
            log(WARNING, f"{path} is deleted: the archive is larger than {self._keep.archive_max_bytes} bytes")
        if self._queue.error:
            self._plan(RETRY_SECONDS)
            return
        began_s = time.monotonic()
        try:
            if outcome.slice.rows:
                self._queue.attempt(self._take_out, outcome.slice.rows)
        except StoreError as failure:
            self._failed(failure)
            return
        spent_s = time.monotonic() - began_s
        self.longest_us = max(self.longest_us, int(spent_s * 1e6))
        self._advance(outcome, spent_s)

    def _take_out(self, rows: Rows) -> None:
        book = self._queue.engine.book
        book.write()
        numbers, counts = remove(self._queue.store, rows)
        book.removed(numbers, counts)
        self.archived += len(numbers)

    def _advance(self, outcome: Outcome, spent_s: float) -> None:
        if self._error:
            log(INFO, "finished tasks are archived again")
            self._error = ""
        found, shelf = outcome.slice, outcome.shelf
        if found.rows:
            wanted = int(len(found.rows) * SLICE_SECONDS / max(spent_s, 1e-5))
            self._rows = max(MIN_SLICE_ROWS, min(MAX_SLICE_ROWS, (self._rows + wanted) // 2))
        if found.cursor is None:
            self._cursors[shelf] = START
            now_us = self._queue.timeline.now_us()
            # What a live task refers to was passed over: look again, but not at once.
            again_us = now_us - int((self._keep.seconds - RESWEEP_SECONDS) * 1e6)
            self._look_at_us[shelf] = again_us if found.next_us is None else found.next_us
            self._not_before_s[shelf] = self._loop.now_s() + LOOK_SECONDS
        else:
            self._cursors[shelf] = found.cursor
        self._plan(self._rest_s(spent_s))

    def _rest_s(self, spent_s: float) -> float:
        """How long to leave the loop to the queue."""
        now_s = self._loop.now_s()
        if self.turns > 1:
            self._busy_until_s = now_s + BUSY_SECONDS
        self.turns = 0
        if now_s >= self._busy_until_s:
            return 0.0
        there, before = max(self._finished()), self._there
        self._there = there
        grows = there > PILED_UP * self._keep.count and there >= before
        self._times = max(1.0, self._times / 2) if grows else min(GENTLE, self._times * 1.1)
        return max(spent_s, LEAST_SECONDS) * self._times

    def _failed(self, error: StoreError) -> None:
        self.errors += 1
        if not self._error:
            log(WARNING, f"finished tasks are not archived: {error}")
        self._error = f"finished tasks are not archived: {error}"
        self.refused()
        self._plan(RETRY_SECONDS)

    # -- free pages -------------------------------------------------------------------------------------------------

    def _shrink(self) -> bool:
        """Give a few free pages back when there are many; whether there is more to do."""
        try:
            self._queue.store.settle()
            spare, pages = spare_pages(self._db)
            self._shrinking = spare > max(SPARE_PAGES, pages // (4 if self._shrinking else 2))
            if self._shrinking:
                shrink(self._db, SHRINK_PAGES)
        except StoreError as error:
            self._failed(error)
            return False
        return self._shrinking

    # -- for people -------------------------------------------------------------------------------------------------

    def facts(self) -> JsonDict:
        """For Stats: what is in the archive's files (null until they were counted)."""
        tasks, size = self._totals or (None, None)
        return {"tasks": tasks, "bytes": size, "error": self.error}

    def close(self) -> None:
        """End the thread's part: after this nobody but the loop uses the database."""
        if self._timer is not None:
            self._timer.cancel()
        self._started = False
        self.log.stop()

    def close_thread(self) -> None:
        """On the background thread, at its end."""
        self.log.close()
        self._reader.close()
        self._archive.close()
