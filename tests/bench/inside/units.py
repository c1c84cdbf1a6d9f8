"""Inside the container: start of the whole target, and each daemon's way back after a fault.

usage: python3 -m inside.units start COUNT | again kill|stop|freeze ROUNDS
All times are systemd's own monotonic stamps; the script itself waits in long steps so that it takes no CPU from what
it measures.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from inside.host import answer, give_up, now_us, run, show, show_one
from inside.names import UNITS

STAMPS = "Id,ActiveState,InactiveExitTimestampMonotonic,ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic"
CGROUPS = {
    "graced": Path("/sys/fs/cgroup/graced.slice"),
    "journald": Path("/sys/fs/cgroup/system.slice/systemd-journald.service"),
}
GONE_SECONDS = 30.0
# Long enough for the daemons to have done what they do right after READY.
SETTLE_SECONDS = 0.7


def cpu_ms() -> dict[str, float]:
    """CPU time so far: of graced in its own code and in the kernel (the sandbox is set up there), journald, PID 1."""
    used = {"systemd": int(Path("/proc/1/schedstat").read_text().split()[0]) / 1e6}
    for name, path in CGROUPS.items():
        if path.exists():
            words = (path / "cpu.stat").read_text().split()
            stat = dict(zip(words[::2], words[1::2], strict=True))
            used[f"{name} user"] = int(stat["user_usec"]) / 1000
            used[f"{name} kernel"] = int(stat["system_usec"]) / 1000
    return used


def start() -> dict[str, Any]:
    """One cold start. `ready_ms` per daemon from just before `systemctl start`; the parts of it on average."""
    run("systemctl", "stop", "graced.target")
    run("systemctl", "stop", "graced-*.service", "graced-keys.service", check=False)
    run("systemctl", "reset-failed", check=False)
    left = [one["Id"] for one in show(*UNITS, properties="Id,ActiveState") if one["ActiveState"] != "inactive"]
    if left:
        give_up(f"not stopped before the start: {left}")
    time.sleep(SETTLE_SECONDS)
    before = cpu_ms()
    since_us = now_us()
    run("systemctl", "start", "graced.target")
    after = cpu_ms()
    shown = show(*UNITS, properties=STAMPS)
    away = [one["Id"] for one in shown if one["ActiveState"] != "active"]
    if len(shown) != len(UNITS) or away:
        give_up(f"not READY after the start: {away}")
    names = ("InactiveExitTimestampMonotonic", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    begun, executed, ready = ([(int(one[name]) - since_us) / 1000 for one in shown] for name in names)
    time.sleep(SETTLE_SECONDS)
    later = cpu_ms()
    return {
        "later_ms": sum(value - after[name] for name, value in later.items() if name.startswith("graced")),
        "ready_ms": dict(zip(UNITS, ready, strict=True)),
        "begun_ms": dict(zip(UNITS, begun, strict=True)),
        "executed_ms": dict(zip(UNITS, executed, strict=True)),
        "cpu_ms": {name: after[name] - before.get(name, 0.0) for name in after},
    }


def again(unit: str, fault: str) -> float:
    """From the fault to READY, in ms."""
    run("systemctl", "reset-failed", unit)
    shown = show_one(unit, "MainPID,ControlGroup,ActiveState")
    pid = int(shown["MainPID"])
    if not pid or shown["ActiveState"] != "active":
        give_up(f"{unit} does not run before the fault: {shown}")
    since_us = now_us()
    if fault == "freeze":
        Path(f"/sys/fs/cgroup{shown['ControlGroup']}/cgroup.freeze").write_text("1")
    else:
        os.kill(pid, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    while now_us() - since_us < GONE_SECONDS * 1e6:
        time.sleep(0.3)
        shown = show_one(unit, "MainPID,ActiveState,ActiveEnterTimestampMonotonic")
        if shown["ActiveState"] == "active" and int(shown["MainPID"]) not in {0, pid}:
            ready_us = int(shown["ActiveEnterTimestampMonotonic"])
            if ready_us <= since_us:
                give_up(f"{unit}: READY before the fault: {shown}")
            time.sleep(SETTLE_SECONDS)
            return (ready_us - since_us) / 1000
    give_up(f"{unit} is not READY {GONE_SECONDS} s after {fault}: {shown}")
    raise AssertionError


def main(verb: str, *arguments: str) -> None:
    """See the module."""
    if verb == "start":
        answer([start() for _ in range(int(arguments[0]))])
    else:
        fault, rounds = arguments
        answer([{"unit": unit, "ms": again(unit, fault)} for _ in range(int(rounds)) for unit in UNITS])


if __name__ == "__main__":
    main(*sys.argv[1:])
