"""sd_notify(3), said by ourselves: one datagram per message, so that no daemon waits for a library to say READY=1.

Without NOTIFY_SOCKET (development, tests) every call does nothing.
"""

from __future__ import annotations

import os
import time

from graced.base.sockets import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, Socket


class Notifier:
    """Tells systemd how this daemon is; remembers the last status so that an unchanged one costs nothing."""

    def __init__(self) -> None:
        self._socket: Socket | None = None
        self._status = ""
        # A name that begins with @ is an abstract one; other kinds (vsock:) are not for a daemon of this host.
        path = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        if self._address:
            self._socket = Socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)

    def _send(self, state: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(state.encode(errors="replace"), self._address)
        except OSError:
            # Nobody listens just now. What matters is missed by systemd itself: READY=1 and the watchdog have limits.
            return

    def ready(self, status: str) -> None:
        """READY=1 with the first status sentence."""
        self._status = status
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """STATUS=, sent only when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """WATCHDOG=1. Call it from the work loop only."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """RELOADING=1 with the monotonic stamp that newer systemd versions ask for."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """STOPPING=1."""
        self._send(f"STOPPING=1\nSTATUS={status}")


def watchdog_interval_s() -> float | None:
    """Half of WATCHDOG_USEC in seconds when the watchdog is meant for this process, else None."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid.isdigit() and int(pid) != os.getpid()):
        return None
    return int(usec) / 2_000_000
