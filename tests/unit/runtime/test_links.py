"""Calls to other daemons and streams from them, against a scripted server on the same loop."""

from __future__ import annotations

import json
import os
import socket

import pytest

from graced.base.errors import StoreError, WireError
from graced.runtime import links
from graced.runtime.links import Links, Stream
from graced.runtime.loop import Expired, Future, Loop
from graced.varlink.wire import VarlinkError


class Paths:
    def __init__(self, base):
        self.run = str(base)

    def socket(self, interface):
        return f"{self.run}/{interface}"


class Daemon:
    """Accepts on a socket and answers each message with what `script` returns; None is silence, "close" a hang-up."""

    def __init__(self, loop, path, script):
        self.loop = loop
        self.path = path
        self.script = script
        self.accepted = []
        self.messages = []
        self.listener = None
        self.up()

    def up(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.setblocking(False)
        self.listener.bind(self.path)
        self.listener.listen(128)
        self.loop.add_reader(self.listener.fileno(), self._accept)

    def down(self):
        if self.listener is not None:
            self.loop.remove_reader(self.listener.fileno())
            self.listener.close()
            os.unlink(self.path)
            self.listener = None
        for sock in self.accepted:
            self.hang_up(sock)

    def hang_up(self, sock):
        if sock.fileno() >= 0:
            self.loop.remove_reader(sock.fileno())
            sock.close()

    def _accept(self):
        sock, _ = self.listener.accept()
        self.accepted.append(sock)
        self.loop.add_reader(sock.fileno(), lambda: self._read(sock))

    def _read(self, sock):
        data = sock.recv(65536)
        if not data:
            self.hang_up(sock)
            return
        for one in data.split(b"\0")[:-1]:
            message = json.loads(one)
            self.messages.append(message)
            answer = self.script(message)
            if answer == "close":
                self.hang_up(sock)
            elif isinstance(answer, bytes):
                sock.sendall(answer)
            elif answer is not None:
                self.say(sock, answer)

    @staticmethod
    def say(sock, message):
        sock.sendall(json.dumps(message).encode() + b"\0")


@pytest.fixture
def loop():
    made = Loop()
    made.errors = []
    made.on_error = made.errors.append
    yield made
    assert made.errors == []


@pytest.fixture
def serve(loop, tmp_path):
    made = []

    def start(script, interface="io.graced.Memory"):
        made.append(Daemon(loop, str(tmp_path / interface), script))
        return made[-1]

    yield start
    for daemon in made:
        daemon.down()


@pytest.fixture
def subject(loop, tmp_path):
    made = Links(loop, Paths(tmp_path))
    yield made
    for idle in list(made._idle.values()):
        for link in list(idle):
            link.close()


def echo(message):
    return {"parameters": message["parameters"]}


def ask(loop, subject, timeout_s=60.0, method="io.graced.Memory.Echo", **parameters):
    return loop.run_until(loop.spawn(subject.call(method, parameters, timeout_s)), 90.0)


def test_a_call_and_its_connection_is_kept_for_the_next(loop, serve, subject):
    daemon = serve(echo)
    assert ask(loop, subject, n=1) == {"n": 1}
    assert ask(loop, subject, n=2) == {"n": 2}
    assert len(daemon.accepted) == 1


def together(loop, subject, count, meanwhile=None):
    calls = [{"n": n} for n in range(count)]
    return loop.run_until(loop.spawn(subject.calls("io.graced.Memory.Echo", calls, 60.0, meanwhile)), 90.0)


def test_calls_that_belong_together_arrive_together_and_something_is_done_meanwhile(loop, serve, subject):
    turns, done = [], []
    daemon = serve(lambda message: turns.append(message["parameters"]["n"]) or echo(message))
    loop.after_turn.append(lambda: turns.append("turn"))
    assert together(loop, subject, 3, lambda: done.append(len(daemon.messages))) == [{"n": n} for n in range(3)]
    assert done == [0], "after they were sent, before they were answered"
    assert turns[turns.index(0) : turns.index(0) + 3] == [0, 1, 2]
    assert together(loop, subject, 2) == [{"n": 0}, {"n": 1}]
    assert len(daemon.accepted) == 1


def test_one_refusal_of_calls_that_belong_together_is_raised_when_all_are_answered(loop, serve, subject):
    refusal = {"error": "io.graced.Memory.NoSuchIncident", "parameters": {}}
    daemon = serve(lambda message: refusal if message["parameters"]["n"] == 0 else echo(message))
    for _ in range(2):
        with pytest.raises(VarlinkError):
            together(loop, subject, 3)
    assert len(daemon.messages) == 6
    assert len(daemon.accepted) == 1, "nothing is left unread on it"


def test_what_goes_wrong_meanwhile_is_raised_and_the_connection_not_used_again(loop, serve, subject):
    silent = [True]
    daemon = serve(lambda message: None if silent else echo(message))

    def fail():
        raise StoreError("the disk failed")

    with pytest.raises(StoreError):
        together(loop, subject, 2, fail)
    while len(daemon.messages) < 2:
        loop.run_once(1.0)
    silent.clear()
    assert together(loop, subject, 2) == [{"n": 0}, {"n": 1}]
    assert len(daemon.accepted) == 2


def test_calls_at_the_same_time_have_connections_of_their_own_and_few_are_kept(loop, serve, subject):
    daemon = serve(echo)
    results = loop.run_until(
        loop.spawn(loop.gather(*(subject.call("io.graced.Memory.Echo", {"n": n}, 60.0) for n in range(20))))
    )
    assert results == [{"n": n} for n in range(20)]
    assert len(daemon.accepted) == 20
    for _ in range(30):
        loop.run_once(0)
    assert sum(sock.fileno() >= 0 for sock in daemon.accepted) == links.MAX_IDLE_PER_SOCKET


def test_too_many_calls_at_once_are_refused_and_the_count_comes_down_again(loop, serve, subject):
    serve(lambda _message: None)
    tasks = [loop.spawn(subject.call("io.graced.Memory.Echo", {}, 0.05)) for _ in range(links.MAX_OPEN_PER_SOCKET + 1)]
    for task in tasks:
        task.when_done(lambda _task: None)
    errors = []
    for task in tasks:
        with pytest.raises(WireError) as caught:
            loop.run_until(task)
        errors.append(caught.value)
    assert sum("under way already" in str(error) for error in errors) == 1
    assert sum(isinstance(error, Expired) for error in errors) == links.MAX_OPEN_PER_SOCKET
    assert set(subject._open.values()) == {0}


def test_an_error_reply_is_raised_and_the_connection_still_good(loop, serve, subject):
    daemon = serve(lambda _message: {"error": "io.graced.Memory.NoSuchIncident", "parameters": {"id": "incident_9"}})
    for _ in range(2):
        with pytest.raises(VarlinkError) as caught:
            ask(loop, subject)
        assert (caught.value.name, caught.value.parameters) == ("NoSuchIncident", {"id": "incident_9"})
    assert len(daemon.accepted) == 1


def test_no_daemon_is_an_error_that_names_the_socket_and_what_to_do(loop, subject):
    with pytest.raises(WireError, match=r"io\.graced\.Memory: No such file") as caught:
        ask(loop, subject)
    assert "systemctl status" in caught.value.hint


@pytest.mark.parametrize("answer", ["close", b"no json\0", b"[]\0"])
def test_a_daemon_that_dies_or_speaks_nonsense_is_an_error_and_the_next_call_works(loop, serve, subject, answer):
    answers = [answer]
    serve(lambda message: answers.pop() if answers else echo(message))
    with pytest.raises(WireError, match=r"closed before it answered io\.graced\.Memory\.Echo"):
        ask(loop, subject)
    assert ask(loop, subject, n=2) == {"n": 2}
    assert set(subject._open.values()) == {1}


def test_a_late_answer_is_never_taken_for_the_next_call(loop, serve, subject):
    first = []
    daemon = serve(lambda message: echo(message) if first else first.append(1))
    with pytest.raises(Expired, match=r"io\.graced\.Memory\.Echo at .* took longer than 0\.02 s"):
        ask(loop, subject, 0.02, n=1)
    assert ask(loop, subject, n=2) == {"n": 2}
    assert len(daemon.accepted) == 2


def test_a_kept_connection_that_the_daemon_closed_is_not_used(loop, serve, subject):
    daemon = serve(echo)
    ask(loop, subject, n=1)
    daemon.down()
    for _ in range(3):
        loop.run_once(0)
    daemon.up()
    assert ask(loop, subject, n=2) == {"n": 2}


def test_the_daemon_that_leaves_when_idle_is_not_held_up(loop, serve, subject):
    daemon = serve(echo, "io.graced.Actuator")
    ask(loop, subject, method="io.graced.Actuator.Digest")
    for _ in range(3):
        loop.run_once(0)
    assert daemon.accepted[0].fileno() == -1


def test_cancelling_a_call_closes_its_connection(loop, serve, subject):
    daemon = serve(lambda _message: None)
    task = loop.spawn(subject.call("io.graced.Memory.Echo", {}, 60.0))
    while not daemon.messages:
        loop.run_once(1)
    task.cancel()
    for _ in range(3):
        loop.run_once(0)
    assert daemon.accepted[0].fileno() == -1
    assert set(subject._open.values()) == {0}


class Items:
    """Waits for the items of a stream."""

    def __init__(self, loop):
        self.loop = loop
        self.seen = []
        self._wanted = 0
        self._future = Future()

    def __call__(self, item):
        self.seen.append(item["n"])
        if len(self.seen) >= self._wanted:
            self._future.set_result()

    def wait(self, count):
        self._wanted, self._future = count, Future()
        if len(self.seen) < count:
            self.loop.run_until(self._future, 60.0)
        return self.seen


def stream(loop, tmp_path, items):
    return Stream(loop, str(tmp_path / "io.graced.Memory"), "io.graced.Memory.S", lambda: {"patterns": ["a"]}, items)


def test_a_stream_comes_back_after_its_daemon_did_and_asks_the_same_again(loop, serve, tmp_path):
    daemon = serve(lambda _message: {"parameters": {"n": len(daemon.accepted)}, "continues": True})
    items = Items(loop)
    subject = stream(loop, tmp_path, items)
    subject.start()
    assert items.wait(1) == [1]
    assert subject.connected
    daemon.down()
    while subject.connected:
        loop.run_once(1)
    daemon.up()
    assert items.wait(2) == [1, 2]
    assert daemon.messages == [{"method": "io.graced.Memory.S", "parameters": {"patterns": ["a"]}, "more": True}] * 2
    subject.stop()


def test_a_stream_that_was_never_there_is_found_when_it_comes(loop, serve, tmp_path):
    items = Items(loop)
    subject = stream(loop, tmp_path, items)
    subject.start()
    assert not subject.connected
    assert "No such file" in subject.last_error
    serve(lambda _message: {"parameters": {"n": 1}, "continues": True})
    assert items.wait(1) == [1]
    assert subject.last_error == ""
    subject.stop()


def test_the_pause_grows_to_its_bound_and_is_short_again_after_an_item(loop, tmp_path, monkeypatch):
    pauses = []
    subject = stream(loop, tmp_path, Items(loop))
    monkeypatch.setattr(loop, "call_later", lambda delay_s, _callback: pauses.append(delay_s))
    for _ in range(12):
        subject.start()
    assert pauses[:3] == [0.05, 0.1, 0.2]
    assert pauses[-1] == Stream.LAST_PAUSE_S
    subject._on_reply({"parameters": {"n": 1}, "continues": True})
    subject.start()
    assert pauses[-1] == Stream.FIRST_PAUSE_S


def test_a_refused_or_ended_stream_is_asked_again(loop, serve, tmp_path):
    script = [
        {"parameters": {"n": 3}, "continues": True},
        {"parameters": {"n": 2}},
        {"error": "io.graced.Memory.PermissionDenied", "parameters": {}},
    ]
    serve(lambda _message: script.pop())
    items = Items(loop)
    subject = stream(loop, tmp_path, items)
    subject.start()
    assert items.wait(2) == [2, 3]
    subject.stop()


def test_a_stopped_stream_does_not_come_back(loop, serve, tmp_path):
    daemon = serve(lambda _message: {"parameters": {"n": 1}, "continues": True})
    items = Items(loop)
    subject = stream(loop, tmp_path, items)
    subject.start()
    items.wait(1)
    subject.stop()
    assert not subject.connected
    subject.start()
    quiet = Future()
    loop.call_later(2 * Stream.FIRST_PAUSE_S, quiet.set_result)
    loop.run_until(quiet)
    assert len(daemon.accepted) == 1
