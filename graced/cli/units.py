"""What systemd says about units, in one `systemctl show`, and how unit names are written.

The CLI may be run by anyone: it asks with the caller's own rights and needs no daemon of graced for this.
"""

from __future__ import annotations

import re

from graced.base.errors import HostError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SYSTEMCTL_LIMIT_SECONDS = 30.0

_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "InactiveExitTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
)
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}")
_SUFFIXES = ("service", "socket", "target", "timer", "path", "mount", "slice", "scope", "swap", "device", "automount")


class UnitState(Record):
    """One unit as systemd sees it. `ready_ms` is null unless it is active and has both stamps."""

    unit: str
    load_state: str
    state: str
    sub_state: str
    result: str
    pid: int | None
    restarts: int | None
    ready_ms: float | None

    @property
    def active(self) -> bool:
        """Whether it serves as far as systemd knows."""
        return self.state in {"active", "reloading"}


def service_name(name: str) -> str:
    """`name` as the full name of a service unit. Raises HostError for what cannot be one."""
    if not _UNIT_NAME.fullmatch(name) or name.startswith((".", "-", "@")):
        raise HostError(f"{name!r} is not a unit name", hint="give it as systemctl shows it, such as nginx.service")
    suffix = name.rpartition(".")[2] if "." in name else ""
    if suffix == "service":
        return name
    if suffix in _SUFFIXES:
        raise HostError(f"{name} is a {suffix}, only services can be adopted", hint="name the service behind it")
    return f"{name}.service"


def escape(name: str) -> str:
    """A unit name as an instance name, as `systemd-escape` does it (systemd.unit(5), string escaping)."""
    out = []
    for index, byte in enumerate(name.encode()):
        char = chr(byte)
        if char == "/":
            out.append("-")
        elif (char == "." and index == 0) or not (char.isascii() and (char.isalnum() or char in ":_.")):
            out.append(f"\\x{byte:02x}")
        else:
            out.append(char)
    return "".join(out)


def parse_show(text: str) -> list[dict[str, str]]:
    """The blocks of `systemctl show` output as dicts; a block without Id is left out."""
    blocks = []
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("Id"):
            blocks.append(values)
    return blocks


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def unit_state(values: dict[str, str]) -> UnitState:
    """One block of `systemctl show`. What systemd did not say is null, never 0."""
    state = values.get("ActiveState") or "unknown"
    begun = _number(values.get("InactiveExitTimestampMonotonic"))
    ready = _number(values.get("ActiveEnterTimestampMonotonic"))
    known = state in {"active", "reloading"} and begun and ready and ready >= begun
    return UnitState(
        unit=values["Id"],
        load_state=values.get("LoadState") or "unknown",
        state=state,
        sub_state=values.get("SubState") or "unknown",
        result=values.get("Result") or "unknown",
        pid=_number(values.get("MainPID")) or None,
        restarts=_number(values.get("NRestarts")),
        ready_ms=((ready or 0) - (begun or 0)) / 1000 if known else None,
    )


def show(units: Iterable[str]) -> dict[str, UnitState]:
    """The state of each unit by the name that was asked for. Raises HostError when systemd cannot be asked."""
    names = list(dict.fromkeys(units))
    text = systemctl(["show", f"--property={','.join(_PROPERTIES)}", "--", *names])
    states = {state.unit: state for state in map(unit_state, parse_show(text))}
    found = {name: states[name] for name in names if name in states}
    if len(found) == len(names) or len(parse_show(text)) != len(names):
        return found
    # An alias answers with its own Id; the blocks come in the order of the names.
    return dict(zip(names, map(unit_state, parse_show(text)), strict=True))


def systemctl(arguments: Sequence[str]) -> str:
    """Run systemctl and return what it printed. Raises HostError with its own words when it fails."""
    import os
    import subprocess

    command = ["systemctl", "--no-pager", "--no-ask-password", *arguments]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=SYSTEMCTL_LIMIT_SECONDS,
            check=False,
        )
    except OSError as error:
        raise HostError(f"systemctl could not be run: {error.strerror}", hint="graced needs systemd") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(
            f"systemctl {arguments[0]} took longer than {SYSTEMCTL_LIMIT_SECONDS:g} s",
            hint="systemctl list-jobs shows what systemd waits for",
        ) from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise HostError(f"systemctl {arguments[0]} failed: {said[0]}", hint="see journalctl -b _PID=1")
    return done.stdout
