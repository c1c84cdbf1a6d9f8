"""The HTTP server: pages, bounds, and nothing left open."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.exporter import http
from graced.exporter.http import Request, Response, Server, parse_request, render
from graced.runtime.loop import Loop


@pytest.fixture
def served():
    """A loop, a server on a free loopback port, and a client factory."""
    loop = Loop()

    async def handler(request: Request) -> Response:
        if request.path == "/broken":
            raise ZeroDivisionError
        return Response(200, "text/plain", request.path.encode() * (1 if request.path == "/x" else 300_000))

    server = Server(loop, handler)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server.listen(listener)
    clients = []

    def connect() -> socket.socket:
        client = socket.create_connection(address)
        client.setblocking(False)
        clients.append(client)
        return client

    yield loop, server, connect
    for client in clients:
        client.close()
    settle(loop, server)
    server.close_listeners()


def talk(loop: Loop, client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    got = bytearray()
    for _ in range(2000):
        loop.run_once(0.05)
        try:
            chunk = client.recv(1 << 20)
        except BlockingIOError:
            continue
        if not chunk:
            return bytes(got)
        got += chunk
    raise AssertionError("the server did not close the connection")


def settle(loop: Loop, server: Server) -> None:
    for _ in range(50):
        if server.connection_count == 0:
            return
        loop.run_once(0.05)
    raise AssertionError("a connection stayed open")


def test_get_answers_and_closes(served) -> None:
    loop, server, connect = served
    client = connect()
    answer = talk(loop, client, b"GET /x?a=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n/x")
    client.close()
    settle(loop, server)


def test_head_has_the_length_and_no_body(served) -> None:
    loop, _server, connect = served
    answer = talk(loop, connect(), b"HEAD /x HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 2\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_page_larger_than_the_socket_buffer_arrives_whole(served) -> None:
    loop, _server, connect = served
    answer = talk(loop, connect(), b"GET /yy HTTP/1.0\r\n\r\n")
    assert len(answer.partition(b"\r\n\r\n")[2]) == 900_000


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /x HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /x HTTP/2\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nA: " + b"a" * 9000, 431),
    ],
)
def test_bad_requests_get_an_answer(served, data: bytes, status: int) -> None:
    loop, _server, connect = served
    assert talk(loop, connect(), data).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_failing_page_is_500_and_the_error_reaches_the_loop(served) -> None:
    loop, _server, connect = served
    errors: list[BaseException] = []
    loop.on_error = errors.append
    assert talk(loop, connect(), b"GET /broken HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_a_client_that_never_finishes_its_request_is_told_so(served, monkeypatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.05)
    loop, _server, connect = served
    assert talk(loop, connect(), b"GET /x HT").startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_close_is_cut_off(served, monkeypatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.05)
    loop, server, connect = served
    talk(loop, connect(), b"GET /x HTTP/1.1\r\n\r\n")
    settle(loop, server)


def test_too_many_connections_are_refused_and_counted(served, monkeypatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    loop, server, connect = served
    for _ in range(3):
        connect()
    for _ in range(5):
        loop.run_once(0.02)
    assert (server.connection_count, server.refused) == (2, 1)


@given(st.binary(max_size=300))
def test_any_head_is_parsed_or_refused(head: bytes) -> None:
    request = parse_request(head)
    assert request is None or request.path.startswith("/")


@given(st.sampled_from([200, 404, 503]), st.binary(max_size=100))
def test_the_length_is_the_length(status: int, body: bytes) -> None:
    head, _, sent = render(Response(status, "text/plain", body), head_only=False).partition(b"\r\n\r\n")
    assert sent == body
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
