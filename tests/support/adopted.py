"""An adopted daemon in a container, as the tests of healing see it: its files, its answer, its incidents.

A black box: systemctl, journalctl, gracectl and the daemon's own port. Never imports graced.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.container import Container

Incident = dict[str, Any]
HEAL_SECONDS = 60.0
# What the supervisor says at warning when it could not heal.
ESCALATED = r"^incident_\d+: \S+ is not healed"

PING = """
import socket
connection = socket.create_connection(("127.0.0.1", 6379), 1)
connection.sendall(b"PING\\r\\n")
assert connection.recv(64).startswith(b"+PONG")
"""
ANSWERS = {
    "nginx": ["curl", "-sS", "-o", "/dev/null", "--max-time", "1", "http://127.0.0.1:80/"],
    "redis-server": ["python3", "-I", "-c", PING],
    # A unit of the test itself, which has no port.
    "app": ["systemctl", "is-active", "--quiet", "app.service"],
}
CONFIGS = {"nginx": "/etc/nginx/nginx.conf", "redis-server": "/etc/redis/redis.conf"}


@dataclass(frozen=True)
class File:
    """Content, owner and mode of a file."""

    data: bytes = field(repr=False)
    owner: str
    mode: str


@dataclass
class Adopted:
    """One unit under graced's care."""

    machine: Container
    profile: str

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"{self.profile}.service"

    @property
    def config(self) -> str:
        """Its main configuration file."""
        return CONFIGS[self.profile]

    def adopt(self) -> None:
        """Starts and adopts it."""
        self.machine.systemctl("start", self.unit).ok()
        self.machine.run(["gracectl", "adopt", self.profile]).ok()

    def answers(self) -> bool:
        """Whether it serves."""
        return self.machine.run(ANSWERS[self.profile]).returncode == 0

    def file(self, path: str = "") -> File:
        """A file as it is; its configuration when no path is given."""
        path = path or self.config
        stat = self.machine.run(["stat", "-c", "%U:%G %a", path]).ok().stdout.split()
        return File(self.machine.path(path).read_bytes(), *stat)

    def fault(self, script: str, *, restart: bool = False) -> None:
        """Breaks something, as a unit of its own. A restart may well fail: that is the point of it."""
        script = script.replace("CONFIG", shlex.quote(self.config))
        script += f"; systemctl restart {self.unit} || :" if restart else ""
        self.machine.unit(["/bin/sh", "-ec", script]).ok()

    def kill(self, signal: str = "KILL", whom: str = "main") -> None:
        """Sends a signal to its main process or to all its processes."""
        self.machine.unit(["systemctl", "kill", f"--kill-whom={whom}", f"--signal={signal}", self.unit]).ok()

    def incidents(self) -> list[Incident]:
        """Its incidents, oldest first."""
        listed: list[Incident] = self.machine.run(["gracectl", "incidents", self.unit, "--json=short"]).json()
        return sorted(listed, key=lambda one: int(one["id"].split("_")[1]))

    def explain(self, incident: Incident) -> str:
        """The story of an incident, for people."""
        return self.machine.run(["gracectl", "explain", incident["id"]]).ok().stdout

    def acts(self) -> list[str]:
        """What graced did to it, by the unit's own journal: the playbooks, oldest first."""
        records = self.machine.journal("-u", self.unit)
        return [r["GRACED_PLAYBOOK"] for r in records if r.get("GRACED_ACT_ID") and "GRACED_PLAYBOOK" in r]

    def rejected(self) -> list[dict[str, Any]]:
        """The records about rejected files in the unit's own journal, oldest first."""
        return [r for r in self.machine.journal("-u", self.unit) if "GRACED_REJECTED" in r]

    def wait_incident(self, seconds: float = HEAL_SECONDS, **wanted: object) -> Incident:
        """The newest incident that has the values `wanted`, once there is one."""

        def look() -> Incident | None:
            fitting = (one for one in reversed(self.incidents()) if wanted.items() <= one.items())
            return next(fitting, None)

        found: Incident = self.machine.wait_until(f"an incident of {self.unit} with {wanted}", look, seconds)
        return found

    def _closed(self) -> int:
        pattern = re.compile(rf"^incident_\d+: \S+ on {re.escape(self.unit)} is closed: ")
        records = self.machine.journal(_SYSTEMD_UNIT="graced-supervisor.service")
        return sum(bool(pattern.search(str(r["MESSAGE"]))) for r in records)

    @contextlib.contextmanager
    def healed(self, seconds: float = HEAL_SECONDS) -> Iterator[list[Incident]]:
        """The body breaks it (or lets what is held go on). Afterwards the yielded list holds the incidents that it
        caused, all of them closed as healed, with playbook, times and verifier, and the unit serves. What was only
        observed (an invalid file that nothing has read yet) is not in the list."""
        before, count = {one["id"] for one in self.incidents() if one["closed_at"]}, self._closed()
        caused: list[Incident] = []
        yield caused
        self.machine.wait_until(f"an incident of {self.unit} is closed", lambda: self._closed() > count, seconds)

        def settled() -> list[Incident]:
            new = [one for one in self.incidents() if one["id"] not in before and one["outcome"] != "observed"]
            return new if new and all(one["closed_at"] for one in new) else []

        caused += self.machine.wait_until("its incidents are closed", settled, seconds)
        for one in caused:
            story = f"{one}\n{self.explain(one)}"
            assert one["outcome"] == "healed", story
            assert one["playbook"], story
            assert one["verified_by"].startswith("verification/"), story
            if one["finding"] == "unit.hung":
                # Nobody stamps the moment at which a process stops to answer.
                assert one["detect_ms"] is None, story
            else:
                assert 0 <= one["detect_ms"] < one["heal_ms"] < seconds * 1000, story
        assert self.machine.state(self.unit) == "active"
        assert self.answers(), self.machine.report()
