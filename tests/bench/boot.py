"""Target start → all eight daemons READY; SIGKILL, SIGSTOP and a frozen cgroup → READY again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.bench.bench import Bench, inside
from tests.bench.figures import Figure, figure, percentile
from tests.bench.inside.names import UNITS

if TYPE_CHECKING:
    from tests.support.container import Container

HARD_MS = 500.0
KILL_MS = 200.0
HANG_MS = 500.0
SHIPPED_WATCHDOG_SECONDS = 3
SHORT_WATCHDOG_SECONDS = 1


def target_start(bench: Bench) -> list[Figure]:
    """The boot goal: maximum of 20 cold starts."""
    with bench.bare() as machine:
        starts = inside(machine, "units", "start", str(bench.times(20, 3)), timeout=300)
    values = [max(one["ready_ms"].values()) for one in starts]
    p50 = percentile(values, 0.5)
    goal = "max < 500 (hard), p50 <= 350, aim 300"
    return [
        figure(
            "target_start_ready",
            "ms",
            values,
            goal=goal,
            ok=max(values) < HARD_MS and p50 <= 350,
            note=_where(starts),
        ),
        figure(
            "target_start_cpu",
            "ms",
            [sum(one["cpu_ms"].values()) for one in starts],
            value=percentile([sum(one["cpu_ms"].values()) for one in starts], 0.5),
            goal="none: what a start costs on any machine",
            ok=None,
            note="medians: "
            + ", ".join(
                f"{name} {percentile([one['cpu_ms'][name] for one in starts], 0.5):.0f}" for name in starts[0]["cpu_ms"]
            )
            + f"; graced in the 0.7 s after: {percentile([one['later_ms'] for one in starts], 0.5):.0f}",
        ),
    ]


def _where(starts: list[dict[str, Any]]) -> str:
    """Medians of where the time of a start goes."""

    def median(values: list[float]) -> float:
        return percentile(values, 0.5)

    begun = median([max(one["begun_ms"].values()) for one in starts])
    executed = median([max(one["executed_ms"].values()) for one in starts])
    own = [one["ready_ms"][unit] - one["executed_ms"][unit] for one in starts for unit in UNITS]
    slowest = max(UNITS, key=lambda unit: median([one["ready_ms"][unit] for one in starts]))
    return (
        f"medians: last daemon forked at {begun:.0f}, its stamp of exec {executed:.0f}, "
        f"exec to READY {median(own):.0f}; last: {slowest}"
    )


def kill(bench: Bench) -> list[Figure]:
    """SIGKILL of every daemon, one at a time."""
    with bench.bare() as machine:
        machine.systemctl("start", "graced.target").ok()
        measured = inside(machine, "units", "again", "kill", str(bench.times(13, 2)), timeout=600)
    return [_back("kill_to_ready", measured, KILL_MS, "p99 <= 200")]


def hang(bench: Bench) -> list[Figure]:
    """SIGSTOP and a frozen cgroup, with the shipped watchdog and with a short one."""
    figures = []
    with bench.bare() as machine:
        for seconds in (SHIPPED_WATCHDOG_SECONDS, SHORT_WATCHDOG_SECONDS):
            _watchdog(machine, seconds)
            limit = seconds * 1000 + HANG_MS
            for fault in ("stop", "freeze"):
                measured = inside(machine, "units", "again", fault, str(bench.times(2, 1)), timeout=600)
                name = f"{fault}_to_ready_watchdog_{seconds}s"
                figures.append(_back(name, measured, limit, f"max <= WatchdogSec + 500 = {limit:.0f}"))
    return figures


def _watchdog(machine: Container, seconds: int) -> None:
    if seconds != SHIPPED_WATCHDOG_SECONDS:
        for unit in UNITS:
            machine.write(f"/etc/systemd/system/{unit}.d/50-bench.conf", f"[Service]\nWatchdogSec={seconds}s\n")
        machine.systemctl("daemon-reload").ok()
        # All by name: the stop of the target does not wait for its parts, and a start would keep those that still run.
        machine.systemctl("stop", "graced.target", *UNITS).ok()
    machine.systemctl("start", "graced.target").ok()
    found = {machine.show(unit, "WatchdogUSec")["WatchdogUSec"] for unit in UNITS}
    if found != {f"{seconds}s"}:
        raise AssertionError(f"WatchdogSec is {found}, not {seconds}s")


def _back(name: str, measured: list[dict[str, Any]], limit_ms: float, goal: str) -> Figure:
    values = [one["ms"] for one in measured]
    value = percentile(values, 0.99)
    worst = max(measured, key=lambda one: one["ms"])
    medians = ", ".join(
        f"{unit.removeprefix('graced-').removesuffix('.service')} "
        f"{percentile([one['ms'] for one in measured if one['unit'] == unit], 0.5):.0f}"
        for unit in UNITS
    )
    note = f"worst {worst['unit']}; medians: {medians}"
    return figure(name, "ms", values, goal=goal, ok=value <= limit_ms, value=value, note=note)
