"""Code: playbooks, profiles, policies, watches and drop-ins are code, checked before they count.

The files are read at the start, when one changes (inotify), on SIGHUP and on Rescan. A file that does not pass is
refused with file and line, in the journal once per content; the version that passed before keeps running.
"""

from __future__ import annotations

import os

from graced.base.errors import ConfigError, FormatError, HostError
from graced.base.json import get_str
from graced.base.log import INFO, NOTICE, WARNING
from graced.base.messages import CODE_REFUSED
from graced.base.words import counted
from graced.runtime.catalog import DIRECTORIES, Catalog, LastGood, RefusedFile, parse, problems_of
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.peer import READ
from graced.runtime.service import Call, Interface

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.config import Config
    from graced.base.json import JsonDict
    from graced.host.inotify import Watcher
    from graced.runtime.loop import Task

KINDS = tuple(DIRECTORIES)
SETTLE_SECONDS = 0.1
FILES_AFTER_SECONDS = 0.4
MAX_CHECK_BYTES = 256 * 1024


class CodeInterface(Interface):
    """io.graced.Code."""

    name = "io.graced.Code"
    acl = {"List": READ, "Refused": READ, "Check": READ, "Rescan": frozenset({"admin", "healing", "governance"})}

    def __init__(self, kernel: CodeKernel) -> None:
        self._kernel = kernel

    def List(self, call: Call) -> JsonDict:
        kind = _kind(call)
        self._kernel.refresh_if_changed()
        return {
            "files": [
                {"name": entry.name, "path": entry.path, "digest": entry.digest, "content": entry.content}
                for entry in self._kernel.catalog.entries(kind)
            ]
        }

    def Refused(self, _call: Call) -> JsonDict:
        self._kernel.refresh_if_changed()
        files = []
        for file in self._kernel.refused():
            one: JsonDict = {"path": file.path, "errors": list(file.errors)}
            if file.running_digest is not None:
                one["running_digest"] = file.running_digest
            files.append(one)
        return {"files": files}

    def Check(self, call: Call) -> JsonDict:
        kind, name, text = _kind(call), get_str(call.parameters, "name"), get_str(call.parameters, "text")
        return {"errors": self._kernel.check(kind, name, text)}

    async def Rescan(self, _call: Call) -> JsonDict:
        await self._kernel.rescan()
        return {
            "accepted": sum(len(self._kernel.catalog.running[kind]) for kind in KINDS),
            "refused": len(self._kernel.refused()),
        }


def _kind(call: Call) -> str:
    kind = get_str(call.parameters, "kind")
    if kind not in KINDS:
        raise FormatError(f"kind: {kind!r} is not one of {', '.join(KINDS)}", path="kind")
    return kind


