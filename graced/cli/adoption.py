"""Adopting a unit and releasing it: a row of steps, each with its undo, so that a failure leaves nothing behind.

Runs as root. What it writes: /etc/graced/watch.d/<name>.toml, a drop-in that names the watched paths, and (through
the actuator) the first last-known-good copy. Everything outside is reached through `Hands`, which tests replace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from graced.base.errors import GracedError, HostError, StoreError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from graced.base.json import JsonDict
    from graced.heal.profile import Profile
    from graced.heal.watch import Watch

READERS = ("infrastructure", "governance", "verification", "healing", "code")
DEFAULT_TIER = 3


class Hands(Record):
    """The outside world: `systemctl(arguments)` → its output, `call(method, parameters)` → the reply."""

    systemctl: Callable[[Sequence[str]], str]
    call: Callable[[str, JsonDict], JsonDict]
    systemd_dir: str = "/etc/systemd/system"


@contextlib.contextmanager
def alone(directory: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Nobody else adopts or releases meanwhile: a lock on `directory`. Waits for whoever does. Raises HostError."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{directory}: {error.strerror}", hint="is graced installed?") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("Waiting for another gracectl adopt or release.")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_atomically(path: str, text: str) -> None:
    """Replace `path` by a root-owned 0644 file with `text`, on disk before it is visible. Raises StoreError."""
    directory = os.path.dirname(path)
    temporary = f"{directory}/.{os.path.basename(path)}.new"
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o644)
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror}", hint="is the disk full or read-only?"
        ) from error


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error


def remove(path: str) -> None:
    """Delete a file, and its directory when that is a drop-in directory that is now empty. Raises StoreError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"{path}: cannot be removed: {error.strerror}") from error
    directory = os.path.dirname(path)
    if directory.endswith(".d") and os.path.basename(directory).startswith("graced-watch@"):
        try:
            os.rmdir(directory)
        except OSError:
            # An admin's own drop-in is still there: it stays.
            return


class Files(Record):
    """Where one unit's adoption stands on disk, and the name of its path unit."""

    watch: str
    drop_in: str
    path_unit: str


def files_of(unit: str, watch_path: str, hands: Hands) -> Files:
    """The files and the path unit that belong to `unit`, whose watch file is `watch_path`."""
    from graced.cli.units import escape

    path_unit = f"graced-watch@{escape(unit)}.path"
    return Files(
        watch=watch_path,
        drop_in=f"{hands.systemd_dir}/{path_unit}.d/paths.conf",
        path_unit=path_unit,
    )


class Undo:
    """The way back: undos run newest first, all of them, and what failed is told."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, step: Callable[[], object]) -> None:
        """Remember how to take back what was just done (or may have half happened)."""
        self._steps.append((what, step))

    def run(self) -> list[str]:
        """Take everything back; the sentences say what could not be."""
        failed = []
        while self._steps:
            what, step = self._steps.pop()
            try:
                step()
            except GracedError as error:
                failed.append(f"{what}: {error.message}")
        return failed


def _restore_file(path: str, before: str | None) -> None:
    if before is None:
        remove(path)
    else:
        write_atomically(path, before)


def adopt(watch: Watch, profile: Profile, hands: Hands) -> JsonDict:
    """Adopt `watch.unit` by writing `watch.path`; returns the digest of its last-known-good copy.

    On an error everything is taken back.
    """
    undo = Undo()
    try:
        return _adopt(watch, profile, files_of(watch.unit, watch.path, hands), hands, undo)
    except GracedError as error:
        left = undo.run()
        after = f"; not everything could be taken back: {'; '.join(left)}" if left else "; nothing was changed"
        raise HostError(f"{watch.unit} was not adopted: {error.message}{after}", hint=error.hint) from error


def _adopt(watch: Watch, profile: Profile, files: Files, hands: Hands, undo: Undo) -> JsonDict:
    from graced.cli.watches import render_path_unit, watched_paths
    from graced.heal.watch import render_watch

    before_watch, before_paths = _read(files.watch), _read(files.drop_in)
    watched = watched_paths(profile.config_paths)
    # The first undo to be added is the last to run: the daemons read the files once they are as they were.
    undo.add("daemons", lambda: _reload(hands))
    undo.add(files.watch, lambda: _restore_file(files.watch, before_watch))
    write_atomically(files.watch, render_watch(watch))
    if watched:
        undo.add("systemctl daemon-reload", lambda: hands.systemctl(["daemon-reload"]))
        undo.add(files.drop_in, lambda: _restore_file(files.drop_in, before_paths))
        write_atomically(files.drop_in, render_path_unit(watched))
        hands.systemctl(["daemon-reload"])
        if before_paths is None:
            undo.add(files.path_unit, lambda: hands.systemctl(["disable", "--now", "--quiet", files.path_unit]))
        hands.systemctl(["enable", "--quiet", files.path_unit])
        # A running path unit keeps its old paths until it is started again.
        hands.systemctl(["restart", files.path_unit])
    elif before_paths is not None:
        # Adopted anew with a profile that names no files.
        undo.add(files.path_unit, lambda: hands.systemctl(["enable", "--now", "--quiet", files.path_unit]))
        undo.add("systemctl daemon-reload", lambda: hands.systemctl(["daemon-reload"]))
        undo.add(files.drop_in, lambda: _restore_file(files.drop_in, before_paths))
        hands.systemctl(["disable", "--now", "--quiet", files.path_unit])
        remove(files.drop_in)
        hands.systemctl(["daemon-reload"])
    digest = _snapshot(watch.unit, hands)
    _reload(hands)
    return digest


def _snapshot(unit: str, hands: Hands) -> JsonDict:
    reply = hands.call("io.graced.Actuator.Snapshot", {"unit": unit, "reason": "adopt"})
    digest = reply.get("digest")
    if not isinstance(digest, dict) or not digest.get("lkg"):
        raise HostError(f"the actuator took no last-known-good copy of {unit}", hint="journalctl -u graced-actuator")
    return digest


def _reload(hands: Hands) -> None:
    hands.systemctl(["try-reload-or-restart", "--", *(f"graced-{name}.service" for name in READERS)])


def release(unit: str, watch_path: str, hands: Hands) -> list[str]:
    """Undo an adoption: every step is tried; returns what could not be done."""
    files = files_of(unit, watch_path, hands)
    steps = Undo()
    # Last added, first run.
    steps.add("forgetting its copies", lambda: hands.call("io.graced.Actuator.Forget", {"unit": unit}))
    steps.add("reloading the daemons", lambda: _reload(hands))
    steps.add(files.watch, lambda: remove(files.watch))
    if os.path.exists(files.drop_in):
        steps.add("systemctl daemon-reload", lambda: hands.systemctl(["daemon-reload"]))
        steps.add(files.drop_in, lambda: remove(files.drop_in))
        steps.add(files.path_unit, lambda: hands.systemctl(["disable", "--now", "--quiet", files.path_unit]))
    return steps.run()
