"""Which units are adopted and by which profile: the files of /etc/graced/watch.d and the profiles they name.

A bad file becomes a problem with file and line and counts for nothing: what it said before stays, or what the shipped
profile of that name says, else the unit is left out. `signature` is cheap to
ask, so that a kernel may look every second whether anything changed. TOML is parsed only when there are files.
Used by Infrastructure and Verification; the actuator reads for itself, more strictly.
"""

from __future__ import annotations

import os

from graced.base.errors import ConfigError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from graced.base.paths import Paths
    from graced.heal.profile import Profile
    from graced.heal.watch import Watch


class AdoptedUnit(Record):
    """A watch file with its profile."""

    watch: Watch
    profile: Profile


def _entries(directory: str) -> list[tuple[str, int, int]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(
                (entry.path, stat.st_mtime_ns, stat.st_size)
                for entry in entries
                if entry.name.endswith(".toml") and (stat := entry.stat())
            )
    except OSError:
        return []


def signature(paths: Paths) -> tuple[tuple[str, int, int], ...]:
    """Changes when a watch file or profile does (name, mtime, size)."""
    found = _entries(paths.watch_dir())
    if found:
        for directory in paths.code_dirs("profiles"):
            found += _entries(directory)
    return tuple(found)


def load(paths: Paths, before: Mapping[str, AdoptedUnit] | None = None) -> tuple[dict[str, AdoptedUnit], list[str]]:
    """Adopted units by name, and the problems found (one text each, with file and line); `before`: the last answer."""
    files = [path for path, _mtime, _size in _entries(paths.watch_dir())]
    if not files:
        return {}, []
    from graced.heal.watch import parse_watch

    units: dict[str, AdoptedUnit] = {}
    problems: list[str] = []
    former = {unit.watch.path: unit for unit in (before or {}).values()}
    for path in files:
        known = former.get(path)
        try:
            watch: Watch = _parsed(parse_watch, path)
        except ConfigError as error:
            problems.append(error.message)
            if known is not None:
                units[known.watch.unit] = known
            continue
        profile = _profile(paths, watch, known, problems)
        if profile is not None:
            units[watch.unit] = AdoptedUnit(watch, profile)
    return units, problems


def _profile(paths: Paths, watch: Watch, known: AdoptedUnit | None, problems: list[str]) -> Profile | None:
    """The watch's profile: the admin's, or what stands in for one that is wrong."""
    from graced.heal.profile import parse_profile

    found = [f"{place}/{watch.profile}.toml" for place in reversed(paths.code_dirs("profiles"))]
    there = [path for path in found if os.path.exists(path)]
    if not there:
        problems.append(f"{watch.path}: there is no profile {watch.profile}")
    for path in there:
        try:
            profile: Profile = _parsed(parse_profile, path)
        except ConfigError as error:
            problems.append(error.message)
        else:
            return profile
        if known is not None and known.profile.name == watch.profile:
            return known.profile
    return None


def _parsed(parser: Callable[..., Any], path: str) -> Any:
    import hashlib

    from graced.base.toml import parse_toml
    from graced.runtime.catalog import read_file

    data = read_file(path)
    values, line_of = parse_toml(data, path)
    return parser(_stem(path), values, line_of, digest=hashlib.sha256(data).hexdigest(), path=path)


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".toml")
