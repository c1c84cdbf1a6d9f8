"""Probes against real sockets of this process, driven by the real loop."""

from __future__ import annotations

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import HostError
from graced.host import probe
from graced.host.probe import Probe, ProbeSpec
from graced.runtime.loop import Future, Loop

OPEN = []


class Server:
    """A listener on the loop: answers every connection with `answer` after it read something (or at once)."""

    def __init__(self, loop, sock, answer, *, greet=False, close=True):
        self.loop, self.sock, self.answer, self.greet, self.close = loop, sock, answer, greet, close
        self.heard, self.connections = b"", []
        OPEN.append(self)
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self.accept)

    def accept(self):
        connection, _ = self.sock.accept()
        connection.setblocking(False)
        self.connections.append(connection)
        if self.greet:
            connection.sendall(self.answer)
        else:
            self.loop.add_reader(connection.fileno(), lambda: self.read(connection))

    def read(self, connection):
        data = connection.recv(65536)
        self.heard += data
        self.loop.remove_reader(connection.fileno())
        if data and self.answer is not None:
            connection.sendall(self.answer)
            if self.close:
                connection.close()


@pytest.fixture(autouse=True)
def no_connection_left():
    yield
    for server in OPEN:
        for connection in server.connections:
            connection.close()
        server.sock.close()
    OPEN.clear()


@pytest.fixture
def tcp():
    sock = socket.create_server(("127.0.0.1", 0))
    yield sock, f"127.0.0.1:{sock.getsockname()[1]}"
    sock.close()


def run(loop, spec):
    if spec.timeout_s == ProbeSpec("tcp", spec.address).timeout_s:
        spec = spec.replace(timeout_s=60.0)
    future = Future()
    Probe(loop, spec, future.set_result).start()
    return loop.run_until(future, 90.0)


