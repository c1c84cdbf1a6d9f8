"""The worker's loop against a task manager that a test plays: signs of life, reconnection, what it is told."""

import contextlib
import re
import socket
import threading
from pathlib import Path

import pytest

from graced.base.errors import GracedError
from graced.varlink.wire import Decoder, VarlinkError, encode
from graced.worker import main, worker
from graced.worker.task import Task
from graced.worker.worker import Worker

from .test_executable import lease

ROOT = Path(__file__).parents[3]
LIMIT_S = 60


class Manager:
    """Listens; every connection is answered by `answer(method, parameters)`, which returns replies, or None to hang up.

    `wait(method)` gives the parameters of the next call of a method.
    """

    def __init__(self, path, answer):
        self.answer = answer
        self.said = []
        self.more = threading.Condition()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.connections = []
        self.threads = []
        self._start(self._accept)

    def _start(self, target, *arguments):
        self.threads.append(threading.Thread(target=target, args=arguments))
        self.threads[-1].start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            self._start(self._serve, connection)

    def close(self):
        """Nothing of it outlives its test."""
        with contextlib.suppress(OSError):
            # wakes the thread in accept; close alone would leave it there
            self.listener.shutdown(socket.SHUT_RDWR)
        self.threads[0].join(LIMIT_S)
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()
        self.listener.close()

    def _serve(self, connection):
        decoder = Decoder()
        with connection, contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                for message in decoder.feed(data):
                    method = message["method"].rpartition(".")[2]
                    with self.more:
                        self.said.append((method, message["parameters"]))
                        self.more.notify_all()
                    replies = self.answer(method, message["parameters"])
                    if replies is None:
                        return
                    for reply in replies:
                        connection.sendall(encode(reply))

    def wait(self, method):
        def take():
            found = next((one for one in self.said if one[0] == method), None)
            if found:
                self.said.remove(found)
            return found

        with self.more:
            found = self.more.wait_for(take, timeout=LIMIT_S)
        assert found, f"no {method}: {self.said}"
        return found[1]


def ok(**parameters):
    return [{"parameters": parameters}]


def stream(*items):
    return [{"parameters": item, "continues": True} for item in ({"lease": None}, *items)]


@pytest.fixture
def start(tmp_path):
    """Starts a worker with a function, in a thread, against a manager; stops both."""
    started = []

    def begin(answer, function=lambda task: {}, **options):
        path = str(tmp_path / "socket")
        manager = Manager(path, answer)
        made = Worker("job", socket=path, **options)
        made.handle(function)
        thread = threading.Thread(target=made.run)
        thread.start()
        started.append((manager, made, thread))
        return manager, made

    yield begin
    for manager, made, thread in started:
        made.stop()
        made.stop()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
        manager.close()


def test_heartbeats_come_while_a_function_runs_and_only_then(start, monkeypatch):
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.05)
    finish = threading.Event()

    def answer(method, parameters):
        return stream({"lease": lease()}) if method == "Work" else ok(state="done")

    manager, made = start(answer, lambda task: finish.wait(LIMIT_S) and {"a": 1})
    work = manager.wait("Work")
    assert work == {"handler": "job", "worker": made.name, "credits": 1}
    for _ in range(3):
        assert manager.wait("Heartbeat") == {"worker": made.name}
    finish.set()
    assert manager.wait("Complete") == {"task_id": "task_7", "attempt": 2, "result": {"a": 1}}


def test_it_comes_back_after_each_end_of_the_connection(start):
    count = iter(range(100))

    def answer(method, parameters):
        if method != "Work":
            return ok(state="done")
        return None if next(count) < 3 else stream({"lease": lease()})

    manager, _ = start(answer)
    for _ in range(4):
        manager.wait("Work")
    manager.wait("Complete")


def test_a_revoked_lease_stops_its_function(start):
    def answer(method, parameters):
        revoked = {"task_id": "task_7", "attempt": 2, "reason": "cancelled"}
        return stream({"lease": lease()}, {"lease": None, "revoked": revoked}) if method == "Work" else ok()

    def function(task):
        assert task.wait_cancelled(LIMIT_S)
        return {"reason": task.cancel_reason}

    manager, _ = start(answer, function)
    assert manager.wait("Complete")["result"] == {"reason": "cancelled"}


def test_credits_are_given_back_before_leases(start):
    began, finish = threading.Event(), threading.Event()

    def answer(method, parameters):
        leases = [{"lease": lease(task_id=f"task_{number}")} for number in (7, 8)]
        return stream(*leases) if method == "Work" else ok(state="waiting")

    def function(task):
        began.set()
        finish.wait(LIMIT_S)
        return {}

    # one more lease than it asked for: it waits its turn, and is handed back
    manager, made = start(answer, function)
    assert began.wait(LIMIT_S)
    made.stop()
    assert manager.wait("Heartbeat") == {"worker": made.name, "credits": 0}
    assert manager.wait("Defer")["task_id"] == "task_8"
    finish.set()
    assert manager.wait("Complete")["task_id"] == "task_7"


def test_a_refusal_of_work_is_raised(tmp_path):
    path = str(tmp_path / "socket")
    error = {"error": "io.graced.HTM.PermissionDenied", "parameters": {"method": "Work"}}
    manager = Manager(path, lambda method, parameters: [error])
    made = Worker("job", socket=path)
    with pytest.raises(GracedError, match="no function"):
        made.run()
    made.handle(lambda task: {})
    errors = []

    def run():
        try:
            made.run()
        except VarlinkError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT_S)
    manager.close()
    assert [one.name for one in errors] == ["PermissionDenied"]


def test_a_child_names_its_parent():
    said = []
    task = Task(lease(), lambda verb, parameters: said.append((verb, parameters)) or {"task_id": "task_8"})
    assert task.submit_child("part", {"x": 1}, idempotency_key="k") == "task_8"
    parameters = {"handler": "job", "task_type": "part", "context": {"x": 1}, "priority": "high", "parent": "task_7"}
    assert said == [("Submit", {**parameters, "idempotency_key": "k"})]


def test_the_manual_and_the_completion_have_every_option():
    options = {name for action in main.parser()._actions for name in action.option_strings if name.startswith("--")}
    options.remove("--socket")
    manual = (ROOT / "docs/man/graced-worker.1").read_text()
    items = re.findall(r"^\.It (.*)$", manual, re.MULTILINE)
    assert {f"--{name}" for item in items for name in re.findall(r"Fl \\-(\w+)", item)} == options
    completion = (ROOT / "packaging/completions/graced-worker").read_text()
    assert set(re.search(r'-W "([^"]*)"', completion)[1].split()) == options | {"--"}


@pytest.mark.parametrize("argv", [["job"], ["job", "--", "sleep"], ["job", "--credits=0", "--", "/bin/true"]])
def test_wrong_usage(argv, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["graced-worker", *argv])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2
    assert "usage: graced-worker HANDLER" in capsys.readouterr().err
