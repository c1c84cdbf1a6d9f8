"""Keeps the ledger's heads outside its database, and compares it with them after the start.

The journal gets every head (`LedgerInterface.announce`). A file, best on another disk, and a web address can be
configured; both are served by a thread of their own, which only ever has the newest head to deliver: a hanging disk or
server delays the anchor, never the loop, and is said. The comparison runs after READY. Its answers: "agrees", "none"
(nothing to compare with, which is no good news), "unread" (they could not be asked), "rolled-back" and "differs".
"""

from __future__ import annotations

import os
import stat
import time

from graced.base.errors import HostError, StoreError
from graced.base.log import NOTICE, WARNING, log
from graced.base.messages import LEDGER_BROKEN
from graced.base.record import Record
from graced.metrics.families import ANCHOR_ANSWERS
from graced.runtime.loop import Future
from graced.runtime.process import run_process
from graced.supervisor.background import Background
from graced.trust.anchors import MAX_FILE_BYTES, file_anchors, journal_anchors, journal_argv, supervisor_uids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.config import Config
    from graced.runtime.loop import Loop, Timer
    from graced.supervisor.ledger_writer import LedgerWriter
    from graced.trust.audit import Anchor

AGREES, NONE, UNREAD, ROLLED_BACK, DIFFERS = ANCHOR_ANSWERS
CRITICAL = 2
JOURNAL_HEADS = 50
JOURNAL_SECONDS = 30.0
POST_SECONDS = 5.0
RETRY_SECONDS = 30.0
URL_SECONDS = 10.0
"""A web address gets a head at most this often, a file each one."""
LATE_SECONDS = 15.0
"""A delivery that takes longer is said to hang."""
CLOSE_SECONDS = POST_SECONDS + 1.0
"""What hangs does not hold up the end of the supervisor."""


class Comparison(Record):
    """What the heads outside say: `answer` is one of ANCHOR_ANSWERS, `detail` a sentence about it.

    `size`, `lost`: when it was rolled back since the last start, to how many entries and from how many at least.
    """

    answer: str
    detail: str
    size: int = 0
    lost: int = 0


def compare(writer: LedgerWriter, anchors: list[Anchor]) -> Comparison:
    """The stored ledger against heads from outside. Raises StoreError when it cannot be read.

    A head of a state that is gone is told from another history by how many entries there were at the start, before
    anything was added, and by what the ledger itself says about earlier returns to a copy.
    """
    own = {(one.size, one.root): one for one in anchors if one.origin == writer.roster.origin and one.size}
    returns = writer.returns()
    answer: Comparison | None = None
    for one in sorted(own.values(), key=lambda one: -one.size):
        if one.size <= writer.size and (writer.is_sealed(one.size) or writer.root_at(one.size) == one.root):
            continue
        back = next((at for at, lost in returns if at < one.size <= lost), None)
        if one.size > writer.found_size:
            detail = f"the {one.source} knows {one.size} entries, the ledger had {writer.found_size} at the start"
            answer = answer or Comparison(ROLLED_BACK, detail, writer.found_size, one.size)
        elif back is not None:
            detail = f"it was put back to {back} entries before, and went on from there"
            answer = answer or Comparison(ROLLED_BACK, detail)
        else:
            return Comparison(DIFFERS, f"the {one.source} knows another history up to entry {one.size}")
    if not own:
        return Comparison(NONE, "no head from outside the database was found to compare with")
    return answer or Comparison(AGREES, f"{len(own)} heads from outside agree")


