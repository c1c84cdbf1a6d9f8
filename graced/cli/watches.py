"""What stands on disk about adopted units: profiles to choose from, watch files, and the paths PID 1 watches.

Reads and renders only; `adoption` writes. Raises ConfigError for files that cannot be used.
"""

from __future__ import annotations

import os

from graced.base.errors import ConfigError
from graced.base.toml import load_toml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.base.paths import Paths
    from graced.heal.profile import Profile
    from graced.heal.watch import Watch


def toml_names(directory: str) -> list[str]:
    """Names of the TOML files in `directory`, without suffix, sorted; none when there is no such directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be read: {error.strerror}", hint="check its mode") from error
    return sorted(name[:-5] for name in names if name.endswith(".toml") and not name.startswith("."))


def _parse(path: str, name: str, parse: Callable[..., Any]) -> Any:
    values, line_of = load_toml(path)
    return parse(name, values, line_of, path=path)


def watch_name(unit: str) -> str:
    """``nginx.service`` → ``nginx``: the file name of a unit's watch, without ``.toml``.

    A name that is not made of lower-case letters, digits and dashes gets a digest, so that no two units share a file.
    """
    import re

    stem = unit.removesuffix(".service")
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:48].strip("-")
    if plain == stem:
        return plain
    import hashlib

    return f"{plain or 'unit'}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def read_watches(directory: str) -> list[Watch]:
    """All adopted units, by file name."""
    from graced.heal.watch import parse_watch

    return [_parse(f"{directory}/{name}.toml", name, parse_watch) for name in toml_names(directory)]


def profile_files(paths: Paths) -> dict[str, str]:
    """Profile name → its file; an admin's file hides a shipped one of the same name."""
    files = {}
    for directory in paths.code_dirs("profiles"):
        files.update({name: f"{directory}/{name}.toml" for name in toml_names(directory)})
    return dict(sorted(files.items()))


def read_profile(name: str, path: str) -> Profile:
    """One checked profile."""
    from graced.heal.profile import parse_profile

    profile: Profile = _parse(path, name, parse_profile)
    return profile


def choose_profile(unit: str, wanted: str | None, paths: Paths) -> Profile:
    """The profile for `unit`: the `wanted` one, else the one made for it. ConfigError lists what there is."""
    files = profile_files(paths)
    there = f"profiles: {', '.join(files) or 'none'}; docs: man graced-profile"
    if wanted is not None:
        if wanted not in files:
            raise ConfigError(f"there is no profile {wanted}", hint=there)
        profile = read_profile(wanted, files[wanted])
        if profile.unit != unit:
            raise ConfigError(f"profile {wanted} is for {profile.unit}, not for {unit}", hint=there)
        return profile
    own = unit.removesuffix(".service")
    broken: list[str] = []
    for name in sorted(files, key=lambda name: name != own):
        try:
            profile = read_profile(name, files[name])
        except ConfigError as error:
            if name == own:
                raise
            broken.append(error.message)
            continue
        if profile.unit == unit:
            return profile
    unread = f" ({len(broken)} could not be read: gracectl config check)" if broken else ""
    raise ConfigError(f"no profile is for {unit}{unread}", hint=there)


def watched_paths(config_paths: tuple[str, ...]) -> list[str]:
    """What PID 1 shall watch: each config file, and the directory of each glob."""
    watched = []
    for path in config_paths:
        glob = any(char in path for char in "*?[")
        watched.append(path.rpartition("/")[0] if glob else path)
    return list(dict.fromkeys(watched))


def render_path_unit(watched: list[str]) -> str:
    """The drop-in of graced-watch@<unit>.path that names the watched paths."""
    lines = [
        "# Written by gracectl adopt; gracectl release removes it.",
        "[Path]",
        *(f"PathChanged={path.replace('%', '%%')}" for path in watched),
    ]
    return "\n".join(lines) + "\n"
