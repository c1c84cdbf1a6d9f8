"""Attacks on a real host: each is refused, on the record, and leaves the host as it was.

One machine stands all of them, because most of the time would be boots. The attackers are another user, people with
rights of their own, every daemon's account and the accounts of the healed services; and one who stole Governance's key.
GRACED_NIGHTLY=1 in the environment races ten times as often.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support import siege
from tests.support.adopted import ESCALATED, Adopted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.container import Container

REFUSED_CALLER = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b718"
REFUSED_WARRANT = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b717"
HEAD = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b70e"
HEALING = "_graced-healing"
STRANGERS = ("mallory", "www-data", "redis")
PEOPLE = ("mallory", "reader", "anna", "otto")
RACES = 40 if os.environ.get("GRACED_NIGHTLY") == "1" else 4
WATCH = "/etc/graced/watch.d/nginx.toml"
NGINX, REDIS = "/etc/nginx/nginx.conf", "/etc/redis/redis.conf"
SITE = """
[[rule]]
id = "site.two"
effect = "hold"
approvals = 2
reason = "two people"
match = { unit = "redis-server.service", playbook = "kill-and-restart" }
"""
# What must be refused to everybody but those named; a person's word is refused to daemons and to root too.
FORBIDDEN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Actuator.Execute": ({"warrant": {}, "kid": "", "signature": ""}, (HEALING,)),
    "Actuator.Rollback": ({"act_id": "act_0000000000000000", "reason": "x"}, (HEALING,)),
    "Actuator.Snapshot": ({"unit": "cron.service", "reason": "x"}, ("_graced-verification",)),
    "Actuator.Forget": ({"unit": "nginx.service"}, ()),
    "Actuator.RevokeKey": ({"kid": "x", "reason": "x", "at_seq": None}, ()),
    "Governance.Approve": ({"id": "approval_1"}, ("anna", "otto")),
    "Governance.Deny": ({"id": "approval_1", "reason": "x"}, ("anna", "otto")),
    "Governance.Pause": ({"reason": "x"}, ("anna", "otto")),
    "Governance.Reset": ({"unit": "nginx.service"}, ("anna", "otto")),
    "Governance.Shadow": ({"on": True}, ("anna", "otto")),
    "Governance.RotateKey": ({"reason": "x"}, ("anna", "otto")),
    "Governance.Decide": ({"plan": {}}, (HEALING,)),
    "Governance.Outcome": ({}, (HEALING,)),
    "Ledger.Append": ({"kind": "approval", "data": {"by_uid": 1000}}, ("_graced-governance",)),
    "HTM.Submit": ({"handler": "heal", "task_type": "remediate"}, ("_graced-supervisor",)),
    "Bus.Publish": ({"type": "governance.decision", "data": {"paused": False}}, ("_graced-governance",)),
    "Memory.PutIncident": ({}, ("_graced-supervisor",)),
    "Infrastructure.ConfigChanged": ({"unit": "nginx.service"}, ()),
}


@dataclass
class Siege:
    """The machine under attack, and what the attackers know."""

    machine: Container
    nginx: Adopted = field(init=False)
    redis: Adopted = field(init=False)

    def __post_init__(self) -> None:
        machine = self.machine
        for name in PEOPLE:
            groups = {"reader": "_graced-read", "mallory": "users"}.get(name, "_graced-admin")
            machine.unit(["useradd", "--no-create-home", f"--groups={groups}", name]).ok()
        self.nginx, self.redis = Adopted(machine, "nginx"), Adopted(machine, "redis-server")
        for daemon in (self.nginx, self.redis):
            daemon.adopt()
        machine.write("/etc/graced/policy.d/90-site.toml", SITE)
        machine.run(["gracectl", "policy", "check"]).ok()
        self.uids = {name: int(machine.run(["id", "-u", name]).ok().stdout) for name in (*PEOPLE, *siege.DAEMONS)}
        self.uids |= {name: int(machine.run(["id", "-u", name]).ok().stdout) for name in STRANGERS}
        self.pids = {name: machine.pid(f"graced-{name}.service") for name in siege.KERNELS}
        self.seed = machine.run(["python3", "-I", "-c", siege.STEAL]).ok().stdout.strip()
        self.lasting = siege.lasting(machine)
        machine.wait_until("a head in the journal", lambda: machine.journal(MESSAGE_ID=HEAD))

    @property
    def attackers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*STRANGERS, *PEOPLE, *siege.DAEMONS)))

    def fingerprint(self) -> dict[str, str]:
        """The host as it is; also whether people asked for quiet."""
        found = siege.fingerprint(self.machine, self.lasting)
        state = [[siege.socket_of("Governance"), "io.graced.Governance.State", {}]]
        [reply] = self.machine.run(["python3", "-I", "-c", siege.ASK, json.dumps(state)]).json()
        found["graced"] = json.dumps([reply["parameters"][name] for name in ("paused", "shadow", "policy_digest")])
        return found

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """In the body graced itself repairs nothing."""
        self.machine.run(["gracectl", "pause"]).ok()
        try:
            yield
        finally:
            self.machine.run(["gracectl", "resume"]).ok()

    def open_incidents(self) -> list[Any]:
        """Incidents of the adopted units that are not closed; a busy machine may have one of its own."""
        listed: list[Any] = self.machine.run(["gracectl", "incidents", "--open", "--json=short"]).json()
        return [one for one in listed if one["unit"] in {self.nginx.unit, self.redis.unit}]

    def journal(self, **matches: str) -> list[dict[str, Any]]:
        """Journal records, whatever was said until now among them."""
        self.machine.run(["journalctl", "--sync"]).ok()
        return self.machine.journal(**matches)

    def steal(self, *cases: dict[str, Any], account: str = HEALING) -> list[str]:
        """Hands warrants to the actuator; the word of each refusal, or "act" where there was an act."""
        cases = tuple({"changes": {}, **case} for case in cases)
        said = siege.as_account(self.machine, account, siege.THIEF, {"seed": self.seed, "cases": cases})
        return [str(one.get("reason") or one["error"]) if "error" in one else "act" for one in said]

    def ask(self, account: str, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Calls `Interface.Method` as an account."""
        given = [[siege.socket_of(name.split(".")[0]), f"io.graced.{name}", parameters] for name, parameters in calls]
        said: list[dict[str, Any]] = siege.as_account(self.machine, account, siege.ASK, given)
        return said

    def recorded(self, reasons: set[str]) -> None:
        """Each refused warrant is in the journal and in the ledger."""
        records = self.journal(MESSAGE_ID=REFUSED_WARRANT)
        assert reasons <= {record["GRACED_REASON"] for record in records}
        assert {record["GRACED_UID"] for record in records} == {str(self.uids[HEALING])}
        entries = self.machine.run(["gracectl", "audit", "show", "--kind", "step", "-n", "1000", "--json=short"]).json()
        told = [entry["data"] for entry in entries if entry["data"].get("verb") == "refuse"]
        assert reasons <= {data["reason"] for data in told}
        assert {data["uid"] for data in told} == {self.uids[HEALING]}


