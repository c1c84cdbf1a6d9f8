"""What can be broken: graced's own daemons and the units it has adopted."""

from __future__ import annotations

import http.client
import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.shell import ChaosError, run, show
from chaos.timespan import parse_ms

KERNELS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
ETC = Path("/etc/graced")
SHARE = Path("/usr/share/graced")


@dataclass(frozen=True)
class Target:
    """One unit. `config` is the file a config fault damages."""

    unit: str
    config: Path
    kernel: bool
    probe: dict[str, Any] | None = None

    def main_pid(self) -> int:
        """The main process now. ChaosError when there is none: a fault needs something to break."""
        pid = int(show(self.unit, "MainPID").get("MainPID", "0"))
        if pid <= 0:
            raise ChaosError(f"{self.unit} has no main process: systemctl status {self.unit}")
        return pid

    def pids(self) -> list[int]:
        """Every process of the unit, those in groups of its own making too; empty when it does not run."""
        group = show(self.unit, "ControlGroup").get("ControlGroup", "")
        if not group:
            return []
        files = Path(f"/sys/fs/cgroup{group}").rglob("cgroup.procs")
        return sorted({int(line) for file in files for line in file.read_text().split()})

    def state(self) -> str:
        """systemd's ActiveState."""
        return show(self.unit, "ActiveState").get("ActiveState", "unknown")

    def serves(self) -> bool:
        """Whether it is active and answers the first probe of its profile."""
        return self.state() == "active" and (self.probe is None or _answers(self.probe))

    def watchdog_ms(self) -> float:
        """After how long systemd kills it when it hangs. ChaosError without a watchdog: a hang would never end."""
        limit_ms = parse_ms(show(self.unit, "WatchdogUSec").get("WatchdogUSec", ""))
        if not limit_ms:
            raise ChaosError(f"{self.unit} has no watchdog: a hang would never end")
        return limit_ms

    def restarts(self) -> bool:
        """Whether systemd itself starts it again after a crash."""
        return show(self.unit, "Restart").get("Restart", "no") not in {"no", "on-success", "on-watchdog"}

    def bring_back(self) -> None:
        """Start it if a fault left it failed; a stopped unit is somebody's decision and stays stopped."""
        if self.state() == "failed":
            run("systemctl", "reset-failed", self.unit)
            run("systemctl", "start", self.unit, timeout_s=90.0)


def _answers(probe: dict[str, Any]) -> bool:
    try:
        if probe["kind"] == "http":
            host, port = str(probe["address"]).rsplit(":", 1)
            connection = http.client.HTTPConnection(host, int(port), timeout=1.0)
            connection.request("GET", str(probe.get("path", "/")))
            low, high = probe.get("expect_status", [200, 499])
            return bool(low <= connection.getresponse().status <= high)
        family = socket.AF_UNIX if probe["kind"] == "unix" else socket.AF_INET
        address: Any = probe["address"]
        if family == socket.AF_INET:
            host, port = str(address).rsplit(":", 1)
            address = (host, int(port))
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(1.0)
            sock.connect(address)
            sock.sendall(str(probe.get("send", "")).encode())
            wanted = str(probe.get("expect", "")).encode()
            return not wanted or sock.recv(4096).startswith(wanted)
    except (OSError, http.client.HTTPException):
        return False


def kernel(name: str) -> Target:
    """One of graced's own daemons."""
    return Target(f"graced-{name}.service", ETC / "graced.toml", kernel=True)


def adopted() -> list[Target]:
    """Every unit in /etc/graced/watch.d, with what its profile says. ChaosError for a file that cannot be used."""
    found = []
    for path in sorted((ETC / "watch.d").glob("*.toml")):
        try:
            watch = tomllib.loads(path.read_text())
            name = f"profiles/{watch['profile']}.toml"
            profile_path = next((one for one in (ETC / name, SHARE / name) if one.exists()), None)
            if profile_path is None:
                raise ChaosError(f"{path}: there is no profile {watch['profile']}")
            profile = tomllib.loads(profile_path.read_text())
            probes = profile.get("probe", [])
            config = Path(profile["config"]["paths"][0])
            found.append(Target(str(watch["unit"]), config, kernel=False, probe=probes[0] if probes else None))
        except (OSError, tomllib.TOMLDecodeError, KeyError, IndexError) as error:
            raise ChaosError(f"{path} or its profile cannot be used: {error!r}; gracectl config check") from error
    return found


def everything() -> list[Target]:
    """All that can be broken on this host."""
    return [kernel(name) for name in KERNELS] + adopted()


def find(name: str) -> Target:
    """A target by unit or kernel name. ChaosError with the known ones."""
    known = {one.unit: one for one in everything()}
    unit = name if "." in name else f"graced-{name}.service" if name in KERNELS else f"{name}.service"
    if unit not in known:
        raise ChaosError(f"{name} is neither a daemon of graced nor adopted; there are: {', '.join(known)}")
    return known[unit]


def broken(unit: str) -> Target:
    """The unit of an undo record, which may have been released since."""
    return Target(unit, ETC / "graced.toml", kernel=unit in {kernel(name).unit for name in KERNELS})
