"""The runtime with real processes: hostile and slow peers, bad configuration, the way down, a starving watchdog."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graced.base.errors import WireError
from graced.varlink.client import Client
from tests.support.healthy import Healthy

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIMIT_S = 60.0
HEALTHY_P99_SECONDS = 0.1
GROWTH_BYTES = 48 << 20

MEMORY = "from graced.kernels.memory import main; main()"
# What a broken kernel looks like from outside: a work loop whose turns fail, or one that is stuck.
BROKEN = """
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.peer import READ
from graced.runtime.service import Interface

class Faults(Interface):
    name = "io.graced.Memory"
    acl = {"Fail": READ, "Block": READ, "Sleep": READ, "Unhealthy": READ}
    def __init__(self, kernel): self.kernel = kernel
    def Fail(self, call):
        left = [call.parameters["turns"]]
        def again():
            left[0] -= 1
            if left[0] > 0: self.kernel.loop.call_soon(again)
            raise RuntimeError("this turn fails")
        self.kernel.loop.call_soon(again)
        return {}
    def Block(self, call):
        # until somebody has opened the pipe for writing and closed it again
        if "pipe" in call.parameters:
            with open(call.parameters["pipe"]) as pipe: pipe.read()
        return {}
    async def Sleep(self, call):
        await self.kernel.loop.sleep(call.parameters["seconds"])
        return {"slept": True}
    def Unhealthy(self, call):
        self.kernel.reason = call.parameters["reason"]
        return {}

class Broken(Kernel):
    name = "memory"
    reason = None
    def interfaces(self): return [Faults(self)]
    def unhealthy(self): return self.reason
kernel_main(Broken)()
"""
# It would wait for the work under way longer than any test does.
PATIENT = f"import graced.runtime.kernel as kernel\nkernel.DRAIN_SECONDS = 3600.0\n{BROKEN}"


class Daemon:
    """One daemon in directories of its own, with a notify socket that stands for systemd."""

    def __init__(self, base, program=MEMORY, *, config=b"", watchdog_s=0.2, open_files=1024):
        self.etc = base / "etc"
        self.etc.mkdir()
        self.config = self.etc / "graced.toml"
        if config is None:
            self.config.mkdir()
        elif config:
            self.config.write_bytes(config)
        self.socket = str(base / "run" / "io.graced.Memory")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify_path = str(base / "notify")
        self.notify.bind(self._notify_path)
        # Always read, as PID 1 does: a full queue of notifications would block the daemon.
        self.told = []
        self._read = 0
        self._news = threading.Condition()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()
        env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ROOT,
            "PYTHONWARNINGS": "error",
            "GRACED_RUN": str(base / "run"),
            "GRACED_LIB": str(base / "lib"),
            "GRACED_ETC": str(self.etc),
            "GRACED_SHARE": f"{ROOT}/graced/share",
            "NOTIFY_SOCKET": self._notify_path,
            "WATCHDOG_USEC": str(int(watchdog_s * 1e6)),
        }
        self.errors = base / "stderr"
        with open(self.errors, "wb") as stderr:
            limit = ["/usr/bin/prlimit", f"--nofile={open_files}", "--"]
            self.process = subprocess.Popen([*limit, sys.executable, "-c", program], env=env, stderr=stderr)

    def _listen(self):
        while text := self.notify.recv(4096).decode():
            with self._news:
                self.told.append(text)
                self._news.notify_all()

    def wait_told(self, word):
        """Waits for the next notification that contains `word`; returns it."""

        def find():
            for number, text in enumerate(self.told[self._read :], self._read):
                if word in text:
                    self._read = number + 1
                    return text
            return None

        with self._news:
            text = self._news.wait_for(find, LIMIT_S)
        assert text, f"never told {word!r}: {self.told}\n{self.said()}"
        return text

    def told_within(self, seconds, word):
        """How many notifications with `word` come within some seconds."""
        with self._news:
            before = len(self.told)
        threading.Event().wait(seconds)
        with self._news:
            return sum(word in text for text in self.told[before:])

    def forget_told(self):
        """Drops what was told until now, also what nobody has read yet."""
        mark = f"MARK={len(self.told)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(mark.encode(), self._notify_path)
        self.wait_told(mark)

    def said(self):
        return self.errors.read_text()

    def wait_said(self, words):
        end = time.monotonic() + LIMIT_S
        while words not in self.said():
            assert time.monotonic() < end, f"never said {words!r}: {self.said()}"
            select.select([], [], [], 0.01)

    def client(self):
        return Client(self.socket, timeout_s=LIMIT_S)

    def await_turn(self):
        """A later connection is answered, so what earlier ones sent has been read."""
        with self.client() as client:
            client.call("io.graced.Memory.Block", {})

    def raw(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT_S)
        try:
            sock.connect(self.socket)
        except BlockingIOError:
            sock.close()
            raise
        return sock

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._notify_path)
        self._listener.join()
        self.notify.close()


@pytest.fixture
def start(tmp_path):
    made = []

    def daemon(*args, ready=True, **options):
        made.append(Daemon(tmp_path, *args, **options))
        if ready:
            made[-1].wait_told("READY=1")
        return made[-1]

    yield daemon
    for one in made:
        one.end()


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """One Memory for all the hostile peers: it must survive every one of them."""
    daemon = Daemon(tmp_path_factory.mktemp("memory"))
    daemon.wait_told("READY=1")
    yield daemon
    try:
        assert daemon.process.poll() is None
        assert "Traceback" not in daemon.said()
        assert "failed" not in daemon.said()
    finally:
        daemon.end()


def healthy(daemon):
    """A client that asks all the time: its worst moments are short."""
    return Healthy(daemon.socket, daemon.process.pid, [("io.graced.Memory.Incidents", {})], HEALTHY_P99_SECONDS)


def frame(method, **parameters):
    return json.dumps({"method": method, "parameters": parameters}).encode() + b"\0"


def replies(sock, count):
    """The next `count` replies; fewer when the daemon closes first."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while data.count(b"\0") < count and (chunk := sock.recv(1 << 20)):
            data += chunk
    return [json.loads(one) for one in data.split(b"\0")[:-1]]


