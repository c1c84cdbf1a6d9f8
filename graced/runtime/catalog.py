"""The files that count as code (playbooks, profiles, policies, watches): read, checked, and the last good kept.

/etc/graced wins over /usr/share/graced by file name. A file that does not pass is refused with every problem and its
line; the version of that file that passed before keeps running, over restarts too, and where there is none a shipped
playbook or profile of that name. Used by Governance and Code.
"""

from __future__ import annotations

import os
import stat
import time

from graced.base.digest import sha256
from graced.base.errors import ConfigError, StoreError
from graced.base.record import Record
from graced.base.schema import config_error
from graced.base.toml import MAX_BYTES, parse_toml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from graced.base.json import JsonDict
    from graced.base.paths import Paths

    Value: TypeAlias = Any

PLAYBOOK = "playbook"
PROFILE = "profile"
POLICY = "policy"
WATCH = "watch"
DIRECTORIES = {PLAYBOOK: "playbooks", PROFILE: "profiles", POLICY: "policy.d", WATCH: "watch.d"}
"""Kind of file → its directory; in the order in which one kind refers to the one before."""
MAX_FILES = 2000
MAX_READINGS = 3
SETTLED_NS = 2_000_000_000
"""A directory that did not change for so long before it was looked at shows each change from then on."""


class Entry(Record):
    """A file that passed. `value` is the Record it was parsed to, `content` its TOML as JSON values."""

    kind: str
    name: str
    path: str
    digest: str
    content: JsonDict
    value: Value


class RefusedFile(Record):
    """A file that did not pass. `running_digest` is the version that counts instead, None when there is none."""

    kind: str
    name: str
    path: str
    digest: str
    errors: tuple[JsonDict, ...]
    running_digest: str | None


def parse(kind: str, name: str, data: bytes, path: str) -> Entry:
    """One file's text to an Entry. Raises ConfigError with every problem."""
    values, line_of = parse_toml(data, path)
    digest = sha256(data).hexdigest()
    value = _parser(kind)(name, values, line_of, digest=digest, path=path)
    return Entry(kind, name, path, digest, _as_json(values), value)


def _parser(kind: str) -> Callable[..., Value]:
    if kind == PLAYBOOK:
        from graced.heal.playbook import parse_playbook

        return parse_playbook
    if kind == PROFILE:
        from graced.heal.profile import parse_profile

        return parse_profile
    if kind == POLICY:
        from graced.policy.rules import parse_policy

        return parse_policy
    from graced.heal.watch import parse_watch

    return parse_watch


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def problems_of(error: ConfigError) -> tuple[JsonDict, ...]:
    """The problems of a ConfigError as ``{"line", "message"}``."""
    found = error.fields.get("problems")
    if isinstance(found, list):
        return tuple(found)
    return ({"line": error.fields.get("line", 0), "message": error.message},)


