"""A Varlink connection that can be waited for together with other things: for the verbs that stay and watch.

Everything else uses `graced.varlink.client`. Raises WireError when the other side is gone, and says which.
"""

from __future__ import annotations

import socket

from graced.base.errors import WireError
from graced.varlink.wire import Decoder, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from graced.base.json import JsonDict

MAX_REPLY_BYTES = 16 << 20
SEND_LIMIT_SECONDS = 5.0
_NOT_THERE = "is graced running? systemctl status graced.target"


class Line:
    """One connection to the socket at `path`; connecting and sending take at most `limit_s`. A context manager."""

    def __init__(self, path: str, limit_s: float = SEND_LIMIT_SECONDS) -> None:
        self._path = path
        self._decoder = Decoder(max_bytes=MAX_REPLY_BYTES)
        self._waiting: list[JsonDict] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(limit_s)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            denied = isinstance(error, PermissionError)
            hint = "use sudo, or ask an admin to add you to the group _graced-read" if denied else _NOT_THERE
            raise WireError(f"{path}: {error.strerror or error}", hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def fileno(self) -> int:
        """For select: readable when `read` has something to take."""
        return self._socket.fileno()

    def send(self, method: str, parameters: JsonDict, *, more: bool = False) -> None:
        """Put one call on the wire; its replies come from `read` or `wait`."""
        message: JsonDict = {"method": method, "parameters": parameters}
        try:
            self._socket.sendall(encode({**message, "more": True} if more else message))
        except OSError as error:
            raise self._gone(error) from error

    def read(self) -> list[JsonDict]:
        """The messages that are there, after select said so; none when a message is not complete yet."""
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise self._gone(error) from error
        if not data:
            raise WireError(f"{self._path}: closed by the daemon", hint="see journalctl -u graced-supervisor")
        return self._decoder.feed(data)

    def wait(self, limit_s: float | None = None) -> JsonDict | None:
        """The next message; None when none came in `limit_s` seconds."""
        from select import select
        from time import monotonic

        end = None if limit_s is None else monotonic() + limit_s
        while not self._waiting:
            left = None if end is None else max(0.0, end - monotonic())
            if not select([self._socket], [], [], left)[0]:
                return None
            self._waiting += self.read()
        return self._waiting.pop(0)

    def _gone(self, error: OSError) -> WireError:
        return WireError(f"{self._path}: {error.strerror or error}", hint="the daemon closed the connection")
