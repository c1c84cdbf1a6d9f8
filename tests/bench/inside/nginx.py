"""Inside the container: an adopted nginx, its configuration corrupted or its master killed.

usage: python3 -m inside.nginx config ROUNDS | kill ROUNDS
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from inside.client import CONFIG, damage, served, wait_served
from inside.host import answer, give_up, now_us, run, show_one
from inside.varlink import Wire

UNIT = "nginx.service"
HEAL_SECONDS = 30.0
# More than the shipped policy's cooldown between two heals of one unit: waiting that out is not what is measured.
COOLDOWN_SECONDS = 6.0
TOPICS = ["hunter.anomaly.detected", "layer3.intent.task", "task.execute.>", "governance.decision"]
TOPICS += ["verification.verdict", "task.completed", "incident.opened", "incident.closed"]


def incidents() -> list[dict[str, Any]]:
    """All incidents of the unit."""
    listed: list[dict[str, Any]] = json.loads(run("gracectl", "incidents", UNIT, "--json=short").stdout)
    return listed


def wait_closed(before: int) -> list[dict[str, Any]]:
    """The incidents after the first `before`, once there are some and all are closed."""
    limit = time.monotonic() + HEAL_SECONDS
    while time.monotonic() < limit:
        new = sorted(incidents(), key=lambda one: int(one["id"].split("_")[1]))[before:]
        if new and all(one["closed_at"] for one in new):
            return new
        time.sleep(0.2)
    give_up(f"no incident of {UNIT} was closed in {HEAL_SECONDS} s: {incidents()}")
    raise AssertionError


def config(number: int) -> dict[str, Any]:
    """One corruption with a restart, until a client is served again."""
    good = CONFIG.read_bytes()
    if not served():
        give_up("nginx does not serve before the fault")
    before = len(incidents())
    way = damage(good, number)
    since_us = now_us()
    failed = run("systemctl", "restart", UNIT, check=False).returncode != 0
    failed_us = now_us()
    served_us = wait_served(HEAL_SECONDS)
    if served_us is None:
        give_up(f"{UNIT} with {way} is not served again in {HEAL_SECONDS} s: {incidents()}")
    assert served_us is not None
    closed = wait_closed(before)
    result = {
        "way": way,
        "restart_failed": failed,
        "ms": (served_us - since_us) / 1000,
        "after_failure_ms": (served_us - failed_us) / 1000,
        "state": show_one(UNIT, "ActiveState")["ActiveState"],
        "same_config": CONFIG.read_bytes() == good,
        "incidents": closed,
    }
    time.sleep(COOLDOWN_SECONDS)
    return result


def kill() -> dict[str, Any]:
    """One SIGKILL of the master: when each event of the heal came over the bus, and what the start itself took."""
    if not served():
        give_up("nginx does not serve before the fault")
    before = len(incidents())
    bus = Wire("io.graced.Bus")
    bus.send({"method": "io.graced.Bus.Subscribe", "parameters": {"patterns": TOPICS}, "more": True})
    # The subscription is made when the next call on another connection has been answered by the same daemon.
    Wire("io.graced.HTM").call("io.graced.HTM.Stats", {})
    since_us = now_us()
    os.kill(int(show_one(UNIT, "MainPID")["MainPID"]), signal.SIGKILL)
    seen: dict[str, float] = {}
    detected_ms = 0.0
    while "incident.closed" not in seen:
        messages = bus.receive(HEAL_SECONDS)
        stamp = (now_us() - since_us) / 1000
        if not messages:
            give_up(f"the heal did not end in {HEAL_SECONDS} s: {seen}")
        for message in messages:
            event = message["parameters"].get("event")
            if event is None:
                continue
            if event["type"] == "hunter.anomaly.detected" and event["type"] not in seen:
                detected_ms = (event["data"]["detected_monotonic_us"] - since_us) / 1000
            seen.setdefault(event["type"], stamp)
    (closed,) = wait_closed(before)
    stamps = show_one(UNIT, "InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic")
    begun, active = (int(stamps[f"{name}TimestampMonotonic"]) for name in ("InactiveExit", "ActiveEnter"))
    actuator = show_one("graced-actuator.service", "ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic")
    forked, ready = ((int(stamp) - since_us) / 1000 for stamp in actuator.values())
    result = {
        # Negative when the actuator still ran from before.
        "actuator_ms": [forked, ready],
        "events_ms": seen,
        "detected_ms": detected_ms,
        "start_begun_ms": (begun - since_us) / 1000,
        "start_ms": (active - begun) / 1000,
        "incident": closed,
    }
    time.sleep(COOLDOWN_SECONDS)
    return result


def main(verb: str, rounds: str) -> None:
    """See the module."""
    if verb == "config":
        answer([config(number) for number in range(int(rounds))])
    else:
        answer([kill() for _ in range(int(rounds))])


if __name__ == "__main__":
    main(*sys.argv[1:])
