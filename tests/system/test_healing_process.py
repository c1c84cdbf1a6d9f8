"""Processes, killed and stopped for real; what systemd does itself stays systemd's; what worked is tried first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.inside.names import UNITS
from tests.support.adopted import ESCALATED, Adopted

if TYPE_CHECKING:
    from tests.support.container import Container

# An admin's own playbook that helps nobody, and a profile that tries it first.
FUTILE = """\
description = "Looks, and hopes"
risk = "low"
tier = 0
triggers = ["unit.failed"]
undo = false
[[step]]
verb = "diagnose"
timeout_seconds = 5
"""


def test_nginx_killed_and_hung(machine: Container) -> None:
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed() as incidents:
        nginx.kill("KILL")
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.failed", "restart-unit")]
    with nginx.healed() as incidents:
        nginx.kill("STOP", "all")
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.hung", "kill-and-restart")]
    with nginx.healed() as incidents:
        nginx.kill("KILL", "all")
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.failed", "restart-unit")]
    assert nginx.acts() == ["restart-unit", "kill-and-restart", "restart-unit"]


@pytest.mark.parametrize(
    "change",
    [
        "systemctl daemon-reexec",
        "systemctl restart systemd-journald",
        "systemctl restart dbus",
        "systemctl kill -s KILL dbus.service",
        "systemctl kill -s KILL systemd-journald.service",
    ],
)
def test_nginx_killed_when_what_graced_stands_on_is_new(machine: Container, change: str) -> None:
    # As an upgrade of systemd or dbus does it.
    if "dbus" in change:
        machine.allow("system bus closed the connection")  # that is said, and only that
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    pids = [machine.pid(unit) for unit in UNITS]
    bus = machine.pid("dbus.service")
    done = machine.unit(["/bin/sh", "-ec", change])
    if "KILL dbus" in change:
        # Whoever waits for a unit's end does so over that very bus.
        machine.wait_until("the bus is new", lambda: machine.pid("dbus.service") not in (0, bus))
    else:
        done.ok()
    with nginx.healed() as incidents:
        nginx.kill("KILL")
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.failed", "restart-unit")]
    assert [machine.pid(unit) for unit in UNITS] == pids
    assert machine.journal(UNIT=nginx.unit, MESSAGE=f"{nginx.unit}: Failed with result 'signal'.")


def test_a_bus_that_is_lost_while_nginx_starts_again(machine: Container) -> None:
    machine.allow("system bus closed the connection")
    machine.write("/run/systemd/system/nginx.service.d/slow.conf", "[Service]\nExecStartPre=/bin/sleep 2\n")
    machine.systemctl("daemon-reload").ok()
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed(20.0) as incidents:
        nginx.kill("KILL")
        machine.wait_state(nginx.unit, "activating")
        bus = machine.pid("dbus.service")
        machine.unit(["systemctl", "kill", "--signal=KILL", "dbus.service"])
        machine.wait_until("the bus is new", lambda: machine.pid("dbus.service") not in (0, bus))
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.failed", "restart-unit")]


def test_redis_killed_hung_and_given_up(machine: Container) -> None:
    redis = Adopted(machine, "redis-server")
    redis.adopt()
    # Restart=always is systemd's work, and done before anybody else could.
    pid = machine.pid(redis.unit)
    redis.kill("KILL")
    machine.wait_until("systemd restarted it", lambda: machine.pid(redis.unit) not in (0, pid))
    machine.wait_state(redis.unit, "active")
    with redis.healed() as incidents:
        redis.kill("STOP", "all")
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.hung", "kill-and-restart")]

    # Killed until systemd gives up; graced would be faster.
    machine.run(["gracectl", "pause"]).ok()
    # Twice, since systemd 252 says "failed" for a moment before each restart.
    failed = "[ $(systemctl show -P SubState redis-server) = failed ]"
    redis.fault(f"until {failed} && {failed}; do systemctl kill -s KILL redis-server || :; done")
    assert machine.journal(UNIT=redis.unit, MESSAGE=f"{redis.unit}: Start request repeated too quickly.")
    assert redis.wait_incident(outcome="held")["finding"] == "unit.failed"
    with redis.healed() as incidents:
        machine.run(["gracectl", "resume"]).ok()
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.failed", "restart-unit")]
    assert redis.acts() == ["kill-and-restart", "restart-unit"]


def test_what_worked_is_tried_first_the_second_time(machine: Container) -> None:
    machine.write("/etc/graced/playbooks/hope.toml", FUTILE)
    shipped = machine.read("/usr/share/graced/profiles/nginx.toml")
    machine.write(
        "/etc/graced/profiles/nginx.toml", shipped.replace('playbooks = ["restore-config"', 'playbooks = ["hope"')
    )
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed() as first:
        nginx.kill("KILL")
    tried = machine.run(["gracectl", "explain", first[0]["id"], "--json=short"]).json()["task"]["result"]["tried"]
    assert [(one["playbook"], one["helped"]) for one in tried] == [("hope", False), ("restart-unit", True)]

    with nginx.healed() as second:
        nginx.kill("KILL")
    tried = machine.run(["gracectl", "explain", second[0]["id"], "--json=short"]).json()["task"]["result"]["tried"]
    assert [(one["playbook"], one["helped"]) for one in tried] == [("restart-unit", True)]
    story = nginx.explain(second[0])
    assert "Try restart-unit first" in story


def test_a_service_without_configuration(machine: Container) -> None:
    machine.write("/etc/systemd/system/app.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
    machine.write("/etc/graced/profiles/app.toml", 'unit = "app.service"\n[heal]\nplaybooks = ["restart-unit"]\n')
    machine.systemctl("daemon-reload").ok()
    app = Adopted(machine, "app")
    app.adopt()
    with app.healed() as incidents:
        app.kill("KILL")
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("unit.failed", "restart-unit")]
    assert machine.run(["gracectl", "status", "--json=short"]).json()["overall"] == "healthy"
    machine.run(["gracectl", "release", "app"]).ok()


def test_a_unit_that_fails_again_after_every_repair_is_left_to_a_person(machine: Container) -> None:
    machine.write("/etc/systemd/system/app.service", "[Service]\nExecStart=/bin/sh -c 'sleep 2; exit 7'\n")
    machine.write("/etc/graced/profiles/app.toml", 'unit = "app.service"\n[heal]\nplaybooks = ["restart-unit"]\n')
    machine.systemctl("daemon-reload").ok()
    machine.allow(ESCALATED)
    app = Adopted(machine, "app")
    app.adopt()
    left = app.wait_incident(outcome="failed")
    assert [one["outcome"] for one in app.incidents()] == ["healed", "healed", "healed", "failed"]
    assert "flapping: the last 3 repairs, by restart-unit, lasted less than 60 s each" in left["reason"]
    story = app.explain(left)
    assert "flapping" in story
    read_on = next(line for line in story.splitlines() if line.startswith("What the unit said itself: "))
    assert "status=7" in machine.sh(read_on.partition(": ")[2] + " --no-pager").stdout
    status = machine.run(["gracectl", "status"])
    assert status.returncode == 3
    assert f"{left['id']} is open (failed)" in status.stdout
    machine.write("/etc/systemd/system/app.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
    machine.systemctl("daemon-reload").ok()
    assert "Once you have mended the cause: gracectl reset app.service" in story
    # Otherwise the next try is a minute away, and so is the next report.
    machine.run(["gracectl", "reset", "app", "--reason", "the loop is gone"]).ok()
    done = machine.wait_until(
        "it is healed", lambda: app.wait_incident() if app.incidents()[-1]["closed_at"] else None, timeout=20.0
    )
    assert (done["id"], done["outcome"], done["playbook"]) == (left["id"], "healed", "restart-unit")
    assert machine.run(["gracectl", "status"]).ok().stdout.startswith("graced is healthy")
    machine.run(["gracectl", "release", "app"]).ok()