def denied(reply: dict[str, Any]) -> bool:
    error = str(reply.get("error", ""))
    return error.endswith(".PermissionDenied") or error == "not even a connection"


def what_nobody_may_call(under: Siege) -> None:
    """Forged approvals, decisions, events and tasks; the actuator; the switches of people."""
    for account in under.attackers:
        calls = [(name, given) for name, (given, who) in FORBIDDEN.items() if account not in who]
        replies = under.ask(account, *calls)
        wrong = [(name, reply) for (name, _given), reply in zip(calls, replies, strict=True) if not denied(reply)]
        assert wrong == [], account
        records = under.journal(MESSAGE_ID=REFUSED_CALLER, GRACED_UID=str(under.uids[account]))
        met = {record["GRACED_METHOD"] for record in records if "GRACED_METHOD" in record}
        # Strangers do not even get a connection to the actuator.
        expected = {f"io.graced.{name}" for name, _given in calls}
        assert {name for name in expected if ".Actuator." not in name} <= met, account


def what_nobody_may_touch(under: Siege) -> None:
    """Files, sockets, keys, state, memory, signals, units of others; and heads of the ledger made up in the journal."""
    head = under.machine.journal(MESSAGE_ID=HEAD)[-1]["GRACED_CHECKPOINT"].split("\n")
    made_up = "\n".join([head[0], "1000000", "A" * 43 + "=", *head[3:]])
    for account in under.attackers:
        under_own = account.removeprefix("_graced-")
        others = [name for name in siege.KERNELS if name != under_own]
        goal = {
            "files": [
                *("/etc/shadow", "/etc/passwd", NGINX, "/etc/graced/watch.d/nginx.toml"),
                *("/etc/graced/policy.d/90-site.toml", "/usr/share/graced/policy.d/50-default.toml"),
                *("/var/lib/graced/roster.json", "/usr/lib/graced/graced-actuator", "/var/lib/dpkg/status"),
                *under.machine.sh("ls /run/log/journal/*/*.journal /var/log/journal/*/*.journal || :").stdout.split(),
            ],
            "sockets": under.machine.sh("ls -d /run/graced/*").ok().stdout.split(),
            "directories": [
                *("/run/graced", "/etc/graced", "/etc/graced/watch.d", "/etc/graced/policy.d", "/usr/share/graced"),
                *("/etc/systemd/system", "/run/systemd/system", "/var/lib/graced", "/etc/nginx", "/usr/lib/graced"),
            ],
            "secrets": [
                *(f"/var/lib/graced/{name}" for name in [*others, "keys", "actuator", "rejected"]),
                *(f"/var/lib/graced/{name}/{name}.db" for name in others),
                *(f"/var/lib/graced/keys/{name}.{kind}" for name in others for kind in ("key", "seal")),
                *(f"/run/credentials/graced-{name}.service" for name in others),
            ],
            "pids": [1, under.machine.pid("nginx.service"), *(under.pids[name] for name in others)],
            "commands": [
                ["systemctl", "--no-ask-password", "stop", "nginx.service"],
                ["systemctl", "--no-ask-password", "restart", "graced-governance.service"],
                ["systemd-run", "--no-ask-password", "--wait", "true"],
                ["gracectl", "adopt", "cron"],
            ],
            "record": {
                "MESSAGE": "made up",
                "MESSAGE_ID": HEAD,
                "GRACED_LEDGER_SIZE": "1000000",
                "GRACED_CHECKPOINT": made_up,
                "_SYSTEMD_UNIT": "graced-supervisor.service",
                "_UID": str(under.uids["_graced-supervisor"]),
                "UNIT": "graced-supervisor.service",
            },
        }
        assert siege.as_account(under.machine, account, siege.ASSAULT, goal) == [], account
    machine = under.machine
    machine.wait_until("the made up heads", lambda: len(machine.journal(MESSAGE_ID=HEAD, MESSAGE="made up")) > 10)
    audited = machine.run(["gracectl", "audit", "verify", "--json=short"]).ok().json()
    assert audited["anchor"] == "agrees"
    # The means can tell: what is one's own is open.
    own = {"files": [], "sockets": [], "directories": [], "commands": [["true"]], "record": {"MESSAGE": "x"}}
    own |= {"secrets": ["/var/lib/graced/memory"], "pids": [under.pids["memory"]]}
    worked = siege.as_account(machine, "_graced-memory", siege.ASSAULT, own)
    assert {"list /var/lib/graced/memory", f"signal 0 to {under.pids['memory']}", "true"} <= set(worked)


