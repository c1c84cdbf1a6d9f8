"""How loaded the host is: PSI, memory, load, disk. What cannot be read is None: unknown, not fine.

Read straight from /proc (psutil costs 30 ms at import and gives no PSI). Parsers are pure.
Used by the Infrastructure kernel.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

RESOURCES = ("cpu", "memory", "io")


def parse_psi(text: str) -> dict[str, float] | None:
    """/proc/pressure/*: {"some_avg10": 0.0, …, "full_avg300": …} in percent; None when it is not that format."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] not in {"some", "full"}:
            continue
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if equals and name in {"avg10", "avg60", "avg300"}:
                number = _percent(value)
                if number is None:
                    return None
                found[f"{words[0]}_{name}"] = number
    return found or None


def _percent(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0.0 <= number <= 100.0 else None


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo: bytes by name, for the lines that carry kB."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB" and words[1].isascii() and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1]) * 1024
    return found


def parse_loadavg(text: str) -> float | None:
    """/proc/loadavg: the one-minute average."""
    first, _space, _rest = text.partition(" ")
    try:
        return float(first)
    except ValueError:
        return None


def disk(path: str) -> JsonDict | None:
    """Bytes and inodes of the file system that holds `path`; None when it cannot be asked."""
    try:
        stat = os.statvfs(path)
    except OSError:
        return None
    return {
        "path": path,
        "size_bytes": stat.f_blocks * stat.f_frsize,
        "free_bytes": stat.f_bavail * stat.f_frsize,
        "inodes": stat.f_files,
        "inodes_free": stat.f_favail,
    }


def sample(proc: str = "/proc", disks: tuple[str, ...] = ("/", "/var")) -> JsonDict:
    """One look at the host; see the parsers for units."""
    memory = parse_meminfo(_read(f"{proc}/meminfo") or "")
    return {
        "pressure": {name: parse_psi(_read(f"{proc}/pressure/{name}") or "") for name in RESOURCES},
        "memory_total_bytes": memory.get("MemTotal"),
        "memory_available_bytes": memory.get("MemAvailable"),
        "swap_free_bytes": memory.get("SwapFree"),
        "load1": parse_loadavg(_read(f"{proc}/loadavg") or ""),
        "cpus": os.cpu_count(),
        "disks": [found for path in disks if (found := disk(path)) is not None],
    }


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return None
