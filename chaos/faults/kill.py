"""SIGKILL to the main process: a crash."""

from __future__ import annotations

import os
import signal
from typing import Any

from chaos.journal import now_us
from chaos.targets import Target

NAME = "kill"


def prepare(target: Target) -> dict[str, Any]:
    """A killed process cannot be brought back: starting the unit is the undo."""
    return {"pid": target.main_pid()}


def inject(_target: Target, undo: dict[str, Any]) -> int:
    """Kill it; CLOCK_MONOTONIC in µs just before."""
    stamp = now_us()
    os.kill(undo["pid"], signal.SIGKILL)
    return stamp


def revert(target: Target, _undo: dict[str, Any]) -> bool:
    """Start the unit if nobody else did; whether it is not failed any more."""
    target.bring_back()
    return target.state() != "failed"
