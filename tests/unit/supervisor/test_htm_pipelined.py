"""Calls that come together are answered as if they had come one by one: on a real service, with a real socket pair."""

from __future__ import annotations

import json
import os
import random
import socket

import pytest

from graced.base.clock import ManualClock
from graced.base.errors import StoreError
from graced.htm.limits import Limits
from graced.runtime import connection, service
from graced.runtime.loop import Loop
from graced.runtime.peer import Peer
from graced.runtime.service import Service
from graced.supervisor.htm import HtmInterface
from graced.supervisor.queue import Queue

SHARE = os.path.join(os.path.dirname(service.__file__), "..", "share")
GOOD = {"handler": "job", "task_type": "t", "context": {"a": [1, 2.5, None, "x"]}}
UNAVAILABLE = "io.graced.HTM.Unavailable"


class Host:
    """A queue behind a service, and one caller on it."""

    def __init__(self, path, role="root", limits=None):
        self.loop = Loop()
        self.clock = ManualClock(start_us=5_000_000)
        self.queue = Queue(self.loop, self.clock, str(path), boot_id="b", limits=limits, synchronous="NORMAL")
        self.service = Service(self.loop, "test", "0", SHARE)
        self.htm = HtmInterface(self.queue)
        self.service.add(self.htm)
        self.service.before_flush.append(self.queue.flush)
        self.peer = Peer({"root": 0}.get(role, 900), 0, 1, frozenset({role}), role)
        self.connections = []
        self.sockets = []
        self.line = self.connect()
        # methods are looked up at their first call, and only then can calls of them be taken together
        for method in ("Submit", "Complete"):
            self.ask([(method, {})])

    def connect(self):
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        ours.setblocking(False)
        theirs.setblocking(False)
        self.sockets.append(ours)
        self.connections.append(connection.Connection(self.service, theirs, self.peer))
        return ours

    def read(self, line):
        data = b""
        for _ in range(10):
            self.loop.run_once(0)
            try:
                data += line.recv(1 << 22)
            except BlockingIOError:
                continue
        return [json.loads(frame) for frame in data.split(b"\0")[:-1]]

    def ask(self, calls, *, together=True):
        """The replies to (method, parameters), sent at once or one by one."""
        frames = [json.dumps({"method": f"io.graced.HTM.{name}", "parameters": given}) for name, given in calls]
        if together:
            self.line.sendall("".join(frame + "\0" for frame in frames).encode())
            return self.read(self.line)
        replies = []
        for frame in frames:
            self.line.sendall(frame.encode() + b"\0")
            replies += self.read(self.line)
        return replies

    def work(self, credits_=100):
        stream = self.connect()
        parameters = {"handler": "job", "worker": "w", "credits": credits_}
        call = {"method": "io.graced.HTM.Work", "parameters": parameters, "more": True}
        stream.sendall(json.dumps(call).encode() + b"\0")
        return [one["parameters"]["lease"] for one in self.read(stream) if one["parameters"]["lease"]]

    def rows(self):
        columns = "id, state, priority, handler, task_type, origin, idempotency_key, sla_seconds, context, result"
        return self.queue.store.db.rows(f"SELECT {columns} FROM task ORDER BY id")

    def close(self):
        for one in [*self.connections, *self.sockets]:
            one.close()
        self.queue.close()


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path / "q.db")
    yield made
    made.close()


