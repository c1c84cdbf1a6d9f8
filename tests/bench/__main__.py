"""`make bench`: measure against the goals of the design, one bench after the other, each in a container of its own.

usage: python3 -m tests.bench --deb FILE [--output FILE] [--suite NAME] [--only WORD …]
Environment: QUICK=1 few repetitions (to develop the benches), IDLE_SECONDS=n (600).
Writes the figures as JSON and prints one table. Never a test: exit 0 when everything was measured, whatever came out;
1 when something could not be measured. The other work of the machine counts, so its load average is in every row.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.bench import audit, boot, decide, idle, limits, peers, queue, web
from tests.bench.bench import Bench
from tests.bench.figures import Figure, load_average, table
from tests.support import image

UNMEASURED = (AssertionError, OSError, ValueError, LookupError, subprocess.SubprocessError)
QUICK = "QUICK, too few repetitions to be a figure; "
# One after the other; those with more than one suite come once per suite.
BENCHES = {
    "start": (boot.target_start, image.SUITES),
    "kill": (boot.kill, ()),
    "hang": (boot.hang, ()),
    "config": (web.corrupted_config, ()),
    "anomaly": (web.anomaly, ()),
    "peers": (peers.peers, ()),
    "exposure": (limits.exposure, ()),
    "queue": (queue.queue, ()),
    "ledger": (decide.ledger, ()),
    "append": (audit.append, ()),
    "audit": (audit.verify, ()),
    "decide": (decide.decide, ()),
    "policy": (decide.policy, ()),
    "idle": (idle.idle, ()),
}


def main() -> int:
    """Returns 1 when something could not be measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deb", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--suite", choices=image.SUITES, default=image.SUITES[0])
    parser.add_argument("--only", nargs="*", choices=tuple(BENCHES), default=tuple(BENCHES))
    options = parser.parse_args()
    quick = bool(os.environ.get("QUICK"))
    idle_seconds = int(os.environ.get("IDLE_SECONDS") or (30 if quick else 600))
    figures: list[Figure] = []
    unmeasured = []
    for name in options.only:
        function, suites = BENCHES[name]
        for suite in suites or (options.suite,):
            began, load = time.monotonic(), load_average()
            print(f"{name} on {suite} (load {load}) …", end=" ", flush=True)
            try:
                for one in function(Bench(options.deb.resolve(), suite, quick, idle_seconds)):
                    figures.append(one.at(suite, load, QUICK if quick else ""))
            except UNMEASURED:
                unmeasured.append(f"{name} on {suite}")
                print("NOT MEASURED", flush=True)
                traceback.print_exc()
                continue
            print(f"{time.monotonic() - began:.0f} s", flush=True)
            write(options.output, figures)
    print(table(figures))
    for missed in unmeasured:
        print(f"NOT MEASURED: {missed}")
    return 1 if unmeasured else 0


def write(path: Path, figures: list[Figure]) -> None:
    """The whole file each time: a run that is broken off leaves what it measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps([one.to_json() for one in figures], indent=1) + "\n")
    new.replace(path)


if __name__ == "__main__":
    # An end by signal unwinds too: a container that is left behind keeps running.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
