"""Hostile and slow peers of the queue: it never dies, answers or closes, and a healthy client hardly notices."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graced.base.errors import WireError
from graced.runtime.service import MAX_CONNECTIONS_PER_UID
from graced.varlink.client import Client
from tests.support.healthy import Healthy

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER = os.path.join(ROOT, "tests", "daemon", "htm_server.py")
LIMIT_S = 60.0
HEALTHY_P99_SECONDS = 0.1
GROWTH_BYTES = 64 << 20
HALF_OPEN = 1000
NOBODY = 65534
MEMORY = "/dev/shm"
HTM = "io.graced.HTM"


class Server:
    """One queue for all of them: it must survive every one."""

    def __init__(self):
        # in memory: how long a disk takes is another matter
        self.directory = tempfile.mkdtemp(prefix="graced-hostile-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
        os.chmod(self.directory, 0o711)
        self.socket = f"{self.directory}/socket"
        with open(f"{self.directory}/stderr", "wb") as stderr:
            self.process = subprocess.Popen(
                ["/usr/bin/prlimit", "--nofile=4096", "--", sys.executable, "-B", SERVER, self.directory],
                stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT, env={**os.environ, "PYTHONPATH": ROOT},
            )  # fmt: skip
        assert self.process.stdout.readline() == b"up\n", self.said()
        os.chmod(self.socket, 0o666)

    def said(self):
        with open(f"{self.directory}/stderr") as file:
            return file.read()

    def client(self):
        return Client(self.socket, LIMIT_S)

    def raw(self):
        """A connection by hand; a full backlog is waited for by an answered call."""
        while True:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            try:
                sock.connect(self.socket)
            except BlockingIOError:
                sock.close()
                with contextlib.suppress(WireError), self.client() as client:
                    client.call("org.varlink.service.GetInfo")
            else:
                sock.settimeout(LIMIT_S)
                return sock

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(LIMIT_S)
        self.process.stdout.close()
        shutil.rmtree(self.directory)


@pytest.fixture(scope="module")
def server():
    one = Server()
    try:
        yield one
        assert one.process.poll() is None
        assert [line for line in one.said().splitlines() if " is refused to " not in line] == []
    finally:
        one.end()


@pytest.fixture
def bounded(server):
    """What the test made it keep is bounded, and it serves a new client afterwards."""
    before = server.resident_bytes()
    yield
    assert server.resident_bytes() - before < GROWTH_BYTES
    with server.client() as client:
        task_id = client.call(f"{HTM}.Submit", {"handler": "after", "task_type": "t"})["task_id"]
        assert client.call(f"{HTM}.Get", {"task_id": task_id})["task"]["state"] == "queued"
        assert client.call(f"{HTM}.Stats")["stats"]["error"] == ""


def healthy(server):
    """A client that submits and looks all the time on one connection: its worst moments are short."""
    submit = (f"{HTM}.Submit", {"handler": "healthy", "task_type": "t"})
    return Healthy(server.socket, server.process.pid, [submit, (f"{HTM}.Get", {"task_id": None})], HEALTHY_P99_SECONDS)


def frame(method, more=False, **parameters):
    return json.dumps({"method": method, "parameters": parameters, "more": more}).encode() + b"\0"


SENTINEL = frame("org.varlink.service.GetInfo")


def answered(sock):
    """What came until the sentinel's answer, the begin of a stream, or the end; TimeoutError when nothing does."""
    data, got = b"", []
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(1 << 20):
            *frames, data = (data + chunk).split(b"\0")
            got += map(json.loads, frames)
            if any(one.get("continues") or "vendor" in one.get("parameters", {}) for one in got):
                break
    return got


# --- frames -----------------------------------------------------------------------------------------------------------

