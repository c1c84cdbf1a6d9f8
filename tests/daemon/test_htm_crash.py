"""Real SIGKILLs of a serving queue under load, and a disk that fills up: nothing acknowledged is lost."""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

from graced.htm.lease import LEASE_US
from graced.store.db import open_database
from graced.store.tasks import MIGRATIONS, TaskStore
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER = os.path.join(ROOT, "tests", "daemon", "htm_server.py")
LOAD = os.path.join(ROOT, "tests", "support", "htm_load.py")
KILLS = 100
PARKED_KILLS = 10
SERVER_SHARE = 0.7
LIMIT_SECONDS = 60.0
ACKNOWLEDGED_EACH = (6, 6, 0.7, 0.7)
CHILDREN = 2
DONE = 3


class Server:
    def __init__(self, directory, *args):
        self.socket = f"{directory}/socket"
        self.process = subprocess.Popen(
            [sys.executable, SERVER, str(directory), *map(str, args)],
            stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": ROOT},
        )  # fmt: skip
        assert self.process.stdout.readline() == b"up\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(LIMIT_SECONDS) == -signal.SIGKILL
        self.process.stdout.close()


class Load:
    """One producer or worker of tests/support/htm_load.py, and its log."""

    def __init__(self, role, path, log, *arguments):
        self.log = log
        program = [sys.executable, "-I", "-S", LOAD, role, path, str(log), *map(str, arguments)]
        self.process = subprocess.Popen(program)

    def kill(self):
        self.process.kill()
        assert self.process.wait(LIMIT_SECONDS) == -signal.SIGKILL

    def finish(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT_SECONDS) == 0


class Field:
    """A server under load, whose parts are killed and started again."""

    def __init__(self, directory):
        self.directory = directory
        self.server = Server(directory)
        self.producers = [
            self.load("produce", "a", "job", 24),
            self.load("produce", "b", "job", 24),
            self.load("produce", "tree", "job", 4, CHILDREN),
            # nobody works on these while their producer runs
            self.load("produce", "parked", "parked", 1),
        ]
        self.workers = [self.load("work", f"w{index}", "job", 8) for index in range(2)]
        self.worker_kills = self.server_kills = 0

    def load(self, role, name, handler, *arguments):
        return Load(role, self.server.socket, self.directory / f"{role}-{name}.log", name, handler, *arguments)

    def kill_server(self):
        self.server.kill()
        self.server_kills += 1
        self.server = Server(self.directory)

    def kill_worker(self, index):
        self.workers[index].kill()
        self.worker_kills += 1
        self.workers[index] = self.load("work", f"w{index}", "job", 8)

    def await_work(self, kills):
        """Until each producer has as much acknowledged for each kill as the end needs, however slow the machine is."""
        end = time.monotonic() + LIMIT_SECONDS
        for producer, each in zip(self.producers, ACKNOWLEDGED_EACH, strict=True):
            while not producer.log.exists() or producer.log.read_bytes().count(b"ack ") < kills * each:
                assert time.monotonic() < end, producer.log
                select.select([], [], [], 0.01)

    def await_empty(self):
        """Until no live task is left."""
        end = time.monotonic() + 2 * LIMIT_SECONDS
        with Client(self.server.socket, LIMIT_SECONDS) as client:
            while live := client.call("io.graced.HTM.Stats", {})["stats"]["live"]:
                assert time.monotonic() < end, f"{live} tasks are left"
                select.select([], [], [], 0.02)

    def end(self):
        for one in (*self.producers, *self.workers):
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait(LIMIT_SECONDS)
        if self.server.process.poll() is None:
            self.server.kill()


def logged(directory, word):
    """The rest of all lines of all logs that begin with `word`."""
    lines = [line for path in directory.glob("*.log") for line in path.read_text().splitlines()]
    return [line.split()[1:] for line in lines if line.startswith(f"{word} ")]


def test_100_sigkills_under_load_lose_and_double_nothing(tmp_path):
    """Delivery is at least once, and the keys make it exactly once in effect."""
    draw = random.Random(100)
    field = Field(tmp_path)
    try:
        for number in range(KILLS):
            if number == KILLS - PARKED_KILLS:
                for producer in field.producers:
                    producer.finish()
                field.workers.append(field.load("work", "p", "parked", 2))
            # at a random moment: waiting on an event would always kill at the same kind of point
            select.select([], [], [], draw.uniform(0.0, 0.12))
            if number < KILLS - PARKED_KILLS:
                field.await_work(number)
            if draw.random() < SERVER_SHARE:
                field.kill_server()
            else:
                field.kill_worker(draw.randrange(2))
        assert field.server_kills + field.worker_kills == KILLS
        field.await_empty()
    finally:
        field.end()
    acknowledged = dict(logged(tmp_path, "ack"))
    TaskStore(str(tmp_path / "q.db")).close()
    with open_database(str(tmp_path / "q.db"), MIGRATIONS) as db:
        assert db.check() == []
        rows = db.rows("SELECT id, state, idempotency_key, created_us, finished_us, handler FROM task ORDER BY id")
        counted = db.rows("SELECT state, count(*) FROM task GROUP BY state ORDER BY state")
        assert db.rows("SELECT state, sum(n) FROM tally WHERE n GROUP BY state ORDER BY state") == counted
        assert db.rows("SELECT id FROM task WHERE open_children != 0") == []
    # nothing acknowledged is lost, no id was given twice, everything was done once
    key_of = {f"task_{number}": key for number, _, key, *_ in rows}
    assert all(key_of[task_id] == key for key, task_id in acknowledged.items())
    assert len(set(acknowledged.values())) == len(acknowledged) > 1000
    assert counted == [(DONE, len(rows))]
    done = [task_id for (task_id,) in logged(tmp_path, "done")]
    assert set(done) <= set(key_of)
    assert len(set(done)) == len(done), "a task was completed twice"
    # at least once: some were given out again, never twice under the same fencing token
    leases = [tuple(lease) for lease in logged(tmp_path, "lease")]
    assert len(set(leases)) == len(leases)
    assert {task_id for task_id, _ in leases} == set(key_of)
    assert len(leases) > len(rows)
    in_effect(rows, acknowledged)


