"""Does a daemon answer? Non-blocking http, tcp (send/expect) and unix probes, to this host only.

A probe is one connection: connect, send, read until the answer is decided, close. It never blocks, reads at most
MAX_ANSWER_BYTES and always ends within its timeout. The result's `ok` is True (it answered as expected), False (it
did not: refused, silent, wrong answer) or None (it could not be tried: no rights, no descriptors here): None is
unknown, never healthy and never a fault of the daemon.

Only loopback addresses and unix sockets are accepted, so a profile cannot turn the prober into a scanner. Used by
the Infrastructure kernel (hangs) and by Verification (verdicts).
"""

from __future__ import annotations

import errno
import time

from graced.base.errors import HostError
from graced.base.record import Record
from graced.base.sockets import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    SO_ERROR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    Socket,
    inet_pton,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.host.reactor import Reactor, Timer

MAX_ANSWER_BYTES = 64 * 1024
# Errors that say something about this process or host, not about the probed daemon.
_NOT_ITS_FAULT = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
    }
)


class ProbeSpec(Record):
    """What to ask. kind: http, tcp or unix; address: "127.0.0.1:80", "[::1]:80" or a socket path.

    tcp and unix: `send` may be empty; `expect` must occur in the answer (empty: a connection is enough).
    http: GET `path`; a status within `status_low`..`status_high` is expected.
    """

    kind: str
    address: str
    send: str = ""
    expect: str = ""
    path: str = "/"
    status_low: int = 200
    status_high: int = 499
    timeout_s: float = 1.0


class ProbeResult(Record):
    """ok: True, False or None (unknown); latency_ms up to the decision; error says why it is not True."""

    ok: bool | None
    latency_ms: float
    error: str


def parse_address(kind: str, address: str) -> tuple[int, tuple[str, int] | str]:
    """The socket family and address of a probe. Raises HostError when it is not on this host."""
    if kind == "unix":
        if not address.startswith("/") or len(address.encode()) > 107 or "\0" in address:
            raise HostError(f"{address!r} is not an absolute socket path of at most 107 bytes")
        return AF_UNIX, address
    host, colon, port_text = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if host == "localhost":
        host = "127.0.0.1"
    port = int(port_text) if port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 else 0
    if not colon or not 0 < port < 65536:
        raise HostError(f"{address!r} is not host:port")
    try:
        if ":" in host:
            packed = inet_pton(AF_INET6, host)
            family, local = AF_INET6, packed == b"\0" * 15 + b"\1"
        else:
            packed = inet_pton(AF_INET, host)
            family, local = AF_INET, packed[0] == 127
    except OSError as problem:
        raise HostError(f"{host!r} is not an IP address") from problem
    if not local:
        raise HostError(f"{host} is not a loopback address: probes stay on this host")
    return family, (host, port)


def request_bytes(spec: ProbeSpec) -> bytes:
    """What the probe sends."""
    if spec.kind != "http":
        return spec.send.encode()
    host = spec.address.rpartition(":")[0] or "localhost"
    return (
        f"GET {spec.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: graced\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    ).encode()


def judge(spec: ProbeSpec, answer: bytes, *, ended: bool) -> tuple[bool | None, str]:
    """Whether the bytes read so far decide the probe: (True, "") or (False, why); (None, "") = read on."""
    if spec.kind == "http":
        return _judge_http(spec, answer, ended=ended)
    if spec.expect.encode() in answer:
        return True, ""
    if ended or len(answer) >= MAX_ANSWER_BYTES:
        return False, f"answer without {spec.expect!r}: {_printable(answer)}"
    return None, ""


def _judge_http(spec: ProbeSpec, answer: bytes, *, ended: bool) -> tuple[bool | None, str]:
    line, newline, _rest = answer.partition(b"\n")
    if not newline and not ended and len(answer) < 1024 and b"HTTP/"[: len(answer)] == answer[:5]:
        return None, ""
    words = line.split()
    status = words[1] if len(words) > 1 and words[0].startswith(b"HTTP/") else b""
    if not newline or len(status) != 3 or not status.isdigit():
        return False, f"no HTTP status line: {_printable(answer)}"
    if spec.status_low <= int(status) <= spec.status_high:
        return True, ""
    return False, f"HTTP status {int(status)}, expected {spec.status_low}-{spec.status_high}"


def _printable(answer: bytes) -> str:
    return repr(answer[:60].decode("ascii", "replace")) if answer else "nothing"


class Probe:
    """One running probe. `start` it once; `done(result)` is called exactly once, unless it is cancelled."""

    def __init__(self, reactor: Reactor, spec: ProbeSpec, done: Callable[[ProbeResult], None]) -> None:
        self._reactor = reactor
        self._spec = spec
        self._done: Callable[[ProbeResult], None] | None = done
        self._sock: Socket | None = None
        self._timer: Timer | None = None
        self._output = request_bytes(spec)
        self._answer = bytearray()
        self._started_s = 0.0
        self._phase = "connect"

    def start(self) -> None:
        """Begin. Raises HostError for an address that is not on this host."""
        family, address = parse_address(self._spec.kind, self._spec.address)
        self._started_s = time.monotonic()
        self._timer = self._reactor.call_later(self._spec.timeout_s, self._timed_out)
        try:
            self._sock = Socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
            code = self._sock.connect_ex(address)
        except OSError as problem:
            code = problem.errno or errno.EIO
        if code == errno.EAGAIN:
            # A unix listener whose backlog is full: nobody accepts there. That is an answer about the daemon.
            self._reactor.call_later(0.0, lambda: self._finish(ok=False, error="its connection queue is full"))
        elif code not in {0, errno.EINPROGRESS}:
            self._reactor.call_later(0.0, lambda: self._failed(code))
        elif self._sock is not None:
            self._reactor.add_writer(self._sock.fileno(), self._on_writable)

    def cancel(self) -> None:
        """Stop without a result; harmless when it is over."""
        self._done = None
        self._release()

    def _on_writable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        if self._phase == "connect":
            code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
            if code:
                self._failed(code)
                return
            self._phase = "send"
        try:
            sent = sock.send(self._output) if self._output else 0
        except BlockingIOError:
            return
        except OSError as problem:
            self._failed(problem.errno or errno.EIO)
            return
        self._output = self._output[sent:]
        if self._output:
            return
        self._reactor.remove_writer(sock.fileno())
        self._phase = "read"
        if self._spec.kind != "http" and not self._spec.expect:
            self._finish(ok=True)
        else:
            self._reactor.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(min(16384, MAX_ANSWER_BYTES - len(self._answer)))
        except BlockingIOError:
            return
        except OSError as problem:
            self._failed(problem.errno or errno.EIO)
            return
        self._answer += data
        ok, error = judge(self._spec, bytes(self._answer), ended=not data)
        if ok is not None:
            self._finish(ok=ok, error=error)

    def _timed_out(self) -> None:
        waited_for = {"connect": "connection", "send": "request to be read", "read": "answer"}[self._phase]
        self._finish(ok=False, error=f"no {waited_for} within {self._spec.timeout_s * 1000:g} ms")

    def _failed(self, code: int) -> None:
        import os

        self._finish(ok=None if code in _NOT_ITS_FAULT else False, error=os.strerror(code))

    def _finish(self, *, ok: bool | None, error: str = "") -> None:
        done, self._done = self._done, None
        self._release()
        if done is not None:
            done(ProbeResult(ok=ok, latency_ms=round((time.monotonic() - self._started_s) * 1000, 3), error=error))

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self._reactor.remove_reader(sock.fileno())
            self._reactor.remove_writer(sock.fileno())
            sock.close()
