"""TOML with line numbers, so that an error can point at what an admin wrote.

`tomllib` gives values without positions; a second, simple pass over the lines finds where each key stands.
"""

from __future__ import annotations

from graced.base.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict

MAX_BYTES = 256 * 1024

_TABLE = r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$"
_KEY = r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""


def has_content(text: str) -> bool:
    """Whether any line is more than blank or a comment (a shipped file with all defaults has none)."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def parse_toml(data: bytes, path: str) -> tuple[JsonDict, Callable[[str], int]]:
    """The values of a TOML text and a function from dotted key (``probe[0].kind``) to its line (0: not found).

    Raises ConfigError with `path` and line when it is too large, not UTF-8 or not TOML.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(data)} bytes, at most {MAX_BYTES} are read", path=path, line=0)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text", path=path, line=line) from error
    if not has_content(text):
        return {}, lambda _key: 0
    import re
    import tomllib

    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError; a number of more than 4300 digits is a plain one.
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else len(text.splitlines())
        reason = str(error).split(" (at ", maxsplit=1)[0]
        raise ConfigError(f"{path}:{line}: {reason}", path=path, line=line) from error
    lines = _lines(text)
    return values, lambda key: _find(lines, key)


def load_toml(path: str) -> tuple[JsonDict, Callable[[str], int]]:
    """As `parse_toml`, from a file. ConfigError also when it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", hint="check that it exists and its mode", path=path, line=0
        ) from error
    return parse_toml(data, path)


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _lines(text: str) -> dict[str, int]:
    import re

    is_table, is_key = re.compile(_TABLE), re.compile(_KEY)
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        table = is_table.match(line)
        if table:
            prefix = _plain(table[2])
            if table[1] == "[[":
                index = counts.get(prefix, -1) + 1
                counts[prefix] = index
                prefix = f"{prefix}[{index}]"
            lines.setdefault(prefix, number)
            continue
        key = is_key.match(line)
        if key:
            name = f"{prefix}.{_plain(key[1])}" if prefix else _plain(key[1])
            lines.setdefault(name, number)
    return lines


def _find(lines: dict[str, int], key: str) -> int:
    while key:
        if key in lines:
            return lines[key]
        shorter = max(key.rfind("."), key.rfind("["))
        key = key[:shorter] if shorter > 0 else ""
    return 0
