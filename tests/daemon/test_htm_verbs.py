"""The task manager over a real socket: watching, trees, why, pauses and batches, also across its death."""

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

import pytest

from graced.base.errors import WireError
from graced.store.db import open_database
from graced.store.tasks import MIGRATIONS, TaskStore
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER = os.path.join(ROOT, "tests", "daemon", "htm_server.py")
HTM = "io.graced.HTM."
JOB = {"handler": "job", "task_type": "t"}
BATCH = 50
KILLS = 8
LIMIT_SECONDS = 60.0


class Server:
    """The queue and its socket in a process of its own; ended with SIGKILL, as often as wanted."""

    def __init__(self, directory):
        self.directory = directory
        self.socket = f"{directory}/socket"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, SERVER, str(self.directory)],
            stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": ROOT},
        )  # fmt: skip
        assert self.process.stdout.readline() == b"up\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(LIMIT_SECONDS) == -signal.SIGKILL
        self.process.stdout.close()

    def client(self):
        return Client(self.socket, LIMIT_SECONDS)


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    yield made
    made.kill()


def test_pause_drain_and_trees_outlive_the_process(server):
    with server.client() as client:
        tree = client.call(f"{HTM}Submit", {**JOB, "children": [JOB, {**JOB, "handler": "other"}]})["task_ids"]
        client.call(f"{HTM}Pause", {"handler": "job", "reason": "disk swap"})
        client.call(f"{HTM}Drain", {"handler": "other", "reason": "is retired"})
        before = client.call(f"{HTM}Tree", {"task_id": tree[1]})
        modes = client.call(f"{HTM}Stats")["stats"]["modes"]
    assert {name: mode["mode"] for name, mode in modes.items()} == {"job": "paused", "other": "drained"}
    server.kill()
    server.start()
    with server.client() as client, server.client() as jobs, server.client() as others:
        after = client.call(f"{HTM}Tree", {"task_id": tree[0]})
        assert ids(after["root"]) == ids(before["root"]) == tree
        assert client.call(f"{HTM}Stats")["stats"]["modes"] == modes
        with pytest.raises(VarlinkError) as caught:
            client.call(f"{HTM}Submit", {**JOB, "handler": "other"})
        assert (caught.value.name, caught.value.parameters["retry_after_ms"]) == ("Busy", 60_000)
        assert "is retired" in caught.value.parameters["reason"]

        held = jobs.stream(f"{HTM}Work", {"handler": "job", "worker": "w", "credits": 9})
        assert next(held)["lease"] is None
        free = others.stream(f"{HTM}Work", {"handler": "other", "worker": "o", "credits": 9})
        assert next(free)["lease"] is None
        lease = next(free)["lease"]
        assert lease["task_id"] == tree[2]
        client.call(f"{HTM}Complete", {"task_id": tree[2], "attempt": lease["attempt"], "result": {}})
        why = client.call(f"{HTM}Why", {"task_id": tree[1]})
        assert "paused" in why["sentences"][0]
        assert "disk swap" in why["sentences"][0]
        assert (why["facts"]["workers"], why["facts"]["free_credits"]) == (1, 9)
        client.call(f"{HTM}Resume", {"handler": "job"})
        lease = next(held)["lease"]
        assert lease["task_id"] == tree[1]
        assert "works on it" in client.call(f"{HTM}Why", {"task_id": tree[1]})["sentences"][0]
        client.call(f"{HTM}Complete", {"task_id": tree[1], "attempt": lease["attempt"], "result": {}})
        lease = next(held)["lease"]
        assert (lease["task_id"], lease["children"]) == (tree[0], {"done": 2, "failed": 0, "open": 0})


def ids(node):
    return [node["id"], *(name for child in node["children"] for name in ids(child))]


def test_watch_hears_the_life_of_a_task_and_only_of_that(server):
    with server.client() as client, server.client() as looker, server.client() as worker:
        client.call(f"{HTM}Submit", {**JOB, "handler": "other"})
        changes = looker.stream(f"{HTM}Watch", {"handler": "job"})
        assert next(changes) == {"change": None, "dropped": 0}
        leases = worker.stream(f"{HTM}Work", {"handler": "job", "worker": "w", "credits": 1})
        assert next(leases)["lease"] is None
        client.call(f"{HTM}Submit", {**JOB, "handler": "other"})
        task_id = client.call(f"{HTM}Submit", JOB)["task_id"]
        mine = {"task_id": task_id, "attempt": next(leases)["lease"]["attempt"]}
        client.call(f"{HTM}Progress", {**mine, "percent": 50})
        client.call(f"{HTM}Cancel", {"task_id": task_id, "reason": "enough"})
        assert next(leases) == {"lease": None, "revoked": {**mine, "reason": "enough"}}
        heard = [next(changes)["change"] for _ in range(4)]
    assert [(one["kind"], one["state"]) for one in heard] == [
        ("submitted", "queued"), ("leased", "leased"), ("progress", "leased"), ("cancelled", "cancelled")
    ]  # fmt: skip
    assert {one["task_id"] for one in heard} == {task_id}


