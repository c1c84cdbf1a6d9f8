"""Who may say what to whom, on every socket, with the real accounts; and varlinkctl, which nobody here wrote."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.siege import ASK

if TYPE_CHECKING:
    from tests.support.container import Container, Done

DAEMONS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
IN_SUPERVISOR = ("Bus", "HTM", "Ledger")
IDL = "/usr/share/graced/varlink"
ACCOUNTS = {name: f"_graced-{name}" for name in (*DAEMONS, "exporter")}
PEOPLE = {"read": "reader", "admin": "boss"}
ROLES = ("nobody", *PEOPLE, *ACCOUNTS)

READ = frozenset({*PEOPLE, *ACCOUNTS})
ACT = frozenset({"admin"})
WORK = ACT | {"healing"}
LOOK = frozenset({"healing", "verification", "code", "supervisor"})
NONE: frozenset[str] = frozenset()
# The contract: who may call what, besides root.
MAY = {
    "Supervisor": {"Status": READ, "Metrics": READ},
    "Bus": {"Publish": READ - {"read"}, "Subscribe": READ},
    "HTM": {
        **dict.fromkeys(("Submit", "SubmitBatch", "Cancel", "Requeue"), ACT | {"supervisor"}),
        **dict.fromkeys(("Work", "Heartbeat", "Progress", "Extend", "Complete", "Fail", "Defer", "Wait"), WORK),
        **dict.fromkeys(("Pause", "Drain", "Resume"), ACT),
        **dict.fromkeys(("Get", "List", "Tree", "Why", "Stats", "Watch"), READ),
    },
    "Ledger": {
        "Append": frozenset({"governance", "verification", "healing"}),
        "RotateKey": ACT,
        **dict.fromkeys(("Head", "Read", "Find", "Keys", "KeyHistory"), READ),
    },
    "Infrastructure": {
        "ConfigChanged": NONE,
        **dict.fromkeys(("Units", "Unit", "Host", "Baselines", "Kernels"), READ),
    },
    "Governance": {
        **dict.fromkeys(("Decide", "Outcome"), frozenset({"healing"})),
        **dict.fromkeys(("Pause", "Resume", "Reset", "Shadow", "Approve", "Deny", "RotateKey"), ACT),
        **dict.fromkeys(("Explain", "State", "Approvals"), READ),
    },
    "Memory": {
        "PutIncident": frozenset({"supervisor"}),
        "PutDocument": frozenset({"librarian"}),
        **dict.fromkeys(("Incidents", "Incident", "Documents", "Search", "Stats"), READ),
    },
    "Librarian": {"Status": READ, "Intake": READ, "Scan": ACT},
    "Verification": {
        "Observe": frozenset({"healing", "supervisor"}),
        "Verify": frozenset({"healing"}),
        "Check": READ,
        "RotateKey": ACT,
    },
    "Healing": {"Active": READ, "Plan": READ},
    "Code": {
        **dict.fromkeys(("List", "Refused", "Check"), READ),
        "Rescan": ACT | {"healing", "governance"},
    },
    "Actuator": {
        **dict.fromkeys(("Digest", "Trial"), LOOK),
        "Snapshot": frozenset({"verification"}),
        **dict.fromkeys(("Execute", "Rollback"), frozenset({"healing"})),
        **dict.fromkeys(("Forget", "RevokeKey"), NONE),
        "RotateKey": frozenset({"governance", "verification", "supervisor"}),
    },
}

# Tries to reach what belongs to another daemon; prints what worked.
REACH = """
import json, os, sys
wanted = json.loads(sys.argv[1])
worked = []
for path in wanted["paths"]:
    for how in (os.listdir, lambda p: open(p, "rb").read(1), lambda p: os.open(p + "/x", os.O_CREAT | os.O_WRONLY)):
        try:
            how(path)
        except OSError:
            continue
        worked.append(path)
for pid in wanted["pids"]:
    for number in (0, 18):
        try:
            os.kill(pid, number)
        except OSError:
            continue
        worked.append(f"signal {number} to {pid}")
