"""SIGSTOP to every process of the unit: a hang that keeps its sockets."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from chaos.journal import now_us
from chaos.shell import ChaosError
from chaos.targets import Target

NAME = "stop"
STOPPED = "T"


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state (field 3) on. FileNotFoundError or ProcessLookupError when it is gone."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _started(pid: int) -> str:
    """A process' start time in clock ticks: pid and this together name it for ever."""
    return _stat(pid)[19]


def prepare(target: Target) -> dict[str, Any]:
    """Which processes to continue."""
    processes = []
    for pid in target.pids():
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            processes.append([pid, _started(pid)])
    if not processes:
        raise ChaosError(f"{target.unit} has no processes: systemctl status {target.unit}")
    return {"processes": processes}


def inject(target: Target, undo: dict[str, Any]) -> int:
    """Stop them all, and those that they made meanwhile; CLOCK_MONOTONIC in µs just before."""
    stamp = now_us()
    stopped: set[int] = set()
    left = {pid for pid, _start in undo["processes"]}
    while left:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= left
        left = set(target.pids()) - stopped
    return stamp


def revert(target: Target, undo: dict[str, Any]) -> bool:
    """Continue those that are still there, and start the unit if it failed; whether none is stopped any more."""
    known = dict(undo["processes"])
    for pid in {*known, *target.pids()}:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if _stat(pid)[0] == STOPPED and known.get(pid, _started(pid)) == _started(pid):
                os.kill(pid, signal.SIGCONT)
    target.bring_back()
    return target.state() != "failed"
