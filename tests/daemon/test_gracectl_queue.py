"""gracectl's verbs of the task manager against a real queue: what an admin types, what comes back, how it exits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from graced.base.errors import WireError
from graced.varlink.client import Client

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER = os.path.join(ROOT, "tests", "daemon", "htm_server.py")
LIMIT_S = 60
CTL = [sys.executable, "-c", "from graced.cli.main import main; main()"]
HTM = "io.graced.HTM"


class Host:
    """A queue that can be killed and started again, and gracectl that talks to it."""

    def __init__(self, directory):
        self.directory = directory
        self.socket = f"{directory}/socket"
        os.symlink("socket", directory / "io.graced.Supervisor")
        self.env = {**os.environ, "PYTHONPATH": ROOT, "GRACED_RUN": str(directory), "LC_ALL": "C.UTF-8"}
        self.env.pop("INVOCATION_ID", None)
        self.server = None
        self.started = []
        self.start()

    def start(self):
        self.server = subprocess.Popen(
            [sys.executable, SERVER, str(self.directory)], stdout=subprocess.PIPE, cwd=ROOT, env=self.env
        )
        assert self.server.stdout.readline() == b"up\n"

    def kill(self):
        self.server.send_signal(signal.SIGKILL)
        assert self.server.wait(LIMIT_S) == -signal.SIGKILL
        self.server.stdout.close()

    def begin(self, *arguments):
        """gracectl, not waited for."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # what is run in the background of a script may have been told to ignore Ctrl-C
        command = ["env", "--default-signal=INT", *CTL, *arguments]
        process = subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=self.env)
        self.started.append(process)
        return process

    def ctl(self, *arguments, status=0, stdin=""):
        """gracectl to its end: (stdout, stderr)."""
        place = {"cwd": ROOT, "env": self.env, "timeout": LIMIT_S}
        done = subprocess.run([*CTL, *arguments], input=stdin, capture_output=True, text=True, check=False, **place)
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def json(self, *arguments, status=0):
        return json.loads(self.ctl(*arguments, "--json=short", status=status)[0])

    def call(self, verb, **parameters):
        with Client(self.socket, LIMIT_S) as client:
            return client.call(f"{HTM}.{verb}", parameters)

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=LIMIT_S)
        self.kill()


@pytest.fixture
def host(tmp_path):
    one = Host(tmp_path)
    yield one
    one.close()


class Worker(threading.Thread):
    """Ends every task of handler `job` as its type says: done, failed."""

    def __init__(self, host):
        super().__init__()
        self.client = Client(host.socket, LIMIT_S)
        self.control = Client(host.socket, LIMIT_S)
        self.start()

    def run(self):
        try:
            work = {"handler": "job", "worker": "w1", "credits": 4}
            for item in self.client.stream(f"{HTM}.Work", work):
                if item["lease"] is not None:
                    self._end(item["lease"])
        except (WireError, OSError):
            return

    def _end(self, lease):
        named = {"task_id": lease["task_id"], "attempt": lease["attempt"]}
        if lease["task_type"] == "failed":
            self.control.call(f"{HTM}.Fail", {**named, "error": "no tape", "retry": False})
        else:
            self.control.call(f"{HTM}.Progress", {**named, "percent": 40.0, "message": "copying"})
            self.control.call(f"{HTM}.Complete", {**named, "result": {}})

    def close(self):
        self.client._socket.shutdown(2)
        self.join(LIMIT_S)
        assert not self.is_alive()
        self.client.close()
        self.control.close()


@pytest.fixture
def worker(host):
    one = Worker(host)
    yield one
    one.close()


def leased(host, count=1):
    """Lease tasks of handler `job` and keep the stream: (client, leases)."""
    client = Client(host.socket, LIMIT_S)
    leases = []
    for item in client.stream(f"{HTM}.Work", {"handler": "job", "worker": "hand", "credits": count}):
        if item["lease"] is not None:
            leases.append(item["lease"])
        if len(leases) == count:
            return client, leases
    raise AssertionError("the stream ended")


