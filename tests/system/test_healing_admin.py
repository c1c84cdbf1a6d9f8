"""The admin wins: stop, mask, pause, release, a package manager at work, and all that a busy day brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.adopted import ESCALATED, Adopted

if TYPE_CHECKING:
    from tests.support.container import Container

HOLDER = """
import fcntl, signal
lock = open("/var/lib/dpkg/lock-frontend", "r+")
fcntl.lockf(lock, fcntl.LOCK_EX)
signal.pause()
"""

# systemd 252 escapes a semicolon when it writes a transient unit down, and does not know that escape when a
# daemon-reload reads the file of a trial that runs; what runs is not touched by it. 257 writes it otherwise.
OWN_ESCAPES = r"/run/systemd/transient/graced-trial-\w+\.service:\d+: Ignoring unknown escape sequences: "


def both(machine: Container) -> tuple[Adopted, Adopted]:
    """nginx to be left alone, redis to see that graced is awake."""
    nginx, redis = Adopted(machine, "nginx"), Adopted(machine, "redis-server")
    nginx.adopt()
    redis.adopt()
    return nginx, redis


def awake(redis: Adopted) -> None:
    """Returns once graced has healed something that broke after all that the test did before: what it has not done
    to the other unit by then it did not mean to do."""
    with redis.healed():
        redis.fault("rm CONFIG", restart=True)


def test_a_stopped_masked_or_released_unit_is_left_alone(machine: Container) -> None:
    nginx, redis = both(machine)
    machine.unit(["systemctl", "stop", "nginx"]).ok()
    awake(redis)
    assert machine.state(nginx.unit) == "inactive"

    # A stop that ends in failure is a stop all the same.
    machine.write("/run/systemd/system/nginx.service.d/stop.conf", "[Service]\nExecStopPost=/bin/false\n")
    machine.systemctl("daemon-reload").ok()
    machine.unit(["systemctl", "start", "nginx"]).ok()
    machine.unit(["systemctl", "stop", "nginx"]).ok()
    assert machine.state(nginx.unit) == "failed"
    awake(redis)
    assert machine.state(nginx.unit) == "failed"
    machine.path("/run/systemd/system/nginx.service.d/stop.conf").unlink()
    machine.systemctl("daemon-reload").ok()

    assert nginx.incidents() == []

    # A mask that is so young that only the actuator knows of it: refused.
    machine.allow(ESCALATED)
    machine.unit(["systemctl", "start", "nginx"]).ok()
    machine.unit(["systemctl", "mask", "--runtime", "nginx"]).ok()
    nginx.kill()
    machine.wait_state(nginx.unit, "failed")
    awake(redis)
    assert machine.state(nginx.unit) == "failed"
    assert [(one["outcome"], one["reason"]) for one in nginx.incidents()] in (
        [],
        [("refused", "masked: nginx.service is masked")],
    )
    machine.systemctl("reset-failed", nginx.unit).ok()
    machine.unit(["systemctl", "unmask", "--runtime", "nginx"]).ok()

    seen = len(nginx.incidents())
    machine.unit(["systemctl", "restart", "nginx"]).ok()
    machine.run(["gracectl", "release", "nginx"]).ok()
    nginx.kill()
    machine.wait_state(nginx.unit, "failed")
    awake(redis)
    assert machine.state(nginx.unit) == "failed"
    machine.allow_failed(nginx.unit)
    assert len(nginx.incidents()) == seen
    assert nginx.acts() == []


def test_a_pause_and_a_package_manager_hold_every_heal(machine: Container) -> None:
    nginx, redis = both(machine)
    machine.run(["gracectl", "pause", "--reason", "moving house"]).ok()
    nginx.kill()
    held = nginx.wait_incident(outcome="held")
    assert "moving house" in held["reason"]
    assert machine.state(nginx.unit) == "failed"
    with nginx.healed():
        machine.run(["gracectl", "resume"]).ok()
    assert nginx.incidents()[-1]["id"] == held["id"]

    machine.unit(["systemd-run", "--quiet", "--unit=packages", "--", "/usr/bin/python3", "-c", HOLDER]).ok()
    pid = machine.pid("packages.service")
    machine.wait_until("the lock is held", lambda: f" {pid} " in machine.read("/proc/locks"))
    nginx.kill()
    redis.fault("rm CONFIG", restart=True)
    for daemon in (nginx, redis):
        reason = daemon.wait_incident(outcome="held")["reason"]
        assert f"(pid {pid}) holds /var/lib/dpkg/lock-frontend" in reason
        # systemd tries redis a few times more.
        machine.wait_state(daemon.unit, "failed")
    assert redis.acts() == []
    with redis.healed(), nginx.healed():
        machine.unit(["systemctl", "stop", "packages"]).ok()
    assert nginx.acts() == ["restart-unit", "restart-unit"]


def test_a_busy_admin_sees_no_remediation(machine: Container) -> None:
    nginx, redis = both(machine)
    machine.allow(OWN_ESCAPES)
    machine.unit(
        [
            "/bin/sh",
            "-exc",
            """
            for i in 1 2 3; do
                systemctl restart nginx redis-server
                systemctl reload nginx
                systemctl stop nginx; systemctl start nginx
                systemctl stop redis-server; systemctl daemon-reload; systemctl start redis-server
                sed -i "s/worker_connections .*/worker_connections 51$i;/" /etc/nginx/nginx.conf
                nginx -t -q && systemctl reload nginx
                echo "server { listen 808$i; }" > /etc/nginx/conf.d/more.conf
                systemctl reload nginx
                sed -i "s/^timeout .*/timeout 1$i/" /etc/redis/redis.conf
                systemctl restart redis-server
                touch /etc/nginx/nginx.conf /etc/redis/redis.conf
            done
            # As a package upgrade does: stopped while its files are exchanged, started again.
            systemctl stop nginx
            cp -a /etc/nginx/nginx.conf /etc/nginx/nginx.conf.dpkg-new
            mv /etc/nginx/nginx.conf.dpkg-new /etc/nginx/nginx.conf
            systemctl daemon-reload
            systemctl start nginx
            systemctl try-restart redis-server
            systemctl kill -s HUP nginx
            """,
        ],
        timeout=120,
    ).ok()
    assert nginx.answers()
    assert redis.answers()
    assert b"timeout 13" in redis.file().data
    with redis.healed():
        redis.fault("rm CONFIG", restart=True)
    # Only what the last line broke; a slow start or a file that was half written may have been noted.
    assert [one for one in nginx.incidents() if one["outcome"] != "observed"] == []
    assert nginx.acts() == []
    assert redis.acts() == ["restore-config"]