print(json.dumps(worked))
"""


def socket_of(interface: str) -> str:
    """The socket that serves an interface."""
    return f"/run/graced/io.graced.{'Supervisor' if interface in IN_SUPERVISOR else interface}"


def as_role(machine: Container, role: str, script: str, given: Any) -> Any:
    """Runs Python as the account of a role, with its groups and nothing else; returns what it printed."""
    if role == "nobody":
        account = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    else:
        user = PEOPLE.get(role) or ACCOUNTS[role]
        group = machine.run(["id", "-g", user]).ok().stdout.strip()
        account = [f"--reuid={user}", f"--regid={group}", "--init-groups"]
    command = ["setpriv", *account, "--inh-caps=-all", "--bounding-set=-all", "--", "python3", "-I", "-c", script]
    return machine.run([*command, json.dumps(given)]).json()


def ask(machine: Container, role: str, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls `Interface.Method` as a role."""
    given = [[socket_of(method.split(".")[0]), f"io.graced.{method}", parameters] for method, parameters in calls]
    said: list[dict[str, Any]] = as_role(machine, role, ASK, given)
    return said


def denied(reply: dict[str, Any]) -> bool:
    """Whether a reply is a refusal for want of rights."""
    error = str(reply.get("error", ""))
    return error.endswith(".PermissionDenied") or error == "not even a connection"


def people(machine: Container) -> None:
    """Makes one who reads and one who acts."""
    machine.unit(["useradd", "-M", "-G", "_graced-read", PEOPLE["read"]]).ok()
    machine.unit(["useradd", "-M", "-G", "_graced-admin", PEOPLE["admin"]]).ok()


def test_who_may_call_what(machine: Container) -> None:
    # The right to ask for one is not a statement that anybody signed.
    machine.allow(r"a rotation asked by \w+ was refused: not a rotation")
    people(machine)
    for interface, table in MAY.items():
        text = machine.read(f"{IDL}/io.graced.{interface}.varlink")
        assert sorted(re.findall(r"^method (\w+)", text, re.M)) == sorted(table)

    methods = [(f"{interface}.{method}", who) for interface, table in MAY.items() for method, who in table.items()]
    wrong = []
    for role in ROLES:
        replies = ask(machine, role, *((method, {}) for method, _ in methods))
        for (method, who), reply in zip(methods, replies, strict=True):
            if denied(reply) != (role not in who):
                wrong.append(f"{role} calls {method}: {reply}")
    assert wrong == []

    # org.varlink.service is for those who may read.
    calls = [[socket_of(one), "org.varlink.service.GetInfo", {}] for one in MAY if one != "Actuator"]
    assert all(map(denied, as_role(machine, "nobody", ASK, calls)))
    assert not any(map(denied, as_role(machine, "read", ASK, calls)))

    # A handler or a topic can be narrower than its method.
    heal = ("HTM.Submit", {"handler": "heal", "task_type": "remediate"})
    chore = ("HTM.Submit", {"handler": "chore", "task_type": "any"})
    anomaly = {"type": "hunter.anomaly.detected", "data": {"anomalies": []}}
    for role in ("admin", "librarian", "healing", "code"):
        assert denied(ask(machine, role, heal)[0]), role
    (submitted,) = ask(machine, "admin", chore)
    assert submitted["parameters"]["task_id"].startswith("task_")
    for role in ("admin", *(set(ACCOUNTS) - {"infrastructure", "verification"})):
        assert denied(ask(machine, role, ("Bus.Publish", anomaly))[0]), role
    entry = {"kind": "verdict", "data": {}}
    assert denied(ask(machine, "governance", ("Ledger.Append", entry))[0])
    assert denied(ask(machine, "librarian", ("Governance.Decide", {"plan": {}}), ("Actuator.Execute", {}))[0])

    # What people do with the tool they have.
    as_boss = ["setpriv", "--reuid=boss", "--regid=boss", "--init-groups", "--"]
    as_reader = ["setpriv", "--reuid=reader", "--regid=reader", "--init-groups", "--"]
    machine.run([*as_boss, "gracectl", "pause", "1h"]).ok()
    assert machine.run([*as_reader, "gracectl", "resume"]).returncode != 0
    assert json.loads(machine.run([*as_reader, "gracectl", "status", "--json=short"]).stdout)["paused"] is True
    machine.run([*as_boss, "gracectl", "resume"]).ok()