def in_effect(rows, acknowledged):
    """A producer that repeats a key while its task lives never makes a second one; unique keys are tasks done."""
    tasks = {}
    for _, _, key, created_us, finished_us, handler in rows:
        tasks.setdefault((handler, key), []).append((created_us, finished_us))
    parked = [times for (handler, _), times in tasks.items() if handler == "parked"]
    assert len(parked) > 50
    assert all(len(times) == 1 for times in parked)
    for times in tasks.values():
        # the key of a task that has ended is free: only an answer lost until then is submitted again
        assert all(ended <= next_created for (_, ended), (next_created, _) in itertools.pairwise(times))
    keys = {key for _, key in tasks}
    assert {key for key in keys if "." not in key} == set(acknowledged)
    trees = [key for key in acknowledged if key.startswith("tree-")]
    assert len(trees) > 50
    assert {f"{key}.{n}" for key in trees for n in range(CHILDREN)} == {key for key in keys if "." in key}


def test_worker_sigkill_is_redelivered_at_once(tmp_path):
    server = Server(tmp_path)
    script = (
        "import sys; from graced.varlink.client import Client\n"
        f"for item in Client({server.socket!r}, 60).stream('io.graced.HTM.Work',"
        " {'handler': 'job', 'worker': 'victim', 'credits': 1}):\n"
        "    if item['lease']: print('leased', flush=True)\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        with Client(server.socket, LIMIT_SECONDS) as control, Client(server.socket, LIMIT_SECONDS) as stream:
            task_id = control.call("io.graced.HTM.Submit", {"handler": "job", "task_type": "t"})["task_id"]
            assert victim.stdout.readline() == b"leased\n"
            leases = stream.stream("io.graced.HTM.Work", {"handler": "job", "worker": "heir", "credits": 1})
            assert next(leases)["lease"] is None
            killed = time.monotonic()
            victim.send_signal(signal.SIGKILL)
            lease = next(leases)["lease"]
            assert time.monotonic() - killed < LEASE_US / 2e6, "not for want of a sign of life"
            assert (lease["task_id"], lease["attempt"]) == (task_id, 2)
            task = control.call("io.graced.HTM.Get", {"task_id": task_id})["task"]
            assert (task["failures"], task["worker"]) == (1, "heir")
    finally:
        victim.kill()
        victim.wait()
        victim.stdout.close()
        server.kill()


def test_full_disk_is_said_and_recovers(tmp_path):
    server = Server(tmp_path, 4_000_000)
    try:
        with Client(server.socket, LIMIT_SECONDS) as control:
            kept = {}
            with pytest.raises(VarlinkError) as caught:
                for index in range(100_000):
                    parameters = {
                        "handler": "job", "task_type": "t", "idempotency_key": f"k{index}", "context": {"x": "y" * 2000}
                    }  # fmt: skip
                    kept[f"k{index}"] = control.call("io.graced.HTM.Submit", parameters)["task_id"]
            assert caught.value.error == "io.graced.HTM.Unavailable"
            assert str(tmp_path / "q.db") in caught.value.parameters["reason"]
            assert len(kept) > 50
            assert control.call("io.graced.HTM.Stats", {})["stats"]["error"] != ""
            for task_id in (kept["k0"], kept[f"k{len(kept) - 1}"]):
                assert control.call("io.graced.HTM.Get", {"task_id": task_id})["task"]["state"] == "queued"
            server.process.send_signal(signal.SIGUSR1)
            again = control.call(
                "io.graced.HTM.Submit", {"handler": "job", "task_type": "t", "idempotency_key": f"k{len(kept)}"}
            )
            assert not again["deduplicated"], "the refused one must not have been kept"
            stats = control.call("io.graced.HTM.Stats", {})["stats"]
            assert (stats["error"], stats["live"]) == ("", len(kept) + 1)
    finally:
        server.kill()
    TaskStore(str(tmp_path / "q.db")).close()
    with open_database(str(tmp_path / "q.db"), MIGRATIONS) as db:
        assert db.check() == []
        assert dict(db.rows("SELECT idempotency_key, 'task_' || id FROM task")) == {
            **kept, f"k{len(kept)}": again["task_id"]
        }  # fmt: skip
