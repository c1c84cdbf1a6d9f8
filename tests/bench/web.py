"""An adopted nginx: corrupted configuration → served again; anomaly published → verified heal recorded."""

from __future__ import annotations

from typing import Any

from tests.bench.bench import Bench, adopt, inside
from tests.bench.figures import Figure, figure, percentile


def corrupted_config(bench: Bench) -> list[Figure]:
    """A client's view: from the restart with a corrupted file to HTTP 200 on a new connection."""
    with bench.machine() as machine:
        adopt(machine, "nginx")
        rounds = inside(machine, "nginx", "config", str(bench.times(10, 3)), timeout=600)
    values = [one["ms"] for one in rounds]
    after = [one["after_failure_ms"] for one in rounds if one["restart_failed"]]
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    healed = [
        one["state"] == "active" and one["same_config"] and all(i["outcome"] == "healed" for i in one["incidents"])
        for one in rounds
    ]
    failed = sum(one["restart_failed"] for one in rounds)
    ways = ", ".join(f"{one['way']} {one['ms']:.0f}" for one in rounds[:5])
    by_graced = [i["heal_ms"] for one in rounds for i in one["incidents"] if i["heal_ms"] is not None]
    figures = [
        figure(
            "nginx_corrupted_config_restored",
            "ms",
            values,
            value=p50,
            goal="p50 <= 1000, p99 <= 2000",
            ok=p50 <= 1000 and p99 <= 2000 and all(healed),
            note=f"{failed} restarts failed; by way: {ways}; heal_ms of the incidents p50 "
            + (f"{percentile(by_graced, 0.5):.0f}" if by_graced else "unknown"),
        ),
        figure(
            "nginx_left_failed_or_changed",
            "rounds",
            [float(healed.count(False))],
            goal="0",
            ok=all(healed),
            note=f"of {len(rounds)}: not active, not the last-known-good bytes, or an incident not healed",
        ),
    ]
    if after:
        name = "nginx_restored_after_failed_restart"
        figures.append(figure(name, "ms", after, value=percentile(after, 0.5), goal="none: part of it", ok=None))
    return figures


def anomaly(bench: Bench) -> list[Figure]:
    """SIGKILL of nginx's master; the daemon's own start time is taken off."""
    with bench.machine() as machine:
        adopt(machine, "nginx")
        rounds = inside(machine, "nginx", "kill", str(bench.times(10, 3)), timeout=600)
    for one in rounds:
        incident = one["incident"]
        if incident["outcome"] != "healed" or not incident["verified_by"]:
            raise AssertionError(f"not a verified heal: {incident}")
        if not one["detected_ms"] < one["start_begun_ms"] < one["events_ms"]["incident.closed"]:
            raise AssertionError(f"the start was not the heal's own: {one}")
    published = "hunter.anomaly.detected"
    values = [one["events_ms"]["incident.closed"] - one["events_ms"][published] - one["start_ms"] for one in rounds]
    p50 = percentile(values, 0.5)
    starts = [one["start_ms"] for one in rounds]
    detected = [one["events_ms"][published] for one in rounds]
    return [
        figure(
            "anomaly_to_verified",
            "ms",
            values,
            value=p50,
            goal="p50 <= 250 beyond the daemon's own start",
            ok=p50 <= 250,
            note=_stages(rounds),
        ),
        figure("nginx_own_start", "ms", starts, value=percentile(starts, 0.5), goal="none: taken off", ok=None),
        figure(
            "kill_to_anomaly",
            "ms",
            detected,
            value=percentile(detected, 0.5),
            goal="none: as it reached the bus",
            ok=None,
        ),
    ]


def _stages(rounds: list[dict[str, Any]]) -> str:
    points = {name: [one["events_ms"][name] for one in rounds] for name in rounds[0]["events_ms"]}
    points |= {"(detected)": [one["detected_ms"] for one in rounds]}
    points |= {"(start begun)": [one["start_begun_ms"] for one in rounds]}
    points |= {"(started)": [one["start_begun_ms"] + one["start_ms"] for one in rounds]}
    # The actuator leaves when it is idle; in these rounds it had to be started first.
    fresh = [one["actuator_ms"] for one in rounds if one["actuator_ms"][0] > 0]
    if fresh:
        points |= {"(actuator forked)": [one[0] for one in fresh], "(actuator ready)": [one[1] for one in fresh]}
    medians = sorted((percentile(values, 0.5), name) for name, values in points.items())
    head = f"actuator started in {len(fresh)} of {len(rounds)} rounds; median ms after the kill: "
    return head + ", ".join(f"{name} {value:.0f}" for value, name in medians)
