"""`make chaos`: graced-chaos breaks every daemon and every adopted unit, on each Debian; one table at the end.

usage: python3 -m tests.support.chaos --deb FILE [--suite NAME]...
Exit 0 only if every row healed in time, with evidence.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.show import BOLD, Paint, table
from tests.support import image
from tests.support.container import Container

if TYPE_CHECKING:
    from typing import TextIO

CHAOS = "/usr/lib/graced/graced-chaos"
ADOPTED = ("nginx", "redis-server")


class Terminal:
    """Where people read along: coloured on a terminal, plain in a file or a pipe."""

    def __init__(self, out: TextIO) -> None:
        self.colour = out.isatty() and "NO_COLOR" not in os.environ
        self.paint = Paint(colour=self.colour)
        self._out = out

    def title(self, text: str) -> None:
        """Starts a part."""
        self.say(f"\n{self.paint(f'== {text}', BOLD)}")

    def say(self, text: str) -> None:
        """Prints, at once."""
        print(text, file=self._out, flush=True)


def chaos_command(arguments: list[str]) -> list[str]:
    """graced-chaos as a unit of the machine: its faults get no rights from outside."""
    return ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--", CHAOS, "run", *arguments]


def run_chaos(machine: Container, arguments: list[str], terminal: Terminal) -> int:
    """Runs graced-chaos and shows all it says as it says it; its exit code."""
    colour = ["--colour", "always" if terminal.colour else "never"]
    process = machine.popen(
        chaos_command([*arguments, *colour]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            terminal.say(line.rstrip("\n"))
    return process.wait()


def rows_of(machine: Container, arguments: list[str], terminal: Terminal) -> list[dict[str, Any]]:
    """Runs graced-chaos and shows its progress; its rows. AssertionError when it gives none."""
    process = machine.popen(
        chaos_command([*arguments, "--json"]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.strip():
                terminal.say(f"  {line.rstrip()}")
        answer = process.stdout.read()
    code = process.wait()
    if code not in {0, 1} or not answer.strip():
        raise AssertionError(f"graced-chaos: exit {code}\n{''.join(said)}{machine.report()}")
    rows: list[dict[str, Any]] = json.loads(answer)
    return rows


def main() -> int:
    """Returns 0 when every row passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deb", type=Path, required=True)
    parser.add_argument("--suite", choices=image.SUITES, action="append")
    options = parser.parse_args()
    terminal = Terminal(sys.stdout)
    rows = []
    for suite in options.suite or image.SUITES:
        terminal.title(f"Debian {suite} with {options.deb.name}, adopted: {', '.join(ADOPTED)}")
        with Container(image.installed(suite, options.deb)) as machine:
            machine.systemctl("start", "graced.target", *ADOPTED).ok()
            for unit in ADOPTED:
                machine.run(["gracectl", "adopt", unit]).ok()
            rows += [{"debian": suite, **row} for row in rows_of(machine, [], terminal)]
            if not all(row["passed"] for row in rows):
                terminal.say(machine.report())
    terminal.say("")
    terminal.say(table(rows, terminal.paint, first=["debian"]))
    return 0 if rows and all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
