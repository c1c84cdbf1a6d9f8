"""The task queue through its socket, inside the container or beside a bare server.

usage: python3 -m inside.htm once SOCKET
       python3 -m inside.htm rates SOCKET PID DISK FULL|QUICK
       python3 -m inside.htm growth SOCKET PID TWIN ROUNDS LEVEL …
       python3 -m inside.htm again UNIT SOCKET ROUNDS
       python3 -m inside.htm bare STATE ROUNDS
DISK is a directory on the disk that the queue is on, TWIN a new one there. `growth` leaves its tasks queued, for
`again` (SIGKILL of the unit under systemd) and `bare` (of a process that serves the database of the directory STATE
with nothing around it).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inside import disk, load
from inside.host import answer, give_up, now_us, run, show_one
from inside.relay import relay

if TYPE_CHECKING:
    from collections.abc import Callable

SERVER = Path(__file__).parents[1] / "daemon" / "htm_server.py"
ROUND = 1000
HOLD = 256
BATCH = 512
FILL = 50_000
CALL, IN_FLIGHT = 100, 8
# Four times what a turn waits for SQLite's commit, which nobody outside is told of.
SETTLED_SECONDS = 0.2
# What the queue has just taken in when it is killed: its log has to be read again.
BEFORE_KILL = 5000
STAMPS = (
    "MainPID,ActiveState,ExecMainExitTimestampMonotonic,ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic"
)


def once(path: str) -> int:
    """One task in and out: what is imported at first use is there."""
    load.Line(path).call(load.submissions(1)[0])
    worker = load.Worker(path)
    worker.finish(1)
    worker.close()
    return 1


def rates(path: str, pid: str, where: str, kind: str) -> dict[str, Any]:
    """How fast it is, beside what the disk and SQLite can do in the same minutes."""
    quick = kind == "QUICK"
    burst, single, whole = (5000, 100, 5000) if quick else (60_000, 500, 100_000)
    line = load.Line(path)
    warm = load.Worker(path)
    load.pipeline(line, load.submissions(1000))
    warm.finish(1000)
    warm.close()

    raw, plain, alone, grouped, bursts, batches = [], [], [], [], [], []
    for _ in range(2 if quick else 5):
        # In turns: what other work does to the disk meets all of them.
        raw += disk.appends(f"{where}/raw", single)
        plain += disk.inserts(f"{where}/plain.db", single, 1)
        alone += load.one_at_a_time(line, load.submissions(single))
        grouped.append(burst / sum(disk.inserts(f"{where}/plain.db", burst, BATCH)) * 1000)
        bursts.append(burst / load.pipeline(line, load.submissions(burst)))
        batches.append(burst / load.pipeline(line, load.batches(burst, CALL), IN_FLIGHT))
    submitted = len(alone) + burst * (len(bursts) + len(batches))
    worker = load.Worker(path)
    drained = submitted / worker.finish(submitted)
    worker.close()

    before = load.cpu_seconds(int(pid))
    wholes = [whole / load.end_to_end(path, whole) for _ in range(1 if quick else 3)]
    cpu_us = (load.cpu_seconds(int(pid)) - before) * 1e6 / (whole * len(wholes))
    hundred = load.stress(path, 10 if quick else 100)
    fast_count, slow_count = (1000, 50) if quick else (10_000, 1000)
    least_fast = relay(f"{where}/relay", fast_count, 1000)
    fast = load.dispatch(path, fast_count, 1000)
    slow = load.dispatch(path, slow_count, 50)
    least_slow = relay(f"{where}/relay", slow_count, 50)
    redelivered = load.redelivery(path, 5 if quick else 200)
    if left := load.not_done(line):
        give_up(f"every task was acknowledged as completed, and the queue says: {left}")
    return {
        "raw_ms": raw,
        "insert_ms": plain,
        "inserts_per_s": grouped,
        "single_ms": alone,
        "submit_per_s": bursts,
        "batch_per_s": batches,
        "drain_per_s": drained,
        "end_to_end_per_s": wholes,
        "end_to_end_cpu_us": cpu_us,
        "tasks": whole,
        "stress_ms": hundred,
        "dispatch_1000_ms": fast,
        "dispatch_50_ms": slow,
        "relay_1000_ms": least_fast,
        "relay_50_ms": least_slow,
        "redelivered_ms": redelivered,
    }


class _Twin:
    """A queue that a round goes through: a line to submit on, a worker that holds HOLD leases all the time."""

    def __init__(self, path: str, pid: int) -> None:
        self.line, self.pid = load.Line(path), pid
        load.pipeline(self.line, load.submissions(HOLD + ROUND))
        self.worker = load.Worker(path, credits=HOLD)
        self.worker.finish(ROUND, leave=HOLD)

    def fill(self, count: int) -> float:
        """Seconds it took."""
        seconds = load.pipeline(self.line, load.submissions(count))
        self.worker.heartbeat()
        return seconds

    def round(self) -> dict[str, float]:
        """µs per task, of the wall and of the server's CPU, to submit and to lease + complete."""
        frames = load.submissions(ROUND)
        before = load.cpu_seconds(self.pid)
        submit_s = load.pipeline(self.line, frames)
        # Until SQLite has them, as it has those of a long queue: what is done sooner costs less, and SQLite's part of
        # it would be counted as the next verb's.
        time.sleep(SETTLED_SECONDS)
        between = load.cpu_seconds(self.pid)
        work_s = self.worker.finish(ROUND, leave=HOLD)
        time.sleep(SETTLED_SECONDS)
        after = load.cpu_seconds(self.pid)
        found = {
            "submit_us": submit_s,
            "submit_cpu_us": between - before,
            "work_us": work_s,
            "work_cpu_us": after - between,
        }
        return {name: seconds * 1e6 / ROUND for name, seconds in found.items()}

    def close(self) -> None:
        self.line.close()
        self.worker.close()


