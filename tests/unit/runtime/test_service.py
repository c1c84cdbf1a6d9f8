"""The Varlink service on an in-process loop: order, back-pressure, limits of time and number, draining."""

from __future__ import annotations

import json
import os
import select
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graced.base.errors import FormatError, StoreError
from graced.runtime import connection, service
from graced.runtime.loop import Future, Loop
from graced.runtime.peer import Peer
from graced.runtime.service import READ, Interface, Service
from graced.varlink.wire import VarlinkError

SHARE = os.path.join(os.path.dirname(service.__file__), "..", "share")
NOBODY = Peer(65534, 65534, 1, frozenset(), "uid65534")


class Echo(Interface):
    name = "io.graced.Memory"
    acl = dict.fromkeys(("Echo", "Later", "Big", "Format", "Store", "Bug", "LaterBug", "Stream"), READ) | {
        "Mine": frozenset({"librarian"})
    }
    no_root = frozenset({"Mine"})

    def __init__(self):
        self.later = []
        self.asked = 0

    def Echo(self, call):
        self.asked += 1
        return call.parameters

    def Mine(self, call):
        return call.parameters

    async def Later(self, call):
        future = Future()
        self.later.append(future)
        return {"value": await future, **call.parameters}

    def Big(self, _call):
        self.asked += 1
        return {"text": "x" * (200 << 10)}

    def Format(self, _call):
        raise FormatError("$.a is missing")

    def Store(self, _call):
        raise StoreError("the disk is full", hint="free space")

    def Bug(self, _call):
        return 1 / 0

    async def LaterBug(self, _call):
        raise LookupError("later")

    def Stream(self, call):
        for number in range(3):
            call.reply({"n": number}, continues=number < 2)


class Client:
    """The other end of a connection, which never blocks the loop."""

    def __init__(self, server):
        self.server = server
        self.sock, other = socket.socketpair()
        self.sock.setblocking(False)
        other.setblocking(False)
        self.connection = connection.Connection(server.service, other, server.peer)
        server.service._connections.add(self.connection)
        self.data = b""
        self.ended = False

    def send(self, *messages):
        data = b"".join(json.dumps(one).encode() + b"\0" if isinstance(one, dict) else one for one in messages)
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                self.server.loop.run_once(0)
            except OSError:
                return

    def read(self):
        """What has come; runs the loop until it has nothing left to do at once."""
        quiet = 0
        while quiet < 5:
            self.server.loop.run_once(0)
            quiet += 1
            while not self.ended and select.select([self.sock], [], [], 0)[0]:
                try:
                    chunk = self.sock.recv(1 << 20)
                except ConnectionError:
                    chunk = b""
                if not chunk:
                    self.ended = True
                    break
                self.data += chunk
                quiet = 0
        *messages, self.data = self.data.split(b"\0")
        return [json.loads(one) for one in messages]


class Server:
    def __init__(self):
        self.loop = Loop()
        self.service = Service(self.loop, "graced-test", "0", SHARE)
        self.echo = Echo()
        self.service.add(self.echo)
        self.peer = Peer(1, 1, 1, frozenset({"memory"}), "memory")
        self.clients = []

    def client(self):
        self.clients.append(Client(self))
        return self.clients[-1]

    def close(self):
        for client in self.clients:
            client.sock.close()
            client.connection.close()
        for left in list(self.service._connections):
            left.close()
        self.service.close_listeners()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def call(method, **parameters):
    return {"method": method if "." in method else f"io.graced.Memory.{method}", "parameters": parameters}


def test_pipelined_calls_are_answered_in_order_also_when_one_takes_longer(server):
    client = server.client()
    client.send(call("Later", n=0), *(call("Echo", n=n) for n in range(1, 200)))
    assert client.read() == []
    server.echo.later[0].set_result("done")
    replies = client.read()
    assert [one["parameters"]["n"] for one in replies] == list(range(200))
    assert replies[0]["parameters"]["value"] == "done"


def test_a_stream_is_finished_before_the_next_call(server):
    client = server.client()
    client.send({**call("Stream"), "more": True}, call("Echo", last=1))
    replies = client.read()
    assert [one.get("continues", False) for one in replies] == [True, True, False, False]
    assert replies[-1]["parameters"] == {"last": 1}