def warrants_that_do_not_hold(under: Siege) -> None:
    """Forged, edited, expired, for another boot, unit, playbook or step; with the true key where that is no help."""
    refusals = {
        "unknown-key": {"key": "own"},
        "signature": {"key": "forged"},
        "format": {"changes": {"v": 2}},
        "expired": {"changes": {"not_before_boottime_us": {"now": -60_000_000}, "not_after_boottime_us": {"now": -1}}},
        "not-yet": {"changes": {"not_before_boottime_us": {"now": 60_000_000}}},
        "window": {"changes": {"not_after_boottime_us": {"now": 121_000_000}}},
        "boot": {"changes": {"boot_id": "0" * 32}},
        "denied-unit": {"unit": "dbus.service"},
        "NotAdopted": {"unit": "systemd.service"},
        "profile": {"changes": {"profile": "redis-server"}},
        "profile-digest": {"changes": {"profile_digest": "0" * 64}},
        "playbook-digest": {"changes": {"playbook_digest": "0" * 64}},
        "no-such-file": {"playbook": "rm-rf"},
        "playbook": {"playbook": "unnamed"},
        "steps": {"changes": {"steps": [0, 9]}},
        "tier": {"changes": {"tier": 4}},
    }
    edited = [
        {"edit": {"unit": "redis-server.service"}},
        {"edit": {"steps": [0]}},
        {"edit": {"tier": 4}},
        {"edit": {"not_after_boottime_us": 1 << 60}},
        {"edit": {"playbook": "restart-unit"}},
    ]
    units = [
        {"unit": name} for name in ("systemd-journald.service", "graced-governance.service", "init.scope", "a.b/c")
    ]
    said = under.steal(*refusals.values(), *edited, *units)
    assert said == [*refusals, *["signature"] * len(edited), *["denied-unit"] * len(units)]
    # A key is nothing without being Self-Healing or root as well.
    assert under.steal({}, account="_graced-governance") == ["PermissionDenied"]
    under.recorded({one for one in refusals if one != "NotAdopted"})


