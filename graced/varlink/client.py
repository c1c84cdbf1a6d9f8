"""A blocking Varlink client: for the command line and small helpers, never inside a daemon's loop."""

from __future__ import annotations

import socket

from graced.base.errors import WireError
from graced.varlink.wire import Decoder, encode, reply_or_raise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from graced.base.json import JsonDict


class Client:
    """One connection to one socket. Use it as a context manager.

    Raises WireError when the socket cannot be reached, closes early, or a reply takes longer than `timeout_s`;
    VarlinkError when the daemon answered with an error.
    """

    def __init__(self, path: str, timeout_s: float = 5.0) -> None:
        self._path = path
        self._decoder = Decoder(max_bytes=16 << 20)
        self._queue: list[JsonDict] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise WireError(
                f"{path}: {error.strerror or error}", hint="is graced running? systemctl status graced.target"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, method: str, parameters: JsonDict | None = None) -> JsonDict:
        """One call, one reply."""
        self._send({"method": method, "parameters": parameters or {}})
        return reply_or_raise(self._receive(method))

    def stream(self, method: str, parameters: JsonDict | None = None) -> Iterator[JsonDict]:
        """A call with "more": yields each reply until the last."""
        self._send({"method": method, "parameters": parameters or {}, "more": True})
        while True:
            message = self._receive(method)
            yield reply_or_raise(message)
            if not message.get("continues"):
                return

    def _send(self, message: JsonDict) -> None:
        try:
            self._socket.sendall(encode(message))
        except OSError as error:
            raise WireError(
                f"{self._path}: {error.strerror or error}", hint="the daemon closed the connection"
            ) from error

    def _receive(self, method: str) -> JsonDict:
        while not self._queue:
            try:
                data = self._socket.recv(65536)
            except TimeoutError as error:
                raise WireError(
                    f"{self._path}: no reply to {method} in {self._socket.gettimeout():g} s",
                    hint="the daemon is busy or hung: systemctl status",
                ) from error
            except OSError as error:
                raise WireError(f"{self._path}: {error.strerror or error}") from error
            if not data:
                raise WireError(
                    f"{self._path}: closed before it answered {method}", hint="see journalctl of the daemon"
                )
            self._queue += self._decoder.feed(data)
        return self._queue.pop(0)
