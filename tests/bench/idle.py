"""A host where nothing happens: what graced costs, how much memory it holds, and that it leaves everything alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.bench import Bench, adopt
from tests.bench.figures import Figure, figure
from tests.bench.inside.names import UNITS

if TYPE_CHECKING:
    from tests.support.container import Container

CPU_MS_PER_SECOND = 5.0
PSS_MIB = 80.0
FULL_SECONDS = 600
SETTLE_SECONDS = 30


def idle(bench: Bench) -> list[Figure]:
    """The window; nginx and redis-server are adopted and nobody touches them."""
    with bench.machine() as machine:
        adopt(machine, "nginx", "redis-server")
        time.sleep(bench.times(SETTLE_SECONDS, 5))
        slice_ = _slice(machine)
        machine.run(["journalctl", "--sync"])
        since = machine.run(["date", "+%s.%N"]).ok().stdout.strip()
        seen, before, began = _incidents(machine), _cpu_us(slice_), time.monotonic()
        time.sleep(bench.idle_seconds)
        seconds, after = time.monotonic() - began, _cpu_us(slice_)
        memory = {unit: _pss_mib(slice_, unit) for unit in UNITS}
        warnings = _warnings(machine, since)
        acts = _incidents(machine) - seen
    used = (after["graced.slice"] - before["graced.slice"]) / 1000 / seconds
    parts = {unit: (after[unit] - before[unit]) / 1000 / seconds for unit in UNITS}
    parts["what is not up all the time"] = used - sum(parts.values())
    short = "" if bench.idle_seconds >= FULL_SECONDS else f"only {bench.idle_seconds} s; "
    over = f"{short}{seconds:.0f} s with nginx and redis-server adopted; "
    return [
        figure(
            "idle_cpu",
            "ms/s",
            [used],
            goal=f"< {CPU_MS_PER_SECOND:g} for the whole suite",
            ok=used < CPU_MS_PER_SECOND,
            note=over + _parts(parts, 2),
        ),
        figure(
            "memory_pss",
            "MiB",
            [sum(memory.values())],
            goal=f"<= {PSS_MIB:g} for the eight daemons",
            ok=sum(memory.values()) <= PSS_MIB,
            note=_parts(memory, 1),
        ),
        figure("idle_remediations", "count", [float(acts)], goal="0", ok=acts == 0, note=over + "incidents and acts"),
        figure(
            "idle_warnings",
            "count",
            [float(len(warnings))],
            goal="0",
            ok=not warnings,
            note=over + "; ".join(warnings[:3]),
        ),
    ]


def _parts(values: dict[str, float], digits: int) -> str:
    return ", ".join(
        f"{unit.removeprefix('graced-').removesuffix('.service')} {value:.{digits}f}"
        for unit, value in sorted(values.items(), key=lambda item: -item[1])
    )


def _slice(machine: Container) -> Path:
    """The slice's cgroup as this side sees it."""
    found = [path for path in machine._cgroup.rglob("graced.slice") if path.is_dir()]
    if len(found) != 1:
        raise AssertionError(f"expected one graced.slice, found {found}")
    return found[0]


def _cpu_us(slice_: Path) -> dict[str, int]:
    """CPU time of the slice (with all that ever ran in it) and of its units."""
    directories = [slice_, *(path for path in slice_.iterdir() if path.is_dir())]
    return {path.name: int((path / "cpu.stat").read_text().split()[1]) for path in directories}


def _pss_mib(slice_: Path, unit: str) -> float:
    """Proportional set size of a unit's processes. Read from outside: a reader inside would share their pages."""
    total_kib = 0
    pids = (slice_ / unit / "cgroup.procs").read_text().split()
    if not pids:
        raise AssertionError(f"{unit} has no process")
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib / 1024


def _incidents(machine: Container) -> int:
    """Incidents, and acts as the adopted units' own journals have them."""
    listed = len(machine.run(["gracectl", "incidents", "--json=short"]).json())
    acts = {record["GRACED_ACT_ID"] for record in machine.journal() if "GRACED_ACT_ID" in record}
    return listed + len(acts)


def _warnings(machine: Container, since: str) -> list[str]:
    """Everything of the whole machine at warning or worse in the window, each once."""
    records = machine.journal("-p", "warning", f"--since=@{since}")
    return sorted({f"{r.get('_SYSTEMD_UNIT') or r.get('SYSLOG_IDENTIFIER')}: {r.get('MESSAGE')}" for r in records})
