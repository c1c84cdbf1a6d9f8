"""`make run`: a Debian with graced and nginx, thrown away after; nginx is broken three ways, and graced has to heal it.

usage: python3 -m tests.support.demo --deb FILE [--suite NAME] [--keep]
The faults are those of graced-chaos, run inside. What systemd and graced say is shown as it happens, with the
milliseconds since the fault. Exit 0 only if all three healed.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.support import image
from tests.support.chaos import Terminal, run_chaos
from tests.support.container import Container

UNIT = "nginx.service"
FAULTS = ("kill", "stop", "config")


def main() -> int:
    """Returns 0 when all faults healed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deb", type=Path, required=True)
    parser.add_argument("--suite", choices=image.SUITES, default=image.SUITES[0])
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    terminal = Terminal(sys.stdout)
    terminal.title(f"Debian {options.suite} with nginx and {options.deb.name}, in a container of its own")
    if not image.is_built(options.suite):
        terminal.say("the image is made first, once: this takes a minute or two")
    with ExitStack() as stack:
        machine = stack.enter_context(Container(image.installed(options.suite, options.deb)))
        code = demonstrate(machine, terminal)
        if options.keep:
            keep(machine, terminal, code)
        return code


def demonstrate(machine: Container, terminal: Terminal) -> int:
    """Adopts nginx, breaks it, shows what became of it; the exit code."""
    machine.systemctl("start", "graced.target", UNIT).ok()
    terminal.title("gracectl adopt nginx")
    adopted = machine.run(["gracectl", "adopt", "nginx"]).ok()
    terminal.say((adopted.stdout + adopted.stderr).strip())
    faults = [word for fault in FAULTS for word in ("--fault", fault)]
    code = run_chaos(machine, ["--watch", "--unit", UNIT, *faults], terminal)
    for verb in ("status", "incidents"):
        terminal.title(f"gracectl {verb}")
        terminal.say(machine.run(["gracectl", verb]).stdout.strip())
    if code:
        terminal.title("not everything healed: what the machine says")
        terminal.say(machine.report())
    return code


def keep(machine: Container, terminal: Terminal, code: int) -> None:
    """Leaves the machine up and never returns: a child in the background waits for its end and tidies up."""
    terminal.title("the machine stays up")
    terminal.say(f"enter it:  nsenter --target {machine.leader} --all -- bash -l")
    terminal.say("look:      gracectl status; gracectl incidents; gracectl explain incident_1; journalctl -f")
    terminal.say("break it:  /usr/lib/graced/graced-chaos run --watch --unit nginx")
    terminal.say(f"end it:    nsenter --target {machine.leader} --all -- systemctl poweroff")
    if os.fork() == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        poll = select.poll()
        poll.register(machine.ended(), select.POLLIN)
        poll.poll()
        machine.stop()
    # Neither of the two may run the other's clean-up.
    os._exit(code)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
