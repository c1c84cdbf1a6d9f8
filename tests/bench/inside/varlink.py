"""A small Varlink client: pipelining and streams, a stamp per message, nothing of graced's own code."""

from __future__ import annotations

import json
import select
import socket
from typing import Any

from inside.host import now_us

Json = dict[str, Any]
SERVED_BY = {"Bus": "Supervisor", "HTM": "Supervisor", "Ledger": "Supervisor"}


class Wire:
    """One connection; messages are JSON objects that end with a NUL byte."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        name = interface.rpartition(".")[2]
        self._socket.connect(f"/run/graced/io.graced.{SERVED_BY.get(name, name)}")
        self._rest = b""
        # One buffer: a new one of this size is mapped, and unmapped, for each reply.
        self._buffer = bytearray(1 << 20)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, *messages: Json) -> None:
        """Calls, in one write where the socket takes it."""
        self._socket.sendall(b"".join(json.dumps(one).encode() + b"\0" for one in messages))

    def receive(self, timeout_s: float) -> list[Json]:
        """The messages that are there; waits for the first. Empty after `timeout_s`."""
        while select.select([self._socket], [], [], timeout_s)[0]:
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise ConnectionError("the daemon closed the connection")
            *whole, self._rest = (self._rest + self._buffer[:count]).split(b"\0")
            if whole:
                return [good(json.loads(one)) for one in whole]
        return []

    def call(self, method: str, parameters: Json, timeout_s: float = 10.0) -> Json:
        """One call, one reply."""
        self.send({"method": method, "parameters": parameters})
        reply = self.receive(timeout_s)
        if len(reply) != 1:
            raise TimeoutError(f"{method}: {len(reply)} replies in {timeout_s} s")
        return dict(reply[0].get("parameters") or {})

    def timed(self, method: str, parameters: Json) -> float:
        """How long one call takes, in ms."""
        since_us = now_us()
        self.call(method, parameters)
        return (now_us() - since_us) / 1000


def good(message: Json) -> Json:
    """The message, or an exception for an error reply."""
    if "error" in message:
        raise RuntimeError(f"{message['error']}: {message.get('parameters')}")
    return message
