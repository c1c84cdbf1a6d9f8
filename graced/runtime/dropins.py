"""Drop-ins an admin wants graced to know (/etc/graced/dropins/*.conf), checked by systemd itself before they count.

systemd ignores what it does not understand in a unit file; for code that is an error here. Used by the Code kernel.
"""

from __future__ import annotations

import os

from graced.base.digest import sha256
from graced.base.errors import ConfigError, HostError
from graced.runtime.catalog import RefusedFile, problems_of, read_file
from graced.runtime.process import run_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.runtime.loop import Loop

ANALYZE = "/usr/bin/systemd-analyze"
DROPIN = "dropin"
TIMEOUT_SECONDS = 10.0
_LINE = r".*/checked\.conf:(\d+): (.*)"


def find(directory: str) -> dict[str, str]:
    """name → path of the drop-ins; empty when there is no such directory."""
    try:
        names = os.listdir(directory)
    except OSError:
        return {}
    return {name: f"{directory}/{name}" for name in sorted(names) if name.endswith(".conf") and name[0] != "."}


async def check(loop: Loop, path: str, work_directory: str) -> RefusedFile | None:
    """Why a drop-in is refused; None when systemd takes every line of it. `work_directory` is the daemon's own.

    Raises HostError when systemd-analyze cannot be run or does not end: that is no verdict.
    """
    name = os.path.basename(path)
    try:
        data = read_file(path)
    except ConfigError as error:
        return RefusedFile(DROPIN, name, path, "", problems_of(error), None)
    unit = f"{work_directory}/graced-check.service"
    try:
        os.makedirs(f"{unit}.d", mode=0o700, exist_ok=True)
        _write(unit, b"[Service]\nExecStart=/bin/true\n")
        _write(f"{unit}.d/checked.conf", data)
    except OSError as error:
        raise HostError(f"{work_directory}: {error.strerror}") from error
    argv = [ANALYZE, "verify", "--man=no", "--recursive-errors=no", unit]
    done = await run_process(loop, argv, TIMEOUT_SECONDS)
    if done.timed_out:
        raise HostError(f"systemd-analyze verify of {path} took longer than {TIMEOUT_SECONDS:g} s")
    import re

    found = [re.match(_LINE, line) for line in done.stderr.splitlines()]
    errors = tuple({"line": int(match[1]), "message": match[2]} for match in found if match)
    if not errors and done.returncode != 0:
        errors = ({"line": 0, "message": done.stderr.strip() or f"systemd-analyze exits {done.returncode}"},)
    if not errors:
        return None
    return RefusedFile(DROPIN, name, path, sha256(data).hexdigest(), errors, None)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
