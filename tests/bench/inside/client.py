"""A client of nginx that opens a new connection for each request, and what breaks the configuration it is served by."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from inside.host import now_us

CONFIG = Path("/etc/nginx/nginx.conf")
REQUEST = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"
STEP_SECONDS = 0.005


def served() -> bool:
    """HTTP 200 on a new connection."""
    try:
        with socket.create_connection(("127.0.0.1", 80), 1.0) as connection:
            connection.sendall(REQUEST)
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def wait_served(seconds: float) -> int | None:
    """When it was first served, CLOCK_MONOTONIC in µs; None when not within `seconds`."""
    limit_us = now_us() + int(seconds * 1e6)
    while now_us() < limit_us:
        if served():
            return now_us()
        time.sleep(STEP_SECONDS)
    return None


def damage(good: bytes, number: int) -> str:
    """Ruins the configuration in place, in one of several ways, never twice with the same bytes; says how."""
    nonce = f"{number}_{now_us()}"
    ways = {
        "unknown directive at the end": good + f"\nbench_{nonce} on;\n".encode(),
        "text of something else": f"bench {nonce}: this is no configuration {{{{{{\n".encode(),
        "cut off in a block": good[: good.index(b"http {") + 60 + number],
        "random bytes": os.urandom(len(good)),
        "missing semicolon": good.replace(b";", f" # {nonce}".encode(), 1),
    }
    way = list(ways)[number % len(ways)]
    CONFIG.write_bytes(ways[way])
    return way
