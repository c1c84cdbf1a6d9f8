"""Governance and Code as real processes: warrants that verify, pauses that survive SIGKILL, files that are refused."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graced.base.errors import WireError
from graced.base.json import canonical
from graced.runtime.catalog import parse
from graced.trust.keys import WARRANT_CONTEXT, context_of, decode_base64, development_key, verify
from graced.trust.sodium import keypair
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SEED = bytes(range(32))
WATCH = 'unit = "nginx.service"\nprofile = "nginx"\ntier = 3\n'
LIMIT_S = 60.0


class Supervisor:
    """The supervisor's side of the wire: takes every call, notes it, answers when it is `up`."""

    def __init__(self, path):
        self.calls = []
        self.up = True
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                peer, _address = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        data = b""
        with peer, contextlib.suppress(ConnectionError):
            while chunk := peer.recv(65536):
                data += chunk
                *messages, data = data.split(b"\0")
                for message in map(json.loads, messages):
                    self.calls.append(message)
                    reply = {"parameters": {"seq": len(self.calls)}}
                    if not self.up:
                        reply = {"error": "io.graced.Ledger.Unavailable", "parameters": {"reason": "disk full"}}
                    peer.sendall(json.dumps(reply).encode() + b"\0")

    def entries(self, kind):
        appends = [one["parameters"] for one in self.calls if one["method"] == "io.graced.Ledger.Append"]
        return [one for one in appends if one["kind"] == kind]

    def close(self):
        # shutdown wakes the thread in accept; close alone would leave it there.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Host:
    def __init__(self, base):
        self.etc, self.share, self.lib, self.run = (base / name for name in ("etc", "share", "lib", "run"))
        shutil.copytree(f"{ROOT}/graced/share", self.share)
        for directory in (self.etc / "watch.d", self.lib / "governance", self.run):
            directory.mkdir(parents=True)
        key = self.lib / "governance" / "development.key"
        key.touch(mode=0o600)
        key.write_bytes(development_key(SEED, "governance"))
        self.watch = self.etc / "watch.d" / "nginx.toml"
        self.watch.write_text(WATCH)
        self.supervisor = Supervisor(str(self.run / "io.graced.Supervisor"))
        self.env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ROOT,
            "GRACED_RUN": str(self.run),
            "PYTHONWARNINGS": "error",
            "GRACED_LIB": str(self.lib),
            "GRACED_ETC": str(self.etc),
            "GRACED_SHARE": str(self.share),
        }
        self.processes = {}

    def start(self, name):
        argv = [sys.executable, "-c", f"from graced.kernels.{name} import main; main()"]
        self.processes[name] = subprocess.Popen(argv, env=self.env, stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.answers(name))

    def answers(self, name):
        assert self.processes[name].poll() is None, self.processes[name].stderr.read()
        try:
            return self.call(name, "org.varlink.service.GetInfo")
        except WireError:
            return None

    def call(self, name, method, /, **parameters):
        full = method if "." in method else f"io.graced.{name.title()}.{method}"
        with Client(str(self.run / f"io.graced.{name.title()}"), timeout_s=LIMIT_S) as client:
            return client.call(full, parameters)

    def until(self, condition):
        limit = time.monotonic() + LIMIT_S
        while not (found := condition()):
            assert time.monotonic() < limit, "did not happen in time"
            time.sleep(0.01)
        return found

    def kill(self, name):
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].communicate(timeout=LIMIT_S)

    def decide(self, **changes):
        return self.call("governance", "Decide", plan={**self.plan(), **changes})

    def plan(self, name="nginx"):
        profile = parse("profile", name, (self.share / f"profiles/{name}.toml").read_bytes(), "")
        playbook = parse("playbook", "restart-unit", (self.share / "playbooks/restart-unit.toml").read_bytes(), "")
        return {
            "task_id": "task_1",
            "intent_id": "intent_1",
            "unit": f"{name}.service",
            "profile": name,
            "profile_digest": profile.digest,
            "playbook": "restart-unit",
            "playbook_digest": playbook.digest,
            "steps": [0, 1],
            "risk": "low",
            "tier": 2,
            "finding": "unit.failed",
            "origin": "brain",
        }

    def stop(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=LIMIT_S)
                assert process.returncode == 0
        self.supervisor.close()