def test_daemons_cannot_reach_each_other(machine: Container) -> None:
    pids = {name: machine.pid(f"graced-{name}.service") for name in DAEMONS}
    secrets = {name: [f"/var/lib/graced/{name}", f"/run/credentials/graced-{name}.service"] for name in DAEMONS}
    for name in DAEMONS:
        others = [other for other in DAEMONS if other != name]
        paths = [path for other in others for path in secrets[other]]
        paths += [f"/proc/{pids[other]}/{what}" for other in others for what in ("root", "cwd", "environ", "fd", "mem")]
        paths += ["/var/lib/graced/keys", "/run/graced", "/etc/graced", "/etc/graced/watch.d"]
        pids_of_others = [1, *(pids[other] for other in others)]
        worked = as_role(machine, name, REACH, {"paths": paths, "pids": pids_of_others})
        # These two are there to be listed, by everybody.
        assert set(worked) <= {"/run/graced", "/etc/graced", "/etc/graced/watch.d"}, name
        assert not [path for path in ("/run/graced", "/etc/graced", "/etc/graced/watch.d") if worked.count(path) > 1]
    # The means can tell: its own state is open to a daemon.
    worked = as_role(machine, "memory", REACH, {"paths": [], "pids": [pids["memory"]]})
    assert len(worked) == 2


@pytest.mark.parametrize("suite", ["trixie"], indirect=True)
def test_varlinkctl_understands_every_socket(machine: Container) -> None:
    def varlinkctl(*arguments: str) -> Done:
        return machine.run(["varlinkctl", *arguments]).ok()

    files = machine.sh(f"ls {IDL}").ok().stdout.split()
    assert sorted(files) == sorted(f"io.graced.{interface}.varlink" for interface in MAY)
    for file in files:
        varlinkctl("validate-idl", f"{IDL}/{file}")
    for interface, table in MAY.items():
        address, name = f"unix:{socket_of(interface)}", f"io.graced.{interface}"
        info = varlinkctl("--json=short", "info", address)
        assert json.loads(info.stdout)["vendor"] == "graced"
        assert name in json.loads(info.stdout)["interfaces"]
        assert "org.varlink.service" in json.loads(info.stdout)["interfaces"]
        introspected = varlinkctl("introspect", address, name).stdout
        for method in table:
            assert re.search(rf"method {method}\b", introspected), (interface, method)
        said = machine.run(["varlinkctl", "call", address, f"{name}.NoSuchMethod", "{}"])
        assert said.returncode != 0
        assert "MethodNotFound" in said.stderr
    for interface, method in (
        ("Supervisor", "Status"),
        ("HTM", "Stats"),
        ("Ledger", "Head"),
        ("Infrastructure", "Kernels"),
        ("Governance", "State"),
        ("Memory", "Incidents"),
        ("Librarian", "Status"),
        ("Healing", "Active"),
        ("Code", "Refused"),
    ):
        said = varlinkctl(
            "--json=short", "call", f"unix:{socket_of(interface)}", f"io.graced.{interface}.{method}", "{}"
        )
        assert isinstance(json.loads(said.stdout), dict)
    refused = machine.run(
        [
            "varlinkctl",
            "call",
            f"unix:{socket_of('Verification')}",
            "io.graced.Verification.Check",
            '{"unit":"x.service"}',
        ]
    )
    assert refused.returncode != 0
    assert "NoSuchUnit" in refused.stderr
    refused = machine.run(
        ["varlinkctl", "call", f"unix:{socket_of('Actuator')}", "io.graced.Actuator.Digest", '{"unit":"cron.service"}']
    )
    assert refused.returncode != 0
    assert "NotAdopted" in refused.stderr
