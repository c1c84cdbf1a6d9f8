"""The documents, run as they are written: the README's first five minutes, and what to do when the ledger breaks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.container import Container, Done

ROOT = Path(__file__).parents[2]
BREAK_THE_LEDGER = """
import sqlite3
database = sqlite3.connect("/var/lib/graced/supervisor/ledger.db", isolation_level=None)
for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
    database.execute(f"DROP TRIGGER {name}")
(entry,) = database.execute("SELECT entry FROM ledger WHERE seq = 1").fetchone()
database.execute("UPDATE ledger SET entry = ? WHERE seq = 1", (entry.replace(b'"v":1', b'"v":2'),))
"""


def commands(page: str) -> list[list[str]]:
    """The lines of each sh block of a page."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [[line.strip() for line in block.splitlines() if line.strip()] for block in blocks]


def run(machine: Container, line: str) -> Done:
    """One line, typed by root in its home directory."""
    place = {"WorkingDirectory": "/root", "Environment": "HOME=/root"}
    return machine.unit(["/bin/sh", "-c", line], timeout=120, properties=place)


def closed(machine: Container) -> list[dict[str, object]]:
    """The incidents that are over; not those that were only noted, as a wrong file is that nothing has read yet."""
    listed = json.loads(run(machine, "gracectl incidents --json=short").ok().stdout)
    return [incident for incident in listed if incident["closed_at"] and incident["outcome"] != "observed"]


def healthy(machine: Container, line: str) -> Done | None:
    """What the status command said, if it said healthy."""
    done = run(machine, line)
    return None if done.returncode else done


def test_the_first_five_minutes(bare: Container, deb: Path) -> None:
    bare.systemctl("start", "nginx").ok()
    _two, lines = commands("README.md")
    bare.sh("mkdir /root/build").ok()
    bare.put(deb, f"/root/build/{lines[0].split('/')[-1]}")
    good = bare.read("/etc/nginx/nginx.conf")
    said = {}
    for line in lines:
        # On a slow machine the mistake is noted before the restart that it breaks, as an incident of its own.
        done = run(bare, line.replace("incident_1", str(closed(bare)[0]["id"])) if "incident_1" in line else line)
        if line.startswith("systemctl restart nginx"):
            assert done.returncode != 0
            bare.wait_until("the incident is closed", lambda: closed(bare))
        elif line.startswith("gracectl status"):
            # What is not known yet is not healthy: the first seconds after an installation count as degraded.
            done = bare.wait_until("healthy", lambda line=line: healthy(bare, line))
        else:
            done.ok()
        said[" ".join(line.split("#")[0].split()[:2])] = done.stdout

    assert "1 adopted unit" in said["gracectl status"]
    assert " 200 " in said["curl -sSI"]
    assert bare.read("/etc/nginx/nginx.conf") == good
    (incident,) = closed(bare)
    assert (incident["outcome"], incident["playbook"]) == ("healed", "restore-config")
    assert re.search(r"restore-config.*\n(.*\n)*.*Verified: healthy", said["gracectl explain"])
    kept = re.search(r"The rejected file is (/var/lib/graced/rejected/\S+)\.", said["journalctl --no-pager"])
    assert kept
    assert bare.read(kept[1]) == good + "listen eighty\n"
    assert said["gracectl audit"].startswith("The ledger holds.")

    # What the README says next.
    for line in ("adopt nginx --refresh", "reset nginx", "pause 1h", "resume", "release nginx"):
        run(bare, f"gracectl {line}").ok()
    run(bare, "apt-get purge --yes graced").ok()
    assert run(bare, "ls -d /etc/graced /var/lib/graced /run/graced").stdout == ""


def test_when_the_ledger_does_not_verify(machine: Container) -> None:
    machine.allow(r"ledger", r"paused")
    *_, keep, check, anew = commands("docs/SECURITY.md")
    run(machine, "gracectl audit verify").ok()
    machine.unit(["python3", "-c", BREAK_THE_LEDGER]).ok()

    broken = run(machine, "gracectl audit verify")
    assert broken.returncode == 1
    assert re.search(r"^  changed at \d+:", broken.stdout, re.MULTILINE)
    assert "SECURITY.md in /usr/share/doc/graced" in broken.stderr
    assert list(machine.path("/usr/share/doc/graced").glob("SECURITY.md*"))
    for line in keep:
        run(machine, line).ok()
    run(machine, 'gracectl pause --reason "ledger does not verify"').ok()
    copied = run(machine, " ".join(check))
    assert copied.returncode == 1
    assert re.search(r"^  changed at \d+:", copied.stdout, re.MULTILINE)
    assert machine.path("/root/graced-evidence/journal.export").stat().st_size > 0

    for line in anew:
        run(machine, line).ok()
    machine.wait_state("graced-supervisor.service", "active")
    again = run(machine, "gracectl audit verify")
    assert "The heads kept outside know" in again.stdout
    assert "  changed at" not in again.stdout


def test_what_the_specification_map_shows_can_be_seen(machine: Container) -> None:
    rows = re.findall(
        r"^\| \d+ \|.*\| ([^|]+) \| [^|]+ \|$", (ROOT / "docs/SPECIFICATION-MAP.md").read_text(), re.MULTILINE
    )
    seen = {line for row in rows for line in re.findall(r"`((?:gracectl|systemctl|curl) [^`]+)`", row)}
    assert len(seen) > 15
    machine.systemctl("start", "nginx").ok()
    run(machine, "gracectl adopt nginx").ok()
    machine.unit(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "nginx"]).ok()
    machine.wait_until("the incident is closed", lambda: closed(machine))
    for line in sorted(seen - {"gracectl status"}):
        done = run(machine, line).ok()
        assert done.stdout + done.stderr, line
    machine.wait_until("healthy", lambda: healthy(machine, "gracectl status"))
