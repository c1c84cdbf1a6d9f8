"""The least there is between a client, a server that waits for the disk, and a worker: what a dispatch can cost here.

Three processes, two sockets, one write over what is there already and one fdatasync: no parsing, no queue, no SQLite.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING

from inside.load import Other

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD_BYTES = 4096
FILE_BYTES = 8 << 20


def relay(path: str, count: int, per_second: float) -> list[float]:
    """From sending to receiving, in ms, as `load.dispatch` measures the queue; `path` is a new file, and removed."""
    client, accepted = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    handed, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, bytes(FILE_BYTES))
        os.fsync(descriptor)
        receiver = Other(_receive, worker, count)
        server = Other(_serve, accepted, handed, descriptor, count)
        sender = Other(_send, client, count, per_second)
        for one in (receiver, server, sender):
            one.go()
        sender.result()
        server.result()
        values: list[float] = receiver.result()
        return values
    finally:
        os.close(descriptor)
        os.unlink(path)
        for one_socket in (client, accepted, handed, worker):
            one_socket.close()


def _serve(
    ready: Callable[[], None], accepted: socket.socket, handed: socket.socket, descriptor: int, count: int
) -> None:
    poll = select.epoll()
    poll.register(accepted, select.EPOLLIN)
    place, record = 0, bytes(RECORD_BYTES)
    ready()
    for _ in range(count):
        poll.poll()
        message = accepted.recv(RECORD_BYTES)
        os.pwrite(descriptor, message + record[len(message) :], place)
        place = (place + RECORD_BYTES) % FILE_BYTES
        os.fdatasync(descriptor)
        handed.send(message)


def _receive(ready: Callable[[], None], worker: socket.socket, count: int) -> list[float]:
    poll = select.epoll()
    poll.register(worker, select.EPOLLIN)
    values = []
    ready()
    for _ in range(count):
        poll.poll()
        values.append((time.monotonic_ns() - int(worker.recv(RECORD_BYTES))) / 1e6)
    return values


def _send(ready: Callable[[], None], client: socket.socket, count: int, per_second: float) -> None:
    ready()
    began = time.monotonic() + 0.02
    for number in range(count):
        while (left := began + number / per_second - time.monotonic()) > 0:
            # the pace is what is asked for
            time.sleep(left)
        client.send(b"%d" % time.monotonic_ns())
