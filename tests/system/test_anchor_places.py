"""Places outside the journal for the ledger's heads, in the real sandbox: a file on another disk and a web address as
SECURITY.md says they are set up, and what happens when they are wrong: it is said everywhere, and repairs go on.

GRACED_NIGHTLY=1 in the environment waits half a minute for a disk that is mounted late; otherwise a restart looks.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from tests.support.adopted import Adopted

if TYPE_CHECKING:
    from tests.support.container import Container

UNIT = "graced-supervisor.service"
STATE = "/var/lib/graced/supervisor"
PLACE = "/var/lib/graced/anchor"
FILE = f"{PLACE}/heads"
URL = "http://127.0.0.1:8080/hook?key=secret"
BROKEN = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b70f"
# What is said when a place cannot be used.
NOT_WRITTEN, NOT_TAKEN = f"head cannot be written to {FILE}", "head was not taken by http://127.0.0.1:8080/"
METRICS = """
import json
from graced.varlink.client import Client
with Client("/run/graced/io.graced.Supervisor", timeout_s=60.0) as client:
    families = client.call("io.graced.Supervisor.Metrics", {})["families"]
found = {one["name"]: one["samples"] for one in families}
(errors,) = found["graced_ledger_anchor_errors_total"]
answer = [one["labels"]["answer"] for one in found["graced_ledger_anchor"] if one["value"]]
print(json.dumps([errors["value"], *answer]))
"""
LISTENER = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/root/posts", "ab") as file:
            file.write(body + b"\\n")
        print("a head came", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""


def configure(machine: Container, **options: str) -> None:
    """Writes the options and starts the supervisor with them."""
    lines = [f'{name} = "{value}"\n' for name, value in options.items()]
    machine.write("/etc/graced/graced.toml", "".join(["[supervisor]\n", *lines]))
    machine.run(["gracectl", "config", "check"]).ok()
    restart(machine)


def restart(machine: Container) -> None:
    """Starts the supervisor anew, with whatever units and options say now."""
    machine.systemctl("daemon-reload").ok()
    machine.systemctl("restart", UNIT).ok()
    machine.wait_until("it has compared", lambda: metrics(machine)[1] != "unread")


def metrics(machine: Container) -> list[Any]:
    """How many heads could not be delivered, and what comparing with those outside gave."""
    done = machine.run(["python3", "-c", METRICS])
    found: list[Any] = json.loads(done.stdout) if done.returncode == 0 else [0, "unread"]
    return found


def status(machine: Container) -> str:
    """What `gracectl status` says."""
    return machine.run(["gracectl", "status"]).stdout


def mount(machine: Container) -> None:
    """Another disk, as SECURITY.md says; in a container it is one in memory."""
    machine.unit(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", PLACE]).ok()
    machine.unit(["chown", "_graced-supervisor", PLACE]).ok()


def heads(machine: Container) -> list[str]:
    """The heads in the anchor file, oldest first."""
    path = machine.path(FILE)
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(one)["checkpoint"] for one in lines if one]


def entries(machine: Container, checkpoint: str) -> int:
    """How many entries of this host's ledger a head covers, which the audit must agree with."""
    machine.write("/root/head", checkpoint)
    report = machine.run(["gracectl", "audit", "verify", "--checkpoint=/root/head", "--json=short"]).json()
    assert report["anchor"] == "agrees"
    return int(checkpoint.splitlines()[1])


