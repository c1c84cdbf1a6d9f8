"""Bad luck: full disks, damaged files, wrong files, kills, and the system's own daemons restarted under graced.

Each gets a clear error to the right place, nothing acknowledged is lost, and the others do not notice.
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

from tests.support.adopted import Adopted

if TYPE_CHECKING:
    from tests.support.container import Container

START_LIMIT = 10
DAEMONS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
# What systemd and the others say about a daemon that is away for a moment.
AWAY = (r"Main process exited", r"Failed with result", r"io\.graced\.\w+", r"Watchdog timeout", r"Killing process")

SUBMIT = """
import json, socket, sys
taken = []
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(60)
sock.connect("/run/graced/io.graced.Supervisor")
file = sock.makefile("rb")
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    parameters = {"handler": "chore", "task_type": "any", "priority": "critical", "context": {"text": "x" * 20000},
                  "idempotency_key": str(number)}
    sock.sendall(json.dumps({"method": "io.graced.HTM.Submit", "parameters": parameters}).encode() + b"\\0")
    data = b""
    while not data.endswith(b"\\0"):
        byte = sock.recv(65536)
        assert byte, "closed"
        data += byte
    reply = json.loads(data[:-1])
    if "error" in reply:
        print(json.dumps({"taken": taken, "refused": reply}))
        sys.exit()
    taken.append(reply["parameters"]["task_id"])
