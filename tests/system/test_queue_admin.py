"""The task queue as an admin uses it on a real host: gracectl, accounts, a restart of the supervisor, a terminal."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.container import Container

LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"


def test_jobs_of_the_host_go_through_the_queue(machine: Container) -> None:
    machine.unit(["useradd", "-M", "-G", "_graced-read", "reader"]).ok()
    # the supervisor has read the groups before there was anybody in them
    machine.unit(["systemctl", "restart", "graced-supervisor"]).ok()

    machine.run(["gracectl", "pause", "--handler", "backup", "--reason", "the tape is full"]).ok()
    parent = machine.run(["gracectl", "submit", "backup", "nightly", "--sla", "1h"]).ok().stdout.strip()
    child = ["gracectl", "submit", "backup", "dump", "--parent", parent, "--context", "target=/srv", "--attempts", "1"]
    child_id = machine.run(child).ok().stdout.strip()
    tree = machine.run(["gracectl", "tree", child_id]).ok().stdout.splitlines()
    assert [parent in tree[0], child_id in tree[1]] == [True, True]
    assert "the tape is full" in machine.run(["gracectl", "why", child_id]).ok().stdout
    assert "paused" in machine.run(["gracectl", "top"], user="reader").ok().stdout
    refused = machine.run(["gracectl", "cancel", parent], user="reader")
    assert (refused.returncode, "_graced-admin" in refused.stderr) == (1, True)

    # a wait outlives the supervisor; the pause does too
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    waiting = machine.popen(["gracectl", "submit", "backup", "verify", "--wait"], **pipes)
    assert waiting.stdout is not None
    verify = waiting.stdout.readline().strip()
    machine.unit(["systemctl", "restart", "graced-supervisor"]).ok()
    stats = json.loads(machine.run(["gracectl", "top", "--json=short"]).ok().stdout)["stats"]
    assert stats["modes"]["backup"]["mode"] == "paused"
    machine.run(["gracectl", "cancel", verify, "--reason", "not tonight"]).ok()
    assert waiting.communicate(timeout=60)[0] == f"{verify} cancelled\n"
    assert waiting.returncode == 6

    machine.run(["gracectl", "cancel", parent]).ok()
    states = {
        task["id"]: task["state"] for task in json.loads(machine.run(["gracectl", "tasks", "--json=short"]).stdout)
    }
    assert (states[parent], states[child_id]) == ("cancelled", "cancelled")
    machine.run(["gracectl", "requeue", child_id]).ok()
    machine.run(["gracectl", "resume", "--handler", "backup"]).ok()
    assert "No worker" in machine.run(["gracectl", "why", child_id]).ok().stdout


def test_top_on_a_terminal(machine: Container) -> None:
    """script(1) is the terminal; q was typed before the view began."""
    shown = machine.run(["script", "-qec", "TERM=xterm gracectl top", "/dev/null"], input="q").ok().stdout
    assert "graced tasks" in shown
    assert shown.rstrip("\r\n").endswith(LEAVE)