def test_what_an_admin_does_with_a_tree(host):
    (parent,) = host.ctl("submit", "job", "parent", "--sla", "1h", "--context", "a=1", "--context", "b:=2")[0].split()
    (child,) = host.ctl("submit", "job", "child", "--parent", parent, "--priority", "high")[0].split()
    assert host.json("task", parent)["task"]["context"] == {"a": "1", "b": 2}
    assert re.search(rf"^{child} +queued +high +job +child +in \d+m", host.ctl("tasks")[0], re.MULTILINE)
    client, (lease,) = leased(host)
    with client:
        assert lease["task_id"] == child
        top, below = host.ctl("tree", child)[0].splitlines()
        assert re.match(rf"{parent} +job/parent  queued  for .*due in \d+m", top)
        assert re.match(rf"└─ {child} +job/child  leased  for .*by hand", below)
        assert "hand" in host.ctl("why", child)[0]
        why = host.json("why", parent)
        assert why["facts"]["workers"] == 1
        assert why["sentences"]
        said, complaint = host.ctl("cancel", parent, child, "--reason", "enough", status=1)
        assert said == f"{parent} is cancelled\n"
        assert complaint == f"gracectl: {child} is cancelled already\n  next: gracectl task {child}\n"
    assert {row["state"] for row in host.json("tasks")} == {"cancelled"}
    said, complaint = host.ctl("requeue", parent, "task_999", status=1)
    assert said == f"{parent} is queued\n"
    assert "there is no task task_999" in complaint


@pytest.mark.parametrize(("kind", "state", "status"), [("ok", "done", 0), ("failed", "failed", 5)])
def test_submit_waits_and_the_exit_status_tells_the_outcome(host, worker, kind, state, status):
    said, _ = host.ctl("submit", "job", kind, "--wait", status=status)
    (task_id,) = said.splitlines()[:1]
    assert said.splitlines()[1:] == [f"{task_id} {state}"]
    assert host.json("submit", "job", kind, "--wait", status=status)["states"] == {"task_2": state}
    followed, _ = host.ctl("task", task_id, "--follow", status=status)
    assert "submitted" in followed


def test_a_wait_that_is_cancelled_or_too_long(host):
    said, complaint = host.ctl("submit", "job", "t", "--wait", "--timeout", "1s", status=7)
    assert said == "task_1\n"
    assert "gracectl why task_1" in complaint
    waiting = host.begin("submit", "job", "t", "--wait")
    assert waiting.stdout.readline() == "task_2\n"
    host.ctl("cancel", "task_2")
    assert waiting.communicate(timeout=LIMIT_S) == ("task_2 cancelled\n", "")
    assert waiting.returncode == 6


def test_ctrl_c_ends_the_wait_and_not_the_task(host):
    waiting = host.begin("submit", "job", "t", "--wait")
    assert waiting.stdout.readline() == "task_1\n"
    while host.call("Stats")["stats"]["watchers"] == 0:
        assert waiting.poll() is None
    waiting.send_signal(signal.SIGINT)
    said, complaint = waiting.communicate(timeout=LIMIT_S)
    assert (waiting.returncode, said) == (1, "")
    assert "no longer waited for: task_1 goes on" in complaint
    assert "gracectl task task_1 --follow" in complaint
    assert host.json("task", "task_1")["task"]["state"] == "queued"


def test_a_wait_outlives_the_supervisor(host):
    waiting = [host.begin("submit", "job", "t", "--wait"), host.begin("submit", "job", "t", "--wait")]
    ids = [process.stdout.readline().strip() for process in waiting]
    waiting.append(host.begin("task", ids[0], "--follow"))
    assert "submitted" in waiting[-1].stdout.readline()
    host.kill()
    for process in waiting:
        assert "Waiting for the supervisor to come back" in process.stderr.readline()
    host.start()
    worker = Worker(host)
    for process in waiting:
        out, err = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, "The supervisor is back" in err) == (0, True), (out, err)
    worker.close()