def test_a_watcher_that_does_not_read_neither_blocks_nor_grows(server):
    tasks = {"tasks": [JOB] * 500}
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(server.socket)
    deaf.sendall(json.dumps({"method": f"{HTM}Watch", "more": True}).encode() + b"\0")
    with server.client() as client, deaf:
        # a change is some 250 bytes: this is ten times what a watcher may leave unread, and nobody waits for it
        for _ in range(24):
            client.call(f"{HTM}SubmitBatch", tasks)
        stats = client.call(f"{HTM}Stats")["stats"]
        assert (stats["live"], stats["watchers"]) == (12_000, 1)
        # it reads after all: what it missed is said, without another change
        heard, dropped, rest = 0, 0, b""
        deaf.settimeout(LIMIT_SECONDS)
        while heard + dropped < 12_000:
            data = deaf.recv(1 << 16)
            assert data, "the watcher was cut off"
            *frames, rest = (rest + data).split(b"\0")
            for frame in frames:
                reply = json.loads(frame)["parameters"]
                heard += reply["change"] is not None
                assert reply["dropped"] >= dropped
                dropped = reply["dropped"]
        assert heard + dropped == 12_000
        assert dropped > 6_000
    with server.client() as client:
        wait_until(lambda: client.call(f"{HTM}Stats")["stats"]["watchers"] == 0)


def wait_until(done):
    until = time.monotonic() + LIMIT_SECONDS
    # each look is an answered call, so a full turn of the server
    while not done():
        assert time.monotonic() < until


class Batcher(threading.Thread):
    """Submits batches and trees until the server dies; `tried` counts them, `acknowledged` are their first ids."""

    def __init__(self, path, prefix):
        super().__init__()
        self.path = path
        self.prefix = prefix
        self.tried = []
        self.acknowledged = {}
        self.start()

    def run(self):
        try:
            with Client(self.path, LIMIT_SECONDS) as client:
                while True:
                    name = f"{self.prefix}-{len(self.tried)}"
                    self.tried.append(name)
                    tasks = [{**JOB, "intent_id": name} for _ in range(BATCH - 10)]
                    tasks.append({**JOB, "intent_id": name, "children": [{**JOB, "intent_id": name}] * 9})
                    self.acknowledged[name] = client.call(f"{HTM}SubmitBatch", {"tasks": tasks})["task_ids"]
        except (WireError, OSError):
            return


def test_a_batch_is_there_in_whole_or_not_at_all_across_sigkill(server):
    draw = random.Random(3)
    tried, acknowledged = [], {}
    for round_number in range(KILLS):
        batchers = [Batcher(server.socket, f"{round_number}-{index}") for index in range(2)]
        limit = time.monotonic() + LIMIT_SECONDS
        while sum(len(batcher.acknowledged) for batcher in batchers) < 2:
            assert time.monotonic() < limit
            select.select([], [], [], 0.002)
        # load runs until a random moment: waiting on an event would always kill at the same kind of point
        select.select([], [], [], draw.uniform(0.0, 0.25))
        server.kill()
        for batcher in batchers:
            batcher.join(LIMIT_SECONDS)
            assert not batcher.is_alive()
            tried += batcher.tried
            acknowledged.update(batcher.acknowledged)
        server.start()
    server.kill()
    assert len(acknowledged) > KILLS
    TaskStore(str(server.directory / "q.db")).close()
    with open_database(str(server.directory / "q.db"), MIGRATIONS) as db:
        counts = dict(db.rows("SELECT intent_id, count(*) FROM task GROUP BY intent_id"))
        families = db.rows("SELECT DISTINCT open_children, state FROM task WHERE open_children")
        orphans = db.rows("SELECT count(*) FROM task WHERE parent NOT IN (SELECT id FROM task WHERE state = 1)")
    assert set(counts) <= set(tried)
    assert set(acknowledged) <= set(counts)
    assert set(counts.values()) == {BATCH}
    assert families == [(9, 1)]
    assert orphans == [(0,)]
