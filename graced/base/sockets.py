"""Sockets as the kernel has them, for daemons: the standard library's compiled half of `socket`.

The module `socket` itself imports `selectors`, `enum` and what they import to give numbers names: 6 ms of each daemon's
start. A `Socket` has every method of `socket.socket` but `accept` (here `accept`), `dup` and the file-like ones; a
`socket.socket` is one too. Only these names are used, and a test holds `accept` against the standard library's.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    SHUT_WR,
    SO_ERROR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    inet_pton,
)
from _socket import socket as Socket  # a class

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_UNIX",
    "SHUT_WR",
    "SOCK_CLOEXEC",
    "SOCK_DGRAM",
    "SOCK_NONBLOCK",
    "SOCK_STREAM",
    "SOL_SOCKET",
    "SO_ERROR",
    "Socket",
    "accept",
    "inet_pton",
    "unix_stream",
]


def accept(listener: Socket) -> Socket:
    """The next connection of a listening socket, not inherited by programs. Raises OSError as socket.accept does."""
    fd, _address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # not in the stubs; socket.accept calls it
    return Socket(listener.family, listener.type, listener.proto, fileno=fd)


def unix_stream() -> Socket:
    """A new non-blocking Unix stream socket."""
    return Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
