"""Checks a parsed TOML table against what a program reads from it, and reports every problem at once.

A `Table` hands out typed values and remembers which keys were asked for; what is left over is an unknown key,
which is an error (a typo must never silently loosen a rule). `Problems.raise_if_any` raises one ConfigError whose
message lists ``file:line: problem`` and whose field `problems` has the same as data. Used by heal and policy.
"""

from __future__ import annotations

from graced.base.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from graced.base.json import JsonDict

    LineOf = Callable[[str], int]

MAX_TEXT = 4096
_CONTROL = frozenset(map(chr, (*range(9), 11, 12, *range(14, 32), 127)))


def no_lines(_key: str) -> int:
    """A `line_of` for data that has no file."""
    return 0


class Problems:
    """What is wrong with one file. `path` is shown before each problem, `line_of` maps a dotted key to its line."""

    def __init__(self, path: str, line_of: LineOf) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []
        self._line_of = line_of

    def add(self, key: str, message: str) -> None:
        """Note a problem with the dotted `key` (the whole file when empty)."""
        line = self._line_of(key) if key else 1
        self.found.append((line, f"{key}: {message}" if key else message))

    def raise_if_any(self) -> None:
        """ConfigError with all problems, in file order, if there are any."""
        if self.found:
            raise config_error(self.path, self.found)


def config_error(path: str, found: Sequence[tuple[int, str]]) -> ConfigError:
    """One ConfigError for a list of (line, message); line 0 means the line is unknown."""
    ordered = sorted(found)
    lines = [f"{path}:{line}: {message}" if line else f"{path}: {message}" for line, message in ordered]
    return ConfigError(
        "\n".join(lines), path=path, problems=[{"line": line, "message": message} for line, message in ordered]
    )


class Table:
    """One TOML table. Getters note a problem and return the default instead of raising."""

    def __init__(self, problems: Problems, data: object, key: str = "") -> None:
        self.problems = problems
        self.key = key
        self._seen: set[str] = set()
        if isinstance(data, dict):
            self.data: JsonDict = data
        else:
            self.data = {}
            problems.add(key, f"a table is needed, not {_kind(data)}")

    def at(self, name: str) -> str:
        """The dotted key of `name` in this table."""
        return f"{self.key}.{name}" if self.key else name

    def bad(self, name: str, message: str) -> None:
        """Note a problem with one of this table's keys."""
        self.problems.add(self.at(name), message)

    def take(self, name: str) -> Any:
        """The raw value, None when missing; counts as known."""
        self._seen.add(name)
        return self.data.get(name)

    def _need(self, name: str, default: object, *, required: bool) -> Any:
        value = self.take(name)
        if value is None:
            if required:
                self.problems.add(self.key, f"{name} is missing")
            return default
        return value

    def text(
        self, name: str, default: str = "", *, required: bool = False, choices: Sequence[str] = (), match: str = ""
    ) -> str:
        """A string of at most 4096 characters without control characters; one of `choices`, or matching `match`."""
        value = self._need(name, default, required=required)
        problem = text_problem(value, choices, match)
        if name not in self.data or not problem:
            return str(value)
        self.bad(name, problem)
        return default

    def texts(
        self,
        name: str,
        *,
        required: bool = False,
        choices: Sequence[str] = (),
        match: str = "",
        bare: bool = False,
        unique: bool = True,
    ) -> tuple[str, ...]:
        """A list of strings, each checked as `text` does; with `bare` one string counts as a list of one."""
        value = self._need(name, [], required=required)
        if bare and isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            self.bad(name, f"a list of strings is needed, not {_kind(value)}")
            return ()
        if required and not value and name in self.data:
            self.bad(name, "at least one is needed")
        good = []
        for index, item in enumerate(value):
            problem = text_problem(item, choices, match)
            if unique and item in good:
                problem = f"{item!r} is there twice"
            if problem:
                self.problems.add(self.at(f"{name}[{index}]"), problem)
            else:
                good.append(item)
        return tuple(good)

    def number(self, name: str, default: float, low: float, high: float, *, required: bool = False) -> float:
        """A number in ``low..high``."""
        value = self._need(name, default, required=required)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.bad(name, f"a number is needed, not {_kind(value)}")
            return default
        if not low <= value <= high:
            self.bad(name, f"{value} is not within {low:g}..{high:g}")
            return default
        return float(value)

    def whole(self, name: str, default: int, low: int, high: int, *, required: bool = False) -> int:
        """A whole number in ``low..high``."""
        value = self._need(name, default, required=required)
        if isinstance(value, bool) or not isinstance(value, int):
            self.bad(name, f"a whole number is needed, not {_kind(value)}")
            return default
        if not low <= value <= high:
            self.bad(name, f"{value} is not within {low}..{high}")
            return default
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self._need(name, default, required=False)
        if not isinstance(value, bool):
            self.bad(name, f"true or false is needed, not {_kind(value)}")
            return default
        return value

    def table(self, name: str) -> Table:
        """A table inside; an empty one when missing."""
        value = self.take(name)
        return Table(self.problems, {} if value is None else value, self.at(name))

    def tables(self, name: str, *, required: bool = False, most: int = 100) -> list[Table]:
        """An array of tables (``[[name]]``) with at most `most` of them."""
        value = self._need(name, [], required=required)
        if not isinstance(value, list):
            self.bad(name, f"[[{name}]] is needed, not {_kind(value)}")
            return []
        if len(value) > most:
            self.bad(name, f"{len(value)} of them, at most {most} are accepted")
        return [Table(self.problems, item, self.at(f"{name}[{index}]")) for index, item in enumerate(value[:most])]

    def done(self) -> None:
        """Every key nobody asked for is a problem."""
        for name in self.data:
            if name not in self._seen:
                known = ", ".join(sorted(self._seen))
                self.bad(name, f"unknown key; known here: {known}")


def text_problem(value: object, choices: Sequence[str], match: str) -> str:
    """Why `value` is not an acceptable string, empty if it is."""
    if not isinstance(value, str):
        return f"a string is needed, not {_kind(value)}"
    if len(value) > MAX_TEXT:
        return f"{len(value)} characters, at most {MAX_TEXT} are accepted"
    if not value.isprintable() and not _CONTROL.isdisjoint(value):
        return "control characters are not accepted"
    if choices and value not in choices:
        return f"{value!r} is not one of {', '.join(choices)}"
    if match:
        import re

        if not re.fullmatch(match, value):
            return f"{value!r} is not accepted here"
    return ""


def _kind(value: object) -> str:
    names = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false"}
    names |= {"list": "a list", "dict": "a table", "NoneType": "nothing"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