def a_stolen_key(under: Siege) -> None:
    """Signs what it likes, and gets what an admin allowed for that unit: policy's word, a pause, is void, no more."""
    machine = under.machine
    watch = machine.read(WATCH)
    before = under.fingerprint()
    with under.paused():
        said = under.steal({"times": 2}, {"playbook": "restart-unit", "changes": {"steps": [0, 1]}})
        assert said == ["act", "replayed", "state-changed"]
        machine.wait_until("nginx is up", under.nginx.answers)
    assert siege.difference(before, under.fingerprint(), ("unit nginx.service",)) == []
    machine.write(WATCH, watch.replace("tier = 3", "tier = 1"))
    assert under.steal({"changes": {"tier": 1}}, {"changes": {"tier": 2}}) == ["tier", "tier"]
    machine.path(WATCH).unlink()
    assert under.steal({}) == ["NotAdopted"]
    machine.write(WATCH, watch)
    under.recorded({"replayed", "tier"})
    # It names no successor unless Governance itself asks, nor another signer's; it signs no verdict.
    for account, signer, word in (
        (HEALING, "governance", "PermissionDenied"),
        ("_graced-verification", "governance", "wrong-signer"),
        ("_graced-verification", "verification", "not-current"),
    ):
        reply = siege.as_account(machine, account, siege.USURP, {"seed": under.seed, "signer": signer})
        assert word in {reply["error"], reply.get("reason")}, (account, reply)
    verdict = {"kind": "verdict", "data": {"healthy": True}, "kid": "x", "signature": "AAAA"}
    for account in ("_graced-governance", "_graced-verification"):
        assert "error" in under.ask(account, ("Ledger.Append", verdict))[0], account


def swapped_paths(under: Siege) -> None:
    """The healed service's account puts something else where its file was, also in a race: a link, a pipe, …"""
    machine = under.machine
    shown = {"unit": "redis-server.service", "playbook": "restore-config"}
    original = under.redis.file()
    before = under.fingerprint()
    for how, wanted in (("link", "act"), ("name", "Failed"), ("pipe", "Failed"), ("directory", "Failed")):
        with under.paused():
            siege.as_account(machine, "redis", siege.SWAP, {"path": REDIS, "how": how})
            assert under.steal(shown) == [wanted], how
            siege.as_account(machine, "redis", siege.SWAP, {"path": REDIS, "how": "back"})
        assert under.redis.file() == original, how
    untouched(under, before)
    with under.paused():
        with siege.start(machine, "redis", siege.RACE, {"path": REDIS}) as racer:
            try:
                assert racer.stdout is not None
                assert racer.stdout.readline() == "racing\n"
                assert under.steal(*[shown] * RACES)
            finally:
                machine.path("/etc/redis/stop").touch()
        assert racer.returncode == 0
        siege.as_account(machine, "redis", siege.SWAP, {"path": REDIS, "how": "back"})
        machine.unit(["systemctl", "reset-failed", "redis-server"]).ok()
        machine.unit(["systemctl", "restart", "redis-server"]).ok()
    untouched(under, before)
    assert under.redis.file() == original


def untouched(under: Siege, before: dict[str, str]) -> None:
    """Nothing but redis' own directory and processes changed, and nothing of what the links led to was copied."""
    assert siege.difference(before, under.fingerprint(), ("/etc/redis/", "unit redis-server.")) == []
    secret = under.machine.read("/etc/shadow").splitlines()[0]
    copied = ["grep", "-rlF", "--", secret, "/var/lib/graced", "/etc/redis/", "/var/lib/redis"]
    found = [path for path in under.machine.run(copied).stdout.split() if not under.machine.path(path).is_symlink()]
    assert found == []


