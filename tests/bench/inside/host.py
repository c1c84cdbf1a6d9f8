"""What the measuring scripts share: the clock of systemd's stamps, `systemctl show`, JSON to whoever asked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any


def now_us() -> int:
    """CLOCK_MONOTONIC in µs, as in systemd's *TimestampMonotonic and journald's stamps."""
    return time.monotonic_ns() // 1000


def run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command without a shell; CalledProcessError shows nothing, so what it said goes to stderr."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if check and done.returncode:
        sys.stderr.write(f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        sys.exit(1)
    return done


def show(*units: str, properties: str) -> list[dict[str, str]]:
    """`systemctl show` of units, in order."""
    text = run("systemctl", "show", f"--property={properties}", *units).stdout
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]


def show_one(unit: str, properties: str) -> dict[str, str]:
    """`systemctl show` of one unit."""
    return show(unit, properties=properties)[0]


def give_up(reason: str) -> None:
    """It could not be measured: say why, and end with 1."""
    sys.stderr.write(f"{reason}\n")
    sys.exit(1)


def answer(result: Any) -> None:
    """The last line of stdout is the result."""
    print(json.dumps(result))