def ended(sock):
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "data",
    [b"\0", b"nonsense\0", b"[]\0", b"\xff\xff\0", b'{"a":NaN}\0', b"{" * 100_000 + b"\0", b'{"method":["a"]}\0'],
    ids=["empty", "text", "list", "bytes", "nan", "deep", "method"],
)
def test_a_malformed_message_gets_an_error_and_the_end(memory, data):
    with healthy(memory), memory.raw() as sock:
        for _ in range(20):
            with memory.raw() as other:
                other.sendall(data)
                assert replies(other, 1)[0]["error"] == "org.varlink.service.InvalidParameter"
                assert ended(other)
        sock.sendall(frame("org.varlink.service.GetInfo"))
        assert replies(sock, 1)[0]["parameters"]["vendor"] == "graced"


def test_an_oversized_message_is_refused_before_it_is_kept(memory):
    before = memory.resident_bytes()
    with healthy(memory):
        for _ in range(8):
            with memory.raw() as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(b'{"method":"' + b"x" * (32 << 20))
            with memory.raw() as sock:
                sock.sendall(b'{"method":"' + b"x" * ((1 << 20) + 1))
                (refused,) = replies(sock, 1)
                assert refused["error"] == "org.varlink.service.InvalidParameter"
                assert "1048576 bytes" in refused["parameters"]["parameter"]
                assert ended(sock)
    assert memory.resident_bytes() - before < GROWTH_BYTES


def test_half_and_slow_messages_are_taken_when_they_end_and_cost_little(memory):
    message = frame("io.graced.Memory.Search", query="x" * 2000)
    before = memory.cpu_seconds()
    with healthy(memory), memory.raw() as slow, memory.raw() as half:
        half.sendall(message[:50])
        for byte in message:
            slow.sendall(bytes([byte]))
        assert replies(slow, 1) == [{"parameters": {"hits": []}}]
    # Bytes one by one of a message that is long already are not looked at again and again.
    with memory.raw() as slow:
        slow.sendall(b'{"method":"' + b"x" * 900_000)
        for _ in range(2000):
            slow.sendall(b"x")
        slow.sendall(b'"}\0')
        assert replies(slow, 1)[0]["error"] == "org.varlink.service.InterfaceNotFound"
    assert memory.cpu_seconds() - before < 5.0


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("io.graced.Nothing.Search", "org.varlink.service.InterfaceNotFound"),
        ("Search", "org.varlink.service.InterfaceNotFound"),
        ("io.graced.Memory.Nothing", "org.varlink.service.MethodNotFound"),
        ("io.graced.Memory.__class__", "org.varlink.service.MethodNotFound"),
        ("io.graced.Memory.Search", "io.graced.Memory.InvalidRequest"),
        ("org.varlink.service.GetInterfaceDescription", "org.varlink.service.InterfaceNotFound"),
    ],
)
def test_unknown_names_and_missing_parameters_are_errors_and_the_connection_stays(memory, method, error):
    with memory.raw() as sock:
        sock.sendall(frame(method) + frame("io.graced.Memory.Stats"))
        first, second = replies(sock, 2)
    assert first["error"] == error
    assert "stats" in second["parameters"]


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=("Cs",)), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "unit", "title", "x"]), inner),
    max_leaves=8,
)
_METHODS = ("PutIncident", "Incidents", "Incident", "PutDocument", "Documents", "Search", "Stats")
_NAMES = ("incident", "unit", "open_only", "limit", "id", "document", "chunks", "query")