def what_was_left_writable(under: Siege) -> None:
    """An admin's mistake, a file that everybody may write, is used by somebody who should not: it does not count."""
    machine = under.machine
    taken = ("Actuator.Snapshot", {"unit": "nginx.service", "reason": "x"})
    with siege.writable(machine, NGINX, "mallory", "# mine\n"):
        [reply] = under.ask("_graced-verification", taken)
        assert reply["parameters"]["reason"] == "service-writable"
    before = under.fingerprint()
    share = "/usr/share/graced"
    for path, text in (
        (WATCH, "tier = 4\n"),
        (f"{share}/playbooks/kill-and-restart.toml", "# mine\n"),
        (f"{share}/profiles/nginx.toml", "# mine\n"),
    ):
        with siege.writable(machine, path, "mallory", text):
            assert under.steal({}) == ["untrusted-file"], path
    with siege.writable(machine, "/etc/graced/watch.d", "mallory", 'unit = "cron.service"\nprofile = "nginx"\n'):
        assert under.steal({"unit": "cron.service"}) == ["untrusted-file"]
    explain = ["gracectl", "policy", "explain", "nginx", "kill-and-restart", "--json=short"]
    ruled = machine.run(explain).json()
    allow = '[[rule]]\nid = "mine"\neffect = "deny"\nreason = "mine"\n'
    with siege.writable(machine, "/etc/graced/policy.d/90-site.toml", "mallory", allow):
        assert machine.run(explain).json()["policy_digest"] == ruled["policy_digest"]
    # Who may write the directory can take a rule away: then nothing is allowed.
    with siege.writable(machine, "/etc/graced/policy.d", "mallory", "# mine\n"):
        assert machine.run(explain).json()["rule"] == "policy-unusable"
    assert machine.run(explain).json()["policy_digest"] == ruled["policy_digest"]
    assert siege.difference(before, under.fingerprint()) == []
    under.recorded({"untrusted-file"})


def approvals_that_do_not_count(under: Siege) -> None:
    """By a daemon, a stranger or root, twice by one person, for another plan, after a denial."""
    machine = under.machine
    explain = ["gracectl", "policy", "explain", "redis-server", "kill-and-restart", "--json=short"]
    plan = machine.run(explain).json()["plan"] | {"task_id": "task_900"}

    def decide(**changes: Any) -> dict[str, Any]:
        [reply] = under.ask(HEALING, ("Governance.Decide", {"plan": {**plan, **changes}}))
        parameters: dict[str, Any] = reply["parameters"]
        return parameters

    assert (decide()["effect"], decide()["rule"]) == ("hold", "site.two")
    [request] = machine.run(["gracectl", "approvals", "--json=short"]).json()
    approve = ("Governance.Approve", {"id": request["id"]})
    for account in ("mallory", "reader", HEALING, "_graced-governance", "_graced-supervisor"):
        assert denied(under.ask(account, approve)[0]), account
    assert machine.run(["gracectl", "approve", request["id"]]).returncode == 1
    first, second = under.ask("anna", approve, approve)
    assert first["parameters"]["approved_by"] == [under.uids["anna"]]
    assert second["error"].endswith(".SamePerson")
    for changes in ({}, {"task_id": "task_901"}, {"steps": [0]}):
        assert decide(**changes)["effect"] == "hold", changes
    [gone] = under.ask("otto", ("Governance.Deny", {"id": request["id"], "reason": "no"}))
    assert gone["parameters"]["state"] == "denied"
    assert decide()["rule"] == "approval.denied"
    assert under.ask("anna", approve)[0]["error"].endswith(".NotOpen")
    entries = machine.run(["gracectl", "audit", "show", "--kind", "approval", "-n", "1000", "--json=short"]).json()
    told = [(entry["data"]["by_uid"], entry["data"]["word"]) for entry in entries]
    assert told == [(under.uids["anna"], "approved"), (under.uids["otto"], "denied")]
    # So many others asked for that there is no place: the one that is open stays open.
    many = [("Governance.Decide", {"plan": {**plan, "task_id": f"task_{number}"}}) for number in range(1000, 1105)]
    under.ask(HEALING, ("Governance.Decide", {"plan": {**plan, "task_id": "task_902"}}), *many)
    listed = machine.run(["gracectl", "approvals", "--json=short"]).json()
    assert (len(listed), "task_902" in {one["task_id"] for one in listed}) == (100, True)
    refusals = under.journal(MESSAGE_ID=REFUSED_CALLER, GRACED_UID=str(under.uids["anna"]))
    assert sum("does not count" in record["MESSAGE"] for record in refusals) == 2


