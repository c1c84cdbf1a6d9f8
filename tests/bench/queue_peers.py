"""`make bench-peers`: the same work on graced, beanstalkd -f0, huey and Celery, in one run on the same disk.

usage: python3 -m tests.bench.queue_peers --deb FILE --venvs DIRECTORY [--output FILE] [--suite NAME]
DIRECTORY has a virtual environment `huey` and one `celery`; beanstalkd and Redis come from Debian, in the container.
The peers take turns, several rounds. Environment: QUICK=1 as for `make bench`. Exit 1 when something was not measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

from tests.bench.__main__ import QUICK, write
from tests.bench.bench import DISK, Bench, inside, on_disk
from tests.bench.figures import Figure, figure, load_average, percentile, table
from tests.support import image

PACKAGES = ("beanstalkd",)
VENVS = {"huey": "huey", "celery": "celery", "celery-default": "celery"}
HOW = {
    "graced": "512 submits in flight, the worker's completions too; fsync before every acknowledgement",
    "beanstalkd": "-b -f0: fsync for each put and delete; 64 puts in flight, delete and reserve in one write",
    "huey": "SqliteHuey in-process, WAL and FULL, one enqueue at a time; the consumer looks every 10 ms (default 100)",
    "celery": "Redis with appendonly yes, appendfsync always; acks_late, no results, solo pool; one at a time",
    "celery-default": "as Debian and Celery come: Redis without a log, acknowledged before the work; solo pool",
}
# Tasks: one at a time, end to end twice, paced. Celery would take minutes for the long one.
SIZES = {"celery": (500, 5000, 0, 200), "celery-default": (500, 5000, 0, 200)}
FULL, SHORT = (500, 10_000, 100_000, 500), (50, 500, 2000, 25)
ROUNDS = 3
GOALS = {"beanstalkd": 5.0, "huey": 10.0, "celery": 20.0, "celery-default": None}

Found = dict[str, list[dict[str, Any]]]


def main() -> int:
    """Returns 1 when something could not be measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deb", type=Path, required=True)
    parser.add_argument("--venvs", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("build/bench-peers.json"))
    # The virtual environments are of this machine's Python.
    ours = platform.freedesktop_os_release().get("VERSION_CODENAME")
    parser.add_argument("--suite", choices=image.SUITES, default=ours if ours in image.SUITES else image.SUITES[0])
    options = parser.parse_args()
    bench, load = Bench(options.deb.resolve(), options.suite, bool(os.environ.get("QUICK")), 0), load_average()
    found, turns = measure(bench, options.venvs.resolve())
    prefix = QUICK if bench.quick else ""
    figures = [one.at(options.suite, load, prefix) for one in [*absolute(found), *ratios(found), one_at_a_time(turns)]]
    write(options.output, figures)
    print(table(figures))
    return 0


def measure(bench: Bench, venvs: Path) -> tuple[Found, dict[str, list[float]]]:
    """All peers, in turns; the long run once. Then one at a time, graced and beanstalkd side by side."""
    found: Found = {name: [] for name in HOW}
    modules = {name: next((venvs / venv).glob("lib/python3*/site-packages")) for name, venv in VENVS.items()}
    base = image.installed(bench.suite, bench.deb, PACKAGES)
    with on_disk("supervisor") as (store, disk):
        binds = store | {path: f"/srv/peers/{VENVS[name]}" for name, path in modules.items()}
        with bench.machine(binds=binds, base=base) as machine:
            machine.systemctl("start", "graced.target").ok()
            for number in range(bench.times(ROUNDS, 1)):
                for name, results in found.items():
                    single, small, large, paced = SHORT if bench.quick else SIZES.get(name, FULL)
                    large = 0 if number or name in SIZES else large
                    sizes = map(str, (single, small, large, paced))
                    print(f"{name}, round {number + 1} on {disk} …", flush=True)
                    where = f"/srv/peers/{VENVS[name]}" if name in VENVS else ""
                    results.append(inside(machine, "queue_peers", name, DISK, *sizes, timeout=900, modules=where))
            turns = inside(machine, "queue_peers", "duel", DISK, str(bench.times(40, 8)), timeout=300)
    return found, turns


def pooled(results: list[dict[str, Any]], name: str) -> list[float]:
    """The values of all rounds."""
    return [value for one in results for value in one[name]]


def median(results: list[dict[str, Any]], name: str) -> float:
    """Of the rounds that have it; 0.0 when none has."""
    values = [one[name] for one in results if one[name]]
    return percentile(values, 0.5) if values else 0.0


def absolute(found: Found) -> list[Figure]:
    """What each did."""
    goal = "comparison"
    figures = []
    for name, results in found.items():
        raw = percentile(pooled(results, "raw_ms"), 0.5)
        single, dispatch = pooled(results, "single_ms"), pooled(results, "dispatch_ms")
        middle = percentile(single, 0.5)
        rows = [("burst_per_s", "enqueue_pipelined")] if results[0]["pipelines"] else []
        for key, row in [*rows, ("small_per_s", "end_to_end_short"), ("large_per_s", "end_to_end_100k")]:
            values = [one[key] for one in results if one[key]]
            if values:
                figures.append(
                    figure(
                        f"{name}_{row}", "1/s", values, value=median(results, key), goal=goal, ok=None, note=HOW[name]
                    )
                )
        note = f"{1000 / middle:.0f}/s; {middle / raw:.2f} x append and fdatasync in the same minute"
        figures += [
            figure(
                f"{name}_enqueue_one_at_a_time", "ms", single, value=middle, goal=goal, ok=None, note=note, keep=False
            ),
            figure(
                f"{name}_dispatch_at_50_per_s",
                "ms",
                dispatch,
                value=percentile(dispatch, 0.5),
                goal=goal,
                ok=None,
                note="from before sending to the worker's hands",
                keep=False,
            ),
        ]
    return figures


def ratios(found: Found) -> list[Figure]:
    """graced against each, end to end: the worse of the short and the long run."""
    ours = found["graced"]
    figures = []
    for name, goal in GOALS.items():
        values = [
            median(ours, key) / theirs for key in ("small_per_s", "large_per_s") if (theirs := median(found[name], key))
        ]
        figures.append(
            figure(
                f"graced_over_{name}_end_to_end",
                "x",
                values,
                value=min(values),
                goal="comparison" if goal is None else f">= {goal:g}",
                ok=None if goal is None else min(values) >= goal,
                note="short run, then 100k where it was bearable",
            )
        )
    return figures


def one_at_a_time(turns: dict[str, list[float]]) -> Figure:
    """graced against beanstalkd, p50 of an acknowledged task."""
    raw, sqlite, ours, theirs = (percentile(turns[name], 0.5) for name in ("raw", "sqlite", "graced", "beanstalkd"))
    return figure(
        "graced_over_beanstalkd_one_at_a_time",
        "x",
        [theirs / ours],
        goal=">= 1: never slower",
        ok=theirs >= ours,
        note=f"p50 in turns over Unix sockets, fsync before each answer: put {theirs:.3f} ms, Submit {ours:.3f} ms, "
        f"append and fdatasync {raw:.3f} ms, SQLite's own insert {sqlite:.3f} ms; "
        f"p99 of put {percentile(turns['beanstalkd'], 0.99):.3f}, of Submit {percentile(turns['graced'], 0.99):.3f} ms",
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
