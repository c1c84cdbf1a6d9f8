"""Librarian: takes files from the inbox and from configured folders into Memory.

read → extract → chunk → score → ``io.graced.Memory.PutDocument``. A file of the inbox ends in ``.taken`` or
``.rejected`` there (with a reason beside it); a folder's files stay and are known by their stamp. While Memory is
away files wait where they are. Work is done in slices of about 10 ms, so that replies and the watchdog never wait
for a file.
"""

from __future__ import annotations

import os

from graced.base.config import Option
from graced.base.errors import ConfigError, FormatError, GracedError, HostError, StoreError, WireError
from graced.base.json import opt_int
from graced.base.log import NOTICE, WARNING
from graced.base.messages import DOCUMENT_REJECTED
from graced.host.folder import Folder
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.peer import ADMIN, READ
from graced.runtime.service import Interface
from graced.store.intake import ACCEPTED, DUPLICATE, REJECTED, Entry, IntakeStore, stamp
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from os import stat_result
    from typing import TypeVar

    from graced.base.config import Config
    from graced.base.json import JsonDict
    from graced.host.inotify import Watcher
    from graced.ingest.chunk import Chunk
    from graced.runtime.connection import Call

    T = TypeVar("T")

SLICE_SECONDS = 0.01
READ_BYTES = 256 << 10
SETTLE_SECONDS = 2.0
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.25, 30.0
FAILURES_TO_SAY = 5
"""Memory away for about 4 s: a restart of it is not worth a line in the journal."""
FOLDER_RETRY_SECONDS = 60.0


class _StoppingError(Exception):
    """The daemon was asked to stop; the file stays where it is."""


class LibrarianInterface(Interface):
    """io.graced.Librarian."""

    name = "io.graced.Librarian"
    acl = {"Status": READ, "Intake": READ, "Scan": ADMIN}

    def __init__(self, kernel: LibrarianKernel) -> None:
        self._kernel = kernel

    def Status(self, _call: Call) -> JsonDict:
        kernel = self._kernel
        return {
            "inbox": kernel.inbox_path,
            "waiting": kernel.waiting(),
            "accepted": kernel.book.accepted,
            "rejected": kernel.book.rejected,
            "last_error": kernel.last_error or None,
        }

    def Intake(self, call: Call) -> JsonDict:
        limit = opt_int(call.parameters, "limit")
        if limit is not None and not 1 <= limit <= 1000:
            raise FormatError("$.limit must lie in 1..1000", path="$.limit")
        return {"items": self._kernel.book.newest(limit or 100)}

    def Scan(self, _call: Call) -> JsonDict:
        return {"queued": self._kernel.scan()}