def submissions(draw, count):
    odd = (
        {"handler": "No"}, {"context": None}, {"context": 3}, {"priority": "low"}, {"priority": "urgent"},
        {"priority": 1}, {"sla_seconds": 60}, {"sla_seconds": 0}, {"sla_seconds": True}, {"sla_seconds": None},
        {"idempotency_key": "k1"}, {"idempotency_key": "k1"}, {"idempotency_key": "k2"}, {"idempotency_key": ""},
        {"idempotency_key": "ü"}, {"idempotency_key": 5}, {"context": {"u": "ü"}}, {"context": {"x": "y" * 70_000}},
        {"unknown": 1}, {"parent": "task_1"}, {"parent": "task_99"}, {"delay_seconds": 5}, {"handler": "heal"},
        {"reasoning": "because"}, {"children": 3}, {"task_type": ["t"]}, {"intent_id": "i"},
    )  # fmt: skip
    return [("Submit", {**GOOD, **(draw.choice(odd) if draw.random() < 0.3 else {})}) for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("role", ["root", "admin"])
def test_together_is_as_one_by_one(tmp_path, seed, role):
    draw = random.Random(seed)
    limits = Limits(max_live=draw.choice((25, 1000)))
    one, other = (Host(tmp_path / name, role, limits) for name in ("a.db", "b.db"))
    calls = submissions(draw, 40)
    ids = [f"task_{number}" for number in range(1, 30)]
    for each in (one, other):
        each.ask([("Submit", GOOD)])
    assert one.ask(calls) == other.ask(calls, together=False)
    assert one.rows() == other.rows()
    leases = one.work()
    assert leases
    assert [lease["task_id"] for lease in leases] == [lease["task_id"] for lease in other.work()]
    results = ({"n": 1}, {"u": "ü"}, None, "text", {"x": "y" * 70_000})
    attempts = (1, 1, 1, 1, 2)
    every = [(draw.choice(ids), draw.choice(attempts), draw.choice(results)) for _ in range(60)]
    calls = [("Complete", {"task_id": task, "attempt": attempt, "result": result}) for task, attempt, result in every]
    assert one.ask(calls) == other.ask(calls, together=False)
    assert one.rows() == other.rows()
    assert one.queue.engine.book.tally.total == other.queue.engine.book.tally.total
    for each in (one, other):
        each.close()


def test_calls_of_another_kind_in_between_keep_their_place(host):
    calls = [("Submit", GOOD), ("Submit", GOOD), ("Get", {"task_id": "task_2"}), ("Submit", GOOD), ("Submit", GOOD)]
    replies = [one["parameters"] for one in host.ask(calls)]
    assert [one.get("task_id") or one["task"]["id"] for one in replies] == [
        "task_1", "task_2", "task_2", "task_3", "task_4",
    ]  # fmt: skip


def test_a_commit_that_fails_withdraws_every_answer_of_a_run(host, monkeypatch):
    def fail(_payload):
        raise StoreError("the disk is full", code="disk-full")

    with monkeypatch.context() as patch:
        patch.setattr(host.queue.store.durable.log, "append", fail)
        replies = host.ask([("Submit", GOOD)] * 100 + [("Submit", {"handler": "job"})])
    assert [one.get("error") for one in replies[:100]] == [UNAVAILABLE] * 100
    assert replies[100]["error"] == "io.graced.HTM.InvalidRequest"
    assert host.rows() == []
    assert [one["parameters"]["task_id"] for one in host.ask([("Submit", GOOD)] * 3)] == ["task_1", "task_2", "task_3"]


def test_a_store_that_fails_in_the_middle_refuses_each_call_by_itself(host, monkeypatch):
    def fail(*_values):
        raise StoreError("the disk failed", code="io")

    key = {**GOOD, "idempotency_key": "k"}
    with monkeypatch.context() as patch:
        patch.setattr(host.queue.store, "live_with_keys", fail)
        patch.setattr(host.queue.store, "live_with_key", fail)
        replies = host.ask([("Submit", GOOD)] + [("Submit", key)] * 4)
    assert [one.get("error") for one in replies] == [UNAVAILABLE] * 5
    assert host.rows() == []


def test_a_bug_in_a_run_is_counted_and_answers_all_of_it(host, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(host.queue.engine, "submit_run", lambda *_: 1 / 0)
        replies = host.ask([("Submit", GOOD)] * 3)
    assert [one.get("error") for one in replies] == [UNAVAILABLE] * 3
    assert host.service.internal_errors == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert len(host.ask([("Submit", GOOD)] * 2)) == 2


def test_a_task_that_is_completed_twice_in_one_run_is_done_once(host):
    host.ask([("Submit", GOOD)] * 2)
    first, second = ({"task_id": lease["task_id"], "attempt": 1, "result": {}} for lease in host.work())
    replies = host.ask([("Complete", one) for one in (first, first, second, first)])
    assert [one.get("error", "").rpartition(".")[2] for one in replies] == ["", "NotLeased", "", "NotLeased"]
    assert host.queue.leased == 0


def test_the_end_of_a_child_among_others_wakes_its_parent(host):
    host.ask([("Submit", {**GOOD, "children": [GOOD, GOOD]}), ("Submit", GOOD), ("Submit", GOOD)])
    leases = host.work()
    assert [lease["task_id"] for lease in leases] == ["task_2", "task_3", "task_4", "task_5"]
    done = [("Complete", {"task_id": lease["task_id"], "attempt": 1, "result": {}}) for lease in reversed(leases)]
    assert host.ask(done) == [{"parameters": {"state": "done"}}] * 4
    assert host.queue.engine.book.get(1).done_children == 2
    assert host.queue.leased == 1, "the parent is next"


def test_under_pressure_and_while_drained_nothing_slips_in_with_the_others(host):
    host.queue.engine.strain = "memory"
    low = {**GOOD, "priority": "low"}
    replies = host.ask([("Submit", one) for one in (GOOD, low, GOOD, low)])
    assert ["error" in one for one in replies] == [False, True, False, True]
    host.ask([("Drain", {"handler": "job", "reason": "x"})])
    replies = host.ask([("Submit", one) for one in (GOOD, {**GOOD, "handler": "free"}, GOOD)])
    assert ["error" in one for one in replies] == [True, False, True]