@settings(
    max_examples=200,
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(_METHODS), st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=4))
def test_wrong_types_are_answered_with_an_error_that_names_them_never_with_a_crash(memory, method, parameters):
    with memory.raw() as sock:
        sock.sendall(frame(f"io.graced.Memory.{method}", **parameters))
        (reply,) = replies(sock, 1)
    if "error" in reply:
        assert reply["error"] in {"io.graced.Memory.InvalidRequest", "io.graced.Memory.NoSuchIncident"}, reply
        assert reply["parameters"].get("reason") or "id" in reply["parameters"]


def test_pipelined_calls_are_answered_in_order(memory):
    with healthy(memory), memory.raw() as sock:
        sock.sendall(b"".join(frame("io.graced.Memory.Incident", id=f"incident_{n}") for n in range(3000)))
        answers = replies(sock, 3000)
    assert [one["parameters"]["id"] for one in answers] == [f"incident_{n}" for n in range(3000)]


def test_a_client_that_never_reads_costs_a_bounded_amount(memory):
    before = memory.resident_bytes()
    message = frame("org.varlink.service.GetInterfaceDescription", interface="io.graced.Memory") * 100
    deaf = [memory.raw() for _ in range(4)]
    try:
        with healthy(memory):
            for sock in deaf:
                sock.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    while True:
                        sock.sendall(message)
        assert memory.resident_bytes() - before < GROWTH_BYTES
    finally:
        for sock in deaf:
            sock.close()


def test_500_half_open_connections_keep_nobody_out(memory):
    before = memory.resident_bytes()
    half = []
    try:
        with healthy(memory), memory.client() as client:
            while len(half) < 500:
                try:
                    half.append(memory.raw())
                except BlockingIOError:
                    # The backlog is full: an answered call shows that the daemon has had a turn.
                    client.call("io.graced.Memory.Incidents", {})
                    continue
                half[-1].sendall(b'{"method":"io.graced' if len(half) % 2 else b"")
            with memory.client() as late:
                assert late.call("io.graced.Memory.Incidents", {}) == {"incidents": []}
        assert memory.resident_bytes() - before < GROWTH_BYTES
    finally:
        for sock in half:
            sock.close()
    with memory.client() as client:
        assert client.call("io.graced.Memory.Incidents", {}) == {"incidents": []}