print(json.dumps({"taken": taken, "refused": None}))
"""


def unit_of(name: str) -> str:
    """The service of a daemon."""
    return f"graced-{name}.service"


def pids(machine: Container, *but: str) -> dict[str, int]:
    """The main process of each daemon but some."""
    return {name: machine.pid(unit_of(name)) for name in DAEMONS if name not in but}


def submit(machine: Container, first: int, last: int) -> dict[str, Any]:
    """Submits tasks one by one until one is refused."""
    said: dict[str, Any] = machine.run(["python3", "-I", "-c", SUBMIT, str(first), str(last)]).json()
    return said


def known(machine: Container, tasks: list[str]) -> list[str]:
    """Those of `tasks` that graced knows."""
    return [one for one in tasks if machine.run(["gracectl", "task", one, "--json=short"]).returncode == 0]


def given_up(machine: Container, unit: str) -> bool:
    """Whether a service has failed and nothing is about to start it."""
    shown = machine.show(unit, "ActiveState", "Job")
    socket = machine.show(unit.replace(".service", ".socket"), "SubState", "ActiveState")
    return (
        shown["ActiveState"] == "failed"
        and not shown.get("Job", "").strip("0")
        and (socket["ActiveState"] == "failed" or socket["SubState"] == "listening")
    )


def healthy(machine: Container) -> bool:
    """What `gracectl status` says by its exit code."""
    return machine.run(["gracectl", "status"]).returncode == 0


def wait_healthy(machine: Container) -> None:
    """Waits until all is well; says what is not."""
    try:
        machine.wait_until("all is well", lambda: healthy(machine))
    except AssertionError as error:
        said = machine.run(["gracectl", "status"]).stdout
        raise AssertionError(f"{error}\ngracectl status:\n{said}") from error


def test_a_full_disk_loses_nothing_and_is_over_when_there_is_space(machine: Container) -> None:
    machine.allow("disk is full", "No space left", "full", "not kept", *AWAY)
    unit = unit_of("supervisor")
    state = "/var/lib/graced/supervisor"
    machine.systemctl("stop", unit).ok()
    mount = f"cp -a {state} /root/kept; mount -t tmpfs -o size=9400k,mode=0700 tmpfs {state};"
    mount += f"cp -a /root/kept/. {state}/; chown --reference=/root/kept {state}"
    machine.unit(["sh", "-ec", mount]).ok()
    others = pids(machine, "supervisor")
    machine.systemctl("start", unit).ok()
    before = submit(machine, 0, 500)
    assert before["taken"]
    assert before["refused"]["error"] == "io.graced.HTM.Unavailable"
    assert "disk is full" in before["refused"]["parameters"]["reason"]
    assert machine.state(unit) == "active"
    assert machine.run(["gracectl", "status"]).returncode == 3

    machine.unit(["mount", "-o", "remount,size=64m", state]).ok()
    machine.wait_until("tasks are taken again", lambda: submit(machine, 1000, 1001)["taken"])
    # Killed after that: what was taken before is still there.
    pid = machine.pid(unit)
    machine.unit(["systemctl", "kill", "--signal=KILL", unit]).ok()
    machine.wait_until("it is back", lambda: machine.pid(unit) not in (0, pid))
    machine.wait_state(unit, "active")
    assert known(machine, before["taken"]) == before["taken"]
    wait_healthy(machine)
    assert pids(machine, "supervisor") == others


def test_lost_and_damaged_databases_are_refused_loudly_and_the_others_go_on(machine: Container) -> None:
    machine.allow("refuses to start", "Failed", "trying again", "Start request repeated", *AWAY)
    files = {"memory": "/var/lib/graced/memory/memory.db", "supervisor": "/var/lib/graced/supervisor/tasks.db"}
    others = pids(machine, *files)
    good = {}
    for name, path in files.items():
        machine.systemctl("stop", unit_of(name)).ok()
        good[name] = machine.path(path).read_bytes()
    machine.unit(["rm", files["memory"]]).ok()
    machine.unit(["sh", "-c", f"head -c 8192 /dev/urandom > {files['supervisor']}"]).ok()
    for name, what in (("memory", "is missing, but it existed before"), ("supervisor", "is damaged")):
        unit = unit_of(name)
        machine.systemctl("start", unit)
        said = machine.wait_journal("refuses to start", _SYSTEMD_UNIT=unit)
        assert f"{files[name]} {what}" in said["MESSAGE"]
        assert "restore it from a backup" in said["MESSAGE"]
        # Its callers may wake it through its socket, until its start limit.
        machine.wait_until(f"{unit} has given up", lambda u=unit: given_up(machine, u))
        assert machine.show(unit, "NRestarts")["NRestarts"] == "0"
    assert machine.run(["gracectl", "status"]).returncode == 3
    assert pids(machine, *files) == others

    # The last resort tries again, and each try is bounded by the start limit.
    for name in files:
        unit = unit_of(name)
        before = len(machine.journal(_SYSTEMD_UNIT=unit))
        machine.systemctl("start", "graced-rescue.service").ok()
        machine.wait_until("refused again", lambda u=unit, b=before: len(machine.journal(_SYSTEMD_UNIT=u)) > b)
        machine.wait_until(f"{unit} has given up", lambda u=unit: given_up(machine, u))
        assert len(machine.journal("-p", "err", _SYSTEMD_UNIT=unit)) <= 3 * START_LIMIT

    # As the message says: restored, everything is well without another word from the admin.
    for name, path in files.items():
        owner = f"_graced-{name}"
        machine.write(path, good[name], 0o600)
        machine.unit(["sh", "-c", f"chown {owner}:_graced {path}; rm -f {path}-wal {path}-shm"]).ok()
    machine.systemctl("start", "graced-rescue.service").ok()
    for name in files:
        machine.wait_state(unit_of(name), "active")
    wait_healthy(machine)


def test_wrong_files_of_the_admin(machine: Container) -> None:
    machine.allow("cannot be read", "refuse", "Failed", "playbooks/restart-unit", *AWAY)
    machine.allow("profiles/nginx", "watch.d/other", "cron.service")
    # A configuration that the daemon may not read.
    machine.write("/etc/graced/graced.toml", "[memory]\nclosed_incidents_kept = 500\n", 0o600)
    machine.systemctl("reload", unit_of("memory")).ok()
    said = machine.wait_journal("the running one stays", _SYSTEMD_UNIT=unit_of("memory"))
    assert "/etc/graced/graced.toml: cannot be read: Permission denied" in said["MESSAGE"]
    assert machine.state(unit_of("memory")) == "active"
    machine.systemctl("restart", unit_of("memory"))
    machine.wait_state(unit_of("memory"), "failed")
    assert machine.show(unit_of("memory"), "ExecMainStatus")["ExecMainStatus"] == "78"
    machine.path("/etc/graced/graced.toml").chmod(0o644)
    machine.systemctl("start", "graced-rescue.service").ok()
    machine.wait_state(unit_of("memory"), "active")

    # A playbook with an unknown step: the running set stays, the file and line are named.
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    machine.write(
        "/etc/graced/playbooks/restart-unit.toml",
        'description = "wrong"\nrisk = "low"\ntier = 2\ntriggers = ["unit.failed"]\n[[step]]\nverb = "format-disk"\n',
    )
    machine.systemctl("reload", unit_of("code")).ok()
    said = machine.wait_journal("format-disk", _SYSTEMD_UNIT=unit_of("code"))
    assert "/etc/graced/playbooks/restart-unit.toml:6" in said["MESSAGE"]
    checked = machine.run(["gracectl", "config", "check"])
    assert checked.returncode != 0
    assert "/etc/graced/playbooks/restart-unit.toml:6" in checked.stdout + checked.stderr
    with nginx.healed() as incidents:
        nginx.kill("KILL", "all")
    assert [one["outcome"] for one in incidents] == ["healed"]

    # One that was good and is edited: the version before stays. A wrong profile, a wrong watch file of another unit.
    own = {
        "playbooks/restart-unit.toml": machine.read("/usr/share/graced/playbooks/restart-unit.toml") + "# mine\n",
        "profiles/nginx.toml": machine.read("/usr/share/graced/profiles/nginx.toml") + "# mine\n",
        "watch.d/other.toml": 'unit = "cron.service"\nprofile = "nginx"\ntier = 9 # beside nginx.service\n',
    }
    for name, text in own.items():
        machine.write(f"/etc/graced/{name}", text)
    with nginx.healed():
        nginx.kill()
    for name in ("playbooks/restart-unit.toml", "profiles/nginx.toml"):
        machine.write(f"/etc/graced/{name}", own[name] + "unknown = 1\n[\n")
    with nginx.healed() as incidents:
        nginx.kill()
    assert [one["playbook"] for one in incidents] == ["restart-unit"]
    status = machine.run(["gracectl", "status", "--json=short"])
    assert status.returncode == 3
    assert json.loads(status.stdout)["refused_files"] == [f"/etc/graced/{name}" for name in own]
    for name in own:
        machine.path(f"/etc/graced/{name}").unlink()
    wait_healthy(machine)
    with nginx.healed():
        nginx.kill()


HANGING = """\
unit = "redis-server.service"
description = "answers nothing"
[config]
paths = ["/etc/redis/redis.conf"]
[validate]
method = "none"
[[probe]]
kind = "tcp"
address = "127.0.0.1:7777"
send = "PING"
expect = "PONG"
interval_seconds = 1
timeout_ms = 900
failures = 100
[heal]
playbooks = ["diagnose"]
"""


def test_a_probe_that_hangs_disturbs_no_other(machine: Container) -> None:
    machine.unit(
        [
            "systemd-run",
            "--unit=silent",
            "python3",
            "-c",
            "import socket,time; s=socket.create_server(('127.0.0.1',7777)); time.sleep(1e6)",
        ]
    ).ok()
    machine.write("/etc/graced/profiles/redis-server.toml", HANGING)
    machine.systemctl("start", "redis-server.service").ok()
    machine.run(["gracectl", "adopt", "redis-server"]).ok()
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed() as incidents:
        nginx.kill("STOP", "all")
    assert [(one["finding"], one["outcome"]) for one in incidents] == [("unit.hung", "healed")]
    assert machine.show(unit_of("infrastructure"), "NRestarts")["NRestarts"] == "0"


def test_kills_hangs_and_restarts_of_what_graced_stands_on(machine: Container) -> None:
    machine.allow("D-Bus", "system bus", "journal", *AWAY)
    taken = submit(machine, 0, 50)["taken"]
    for name in DAEMONS:
        unit, pid = unit_of(name), machine.pid(unit_of(name))
        machine.unit(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit]).ok()
        machine.wait_until(f"{unit} is back", lambda u=unit, p=pid: machine.pid(u) not in (0, p))
        machine.wait_state(unit, "active")
    assert known(machine, taken) == taken
    hung = unit_of("librarian")
    pid = machine.pid(hung)
    machine.unit(["kill", f"-{int(signal.SIGSTOP)}", str(pid)]).ok()
    machine.wait_until("the watchdog bit", lambda: machine.pid(hung) not in (0, pid))
    machine.wait_state(hung, "active")

    def counts() -> dict[str, tuple[int, int]]:
        done = machine.run(["gracectl", "status", "--json=short"])
        return {row["name"]: (row["restarts"], row["watchdog_resets"]) for row in json.loads(done.stdout)["kernels"]}

    wanted = {**dict.fromkeys(DAEMONS, (1, 0)), "librarian": (2, 1)}
    try:
        machine.wait_until("restarts and resets are counted", lambda: counts() == wanted)
    except AssertionError:
        assert counts() == wanted

    before = pids(machine)
    machine.systemctl("restart", "systemd-journald.service").ok()
    machine.systemctl("reload", "graced.target").ok()
    for name in DAEMONS:
        machine.wait_journal("configuration reloaded", _SYSTEMD_UNIT=unit_of(name))
    machine.systemctl("restart", "dbus.service").ok()
    machine.wait_state("dbus.service", "active")
    nginx = Adopted(machine, "nginx")
    wait_healthy(machine)
    nginx.adopt()
    with nginx.healed() as incidents:
        nginx.kill("KILL", "all")
    assert [one["outcome"] for one in incidents] == ["healed"]
    assert pids(machine) == before