class LastGood:
    """The version of each file that passed last, in the daemon's own state directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def load(self, kind: str, name: str) -> bytes | None:
        """The kept bytes; None when there are none."""
        try:
            with open(self._path(kind, name), "rb") as file:
                return file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._path(kind, name)}: {error.strerror}") from error

    def keep(self, kind: str, name: str, data: bytes) -> None:
        """Replace the kept bytes, on disk when it returns. Raises StoreError."""
        path = self._path(kind, name)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            with open(f"{path}.new", "wb") as file:
                file.write(data)
                file.flush()
                os.fdatasync(file.fileno())
            os.replace(f"{path}.new", path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}", hint="the version in use cannot be kept") from error

    def forget(self, kind: str, name: str) -> None:
        """A file that is gone on purpose has no last good version."""
        try:
            os.unlink(self._path(kind, name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self._path(kind, name)}: {error.strerror}") from error

    def _path(self, kind: str, name: str) -> str:
        return f"{self._directory}/{kind}-{name}"


class Catalog:
    """The running set. `refresh` looks at the files again; nothing else changes it."""

    def __init__(self, paths: Paths, last_good: LastGood, kinds: tuple[str, ...] = tuple(DIRECTORIES)) -> None:
        self._paths = paths
        self._last_good = last_good
        self._kinds = kinds
        self.running: dict[str, dict[str, Entry]] = {kind: {} for kind in DIRECTORIES}
        self.refused: list[RefusedFile] = []
        self.store_error = ""
        self._seen: tuple[object, ...] | None = None
        self._folders: list[_Folder] = []

    def directories(self) -> list[str]:
        """All directories that matter, whether they exist or not."""
        return [directory for kind in self._kinds for directory in self._of_kind(kind)]

    def _of_kind(self, kind: str) -> tuple[str, ...]:
        # Only an admin adopts: a package cannot ship a watch.
        return (self._paths.watch_dir(),) if kind == WATCH else self._paths.code_dirs(DIRECTORIES[kind])

    def refresh(self) -> None:
        """Read everything again; `store_error` says when a last good version could not be kept.

        What is refused while files change may refer to what came just before it: it is read once more.
        """
        for _time in range(MAX_READINGS):
            seen = self._seen = self._look()
            self._read()
            if not self.refused or self._look() == seen:
                return

    def _read(self) -> None:
        self.refused = []
        self.store_error = ""
        for kind in self._kinds:
            before = self.running[kind]
            self.running[kind] = {}
            found = self._find(kind)
            for name, path in sorted(found.items()):
                self._take(kind, name, path, before.get(name))
            if not any(file.kind == kind and not file.name for file in self.refused):
                for name in before.keys() - found.keys():
                    self._forget(kind, name)

    def _forget(self, kind: str, name: str) -> None:
        try:
            self._last_good.forget(kind, name)
        except StoreError as error:
            self.store_error = str(error)

    def refresh_if_changed(self) -> bool:
        """Refresh when any file or directory looks different than at the last time; whether it did."""
        if (self._folders and all(folder.same() for folder in self._folders)) or self._look() == self._seen:
            return False
        self.refresh()
        return True

    def _look(self) -> tuple[object, ...]:
        self._folders = [_Folder(directory) for directory in self.directories()]
        return tuple([folder.state for folder in self._folders])

    def missing(self, entry: Entry) -> list[str]:
        """What a file would refer to that is not in the running set."""
        return references_missing(entry, self.running)

    def digest(self) -> str:
        """SHA-256 (hex) over names and digests of the running set."""
        text = "".join(f"{kind} {entry.name} {entry.digest}\n" for kind in self._kinds for entry in self.entries(kind))
        return sha256(text.encode()).hexdigest()

    def entries(self, kind: str) -> list[Entry]:
        """The running files of a kind, by name."""
        return [self.running[kind][name] for name in sorted(self.running[kind])]

    def _find(self, kind: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for directory in self._of_kind(kind):
            try:
                names = sorted(os.listdir(directory))
                # Whoever may write the directory can take a rule away, or put an older file back.
                if os.stat(directory).st_mode & 0o002:
                    raise PermissionError(0, "must not be writable for others")
            except FileNotFoundError:
                continue
            except OSError as error:
                self._refuse(kind, "", directory, b"", config_error(directory, [(0, str(error.strerror))]), None)
                continue
            for name in names[:MAX_FILES]:
                if name.endswith(".toml") and not name.startswith("."):
                    found[name.removesuffix(".toml")] = f"{directory}/{name}"
        return found

    def _take(self, kind: str, name: str, path: str, before: Entry | None) -> None:
        data = b""
        try:
            data = read_file(path)
            if before is not None and before.path == path and before.digest == sha256(data).hexdigest():
                entry = before
            else:
                entry = parse(kind, name, data, path)
            self._check_references(entry)
        except ConfigError as error:
            instead = before or self._remembered(kind, name, path) or self._shipped(kind, name, path)
            self._refuse(kind, name, path, data, error, instead)
            return
        self.running[kind][name] = entry
        if entry is not before:
            self._keep(entry, data)

    def _keep(self, entry: Entry, data: bytes) -> None:
        try:
            if self._last_good.load(entry.kind, entry.name) != data:
                self._last_good.keep(entry.kind, entry.name, data)
        except StoreError as error:
            # A full disk must not stop a good file from counting; only its survival over a restart is at risk.
            self.store_error = str(error)

    def _remembered(self, kind: str, name: str, path: str) -> Entry | None:
        try:
            data = self._last_good.load(kind, name)
        except StoreError as error:
            self.store_error = str(error)
            return None
        if data is None:
            return None
        try:
            return parse(kind, name, data, path)
        except ConfigError:
            # It passed an older version's checks; this version refuses it too.
            return None

    def _shipped(self, kind: str, name: str, path: str) -> Entry | None:
        """What a file that never passed would have replaced. A policy is never made up for: it may have denied."""
        shipped = f"{self._of_kind(kind)[0]}/{name}.toml"
        if kind not in {PLAYBOOK, PROFILE} or path == shipped or not os.path.exists(shipped):
            return None
        try:
            return parse(kind, name, read_file(shipped), shipped)
        except ConfigError:
            return None

    def _refuse(self, kind: str, name: str, path: str, data: bytes, error: ConfigError, instead: Entry | None) -> None:
        if instead is not None:
            try:
                self._check_references(instead)
            except ConfigError:
                instead = None
        if instead is not None:
            self.running[kind][name] = instead
        digest = sha256(data).hexdigest()
        running = None if instead is None else instead.digest
        self.refused.append(RefusedFile(kind, name, path, digest, problems_of(error), running))

    def _check_references(self, entry: Entry) -> None:
        found = references_missing(entry, self.running)
        if found:
            raise config_error(entry.path, [(0, message) for message in found])


def references_missing(entry: Entry, running: dict[str, dict[str, Entry]]) -> list[str]:
    """What a file refers to that is not there: a profile's playbooks, a watch's profile and unit."""
    if entry.kind == PROFILE:
        missing = [name for name in entry.value.playbooks if name not in running[PLAYBOOK]]
        return [f"heal.playbooks: there is no playbook {name}" for name in missing]
    if entry.kind == WATCH:
        profile = running[PROFILE].get(entry.value.profile)
        if profile is None:
            return [f"profile: there is no profile {entry.value.profile}"]
        if profile.value.unit != entry.value.unit:
            return [f"unit: the profile {profile.name} is for {profile.value.unit}, not for {entry.value.unit}"]
        for other in running[WATCH].values():
            if other.name != entry.name and other.value.unit == entry.value.unit:
                return [f"unit: {entry.value.unit} is adopted by {other.path} already"]
    return []


class _Folder:
    """A directory as it was looked at: `state` changes when a file in it does.

    A name that comes or goes changes the directory's own times, so `same` looks at these and at the files it knows.
    Times count in ticks of the kernel's clock: one that had changed just before says nothing of what came right after.
    """

    __slots__ = ("_files", "_own", "_settled", "directory", "state")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._files: list[tuple[str, tuple[int, int, int]]] = []
        self._settled = True
        try:
            status = os.stat(directory)
            self._own: object = _identity(status)
            self._settled = time.time_ns() - status.st_ctime_ns > SETTLED_NS
            with os.scandir(directory) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(".toml"))
            self._files = [(name, _file(f"{directory}/{name}")) for name in names]
            self.state: object = status.st_mode, tuple(self._files)
        except OSError as error:
            self._own = self.state = error.errno

    def same(self) -> bool:
        """Is it certainly as it was? False: look again."""
        try:
            if _identity(os.stat(self.directory)) != self._own:
                return False
        except OSError as error:
            return error.errno == self._own
        return self._settled and all(_file(f"{self.directory}/{name}") == was for name, was in self._files)


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    # change times cannot be set
    return status.st_ino, status.st_size, status.st_ctime_ns


def _file(path: str) -> tuple[int, int, int]:
    try:
        return _identity(os.stat(path))
    except OSError:
        return 0, 0, 0


def read_file(path: str) -> bytes:
    """A small file that only its owner can change. Raises ConfigError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise config_error(path, [(0, f"cannot be read: {error.strerror}")]) from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise config_error(path, [(0, "not a regular file")])
        if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o002:
            raise config_error(path, [(0, "must belong to root and not be writable for others")])
        try:
            return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise config_error(path, [(0, f"cannot be read: {error.strerror}")]) from error