class LibrarianKernel(Kernel):
    """The daemon graced-librarian."""

    name = "librarian"
    options = (
        Option("librarian", "folders", "strs", (), "Folders whose files are taken in, left in place; not recursive"),
        Option("librarian", "max_bytes", "size_bytes", 4 << 20, "Larger files are refused", low=1024, high=64 << 20),
        Option("librarian", "threshold", "float", 0.5, "Texts that score less are refused", low=0.0, high=1.0),
    )

    def setup(self) -> None:
        """Open the inbox (made when it is missing) and the book."""
        self.inbox_path = f"{self.paths.lib}/inbox"
        self.last_error = ""
        self._queue: dict[tuple[str, str], None] = {}
        self._settling = 0
        self._busy = self._taking = False
        self._failures = 0
        self._pause_s = FIRST_PAUSE_SECONDS
        self._watcher: Watcher | None = None
        self.reload(self.config)
        try:
            os.makedirs(self.inbox_path, mode=0o770, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"{self.inbox_path}: {error.strerror}", hint="systemd-tmpfiles --create graced.conf"
            ) from error
        self._folders = {self.inbox_path: Folder(self.inbox_path)}
        self.book = IntakeStore(f"{self.paths.state(self.name)}/intake.db", self.clock)

    def interfaces(self) -> list[Interface]:
        """io.graced.Librarian."""
        return [LibrarianInterface(self)]

    def reload(self, config: Config) -> None:
        """Take over limits; new folders are opened at the next look. ConfigError for a relative path."""
        wrong = [path for path in config["folders"] if not path.startswith("/")]
        if wrong:
            raise ConfigError(f"[librarian] folders: {wrong[0]!r} is not an absolute path")
        if self._watcher is not None:
            self.loop.call_soon(self._watch_folders)

    def started(self) -> None:
        """Watch first, then look at what came while the daemon was away."""
        from graced.host.inotify import Watcher

        self._watcher = Watcher()
        self.loop.add_reader(self._watcher.fileno(), self._on_change)
        self._watch(self.inbox_path)
        self._watch_folders()
        self.every(FOLDER_RETRY_SECONDS, self._watch_folders)
        self.scan()

    def status(self) -> str:
        """For example: Inbox empty, 12 files taken, 1 rejected."""
        waiting = self.waiting()
        book = f"{self.book.accepted} taken, {self.book.rejected} rejected"
        if self.last_error:
            return f"{waiting} waiting, {book}; {self.last_error}"
        return f"{waiting} waiting, {book}" if waiting else f"Inbox empty, {book}"

    def waiting(self) -> int:
        """Files that are seen but have no verdict yet."""
        return len(self._queue) + self._settling + self._taking

    def drained(self) -> bool:
        """Whether no file is under way."""
        return not self._busy

    def close(self) -> None:
        """Close the book."""
        self.book.close()

    # Noticing ----------------------------------------------------------------------------------------------

    def _watch(self, path: str) -> None:
        from graced.host.inotify import CLOSE_WRITE, MOVED_TO, ONLYDIR

        assert self._watcher is not None
        self._watcher.add(path, CLOSE_WRITE | MOVED_TO | ONLYDIR)

    def _watch_folders(self) -> None:
        """Open and watch folders that are configured and not open yet, let go of the others."""
        assert self._watcher is not None
        wanted = {self.inbox_path, *self.config["folders"]}
        for path in [path for path in self._folders if path not in wanted]:
            self._folders.pop(path).close()
        watched = self._watcher.watched()
        for path in sorted(wanted):
            if path in self._folders and path in watched:
                continue
            try:
                folder = Folder(path)
                self._watch(path)
            except HostError as error:
                if self.last_error != error.message:
                    self.log(WARNING, f"librarian: {error}")
                self.last_error = error.message
                continue
            if path in self._folders:
                self._folders[path].close()
            self._folders[path] = folder
            self._scan_folder(folder)

    def _on_change(self) -> None:
        from graced.host.inotify import ISDIR, Q_OVERFLOW

        assert self._watcher is not None
        for event in self._watcher.read():
            if event.mask & Q_OVERFLOW:
                self.scan()
            elif event.name and event.name[:1] != "." and not event.mask & ISDIR:
                self._enqueue(event.directory, event.name)

    def scan(self) -> int:
        """Queue every file that is there; how many were. A file written less than 2 s ago gets time to be finished."""
        return sum(self._scan_folder(folder) for folder in list(self._folders.values()))

    def _scan_folder(self, folder: Folder) -> int:
        names = folder.names()
        for name in names:
            seen = folder.look(name)
            if seen is None:
                continue
            if abs(self.clock.wall_us() * 1000 - seen.st_mtime_ns) < SETTLE_SECONDS * 1e9:
                self._settling += 1
                self.loop.call_later(SETTLE_SECONDS, lambda name=name: self._settled(folder.path, name))  # type: ignore[misc]
            else:
                self._enqueue(folder.path, name)
        return len(names)

    def _settled(self, directory: str, name: str) -> None:
        self._settling -= 1
        self._enqueue(directory, name)

    def _enqueue(self, directory: str, name: str) -> None:
        self._queue[directory, name] = None
        if not self._busy and not self.stopping:
            self._busy = True
            self.loop.spawn(self._work())

    # Working -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._queue and not self.stopping:
                directory, name = next(iter(self._queue))
                del self._queue[directory, name]
                folder = self._folders.get(directory)
                self._taking = True
                try:
                    done = folder is None or await self._take(folder, name)
                except StoreError as error:
                    self.last_error, done = error.message, False
                finally:
                    self._taking = False
                if not done:
                    self._queue[directory, name] = None
                    await self._pause()
        except _StoppingError:
            return
        finally:
            self._busy = False

    async def _pause(self) -> None:
        end_s = self.loop.now_s() + self._pause_s
        self._pause_s = min(self._pause_s * 2, LAST_PAUSE_SECONDS)
        while self.loop.now_s() < end_s and not self.stopping:
            await self.loop.sleep(min(0.25, max(0.0, end_s - self.loop.now_s())))

    async def _take(self, folder: Folder, name: str) -> bool:
        """One file to its verdict; False when Memory could not be asked and the file must come again."""
        seen = folder.look(name)
        if seen is None:
            return True
        path = f"{folder.path}/{name}"
        mark = stamp(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        if self.book.known(path, mark):
            return True
        from graced.ingest.document import document_steps

        sha256, score = None, None
        try:
            seen, data, sha256 = await self._read(folder, name)
            source = "inbox" if folder.path == self.inbox_path else folder.path
            document, pieces = await self._drive(
                document_steps(
                    path=path, source=source, seen=seen, data=data, sha256=sha256, max_bytes=self.config["max_bytes"]
                )
            )
            score = float(document["score"])
            if score < self.config["threshold"]:
                raise FormatError(f"score {score:.2f} is below the threshold {self.config['threshold']:g}")
            created = await self._put(document, pieces)
            verdict, reason = (ACCEPTED, "") if created else (DUPLICATE, "the same content is known already")
        except FormatError as error:
            verdict, reason = REJECTED, error.message
        except (VarlinkError, WireError) as error:
            if isinstance(error, VarlinkError) and error.name == "InvalidRequest":
                verdict, reason = REJECTED, f"Memory refused it: {error.parameters.get('reason')}"
            else:
                self._away(error)
                return False
        if not self._failures:
            self.last_error = ""
        entry = Entry(path, mark, seen.st_size, verdict, reason, sha256, score)
        self._finish(folder, name, seen, entry)
        return True

    def _away(self, error: GracedError) -> None:
        self._failures += 1
        if self._failures == FAILURES_TO_SAY:
            self.log(WARNING, f"librarian: Memory cannot take documents, files wait: {error}")
        self.last_error = f"Memory is away: {error.message}"

    def _finish(self, folder: Folder, name: str, seen: stat_result, entry: Entry) -> None:
        """Write the verdict down, tell the journal of a refusal, move a file of the inbox."""
        self.book.add(entry)
        self.count("graced_documents_taken_total", verdict=entry.verdict)
        if entry.verdict == REJECTED:
            self.log(NOTICE, f"{entry.path} was refused: {entry.reason}", DOCUMENT_REJECTED, GRACED_PATH=entry.path,
                     GRACED_REASON=entry.reason)  # fmt: skip
        if folder.path != self.inbox_path:
            return
        try:
            into = ".rejected" if entry.verdict == REJECTED else ".taken"
            moved = folder.move(name, seen, into)
            if moved and entry.verdict == REJECTED:
                folder.note(f"{into}/{moved}.reason", entry.reason)
        except HostError as error:
            self.last_error = error.message
            self.log(WARNING, f"librarian: {error}")

    async def _read(self, folder: Folder, name: str) -> tuple[stat_result, bytes, str]:
        """fstat, all bytes and SHA-256 of a regular file; FormatError when it is none, too large or changing."""
        from hashlib import sha256

        limit = self.config["max_bytes"]
        fd = folder.open(name)
        try:
            before = os.fstat(fd)
            if before.st_size > limit:
                raise FormatError(f"{before.st_size} bytes, at most {limit} are taken")
            digest = sha256()
            pieces: list[bytes] = []
            size = 0
            while piece := os.read(fd, READ_BYTES):
                pieces.append(piece)
                digest.update(piece)
                size += len(piece)
                if size > limit:
                    raise FormatError(f"over {limit} bytes, and growing")
                await self._breathe()
        finally:
            os.close(fd)
        return before, b"".join(pieces), digest.hexdigest()

    async def _put(self, document: JsonDict, pieces: list[Chunk]) -> bool:
        """Hand a document to Memory, in parts when it is long; whether it was new."""
        from graced.ingest.document import parts

        created = False
        runs = parts(pieces)
        for number, part in enumerate(runs):
            parameters = {
                "document": {**document, "part": number, "parts": len(runs)},
                "chunks": [chunk.to_json() for chunk in part],
            }
            reply = await self.call("io.graced.Memory.PutDocument", parameters, timeout_s=10.0)
            created = reply.get("created") is True
            if self.stopping and number + 1 < len(runs):
                raise _StoppingError
        self._failures, self._pause_s = 0, FIRST_PAUSE_SECONDS
        return created

    async def _drive(self, steps: Generator[None, None, T]) -> T:
        end_s = self.loop.now_s() + SLICE_SECONDS
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if self.loop.now_s() >= end_s:
                await self._breathe()
                end_s = self.loop.now_s() + SLICE_SECONDS

    async def _breathe(self) -> None:
        """Let everything else on the loop have its turn."""
        await self.loop.sleep(0)
        if self.stopping:
            raise _StoppingError


main = kernel_main(LibrarianKernel)
