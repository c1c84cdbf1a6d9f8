"""A client that asks all the time while something else goes on, and its worst moments.

It is a process of its own, and a moment counts without the time in which the daemon or the client could have run and
no processor was free: the kernel keeps that time for each of them (the second number in /proc/PID/schedstat). What is
left is what the daemon did or waited for, so the limit holds on a busy machine, too. Never imports graced.

Usage: healthy.py SOCKET PID CALLS, where CALLS is a JSON list of [method, parameters]; a parameter that is null gets
the task_id of the answer before. Prints "asks" after its first answer; on "enough" a list of seconds, one per call.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

PAUSE_SECONDS = 0.001
ANSWER_SECONDS = 60.0
CALLS_MIN = 200
"""So many moments there are at least: the worst hundredth is not one of them alone."""


class Healthy:
    """As a context manager: asks the daemon `pid` from the begin of the body to its end. Then the 99th percentile of
    its moments must be under `limit_s`."""

    def __init__(self, path: str, pid: int, calls: list[tuple[str, dict[str, Any]]], limit_s: float) -> None:
        self._command = [sys.executable, "-I", "-S", __file__, path, str(pid), json.dumps(calls)]
        self._limit_s = limit_s

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "asks\n":
            self._process.communicate()
            raise AssertionError("it was not answered")
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        said, _errors = self._process.communicate("enough\n", timeout=2 * ANSWER_SECONDS)
        if failure is not None:
            return
        assert self._process.returncode == 0, "it was not answered"
        moments = sorted(json.loads(said))
        assert len(moments) >= CALLS_MIN
        worst = moments[int(len(moments) * 0.99)]
        assert worst < self._limit_s, f"{worst:.3f} s, {len(moments)} calls, the worst: {moments[-10:]}"


def _waited_ns(pid: int) -> int:
    """How long this process and the other one were ready to run and did not, since they began."""
    waited = 0
    for who in ("thread-self", str(pid)):
        with open(f"/proc/{who}/schedstat") as file:
            waited += int(file.read().split()[1])
    return waited


def main() -> None:
    """Ask until there is something on stdin."""
    path, pid, calls = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(ANSWER_SECONDS)
    sock.connect(path)
    moments: list[float] = []
    task_id = None
    while len(moments) < CALLS_MIN or not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        for method, parameters in calls:
            given = {name: task_id if value is None else value for name, value in parameters.items()}
            frame = json.dumps({"method": method, "parameters": given}).encode() + b"\0"
            waited_ns, began_ns = _waited_ns(pid), time.monotonic_ns()
            sock.sendall(frame)
            answer = b""
            while not answer.endswith(b"\0"):
                chunk = sock.recv(1 << 16)
                assert chunk, "the connection ended"
                answer += chunk
            took_ns = time.monotonic_ns() - began_ns
            moments.append(max(0, took_ns - (_waited_ns(pid) - waited_ns)) / 1e9)
            reply = json.loads(answer[:-1])
            assert "error" not in reply, reply
            task_id = reply["parameters"].get("task_id", task_id)
            if len(moments) == 1:
                print("asks", flush=True)
    print(json.dumps(moments))


if __name__ == "__main__":
    main()