_VERBS = (
    "Submit", "SubmitBatch", "Work", "Heartbeat", "Progress", "Extend", "Complete", "Fail", "Defer", "Wait", "Cancel",
    "Requeue", "Get", "List", "Tree", "Why", "Stats", "Watch", "Pause", "Drain", "Resume", "__init__", "queue", "",
)  # fmt: skip
_NAMES = (
    "handler", "task_type", "priority", "sla_seconds", "context", "reasoning", "intent_id", "parent", "delay_seconds",
    "idempotency_key", "max_attempts", "on_child_failure", "children", "tasks", "worker", "credits", "task_id",
    "attempt", "percent", "message", "seconds", "result", "error", "retry", "reason", "state", "limit",
)  # fmt: skip
_PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["task_1", "task_2", "job", "*", "heal", "critical", "fail", "task_99999999999999999999", "x" * 3000]
    )
)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=3),
    max_leaves=8,
)
_LIKELY = st.fixed_dictionaries(
    {},
    optional={
        "handler": st.sampled_from(["job", "*", "heal"]) | _VALUES,
        "task_type": st.just("t") | _VALUES,
        "worker": st.just("w") | _VALUES,
        "credits": st.integers(1, 20) | _VALUES,
        "task_id": st.sampled_from(["task_1", "task_2", "task_3"]) | _VALUES,
        "attempt": st.integers(0, 3) | _VALUES,
        "reason": st.just("r") | _VALUES,
        "children": st.lists(st.fixed_dictionaries({"handler": st.just("job"), "task_type": st.just("t")}), max_size=3),
        "result": st.just({}) | _VALUES,
        "seconds": st.floats(0, 100) | _VALUES,
        "idempotency_key": st.sampled_from(["a", "b"]) | _VALUES,
        "parent": st.just("task_1") | _VALUES,
    },
)
_CALL = st.fixed_dictionaries(
    {"method": st.sampled_from([f"{HTM}.{verb}" for verb in _VERBS]) | st.sampled_from(["", ".", "x", HTM])},
    optional={
        "parameters": _LIKELY | st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=6) | _VALUES,
        "more": st.booleans() | _VALUES,
        "oneway": st.booleans() | _VALUES,
        "upgrade": _VALUES,
    },
)
_FRAMES = (
    st.binary(max_size=300)
    | st.builds(lambda value: json.dumps(value).encode(), _VALUES | _CALL)
    | st.builds(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), _CALL)
    | st.builds(lambda depth, opened: opened * depth, st.integers(1, 200_000), st.sampled_from([b"[", b'{"a":', b"{"]))
    | st.builds(lambda size: b'{"method":"' + b"x" * size + b'"}', st.integers(0, 1 << 20))
    | st.builds(lambda count: b"\0" * count, st.integers(1, 5000))
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_FRAMES, min_size=1, max_size=6), st.booleans())
def test_any_frames_are_answered_or_the_connection_ends(server, frames, half):
    with server.raw() as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # with `half` the sentinel is glued to a message that has not ended
            sock.sendall(b"\0".join(frames) + (b"" if half else b"\0") + SENTINEL)
        for reply in answered(sock):
            assert "internal error" not in str(reply), reply
    assert server.process.poll() is None


def test_after_all_frames_it_is_as_it_was(server, bounded):
    with server.client() as client:
        client.call(f"{HTM}.Resume", {"handler": "*"})
        for handler in client.call(f"{HTM}.Stats")["stats"]["modes"]:
            client.call(f"{HTM}.Resume", {"handler": handler})
        assert client.call(f"{HTM}.Stats")["stats"]["modes"] == {}


def test_pipelined_errors_are_answered_in_order(server, bounded):
    with healthy(server), server.raw() as sock:
        sock.sendall(b"".join(frame(f"{HTM}.Get", task_id=f"task_{10**9 + n}") for n in range(5000)) + SENTINEL)
        got = answered(sock)
    assert [one["parameters"].get("task_id") for one in got[:-1]] == [f"task_{10**9 + n}" for n in range(5000)]


def test_a_stream_that_wants_no_answers_gets_no_leases(server, bounded):
    with server.client() as client, server.raw() as sock:
        message = {"method": f"{HTM}.Work", "more": True, "oneway": True}
        message["parameters"] = {"handler": "oneway", "worker": "w", "credits": 1}
        sock.sendall(json.dumps(message).encode() + b"\0" + SENTINEL)
        assert answered(sock)[0]["parameters"]["vendor"] == "graced"
        task_id = client.call(f"{HTM}.Submit", {"handler": "oneway", "task_type": "t"})["task_id"]
        assert client.call(f"{HTM}.Get", {"task_id": task_id})["task"]["attempts"] == 0


# --- slow readers -----------------------------------------------------------------------------------------------------


