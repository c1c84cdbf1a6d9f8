"""Workers as real processes on a real queue: what becomes of a task, and what of a worker, when things go wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from graced.htm.lease import LEASE_US
from graced.varlink.client import Client

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, "tests", "daemon")
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}
ENVIRONMENT.pop("NOTIFY_SOCKET", None)
HTM = "io.graced.HTM"
LIMIT_SECONDS = 60.0


class Process:
    """A program whose lines a test waits for."""

    def __init__(self, *argv):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT
        )

    def line(self):
        return self.process.stdout.readline().decode().split()

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self):
        """Its exit status, what else it printed, and its errors."""
        output, errors = self.process.communicate(timeout=LIMIT_SECONDS)
        return self.process.returncode, output.decode().splitlines(), errors.decode()


class Host:
    """One directory with a queue, and whatever a test starts."""

    def __init__(self, directory, stack):
        self.directory = directory
        self.socket = f"{directory}/socket"
        self.stack = stack

    def start(self):
        self.server = self._started(os.path.join(HERE, "htm_server.py"), self.directory)
        assert self.server.line() == ["up"]
        self.control = self.stack.enter_context(Client(self.socket, LIMIT_SECONDS))
        self.changes = self.stack.enter_context(Client(self.socket, LIMIT_SECONDS)).stream(f"{HTM}.Watch", {})
        next(self.changes)

    def _started(self, *argv):
        process = Process(*argv)
        self.stack.callback(process.process.wait)
        self.stack.callback(process.process.kill)
        self.stack.callback(process.process.stdout.close)
        self.stack.callback(process.process.stderr.close)
        return process

    def worker(self, credits=1, drain_seconds=20.0):
        process = self._started(os.path.join(HERE, "worker_jobs.py"), self.socket, credits, drain_seconds)
        assert process.line() == ["up"]
        return process

    def executable(self, script, *options):
        """graced-worker with a shell script."""
        path = self.directory / "job.sh"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        main = "from graced.worker.main import main; main()"
        return self._started("-c", main, "job", "--socket", self.socket, "--grace=0.5", *options, "--", path, "arg")

    def submit(self, task_type="t", context=None, **more):
        parameters = {"handler": "job", "task_type": task_type, "context": context or {}, **more}
        return self.control.call(f"{HTM}.Submit", parameters)["task_id"]

    def until(self, task_id, *kinds):
        """Wait until the queue tells one of these changes of a task."""
        for reply in self.changes:
            change = reply["change"]
            if change and change["task_id"] == task_id and change["kind"] in kinds:
                return change
        raise AssertionError("the stream of changes ended")

    def task(self, task_id):
        return self.control.call(f"{HTM}.Get", {"task_id": task_id})["task"]

    def await_workers(self, count):
        """A program is up before its stream is; each look is a full turn of the queue."""
        while len(self.control.call(f"{HTM}.Stats")["stats"]["workers"]) < count:
            pass

    def ended(self, task_id):
        self.until(task_id, "completed", "failed", "dead", "cancelled")
        return self.task(task_id)

    def listen(self, monkeypatch):
        """Be systemd for the workers that are started from now on."""
        self.manager = self.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.manager.bind(f"{self.directory}/notify")
        self.manager.settimeout(LIMIT_SECONDS)
        monkeypatch.setitem(ENVIRONMENT, "NOTIFY_SOCKET", f"{self.directory}/notify")
        monkeypatch.setitem(ENVIRONMENT, "WATCHDOG_USEC", "200000")

    def notified(self, begin):
        """The next message to systemd that begins so."""
        while not (message := self.manager.recv(4096).decode()).startswith(begin):
            pass
        return message

    def gate(self):
        path = self.directory / "gate"
        os.mkfifo(path)
        return path


@pytest.fixture
def host(tmp_path):
    with contextlib.ExitStack() as stack:
        made = Host(tmp_path, stack)
        made.start()
        yield made


def test_what_a_function_returns_or_raises(host):
    host.worker()
    task = host.ended(host.submit("echo", {"a": [1, "ü"]}, sla_seconds=60))
    assert task["state"] == "done"
    assert task["result"]["context"] == {"a": [1, "ü"]}
    assert 0 < task["result"]["left"] <= 60

    task = host.ended(host.submit("hopeless"))
    assert (task["state"], task["error"], task["failures"]) == ("failed", "it cannot be done", 1)
    task = host.ended(host.submit("wrong"))
    assert (task["state"], task["error"]) == ("failed", "the function returned a int; a dict or None is needed")

    task = host.ended(host.submit("flaky"))
    assert (task["state"], task["attempts"], task["failures"], task["result"]) == ("done", 4, 2, {})
    events = host.control.call(f"{HTM}.Get", {"task_id": task["id"]})["events"]
    said = [(event["kind"], event["detail"]) for event in events if event["kind"] in {"retry", "deferred"}]
    assert said == [("retry", "ValueError: no luck"), ("retry", "not yet"), ("deferred", "later")]


def test_a_parent_is_called_again_after_its_children(host):
    host.worker()
    task = host.ended(host.submit("parent", on_child_failure="ignore"))
    assert (task["state"], task["failures"], task["attempts"]) == ("done", 0, 2)
    assert task["result"] == {"children": {"done": 2, "failed": 1, "open": 0}}


def test_progress_is_seen_while_it_runs(host):
    gate = host.gate()
    host.worker()
    task_id = host.submit("gate", {"gate": str(gate)})
    host.until(task_id, "progress")
    progress = host.task(task_id)["progress"]
    assert (progress["percent"], progress["message"]) == (40, "half of it")
    gate.write_text("")
    assert host.ended(task_id)["state"] == "done"


def test_a_cancelled_task_is_told_to_stop_and_gives_its_place_back(host):
    worker = host.worker()
    task_id = host.submit("hold")
    assert worker.line() == ["began", task_id, "1"]
    host.control.call(f"{HTM}.Cancel", {"task_id": task_id, "reason": "changed my mind"})
    assert worker.line()[:2] == ["stopped", task_id]
    assert host.task(task_id)["state"] == "cancelled"
    assert host.ended(host.submit("echo"))["state"] == "done"


def test_two_workers_share_and_nothing_is_done_twice(host):
    for _ in range(2):
        host.worker(credits=2)
    host.await_workers(2)
    ids = [host.submit("echo", {"n": number}) for number in range(40)]
    open_ids = set(ids)
    while open_ids:
        reply = next(host.changes)
        if reply["change"]["kind"] == "completed":
            open_ids.remove(reply["change"]["task_id"])
    tasks = [host.task(task_id) for task_id in ids]
    assert {task["attempts"] for task in tasks} == {1}
    assert len({task["worker"] for task in tasks}) == 2


def test_a_dead_workers_task_is_given_to_the_next_at_once(host):
    victim = host.worker()
    task_id = host.submit("hold")
    assert victim.line() == ["began", task_id, "1"]
    heir = host.worker()
    started = time.monotonic()
    victim.kill()
    assert heir.line() == ["began", task_id, "2"]
    assert time.monotonic() - started < LEASE_US / 2e6, "not for want of a sign of life"
    assert host.task(task_id)["failures"] == 1


# -- the supervisor goes away ---------------------------------------------------------------------------------------


def test_a_run_outlives_the_supervisor(host):
    gate = host.gate()
    worker = host.worker()
    task_id = host.submit("gate", {"gate": str(gate)})
    assert worker.line() == ["began", task_id, "1"]
    host.server.kill()
    host.start()
    if host.task(task_id)["attempts"] == 1:
        host.until(task_id, "leased")
    gate.write_text("")
    task = host.ended(task_id)
    assert worker.line() == ["through", task_id], "it began a second time"
    assert (task["state"], task["attempts"], task["failures"]) == ("done", 2, 0)
    assert task["result"] == {"began": 1}


def test_a_result_waits_for_the_supervisor(host):
    gate = host.gate()
    worker = host.worker()
    task_id = host.submit("gate", {"gate": str(gate)})
    assert worker.line() == ["began", task_id, "1"]
    host.server.kill()
    gate.write_text("")
    assert worker.line() == ["through", task_id]
    host.start()
    if host.task(task_id)["state"] != "done":
        host.until(task_id, "completed")
    assert host.task(task_id)["result"] == {"began": 1}
    worker.signal(signal.SIGTERM)
    assert worker.wait()[:2] == (0, ["down"])


def test_a_run_stops_once_somebody_else_has_its_task(host):
    first = host.worker()
    task_id = host.submit("hold")
    assert first.line() == ["began", task_id, "1"]
    first.signal(signal.SIGSTOP)
    host.server.kill()
    host.start()
    second = host.worker()
    assert second.line() == ["began", task_id, "2"]
    first.signal(signal.SIGCONT)
    assert first.line() == ["stopped", task_id, task_id, "was", "given", "to", "another", "worker"]
    assert host.task(task_id)["attempts"] == 2
    # and its place is free again
    second.signal(signal.SIGSTOP)
    assert host.ended(host.submit("echo"))["state"] == "done"


# -- the worker is stopped ------------------------------------------------------------------------------------------


def test_sigterm_takes_no_more_and_finishes(host, monkeypatch):
    gate = host.gate()
    host.listen(monkeypatch)
    worker = host.worker(credits=1)
    assert host.notified("READY=1").endswith("STATUS=Working on job: 0 running, 0 ended since start")
    running = host.submit("gate", {"gate": str(gate)})
    assert worker.line() == ["began", running, "1"]
    queued = [host.submit("echo") for _ in range(5)]
    assert host.notified("WATCHDOG=1")
    worker.signal(signal.SIGTERM)
    assert host.notified("STOPPING=1")
    gate.write_text("")
    assert worker.wait()[:2] == (0, [f"through {running}", "down"])
    assert host.task(running)["state"] == "done"
    assert {(host.task(one)["state"], host.task(one)["attempts"]) for one in queued} == {("queued", 0)}


def test_sigterm_hands_back_what_does_not_finish_in_time(host):
    worker = host.worker(credits=2, drain_seconds=0.0)
    held = [host.submit("hold"), host.submit("hold")]
    assert {tuple(worker.line()[:2]), tuple(worker.line()[:2])} == {("began", one) for one in held}
    queued = host.submit("echo")
    worker.signal(signal.SIGTERM)
    code, lines, _ = worker.wait()
    assert (code, lines[-1]) == (0, "down")
    assert sorted(lines[:2]) == [f"stopped {one} the worker is stopping" for one in held]
    for task in map(host.task, held):
        assert task["state"] in {"queued", "waiting"}
        assert (task["failures"], task["attempts"]) == (0, 1)
    assert host.task(queued)["attempts"] == 0


def test_a_function_that_does_not_stop_is_left_behind(host):
    worker = host.worker(drain_seconds=0.0)
    task_id = host.submit("gate", {"gate": str(host.gate())})
    assert worker.line() == ["began", task_id, "1"]
    worker.signal(signal.SIGTERM)
    code, lines, errors = worker.wait()
    assert (code, lines) == (0, ["down"])
    assert f"{task_id} did not stop" in errors
    assert (host.task(task_id)["failures"], host.task(task_id)["attempts"]) == (0, 1)


# -- an executable --------------------------------------------------------------------------------------------------


def test_an_executables_exit_status(host):
    host.executable(
        'read -r context; case "$GRACED_TASK_TYPE" in\n'
        'json) printf \'{"got": %s, "arg": "%s", "id": "%s"}\' "$context" "$1" "$GRACED_TASK_ID" ;;\n'
        "text) echo plain; echo to stderr >&2 ;;\n"
        "data) echo wrong input >&2; exit 65 ;;\n"
        'again) [ "$GRACED_ATTEMPT" = 2 ] || { echo try later >&2; exit 75; } ;;\n'
        'crash) [ "$GRACED_ATTEMPT" = 2 ] || kill -SEGV $$ ;;\n'
        "esac\n"
    )
    task_id = host.submit("json", {"x": 1})
    assert host.ended(task_id)["result"] == {"got": {"x": 1}, "arg": "arg", "id": task_id}
    assert host.ended(host.submit("text"))["result"] == {"output": "plain\n"}
    task = host.ended(host.submit("data"))
    assert (task["state"], task["error"]) == ("failed", "exit 65: wrong input")
    for task_type, error in (("again", "exit 75: try later"), ("crash", "killed by SIGSEGV")):
        task_id = host.submit(task_type)
        assert host.ended(task_id)["state"] == "done"
        events = host.control.call(f"{HTM}.Get", {"task_id": task_id})["events"]
        assert [event["detail"] for event in events if event["kind"] == "retry"] == [error]


def test_an_executable_says_how_far_it_is_and_ends_with_its_children(host):
    pid_file = host.directory / "pid"
    worker = host.executable(f'sleep 600 & echo $! > {pid_file}; echo "25% a bit" > "$GRACED_PROGRESS"; wait\n')
    task_id = host.submit()
    host.until(task_id, "progress")
    progress = host.task(task_id)["progress"]
    assert (progress["percent"], progress["message"]) == (25, "a bit")
    child = os.pidfd_open(int(pid_file.read_text()))
    host.control.call(f"{HTM}.Cancel", {"task_id": task_id, "reason": "enough"})
    assert signal_of_end(child, LIMIT_SECONDS), "the child of the executable lives on"
    worker.signal(signal.SIGTERM)
    assert worker.wait()[0] == 0


def test_an_executable_that_takes_too_long(host):
    host.executable("trap '' TERM; sleep 600 & wait; sleep 600\n", "--timeout=0.2")
    task_id = host.submit(max_attempts=1)
    task = host.ended(task_id)
    assert (task["state"], task["error"]) == ("dead", "it ran longer than 0.2 s")


def test_sigterm_hands_an_executables_task_back(host):
    worker = host.executable('echo 1 > "$GRACED_PROGRESS"; sleep 600\n', "--drain=0")
    task_id = host.submit()
    host.until(task_id, "progress")
    worker.signal(signal.SIGTERM)
    assert worker.wait()[0] == 0
    assert (host.task(task_id)["failures"], host.task(task_id)["attempts"]) == (0, 1)


def test_a_name_that_is_none_ends_the_program_with_the_reason(host):
    worker = host._started(
        "-c", "from graced.worker.main import main; main()", "Job/x", "--socket", host.socket, "--", "/bin/true"
    )
    code, _, errors = worker.wait()
    assert code == 1
    assert errors.startswith("graced-worker: io.graced.HTM.InvalidRequest: ")
    assert "handler" in errors


def signal_of_end(pidfd, timeout_seconds):
    import select

    try:
        return select.select([pidfd], [], [], timeout_seconds)[0]
    finally:
        os.close(pidfd)
