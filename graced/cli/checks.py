"""Everything people write for graced, read by the parsers the daemons use, with every mistake at once.

graced.toml against the options of all daemons; playbooks, profiles, policies and watches against their schemas;
and what only shows when they are seen together: names that no file has, two watches for one unit.
"""

from __future__ import annotations

from importlib import import_module

from graced.base.config import Problem, check
from graced.base.errors import ConfigError
from graced.base.toml import load_toml
from graced.cli.watches import toml_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.base.config import Option
    from graced.base.paths import Paths

# One per daemon; the option table is an attribute of its kernel class.
DAEMON_MODULES = (
    "graced.supervisor.main",
    "graced.kernels.infrastructure",
    "graced.kernels.governance",
    "graced.kernels.memory",
    "graced.kernels.librarian",
    "graced.kernels.verification",
    "graced.kernels.healing",
    "graced.kernels.code",
    "graced.actuator.main",
    "graced.exporter.main",
)


def all_options() -> tuple[Option, ...]:
    """The options of all daemons."""
    from graced.runtime.kernel import Kernel

    found: list[Option] = []
    for name in DAEMON_MODULES:
        for value in vars(import_module(name)).values():
            if isinstance(value, type) and issubclass(value, Kernel) and value.__module__ == name:
                found += value.options
    return tuple(found)


def check_all(paths: Paths, options: tuple[Option, ...]) -> tuple[list[Problem], int]:
    """Every problem of every file, in the order of the files, and how many files were read."""
    problems = list(check(paths.config_file(), options))
    files = Files()
    playbooks = files.read(paths.code_dirs("playbooks"), _parser("graced.heal.playbook", "parse_playbook"))
    profiles = files.read(paths.code_dirs("profiles"), _parser("graced.heal.profile", "parse_profile"))
    files.read(paths.code_dirs("policy.d"), _parser("graced.policy.rules", "parse_policy"))
    watches = files.read((paths.watch_dir(),), _parser("graced.heal.watch", "parse_watch"))
    for profile in profiles.values():
        for name in profile.playbooks:
            if name not in playbooks and name not in files.broken:
                files.problems.append(Problem(profile.path, 0, f"heal.playbooks: there is no playbook {name}"))
    units: dict[str, str] = {}
    for watch in watches.values():
        if watch.profile not in profiles and watch.profile not in files.broken:
            files.problems.append(Problem(watch.path, 0, f"profile: there is no profile {watch.profile}"))
        elif watch.profile in profiles and profiles[watch.profile].unit != watch.unit:
            other = profiles[watch.profile].unit
            files.problems.append(Problem(watch.path, 0, f"profile: {watch.profile} is for {other}, not {watch.unit}"))
        if watch.unit in units:
            files.problems.append(Problem(watch.path, 0, f"unit: {watch.unit} is also in {units[watch.unit]}"))
        units[watch.unit] = watch.path
    return problems + files.problems, files.count + 1


def _parser(module: str, name: str) -> Callable[..., Any]:
    parse: Callable[..., Any] = getattr(import_module(module), name)
    return parse


class Files:
    """Reads directories of TOML files; what cannot be used becomes problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.broken: set[str] = set()
        self.count = 0

    def read(self, directories: tuple[str, ...], parse: Callable[..., Any]) -> dict[str, Any]:
        """Name → parsed file. All files are checked; for a name in two directories the last one counts."""
        parsed = {}
        for directory in directories:
            for name in self._names(directory):
                path = f"{directory}/{name}.toml"
                self.count += 1
                try:
                    values, line_of = load_toml(path)
                    parsed[name] = parse(name, values, line_of, path=path)
                except ConfigError as error:
                    self.broken.add(name)
                    self.problems += problems_of(error, path)
        return parsed

    def _names(self, directory: str) -> list[str]:
        try:
            return toml_names(directory)
        except ConfigError as error:
            self.problems += problems_of(error, directory)
            return []


def problems_of(error: ConfigError, path: str) -> list[Problem]:
    """A ConfigError of one file as problems with lines."""
    listed = error.fields.get("problems")
    if listed:
        return [Problem(path, int(one["line"]), str(one["message"])) for one in listed]
    line = int(error.fields.get("line") or 0)
    message = error.message
    for prefix in (f"{path}:{line}: ", f"{path}: "):
        message = message.removeprefix(prefix)
    return [Problem(path, line, message)]
