"""SIGKILL at every step of a task's move to the archive, and under load with the log being copied beside the loop."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graced.base.errors import WireError
from graced.store.archive import files, lines
from graced.store.db import open_database
from graced.store.tasks import MIGRATIONS, TaskStore
from graced.varlink.client import Client

ROOT = str(Path(__file__).resolve().parents[2])
SERVER = os.path.join(ROOT, "tests", "daemon", "retention_server.py")
STEPS = ("half", "written", "synced", "deleted", "committed")
DONE_MIN = 100
"""So many tasks are done before each kill, however slow the machine is."""


class Server:
    def __init__(self, directory, keep, step="never", nth=1):
        self.socket = f"{directory}/socket"
        self.process = subprocess.Popen(
            [sys.executable, SERVER, str(directory), str(keep), step, str(nth)],
            stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": ROOT},
        )  # fmt: skip
        assert self.process.stdout.readline() == b"up\n"

    def wait_killed(self):
        assert self.process.wait(60) == -signal.SIGKILL
        self.process.stdout.close()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.wait_killed()


class Submitter(threading.Thread):
    """Pipelines submissions with keys until the server dies; `acknowledged` maps key to id."""

    def __init__(self, path, prefix):
        super().__init__()
        self.path = path
        self.prefix = prefix
        self.acknowledged = {}
        self.start()

    def run(self):
        sock = socket.socket(socket.AF_UNIX)
        keys, buffer, sent = [], b"", 0
        try:
            sock.connect(self.path)
            while True:
                burst = []
                while sent - len(self.acknowledged) < 64:
                    keys.append(f"{self.prefix}-{sent}")
                    parameters = {"handler": "job", "task_type": "t", "idempotency_key": keys[-1]}
                    burst.append(json.dumps({"method": "io.graced.HTM.Submit", "parameters": parameters}).encode())
                    sent += 1
                if burst:
                    sock.sendall(b"\0".join(burst) + b"\0")
                data = sock.recv(65536)
                if not data:
                    return
                *frames, buffer = (buffer + data).split(b"\0")
                for frame in frames:
                    reply = json.loads(frame)
                    self.acknowledged[keys[len(self.acknowledged)]] = reply["parameters"]["task_id"]
        except OSError:
            return
        finally:
            sock.close()


class Worker(threading.Thread):
    """Works until the server dies; `done` are tasks whose Complete was answered, `leases` (id, attempt) it got."""

    def __init__(self, path, name):
        super().__init__()
        self.path = path
        self.worker = name
        self.leases = []
        self.done = set()
        self.start()

    def run(self):
        try:
            with Client(self.path, 60) as stream, Client(self.path, 60) as control:
                parameters = {"handler": "job", "worker": self.worker, "credits": 8}
                for item in stream.stream("io.graced.HTM.Work", parameters):
                    lease = item["lease"]
                    if lease is None:
                        continue
                    end = {"task_id": lease["task_id"], "attempt": lease["attempt"]}
                    self.leases.append((lease["task_id"], lease["attempt"]))
                    control.call("io.graced.HTM.Complete", {**end, "result": {}})
                    self.done.add(lease["task_id"])
        except (WireError, OSError):
            return


def _archived(directory):
    """Task id → states of its lines."""
    found = {}
    for path in files(f"{directory}/archive"):
        for line in lines(path):
            task = json.loads(line)
            found.setdefault(task["id"], []).append(task["state"])
    return found


def _check(directory):
    """The rows, after the file was found sound and its counts true."""
    TaskStore(f"{directory}/q.db").close()
    with open_database(f"{directory}/q.db", MIGRATIONS) as db:
        assert db.check() == []
        counted = db.rows(
            "SELECT handler, origin, priority, state, count(*) FROM task GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        )
        tally = db.rows("SELECT handler, origin, priority, state, n FROM tally WHERE n ORDER BY 1, 2, 3, 4")
        assert tally == counted
        assert db.rows("SELECT count(*) FROM task_event WHERE task NOT IN (SELECT id FROM task)") == [(0,)]
        return {f"task_{number}": state for number, state in db.rows("SELECT id, state FROM task")}


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_of_a_move_loses_nothing(tmp_path, step):
    server = Server(tmp_path, 1_000_000)
    with Client(server.socket, 60) as control:
        ids = [
            control.call("io.graced.HTM.Submit", {"handler": "job", "task_type": "t"})["task_id"] for _ in range(300)
        ]
        for task_id in ids:
            control.call("io.graced.HTM.Cancel", {"task_id": task_id, "reason": "enough"})
    server.kill()
    for nth in (1, 2):
        Server(tmp_path, 100, step, nth).wait_killed()
        rows, archived = _check(tmp_path), _archived(tmp_path)
        assert set(rows) | set(archived) == set(ids)
    server = Server(tmp_path, 100)
    with Client(server.socket, 60) as control:
        limit = time.monotonic() + 60
        while (stats := control.call("io.graced.HTM.Stats", {})["stats"])["tasks"]["normal"]["cancelled"] != 100:
            assert time.monotonic() < limit
    assert stats["archive"]["error"] == ""
    server.kill()
    rows, archived = _check(tmp_path), _archived(tmp_path)
    assert set(rows) == set(ids[200:])
    assert set(archived) == set(ids[:200])
    assert {state for states in archived.values() for state in states} == {"cancelled"}


def test_sigkill_under_load_with_housekeeping_loses_nothing_acknowledged(tmp_path):
    draw = random.Random(6)
    acknowledged, done, leases = {}, set(), []
    for round_number in range(8):
        server = Server(tmp_path, 200)
        clients = [Submitter(server.socket, f"{round_number}-{index}") for index in range(2)]
        workers = [Worker(server.socket, f"w{round_number}-{index}") for index in range(2)]
        # a random moment, as in the crash test without housekeeping
        select.select([], [], [], draw.uniform(0.3, 1.0))
        limit = time.monotonic() + 60
        while sum(len(worker.done) for worker in workers) < DONE_MIN:
            assert time.monotonic() < limit
            select.select([], [], [], draw.uniform(0.0, 0.05))
        server.kill()
        for thread in (*clients, *workers):
            thread.join(60)
            assert not thread.is_alive()
        for client in clients:
            acknowledged.update(client.acknowledged)
        for worker in workers:
            done |= worker.done
            leases += worker.leases
    assert len(set(acknowledged.values())) == len(acknowledged), "an id was given twice"
    assert len(set(leases)) == len(leases), "a fencing token was given twice"
    rows, archived = _check(tmp_path), _archived(tmp_path)
    assert len(archived) > 200
    assert set(acknowledged.values()) <= set(rows) | set(archived)
    assert {state for states in archived.values() for state in states} == {"done"}
    for task_id in done:
        assert task_id in archived or rows[task_id] == 3