def test_oneway_calls_are_done_and_not_answered(server):
    client = server.client()
    client.send({**call("Echo"), "oneway": True}, call("Echo", n=2))
    assert client.read() == [{"parameters": {"n": 2}}]
    assert server.echo.asked == 2


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("nothing", "org.varlink.service.InterfaceNotFound"),
        ("", "org.varlink.service.InterfaceNotFound"),
        ("io.graced.Nothing.At", "org.varlink.service.InterfaceNotFound"),
        ("io.graced.Memory.Nothing", "org.varlink.service.MethodNotFound"),
        ("io.graced.Memory.__init__", "org.varlink.service.MethodNotFound"),
        ("io.graced.Memory.", "org.varlink.service.MethodNotFound"),
        ("io.graced.Memory.Mine", "io.graced.Memory.PermissionDenied"),
        ("io.graced.Memory.Format", "io.graced.Memory.InvalidRequest"),
        ("io.graced.Memory.Store", "io.graced.Memory.Unavailable"),
        ("io.graced.Memory.Bug", "io.graced.Memory.Unavailable"),
        ("io.graced.Memory.LaterBug", "io.graced.Memory.Unavailable"),
    ],
)
def test_every_failure_has_its_error_and_the_connection_lives(server, method, error, capsys):
    client = server.client()
    client.send({"method": method}, call("Echo", alive=True))
    failed, alive = client.read()
    assert failed["error"] == error
    assert alive == {"parameters": {"alive": True}}
    bug = method.endswith("Bug")
    assert server.service.internal_errors == bug
    assert ("Traceback" in capsys.readouterr().err) == bug


def test_a_peer_without_a_role_gets_permission_denied_everywhere(server):
    server.peer = NOBODY
    client = server.client()
    client.send(call("Echo"), call("org.varlink.service.GetInfo"))
    first, second = client.read()
    assert first["error"] == "io.graced.Memory.PermissionDenied"
    assert first["parameters"]["method"] == "io.graced.Memory.Echo"
    assert "root" in first["parameters"]["needed"]
    assert second["error"] == "org.varlink.service.PermissionDenied"
    assert server.echo.asked == 0


def test_who_is_refused_is_said_once_and_counted(server, capsys):
    server.peer = NOBODY
    client = server.client()
    client.send(*[call("Echo")] * 50, call("Mine"))
    client.read()
    lines = [line for line in capsys.readouterr().err.splitlines() if "is refused to" in line]
    assert len(lines) == 2
    assert f"io.graced.Memory.Echo is refused to {NOBODY.name} (uid {NOBODY.uid}, pid {NOBODY.pid})" in lines[0]
    assert "49 more were refused without a word" in lines[1]


def test_root_may_what_is_not_kept_from_root(server):
    server.peer = Peer(0, 0, 1, frozenset({"root"}), "root")
    client = server.client()
    client.send(call("Echo"), call("Mine"))
    assert [one.get("error") for one in client.read()] == [None, "io.graced.Memory.PermissionDenied"]


@pytest.mark.parametrize(
    "bytes_",
    [b"\0", b"{\0", b"[]\0", b"\xff\xfe\0", b'{"method":1}\0', b'{"method":"a.B","parameters":[]}\0', b"x" * (2 << 20)],
)
def test_what_is_no_call_is_refused_after_the_answers_before_it_and_the_connection_ends(server, bytes_):
    client, other = server.client(), server.client()
    client.send(call("Echo", n=1))
    server.loop.run_once(0)
    client.send(bytes_)
    replies = client.read()
    assert replies[0] == {"parameters": {"n": 1}}
    assert replies[1]["error"] == "org.varlink.service.InvalidParameter"
    assert replies[1]["parameters"]["parameter"]
    assert client.ended
    other.send(call("Echo", n=2))
    assert other.read() == [{"parameters": {"n": 2}}]


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\0", b'{"method":"io.graced.Memory.Echo"}\0']), max_size=8))
def test_no_bytes_disturb_anyone_else(chunks):
    server = Server()
    try:
        hostile, other = server.client(), server.client()
        for chunk in chunks:
            hostile.send(chunk)
            server.loop.run_once(0)
        hostile.read()
        other.send(call("Echo", n=2))
        assert other.read() == [{"parameters": {"n": 2}}]
        assert server.service.internal_errors == 0
    finally:
        server.close()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(["method", "parameters", "more", "oneway", "upgrade", "x"]), _JSON))