@pytest.fixture
def host():
    # not below pytest's own directory, which every pytest closes to others
    base = Path(tempfile.mkdtemp(prefix="graced-governance-"))
    base.chmod(0o711)
    one = Host(base)
    yield one
    one.stop()
    shutil.rmtree(base)


def test_an_allowed_plan_gets_a_warrant_that_verifies_and_is_in_the_ledger_first(host):
    host.start("governance")
    reply = host.decide()
    assert (reply["effect"], reply["rule"]) == ("allow", "default.safe")
    warrant = reply["warrant"]
    public, _secret = keypair(SEED)
    assert verify(public, WARRANT_CONTEXT, canonical(warrant), decode_base64(reply["signature"], "signature"))
    assert warrant["not_after_boottime_us"] - warrant["not_before_boottime_us"] == 30_000_000
    assert {name: warrant[name] for name in ("unit", "steps", "tier", "policy_rule")} == {
        "unit": "nginx.service",
        "steps": [0, 1],
        "tier": 2,
        "policy_rule": "default.safe",
    }
    assert len(warrant["nonce"]) == 32 and warrant["nonce"] != host.decide()["warrant"]["nonce"]
    [first, _second] = host.supervisor.entries("warrant")
    assert (first["data"], first["signature"], first["task_id"]) == (warrant, reply["signature"], "task_1")
    decision = host.supervisor.entries("decision")[0]
    assert verify(
        public, context_of("decision"), canonical(decision["data"]), decode_base64(decision["signature"], "s")
    )
    host.until(lambda: any(one["parameters"].get("type") == "governance.decision" for one in host.supervisor.calls))


def test_explain_records_and_signs_nothing(host):
    host.start("governance")
    reply = host.call("governance", "Explain", plan=host.plan())
    assert reply["effect"] == "allow" and "warrant" not in reply
    assert host.supervisor.entries("decision") == []


def test_without_the_ledger_nothing_is_allowed(host):
    host.start("governance")
    host.supervisor.up = False
    reply = host.decide()
    assert (reply["effect"], reply["rule"]) == ("hold", "ledger")
    assert "warrant" not in reply and "signature" not in reply
    host.supervisor.up = True
    assert host.decide()["effect"] == "allow"


def test_on_a_full_disk_nothing_is_allowed_and_nothing_stays_open(host):
    (host.etc / "watch.d" / "redis.toml").write_text(WATCH.replace("nginx", "redis-server"))
    (host.etc / "policy.d").mkdir()
    (host.etc / "policy.d" / "90-one.toml").write_text("[limits]\nunits_at_once = 1\n")
    host.start("governance")
    assert host.decide(task_id="task_0")["effect"] == "allow"
    host.call("governance", "Outcome", task_id="task_0", unit="nginx.service", playbook="restart-unit", outcome="held")
    pid = host.processes["governance"].pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    with pytest.raises(VarlinkError, match=r"disk|full|large"):
        host.decide()
    # Nothing of nginx is under repair, so the one unit that may be is another one.
    assert host.call("governance", "Explain", plan=host.plan("redis-server"))["effect"] == "allow"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert host.decide()["effect"] == "allow"
    host.kill("governance")
    host.start("governance")
    unit = host.call("governance", "State")["units"][0]
    assert unit["heals_last_hour"] >= 2, "what was allowed is on disk"


def test_a_pause_holds_everything_survives_sigkill_and_ends(host):
    host.start("governance")
    host.call("governance", "Pause", duration_seconds=None, reason="upgrade")
    host.kill("governance")
    host.start("governance")
    reply = host.decide()
    assert (reply["effect"], reply["rule"]) == ("hold", "paused")
    state = host.call("governance", "State")
    assert (state["paused"], state["paused_by"], state["reason"]) == (True, os.getuid(), "upgrade")
    host.call("governance", "Resume")
    assert host.decide()["effect"] == "allow"


