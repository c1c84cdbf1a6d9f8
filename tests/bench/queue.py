"""The task queue against its goals, through the supervisor's socket, its store on a real disk.

Every task is a full record: idempotency key, events, a context of 300 bytes. Clients encode beforehand and count bytes.
What the disk and SQLite do by themselves is measured in the same minutes: a busy disk shows as a bad absolute figure
with an ordinary ratio.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.bench import DISK, STATE, WHERE, Bench, inside, on_disk
from tests.bench.figures import Figure, figure, percentile
from tests.bench.idle import _pss_mib, _slice
from tests.bench.inside.names import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.container import Container

SOCKET = "/run/graced/io.graced.Supervisor"
UNIT = "graced-supervisor.service"
DATABASE = "tasks.db"
DAEMON = Path(__file__).parents[1] / "daemon"
LEVELS = ("1000", "10000", "100000", "1000000")
LEVELS_QUICK = ("1000", "5000", "20000")
SUBMIT_PER_S = 60_000
SINGLE_MS = 0.35
WHOLE_PER_S = 30_000
STRESS_MS = 10.0
FAST_MS, SLOW_MS = (0.4, 2.0), (1.0, 3.0)
ACCEPT_MS = 100.0
MEMORY_MIB = 25.0
REDELIVER_MS = 10.0
FLAT_PERCENT = 20.0
STALL_MS = 50.0
STALL_LOAD_PER_S = 5000
PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).resolve().parents[2]


def queue(bench: Bench) -> Iterator[Figure]:
    """The whole table of goals. What cannot be measured takes only what comes after it with it."""
    yield from _rates(bench)
    yield from _million(bench)
    yield from _stalls(bench)


def _rates(bench: Bench) -> list[Figure]:
    with on_disk("supervisor") as (binds, disk), bench.machine(binds=binds) as machine:
        machine.systemctl("start", "graced.target").ok()
        kind = "QUICK" if bench.quick else "FULL"
        found = inside(machine, "htm", "rates", SOCKET, str(machine.pid(UNIT)), DISK, kind, timeout=900)
    return [*_durable(found, disk), *_latency(found, disk)]


def _durable(found: dict[str, Any], disk: str) -> list[Figure]:
    raw, plain, single = (percentile(found[name], 0.5) for name in ("raw_ms", "insert_ms", "single_ms"))
    inserts, bursts, wholes = (
        percentile(found[name], 0.5) for name in ("inserts_per_s", "submit_per_s", "end_to_end_per_s")
    )
    return [
        figure(
            "disk_append_fdatasync",
            "ms",
            found["raw_ms"],
            value=raw,
            goal="comparison: 300 bytes",
            ok=None,
            note=f"on {disk}; {1000 / raw:.0f}/s",
            keep=False,
        ),
        figure(
            "sqlite_insert",
            "ms",
            found["insert_ms"],
            value=plain,
            goal="comparison: WAL, FULL, one to a commit",
            ok=None,
            note=f"in-process, task with key and event; {inserts:.0f}/s with 512 to a commit",
            keep=False,
        ),
        figure(
            "htm_submit_pipelined",
            "1/s",
            found["submit_per_s"],
            value=bursts,
            goal=f"median >= {SUBMIT_PER_S}",
            ok=bursts >= SUBMIT_PER_S,
            note=f"512 in flight on one connection, each acknowledged after fsync on {disk}; {bursts / inserts:.2f} x "
            f"SQLite's own insert with 512 to a commit, {bursts * raw / 1000:.1f} x one fdatasync at a time; "
            f"lease + complete of these {found['drain_per_s']:.0f}/s",
        ),
        figure(
            "htm_submit_in_batches",
            "1/s",
            found["batch_per_s"],
            value=percentile(found["batch_per_s"], 0.5),
            goal="none",
            ok=None,
            note="SubmitBatch with 100 tasks, 8 calls in flight, all or nothing each",
        ),
        figure(
            "htm_submit_one_at_a_time",
            "ms",
            found["single_ms"],
            value=single,
            goal=f"p50 <= {SINGLE_MS:g}",
            ok=single <= SINGLE_MS,
            note=f"{1000 / single:.0f}/s; {single / raw:.2f} x append and fdatasync, "
            f"{single / plain:.2f} x SQLite's own insert",
            keep=False,
        ),
        figure(
            "htm_end_to_end",
            "1/s",
            found["end_to_end_per_s"],
            value=wholes,
            goal=f"median >= {WHOLE_PER_S}",
            ok=wholes >= WHOLE_PER_S,
            note=f"{found['tasks']} tasks, first Submit to last Complete acknowledged after fsync, producer and worker "
            f"processes at the same time; {found['end_to_end_cpu_us']:.1f} µs of the supervisor's CPU per task; "
            f"{wholes / inserts:.2f} x SQLite's own insert with 512 to a commit",
        ),
    ]


def _latency(found: dict[str, Any], disk: str) -> list[Figure]:
    stress = percentile(found["stress_ms"], 0.5)
    lost = percentile(found["redelivered_ms"], 0.99)
    raw = percentile(found["raw_ms"], 0.5)
    figures = [
        figure(
            "htm_stress_100_tasks",
            "ms",
            found["stress_ms"],
            value=stress,
            goal=f"median <= {STRESS_MS:g}",
            ok=stress <= STRESS_MS,
            note=f"submitted together to all completed, fsynced on {disk}; {stress / raw:.1f} x one fdatasync",
        )
    ]
    for rate, (p50, p99) in ((1000, FAST_MS), (50, SLOW_MS)):
        values, least = found[f"dispatch_{rate}_ms"], found[f"relay_{rate}_ms"]
        least_p50, least_p99 = (percentile(least, part) for part in (0.5, 0.99))
        ok = percentile(values, 0.5) <= p50 and percentile(values, 0.99) <= p99
        figures.append(
            figure(
                f"htm_dispatch_at_{rate}_per_s",
                "ms",
                values,
                value=percentile(values, 0.5),
                goal=f"p50 <= {p50:g}, p99 <= {p99:g}",
                ok=ok,
                note="from sending Submit to the lease in the worker's process, on disk before it is leased; "
                f"{percentile(values, 0.5) / least_p50:.1f} x the same way with nothing in it but one fdatasync "
                f"(p50 {least_p50:.2f}, p99 {least_p99:.2f})",
                keep=False,
            )
        )
    figures.append(
        figure(
            "htm_worker_kill_to_redelivered",
            "ms",
            found["redelivered_ms"],
            value=lost,
            goal=f"p99 <= {REDELIVER_MS:g}",
            ok=lost <= REDELIVER_MS,
            note="SIGKILL of the worker's process to the lease at another worker",
        )
    )
    return figures


def _million(bench: Bench) -> list[Figure]:
    """Everything that needs a long queue: it is filled once."""
    levels = LEVELS_QUICK if bench.quick else LEVELS
    kills = str(bench.times(12, 2))
    with bench.bare() as machine:
        shutil.copytree(DAEMON, machine.path(f"{WHERE}/daemon"))
        machine.path(DISK).mkdir()
        machine.systemctl("start", "graced.target").ok()
        inside(machine, "htm", "once", SOCKET, timeout=60)
        empty = _memory(machine)
        rounds = str(bench.times(20, 5))
        grown = inside(
            machine, "htm", "growth", SOCKET, str(machine.pid(UNIT)), f"{DISK}/twin", rounds, *levels, timeout=1800
        )
        full = _memory(machine)
        size = sum(path.stat().st_size for path in machine.path(f"{STATE}/supervisor").glob(f"{DATABASE}*"))
        again = inside(machine, "htm", "again", UNIT, SOCKET, kills, timeout=300)
        after = _memory(machine)
        machine.systemctl("stop", "graced.target", *UNITS, "graced-supervisor.socket").ok()
        bare = inside(machine, "htm", "bare", f"{STATE}/supervisor", kills, timeout=300)
    queued = int(levels[-1])
    return [
        *_growth(grown),
        *_accepting(again, bare, queued),
        figure(
            "htm_memory_of_a_long_queue",
            "MiB",
            [after - empty],
            goal=f"<= {MEMORY_MIB:g} over the empty supervisor",
            ok=after - empty <= MEMORY_MIB,
            note=f"PSS after SIGKILL with {queued} queued {after:.1f}; empty {empty:.1f}; "
            f"{full:.1f} just after filling, before SIGKILL",
        ),
        figure(
            "htm_disk_per_task",
            "bytes",
            [size / queued],
            goal="none",
            ok=None,
            note=f"{DATABASE} and its log with {queued} queued",
        ),
    ]


def _memory(machine: Container) -> float:
    time.sleep(2)
    return _pss_mib(_slice(machine), UNIT)


def _growth(grown: list[dict[str, Any]]) -> list[Figure]:
    """What a task costs from Submit to its end, in a long queue over a short one; the note has the two halves of it."""
    figures = []
    queued = ", ".join(f"{level['queued']}" for level in grown)
    filled = ", ".join(f"{level['fill_per_s']:.0f}" for level in grown)
    for name, unit in (("cpu_us", "cpu"), ("us", "wall")):

        def cost(one: dict[str, float], *verbs: str, name: str = name) -> float:
            return sum(one[f"{verb}_{name}"] for verb in verbs)

        def ratios(*verbs: str) -> list[float]:
            pairs = [[cost(one, *verbs) / cost(twin, *verbs) for one, twin in level["pairs"]] for level in grown]
            return [percentile(of_level, 0.5) for of_level in pairs]

        parts = []
        for verb in ("submit", "work"):
            costs = [percentile([cost(one, verb) for one, _twin in level["pairs"]], 0.5) for level in grown]
            as_ratios = ", ".join(f"{one:.2f}" for one in ratios(verb))
            parts.append(f"{verb} {as_ratios} x ({', '.join(f'{one:.1f}' for one in costs)} µs)")
        whole = ratios("submit", "work")
        worst = (max(whole) / min(whole) - 1) * 100
        figures.append(
            figure(
                f"htm_cost_as_the_queue_grows_{unit}",
                "%",
                [worst],
                goal=f"dearest over cheapest <= {FLAT_PERCENT:g}",
                ok=worst <= FLAT_PERCENT,
                note=f"at {queued} queued, {unit} per task from Submit to its end over that of a queue of "
                f"{grown[0]['queued']} in the same seconds, medians: {', '.join(f'{one:.2f}' for one in whole)} x; of "
                f"it {'; '.join(parts)} (work: lease + complete); filled at {filled} /s",
            )
        )
    return figures


def _accepting(again: list[dict[str, float]], bare: list[float], queued: int) -> list[Figure]:
    answered = [one["answered_ms"] for one in again]
    started, ready = (percentile([one[name] for one in again], 0.5) for name in ("started_ms", "ready_ms"))
    ours = (
        f"; medians: systemd has started the process at {started:.0f} (RestartSec=0; callers wait in the socket), "
        f"READY at {ready:.0f}"
    )
    kinds = (
        ("htm_kill_to_accepting", answered, ours),
        ("htm_kill_to_accepting_bare", bare, "; a bare server, started at once: Python, recovery, listening"),
    )
    return [
        figure(
            name,
            "ms",
            values,
            value=percentile(values, 0.99),
            goal=f"p99 <= {ACCEPT_MS:g}",
            ok=percentile(values, 0.99) <= ACCEPT_MS,
            note=f"SIGKILL with {queued} queued to an answered Submit{how}",
        )
        for name, values, how in kinds
    ]


def _stalls(bench: Bench) -> list[Figure]:
    """A bare server under load while it moves its log into its database, archives and shrinks."""
    queued, finished, keep, seconds = (20_000, 20_000, 5000, 5) if bench.quick else (1_000_000, 500_000, 100_000, 60)
    sizes = {"queued": queued, "finished": finished, "keep": keep, "seconds": seconds, "rate": STALL_LOAD_PER_S}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    with tempfile.TemporaryDirectory(prefix="bench-disk-", dir=Path("build").resolve()) as directory:
        command = [PYTHON, "-B", "-m", "tests.bench.inside.stalls", directory, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stderr}")
    found = json.loads(done.stdout)
    paced, turns = found["paced_ms"], found["turn_ms"]
    return [
        Figure(
            name="htm_dispatch_while_the_log_is_moved",
            value=paced["max"],
            unit="ms",
            goal=f"max <= {STALL_MS:g}",
            n=paced["n"],
            p50=paced["p50"],
            p99=paced["p99"],
            ok=paced["max"] <= STALL_MS,
            note=f"Submit to lease at 50/s beside {found['load_per_s']} other submits a second, {queued} queued, "
            f"{finished} finished of which {found['archived']} archived in {seconds} s; longest turn of the loop "
            f"{turns['max']:.1f} ms, p99.9 {turns['p99.9']:.1f}; log at most {found['log_mib']} MiB",
        )
    ]
