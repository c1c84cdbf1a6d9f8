"""Keeps the write-ahead log of one database short, and the redo log free, without making commits wait.

The loop's side of graced.store.checkpoint, whose rule is kept here: automatic checkpoints are off, at most one
checkpoint runs at a time, and the thread is only asked after a commit that followed the last one which copied all.
While load never pauses the thread gets the log copied but for the pages of the last few commits; these the loop
copies right after a commit, a few milliseconds, and the next commit starts the log from its beginning.
"""

from __future__ import annotations

import os

from graced.base.errors import StoreError
from graced.store.checkpoint import FEW_PAGES, Backfill, Gauge, passive
from graced.store.db import sync_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.runtime.loop import Loop, Timer
    from graced.store.db import Database
    from graced.store.durable import Durable
    from graced.supervisor.background import Background

DUE_PAGES = 1000
IDLE_PAGES = 250
"""A log of this size is copied when nothing was committed for IDLE_SECONDS: the next start then reads less of it."""
IDLE_SECONDS = 1.0
MAX_LOG_BYTES = 128 << 20
"""When the thread fell so far behind, the loop copies everything, however long it takes."""
RETRY_SECONDS = 5.0
PAGE_BYTES = 4096


class LogKeeper:
    """See the module. `error` is why the log cannot be copied, "" while it can; `stalls` counts the long way."""

    def __init__(self, loop: Loop, background: Background, db: Database, durable: Durable | None = None) -> None:
        self._loop = loop
        self._background = background
        self._durable = durable
        self._db = db
        self._backfill = Backfill(db.path)
        self._gauge = Gauge(db.connection)
        self._started = self._running = self._finish = self._fresh = False
        self._pages = self._left = 0
        self._not_before_s = 0.0
        self._timer: Timer | None = None
        self._seen = self._asked = 0
        self.error = ""
        self.errors = 0
        self.stalls = 0

    def start(self) -> None:
        """From now on commits do not checkpoint by themselves. Raises StoreError."""
        self._db.execute("PRAGMA wal_autocheckpoint=0")
        # What a killed process left may not be copied: at most so much, and the first commit shows.
        self._left = self.log_bytes // PAGE_BYTES
        self._started = True

    @property
    def log_bytes(self) -> int:
        """The size of the log's file, of which the front is written again and again."""
        try:
            return os.stat(f"{self._db.path}-wal").st_size
        except OSError:
            return 0

    def committed(self) -> None:
        """Call after every commit of SQLite, outside a transaction."""
        gauge = self._gauge
        gauge.commits += 1
        if not self._started or self._running:
            return
        self._fresh = True
        if self._durable is not None and self._durable.log.wants_sync:
            self._sync(self._durable)
        elif self._finish:
            self._copy_rest()
        elif (pages := self._left + gauge.pages) >= DUE_PAGES:
            self._ask()
        elif pages >= IDLE_PAGES and self._timer is None:
            self._wait_for_idle()

    def _wait_for_idle(self) -> None:
        self._seen = self._gauge.commits
        self._timer = self._loop.call_later(IDLE_SECONDS, self._idle)

    def _idle(self) -> None:
        """Has nothing been committed since the timer was set?"""
        self._timer = None
        if self._running or self._left + self._gauge.pages < IDLE_PAGES:
            return
        if self._seen == self._gauge.commits:
            self._ask()
        else:
            self._wait_for_idle()

    def _sync(self, durable: Durable) -> None:
        """The redo log will want its other segment: nobody shall wait for the disk then."""
        self._running = True
        applied = durable.applied

        def synced(_outcome: None, error: StoreError | None) -> None:
            self._running = False
            if error is not None:
                self._failed(error)
            else:
                durable.log.synced(applied)

        self._background.run(lambda: sync_log(self._db.path), synced)

    def _ask(self) -> None:
        if not self._fresh or not self._started or self._loop.now_s() < self._not_before_s:
            return
        self._running = True
        self._asked = 0 if self._durable is None else self._durable.applied
        self._background.run(self._backfill.run, self._copied)

    def _copied(self, outcome: tuple[int, int], error: StoreError | None) -> None:
        # Only a commit from here on is known to have come after the last copy.
        self._running = self._fresh = False
        if error is not None:
            self._failed(error)
            return
        self.error = ""
        self._pages, copied = outcome
        if self._pages and self._durable is not None:
            # a checkpoint syncs the log before it copies from it
            self._durable.log.synced(self._asked)
        self._left = self._pages - copied
        self._gauge.reset()
        self._finish = True

    def _copy_rest(self) -> None:
        """A commit has just been made after the thread copied nearly all."""
        self._finish = False
        pages = self._gauge.pages
        if self._left + pages > FEW_PAGES:
            if (self._pages + pages) * PAGE_BYTES < MAX_LOG_BYTES:
                self._ask()
                return
            self.stalls += 1
        try:
            self._pages, copied = passive(self._db.connection, self._db.path)
        except StoreError as error:
            self._failed(error)
            return
        self._fresh = False
        self._left = self._pages - copied
        self._gauge.reset()

    def _failed(self, error: StoreError) -> None:
        self.error = f"the log of {self._db.path} is not copied: {error}"
        self.errors += 1
        self._finish = False
        self._not_before_s = self._loop.now_s() + RETRY_SECONDS

    def stop(self) -> None:
        """Before the background thread is closed."""
        self._started = False
        self._backfill.stop()

    def close(self) -> None:
        """On the background thread, at its end."""
        self._backfill.close()