def test_failures_open_the_breaker_and_it_survives_sigkill(host):
    host.start("governance")
    for number in range(3):
        task = f"task_{number}"
        # Another playbook failed each time: the cooldown, which is a playbook's own, does not come in between.
        assert host.decide(task_id=task)["effect"] == "allow"
        tier = host.call(
            "governance", "Outcome", task_id=task, unit="nginx.service", playbook=f"other-{number}", outcome="failed"
        )["tier"]
    assert tier == 2
    host.kill("governance")
    host.start("governance")
    assert host.decide()["rule"] == "breaker"
    [unit] = host.call("governance", "State")["units"]
    assert (unit["failures"], unit["breaker"], unit["tier"], unit["adopted_tier"]) == (3, True, 2, 3)

    # A reset that cannot be recorded changes nothing, as does one of a unit that nobody adopted.
    host.supervisor.up = False
    with pytest.raises(VarlinkError, match=r"Unavailable|ledger|answer"):
        host.call("governance", "Reset", unit="nginx.service", reason="mended")
    host.supervisor.up = True
    with pytest.raises(VarlinkError, match="NotAdopted"):
        host.call("governance", "Reset", unit="cron.service", reason="mended")
    assert host.decide()["rule"] == "breaker"

    data = {"reset": "nginx.service", "by_uid": os.getuid(), "reason": "mended", "failures": 3, "tier": 2}

    def told(name):
        calls = [one["parameters"] for one in host.supervisor.calls]
        return [one for one in calls if one.get(name) and one["data"] == data]

    reply = host.call("governance", "Reset", unit="nginx.service", reason="mended")
    assert reply == {"tier": 3, "failures": 3}
    assert [one["signature"] is not None for one in told("kind")] == [True, True]
    # Others hear of it a little later.
    [said] = host.until(lambda: told("type"))
    assert said["subject"] == "nginx.service"
    host.kill("governance")
    host.start("governance")
    [unit] = host.call("governance", "State")["units"]
    assert (unit["failures"], unit["breaker"], unit["tier"], unit["heals_last_hour"]) == (0, False, 3, 3)
    assert host.decide()["effect"] == "allow"


def test_the_same_answer_is_recorded_once_and_who_waits_is_told_when_it_changes(host):
    site(host, ASK.format(people=1).replace("approvals = 1", ""))
    host.start("governance")
    for _ in range(3):
        reply = host.decide()
        assert (reply["effect"], reply["rule"], reply["retry_after_seconds"]) == ("hold", "site.ask", 600.0)
    assert host.decide(task_id="task_2")["effect"] == "hold"
    assert [one["task_id"] for one in host.supervisor.entries("decision")] == ["task_1", "task_2"]
    host.supervisor.up = False
    host.call("governance", "Pause", duration_seconds=None, reason="")
    assert "site.ask" in host.decide()["rule"]
    host.supervisor.up = True
    (host.etc / "policy.d" / "90-site.toml").unlink()
    host.call("governance", "Resume")

    def asked_again():
        events = [one["parameters"] for one in host.supervisor.calls if one["parameters"].get("type")]
        return {one["data"]["task_id"] for one in events if one["data"].get("ask_again")}

    host.until(lambda: {"task_1", "task_2"} <= asked_again())
    assert host.decide()["effect"] == "allow"
    assert [one["data"]["effect"] for one in host.supervisor.entries("decision") if "plan" in one["data"]][2:] == [
        "allow"
    ]


def test_releasing_and_lowering_count_at_once(host):
    host.start("governance")
    assert host.decide()["effect"] == "allow"
    host.watch.write_text(WATCH.replace("3", "1"))
    assert host.decide()["rule"] == "tier"
    host.watch.unlink()
    assert host.decide()["rule"] == "not-adopted"


def test_a_bad_policy_keeps_the_running_rules_even_over_a_restart(host):
    host.start("governance")
    digest = host.decide()["policy_digest"]
    policy = host.share / "policy.d" / "50-default.toml"
    policy.write_text(policy.read_text() + '\n[[rule]]\nid = "x"\neffect = "permit"\nreason = "y"\n')
    assert host.decide()["policy_digest"] == digest
    host.kill("governance")
    host.start("governance")
    reply = host.decide()
    assert (reply["effect"], reply["policy_digest"]) == ("allow", digest)


def test_a_policy_that_never_passed_denies_everything(host):
    (host.etc / "policy.d").mkdir()
    (host.etc / "policy.d" / "90-site.toml").write_text("rule = 3\n")
    host.start("governance")
    reply = host.decide()
    assert (reply["effect"], reply["rule"]) == ("deny", "policy-unusable")
    assert "90-site.toml:1" in reply["reason"]