def test_any_json_object_is_answered_or_refused(message):
    server = Server()
    try:
        client = server.client()
        client.send(message)
        replies = client.read()
        if message.get("oneway") is not True or client.ended:
            assert len(replies) == 1
            assert replies[0]["error"].startswith("org.varlink.service.")
        assert server.service.internal_errors == 0
    finally:
        server.close()


def test_a_peer_that_does_not_read_gets_no_more_work_done_and_goes_on_when_it_reads(server):
    client = server.client()
    client.send(*(call("Big") for _ in range(100)))
    for _ in range(50):
        server.loop.run_once(0)
    high = connection.HIGH_WATER_BYTES + (201 << 10)
    assert client.connection.unsent_bytes <= high
    assert 0 < server.echo.asked < 20
    assert len(client.read()) == server.echo.asked == 100
    client.send(call("Echo", n=1))
    assert client.read() == [{"parameters": {"n": 1}}]


def test_a_peer_that_only_sends_stops_being_read(server):
    client = server.client()
    client.send(call("Later"))
    server.loop.run_once(0)
    sent = 0
    message = json.dumps(call("Echo")).encode() + b"\0"
    while sent < 20 << 20:
        try:
            sent += client.sock.send(message * 100)
        except BlockingIOError:
            before = sent
            server.loop.run_once(0)
            server.loop.run_once(0)
            try:
                sent += client.sock.send(message * 100)
            except BlockingIOError:
                assert sent == before
                break
    assert sent < 2 << 20
    server.echo.later[0].set_result(1)
    assert len(client.read()) > connection.MAX_QUEUED_CALLS


def test_a_stream_that_nobody_reads_is_cut_off(server):
    client = server.client()
    client.send({**call("Later"), "more": True})
    server.loop.run_once(0)
    current = client.connection._current
    for _ in range(100):
        current.reply({"text": "x" * (200 << 10)}, continues=True)
        server.loop.run_once(0)
    assert client.connection.closed
    assert client.connection.unsent_bytes <= connection.MAX_OUTPUT_BYTES + (1 << 20)


def test_one_peers_calls_leave_room_for_others_in_every_turn(server, monkeypatch):
    monkeypatch.setattr(connection, "SLICE_SECONDS", 0.0)
    greedy, other = server.client(), server.client()
    greedy.send(*(call("Echo", n=n) for n in range(1000)))
    other.send(call("Echo", n="other"))
    for _ in range(4):
        server.loop.run_once(0)
    assert server.echo.asked < 10
    assert other.read()[0]["parameters"] == {"n": "other"}