def test_http_ok(tcp):
    loop = Loop()
    server = Server(loop, tcp[0], b"HTTP/1.1 404 Not Found\r\n\r\n")
    result = run(loop, ProbeSpec("http", tcp[1], path="/health"))
    assert result.ok is True
    assert result.error == ""
    assert 0 <= result.latency_ms < 60_000
    assert server.heard.startswith(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")


def test_http_wrong_status(tcp):
    loop = Loop()
    Server(loop, tcp[0], b"HTTP/1.0 503 Busy\r\n\r\n")
    result = run(loop, ProbeSpec("http", tcp[1]))
    assert (result.ok, result.error) == (False, "HTTP status 503, expected 200-499")


def test_http_of_something_else(tcp):
    loop = Loop()
    Server(loop, tcp[0], b"SSH-2.0-OpenSSH\r\n")
    assert run(loop, ProbeSpec("http", tcp[1])).ok is False


def test_an_accepted_connection_that_says_nothing_is_a_hang(tcp):
    loop = Loop()
    Server(loop, tcp[0], None)
    result = run(loop, ProbeSpec("http", tcp[1], timeout_s=0.03))
    assert (result.ok, result.error) == (False, "no answer within 30 ms")


def test_a_stopped_process_still_has_its_backlog(tcp):
    # Nobody accepts, yet the kernel completes the connection: only the missing answer gives it away.
    result = run(Loop(), ProbeSpec("tcp", tcp[1], send="PING\r\n", expect="PONG", timeout_s=0.03))
    assert (result.ok, result.error) == (False, "no answer within 30 ms")


def test_refused_is_no_answer():
    # bound, so that nobody else can have the port, and not listening
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        result = run(Loop(), ProbeSpec("tcp", f"127.0.0.1:{sock.getsockname()[1]}"))
    assert (result.ok, result.error) == (False, "Connection refused")


def test_tcp_send_expect(tcp):
    loop = Loop()
    server = Server(loop, tcp[0], b"+PONG\r\n", close=False)
    assert run(loop, ProbeSpec("tcp", tcp[1], send="PING\r\n", expect="+PONG")).ok is True
    assert server.heard == b"PING\r\n"


def test_tcp_banner_without_send(tcp):
    loop = Loop()
    Server(loop, tcp[0], b"220 ready\r\n", greet=True)
    assert run(loop, ProbeSpec("tcp", tcp[1], expect="220")).ok is True


def test_tcp_wrong_answer_at_end(tcp):
    loop = Loop()
    Server(loop, tcp[0], b"-LOADING\r\n")
    result = run(loop, ProbeSpec("tcp", tcp[1], send="PING\r\n", expect="+PONG"))
    assert result.ok is False
    assert "LOADING" in result.error


def test_an_endless_answer_is_cut_off(tcp):
    loop = Loop()
    Server(loop, tcp[0], b"x" * (probe.MAX_ANSWER_BYTES + 5), greet=True)
    result = run(loop, ProbeSpec("tcp", tcp[1], expect="never"))
    assert result.ok is False


def test_connect_only(tcp):
    assert run(Loop(), ProbeSpec("tcp", tcp[1])).ok is True


def test_unix(tmp_path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    loop = Loop()
    Server(loop, sock, b"ok")
    assert run(loop, ProbeSpec("unix", str(tmp_path / "s"), send="?", expect="ok")).ok is True
    sock.close()


def test_unix_nobody_there(tmp_path):
    result = run(Loop(), ProbeSpec("unix", str(tmp_path / "none")))
    assert (result.ok, result.error) == (False, "No such file or directory")


def test_unix_full_backlog_is_a_fault_of_the_daemon(tmp_path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen(0)
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(tmp_path / "s"))
    result = run(Loop(), ProbeSpec("unix", str(tmp_path / "s")))
    assert (result.ok, result.error) == (False, "its connection queue is full")
    first.close()
    sock.close()


def test_no_rights_is_unknown_not_a_fault(tcp, monkeypatch):
    class Forbidden(socket.socket):
        def connect_ex(self, _address):
            return errno.EACCES

    monkeypatch.setattr(probe, "Socket", Forbidden)
    result = run(Loop(), ProbeSpec("tcp", tcp[1]))
    assert (result.ok, result.error) == (None, "Permission denied")


def test_cancelled_it_never_calls_back(tcp):
    loop, results = Loop(), []
    running = Probe(loop, ProbeSpec("tcp", tcp[1], expect="x", timeout_s=0.01), results.append)
    running.start()
    running.cancel()
    running.cancel()
    after = Future()
    loop.call_later(0.03, after.set_result)
    loop.run_until(after)
    assert not results


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("tcp", "192.0.2.1:80"),
        ("tcp", "example.org:80"),
        ("http", "0.0.0.0:80"),
        ("tcp", "127.0.0.1"),
        ("tcp", "127.0.0.1:0"),
        ("tcp", "127.0.0.1:65536"),
        ("tcp", "127.0.0.1:٣"),
        ("tcp", "[2001:db8::1]:80"),
        ("unix", "relative"),
        ("unix", "/" + "x" * 107),
        ("unix", "/a\0b"),
    ],
)
def test_addresses_that_are_refused(kind, address):
    with pytest.raises(HostError):
        probe.parse_address(kind, address)


@pytest.mark.parametrize("address", ["127.0.0.1:80", "127.8.8.8:1", "localhost:65535", "[::1]:80", "::1:80"])
def test_addresses_on_this_host(address):
    probe.parse_address("tcp", address)


@given(st.sampled_from(["tcp", "unix", "http"]), st.text(max_size=120))
def test_any_address_is_accepted_or_refused(kind, address):
    try:
        family, _ = probe.parse_address(kind, address)
    except HostError:
        return
    assert family in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}


@given(st.binary(max_size=300), st.integers(0, 300))
def test_http_answers_are_judged_the_same_in_pieces(answer, cut):
    spec = ProbeSpec("http", "127.0.0.1:80")
    whole = probe.judge(spec, answer, ended=True)
    part = probe.judge(spec, answer[:cut], ended=False)
    assert whole[0] is not None
    assert part[0] is None or part[0] == whole[0]