@pytest.mark.parametrize("plan", [{}, {"steps": "all"}, {"surprise": 1}])
def test_a_plan_of_the_wrong_shape_is_refused(host, plan):
    host.start("governance")
    with pytest.raises(VarlinkError) as caught:
        host.call("governance", "Decide", plan={**host.plan(), **plan} if plan else {})
    assert caught.value.error == "io.graced.Governance.InvalidRequest"


def test_code_refuses_with_file_and_line_and_keeps_what_ran(host):
    host.start("code")
    before = {one["name"]: one["digest"] for one in host.call("code", "List", kind="playbook")["files"]}
    assert {"restart-unit", "restore-config"} <= before.keys()
    (host.etc / "playbooks").mkdir()
    bad = host.etc / "playbooks" / "restart-unit.toml"
    bad.write_text(
        'description = "mine"\nrisk = "low"\ntier = 2\ntriggers = ["unit.failed"]\n[[step]]\nverb = "dance"\n'
    )
    [refused] = host.call("code", "Refused")["files"]
    assert refused["path"] == str(bad) and refused["running_digest"] == before["restart-unit"]
    assert [one["line"] for one in refused["errors"]] == [6]
    assert {one["name"]: one["digest"] for one in host.call("code", "List", kind="playbook")["files"]} == before
    bad.write_text(bad.read_text().replace("dance", "restart"))
    [mine] = [one for one in host.call("code", "List", kind="playbook")["files"] if one["name"] == "restart-unit"]
    assert mine["content"]["description"] == "mine" and mine["path"] == str(bad)
    assert host.call("code", "Refused")["files"] == []


def test_code_says_what_refers_to_nothing(host):
    host.start("code")
    profile = (host.share / "profiles" / "nginx.toml").read_text().replace('"diagnose"', '"dance"')
    errors = host.call("code", "Check", kind="profile", name="nginx", text=profile)["errors"]
    assert errors == [{"line": 0, "message": "heal.playbooks: there is no playbook dance"}]
    good = (host.share / "profiles" / "nginx.toml").read_text()
    assert host.call("code", "Check", kind="profile", name="nginx", text=good)["errors"] == []


def test_code_sees_a_change_by_itself_and_a_dropin_is_checked_by_systemd(host):
    host.start("code")
    host.until(lambda: host.call("code", "Rescan")["accepted"] >= 7)
    (host.etc / "dropins").mkdir()
    (host.etc / "dropins" / "limits.conf").write_text("[Service]\nLimitNOFILE=1024\nLimitNOFLIE=1\n")
    # Without a call that looks at the files: inotify alone must notice.
    line = ""
    while "refused" not in line:
        line = host.processes["code"].stderr.readline()
        assert line, "code ended"
    assert "limits.conf:3" in line and "LimitNOFLIE" in line
    [refused] = host.call("code", "Refused")["files"]
    assert [one["line"] for one in refused["errors"]] == [3]


def test_code_scans_one_at_a_time_and_a_caller_gets_one_that_saw_his_change(host):
    host.start("code")
    (host.etc / "dropins").mkdir()
    for number in range(3):
        (host.etc / "dropins" / f"good-{number}.conf").write_text("[Service]\nLimitNOFILE=1024\n")
    (host.etc / "dropins" / "bad.conf").write_text("[Service]\nLimitNOFLIE=1\n")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: host.call("code", "Rescan")["refused"], range(6)))
    assert answers == [1] * 6
    (host.etc / "dropins" / "bad.conf").unlink()
    assert host.call("code", "Rescan")["refused"] == 0


ASK = """
[[rule]]
id = "site.ask"
effect = "hold"
approvals = {people}
reason = "it is the till"
match = {{ unit = "nginx.service", step = "restart" }}
"""


def site(host, text):
    (host.etc / "policy.d").mkdir(exist_ok=True)
    (host.etc / "policy.d" / "90-site.toml").write_text(text)