def test_more_connections_than_descriptors_neither_spin_nor_stop_the_daemon(start):
    daemon = start(open_files=256)
    socks = []
    try:
        with daemon.client() as client:
            for _ in range(400):
                try:
                    socks.append(daemon.raw())
                except BlockingIOError:
                    # The backlog is full: the daemon has not had a turn yet. An answered call shows that it had one.
                    client.call("io.graced.Memory.Incidents", {})
            assert len(socks) > 256
            before = daemon.cpu_seconds()
            for _ in range(50):
                assert client.call("io.graced.Memory.Incidents", {}) == {"incidents": []}
            daemon.forget_told()
            daemon.told_within(1.0, "")
            for _ in range(3):
                daemon.wait_told("WATCHDOG=1")
            assert daemon.cpu_seconds() - before < 0.5
    finally:
        for sock in socks:
            sock.close()
    with daemon.client() as client:
        assert client.call("io.graced.Memory.Incidents", {}) == {"incidents": []}


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_bad_file_keeps_the_running_one_and_a_good_one_is_taken_later(start):
    daemon = start()
    daemon.config.write_text("[memory]\n\nclosed_incidents_kept = 7\nno_such = 1\n[code]\nnot = 'ours'\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in daemon.wait_told("RELOADING=1")
    daemon.wait_told("READY=1")
    daemon.wait_said("the running one stays")
    said = daemon.said()
    assert f"{daemon.config}:3: memory.closed_incidents_kept: 7 is below the minimum 100" in said
    assert f"{daemon.config}:4: memory.no_such is not an option" in said
    assert "code" not in said

    daemon.config.write_text("[memory\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_said(f"{daemon.config}:1: ")

    daemon.config.unlink()
    daemon.config.mkdir()
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_said("cannot be read: Is a directory")
    with daemon.client() as client:
        assert client.call("io.graced.Memory.Incidents", {}) == {"incidents": []}

    daemon.config.rmdir()
    daemon.config.write_text("[memory]\nclosed_incidents_kept = 700\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_said("configuration reloaded")


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (b"[memory]\nclosed_incidents_kept = 'many'\nno_such = 1\n", (":2: ", ":3: ")),
        (b"[memory]\nclosed_incidents_kept = \n", (":2: ",)),
        (b"[memory]\nclosed_incidents_kept = 1\xff\n", ("graced.toml:2: ",)),
        (None, ("cannot be read: Is a directory",)),
    ],
    ids=["options", "syntax", "bytes", "directory"],
)
def test_a_start_with_a_bad_file_ends_with_78_and_all_errors(tmp_path, config, wanted):
    daemon = Daemon(tmp_path, config=config)
    try:
        assert daemon.process.wait(LIMIT_S) == 78
        status = daemon.wait_told("STATUS=")
        assert "Refused to start" in status
        for words in wanted:
            assert words in daemon.said()
        assert "Traceback" not in daemon.said()
        assert "READY=1" not in "".join(daemon.told)
    finally:
        daemon.end()


# --- the way down -----------------------------------------------------------------------------------------------------


def test_sigterm_lets_the_work_under_way_end_and_exits_0(start):
    daemon = start(PATIENT)
    with daemon.raw() as sock:
        sock.sendall(frame("io.graced.Memory.Sleep", seconds=0.5))
        sock.sendall(frame("io.graced.Memory.Sleep", seconds=0))
        daemon.await_turn()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")
        with pytest.raises(WireError):
            daemon.client()
        assert replies(sock, 2) == [{"parameters": {"slept": True}}] * 2
    assert daemon.process.wait(LIMIT_S) == 0
    assert daemon.said() == ""


def test_a_second_sigterm_leaves_at_once(start):
    daemon = start(PATIENT)
    with daemon.raw() as sock:
        sock.sendall(frame("io.graced.Memory.Sleep", seconds=3600))
        daemon.await_turn()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(LIMIT_S) == 0
        assert replies(sock, 1) == []
    assert "a second time" in daemon.said()


def test_work_that_does_not_end_holds_the_stop_up_for_a_bounded_time(start):
    daemon = start(BROKEN)
    with daemon.raw() as sock:
        sock.sendall(frame("io.graced.Memory.Sleep", seconds=60))
        daemon.await_turn()
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(LIMIT_S) == 0


# --- the watchdog -----------------------------------------------------------------------------------------------------


def test_the_watchdog_is_fed_by_a_loop_that_works(start):
    daemon = start(BROKEN)
    for _ in range(5):
        daemon.wait_told("WATCHDOG=1")


def test_a_blocked_loop_feeds_no_watchdog(start, tmp_path):
    daemon, pipe = start(BROKEN), str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with daemon.raw() as sock:
        sock.sendall(frame("io.graced.Memory.Block", pipe=pipe))
        # opened once the daemon, too, has opened it, and is blocked until it is closed
        with open(pipe, "w"):
            daemon.forget_told()
            assert daemon.told_within(0.8, "WATCHDOG=1") == 0
        assert replies(sock, 1) == [{"parameters": {}}]
        daemon.wait_told("WATCHDOG=1")


def test_an_unhealthy_daemon_says_why_and_starves_the_watchdog(start):
    daemon = start(BROKEN)
    with daemon.client() as client:
        client.call("io.graced.Memory.Unhealthy", {"reason": "the disk is gone"})
    assert "STATUS=Unhealthy: the disk is gone" in daemon.wait_told("STATUS=Unhealthy")
    assert daemon.told_within(0.6, "WATCHDOG=1") == 0


def test_failed_turns_are_logged_and_three_in_a_row_end_the_daemon_with_1(start):
    daemon = start(BROKEN)
    with daemon.client() as client:
        client.call("io.graced.Memory.Fail", {"turns": 2})
        assert client.call("io.graced.Memory.Block", {}) == {}
        daemon.forget_told()
        daemon.wait_told("WATCHDOG=1")
        client.call("io.graced.Memory.Fail", {"turns": 3})
    assert daemon.process.wait(LIMIT_S) == 1
    said = daemon.said()
    assert said.count("RuntimeError: this turn fails") == 5
    assert "3 turns failed in a row, leaving" in said
