"""The option table: one declaration gives parsing, checking, defaults, help and the manual page.

Every daemon declares its options; `/etc/graced/graced.toml` has one table per daemon. All problems are reported
at once with file and line. A file that holds only comments costs no TOML parser (boot time).
"""

from __future__ import annotations

from graced.base.errors import ConfigError
from graced.base.record import Record
from graced.base.toml import has_content, parse_toml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from graced.base.json import JsonDict

_DURATION = r"(\d+(?:\.\d+)?)(ms|s|m|min|h|d)?"
_DURATION_S = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = r"(\d+)([KMG])?"
_SIZE_BYTES = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Option(Record):
    """One key of one section.

    `kind` is str, int, float, bool, strs, duration_s (a number of seconds or ``"90s"``, ``"5m"``) or size_bytes
    (``"64M"``). `low`/`high` bound numbers, `choices` strings. `reloadable` says whether SIGHUP applies it.
    """

    section: str
    name: str
    kind: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    reloadable: bool = True


class Problem(Record):
    """One thing wrong in the configuration file. `line` is 0 when it has no place."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}" if self.line else f"{self.path}: {self.message}"


class Config:
    """The values of one section, by option name. Unknown names raise KeyError: a typo is a bug."""

    def __init__(self, section: str, values: dict[str, Any]) -> None:
        self.section = section
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def items(self) -> Iterable[tuple[str, Any]]:
        """All names and values."""
        return self._values.items()


def duration_s(text: str) -> float:
    """``"90"``, ``"90s"``, ``"15m"``, ``"2h"``, ``"1d"``, ``"250ms"`` as seconds; ValueError otherwise."""
    import re

    found = re.fullmatch(_DURATION, text.strip(), re.ASCII)
    if not found:
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 2h or 1d")
    return float(found[1]) * _DURATION_S[found[2]]


def _duration(value: Any) -> float:
    if isinstance(value, str):
        return duration_s(value)
    return float(_instance(value, (int, float), "a duration such as 30 or '5m'"))


def _size(value: Any) -> int:
    import re

    found = re.fullmatch(_SIZE, str(value), re.ASCII) if not isinstance(value, bool) else None
    if not found:
        raise ValueError("a size is needed, such as 1048576 or '64M'")
    return int(found[1]) * _SIZE_BYTES[found[2]]


def _instance(value: Any, kind: type | tuple[type, ...], word: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{word} is needed, not {type(value).__name__}")
    return value


def _strs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of strings is needed")
    return tuple(value)


def _convert(option: Option, value: Any) -> Any:
    match option.kind:
        case "str":
            value = _instance(value, str, "a string")
        case "int":
            value = _instance(value, int, "a whole number")
        case "float":
            value = float(_instance(value, (int, float), "a number"))
        case "bool":
            value = _instance(value, bool, "true or false")
        case "strs":
            value = _strs(value)
        case "duration_s":
            value = _duration(value)
        case "size_bytes":
            value = _size(value)
        case _:
            raise ValueError(f"the option table has an unknown kind {option.kind}")
    _bound(option, value)
    return value


def _bound(option: Option, value: Any) -> None:
    if option.choices and value not in option.choices:
        raise ValueError(f"one of {', '.join(option.choices)} is needed")
    if option.low is not None and value < option.low:
        raise ValueError(f"{value:g} is below the minimum {option.low:g}")
    if option.high is not None and value > option.high:
        raise ValueError(f"{value:g} is above the maximum {option.high:g}")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="its mode should be 0644") from error


def load(path: str, options: tuple[Option, ...], section: str) -> Config:
    """The values of `section`. Raises ConfigError that lists all problems of this section."""
    defaults = {option.name: option.default for option in options if option.section == section}
    data = _read(path)
    if not has_content(data.decode("utf-8", "replace")):
        return Config(section, defaults)
    values, problems = _check(data, path, options, section)
    if problems:
        raise ConfigError("\n".join(map(str, problems)), hint="the running configuration is kept", path=path)
    return Config(section, {**defaults, **values})


def check(path: str, options: tuple[Option, ...]) -> list[Problem]:
    """Every problem of the whole file against every daemon's options; empty means good."""
    try:
        data = _read(path)
        return _check(data, path, options, None)[1]
    except ConfigError as error:
        return [Problem(path, error.fields.get("line", 0), error.message)]


def _check(
    data: bytes, path: str, options: tuple[Option, ...], section: str | None
) -> tuple[dict[str, Any], list[Problem]]:
    tree, line_of = parse_toml(data, path)
    known = {(option.section, option.name): option for option in options}
    sections = {option.section for option in options}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, table in tree.items():
        if section is not None and name != section:
            continue
        if name not in sections or not isinstance(table, dict):
            problems.append(Problem(path, line_of(name), f"[{name}] is not a section"))
            continue
        for key, value in table.items():
            option = known.get((name, key))
            line = line_of(f"{name}.{key}")
            if option is None:
                problems.append(Problem(path, line, f"{name}.{key} is not an option"))
                continue
            try:
                values[key] = _convert(option, value)
            except ValueError as error:
                problems.append(Problem(path, line, f"{name}.{key}: {error}"))
    return values, problems


def render_default(options: tuple[Option, ...]) -> str:
    """The shipped graced.toml: every option commented out at its default, with its help."""
    lines = [
        "# graced.toml: every option stands here with its default. Uncomment a line to change it, then",
        "# `systemctl reload graced.target`. `gracectl config check` reports every mistake with its line.",
    ]
    current = ""
    for option in sorted(options, key=lambda item: item.section):
        if option.section != current:
            current = option.section
            lines += ["", f"#[{current}]"]
        lines += [f"# {option.help}", f"#{option.name} = {toml_value(option.default)}"]
    return "\n".join(lines) + "\n"


def toml_value(value: JsonDict | Any) -> str:
    """A scalar or list of strings as TOML text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return f"{value:g}" if isinstance(value, float) else str(value)