PEOPLE = 60123
AS_ADMINS = (
    "from graced.runtime.peer import Accounts; made = Accounts.__init__\n"
    f"Accounts.__init__ = lambda self: (made(self), self._groups.update({{{PEOPLE}: 'admin'}}))[0]\n"
)
# The daemon takes the caller's uid as it is; its admin group is this process's own primary group. The clone may lie
# where nobody but root can read it: first the imports, then the person.
ANSWER = f"""
import json, os, sys
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError
os.setgroups([]); os.setgid({PEOPLE}); os.setuid(int(sys.argv[4]))
try:
    with Client(sys.argv[1], 60) as client:
        print(json.dumps(client.call("io.graced.Governance." + sys.argv[2], json.loads(sys.argv[3]))))
except VarlinkError as error:
    print(json.dumps({{"error": error.name}}))
"""


class Admins:
    """People of the admin group: each call is a process of its own, with that uid."""

    def __init__(self, host):
        self.host = host
        os.chmod(host.run, 0o755)

    def start(self):
        argv = [sys.executable, "-c", AS_ADMINS + "from graced.kernels.governance import main; main()"]
        self.host.processes["governance"] = subprocess.Popen(argv, env=self.host.env, stderr=subprocess.PIPE, text=True)
        self.host.until(lambda: self.host.answers("governance"))
        os.chmod(self.host.run / "io.graced.Governance", 0o666)

    def say(self, uid, verb, **parameters):
        path = str(self.host.run / "io.graced.Governance")
        argv = [sys.executable, "-c", ANSWER, path, verb, json.dumps(parameters), str(uid)]
        done = subprocess.run(argv, env=self.host.env, capture_output=True, text=True, check=True, timeout=LIMIT_S)
        return json.loads(done.stdout)


@pytest.fixture
def admins(host):
    if os.geteuid() != 0:
        pytest.fail("people with uids of their own need root")
    return Admins(host)


def test_a_heal_that_waits_is_approved_by_two_people_used_once_and_recorded(host, admins):
    site(host, ASK.format(people=2))
    admins.start()
    reply = host.decide()
    assert (reply["effect"], reply["rule"]) == ("hold", "site.ask")
    assert "0 of 2 approvals" in reply["reason"]
    assert host.decide()["effect"] == "hold"
    [request] = host.call("governance", "Approvals")["approvals"]
    assert (request["id"], request["unit"], request["needed"]) == ("approval_1", "nginx.service", 2)

    with pytest.raises(VarlinkError) as caught:
        host.call("governance", "Approve", id="approval_1")
    assert caught.value.name == "PermissionDenied" and caught.value.parameters["needed"] == ["admin"]
    assert admins.say(7001, "Approve", id="approval_1") == {"state": "open", "needed": 2, "approved_by": [7001]}
    assert admins.say(7001, "Approve", id="approval_1") == {"error": "SamePerson"}
    assert host.decide()["effect"] == "hold"
    host.kill("governance")
    admins.start()
    assert admins.say(7002, "Approve", id="approval_1")["state"] == "granted"
    host.until(
        lambda: any(one["parameters"].get("data", {}).get("state") == "granted" for one in host.supervisor.calls)
    )

    assert host.decide(task_id="task_2")["effect"] == "hold"
    allow = host.decide()
    assert (allow["effect"], allow["warrant"]["task_id"]) == ("allow", "task_1")
    assert allow["reason"].endswith("approved by uid 7001, uid 7002")
    assert host.decide()["effect"] == "hold"
    assert admins.say(7003, "Approve", id="approval_1") == {"error": "NotOpen"}
    entries = host.supervisor.entries("approval")
    assert [one["data"]["by_uid"] for one in entries] == [7001, 7002]
    public, _secret = keypair(SEED)
    for one in entries:
        assert one["data"]["plan"]["task_id"] == one["task_id"] == "task_1"
        signature = decode_base64(one["signature"], "s")
        assert verify(public, context_of("approval"), canonical(one["data"]), signature)
    states = {one["id"]: one["state"] for one in host.call("governance", "Approvals", all=True)["approvals"]}
    assert states == {"approval_1": "used", "approval_2": "open", "approval_3": "open"}


