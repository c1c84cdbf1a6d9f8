"""How long the queue's loop stands still: checkpoints, archiving and shrinking under load, on a large queue.

usage: python3 -m tests.bench.inside.stalls DIRECTORY [--inline] [--queued N] [--finished N] [--keep N] [--seconds S]

DIRECTORY is on the disk to measure. `--inline` measures what there was before housekeeping: SQLite checkpoints inside
the commit. Prints one JSON object: the loop's turns and a paced submit → lease (both in ms), the rate of the load, the
largest log, what was archived.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from graced.base.clock import SystemClock, boot_id
from graced.model.task import COLUMNS
from graced.runtime.loop import Loop
from graced.runtime.service import Service, listen_unix
from graced.store.db import Database
from graced.store.tasks import TaskStore
from graced.supervisor.background import Background
from graced.supervisor.housekeeping import Housekeeping
from graced.supervisor.htm import HtmInterface
from graced.supervisor.keep import Keep
from graced.supervisor.queue import Queue
from graced.varlink.client import Client

PACE_PER_SECOND = 50
WINDOW = 512
CONTEXT = json.dumps({"unit": "bench.service", "finding": "none", "text": "x" * 180})


def fill(path: str, queued: int, finished: int) -> None:
    """A queue as it would be after long use; finished tasks first, so that the oldest are due."""
    store = TaskStore(path, synchronous="NORMAL")
    db = store.db
    db.execute("PRAGMA wal_autocheckpoint=100000")
    with db.transaction():
        _rows(db, 1, finished, state=3)
        _rows(db, finished + 1, queued, state=0)
        db.execute("UPDATE head SET next_task = ?", (queued + finished + 1,))
    store.close()


def _rows(db: Database, first: int, count: int, *, state: int) -> None:
    now_us = time.time_ns() // 1000 - 1_000_000 * 3600
    values = {
        "id": "i", "state": str(state), "priority": "2", "rank": f"{now_us} + i", "attempts": "0", "failures": "0",
        "max_attempts": "5", "parent": "NULL", "open_children": "0", "on_child_failure": "0", "handler": "'bulk'",
        "task_type": "'t'", "origin": "'bench'", "intent_id": "NULL", "idempotency_key": "'key-' || i",
        "sla_seconds": "86400", "created_us": f"{now_us} + i", "created_wall_us": f"{now_us} + i",
        "deadline_wall_us": f"{now_us} + 86400000000 + i", "deadline_boot": "0", "deadline_boottime_us": "0",
        "not_before_us": "NULL", "sla_state": "0", "worker": "NULL", "started_us": "NULL", "reasoning": "NULL",
        "sla_next_us": "NULL" if state else f"{now_us} + 80000000000 + i",
        "finished_us": f"{now_us} + i" if state else "NULL", "context": f"'{CONTEXT}'", "error": "NULL",
        "result": "'{}'" if state else "NULL",
    }  # fmt: skip
    names = [name for name in COLUMNS if name in values]
    series = f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + count - 1})"
    db.execute(
        f"{series} INSERT INTO task ({', '.join(names)}) SELECT {', '.join(values[n] for n in names)} FROM n"
    )  # constants
    kinds = ("submitted", "leased", "completed") if state else ("submitted",)
    for number, kind in enumerate(kinds):
        db.execute(
            f"{series} INSERT INTO task_event SELECT i, {now_us} + 3 * i + {number}, '{kind}', 0, NULL FROM n"
        )  # constants
    db.execute("INSERT INTO tally VALUES ('bulk', 'bench', 2, ?, ?)", (state, count))


class TimedLoop(Loop):
    """Remembers how long each turn took, without the waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.turns_us: list[int] = []
        self._began_ns = 0

    def _select(self, wait_s: float | None) -> None:
        super()._select(wait_s)
        self._began_ns = time.perf_counter_ns()

    def run_once(self, timeout_s: float | None = None) -> None:
        super().run_once(timeout_s)
        self.turns_us.append((time.perf_counter_ns() - self._began_ns) // 1000)


def serve(directory: str, *, inline: bool, keep: int) -> None:
    """The measured process: a queue and its housekeeping; a line on stdin ends it."""
    loop = TimedLoop()
    service = Service(loop, "stalls", "0", "graced/share")
    queue = Queue(loop, SystemClock(), f"{directory}/q.db", boot_id=boot_id())
    service.add(HtmInterface(queue))
    service.before_flush.append(queue.flush)
    service.listen(listen_unix(f"{directory}/socket"))
    background = Background(loop)
    house = Housekeeping(loop, background, queue, f"{directory}/archive", Keep(count=keep))
    copies: list[int] = []
    if not inline:
        _watch(house, copies)
        queue.on_commit = house.committed
        house.start()
    loop.add_reader(0, loop.stop)
    print("up", flush=True)
    loop.turns_us.clear()
    loop.run()
    largest = os.stat(f"{directory}/q.db-wal").st_size
    house.close()
    background.close(house.close_thread)
    facts = house.facts() if not inline else {}
    print(json.dumps({
        "turn_ms": spread(loop.turns_us), "log_mib": largest >> 20, "archived": house.archived, "archive": facts,
        "slice_max_ms": house.longest_us / 1000, "copy_ms": spread(copies), "stalls": house.log.stalls,
        "worst_turns_ms": [round(one / 1000, 1) for one in sorted(loop.turns_us)[-8:]],
        "db_mib": os.stat(f"{directory}/q.db").st_size >> 20,
    }), flush=True)  # fmt: skip
    os._exit(0)


def _watch(house: Housekeeping, copies: list[int]) -> None:
    plain = house.log._copy_rest

    def timed() -> None:
        began_ns = time.perf_counter_ns()
        plain()
        copies.append((time.perf_counter_ns() - began_ns) // 1000)

    house.log._copy_rest = timed  # type: ignore[method-assign]


def spread(times_us: list[int]) -> dict[str, float]:
    """Percentiles in ms."""
    order = sorted(times_us) or [0]
    of = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {
        "n": len(times_us),
        **{n: round(order[min(len(order) - 1, int(len(order) * q))] / 1e3, 2) for n, q in of.items()},
    }


class Load(threading.Thread):
    """Submits in a pipeline, as fast as it is answered or `rate` a second, until `stop`."""

    def __init__(self, path: str, rate: int) -> None:
        super().__init__(daemon=True)
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._rate = rate
        self.answered = 0
        self.stop = False

    def run(self) -> None:
        call = {
            "method": "io.graced.HTM.Submit",
            "parameters": {"handler": "load", "task_type": "t", "context": json.loads(CONTEXT)},
        }
        frame = json.dumps(call).encode() + b"\0"
        sent, began = 0, time.monotonic()
        while not self.stop:
            due = int((time.monotonic() - began) * self._rate) if self._rate else sent + WINDOW
            more = min(WINDOW - (sent - self.answered), due - sent)
            if more > 0:
                self._sock.sendall(frame * more)
                sent += more
            if sent == self.answered:
                time.sleep(0.001)
            else:
                self.answered += self._sock.recv(1 << 18).count(b"\0")


def paced(path: str, seconds: float) -> list[int]:
    """µs from a submit to its lease, PACE_PER_SECOND a second."""
    times: list[int] = []
    with Client(path, 30) as control, Client(path, 30) as stream:
        leases = stream.stream("io.graced.HTM.Work", {"handler": "paced", "worker": "w", "credits": 4})
        next(leases)
        began = time.monotonic()
        for number in range(int(seconds * PACE_PER_SECOND)):
            time.sleep(max(0.0, began + number / PACE_PER_SECOND - time.monotonic()))
            submitted_ns = time.perf_counter_ns()
            control.call("io.graced.HTM.Submit", {"handler": "paced", "task_type": "t", "priority": "critical"})
            lease = next(leases)["lease"]
            times.append((time.perf_counter_ns() - submitted_ns) // 1000)
            end = {"task_id": lease["task_id"], "attempt": lease["attempt"], "result": {}}
            control.call("io.graced.HTM.Complete", end)
    return times


def measure(
    directory: str, *, inline: bool, queued: int, finished: int, keep: int, seconds: float, rate: int
) -> dict[str, Any]:
    """Everything, in one run."""
    os.makedirs(directory, exist_ok=True)
    if not os.path.exists(f"{directory}/q.db"):
        fill(f"{directory}/q.db", queued, finished)
        os.sync()
    argv = [sys.executable, "-m", "tests.bench.inside.stalls", directory, "--serve", "--keep", str(keep)]
    server = subprocess.Popen(argv + ["--inline"] * inline, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    assert server.stdout.readline() == "up\n"
    load = Load(f"{directory}/socket", rate)
    if rate >= 0:
        load.start()
    began_s = time.monotonic()
    times_us = paced(f"{directory}/socket", seconds)
    load.stop = True
    lasted_s = time.monotonic() - began_s
    server.stdin.write("\n")
    server.stdin.flush()
    found: dict[str, Any] = json.loads(server.stdout.readline())
    server.wait(10)
    return {"inline": inline, "load_per_s": int(load.answered / lasted_s), "paced_ms": spread(times_us), **found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--queued", type=int, default=1_000_000)
    parser.add_argument("--finished", type=int, default=500_000)
    parser.add_argument("--keep", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=0, help="of the load; 0: as fast as it goes, -1: none")
    args = parser.parse_args()
    if args.serve:
        serve(args.directory, inline=args.inline, keep=args.keep)
    else:
        print(json.dumps(measure(
            args.directory, inline=args.inline, queued=args.queued, finished=args.finished, keep=args.keep,
            seconds=args.seconds, rate=args.rate,
        ), indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