def test_a_file_of_tasks_is_taken_whole_or_not_at_all(host, worker, tmp_path):
    file = tmp_path / "tasks.jsonl"
    lines = [{"idempotency_key": "a"}, {"priority": "low", "children": [{"handler": "job", "task_type": "t"}]}]
    file.write_text("\n".join(json.dumps(line) for line in [*lines, {"handler": "NO"}]) + "\n\n")
    _, complaint = host.ctl("submit", "job", "t", "--file", str(file), status=1)
    assert f"{file}:3: " in complaint
    assert "nothing was submitted" in complaint
    assert host.json("tasks") == []
    file.write_text("\n".join(json.dumps(line) for line in lines))
    said, note = host.ctl("submit", "job", "t", "--file", str(file), "--wait")
    assert [line.split()[-1] for line in said.splitlines()] == ["task_1", "task_2", "done", "done"]
    assert note == "2 tasks.\n"
    _, note = host.ctl("submit", "--file", "-", stdin='{"handler":"job","task_type":"t","idempotency_key":"z"}\n' * 2)
    assert note == "2 tasks, 1 of them there already (same key).\n"


def test_a_long_file_goes_in_several_calls(host):
    many = "\n".join(json.dumps({"task_type": f"t{number}"}) for number in range(2500))
    said, note = host.ctl("submit", "job", "--file", "-", stdin=many)
    assert (len(set(said.split())), note) == (2500, "2500 tasks.\n")
    assert host.call("Stats")["stats"]["live"] == 2500


def test_a_handler_is_paused_drained_and_resumed(host):
    host.ctl("pause", "--handler", "job", "--reason", "the tape is full")
    host.ctl("submit", "job", "t")
    assert "the tape is full" in host.ctl("why", "task_1")[0]
    assert re.search(r"^job .* paused .*by .*: the tape is full$", host.ctl("top")[0], re.MULTILINE)
    _, said = host.ctl("drain", "--handler", "job", "--reason", "it moves")
    assert "gracectl resume --handler job" in said
    _, complaint = host.ctl("submit", "job", "t", status=1)
    assert "it moves" in complaint
    assert "gracectl resume --handler" in complaint
    host.kill()
    host.start()
    assert host.json("top")["stats"]["modes"]["job"]["mode"] == "drained"
    host.ctl("resume", "--handler", "job")
    assert host.ctl("submit", "job", "t")[0] == "task_2\n"


def test_all_dead_tasks_of_a_handler_are_queued_again(host):
    for handler in ("job", "job", "other"):
        host.ctl("submit", handler, "t", "--attempts", "1")
    for handler, count in (("job", 2), ("other", 1)):
        with Client(host.socket, LIMIT_S) as client, Client(host.socket, LIMIT_S) as control:
            work = {"handler": handler, "worker": "w", "credits": count}
            leases = (item["lease"] for item in client.stream(f"{HTM}.Work", work) if item["lease"])
            for _, lease in zip(range(count), leases, strict=False):
                end = {"task_id": lease["task_id"], "attempt": lease["attempt"], "error": "no tape", "retry": True}
                assert control.call(f"{HTM}.Fail", end)["state"] == "dead"
    said, note = host.ctl("requeue", "--all-dead", "--handler", "job")
    assert sorted(said.splitlines()) == ["task_1 is queued", "task_2 is queued"]
    assert note == "2 of 2 dead tasks for job queued again.\n"
    assert host.ctl("requeue", "--all-dead")[1] == "1 of 1 dead tasks queued again.\n"
    assert host.ctl("requeue", "--all-dead")[1] == "No dead tasks.\n"


def test_changes_of_a_handler_are_followed(host):
    follow = host.begin("tasks", "--follow", "--handler", "job", "--json=short")
    # the watch stands once Stats counts it; each look is a full turn of the server
    while host.call("Stats")["stats"]["watchers"] == 0:
        assert follow.poll() is None
    host.ctl("submit", "other", "t")
    host.ctl("submit", "job", "t")
    change = json.loads(follow.stdout.readline())
    assert (change["task_id"], change["kind"], change["state"]) == ("task_2", "submitted", "queued")
    follow.send_signal(signal.SIGINT)
    follow.communicate(timeout=LIMIT_S)
    assert follow.returncode != 0