def growth(path: str, pid: str, twin: str, rounds: str, *levels: str) -> list[dict[str, Any]]:
    """Per level of queued tasks: what rounds cost, and what they cost at the same time in a queue that stays short.

    The short one is a bare server on the directory `twin`: the machine's own speed changes by more than what is asked
    for, in the minutes between two levels, and for both alike.
    """
    directory = Path(twin)
    directory.mkdir()
    process = _serve(directory)
    grown, short = _Twin(path, int(pid)), _Twin(f"{directory}/socket", process.pid)
    there = 0
    found = []
    try:
        short.fill(int(levels[0]))
        for level in map(int, levels):
            fill_s, filled = 0.0, level - there
            while there < level:
                count = min(FILL, level - there)
                fill_s += grown.fill(count)
                short.worker.heartbeat()
                there += count
            # SQLite's log is copied beside the loop after the fill, and nobody outside is told when.
            time.sleep(1)
            pairs = []
            for number in range(int(rounds)):
                one, other = (grown, short) if number % 2 else (short, grown)
                costs = {one: one.round(), other: other.round()}
                pairs.append((costs[grown], costs[short]))
            found.append({"queued": level, "fill_per_s": filled / fill_s, "pairs": pairs})
    finally:
        grown.close()
        short.close()
        process.kill()
        process.wait()
    return found


def again(unit: str, path: str, rounds: str) -> list[dict[str, float]]:
    """SIGKILL of the unit's process → a Submit answered, in ms, and systemd's own stamps of that way."""
    return [_again(unit, path) for _ in range(int(rounds))]


def _again(unit: str, path: str) -> dict[str, float]:
    run("systemctl", "reset-failed", unit)
    pid = int(show_one(unit, STAMPS)["MainPID"])
    if not pid:
        give_up(f"{unit} does not run")
    line = load.Line(path)
    load.pipeline(line, load.submissions(BEFORE_KILL))
    since_us = now_us()
    os.kill(pid, signal.SIGKILL)
    answered_us = _answered(path)
    shown = show_one(unit, STAMPS)
    while shown["ActiveState"] != "active" or int(shown["MainPID"]) in {0, pid}:
        if now_us() > since_us + 30_000_000:
            give_up(f"{unit} is not READY after SIGKILL: {shown}")
        time.sleep(0.1)
        shown = show_one(unit, STAMPS)
    # Past what the daemon does by itself right after READY, and the restart of those that depend on it.
    time.sleep(1)
    return {
        "answered_ms": (answered_us - since_us) / 1000,
        "started_ms": (int(shown["ExecMainStartTimestampMonotonic"]) - since_us) / 1000,
        "ready_ms": (int(shown["ActiveEnterTimestampMonotonic"]) - since_us) / 1000,
    }


def _answered(path: str) -> int:
    """When a Submit was first answered, in µs; tries again for as long as it takes, up to PATIENCE_SECONDS."""
    limit_us = now_us() + int(load.PATIENCE_SECONDS * 1e6)
    frame = load.submissions(1)[0]
    while now_us() < limit_us:
        try:
            line = load.Line(path)
            line.call(frame)
            return now_us()
        except (OSError, load.Failed):
            # Not listening yet, or a connection that the dead process still had taken.
            time.sleep(0.0002)
    give_up(f"{path}: no Submit was answered in {load.PATIENCE_SECONDS:g} s")
    raise AssertionError


def bare(state: str, rounds: str) -> list[float]:
    """SIGKILL of a bare server and a new one at once → a Submit answered, in ms: Python's start is in it."""
    directory = Path(state)
    for file in list(directory.glob("tasks.db*")):
        file.rename(directory / file.name.replace("tasks", "q"))
    path, values = f"{directory}/socket", []
    process = _serve(directory)
    try:
        for _ in range(int(rounds)):
            line = load.Line(path)
            load.pipeline(line, load.submissions(BEFORE_KILL))
            since_us = now_us()
            process.kill()
            process.wait()
            Path(path).unlink()
            process = _serve(directory, wait=False)
            values.append((_answered(path) - since_us) / 1000)
            _await_up(process)
    finally:
        process.kill()
        process.wait()
    return values


def _serve(directory: Path, *, wait: bool = True) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["/usr/bin/python3", "-B", str(SERVER), str(directory)], stdout=subprocess.PIPE)
    if wait:
        _await_up(process)
    return process


def _await_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != b"up\n":
        give_up("the bare server did not start")


def main(verb: str, *arguments: str) -> None:
    """See the module."""
    verbs: dict[str, Callable[..., Any]] = {
        "once": once,
        "rates": rates,
        "growth": growth,
        "again": again,
        "bare": bare,
    }
    answer(verbs[verb](*arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