def faults_that_are_not_there(under: Siege) -> None:
    """Infrastructure's account says that a healthy unit has failed: it is looked at by others, and left alone."""
    machine = under.machine
    anomaly = {"type": "unit.failed", "value": "signal", "threshold": "active", "severity": "high"}
    data = {"unit": "nginx.service", "profile": "nginx", "finding": "unit.failed", "anomalies": [anomaly]}
    data |= {"fault_monotonic_us": None, "detected_monotonic_us": 1, "evidence": {}, "snapshot": {}}
    known = len(under.nginx.incidents())
    event = {"type": "hunter.anomaly.detected", "data": {**data, "timestamp": "2026-01-01T00:00:00Z"}}
    [reply] = under.ask("_graced-infrastructure", ("Bus.Publish", event))
    assert "error" not in reply
    ended = machine.wait_until(
        "the incident is closed",
        lambda: [one for one in under.nginx.incidents()[known:] if one["closed_at"]],
        60,
    )
    assert {one["playbook"] for one in ended} == {None}


def a_flood(under: Siege) -> None:
    """Connections, rubbish and forged warrants by the thousand: a real fault is repaired meanwhile."""
    machine = under.machine
    sockets = [siege.socket_of(name) for name in ("Supervisor", "Governance", "Memory", "Healing", "Code")]
    forged = {"warrant": {"unit": "nginx.service"}, "kid": "x", "signature": "AAAA"}
    floods: dict[str, Any] = {name: {"sockets": sockets, "calls": 400} for name in STRANGERS}
    floods[HEALING] = {"sockets": [siege.socket_of("Actuator")], "calls": 3000, "forged": forged}
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(siege.start(machine, name, siege.FLOOD, flood)) for name, flood in floods.items()
        ]
        for flood in running:
            assert flood.stdout is not None
            assert flood.stdout.readline() == "flooding\n"
        with under.nginx.healed(60):
            under.nginx.kill()
        answers = [json.loads(flood.communicate(timeout=120)[0]) for flood in running]
    assert all(one["other"] == 0 for one in answers), answers
    assert answers[-1]["refused"] == 3000
    # Written down, and not once for each.
    for account in STRANGERS:
        assert 0 < len(under.journal(MESSAGE_ID=REFUSED_CALLER, GRACED_UID=str(under.uids[account]))) < 1000
    assert 0 < len(under.journal(MESSAGE_ID=REFUSED_WARRANT)) < 300


ATTACKS: tuple[Callable[[Siege], None], ...] = (
    what_nobody_may_call,
    what_nobody_may_touch,
    warrants_that_do_not_hold,
    approvals_that_do_not_count,
    faults_that_are_not_there,
    what_was_left_writable,
    a_stolen_key,
    swapped_paths,
    a_flood,
)
# Where an attack may do something, only this differs afterwards.
MAY_CHANGE = {a_stolen_key: ("unit nginx.",), swapped_paths: ("unit redis-server.",), a_flood: ("unit nginx.",)}


def test_attacks_are_refused_recorded_and_change_nothing(machine: Container) -> None:
    machine.allow("a warrant was refused", "policy refused", "refused, (the version that passed|it does not count)")
    # A file that was left writable is damage; it may be whole again before anybody repairs it.
    machine.allow("no approval is asked for", ESCALATED)
    # Whoever swaps his own files without end can have a look at them fail.
    machine.allow("heal of redis-server.service failed at observing")
    machine.allow("must belong to root and not be writable for others")
    machine.allow("a rotation asked by verification was refused", r"^task_\d+ waits on: there is no task_\d+$")
    own = 'description = "x"\nrisk = "low"\ntier = 2\ntriggers = ["unit.failed"]\n[[step]]\nverb = "restart"\n'
    machine.write("/etc/graced/playbooks/unnamed.toml", own)
    under = Siege(machine)
    after = under.fingerprint()
    for attack in ATTACKS:
        before = after
        attack(under)
        machine.wait_until("no incident is open", lambda: not under.open_incidents(), 60)
        after = under.fingerprint()
        assert siege.difference(before, after, MAY_CHANGE.get(attack, ())) == [], attack.__name__
    machine.run(["gracectl", "audit", "verify"]).ok()
    machine.wait_until("all is well", lambda: machine.run(["gracectl", "status"]).returncode == 0, 60)