def send_all_it_takes(sock, data):
    """Until the server reads no more of it."""
    sock.settimeout(0.3)
    with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
        while True:
            sock.sendall(data)
    sock.settimeout(LIMIT_S)


def test_readers_that_never_read_cost_a_bounded_amount(server, bounded):
    before = server.resident_bytes()
    with contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(server.raw()) for _ in range(16)]
        with healthy(server):
            for number, sock in enumerate(deaf):
                calls = (frame(f"{HTM}.Stats"), frame(f"{HTM}.List", limit=1000))[number % 2] * 20
                send_all_it_takes(sock, calls)
        assert server.resident_bytes() - before < GROWTH_BYTES


def test_a_reader_of_single_bytes_gets_all_of_its_answer(server, bounded):
    with server.client() as client:
        client.call(f"{HTM}.SubmitBatch", {"tasks": [{"handler": "seen", "task_type": "t"}] * 20})
    with healthy(server), server.raw() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.sendall(frame(f"{HTM}.Stats") + frame(f"{HTM}.List", limit=20))
        data = b""
        while data.count(b"\0") < 2:
            data += sock.recv(1)
        assert len(json.loads(data.split(b"\0")[1])["parameters"]["tasks"]) == 20


def test_a_worker_that_never_reads_is_cut_off_and_its_tasks_stay(server, bounded):
    with server.client() as client, server.raw() as deaf, healthy(server):
        task = {"handler": "deaf", "task_type": "t", "context": {"x": "y" * 60_000}}
        names = [client.call(f"{HTM}.Submit", task)["task_id"] for _ in range(250)]

        def seen(name):
            found = client.call(f"{HTM}.Get", {"task_id": name})["task"]
            return found["state"], found["failures"]

        # 15 MB of leases for a peer that takes only what its socket holds
        deaf.sendall(frame(f"{HTM}.Work", more=True, handler="deaf", worker="deaf", credits=10_000))
        end = time.monotonic() + LIMIT_S
        while seen(names[0]) != ("queued", 1):
            assert time.monotonic() < end, seen(names[0])
        assert {seen(name)[0] for name in names} == {"queued"}
        for name in names:
            client.call(f"{HTM}.Cancel", {"task_id": name, "reason": "the test is over"})


def test_watchers_that_never_read_cost_a_bounded_amount(server, bounded):
    with contextlib.ExitStack() as stack, server.client() as client:
        for _ in range(32):
            sock = stack.enter_context(server.raw())
            sock.sendall(frame(f"{HTM}.Watch", more=True))
        with healthy(server):
            for _ in range(50):
                tasks = [{"handler": "seen", "task_type": "t"} for _ in range(100)]
                client.call(f"{HTM}.SubmitBatch", {"tasks": tasks})


# --- half open --------------------------------------------------------------------------------------------------------

AS_NOBODY = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(60)
sock.connect(sys.argv[1])
sock.sendall(b'{"method":"io.graced.HTM.Stats"}\\0')
print(sock.recv(65536).decode())
"""


def test_1000_half_open_connections_keep_nobody_out(server, bounded):
    before = server.resident_bytes()
    with contextlib.ExitStack() as stack:
        with healthy(server):
            for number in range(HALF_OPEN):
                sock = stack.enter_context(server.raw())
                sock.sendall((b"", b'{"method":"io.graced.HTM.Sub', b"{", frame(f"{HTM}.Nothing"))[number % 4])
            with server.client() as client:
                assert client.call(f"{HTM}.Stats")["stats"]["error"] == ""
            # over the limit of one account the next are refused, and nobody else is
            # (a message that was half for too long has ended by now, and its place is free)
            refused, over = 0, []
            while refused < 40:
                assert len(over) <= MAX_CONNECTIONS_PER_UID + 40
                over.append(stack.enter_context(server.raw()))
                with contextlib.suppress(BrokenPipeError):
                    over[-1].sendall(SENTINEL)
                refused += answered(over[-1]) == []
            other = subprocess.run(
                [sys.executable, "-I", "-S", "-c", AS_NOBODY, server.socket],
                user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True, timeout=LIMIT_S, check=True,
            )  # fmt: skip
            assert b"io.graced.HTM.PermissionDenied" in other.stdout
        assert server.resident_bytes() - before < GROWTH_BYTES