def test_a_denial_and_a_changed_policy_and_a_ledger_that_is_down(host, admins):
    site(host, ASK.format(people=1))
    admins.start()
    host.decide()
    assert admins.say(7001, "Deny", id="approval_1", reason="not today")["state"] == "denied"
    refused = host.decide()
    assert (refused["effect"], refused["rule"]) == ("deny", "approval.denied")
    assert refused["reason"] == "uid 7001 denied restart-unit: not today"
    site(host, ASK.format(people=1) + "# changed\n")
    assert host.decide()["effect"] == "hold"
    site(host, ASK.format(people=1) + "# and again\n")
    assert admins.say(7001, "Approve", id="approval_2") == {"error": "NotOpen"}
    assert host.call("governance", "Approvals")["approvals"] == []
    site(host, ASK.format(people=1) + "# changed\n")
    host.supervisor.up = False
    assert admins.say(7001, "Approve", id="approval_2") == {"error": "Unavailable"}
    assert host.decide()["effect"] == "hold"
    host.supervisor.up = True
    assert admins.say(7001, "Approve", id="2")["state"] == "granted"
    host.supervisor.up = False
    assert host.decide()["rule"] == "ledger"
    host.supervisor.up = True
    assert host.decide()["effect"] == "allow"
    assert admins.say(7001, "Approve", id="approval_9") == {"error": "NoSuchApproval"}


def test_in_shadow_everything_is_decided_and_recorded_and_nothing_is_warranted(host):
    host.start("governance")
    assert host.call("governance", "Shadow", on=True, reason="first week") == {"on": True}
    host.kill("governance")
    host.start("governance")
    reply = host.decide()
    assert (reply["effect"], reply["rule"]) == ("deny", "shadow") and "warrant" not in reply
    assert "it would allow (default.safe" in reply["reason"]
    entry = host.supervisor.entries("decision")[-1]["data"]
    assert (entry["would"]["effect"], entry["would"]["rule"]) == ("allow", "default.safe")
    assert host.decide(unit="other.service")["rule"] == "not-adopted"
    state = host.call("governance", "State")
    assert (state["shadow"], state["shadow_reason"], state["units"][0]["heals_last_hour"]) == (True, "first week", 0)
    assert host.call("governance", "Shadow", on=False) == {"on": False}
    assert host.decide()["effect"] == "allow"


def test_the_configuration_can_keep_the_host_in_shadow(host):
    (host.etc / "graced.toml").write_text("[governance]\nshadow = true\n")
    host.start("governance")
    assert host.call("governance", "Shadow", on=False) == {"on": True}
    assert host.decide()["rule"] == "shadow"


WINDOWS = """
[[rule]]
id = "site.window"
effect = "{effect}"
reason = "maintenance"
match = {{ {key} = ["{window}"] }}
"""


@pytest.mark.parametrize(
    ("key", "window", "effect"),
    [
        ("window", "*-*-* *:*:00 for 1h", "hold"),
        ("window", "2001-01-01 for 1h", "allow"),
        ("outside", "*-*-* *:*:00 for 1h", "allow"),
        ("outside", "2001-01-01 for 1h", "hold"),
        ("window", "Blursday for 1h", "hold"),
        ("outside", "Blursday for 1h", "hold"),
    ],
)
def test_systemd_says_when_a_calendar_window_is_open_and_doubt_is_strict(host, key, window, effect):
    site(host, WINDOWS.format(effect="hold", key=key, window=window))
    host.start("governance")
    assert host.decide()["effect"] == effect
    explained = host.call("governance", "Explain", plan=host.plan())
    assert explained["effect"] == effect
    assert explained["facts"]["verbs"] == ["reset-failed", "restart"]
    facts = host.supervisor.entries("decision")[-1]["data"]["facts"]
    assert (facts["open_windows"] == [window], facts["unclear_windows"] == [window]) == (
        "*:*:00" in window,
        "Blursday" in window,
    )


def test_a_rule_on_the_host_asks_infrastructure_and_doubt_is_strict(host):
    rule = '[[rule]]\nid = "site.host"\neffect = "hold"\nreason = "x"\nmatch = { host = "pressure" }\n'
    site(host, rule)
    host.start("governance")
    reply = host.decide()
    assert (reply["effect"], reply["rule"]) == ("hold", "site.host")
    assert host.supervisor.entries("decision")[-1]["data"]["facts"]["host"] == []
