"""A very small HTTP/1.1 server on the daemon's loop: GET and HEAD of a few pages, one request per connection.

It takes listening sockets that systemd opened. Every connection is bounded in size and time and is closed after its
answer, so a slow or broken client costs one descriptor for a few seconds and nothing else. RFC 9112 as far as needed.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.base.sockets import SHUT_WR, Socket, accept
from graced.runtime.loop import Cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from graced.runtime.loop import Future, Loop, Task

MAX_REQUEST_BYTES = 8192
MAX_CONNECTIONS = 32
REQUEST_SECONDS = 5.0
ANSWER_SECONDS = 15.0

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Request(Record):
    """A parsed request line and its headers (names in lower case)."""

    method: str
    path: str
    headers: dict[str, str]


class Response(Record):
    """What to send back."""

    status: int
    content_type: str
    body: bytes


def text(status: int, message: str) -> Response:
    """A plain page of one line."""
    return Response(status, "text/plain; charset=utf-8", f"{message}\n".encode())


def parse_request(head: bytes) -> Request | None:
    """The head of a request (without the empty line); None when it is not HTTP/1.x."""
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
        return None
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return None
        headers[name.lower()] = value.strip()
    return Request(parts[0], parts[1].partition("?")[0], headers)


def render(response: Response, *, head_only: bool) -> bytes:
    """The bytes of an answer; the connection closes after it."""
    allow = "Allow: GET, HEAD\r\n" if response.status == 405 else ""
    head = (
        f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"{allow}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if head_only else response.body)


class _Connection:
    def __init__(self, server: Server, sock: Socket) -> None:
        self._server = server
        self._loop = server.loop
        self._socket = sock
        self._input = bytearray()
        self._output = b""
        self._task: Task | None = None
        self._closed = False
        self._timer = self._loop.call_later(REQUEST_SECONDS, self._too_slow)
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._input += data
        head, found, _body = bytes(self._input).partition(b"\r\n\r\n")
        if len(head) > MAX_REQUEST_BYTES:
            self._send(text(431, "the request is too large"))
        elif found:
            self._answer(parse_request(head))

    def _answer(self, request: Request | None) -> None:
        self._loop.remove_reader(self._socket.fileno())
        if request is None:
            self._send(text(400, "not an HTTP/1.1 request"))
        elif request.method not in {"GET", "HEAD"}:
            self._send(text(405, "only GET and HEAD"))
        else:
            self._timer.cancel()
            self._timer = self._loop.call_later(ANSWER_SECONDS, self.close)
            head_only = request.method == "HEAD"
            self._task = self._loop.spawn(self._server.handler(request))
            self._task.when_done(lambda task: self._served(task, head_only=head_only))

    def _served(self, task: Future, *, head_only: bool) -> None:
        try:
            response = task.result()
        except Cancelled:
            return
        except Exception:
            # The client gets its answer, the loop's owner the error.
            self._send(text(500, "the exporter failed; see its journal"))
            raise
        self._send(response, head_only=head_only)

    def _too_slow(self) -> None:
        self._send(text(408, f"no complete request in {REQUEST_SECONDS:g} s"))

    def _send(self, response: Response, *, head_only: bool = False) -> None:
        if self._closed:
            return
        self._timer.cancel()
        self._timer = self._loop.call_later(REQUEST_SECONDS, self.close)
        self._loop.remove_reader(self._socket.fileno())
        self._output = render(response, head_only=head_only)
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._output = self._output[sent:]
        if self._output:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        else:
            self._finish()

    def _finish(self) -> None:
        # Closing with unread input would reset the connection and take the answer with it.
        self._loop.remove_writer(self._socket.fileno())
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError:
            self.close()
            return
        self._loop.add_reader(self._socket.fileno(), self._drain)

    def _drain(self) -> None:
        try:
            data = self._socket.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        if self._task is not None:
            self._task.cancel()
        self._server.forget(self)


class Server:
    """Accepts on given listening sockets and asks `handler` for each page."""

    def __init__(self, loop: Loop, handler: Callable[[Request], Coroutine[Any, Any, Response]]) -> None:
        self.loop = loop
        self.handler = handler
        self.refused = 0
        self._listeners: list[Socket] = []
        self._connections: set[_Connection] = set()

    def listen(self, sock: Socket) -> None:
        """Accept on `sock`, a listening stream socket."""
        sock.settimeout(0)
        self._listeners.append(sock)
        self.loop.add_reader(sock.fileno(), lambda: self._accept(sock))

    def _accept(self, listener: Socket) -> None:
        for _ in range(MAX_CONNECTIONS):
            try:
                sock = accept(listener)
            except OSError:
                # BlockingIOError: none left. Out of descriptors: the next turn tries again.
                return
            if len(self._connections) >= MAX_CONNECTIONS:
                self.refused += 1
                sock.close()
                continue
            sock.settimeout(0)
            self._connections.add(_Connection(self, sock))

    @property
    def connection_count(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def forget(self, connection: _Connection) -> None:
        """A connection has closed."""
        self._connections.discard(connection)

    def close_listeners(self) -> None:
        """Take no new connections; systemd keeps the socket."""
        for sock in self._listeners:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()