class Anchors:
    """See the module. `on_answer(comparison)` is called after it; `error` says what is wrong."""

    def __init__(self, loop: Loop, writer: LedgerWriter, config: Config) -> None:
        self._loop = loop
        self._writer = writer
        self._file: str = config["ledger_anchor_file"]
        url: str = config["ledger_anchor_url"]
        self._deliveries: list[Delivery] = []
        self._reader = Background(loop)
        self._unread = ""
        if self._file:
            self._deliveries.append(Delivery(loop, lambda note: append(self._file, note), 0.0, self._file))
        if url:
            self._deliveries.append(Delivery(loop, lambda note: send(url, note), URL_SECONDS, host_of(url)))
        self.comparison = Comparison(UNREAD, "the heads outside were not asked yet")
        self.on_answer: Callable[[Comparison], object] = _nothing

    @property
    def errors(self) -> int:
        """Deliveries that failed."""
        return sum(one.errors for one in self._deliveries)

    @property
    def error(self) -> str:
        """Why the ledger is not anchored as configured, or what the anchors say against it; "" when all is well."""
        if self.comparison.answer in {ROLLED_BACK, DIFFERS}:
            return f"the ledger was changed from outside: {self.comparison.detail}"
        return "; ".join(error for error in (self._unread, *(one.error for one in self._deliveries)) if error)

    async def check(self) -> None:
        """Ask journal and file, and compare. Raises nothing of theirs: what cannot be asked is an answer too."""
        anchors: list[Anchor] = []
        unread = ""
        try:
            done = await run_process(self._loop, journal_argv(JOURNAL_HEADS), JOURNAL_SECONDS, max_output_bytes=1 << 20)
            if done.returncode or done.timed_out:
                unread = f"the journal cannot be read: {done.stderr.strip() or 'no answer'}"
            anchors += journal_anchors(done.stdout.encode(), supervisor_uids())
        except HostError as error:
            unread = error.message
        try:
            anchors += await self._file_anchors()
        except StoreError as error:
            # What the journal knows counts all the same.
            unread = unread or str(error)
            self._unread = str(error)
            log(WARNING, self._unread)
        try:
            found = compare(self._writer, anchors)
        except StoreError as error:
            found, unread = Comparison(NONE, ""), str(error)
        self.comparison = Comparison(UNREAD, unread) if unread and found.answer == NONE else found
        if found.answer in {ROLLED_BACK, DIFFERS}:
            log(CRITICAL, self.error, LEDGER_BROKEN, GRACED_LEDGER_SIZE=self._writer.size)
        self.on_answer(self.comparison)

    async def _file_anchors(self) -> list[Anchor]:
        """The heads of the file, read by a thread: a hanging disk must not stop the loop. Raises StoreError."""
        if not self._file:
            return []
        done, roster = Future(), self._writer.roster
        self._reader.run(
            lambda: file_anchors(self._file, roster),
            lambda found, error: done.set_result(found) if error is None else done.set_exception(error),
        )
        found: list[Anchor] = await done
        return found

    def put(self, note: str) -> None:
        """A new head was signed."""
        for one in self._deliveries:
            one.put(note)

    def close(self) -> None:
        """Wait for what is under way (at most CLOSE_SECONDS)."""
        until_s = time.monotonic() + CLOSE_SECONDS
        self._reader.close(_nothing, CLOSE_SECONDS)
        for one in self._deliveries:
            one.close(max(0.0, until_s - time.monotonic()))


class Delivery:
    """Takes heads to one place outside, by a thread of its own: always the newest, at most one every `rest_s`.

    `error` says why the newest is not there, "" while all is well; `errors` how often that was.
    """

    def __init__(self, loop: Loop, deliver: Callable[[str], None], rest_s: float, place: str = "outside") -> None:
        self._loop = loop
        self._place = place
        self._deliver = deliver
        self._rest_s = rest_s
        self._thread = Background(loop)
        self._next: str | None = None
        self._resting = False
        self._late: Timer | None = None
        self.error = ""
        self.errors = 0

    def put(self, note: str) -> None:
        """Deliver this one next."""
        self._next = note
        self._go()

    def _go(self) -> None:
        if self._resting or self._next is None:
            return
        note, self._next = self._next, None
        self._resting = True
        self._late = self._loop.call_later(LATE_SECONDS, self._hangs)
        self._thread.run(lambda: self._deliver(note), lambda _none, error: self._done(note, error))

    def _hangs(self) -> None:
        self._fail(f"the ledger's head is not taken: {self._place} has not answered for {LATE_SECONDS:.0f} s")

    def _fail(self, error: str) -> None:
        self.errors += 1
        if not self.error:
            log(WARNING, error)
        self.error = error

    def _done(self, note: str, error: StoreError | None) -> None:
        if self._late is not None:
            self._late.cancel()
        if error is None:
            if self.error:
                log(NOTICE, f"the ledger's head is at {self._place} again")
            self.error = ""
        else:
            self._next = self._next or note
            self._fail(str(error))
        self._loop.call_later(self._rest_s if error is None else RETRY_SECONDS, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._go()

    def close(self, timeout_s: float = CLOSE_SECONDS) -> None:
        """Wait for the delivery under way, or leave it behind."""
        self._thread.close(_nothing, timeout_s)


def _nothing(*_args: object) -> None:
    """Nobody listens."""


def append(path: str, note: str) -> None:
    """Add a head to the anchor file, on disk when it returns. Raises StoreError."""
    line = record(note)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise StoreError(f"the ledger's head cannot be written to {path}: it is no file", code="anchor")
            # A line that a crash cut short must not swallow this one.
            os.write(fd, b"\n" + line + b"\n")
            os.fsync(fd)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if size > MAX_FILE_BYTES:
            os.replace(path, f"{path}.1")
    except OSError as error:
        raise StoreError(f"the ledger's head cannot be written to {path}: {error.strerror}", code="anchor") from error


def record(note: str) -> bytes:
    """A head as one line of JSON."""
    from graced.base.clock import iso
    from graced.base.json import canonical

    return canonical({"time": iso(time.time_ns() // 1000), "checkpoint": note})


def host_of(url: str) -> str:
    """An address without what may be secret in it: path, query and user."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"


def send(url: str, note: str) -> None:
    """POST a head. Raises StoreError unless the answer is 2xx within POST_SECONDS."""
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    if not url.startswith(("https://", "http://")):
        raise StoreError("ledger_anchor_url is no http or https address", code="anchor")
    headers = {"Content-Type": "application/json", "User-Agent": "graced"}
    try:
        with urlopen(Request(url, record(note), headers), timeout=POST_SECONDS) as answer:  # noqa: S310  # checked
            answer.read(4096)
    except (OSError, HTTPException, ValueError) as error:
        raise StoreError(f"the ledger's head was not taken by {host_of(url)}: {error}", code="anchor") from error