def test_a_message_that_does_not_end_is_ended_also_when_a_byte_comes_now_and_then(server, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(server.loop, "now_s", lambda: now_s[0])
    slow, quick = server.client(), server.client()
    slow.send(b'{"method"')
    server.loop.run_once(0)
    for _ in range(6):
        now_s[0] += service.HALF_MESSAGE_SECONDS / 5
        slow.send(b" ")
        quick.send(b'{"method":', b'"io.graced.Memory.Echo"}\0{')
        server.loop.run_once(0)
    server.service._reap()
    (refused,) = slow.read()
    assert refused["error"] == "org.varlink.service.InvalidParameter"
    assert "did not end within 10 s" in refused["parameters"]["parameter"]
    assert slow.ended
    assert not quick.ended


def listen(server, path):
    server.service.listen(service.listen_unix(str(path)))


def test_connections_per_account_are_limited_and_free_again(server, tmp_path, monkeypatch):
    path = str(tmp_path / "s" / "socket")
    listen(server, path)
    monkeypatch.setattr(server.service, "_limit_per_uid", 3)
    socks = []

    def connect():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        server.loop.run_once(1)
        socks.append(sock)
        return sock

    for _ in range(3):
        connect()
    assert connect().recv(1) == b""
    assert (server.service.connection_count, server.service.refused) == (3, 1)
    socks.pop(0).close()
    server.loop.run_once(1)
    connect()
    assert server.service.connection_count == 3
    for sock in socks:
        sock.close()


def test_without_free_descriptors_the_listener_pauses_instead_of_spinning(server, tmp_path, monkeypatch):
    path = str(tmp_path / "socket")
    listen(server, path)
    (listener,) = server.service._listeners
    tried, later = [], []

    def exhausted(_listener):
        tried.append(1)
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(service, "accept", exhausted)
        patched.setattr(server.loop, "call_later", lambda _seconds, callback: later.append(callback))
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        server.service._accept(listener)
        for _ in range(20):
            server.loop.run_once(0)
        assert len(tried) == len(later) == 1
    later.pop()()
    server.loop.run_until(_when(server, lambda: server.service.connection_count == 1), 60.0)
    sock.close()


def _when(server, condition):
    future = Future()
    server.loop.after_turn.append(lambda: condition() and future.set_result())
    return future


def test_the_limit_leaves_descriptors_for_the_daemon_itself(server):
    assert server.service._limit <= max(64, os.sysconf("SC_OPEN_MAX") - service.SPARE_FILES)
    assert server.service._limit_per_uid < server.service._limit


def test_busy_means_an_unanswered_call_or_an_unread_reply_but_not_an_idle_stream(server):
    client, streaming = server.client(), server.client()
    assert not server.service.busy
    streaming.send({**call("Later"), "more": True})
    server.loop.run_once(0)
    assert not server.service.busy
    client.send(call("Later"))
    server.loop.run_once(0)
    server.loop.run_once(0)
    assert server.service.busy
    server.echo.later[1].set_result(1)
    assert len(client.read()) == 1
    assert not server.service.busy
    client.send(*(call("Big") for _ in range(5)))
    server.loop.run_once(0)
    assert server.service.busy


def test_an_answer_of_this_turn_can_be_withdrawn(server):
    calls = []
    server.echo.Echo = lambda one: calls.append(one) or {"kept": True}
    server.service.before_flush.append(
        lambda: calls and calls.pop().withdraw(VarlinkError("io.graced.Memory.Unavailable", {"reason": "disk"}))
    )
    client = server.client()
    client.send(call("Echo"))
    assert client.read() == [{"error": "io.graced.Memory.Unavailable", "parameters": {"reason": "disk"}}]
    assert client.connection.unsent_bytes == 0


def test_what_a_hook_pushes_leaves_before_the_answers(server, monkeypatch):
    streams, order = [], []
    server.echo.Stream = streams.append
    worker, client = server.client(), server.client()
    worker.send({**call("Stream"), "more": True})
    server.loop.run_once(0)
    server.service.before_flush.append(lambda: server.echo.asked and streams and streams.pop().push(['{"lease":1}']))
    end_turn = connection.Connection.end_turn
    monkeypatch.setattr(connection.Connection, "end_turn", lambda one: order.append(one) or end_turn(one))
    client.send(call("Echo"))
    assert client.read() == [{"parameters": {}}]
    assert order == [worker.connection, client.connection]


def test_introspection_gives_every_interface(server):
    client = server.client()
    client.send(
        call("org.varlink.service.GetInfo"),
        call("org.varlink.service.GetInterfaceDescription", interface="io.graced.Memory"),
        call("org.varlink.service.GetInterfaceDescription", interface="org.varlink.service"),
        call("org.varlink.service.GetInterfaceDescription", interface="io.graced.Nothing"),
        call("org.varlink.service.GetInterfaceDescription"),
        call("org.varlink.service.GetInterfaceDescription", interface="../../../etc/passwd"),
    )
    info, memory, own, *missing = client.read()
    assert info["parameters"]["interfaces"] == ["io.graced.Memory", "org.varlink.service"]
    assert "interface io.graced.Memory" in memory["parameters"]["description"]
    assert "interface org.varlink.service" in own["parameters"]["description"]
    assert {one["error"] for one in missing} == {"org.varlink.service.InterfaceNotFound"}


def test_nobody_is_listened_to_after_close_listeners(server, tmp_path):
    path = str(tmp_path / "socket")
    listen(server, path)
    server.service.close_listeners()
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(path)
