"""The two connections of a worker: the Work stream, which its leases live on, and control, for everything it says.

A supervisor that is gone is waited for with growing pauses, drawn at random so that a host's workers do not come
back all at once ("full jitter", Exponential Backoff And Jitter, M. Brooker, 2015).
"""

from __future__ import annotations

import random
import socket
import threading

from graced.base.errors import WireError
from graced.varlink.client import Client
from graced.varlink.wire import Decoder, encode, reply_or_raise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

NAME = "io.graced.HTM"
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 10.0
CONNECT_SECONDS = 5.0
CONTROL_SECONDS = 10.0


def backoff_seconds(failures: int, draw: float) -> float:
    """The pause after so many failures in a row (from 1); `draw` is even from [0, 1)."""
    return draw * min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(failures, 16))


def jittered(failures: int) -> float:
    """`backoff_seconds` with a draw of its own."""
    return backoff_seconds(failures, random.random())  # noqa: S311  # spreads load, guards nothing


class WorkStream:
    """The connection that carries leases. Read with `read` when `fileno()` is readable."""

    def __init__(self, path: str, handler: str, worker: str, credits_: int) -> None:
        """Connect and ask for work. Raises WireError."""
        self._path = path
        self._decoder = Decoder(max_bytes=16 << 20)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(CONNECT_SECONDS)
        parameters = {"handler": handler, "worker": worker, "credits": credits_}
        try:
            self._socket.connect(path)
            self._socket.sendall(encode({"method": f"{NAME}.Work", "parameters": parameters, "more": True}))
            self._socket.settimeout(0)
        except OSError as error:
            self._socket.close()
            raise WireError(f"{path}: {error.strerror or error}", hint="is graced running?") from error

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def read(self) -> tuple[list[JsonDict], bool]:
        """What came, and whether the stream is over. Raises VarlinkError when Work was refused, WireError."""
        try:
            data = self._socket.recv(262_144)
        except BlockingIOError:
            return [], False
        except OSError as error:
            raise WireError(f"{self._path}: {error.strerror or error}") from error
        messages = self._decoder.feed(data) if data else []
        items = [reply_or_raise(message) for message in messages]
        return items, not data or any(not message.get("continues") for message in messages)

    def close(self) -> None:
        """Give up all leases."""
        self._socket.close()


class Control:
    """Calls on one connection that is made when it is needed, from any thread, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._client: Client | None = None

    def call(self, verb: str, parameters: JsonDict) -> JsonDict:
        """``io.graced.HTM.<verb>``. Raises VarlinkError, FormatError (not JSON), WireError (said or not: unknown)."""
        parameters = {key: value for key, value in parameters.items() if value is not None}
        with self._lock:
            if self._client is None:
                self._client = Client(self._path, CONTROL_SECONDS)
            try:
                return self._client.call(f"{NAME}.{verb}", parameters)
            except WireError:
                self._client.close()
                self._client = None
                raise

    def close(self) -> None:
        """End the connection; the next call makes a new one."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None
