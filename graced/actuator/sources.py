"""What the names in a warrant mean: profiles, playbooks and adopted units, read from files only root can
write.

The admin's directory wins over the shipped one by name. A file counts as it is at the moment of the act. One that is
no playbook or profile does not count: the version before it stays in force, or the shipped one, as Code says too, but
here only when the warrant is for exactly that. Used by the actuator alone; other daemons have less strict readers.
"""

from __future__ import annotations

import hashlib
import re

from graced.actuator.safeopen import UnsafePathError, list_trusted, read_trusted
from graced.actuator.warrant import Allowed, Refused
from graced.base.errors import ConfigError
from graced.base.record import Record
from graced.base.toml import parse_toml
from graced.heal.playbook import parse_playbook
from graced.heal.profile import parse_profile
from graced.heal.watch import parse_watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from graced.actuator.kept import Kept
    from graced.actuator.warrant import Warrant
    from graced.base.paths import Paths
    from graced.heal.playbook import Playbook
    from graced.heal.profile import Profile
    from graced.heal.watch import Watch

_MAX_PARSED = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")


class Adopted(Record):
    """An adopted unit with its profile."""

    watch: Watch
    profile: Profile


class NotAdoptedError(ConfigError):
    """No file in /etc/graced/watch.d names the unit."""

    code = "not-adopted"


class Sources:
    """Reads of root's files below /etc/graced and /usr/share/graced."""

    def __init__(self, paths: Paths, kept: Kept) -> None:
        self._paths = paths
        self._kept = kept
        self._parsed: dict[tuple[object, ...], Any] = {}

    def adopted(self, unit: str, warranted_digest: str | None = None) -> Adopted:
        """The unit's watch file and profile. NotAdoptedError; ConfigError or Refused ``untrusted-file``
        for a bad one.
        """
        watch = self._watch(unit)
        if watch is None:
            raise NotAdoptedError(f"{unit} is not adopted", hint=f"gracectl adopt {unit}")
        return Adopted(watch, self.profile(watch.profile, warranted_digest))

    def profile(self, name: str, warranted_digest: str | None = None) -> Profile:
        """A profile by name; without a warrant's digest any version may stand in for one that is wrong.

        ConfigError when there is none or it is wrong, Refused when it is not root's.
        """
        profile: Profile = self._named("profiles", name, parse_profile, warranted_digest)
        return profile

    def playbook(self, name: str, warranted_digest: str) -> Playbook:
        """A playbook by name, as `profile`."""
        playbook: Playbook = self._named("playbooks", name, parse_playbook, warranted_digest)
        return playbook

    def _named(self, kind: str, name: str, parser: Callable[..., Any], warranted: str | None) -> Any:
        path, data = self._read(kind, name)
        try:
            value = self._parse(parser, name, path, data)
        except ConfigError:
            for other, instead in self._instead(kind, name, path):
                if warranted is None or hashlib.sha256(instead).hexdigest() == warranted:
                    return self._parse(parser, name, other, instead)
            raise
        self._kept.keep(kind, name, data)
        return value

    def _instead(self, kind: str, name: str, path: str) -> Iterator[tuple[str, bytes]]:
        kept = self._kept.get(kind, name)
        if kept:
            yield path, kept
        shipped = f"{self._paths.code_dirs(kind)[0]}/{name}.toml"
        if path != shipped:
            try:
                yield shipped, _trusted(shipped)
            except FileNotFoundError:
                return

    def _watch(self, unit: str) -> Watch | None:
        needle = unit.encode()
        problem: ConfigError | Refused | None = None
        for path in _trusted_names(self._paths.watch_dir()):
            try:
                data = _trusted(path)
                # tomllib costs; a file that does not even contain the name cannot be the one.
                if needle not in data.replace(b"\\\\", b"\\"):
                    continue
                watch: Watch = self._parse(parse_watch, _stem(path), path, data)
            except FileNotFoundError:
                continue
            except (ConfigError, Refused) as error:
                # It takes out itself alone; where no other file names the unit, it is the answer.
                problem = problem or error
                continue
            if watch.unit == unit:
                return watch
        if problem is not None:
            raise problem
        return None

    def _parse(self, parser: Callable[..., Any], name: str, path: str, data: bytes) -> Any:
        """What these very bytes say. Files are read anew for every act; the same bytes are not taken apart again."""
        digest = hashlib.sha256(data).hexdigest()
        key = parser, name, path, digest
        if key not in self._parsed:
            values, line_of = parse_toml(data, path)
            value = parser(name, values, line_of, digest=digest, path=path)
            if len(self._parsed) >= _MAX_PARSED:
                self._parsed.clear()
            self._parsed[key] = value
        return self._parsed[key]

    def _read(self, kind: str, name: str) -> tuple[str, bytes]:
        if not _NAME.match(name):
            raise Refused("format", f"{name!r} is not the name of one of the {kind}")
        shipped, own = self._paths.code_dirs(kind)
        for directory in (own, shipped):
            path = f"{directory}/{name}.toml"
            try:
                return path, _trusted(path)
            except FileNotFoundError:
                continue
        raise ConfigError(f"there is no {name}.toml in {own} or {shipped}", code="no-such-file")


def _stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".toml")


def _trusted_names(directory: str) -> list[str]:
    try:
        return list_trusted(directory, ".toml")
    except UnsafePathError as error:
        raise Refused("untrusted-file", str(error)) from error


def _trusted(path: str) -> bytes:
    try:
        return read_trusted(path)
    except UnsafePathError as error:
        raise Refused("untrusted-file", str(error)) from error


def allowed(adopted: Adopted, playbook: Playbook, warrant: Warrant) -> Allowed:
    """What root's files allow for the warrant's unit."""
    return Allowed(
        unit=adopted.watch.unit,
        tier_cap=adopted.watch.tier,
        watch_profile=adopted.watch.profile,
        profile_unit=adopted.profile.unit,
        profile_digest=adopted.profile.digest,
        playbook_tier=playbook.tier,
        playbook_digest=playbook.digest,
        step_count=len(playbook.steps),
        profile_playbooks=adopted.profile.playbooks or (warrant.playbook,),
    )