def test_a_file_on_another_disk_knows_what_journal_and_database_have_forgotten(machine: Container) -> None:
    machine.allow("changed from outside", "journal")
    machine.systemctl("stop", UNIT, "graced-supervisor.socket").ok()
    shutil.copytree(machine.path(STATE), machine.path("/root/older"))
    mount(machine)
    configure(machine, ledger_anchor_file=FILE)
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed():
        nginx.kill()
    machine.systemctl("restart", UNIT).ok()
    machine.wait_until("the file has the newest head", lambda: heads(machine) and entries(machine, heads(machine)[-1]))
    assert metrics(machine)[0] == 0

    machine.systemctl("stop", UNIT, "graced-supervisor.socket").ok()
    for one in machine.path(STATE).glob("ledger.db*"):
        one.unlink()
    for one in machine.path("/root/older").glob("ledger.db*"):
        shutil.copy2(one, machine.path(STATE) / one.name)
    machine.unit(["chown", "-R", "_graced-supervisor:_graced", STATE]).ok()
    machine.systemctl("stop", "systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
    machine.unit(["find", "/run/log/journal", "/var/log/journal", "-name", "*.journal", "-delete"])
    machine.systemctl("start", "systemd-journald.service").ok()
    machine.systemctl("start", "graced.target").ok()
    record = machine.wait_journal("changed from outside", MESSAGE_ID=BROKEN)
    assert record["PRIORITY"] == "2"
    assert "anchor file" in record["MESSAGE"]
    audited = machine.run(["gracectl", "audit", "verify", "--json=short"])
    assert (audited.returncode, json.loads(audited.stdout)["anchor"] in {"rolled-back", "differs"}) == (1, True)


def test_a_web_address_gets_heads_with_the_drop_in_and_one_that_hangs_is_said(machine: Container) -> None:
    machine.allow(NOT_TAKEN)
    machine.write("/root/listener.py", LISTENER)
    machine.unit(["systemd-run", "--unit=listener", "python3", "/root/listener.py"]).ok()
    example = "/usr/share/doc/graced/examples/anchor-webhook.conf"
    machine.unit(["install", "-D", "-m", "644", "-t", f"/etc/systemd/system/{UNIT}.d", example]).ok()
    configure(machine, ledger_anchor_url=URL)
    machine.wait_journal("a head came", _SYSTEMD_UNIT="listener.service")
    posted = [json.loads(line)["checkpoint"] for line in machine.read("/root/posts").splitlines()]
    assert entries(machine, posted[-1]) > 0
    assert metrics(machine)[0] == 0
    shown = machine.show(UNIT, "IPAddressAllow", "IPAddressDeny")
    assert shown["IPAddressAllow"] == "127.0.0.1/32"
    assert "0.0.0.0/0" in shown["IPAddressDeny"]

    machine.unit(["systemctl", "kill", "--signal=SIGSTOP", "listener.service"]).ok()
    restart(machine)
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed():
        nginx.kill()
    machine.wait_journal(NOT_TAKEN, _SYSTEMD_UNIT=UNIT)
    assert NOT_TAKEN in status(machine)
    machine.unit(["systemctl", "kill", "--signal=SIGCONT", "listener.service"]).ok()


def test_places_that_cannot_be_used_are_said_everywhere_and_repairs_go_on(machine: Container) -> None:
    machine.allow(NOT_WRITTEN, NOT_TAKEN)
    # Nothing is mounted, and nobody opened the network.
    configure(machine, ledger_anchor_file=FILE, ledger_anchor_url=URL)
    pid = machine.pid(UNIT)
    for said in (NOT_WRITTEN, NOT_TAKEN):
        record = machine.wait_journal(said, _SYSTEMD_UNIT=UNIT)
        assert record["PRIORITY"] == "4"
        machine.wait_until("the status says it", lambda one=said: one in status(machine))
    assert metrics(machine)[0] >= 2
    assert "secret" not in status(machine)
    assert list(machine.path(PLACE).iterdir()) == []

    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed():
        nginx.kill()
    assert machine.pid(UNIT) == pid
    assert machine.run(["gracectl", "audit", "verify"]).returncode == 0

    # Mounted later: the running supervisor sees it.
    mount(machine)
    if os.environ.get("GRACED_NIGHTLY") == "1":
        machine.wait_journal(f"head is at {FILE} again", 60.0, _SYSTEMD_UNIT=UNIT)
    else:
        restart(machine)
    machine.wait_until("a head is there", lambda: heads(machine))
    assert entries(machine, heads(machine)[-1]) > 0
    assert NOT_WRITTEN not in status(machine)
    # What systemd does at each boot leaves the owner of the disk alone.
    machine.unit(["systemd-tmpfiles", "--create", "graced.conf"]).ok()
    assert machine.run(["stat", "-c", "%U", PLACE]).stdout.strip() == "_graced-supervisor"


def test_a_purge_leaves_the_other_disk_alone(machine: Container) -> None:
    machine.allow(".*")
    mount(machine)
    configure(machine, ledger_anchor_file=FILE)
    machine.wait_until("a head is there", lambda: heads(machine))
    machine.unit(["dpkg", "--purge", "graced"], timeout=120).ok()
    assert [path.name for path in machine.path("/var/lib/graced").iterdir()] == ["anchor"]
    assert heads(machine)
