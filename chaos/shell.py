"""The few commands chaos uses, run without a shell, with a deadline."""

from __future__ import annotations

import json
import subprocess
from typing import Any

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class ChaosError(Exception):
    """A fault could not be made, undone or proven; the message says what to look at."""


class Refused(ChaosError):
    """Not here, or not by this user."""


def run(*argv: str, timeout_s: float = 30.0, check: bool = True) -> str:
    """Standard output of a command. Raises ChaosError when it fails or takes too long."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=ENVIRONMENT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChaosError(f"{' '.join(argv)}: {error}") from error
    if check and done.returncode:
        raise ChaosError(f"{' '.join(argv)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def show(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit as systemd has them now."""
    lines = run("systemctl", "show", unit, "--property", ",".join(names)).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def gracectl(*argv: str) -> Any:
    """The JSON answer of a gracectl read verb."""
    text = run("gracectl", *argv, "--json=short", check=False)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ChaosError(f"gracectl {' '.join(argv)} gave no JSON: {text[:200]!r}") from error
