"""Producers and workers for the crash tests: processes that survive the server and are killed themselves.

Usage: htm_load.py produce SOCKET LOG PREFIX HANDLER WINDOW [CHILDREN]   until SIGTERM, then until all is acknowledged
       htm_load.py work SOCKET LOG NAME HANDLER CREDITS                 until it is killed

Standard library only, to be up quickly. A producer repeats under the same key what was not acknowledged. The log has
a line "ack KEY ID" per acknowledged task, "lease ID ATTEMPT" per lease and "done ID" per acknowledged completion; each
is written in one piece as soon as it is known, so a SIGKILL loses no more than it would of the process's own memory.
"""

import json
import os
import select
import signal
import socket
import sys
from collections import deque

RETRY_SECONDS = 0.004


def frame(method, parameters, more=False):
    message = {"method": f"io.graced.HTM.{method}", "parameters": parameters}
    if more:
        message["more"] = True
    return json.dumps(message).encode() + b"\0"


class Log:
    def __init__(self, path):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, lines):
        if lines:
            os.write(self._fd, ("\n".join(lines) + "\n").encode())


class Peer:
    """One connection; `frames` raises OSError when the server is gone."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self._buffer = b""
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def frames(self):
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError("the server is gone")
        *frames, self._buffer = (self._buffer + data).split(b"\0")
        return [json.loads(one) for one in frames]


class Producer:
    def __init__(self, log, prefix, handler, window, children):
        self._log = log
        self._prefix = prefix
        self._handler = handler
        self._window = window
        self._children = children
        self._made = 0
        self._open = []
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_args):
        self.stopping = True

    @property
    def ended(self):
        return self.stopping and not self._open

    def _frame(self, key):
        task = {"handler": self._handler, "task_type": "t", "idempotency_key": key}
        if self._children:
            child = {"handler": self._handler, "task_type": "t"}
            task["children"] = [{**child, "idempotency_key": f"{key}.{n}"} for n in range(self._children)]
        return frame("Submit", task)

    def serve(self, path):
        peer = Peer(path)
        try:
            asked = deque(self._open)
            peer.socket.sendall(b"".join(map(self._frame, asked)))
            while not self.ended:
                fresh = []
                while not self.stopping and len(self._open) < self._window:
                    fresh.append(f"{self._prefix}-{self._made}")
                    self._made += 1
                    self._open.append(fresh[-1])
                if fresh:
                    asked += fresh
                    peer.socket.sendall(b"".join(map(self._frame, fresh)))
                self._acknowledged(asked, peer.frames())
        finally:
            peer.socket.close()

    def _acknowledged(self, asked, replies):
        lines = []
        for reply in replies:
            key = asked.popleft()
            lines.append(f"ack {key} {reply['parameters']['task_id']}")
            self._open.remove(key)
        self._log.write(lines)


class Worker:
    ended = False

    def __init__(self, log, name, handler, credits_):
        self._log = log
        self._work = {"handler": handler, "worker": name, "credits": credits_}

    def serve(self, path):
        control, stream = Peer(path), None
        try:
            stream = Peer(path)
            stream.socket.sendall(frame("Work", self._work, more=True))
            asked = deque()
            while True:
                ready, _, _ = select.select([stream.socket, control.socket], [], [])
                if control.socket in ready:
                    self._completed(asked, control.frames())
                if stream.socket in ready:
                    self._leased(asked, control, stream.frames())
        finally:
            control.socket.close()
            if stream is not None:
                stream.socket.close()

    def _leased(self, asked, control, replies):
        leases = [lease for reply in replies if (lease := reply["parameters"]["lease"]) is not None]
        self._log.write([f"lease {lease['task_id']} {lease['attempt']}" for lease in leases])
        asked += (lease["task_id"] for lease in leases)
        control.socket.sendall(
            b"".join(
                frame("Complete", {"task_id": lease["task_id"], "attempt": lease["attempt"], "result": {}})
                for lease in leases
            )
        )

    def _completed(self, asked, replies):
        lines = []
        for reply in replies:
            task_id = asked.popleft()
            if "error" not in reply:
                lines.append(f"done {task_id}")
            elif reply["error"] != "io.graced.HTM.NotLeased":
                sys.exit(f"{task_id}: {reply}")
        self._log.write(lines)


def main():
    role, path, log, name, handler, number, *more = sys.argv[1:]
    if role == "produce":
        client = Producer(Log(log), name, handler, int(number), int(more[0]) if more else 0)
    else:
        client = Worker(Log(log), name, handler, int(number))
    while not client.ended:
        try:
            client.serve(path)
        except OSError:
            select.select([], [], [], RETRY_SECONDS)


if __name__ == "__main__":
    main()
