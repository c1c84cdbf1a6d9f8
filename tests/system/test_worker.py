"""A host's own jobs, set up as docs/WORKERS.md has it, line by line, with the examples of the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.container import Container

ROOT = Path(__file__).parents[2]
SHARE = "/usr/share/graced"


def commands() -> list[list[str]]:
    """The lines of each sh block of the page."""
    page = (ROOT / "docs/WORKERS.md").read_text()
    return [block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]


def finished(machine: Container, handler: str) -> list[dict[str, Any]]:
    """The tasks of a handler once all of them have ended."""
    tasks: list[dict[str, Any]] = machine.run(["gracectl", "tasks", "--handler", handler, "--json=short"]).json()
    return tasks if all(task["state"] in {"done", "failed", "dead", "cancelled"} for task in tasks) else []


def test_the_examples_as_documented(machine: Container) -> None:
    blocks = commands()
    assert len(blocks) == 2
    for block in blocks:
        for line in block:
            machine.unit(["/bin/sh", "-c", line]).ok()
    for handler in ("archive", "tally"):
        unit = f"{handler}-worker.service"
        assert machine.state(unit) == "active"
        assert machine.show(unit, "StatusText")["StatusText"].startswith(f"Working on {handler}")
    machine.systemctl("start", "archive-worker").ok()

    (archive,) = machine.wait_until("the archive is made", lambda: finished(machine, "archive"))
    assert archive["state"] == "done", archive
    target = archive["result"]["archive"]
    assert machine.path(target).stat().st_size == archive["result"]["bytes"] > 0
    packed = machine.run(["tar", "tzf", target]).ok().stdout
    assert "./varlink/io.graced.HTM.varlink" in packed

    (tally,) = machine.wait_until("the files are counted", lambda: finished(machine, "tally"))
    assert tally["state"] == "done", tally
    counted = machine.sh(f"find {SHARE} ! -type d | wc -l").ok().stdout
    assert tally["result"]["files"] == int(counted)

    # What is wrong with a task is said where an admin looks.
    submit = ["gracectl", "submit", "archive", "directory", "--context", '{"path": "/no/such"}']
    machine.unit(submit).ok()
    tasks = machine.wait_until("it failed", lambda: finished(machine, "archive")[1:] and finished(machine, "archive"))
    failed = next(task for task in tasks if task["context"]["path"] == "/no/such")
    assert (failed["state"], failed["error"]) == ("failed", "exit 65: /no/such is not a directory")

    # The worker outlives the supervisor, and ends when it is told to.
    before = machine.pid("tally-worker.service")
    machine.systemctl("restart", "graced-supervisor").ok()
    machine.unit(["gracectl", "submit", "tally", "directory", "--context", '{"path": "/etc"}']).ok()
    again = machine.wait_until("counted again", lambda: finished(machine, "tally")[1:] and finished(machine, "tally"))
    assert {task["state"] for task in again} == {"done"}
    assert machine.pid("tally-worker.service") == before
    machine.systemctl("stop", "tally-worker", "archive-worker").ok()
    assert machine.show("tally-worker.service", "Result")["Result"] == "success"


def test_a_worker_without_the_right_fails_to_start_and_says_why(machine: Container) -> None:
    command = ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--property=DynamicUser=yes"]
    done = machine.run([*command, "--service-type=notify", "graced-worker", "archive", "--", "/bin/true"])
    assert done.returncode == 77, done
    assert "PermissionDenied" in done.stderr