class CodeKernel(Kernel):
    """Wires the catalog to inotify, the journal and its readers."""

    name = "code"

    def __init__(self) -> None:
        super().__init__()
        self._refused_dropins: list[RefusedFile] = []
        self._complained: set[tuple[str, str]] = set()
        self._watcher: Watcher | None = None
        self._due = False
        self._scan: Task | None = None
        self._scans_asked = 0
        self._scans_done = 0

    def setup(self) -> None:
        """Prove that the state directory can be written; the files are read soon after READY."""
        self._state = self.paths.state(self.name)
        self.catalog = Catalog(self.paths, LastGood(f"{self._state}/last-good"))
        os.makedirs(self._state, mode=0o700, exist_ok=True)
        if not os.access(self._state, os.W_OK):
            raise HostError(f"{self._state} cannot be written")

    def interfaces(self) -> list[Interface]:
        return [CodeInterface(self)]

    def started(self) -> None:
        self._watch()
        # Whoever asks before that has them read; the start of the other daemons comes first.
        self.loop.call_later(FILES_AFTER_SECONDS, self._first_scan)

    def _first_scan(self) -> None:
        self.loop.spawn(self.rescan())

    def reload(self, config: Config) -> None:
        """SIGHUP: read the files again."""
        self.loop.spawn(self.rescan())

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()

    def status(self) -> str:
        counts = ", ".join(f"{len(self.catalog.running[kind])} {DIRECTORIES[kind]}" for kind in KINDS)
        bad = self.refused()
        if not bad:
            return f"Checked: {counts}"
        first, files = bad[0].errors[0], counted(len(bad), "file")
        return f"Refused {files}, first {bad[0].path}:{first['line']}: {first['message']}; running: {counts}"

    # Checking ----------------------------------------------------------------------------------------------

    def refused(self) -> list[RefusedFile]:
        """Every file that did not pass."""
        return self.catalog.refused + self._refused_dropins

    def check(self, kind: str, name: str, text: str) -> list[JsonDict]:
        """What is wrong with a text, nothing stored."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > MAX_CHECK_BYTES:
            return [{"line": 0, "message": f"{len(data)} bytes, at most {MAX_CHECK_BYTES} are read"}]
        self.refresh_if_changed()
        try:
            entry = parse(kind, name, data, f"{name}.toml")
        except ConfigError as error:
            return list(problems_of(error))
        return [{"line": 0, "message": message} for message in self.catalog.missing(entry)]

    def refresh_if_changed(self) -> None:
        """Answers are about the files as they are now, not as they were when inotify last spoke."""
        if self.catalog.refresh_if_changed():
            self._tell()

    async def rescan(self) -> None:
        """Read everything again and say what was refused: one scan at a time, and one that began after the call."""
        self._scans_asked += 1
        mine = self._scans_asked
        while self._scans_done < mine:
            if self._scan is None or self._scan.done():
                self._scan = self.loop.spawn(self._scan_all())
            await self._scan

    async def _scan_all(self) -> None:
        answers = self._scans_asked
        self.catalog.refresh()
        refused = []
        from graced.runtime import dropins

        for path in dropins.find(f"{self.paths.etc}/dropins").values():
            try:
                bad = await dropins.check(self.loop, path, f"{self._state}/dropin-check")
            except HostError as error:
                bad = RefusedFile(dropins.DROPIN, path, path, "", ({"line": 0, "message": str(error)},), None)
            if bad is not None:
                refused.append(bad)
        self._refused_dropins = refused
        self._scans_done = answers
        self._tell()

    def _tell(self) -> None:
        if self.catalog.store_error:
            self.log(WARNING, f"the versions that passed cannot be kept: {self.catalog.store_error}")
        now = {(file.path, file.digest) for file in self.refused()}
        for file in self.refused():
            if (file.path, file.digest) in self._complained:
                continue
            lines = "\n".join(f"{file.path}:{one['line']}: {one['message']}" for one in file.errors)
            kept = "the version that passed keeps running" if file.running_digest else "it does not count"
            self.count("graced_code_refused_total", kind=file.kind)
            self.log(WARNING, f"refused, {kept}:\n{lines}", CODE_REFUSED, GRACED_PATH=file.path)
        for path in sorted({path for path, _digest in self._complained} - {path for path, _digest in now}):
            self.log(INFO, f"{path} passes again or is gone")
        self._complained = now

    # Watching ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        from graced.host.inotify import Watcher

        try:
            self._watcher = Watcher()
        except HostError as error:
            self.log(NOTICE, f"file changes are only seen on reload and when somebody asks: {error}")
            return
        self._watch_directories()
        self.loop.add_reader(self._watcher.fileno(), self._on_change)

    def _watch_directories(self) -> None:
        from graced.host.inotify import CHANGES, CREATE, ONLYDIR

        assert self._watcher is not None
        wanted = [self.paths.etc, self.paths.share, f"{self.paths.etc}/dropins", *self.catalog.directories()]
        watched = set(self._watcher.watched())
        for directory in wanted:
            if directory in watched or not os.path.isdir(directory):
                continue
            try:
                self._watcher.add(directory, CHANGES | CREATE | ONLYDIR)
            except HostError as error:
                self.log(NOTICE, f"{directory} is not watched: {error}")

    def _on_change(self) -> None:
        assert self._watcher is not None
        if self._watcher.read() and not self._due:
            # Editors write a file in several steps: look once when they are through.
            self._due = True
            self.loop.call_later(SETTLE_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._due = False
        self._watch_directories()
        self.loop.spawn(self.rescan())


main = kernel_main(CodeKernel)
